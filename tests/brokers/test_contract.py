"""What each kind of queue promises to producers, consumers and sweepers, on its real server."""

from __future__ import annotations

import threading

import pytest

from mailqueue.lifecycle.outcomes import BULK, HIGH, NORMAL, RETRY_BULK, RETRY_HIGH, RETRY_NORMAL
from mailqueue.queue.broker import BURIED, INTAKE, STATES, Announcement, Event, release_end
from tests.brokers.conftest import Queue, end, ids, reserved

CLASSES = (HIGH, NORMAL, BULK)
RETRIES = (RETRY_HIGH, RETRY_NORMAL, RETRY_BULK)


def announced(queue: Queue, number: int = 1, priority: int = NORMAL) -> list[Announcement]:
    """E-mails whose jobs are on the queue."""
    emails = queue.emails(number, priority)
    assert list(queue.broker().announce(emails)) == emails
    return emails


# A job and its end ------------------------------------------------------------------------------


def test_what_is_announced_is_reserved_once_and_is_gone_when_it_ended(queue: Queue) -> None:
    emails = announced(queue, 5)
    receiver = queue.receiver()
    jobs = reserved(receiver, 5)
    assert sorted(map(str, ids(jobs))) == sorted(map(str, ids(emails)))
    assert queue.receiver().reserve(0, 5) == []
    end(jobs)
    receiver.close()
    assert queue.receiver().reserve(0, 5) == []


def test_an_empty_queue_gives_nothing(queue: Queue) -> None:
    assert queue.receiver().reserve(0) == []
    assert queue.receiver().reserve(1, 10) == []
    assert list(queue.broker().announce([])) == []


def test_every_job_has_a_turn_of_its_own(queue: Queue) -> None:
    """It decides whose turn among the vendors it is."""
    announced(queue, 20)
    turns = sorted(job.turn for job in reserved(queue.receiver(), 20))
    assert len(set(turns)) == 20
    assert turns == list(range(turns[0], turns[0] + 20))


def test_no_more_jobs_come_than_were_asked_for(queue: Queue) -> None:
    announced(queue, 3)
    assert len(queue.receiver().reserve(5, 1)) == 1
    assert len(queue.receiver().reserve(5, 1)) == 1


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
    again = reserved(queue.receiver(), 4, timeout=1)
    assert sorted(map(str, ids(again))) == sorted(map(str, ids(jobs[1:])))


def test_a_released_job_comes_again_when_its_delay_is_over(queue: Queue) -> None:
    (email,) = announced(queue)
    receiver = queue.receiver()
    end(reserved(receiver), release_end(RETRY_NORMAL, 1.0))
    assert receiver.reserve(0) == []
    assert ids(reserved(receiver)) == [email.email_id]


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
    assert queue.receiver().reserve(0) == []


def test_any_thread_may_end_a_job_while_the_receiver_waits_for_another(queue: Queue) -> None:
    announced(queue)
    receiver = queue.receiver()
    jobs = reserved(receiver)
    waiting = threading.Thread(target=receiver.reserve, args=(1,))
    waiting.start()
    end(jobs)
    waiting.join()
    receiver.close()
    assert queue.receiver().reserve(0) == []


def test_ending_a_job_twice_ends_no_other(queue: Queue) -> None:
    emails = announced(queue, 2)
    receiver = queue.receiver()
    first = receiver.reserve(5, 1)
    end(first)
    end(first)
    left = reserved(receiver, 2, timeout=1)
    assert sorted(map(str, ids(first + left))) == sorted(map(str, ids(emails)))


# Priorities -------------------------------------------------------------------------------------


def in_order(queue: Queue) -> list[int]:
    """Announce e-mails of all priorities, the least urgent first; the priorities as they come."""
    priorities = sorted((*CLASSES, *RETRIES), reverse=True)
    emails = {each.email_id: p for p in priorities for each in announced(queue, 2, p)}
    receiver = queue.receiver()
    return [emails[job.email_id] for job in reserved(receiver, len(emails)) if job.email_id]


def test_classes_come_in_order(queue: Queue) -> None:
    if not queue.case.has_classes:
        pytest.skip("this kind does not tell them apart")
    place = {p: n for pair in (CLASSES, RETRIES) for n, p in enumerate(pair)}
    order = [place[priority] for priority in in_order(queue)]
    assert order == sorted(order)


def test_within_a_class_retries_come_first(queue: Queue) -> None:
    """An e-mail that was offered to a vendor already has waited longest."""
    if not queue.case.has_retries:
        pytest.skip("this kind does not tell them apart")
    order = in_order(queue)
    for new, retry in zip(CLASSES, RETRIES, strict=True):
        assert [p for p in order if p in (new, retry)] == [retry, retry, new, new]


# Delays -----------------------------------------------------------------------------------------


def test_an_announcement_with_a_delay_is_not_early_and_does_come(queue: Queue) -> None:
    emails = queue.emails(1, delay=1.0)
    queue.broker().announce(emails)
    receiver = queue.receiver()
    assert receiver.reserve(0) == []
    assert ids(reserved(receiver)) == ids(emails)


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


def test_the_tube_of_callbacks_is_another(queue: Queue) -> None:
    receivers = queue.broker(suffix=".callbacks").receivers()
    if not receivers:
        return  # whoever waits for callbacks looks into MongoDB
    announced(queue)
    (receiver,) = receivers
    assert receiver.reserve(0) == []
    emails = queue.emails()
    queue.broker(suffix=".callbacks").announce(emails)
    jobs = receiver.reserve(5)
    assert ids(jobs) == ids(emails)
    end(jobs)
    receiver.close()


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"6b09608f33974bc99bbf66bz", b"\xff\x00", b"7" * 25]
)
def test_a_foreign_job_is_no_email_and_keeps_no_other_from_coming(
    queue: Queue, body: bytes
) -> None:
    if not queue.case.has_foreign:
        pytest.skip("there is nowhere to put one")
    queue.case.put(queue.config, body)
    emails = announced(queue)
    receiver = queue.receiver()
    jobs = reserved(receiver, 2, timeout=1)
    end(jobs, BURIED)
    assert [job.email_id for job in jobs if job.email_id] == ids(emails)
    receiver.close()
    assert queue.receiver().reserve(0, 2) == []


# Events -----------------------------------------------------------------------------------------


def test_an_event_has_one_key_however_often_it_comes_and_two_events_have_two(queue: Queue) -> None:
    if not queue.case.has_events:
        pytest.skip("there is nowhere to put one")
    for number in (1, 1, 2):
        queue.case.put(queue.config, b'{"n": %d}' % number, INTAKE)
    keys = []
    for _ in range(2):
        receiver = queue.events()
        events: list[Event] = []
        while len(events) < 3:
            events += receiver.reserve(5, 3)
        keys.append({each.key for each in events})
        assert sorted(each.body for each in events) == [b'{"n": 1}', b'{"n": 1}', b'{"n": 2}']
        receiver.give_back()
    assert keys[0] == keys[1]
    assert len(keys[0]) == 3


def test_an_event_that_ended_does_not_come_again(queue: Queue) -> None:
    if not queue.case.has_events:
        pytest.skip("there is nowhere to put one")
    queue.case.put(queue.config, b"{}", INTAKE)
    receiver = queue.events()
    receiver.end(receiver.reserve(5), BURIED)
    receiver.close()
    assert queue.events().reserve(0) == []
