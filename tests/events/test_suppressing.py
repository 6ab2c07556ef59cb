"""What vendors' events enter into the suppression list, and what they take back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.errors import StoreUnavailable
from mailqueue.events import EventStore
from mailqueue.message import EmailDict
from mailqueue.producer import Producer
from mailqueue.store.document import SIMULATED
from mailqueue.store.store import Store
from mailqueue.vendors.events.source import EventType, VendorEvent
from tests.events.cases import CASES
from tests.integration.bench import Bench, failing

Document = dict[str, Any]
AT = datetime(2026, 5, 28, 20, 26, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
ANN, BOB = "ann@example.net", "bob@example.net"
BOUNCE = VendorEvent(
    key="b1",
    type=EventType.BOUNCED_HARD,
    at=AT,
    recipient="Ann@Example.NET",
    suppress="bounced",
)
OWN_LIST = replace(BOUNCE, key="o1", type=EventType.REJECTED, by_vendor_list=True)
LIFT = VendorEvent(
    key="l1", type=EventType.RESUBSCRIBED, at=LATER, recipient="ann@example.net", lift=True
)
NO_REASON = [
    replace(BOUNCE, key="s1", type=EventType.BOUNCED_SOFT, suppress=None),
    replace(BOUNCE, key="s2", type=EventType.REJECTED, suppress=None),
    replace(BOUNCE, key="s3", recipient=None),
    replace(BOUNCE, key="s4", recipient="no address"),
    replace(BOUNCE, key="s5", recipient="\ud800@example.net"),
    OWN_LIST,
]


@pytest.fixture
def config_mapping(config_mapping: Document) -> Document:
    return {**config_mapping, "suppression": {}}


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    made = Store(config.mongodb, env=SIMULATED)
    made.ensure_indexes()
    yield made
    made.close()


@pytest.fixture
def event_store(config: Config, store: Store) -> EventStore:
    return EventStore(config, store)


@pytest.fixture
def entries(config: Config, mongo_client: MongoClient[Document]) -> Collection[Document]:
    """The list as it is stored."""
    return mongo_client[config.mongodb.database][f"{config.mongodb.collection}.suppressed"]


def test_a_hard_bounce_enters_the_address_also_without_an_email_of_ours(
    event_store: EventStore, entries: Collection[Document]
) -> None:
    event_store.record("first", [BOUNCE])
    assert list(entries.find()) == [
        {"_id": ANN, "reason": "bounced", "source": "first", "at": AT, "until": None}
    ]


@pytest.mark.parametrize("event", NO_REASON, ids=lambda event: event.key)
def test_what_is_no_reason_enters_nobody(
    event_store: EventStore, entries: Collection[Document], event: VendorEvent
) -> None:
    event_store.record("first", [event])
    assert list(entries.find()) == []


@pytest.mark.parametrize("type_", CASES)
def test_of_each_vendors_events_only_these_enter_anybody(
    event_store: EventStore, entries: Collection[Document], type_: str
) -> None:
    """Not a soft bounce, a block of the content or the sender, nor the vendor's global list."""
    case, source = CASES[type_], CASES[type_].source()
    types = set()
    for sample in case.samples:
        entries.delete_many({})
        event_store.record(type_, source.read(case.authentic(sample.event)))
        if entries.count_documents({}):
            types.add(sample.type)
    assert EventType.BOUNCED_HARD in types
    bad_address = {EventType.REJECTED} if type_ == "postmark" else set()
    reasons = {EventType.BOUNCED_HARD, EventType.COMPLAINED, EventType.UNSUBSCRIBED}
    assert types <= reasons | bad_address


def test_a_vendors_own_list_counts_where_that_is_configured(
    config: Config, store: Store, entries: Collection[Document]
) -> None:
    events = EventStore(config.replace(suppression={"vendor_lists": True}), store)
    events.record("first", [OWN_LIST])
    assert entries.count_documents({"_id": ANN}) == 1


def test_without_the_section_nothing_is_entered(
    config: Config, store: Store, entries: Collection[Document]
) -> None:
    EventStore(config.replace(suppression=None), store).record("first", [BOUNCE, LIFT])
    assert entries.database.list_collection_names(filter={"name": entries.name}) == []


def test_a_vendor_takes_back_what_it_reported_and_nothing_else(
    event_store: EventStore, entries: Collection[Document]
) -> None:
    event_store.record("first", [BOUNCE, replace(BOUNCE, key="b2", recipient=BOB)])
    event_store.record("second", [BOUNCE])
    event_store.record("first", [LIFT])
    assert {d["_id"]: d["source"] for d in entries.find()} == {ANN: "second", BOB: "first"}


def test_copies_of_events_change_nothing_also_of_one_that_was_taken_back(
    event_store: EventStore, entries: Collection[Document]
) -> None:
    event_store.record("first", [BOUNCE])
    event_store.record("first", [LIFT])
    for _ in range(10):
        event_store.record("first", [BOUNCE])
    assert entries.count_documents({}) == 0
    again = replace(BOUNCE, key="b3", at=LATER + timedelta(seconds=1))
    event_store.record("first", [again])
    for _ in range(10):
        event_store.record("first", [LIFT, BOUNCE])
    assert entries.count_documents({}) == 1


def test_the_order_of_events_in_a_request_does_not_matter(
    event_store: EventStore, entries: Collection[Document]
) -> None:
    other = replace(BOUNCE, key="c1", type=EventType.COMPLAINED, suppress="complained", at=LATER)
    later = replace(other, at=LATER + timedelta(minutes=1))
    for number, order in enumerate(permutations([BOUNCE, LIFT, later])):
        entries.delete_many({})
        event_store.record(
            "first", [replace(event, key=f"{event.key}-{number}") for event in order]
        )
        assert [document["reason"] for document in entries.find()] == ["complained"]


@pytest.mark.parametrize("command", ["find", "insert", "update"])
def test_a_request_that_fails_at_any_step_is_repeated_and_comes_to_the_same(
    event_store: EventStore,
    entries: Collection[Document],
    mongo_client: MongoClient[Document],
    command: str,
) -> None:
    event_store.record("second", [BOUNCE])  # so that a report is brought together with another
    for collection in (entries.full_name, entries.full_name.replace("suppressed", "events")):
        how = {"errorCode": 8000, "namespace": collection, "mode": {"times": 1}}
        with failing(mongo_client, command, **how):
            try:
                event_store.record("first", [BOUNCE])
            except StoreUnavailable:
                event_store.record("first", [BOUNCE])
        (document,) = entries.find()
        assert (document["source"], [o["source"] for o in document["others"]]) == (
            "second",
            ["first"],
        )
        event_store._events.delete_many({"vendor": "first"})


def test_a_hard_bounce_at_one_vendor_stops_the_other_and_the_list_outlives_all(
    config: Config, event_store: EventStore, entries: Collection[Document]
) -> None:
    """The other recipient gets the e-mail."""
    bench = Bench(config)
    email: EmailDict = {"from": "a@example.com", "to": [ANN, BOB], "text": "Hello"}
    with Producer(config) as producer:
        first = producer.send({**email, "to": ANN})
        bench.work()
        (vendor,) = [name for name, each in bench.vendors.items() if each.asked]
        event_store.record(vendor, [replace(BOUNCE, email_id=first)])
        ids = [producer.send({**email, "to": ANN}), producer.send(email)]
        bench.work()
        statuses = [producer.status(email_id) for email_id in ids]
        assert [s and (s.status, s.reason, s.refused) for s in statuses] == [
            ("failed", "suppressed", (ANN,)),
            ("sent", None, (ANN,)),
        ]
        assert sum(len(each.asked) for each in bench.vendors.values()) == 2
        long_ago = datetime(2020, 1, 1, tzinfo=UTC)
        everything = {"_id": {"$in": [ObjectId(each) for each in (first, *ids)]}}
        bench.store.emails.update_many(everything, {"$set": {"updated_at": long_ago}})
        bench.sweeper.run_once()
        event_store._events.delete_many({})  # as MongoDB does by itself
        assert bench.store.emails.count_documents({}) == 0
    assert entries.count_documents({"_id": ANN}) == 1
    bench.close()
