"""The whole way over each kind of queue: a producer, the queue, a consumer, vendors by script."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue import Config, Consumer, EmailDict, EmailStatus, Producer, cli
from mailqueue.consumer import build_sweeper
from mailqueue.intake.intake import Intake
from mailqueue.message import Email
from mailqueue.producer.connections import Connections
from mailqueue.queue.broker import CALLBACKS, INTAKE
from mailqueue.store.document import SIMULATED
from mailqueue.testing import FakeVendor
from mailqueue.vendors import Attempt, Outcome, SendResult
from tests.brokers.case import Case
from tests.brokers.cases import CASES, kinds
from tests.brokers.conftest import Queue, Servers, end, ids, reserved
from tests.forks import in_a_child
from tests.waiting import wait_until

Document = dict[str, Any]
LONG = timedelta(days=30)
MAIL: EmailDict = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "subject": "Hi",
    "text": "Hello",
}


def configured(queue: Queue, *vendors: FakeVendor, **sections: Any) -> Config:
    """The queue's configuration with these vendors, and a sweeper that does not help."""
    consumer = {"concurrency": 4, "sweep_every": 3600}
    fakes = [vendor.config for vendor in vendors]
    return queue.config.replace(**{"vendors": fakes, "consumer": consumer, **sections})


@contextmanager
def consuming(config: Config) -> Iterator[Consumer]:
    """A consumer at work, stopped at the end as SIGTERM stops it."""
    consumer, codes = Consumer(config), list[int]()
    thread = threading.Thread(target=lambda: codes.append(consumer.run()))
    thread.start()
    try:
        yield consumer
    finally:
        consumer.stop()
        thread.join(60)
    assert codes == [0]


def emails_of(client: MongoClient[Document], config: Config) -> Collection[Document]:
    return client[config.mongodb.database][config.mongodb.collection]


def ended(producer: Producer, email_ids: Sequence[str], status: str = "sent") -> list[EmailStatus]:
    """Where they stand, once all of them stand there."""

    def look() -> list[EmailStatus]:
        statuses = [each for email_id in email_ids if (each := producer.status(email_id))]
        return statuses if [each.status for each in statuses] == [status] * len(email_ids) else []

    return wait_until(look, timeout=60)


def test_emails_go_the_whole_way_and_the_next_vendor_is_asked_at_once(queue: Queue) -> None:
    """A retry at once is a job that is released without delay: no sweep and no time to run."""
    first, second = FakeVendor("first", "unavailable"), FakeVendor("second")
    config = configured(queue, first, second)
    with Producer(config) as producer, consuming(config):
        email_ids = producer.send_many([MAIL] * 12)
        statuses = ended(producer, email_ids)
    assert all(status.vendor == "second" for status in statuses)
    assert len(second.accepted) == 12
    assert first.calls
    assert queue.receiver().reserve(0) == []


def test_who_is_stopped_gives_back_what_it_did_not_begin(queue: Queue) -> None:
    """Another has it at once, without waiting for a time to run."""
    asked, stopping = threading.Event(), list[threading.Event]()

    def slow(_: Email, __: Attempt) -> SendResult:
        asked.set()
        wait_until(lambda: stopping and stopping[0].is_set(), timeout=30)
        return SendResult(outcome=Outcome.ACCEPTED, code="250")

    vendor = FakeVendor("first", slow)
    config = configured(queue, vendor, consumer={"concurrency": 1})
    with Producer(config) as producer:
        email_ids = producer.send_many([MAIL] * 8)
        with consuming(config) as consumer:
            assert asked.wait(30)
            stopping.append(consumer._stopping)
        with consuming(config):
            ended(producer, email_ids)


def test_lost_jobs_are_announced_by_the_sweeper(queue: Queue) -> None:
    vendor = FakeVendor("first")
    config = configured(queue, vendor)
    with Producer(config) as producer:
        email_ids = producer.send_many([MAIL] * 3)
        queue.case.lose_jobs(queue.config)
        let_time_pass(config, email_ids)
        with build_sweeper(config) as sweeper:
            sweeper.run_once()
        with consuming(config):
            ended(producer, email_ids)
    assert len(vendor.accepted) == 3


def test_an_email_that_is_due_beyond_the_longest_delay_comes_by_the_sweeper(queue: Queue) -> None:
    vendor = FakeVendor("first")
    config = configured(queue, vendor)
    with Producer(config) as producer:
        (email_id,) = producer.send_many([MAIL], send_at=datetime.now(UTC) + LONG)
        assert queue.receiver().reserve(0) == []
        let_time_pass(config, [email_id])
        with build_sweeper(config) as sweeper:
            sweeper.run_once()
        with consuming(config):
            ended(producer, [email_id])


def let_time_pass(config: Config, email_ids: Sequence[str]) -> None:
    """They are due, and overdue by now."""
    past = datetime.now(UTC) - timedelta(hours=1)
    with MongoClient[Document](config.mongodb.uri) as client:
        emails_of(client, config).update_many(
            {"_id": {"$in": [ObjectId(email_id) for email_id in email_ids]}},
            {"$set": {"due_at": past, "overdue_at": past, "send_at": past}},
        )


@kinds("is_shared")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_producer_announces_before_and_after_a_fork_in_parent_and_child(queue: Queue) -> None:
    """As a pre-fork server does: neither speaks on a connection of the other."""
    with Producer(configured(queue, FakeVendor("first"))) as producer:
        email_ids = [producer.send(MAIL)]
        email_ids.append(in_a_child(lambda: producer.send(MAIL)))
        email_ids.append(producer.send(MAIL))
        email_ids.append(in_a_child(lambda: producer.send(MAIL)))
    jobs = reserved(queue.receiver(), 4)
    assert sorted(map(str, ids(jobs))) == sorted(email_ids)


@kinds("has_callbacks")
def test_a_callback_that_is_due_is_told_to_the_responder(queue: Queue) -> None:
    callbacks = {"url": "https://hooks.example.com/mail"}
    vendor = FakeVendor("first")
    config = configured(queue, vendor, callbacks=callbacks)
    receiver = queue.receiver(suffix=CALLBACKS)
    with Producer(config) as producer, consuming(config):
        email_ids = producer.send_many([MAIL])
        ended(producer, email_ids)
        jobs = receiver.reserve(30, 10)
    assert [str(each) for each in ids(jobs)] == email_ids
    end(jobs)


@kinds("has_events")
def test_an_event_becomes_one_email_however_often_it_comes(
    queue: Queue, mongo_client: MongoClient[Document]
) -> None:
    body = json.dumps({"email": MAIL, "priority": "high"}).encode()
    queue.case.put(queue.config, body, INTAKE)
    lost = queue.events()
    assert len(lost.reserve(30, 10)) == 1
    lost.close()
    with closing(Connections(queue.config, SIMULATED, None)) as connections:
        connections.storage().store.ensure_indexes()
        intake = Intake(queue.events(), connections)
        wait_until(intake.turn, timeout=60)
        intake.receiver.close()
    assert emails_of(mongo_client, queue.config).count_documents({}) == 1
    assert queue.events().reserve(0) == []


# Two queues by mistake ----------------------------------------------------------------------------


PAIRS = list(zip(CASES, [*CASES[1:], CASES[0]], strict=True))


@pytest.mark.parametrize("case, other", PAIRS, ids=lambda case: case.name)
def test_what_is_announced_on_another_queue_comes_by_the_consumers_sweeper(
    queue: Queue,
    other: Case,
    queue_servers: Servers,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """And the doctor, with the producer's configuration, says so."""
    server = queue_servers.of(other)
    section = other.section(server.address if server else "", queue.config.mongodb.database)
    vendor = FakeVendor("first")
    config = configured(queue, vendor, consumer={"concurrency": 2, "sweep_every": 1})
    mapping = {**file_of(config, vendor), "queue": {"type": other.type, **section}}
    elsewhere = Config.from_mapping(mapping)
    other.create(elsewhere)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(mapping))
    text = f"this configuration announces on {elsewhere.broker.place}; consumers wait at"
    text += f" {config.broker.place}"

    def is_said() -> bool:
        cli.main(["--config", str(file), "doctor", "--json"])
        return text in [each["text"] for each in json.loads(capsys.readouterr().out)["findings"]]

    with Producer(elsewhere) as producer, consuming(config):
        email_ids = producer.send_many([MAIL] * 2)
        let_time_pass(config, email_ids)
        ended(producer, email_ids)
        # It is read off the sweeper's lease, which a consumer that gets no processor lets lapse.
        wait_until(is_said, timeout=60)
    assert len(vendor.accepted) == 2


def file_of(config: Config, vendor: FakeVendor) -> Document:
    """What a file would hold, without the queue."""
    names = {"database": config.mongodb.database, "collection": config.mongodb.collection}
    return {"mongodb": {"uri": config.mongodb.uri, **names}, "vendors": [vendor.config]}
