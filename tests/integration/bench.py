"""What the tests on real servers share: an e-mail, a look at the tube, and faults on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import greenstalk
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from mailqueue.config import Config, VendorConfig
from mailqueue.consumer.sweeper import Sweeper
from mailqueue.consumer.writer import Writer
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email, EmailDict
from mailqueue.queue import open_broker
from mailqueue.queue.beanstalkd.tube import Tube
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.router import Router
from mailqueue.store.document import SIMULATED
from mailqueue.store.mongo import Mongo
from mailqueue.store.store import Store
from mailqueue.vendors.base import Attempt, Vendor

Document = dict[str, Any]

MAIL: EmailDict = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "subject": "Hi",
    "text": "Hello",
}
OTHER_MAIL: EmailDict = {**MAIL, "subject": "Something else"}


def create_old_index(emails: Collection[Document]) -> None:
    """The unique index that older versions had on keys."""
    present = {"idempotency_key": {"$exists": True}}
    emails.create_index("idempotency_key", unique=True, partialFilterExpression=present)


def mails(n: int) -> list[EmailDict]:
    return [{**MAIL, "subject": f"Number {i}"} for i in range(n)]


@dataclass(frozen=True)
class TubeJob:
    """A job as it lies on the tube."""

    id: int
    body: str
    priority: int
    delay: int
    ttr: int


@contextmanager
def beanstalk(config: Config, server: int = 0) -> Iterator[greenstalk.Client[bytes]]:
    """A connection of the test's own; what it has reserved is ready again when it is closed."""
    tube = config.beanstalkd.tube
    address = config.beanstalkd.addresses[server]
    with greenstalk.Client(address, encoding=None, use=tube, watch=tube) as client:
        yield client


def ready(config: Config) -> list[TubeJob]:
    """The jobs that a consumer would get now, in its order; they stay where they are."""
    jobs = []
    with beanstalk(config) as client:
        while True:
            try:
                jobs.append(_described(client, client.reserve(0)))
            except greenstalk.TimedOutError:
                return jobs


def ready_ids(config: Config) -> list[str]:
    return [job.body for job in ready(config)]


def next_delayed(config: Config) -> TubeJob | None:
    """The delayed job that is due next."""
    with beanstalk(config) as client:
        try:
            return _described(client, client.peek_delayed())
        except greenstalk.NotFoundError:
            return None


def _described(client: greenstalk.Client[bytes], job: greenstalk.Job[bytes]) -> TubeJob:
    stats = client.stats_job(job)
    return TubeJob(job.id, job.body.decode(), stats["pri"], stats["delay"], stats["ttr"])


def put(config: Config, *ids: object, priority: int = 65_536) -> None:
    """Put jobs by hand."""
    with beanstalk(config) as client:
        for each in ids:
            client.put(each if isinstance(each, bytes) else str(each).encode(), priority)


def emptied(config: Config) -> None:
    """Lose every job, ready or delayed."""
    with beanstalk(config) as client:
        for peek in (client.peek_ready, client.peek_delayed, client.peek_buried):
            while True:
                try:
                    client.delete(peek())
                except greenstalk.NotFoundError:
                    break


@contextmanager
def failing(
    client: MongoClient[Document], *commands: str, mode: object = "alwaysOn", **how: object
) -> Iterator[None]:
    """Let mongod fail these commands of our own clients, by its failCommand."""
    data = {"failCommands": list(commands), "appName": "mailqueue", **how}
    client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
    try:
        yield
    finally:
        client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@contextmanager
def impatient(store: Mongo, seconds: float = 0.4) -> Iterator[None]:
    """Meanwhile its calls give up so soon. Those that are to succeed have the usual time."""
    usual, store.timeout = store.timeout, seconds
    try:
        yield
    finally:
        store.timeout = usual


WRITE_CONCERN_ERROR = {
    "code": 64,
    "codeName": "WriteConcernFailed",
    "errmsg": "waiting for replication timed out",
    "errInfo": {"wtimeout": True},
}


class LosesReplies(Store):
    """Executes a write, and then loses the server's reply, as often as it is told to."""

    to_lose = 0

    def persist(self, write: Any) -> Any:
        def executed_but_unheard() -> Any:
            result = write()
            if self.to_lose > 0:
                self.to_lose -= 1
                raise AutoReconnect("the reply was lost")
            return result

        return super().persist(executed_but_unheard)


def object_ids(ids: Iterable[str]) -> list[ObjectId]:
    return [ObjectId(one) for one in ids]


class Fake(Vendor):
    """A vendor in this process: gives ``results`` one after the other, then says yes for ever."""

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)
        self.results: list[SendResult | Exception] = []
        self.asked: list[Attempt] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        self.asked.append(attempt)
        self.meanwhile()
        result = self.results.pop(0) if self.results else YES
        if isinstance(result, Exception):
            raise result
        return result


YES = SendResult(outcome=Outcome.ACCEPTED, code="202", message_id="vendor-id")
DOWN = SendResult(outcome=Outcome.UNAVAILABLE, code="503")
NO_CONNECTION = SendResult(outcome=Outcome.UNAVAILABLE, code="connect_refused", answered=False)
UNHEARD = SendResult(outcome=Outcome.UNKNOWN, code="timeout", answered=False)


class Bench:
    """One consumer process without its threads: a test takes each step by hand."""

    def __init__(self, config: Config, store: Store | None = None, env: str = SIMULATED) -> None:
        self.config = config
        self.store = store or Store(config.mongodb, env=env, retention=config.retention)
        self.vendors: dict[str, Fake] = {v.name: Fake(v) for v in config.vendors}
        self.board = VendorHealth(self.store, self.vendors)
        self.routing = Router(config, self.board, self.vendors, rand=lambda: 0.5)
        self.worker = Writer(config, self.store, self.routing, owner=str(id(self)))
        self.tube = Tube(config.beanstalkd.servers[0], config.beanstalkd.tube)
        broker = open_broker(config, keep=0)
        self.sweeper = Sweeper(config, self.store, self.routing, broker, owner=str(id(self)))

    def answer_lookups(self) -> None:
        """Let every vendor be asked whether it has an e-mail; it has none."""
        for vendor in self.vendors.values():
            vendor.lookup = lambda *_: None
        self.routing._lookups = set(self.vendors)

    def take(self) -> bool:
        """Reserve and claim."""
        found = self.worker.fetcher.fetch(self.tube)
        while not self.worker.inbox.empty() or self.worker.waiting:
            self.worker.turn(5)
        return found

    def deliver(self) -> None:
        """Send what was claimed."""
        while not self.worker.sender.queue.empty():
            self.worker.sender.deliver(self.vendors)

    def settle(self) -> None:
        """Record what came of it."""
        while not self.worker.inbox.empty():
            self.worker.turn(5)

    def work(self) -> None:
        """Do all three once."""
        self.take()
        self.deliver()
        self.settle()

    @property
    def asked(self) -> int:
        return sum(len(vendor.asked) for vendor in self.vendors.values())

    def close(self) -> None:
        self.sweeper.close()
        self.tube.close()
        self.store.close()
