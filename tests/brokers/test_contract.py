"""What each kind of queue promises to producers, consumers and sweepers, on its real server."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from types import FrameType
from typing import Any

import pytest

from mailqueue import reentrancy
from mailqueue.config.queue import QUEUE_TYPES
from mailqueue.errors import QueueUnavailable
from mailqueue.lifecycle.outcomes import BULK, HIGH, NORMAL, RETRY_BULK, RETRY_HIGH, RETRY_NORMAL
from mailqueue.queue import Kind, beanstalkd, memory, mongodb, redis, sqs
from mailqueue.queue.broker import (
    BURIED,
    CALLBACKS,
    INTAKE,
    STATES,
    Announcement,
    Event,
    Job,
    Receiver,
    release_end,
)
from tests.brokers.cases import kinds
from tests.brokers.conftest import Queue, end, ids, is_empty, reserved
from tests.waiting import wait_until

CLASSES = (HIGH, NORMAL, BULK)
RETRIES = (RETRY_HIGH, RETRY_NORMAL, RETRY_BULK)
SHORTEST_TTR = 2.0  # seconds, of all kinds when they hurry
TICK = 0.01  # seconds; some clocks are cut to milliseconds


def announced(queue: Queue, number: int = 1, priority: int = NORMAL) -> list[Announcement]:
    """E-mails whose jobs are on the queue."""
    emails = queue.emails(number, priority)
    assert list(queue.broker().announce(emails)) == emails
    return emails


# The types are looked at by mypy: a module that lacks a function, or names arguments of its own, is
# no ``Kind``.
KINDS: Mapping[str, Kind] = {
    "beanstalkd": beanstalkd,
    "redis": redis,
    "sqs": sqs,
    "mongodb": mongodb,
    "memory": memory,
}


def test_each_type_of_queue_has_a_module_of_its_name() -> None:
    assert KINDS.keys() == QUEUE_TYPES.keys()
    assert {name: f"mailqueue.queue.{name}" for name in KINDS} == {
        name: vars(module)["__name__"] for name, module in KINDS.items()
    }


# A job and its end ------------------------------------------------------------------------------


def test_what_is_announced_is_reserved_once_and_is_gone_when_it_ended(queue: Queue) -> None:
    emails = announced(queue, 5)
    receiver = queue.receiver()
    jobs = reserved(receiver, 5)
    assert sorted(map(str, ids(jobs))) == sorted(map(str, ids(emails)))
    assert is_empty(queue)
    end(jobs)
    receiver.close()
    assert is_empty(queue)


def test_an_empty_queue_gives_nothing(queue: Queue) -> None:
    assert is_empty(queue)
    assert queue.receiver().reserve(1, 10) == []
    assert list(queue.broker().announce([])) == []


def test_every_job_has_a_turn_of_its_own(queue: Queue) -> None:
    """It decides whose turn among the vendors it is."""
    announced(queue, 20)
    turns = sorted(job.turn for job in reserved(queue.receiver(), 20))
    assert len(set(turns)) == 20
    assert turns == list(range(turns[0], turns[0] + 20))


def test_two_processes_do_not_begin_at_the_same_turn(queue: Queue) -> None:
    """Else many that send one e-mail each, a consumer in a cron job, say, would ask one vendor."""
    announced(queue, 2)
    first, second = (reserved(queue.receiver())[0].turn for _ in range(2))
    assert first != second


def test_no_more_jobs_come_than_were_asked_for(queue: Queue) -> None:
    announced(queue, 3)
    assert len(queue.receiver().reserve(30, 1)) == 1
    assert len(queue.receiver().reserve(30, 1)) == 1


def test_a_job_that_is_given_back_comes_to_another_at_once(queue: Queue) -> None:
    emails = announced(queue, 3)
    jobs = reserved(queue.receiver(), 3)
    for holder in {job.holder for job in jobs}:
        holder.give_back([job for job in jobs if job.holder is holder])
    again = reserved(queue.receiver(), 3)
    assert sorted(map(str, ids(again))) == sorted(map(str, ids(emails)))


def test_closing_gives_back_what_is_reserved_and_keeps_what_ended_away(queue: Queue) -> None:
    announced(queue, 4)
    receiver = queue.receiver()
    jobs = reserved(receiver, 4)
    end(jobs[:1])
    receiver.close()
    again = reserved(queue.receiver(), 3)
    assert sorted(map(str, ids(again))) == sorted(map(str, ids(jobs[1:])))
    assert is_empty(queue)


def test_a_released_job_comes_again_when_its_delay_is_over(queue: Queue) -> None:
    (email,) = announced(queue)
    receiver = queue.receiver()
    jobs = reserved(receiver)
    begin = time.monotonic()
    end(jobs, release_end(RETRY_NORMAL, 1.0))
    assert ids(reserved(receiver)) == [email.email_id]
    assert time.monotonic() - begin > 1.0 - TICK


def test_a_job_that_is_released_without_delay_comes_again_at_once(queue: Queue) -> None:
    (email,) = announced(queue)
    receiver = queue.receiver()
    end(reserved(receiver), release_end(RETRY_NORMAL, 0.0))
    assert ids(reserved(receiver)) == [email.email_id]


def test_a_buried_job_does_not_come_again(queue: Queue) -> None:
    announced(queue)
    receiver = queue.receiver()
    end(reserved(receiver), BURIED)
    receiver.close()
    assert is_empty(queue)


def test_any_thread_may_end_a_job_while_the_receiver_waits_for_another(queue: Queue) -> None:
    announced(queue)
    receiver = queue.receiver()
    jobs = reserved(receiver)
    waiting = threading.Thread(target=receiver.reserve, args=(1,))
    waiting.start()
    end(jobs)
    waiting.join()
    receiver.close()
    assert is_empty(queue)


def test_ending_a_job_twice_ends_no_other(queue: Queue) -> None:
    emails = announced(queue, 2)
    receiver = queue.receiver()
    first = receiver.reserve(30, 1)
    end(first)
    end(first)
    left = reserved(receiver)
    assert sorted(map(str, ids(first + left))) == sorted(map(str, ids(emails)))
    assert is_empty(queue)


# Priorities -------------------------------------------------------------------------------------


def in_order(queue: Queue) -> list[int]:
    """Announce e-mails of all priorities, the least urgent first; the priorities as they come."""
    priorities = sorted((*CLASSES, *RETRIES), reverse=True)
    emails = {each.email_id: p for p in priorities for each in announced(queue, 2, p)}
    receiver = queue.receiver()
    return [emails[job.email_id] for job in reserved(receiver, len(emails)) if job.email_id]


@kinds("has_classes")
def test_classes_come_in_order(queue: Queue) -> None:
    place = {p: n for pair in (CLASSES, RETRIES) for n, p in enumerate(pair)}
    order = [place[priority] for priority in in_order(queue)]
    assert order == sorted(order)


@kinds("has_retries")
def test_within_a_class_retries_come_first(queue: Queue) -> None:
    """An e-mail that was offered to a vendor already has waited longest."""
    order = in_order(queue)
    for new, retry in zip(CLASSES, RETRIES, strict=True):
        assert [p for p in order if p in (new, retry)] == [retry, retry, new, new]


# Delays -----------------------------------------------------------------------------------------


def test_an_announcement_with_a_delay_is_not_early_and_does_come(queue: Queue) -> None:
    begin = time.monotonic()
    emails = queue.emails(1, delay=1.0)
    queue.broker().announce(emails)
    assert ids(reserved(queue.receiver())) == ids(emails)
    assert time.monotonic() - begin > 1.0 - TICK


def test_the_longest_delay_is_what_the_kind_says(queue: Queue) -> None:
    assert queue.broker().max_delay == queue.case.max_delay


# Depth ------------------------------------------------------------------------------------------


def test_the_depth_counts_jobs_by_state(queue: Queue) -> None:
    if not queue.case.has_depth:
        assert queue.broker().depth() is None
        return
    broker = queue.broker()
    assert broker.depth() == dict.fromkeys(STATES, 0)
    announced(queue, 3)
    broker.announce(queue.emails(2, delay=60))
    jobs = reserved(queue.receiver(), 1)
    depth = {state: n for state, n in (broker.depth() or {}).items() if n}
    assert depth == {"ready": 2, "reserved": 1, "delayed": 2}
    end(jobs)


# Other tubes, and jobs of others ----------------------------------------------------------------


@kinds("has_callbacks")
def test_the_tube_of_callbacks_is_another(queue: Queue) -> None:
    announced(queue)
    receiver = queue.receiver(suffix=CALLBACKS)
    assert receiver.reserve(0) == []
    emails = queue.emails()
    queue.broker(suffix=CALLBACKS).announce(emails)
    jobs = receiver.reserve(30)
    assert ids(jobs) == ids(emails)
    end(jobs)


def each_ended(receiver: Receiver) -> list[Job]:
    """What comes now; it is a person's from now on."""
    jobs = receiver.reserve(0, 10)
    end(jobs, BURIED)
    return jobs


@kinds("has_foreign")
@pytest.mark.parametrize(
    "body", [b"", b"hello", b"6b09608f33974bc99bbf66bz", b"\xff\x00", b"7" * 25]
)
def test_a_foreign_job_is_no_email_and_keeps_no_other_from_coming(
    queue: Queue, body: bytes
) -> None:
    queue.case.put(queue.config, body)
    emails = announced(queue)
    receiver = queue.receiver()
    jobs = wait_until(lambda: [job for job in each_ended(receiver) if job.email_id])
    assert ids(jobs) == ids(emails)
    each_ended(receiver)
    receiver.close()
    assert is_empty(queue)


# Events -----------------------------------------------------------------------------------------


@kinds("has_events")
def test_an_event_has_one_key_however_often_it_comes_and_two_events_have_two(queue: Queue) -> None:
    for number in (1, 1, 2):
        queue.case.put(queue.config, b'{"n": %d}' % number, INTAKE)
    keys = []
    for _ in range(2):
        receiver = queue.events()
        events: list[Event] = []
        while len(events) < 3 and (more := receiver.reserve(30, 3)):
            events += more
        keys.append({each.key for each in events})
        assert sorted(each.body for each in events) == [b'{"n": 1}', b'{"n": 1}', b'{"n": 2}']
        receiver.give_back()
        receiver.close()  # it may have got one of them again, where it was waiting for more
    assert keys[0] == keys[1]
    assert len(keys[0]) == 3


@kinds("has_events")
def test_an_event_that_ended_does_not_come_again(queue: Queue) -> None:
    queue.case.put(queue.config, b"{}", INTAKE)
    receiver = queue.events()
    receiver.end(receiver.reserve(30), BURIED)
    receiver.close()
    assert queue.events().reserve(0) == []


# Time to run, threads ---------------------------------------------------------------------------


def test_a_job_comes_to_another_when_its_time_to_run_is_over(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had it is gone, or slow; its end is then too late, and does no harm."""
    second = queue.receiver()  # has the usual time, where that is not the job's
    queue.case.hurry(monkeypatch)
    queue.shorten_ttr()
    (email,) = announced(queue)
    first, begin = queue.receiver(), time.monotonic()
    late = reserved(first)
    again = reserved(second, patience=5)
    if not again and queue.case.type == "beanstalkd":
        first.close()  # version 1.12 can forget a connection that lies still (its issue 262)
    again = again or reserved(second)
    assert time.monotonic() - begin > SHORTEST_TTR - TICK
    assert ids(again) == [email.email_id]
    with suppress(QueueUnavailable):
        end(late)
    end(again)
    second.close()
    assert is_empty(queue)


def test_no_two_receivers_hold_a_job_at_a_time_however_many_there_are(queue: Queue) -> None:
    emails = announced(queue, queue.case.some)
    shares: list[list[Job]] = [[] for _ in range(4)]

    def take(share: list[Job]) -> None:
        receiver, give_up_at = queue.receiver(), time.monotonic() + 60
        while sum(map(len, shares)) < len(emails) and time.monotonic() < give_up_at:
            share += receiver.reserve(1, 50)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(take, shares))
    jobs = [job for share in shares for job in share]
    assert sorted(map(str, ids(jobs))) == sorted(map(str, ids(emails)))
    end(jobs)


def test_many_threads_announce_over_one_broker(queue: Queue) -> None:
    broker = queue.broker()
    pages = [queue.emails(10) for _ in range(queue.case.some // 10)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(broker.announce, pages)) == pages
    jobs = reserved(queue.receiver(), queue.case.some)
    assert sorted(map(str, ids(jobs))) == sorted(str(e.email_id) for page in pages for e in page)


@kinds("has_announcements")
def test_an_announcement_in_the_middle_of_another_does_no_harm_to_either(queue: Queue) -> None:
    """As a signal handler makes one; here between any two lines of the kind's own code."""
    broker, inside = queue.broker(), list[Announcement]()
    lines = count(1)

    def between(frame: FrameType, what: str, _: object) -> Any:
        if "mailqueue/queue" not in frame.f_code.co_filename:
            return None
        if what == "line" and next(lines) % 7 == 1 and reentrancy.depth() == 0:
            sys.settrace(None)
            (one,) = queue.emails()
            inside.append(one)
            reentrancy.run(reentrancy.run, broker.announce, [one])
            sys.settrace(between)
        return between

    emails = queue.emails(3)
    broker.announce(emails[:1])  # connected
    sys.settrace(between)
    try:
        on_queue = reentrancy.run(broker.announce, emails[1:])
    finally:
        sys.settrace(None)
    assert list(on_queue) == emails[1:]
    jobs = reserved(queue.receiver(), len(inside) + 3)
    assert inside
    assert sorted(map(str, ids(jobs))) == sorted(map(str, ids([*emails, *inside])))


# Many jobs --------------------------------------------------------------------------------------


def calls_of(work: Callable[[], object]) -> int:
    """How many calls of functions it makes, those in C included."""
    calls = count()

    def profile(_: FrameType, what: str, __: object) -> None:
        if what in ("call", "c_call"):
            next(calls)

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return next(calls)


def test_to_reserve_costs_the_same_however_many_jobs_wait(queue: Queue) -> None:
    """Neither more calls nor more jobs in memory: what waits, waits on the server."""
    broker, receiver = queue.broker(), queue.receiver()
    broker.announce(queue.emails(100))
    few = calls_of(lambda: end(reserved(receiver, 50)))
    emails = queue.emails(queue.case.many)
    for start in range(0, len(emails), 10_000):
        page = emails[start : start + 10_000]
        assert len(broker.announce(page)) == len(page)
    jobs: list[Job] = []
    broker.depth()
    many = calls_of(lambda: jobs.extend(reserved(receiver, 50)))
    assert len(jobs) == 50
    end(jobs)
    assert many < 1.5 * few
