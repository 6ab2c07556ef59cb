"""Short leases, servers to be broken, consumers in the test's process, and an application."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self
from uuid import uuid4

import pytest

from mailqueue.consumer import Consumer, sweeper
from mailqueue.errors import StoreUnavailable
from mailqueue.queue.beanstalkd.tube import Tube
from tests.conftest import TEST_PREFIX, _running
from tests.faults.invariants import broken
from tests.servers import BreakableServers, breakable_servers
from tests.stage import Stage, letter
from tests.waiting import wait_until

# The smallest that leave a busy machine room.
IMPATIENT: dict[str, Any] = {
    "delivery": {"deadline": 1.5},  # a lease of 8 s
    "consumer": {"sweep_every": 0.5, "concurrency": 4},
    "retry": {"base": 0.05, "cap": 0.2},
    "failover": {"unavailable_for": 0.2},
}
MONGODB_TIMEOUT = 1.5


def make_impatient(stage: Stage) -> Stage:
    stage.settings |= IMPATIENT
    stage.settings["mongodb"] = {**stage.settings["mongodb"], "timeout": MONGODB_TIMEOUT}
    return stage


@pytest.fixture
def impatient(stage: Stage) -> Stage:
    """A stage with leases of seconds."""
    return make_impatient(stage)


@pytest.fixture(scope="module")
def broken_servers() -> Iterator[BreakableServers]:
    """Servers for the tests of one module, which leave them running."""
    with _running(breakable_servers()) as servers:
        yield servers


@pytest.fixture
def outdoors(broken_servers: BreakableServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage with two vendors, leases of seconds and a relay that soon looks again."""
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    monkeypatch.setattr(sweeper, "ANNOUNCED_LATELY", timedelta(seconds=1))
    unique = TEST_PREFIX + uuid4().hex
    settings = broken_servers.config
    settings["mongodb"] |= {"database": unique, "collection": TEST_PREFIX + "emails"}
    settings["beanstalkd"] |= {"tube": unique}
    with Stage(settings) as stage:
        stage.vendor("first"), stage.vendor("second")
        yield make_impatient(stage)
    broken_servers.beanstalkd.binlog = True


def _is_receiving(consumer: Consumer) -> bool:
    """Whether it is connected to beanstalkd."""
    receiver = consumer._receivers[0]
    return isinstance(receiver, Tube) and bool(receiver._connections)


@contextmanager
def consuming(stage: Stage, **options: Any) -> Iterator[Consumer]:
    """A consumer at work while the block runs, done at its end."""
    consumer = Consumer(stage.config, **options)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(consumer.run)
        wait_until(lambda: running.done() or _is_receiving(consumer), what="it consumes")
        try:
            yield consumer
        finally:
            consumer.stop()
            code = running.result(30)
        assert code == 0


class Application:
    """Sends e-mails one after the other while the block runs.

    ``ids`` are those that ``send()`` gave, so they must be kept; ``raised`` counts those of which
    it did not say so.
    """

    def __init__(self, stage: Stage) -> None:
        self.ids: list[str] = []
        self.raised = 0
        self._stage = stage
        self._producer = stage.producer
        self._enough = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._running = self._pool.submit(self._send)
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        with self._pool:
            self._running.result(30)

    def _send(self) -> None:
        while not self._enough.wait(0.01):  # its pace
            try:
                self.ids.append(self._producer.send(letter(len(self.ids))))
            except StoreUnavailable:
                self.raised += 1

    def sends(self, number: int) -> None:
        """Wait until so many more were sent."""
        goal = len(self.ids) + number
        wait_until(lambda: len(self.ids) >= goal, 30, f"{number} more are sent")

    def is_refused(self) -> None:
        """Wait until one more was refused."""
        before = self.raised
        wait_until(lambda: self.raised > before, 30, "one more is refused")


def all_is_well(stage: Stage, ids: list[str], *, unknown: bool = False) -> None:
    """Wait until every e-mail has ended; none is lost, and there are no copies without a cause.

    ``unknown``: outcomes may have been unknown, and then some e-mails ``uncertain``.
    """
    ends = {"sent", "uncertain"} if unknown else {"sent"}
    wait_until(lambda: ends.issuperset(stage.statuses()), 30, f"{stage.statuses()} are {ends}")
    documents = {str(document["_id"]): document for document in stage.emails.find()}
    assert set(ids) <= documents.keys()
    assert stage.copies.keys() <= documents.keys()
    for email_id, document in documents.items():
        assert broken(document, stage.copies[email_id]) == [], document["attempts"]
    assert unknown or set(stage.copies.values()) == {1}
