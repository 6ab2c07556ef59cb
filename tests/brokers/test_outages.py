"""Each kind's server is killed, restarted with and without its jobs, and cut off."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mailqueue.errors import QueueUnavailable
from mailqueue.queue.broker import INTAKE, Broker
from tests.brokers.case import Case
from tests.brokers.cases import kinds
from tests.brokers.conftest import Open, Queue, Servers, end, ids, reserved
from tests.faults.proxy import HOST, Proxy, drip, mute
from tests.logged import event
from tests.waiting import wait_until

with_a_server = kinds("has_server")


def outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of servers, in order."""
    said = [event(record) for record in caplog.records]
    return [name for name in said if name.startswith("server.")]


def rested(broker: Broker) -> None:
    """As if the server had been left alone for long enough."""
    broker._announcer._rests.clear()  # type: ignore[attr-defined]  # every kind's, if it has any


# Killed -----------------------------------------------------------------------------------------


@with_a_server
def test_jobs_outlive_their_server_where_it_says_so(breakable: Queue) -> None:
    breakable.shorten_ttr()
    emails = breakable.emails(5)
    breakable.broker().announce(emails)
    held = reserved(breakable.receiver(), 2)
    breakable.server.kill()
    breakable.server.start()
    number = 5 if breakable.case.outlives_kill else 0
    again = reserved(breakable.receiver(), number)
    expected = ids(emails) if breakable.case.outlives_kill else []
    assert sorted(map(str, ids(again))) == sorted(map(str, expected))
    assert len(held) == 2


@with_a_server
def test_a_server_that_forgot_its_jobs_is_as_good_as_a_new_one(breakable: Queue) -> None:
    """A late end of what it had ends nothing of what it has."""
    broker, receiver = breakable.broker(), breakable.receiver()
    broker.announce(breakable.emails(3))
    late = reserved(receiver, 2)
    breakable.case.lose_data(breakable.server)
    breakable.case.create(breakable.config)
    emails = breakable.emails(3)
    assert list(broker.announce(emails)) == emails
    for job in late:
        try:
            end([job])
        except QueueUnavailable:
            break
    jobs = reserved(breakable.receiver(), 3)
    assert sorted(map(str, ids(jobs))) == sorted(map(str, ids(emails)))


@with_a_server
def test_while_the_server_is_away_announcements_are_kept_and_nothing_raises(
    breakable: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    broker = breakable.broker()
    receiver = breakable.receiver(broker)
    broker.announce(breakable.emails())
    end(reserved(receiver))
    wait_until(lambda: not any((broker.depth() or {}).values()))  # the end has come there
    caplog.set_level(logging.INFO, logger="mailqueue")
    breakable.server.stop()
    emails = breakable.emails(3)
    assert [list(broker.announce([one])) for one in emails] == [[], [], []]
    for _ in range(2):
        with pytest.raises(QueueUnavailable):
            receiver.reserve(0)
    with pytest.raises(QueueUnavailable):
        broker.depth()
    assert outages(caplog) == ["server.lost"]
    breakable.server.start()
    rested(broker)
    broker.announce([])
    jobs = reserved(receiver, 3)
    assert set(ids(jobs)) == set(ids(emails))
    end(jobs)
    assert outages(caplog) == ["server.lost", "server.recovered"]
    broker.announce([])
    assert receiver.reserve(0) == []


@with_a_server
def test_a_server_that_was_restarted_while_nobody_asked_is_no_outage(
    breakable: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    broker = breakable.broker()
    broker.announce(breakable.emails())
    breakable.server.restart()
    emails = breakable.emails()
    caplog.set_level(logging.INFO, logger="mailqueue")
    assert list(broker.announce(emails)) == emails
    assert outages(caplog) == []


@with_a_server
def test_closing_and_giving_back_raise_nothing_without_the_server(breakable: Queue) -> None:
    receiver = breakable.receiver()
    breakable.broker().announce(breakable.emails(2))
    jobs = reserved(receiver, 2)
    breakable.server.kill()
    for holder in {job.holder for job in jobs}:
        holder.give_back([job for job in jobs if job.holder is holder])
    receiver.close()


@kinds("has_server", "has_events", "outlives_kill")
def test_events_come_again_when_the_server_went_before_they_ended(
    breakable: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    breakable.case.hurry(monkeypatch)
    breakable.shorten_ttr()
    breakable.case.put(breakable.config, b"{}", INTAKE)
    receiver = breakable.events()
    (first,) = receiver.reserve(30)
    breakable.server.kill()
    receiver.give_back()
    with pytest.raises(QueueUnavailable):
        receiver.reserve(0)
    breakable.server.start()
    again = wait_until(lambda: receiver.reserve(1), timeout=breakable.held_for)
    assert {first.key} <= {again[0].key, again[0].other_key}
    assert again[0].body == b"{}"


# Cut off ----------------------------------------------------------------------------------------


@pytest.fixture
def proxy(case: Case, queue_servers: Servers) -> Iterator[Proxy]:
    """Before the shared server."""
    server = queue_servers.of(case)
    assert server is not None
    with Proxy((HOST, server.port)) as made:
        yield made


@pytest.fixture
def behind(opened: Open, case: Case, queue_servers: Servers, proxy: Proxy) -> Queue:
    """The queue, reached through the proxy."""
    return opened(queue_servers.of(case), proxy.address)


@with_a_server
def test_answers_that_come_in_drips_are_answers(behind: Queue, proxy: Proxy) -> None:
    proxy.spoil = drip
    emails = behind.emails(3)
    assert list(behind.broker().announce(emails)) == emails
    receiver = behind.receiver()
    jobs = reserved(receiver, 3)
    assert sorted(map(str, ids(jobs))) == sorted(map(str, ids(emails)))
    end(jobs)


@with_a_server
def test_where_connections_hang_producers_wait_once_and_a_consumer_hears_of_it(
    behind: Queue,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The threads of a producer wait at the same time, not one after the other."""
    behind.case.lose_patience(monkeypatch)
    broker = behind.broker()
    receiver = behind.receiver(broker)
    broker.announce(behind.emails())
    end(reserved(receiver))
    caplog.set_level(logging.INFO, logger="mailqueue")
    proxy.spoil = mute
    at_once = threading.Barrier(8)

    def announce() -> int:
        at_once.wait()
        return len(broker.announce(behind.emails(2)))

    with ThreadPoolExecutor(9) as threads:
        announcing = [threads.submit(announce) for _ in range(8)]
        reserving = threads.submit(receiver.reserve, 0)
        assert [call.result(30) for call in announcing] == [0] * 8
        with pytest.raises(QueueUnavailable):
            reserving.result(30)
    heard = proxy.heard
    assert list(broker.announce(behind.emails())) == []  # the server is left alone
    assert proxy.heard == heard
    assert outages(caplog) == ["server.lost"]
