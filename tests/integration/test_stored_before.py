"""What the version before has stored is still read, sent, and found in order.

``stored_at_f534443.json`` was made by the code of that commit, through its own producer and store:
e-mails in every status, by what had happened to them, the vendors' health, and the lease of its
sweeper. A test moves them in time, so that they were stored just now or a while ago.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId, json_util
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue import Producer
from mailqueue.config import Config
from mailqueue.errors import InvalidEmail
from mailqueue.message import EmailDict
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.store import audit, ids
from mailqueue.store.document import PRODUCTION
from mailqueue.store.interventions import Verb
from tests.integration import bench as workbench
from tests.integration.bench import Bench, Fake, create_old_index

Document = dict[str, Any]

FILE = Path(__file__).with_name("stored_at_f534443.json")
JSON = json_util.loads(FILE.read_text(), json_options=json_util.JSONOptions(tz_aware=True))
NAMES = {email["_id"]: name for name, email in JSON["emails"].items()}
A_WHILE = timedelta(minutes=5)  # leases and delays are over then, but no pin

# What becomes of an e-mail that was queued or sending: its end, and the vendors that are asked.
ENDS = {
    "queued": ("sent", 1),
    "queued, send_at": ("sent", 1),
    "queued, expires_at": ("failed", 0),
    "queued, tried": ("sent", 1),
    "queued, round over": ("sent", 1),
    "queued, deferred": ("sent", 1),
    "queued, unsuitable at first": ("sent", 1),
    "queued, pinned": ("sent", 1),
    "queued, pending": ("sent", 1),
    "queued, unknown": ("sent", 1),
    "queued, looked up": ("sent", 1),
    "queued, announced again": ("sent", 1),
    "queued, not started": ("sent", 1),
    "queued, retried": ("sent", 1),
    "sending with a key": ("sent", 1),
    "sending without a key": ("sent", 1),
    "sending, late yes": ("sent", 0),
}


class Keyed(Fake):
    """A vendor that knows a key for a day."""

    key_life = 86_400.0


def moved(value: Any, by: timedelta) -> Any:
    """The same at another time."""
    if isinstance(value, datetime):
        return value + by
    if isinstance(value, dict):
        return {name: moved(inner, by) for name, inner in value.items()}
    return [moved(inner, by) for inner in value] if isinstance(value, list) else value


@pytest.fixture
def config_mapping(config_mapping: Document) -> Document:
    config_mapping["vendors"].append({"name": "third", "type": "smtp", "host": "127.0.0.1"})
    return config_mapping


@pytest.fixture
def bench(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A consumer of today's code; ``first`` takes keys, as it did before."""
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    monkeypatch.setattr(workbench, "Fake", lambda v: (Keyed if v.name == "first" else Fake)(v))
    made = Bench(config, env=PRODUCTION)
    create_old_index(made.store.emails)
    made.store.ensure_indexes()
    yield made
    made.close()


@pytest.fixture
def stored(
    config: Config, bench: Bench, emails: Collection[Document], mongo_client: MongoClient[Document]
) -> Collection[Document]:
    """All of it, as it was five minutes after it was stored."""
    store_again(config, mongo_client, A_WHILE)
    return emails


def store_again(config: Config, client: MongoClient[Document], ago: timedelta) -> None:
    everything = moved(JSON, datetime.now(UTC) - ago - JSON["made_at"])
    database, name = client[config.mongodb.database], config.mongodb.collection
    database[name].insert_many(everything["emails"].values())
    for suffix in ("vendors", "vendors.simulated", "leases"):
        database[f"{name}.{suffix}"].insert_many(everything[suffix])


def states(emails: Collection[Document]) -> dict[str, str]:
    return {NAMES[email["_id"]]: email["status"] for email in emails.find()}


def work(bench: Bench, config: Config, emails: Collection[Document]) -> None:
    """Sweep once, then send until nothing is queued: what is put off is due the next time."""
    bench.sweeper.sweep()
    for _ in range(100):
        if depth(config.beanstalkd)["ready"]:
            bench.work()
        elif queued := emails.distinct("_id", {"status": "queued"}):
            emails.update_many({"status": "queued"}, {"$set": {"due_at": None}})
            workbench.put(config, *queued)
        else:
            return
    pytest.fail("e-mails stay queued")


def clean(bench: Bench) -> bool:
    report = audit.walk(bench.store)
    assert report.findings == []
    return report.emails.total() == len(NAMES)


def test_each_is_as_it_was_for_whoever_asks(
    stored: Collection[Document], bench: Bench, config: Config
) -> None:
    assert clean(bench)
    with Producer(config) as producer:
        for name, email in JSON["emails"].items():
            status = producer.status(str(email["_id"]))
            assert status is not None, name
            assert (status.status, status.reason) == (email["status"], email.get("reason")), name
            assert len(status.attempts) == len(email["attempts"]), name
    for email_id, each in bench.store.read(list(NAMES)).items():
        assert each.email.to_mapping() == JSON["emails"][NAMES[email_id]]["email"]
        assert each.snapshot().unknowns == JSON["emails"][NAMES[email_id]]["unknowns"]
    assert len(states(stored)) == len(NAMES)


def test_a_key_stands_for_the_same_email_as_before(
    stored: Collection[Document], bench: Bench, config: Config
) -> None:
    before: Document = JSON["emails"]["sent"]
    mail: EmailDict = before["email"]
    with Producer(config) as producer:
        assert producer.send(mail, idempotency_key="order-2") == str(before["_id"])
        with pytest.raises(InvalidEmail, match="idempotency_key"):
            producer.send({**mail, "subject": "another"}, idempotency_key="order-2")
    assert len(states(stored)) == len(NAMES)


def test_what_waited_is_sent_and_what_was_being_sent_is_rescued(
    stored: Collection[Document], bench: Bench, config: Config
) -> None:
    work(bench, config, stored)
    expected = {name: email["status"] for name, email in JSON["emails"].items()}
    assert states(stored) == expected | {name: status for name, (status, _) in ENDS.items()}
    asked = [attempt.email_id for vendor in bench.vendors.values() for attempt in vendor.asked]
    calls = Counter(NAMES[ObjectId(email_id)] for email_id in asked)
    assert calls == Counter({name: times for name, (_, times) in ENDS.items()})
    assert clean(bench)


def test_what_was_decided_before_holds(
    stored: Collection[Document], bench: Bench, config: Config
) -> None:
    """A pin and its key, a vendor that refused, the recipients who wait, a suspended vendor."""
    work(bench, config, stored)
    asked = {
        (name, NAMES[ObjectId(attempt.email_id)]): attempt
        for name, vendor in bench.vendors.items()
        for attempt in vendor.asked
    }
    pinned = JSON["emails"]["queued, pinned"]
    assert asked["first", "queued, pinned"].key == pinned["pin"]["key"]
    sending = JSON["emails"]["sending with a key"]
    assert asked["first", "sending with a key"].key == str(sending["_id"])
    assert ("first", "queued, unsuitable at first") not in asked
    (pending,) = [attempt for (_, name), attempt in asked.items() if name == "queued, pending"]
    assert pending.recipients == ("cee@example.org",)
    assert bench.vendors["third"].asked == []
    assert bench.vendors["second"].asked  # its time was over: a probe


def test_a_lease_that_holds_is_left_to_the_worker_that_has_it(
    config: Config, bench: Bench, mongo_client: MongoClient[Document], emails: Collection[Document]
) -> None:
    """So is the lease of the sweeper."""
    store_again(config, mongo_client, timedelta(0))
    assert bench.sweeper.sweep() == {}
    with workbench.beanstalk(config) as tube:
        for email_id, name in NAMES.items():
            if name.startswith("sending"):
                tube.put(str(email_id).encode())
    bench.work()
    assert bench.asked == 0
    assert states(emails) == {name: email["status"] for name, email in JSON["emails"].items()}
    assert clean(bench)


def test_a_person_may_retry_what_failed_or_is_uncertain(
    stored: Collection[Document], bench: Bench, config: Config
) -> None:
    names = ["failed", "failed, refused by all", "uncertain", "uncertain, cancelled"]
    chosen = [JSON["emails"][name]["_id"] for name in names]
    assert bench.store.intervene(chosen, Verb.RETRY, ids.new()) == set(chosen)
    workbench.put(config, *chosen)
    work(bench, config, stored)
    assert {states(stored)[name] for name in names} == {"sent"}
    assert clean(bench)
