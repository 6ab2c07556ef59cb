"""A queue of each kind: on a server that is shared, or on one that a test may break.

A kind's server is started once, for the first test that needs it (once per worker where
pytest-xdist shares the tests out). Each test has names of its own on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any, Protocol
from uuid import uuid4

import botocore.session
import pytest
from botocore.loaders import create_loader
from bson import ObjectId
from pymongo import MongoClient

from mailqueue.config import Config
from mailqueue.devserver import Mongod
from mailqueue.devserver.process import ServerNotFound
from mailqueue.lifecycle.outcomes import NORMAL
from mailqueue.queue import open_broker, open_events
from mailqueue.queue.broker import DELETED, Announcement, Broker, End, EventReceiver, Job, Receiver
from mailqueue.queue.sqs import broker as sqs
from mailqueue.queue.sqs import client, messages
from tests.brokers.case import Case
from tests.brokers.cases import CASES
from tests.brokers.sqs import CREDENTIALS
from tests.conftest import TEST_PREFIX
from tests.servers import Breakable

Document = dict[str, Any]


class Queue:
    """One queue of a kind with names of its own; all that it opened is closed at the end."""

    def __init__(
        self, case: Case, config: Config, server: Breakable | None, section: Document
    ) -> None:
        self.case, self.config, self._server = case, config, server
        self.section = section  # ``queue`` of the configuration, as a file holds it
        self._stack = ExitStack()

    @property
    def server(self) -> Breakable:
        """The server that a test may break; see ``breakable``."""
        assert self._server is not None
        return self._server

    @property
    def held_for(self) -> int:
        """Seconds in which a job comes again, whoever had it when its server or he was lost."""
        return self.config.delivery.ttr + 30

    def shorten_ttr(self) -> None:
        """Let reserved jobs come back after 3 s, the kind's shortest at least."""
        if self.case.type == "mongodb":  # it is to have the usual time, and ``hurry`` does this
            return
        mongodb = replace(self.config.mongodb, timeout=0.3)
        self.config = self.config.replace(mongodb=mongodb, delivery={"deadline": 0.5})

    def broker(self, **options: Any) -> Broker:
        """One more process' side of the queue."""
        made = open_broker(self.config, **self.case.options(self.config, self._stack), **options)
        self._stack.callback(made.close)
        return made

    def receiver(self, broker: Broker | None = None, **options: Any) -> Receiver:
        """One more receiver; the kinds of this suite have one for a server."""
        (made,) = (broker or self.broker(**options)).receivers()
        self._stack.callback(made.close)
        return made

    def events(self) -> EventReceiver:
        """One more receiver of events."""
        (made,) = open_events(self.config, **self.case.options(self.config, self._stack))
        self._stack.callback(made.close)
        return made

    def emails(
        self, number: int = 1, priority: int = NORMAL, delay: float = 0.0
    ) -> Sequence[Announcement]:
        """E-mails to announce; stored, where the queue looks at them."""
        made = [Announcement(ObjectId(), priority, delay) for _ in range(number)]
        self.case.store(self.config, made)
        return made

    def close(self) -> None:
        self._stack.close()


def reserved(receiver: Receiver, number: int = 1, patience: float = 30) -> list[Job]:
    """So many jobs, by as many calls as it takes; fewer, if for so many seconds none comes.

    It waits only for what is not there yet: SQS would wait at its other queue all the same.
    """
    jobs: list[Job] = []
    give_up_at = time.monotonic() + patience
    while (missing := number - len(jobs)) > 0:
        if more := receiver.reserve(0, missing) or receiver.reserve(1, missing):
            jobs += more
            give_up_at = time.monotonic() + patience
        elif time.monotonic() > give_up_at:
            break
    return jobs


def is_empty(queue: Queue) -> bool:
    """Whether another receiver gets nothing now."""
    return not queue.receiver().reserve(0, 5)


def end(jobs: Sequence[Job], how: End = DELETED) -> None:
    """End jobs where they are reserved."""
    for holder in {job.holder for job in jobs}:
        holder.end({job: how for job in jobs if job.holder is holder})


def ids(jobs: Sequence[Job | Announcement]) -> list[ObjectId | None]:
    """Their e-mails."""
    return [job.email_id for job in jobs]


class Servers:
    """The shared server of each kind, started for the first test that needs it."""

    def __init__(self) -> None:
        self._started: dict[str, Breakable | None] = {}
        self._stack = ExitStack()

    def of(self, case: Case) -> Breakable | None:
        if case.name not in self._started:
            self._started[case.name] = server = started(case)
            if server is not None:
                self._stack.callback(server.close)
        return self._started[case.name]

    def close(self) -> None:
        self._stack.close()


def started(case: Case) -> Breakable | None:
    """A server of this kind; the test is skipped where there is none, and fails with ``CI``."""
    try:
        return case.start()
    except ServerNotFound as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


_loader = cache(create_loader)


@pytest.fixture(scope="session")
def queue_servers() -> Iterator[Servers]:
    made = Servers()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What boto3 finds in the environment.

    A receiver of SQS is not to take five seconds to close, and its server is a slow one. Who has a
    client of SQS read what the service offers need not read it again for each.
    """
    monkeypatch.setattr(messages, "POLL", 1)
    monkeypatch.setattr(sqs, "ANNOUNCE", 60.0)
    monkeypatch.setattr(client, "READ_TIMEOUT", 30)
    monkeypatch.setattr(botocore.session, "create_loader", _loader)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def servers_that_break() -> Iterator[Servers]:
    made = Servers()
    yield made
    made.close()


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Each kind of queue, one after the other."""
    made: Case = request.param
    return made


@pytest.fixture
def mapping(mongod: Mongod) -> Document:
    """What ``config.json`` holds beside the queue; a test may change it."""
    unique = TEST_PREFIX + uuid4().hex
    return {
        "mongodb": {"uri": mongod.uri, "database": unique, "collection": TEST_PREFIX + "emails"},
        "vendors": [
            {"name": "first", "type": "smtp", "host": "127.0.0.1"},
            {"name": "second", "type": "smtp", "host": "127.0.0.1"},
        ],
    }


class Open(Protocol):
    """Opens this kind's queue on a server, under its own address or that of a proxy."""

    def __call__(self, server: Breakable | None, address: str = "") -> Queue: ...


@pytest.fixture
def opened(case: Case, mapping: Document, mongo_client: MongoClient[Document]) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_queue(server: Breakable | None, address: str = "") -> Queue:
            address = address or (server.address if server else "")
            name = mapping["mongodb"]["database"]
            section = {"type": case.type, **case.section(address, name)}
            config = Config.from_mapping({**mapping, "queue": section})
            case.create(config)
            queue = Queue(case, config, server, section)
            stack.callback(queue.close)
            return queue

        yield open_queue
    mongo_client.drop_database(mapping["mongodb"]["database"])


@pytest.fixture
def queue(case: Case, opened: Open, queue_servers: Servers) -> Iterator[Queue]:
    """A queue of this kind, on the shared server."""
    made = opened(queue_servers.of(case))
    yield made
    made.close()
    case.remove(made.config)


@pytest.fixture
def breakable(case: Case, opened: Open, servers_that_break: Servers) -> Queue:
    """A queue on another server, which the test may stop, pause, kill and restart."""
    server = servers_that_break.of(case)
    assert server is not None, "this test is for kinds that have a server"
    if not server.is_running:
        server.start()
    return opened(server)
