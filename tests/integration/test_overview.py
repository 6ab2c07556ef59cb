"""The state of an installation, as ``Overview`` reads it, against real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import DatetimeMS, ObjectId
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from mailqueue import Producer
from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import Status, Suspension
from mailqueue.monitoring import overview
from mailqueue.monitoring.overview import Overview
from mailqueue.producer.submission import Priority
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.rotation import Permit
from mailqueue.store.control import Control, ControlStore
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.store import Store
from tests.damage import damaged
from tests.stage import letter

Document = dict[str, Any]
LATE = timedelta(minutes=7)
DUE = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    made = Store(config.mongodb, env=SIMULATED, callbacks=config.callbacks)
    made.ensure_indexes()
    yield made
    made.close()


def change(emails: Collection[Document], ids: list[str], **fields: Any) -> None:
    emails.update_many({"_id": {"$in": list(map(ObjectId, ids))}}, {"$set": fields})


def test_an_empty_installation_has_nothing_to_say(config: Config, store: Store) -> None:
    seen = Overview.read(config, store)
    assert seen.env == SIMULATED
    assert seen.oldest_due == {"high": None, "normal": None, "bulk": None}
    assert set(seen.emails.values()) == {0}
    assert (seen.failed, seen.ended, seen.other_env) == (0, 0, 0)
    assert seen.uncertain_oldest is None
    assert [(v.name, v.available, v.probe_wait) for v in seen.vendors] == [
        ("first", True, None),
        ("second", True, None),
    ]
    assert seen.queue is not None
    assert set(seen.queue.values()) == {0}
    assert (seen.consumers, seen.callbacks, seen.controls.active) == ((), {}, {})


def test_each_class_has_its_own_oldest_due_email(
    config: Config, store: Store, producer: Producer, emails: Collection[Document]
) -> None:
    now = store.now()
    waits: list[tuple[Priority, int]] = [("bulk", 900), ("high", 61), ("high", 90)]
    for n, (priority, seconds) in enumerate(waits):
        email_id = producer.send(letter(n), priority=priority)
        change(emails, [email_id], due_at=now - timedelta(seconds=seconds))
    producer.send(letter(3), send_at=datetime.now(UTC) + timedelta(days=1))
    due = Overview.read(config, store).oldest_due
    ages = {name: oldest and round(oldest.seconds) for name, oldest in due.items()}
    assert ages == {
        "high": pytest.approx(90, abs=5),
        "normal": None,
        "bulk": pytest.approx(900, abs=5),
    }


def test_a_class_behind_too_long_a_backlog_is_left_out(
    config: Config, store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.send_many([letter(n) for n in range(5)], priority="bulk")
    producer.send(letter(9), priority="high")
    monkeypatch.setattr(overview, "WINDOW", 3)
    assert Overview.read(config, store).oldest_due.keys() == {"bulk"}
    monkeypatch.setattr(overview, "WINDOW", 10)
    due = Overview.read(config, store).oldest_due
    assert {name for name, oldest in due.items() if oldest is not None} == {"bulk", "high"}


def test_the_class_high_is_found_behind_any_backlog_by_an_index_of_its_own(
    config: Config,
    store: Store,
    producer: Producer,
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    producer.send_many([letter(n) for n in range(5)], priority="bulk")
    overview.ensure_indexes(store)
    monkeypatch.setattr(overview, "WINDOW", 3)
    assert Overview.read(config, store).oldest_due["high"] is None
    now = store.now()
    ids = producer.send_many([letter(n) for n in range(3)], priority="high")
    change(emails, ids[:1], updated_at=now - timedelta(seconds=50))
    change(emails, ids[1:2], due_at=now - timedelta(seconds=70))
    oldest = Overview.read(config, store).oldest_due["high"]
    assert oldest is not None
    assert str(oldest.id) == ids[1]
    assert oldest.seconds == pytest.approx(70, abs=5)
    change(emails, ids[1:2], due_at=now + timedelta(seconds=70))
    oldest = Overview.read(config, store).oldest_due["high"]
    assert oldest is not None
    assert str(oldest.id) == ids[0]


def test_keys_hide_no_other_emails_from_a_look_at_the_first(
    config: Config, store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id of an e-mail with a key sorts anywhere."""
    for n in range(20):
        producer.send(letter(n), priority="bulk", idempotency_key=f"key-{n}")
    producer.send(letter(20), priority="high")
    monkeypatch.setattr(overview, "WINDOW", 4)
    assert Overview.read(config, store).oldest_due.keys() == {"bulk", "high"}


def test_emails_are_counted_by_status_and_what_ended_within_a_day(
    config: Config, store: Store, producer: Producer, emails: Collection[Document]
) -> None:
    """An e-mail that failed since all its recipients are suppressed is no mishap."""
    ids = producer.send_many([letter(n) for n in range(7)])
    now = store.now()
    change(emails, ids[:2], status="failed", updated_at=now)
    change(emails, ids[6:], status="failed", updated_at=now, reason="suppressed")
    change(emails, ids[2:3], status="failed", updated_at=now - timedelta(days=2))
    change(emails, ids[3:4], status="sent", updated_at=now)
    change(emails, ids[4:5], status="uncertain", updated_at=now - LATE)
    change(emails, ids[5:6], env=PRODUCTION)
    seen = Overview.read(config, store)
    assert {s: n for s, n in seen.emails.items() if n} == {"failed": 4, "sent": 1, "uncertain": 1}
    assert (seen.failed, seen.ended, seen.other_env) == (2, 3, 1)
    assert seen.uncertain_oldest is not None
    assert str(seen.uncertain_oldest.id) == ids[4]
    assert seen.uncertain_oldest.seconds == pytest.approx(LATE.total_seconds(), abs=5)


def test_a_number_that_is_too_large_to_count_is_an_estimate(
    config: Config,
    store: Store,
    producer: Producer,
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = producer.send_many([letter(n) for n in range(9)])
    change(emails, ids[:5], status="sent")
    change(emails, ids[5:6], env=PRODUCTION)
    monkeypatch.setattr(overview, "ENDED", 4)
    seen = Overview.read(config, store)
    assert seen.emails[Status.SENT] == 5
    assert seen.estimated == {Status.SENT}


def test_a_vendor_is_shown_with_its_state_and_what_operators_did(
    config: Config, store: Store
) -> None:
    health = VendorHealth(store, ["first"], env=SIMULATED)
    health.report(Permit("first", 0), Suspension(seconds=600.0, reason="unavailable 503"))
    ControlStore(store).begin(Control("drain", "second", by="ann@ops", reason="too slow"))
    first, second = Overview.read(config, store).vendors
    assert (first.available, first.reason, first.drained) == (False, "unavailable 503", None)
    assert first.until is not None
    assert first.since is not None
    assert (first.until - first.since).total_seconds() == pytest.approx(600, abs=1)
    assert first.probe_wait == pytest.approx(600, abs=5)
    assert second.drained is not None
    assert (second.available, second.drained.by) == (True, "ann@ops")
    health = VendorHealth(store, ["second"], env=SIMULATED)
    health.report(Permit("second", 0), Suspension(seconds=600.0, reason="unavailable 503"))
    for vendor in Overview.read(config, store).vendors:  # no vendor is left: probes come early
        assert vendor.probe_wait is not None
        assert vendor.probe_wait < 60


def test_who_only_looks_writes_nothing(
    config: Config, store: Store, emails: Collection[Document], caplog: pytest.LogCaptureFixture
) -> None:
    ControlStore(store).begin(Control("all", by="ann@ops"))
    vendors = store.collection(".vendors.simulated")
    vendors.insert_one({"_id": "first", "generation": "damaged"})
    before = list(vendors.find())
    caplog.clear()
    seen = Overview.read(config, store)
    assert seen.controls.everything
    assert all(vendor.available for vendor in seen.vendors)
    assert list(vendors.find()) == before
    assert caplog.messages == []


def test_damaged_emails_hide_no_other(
    config: Config, store: Store, emails: Collection[Document]
) -> None:
    producer = Producer(config)
    due = producer.send(letter(1), priority="high")
    producer.close()
    (sound,) = emails.find()
    fields = "priority", "due_at", "updated_at", "created_at"
    with suppress(BulkWriteError):  # what an index does not take
        emails.insert_many([each for _, each in damaged(sound, *fields)], ordered=False)
    oldest = Overview.read(config, store).oldest_due["high"]
    assert oldest is not None
    assert emails.count_documents({}) > 80
    emails.delete_many({"_id": {"$ne": sound["_id"]}})
    oldest = Overview.read(config, store).oldest_due["high"]
    assert oldest is not None
    assert str(oldest.id) == due


@pytest.mark.parametrize(
    "damage",
    [
        {"due_at": DUE},
        [{"due_at": DatetimeMS(-(2**62))}],
        [{"due_at": [DUE]}],
        ["x", None, {"due_at": DUE}],
    ],
)
def test_damaged_callbacks_are_due_all_the_same(
    config: Config, store: Store, emails: Collection[Document], damage: Any
) -> None:
    overview.ensure_indexes(store)
    emails.insert_one({"env": SIMULATED, "callbacks": damage})
    seen = Overview.read(config, store)
    assert seen.callbacks["due"] == 1
    assert seen.callback_oldest is not None


def test_the_limits_of_a_vendor_are_shown(config_mapping: Document, store: Store) -> None:
    config_mapping["vendors"][0]["rate"] = {"per_second": 1, "per_day": 10}
    config = Config.from_mapping(config_mapping)
    first, second = Overview.read(config, store).vendors
    assert (first.rate_wait, second.rate_wait) == (0.0, None)
    assert (first.budgets["day"].used, first.budgets["day"].limit) == (0, 10)


def test_a_time_before_all_times_hides_no_email_that_is_late(
    config: Config, store: Store, producer: Producer, emails: Collection[Document]
) -> None:
    broken, late = producer.send_many([letter(1), letter(2)])
    change(emails, [broken], updated_at=DatetimeMS(-(2**62)))
    change(emails, [late], updated_at=datetime.now(UTC) - LATE)
    oldest = Overview.read(config, store).oldest_due["normal"]
    assert oldest is not None
    assert str(oldest.id) == late


def test_a_queue_that_is_away_hides_nothing_else(config: Config, store: Store) -> None:
    away = replace(config.beanstalkd, servers=("127.0.0.1:1",))
    seen = Overview.read(config.replace(beanstalkd=away), store)
    assert seen.queue is None
    assert seen.queue_error == "beanstalkd: ConnectionRefusedError"
    assert seen.emails[Status.QUEUED] == 0


def test_callbacks_that_nobody_posts_are_counted_too(
    config: Config, store: Store, producer: Producer, emails: Collection[Document]
) -> None:
    """No responder has made the indexes by which they are found: the metrics make them."""
    ids = producer.send_many([letter(n) for n in range(6)])
    now = store.now()
    change(emails, ids[:3], callbacks=[{"state": "due", "due_at": now}])
    change(emails, ids[3:5], callbacks=[{"state": "delivered"}, {"state": "failed"}])
    seen = Overview.read(config, store)
    assert (seen.callbacks, seen.callback_oldest) == ({}, None)
    since = now - LATE
    change(emails, ids[4:], status="sent", updated_at=now - 2 * LATE)
    change(emails, ids[5:], callbacks=[{"state": "due", "due_at": since}])
    seen = Overview.read(config, store)
    assert seen.callbacks == {}
    assert seen.callback_oldest is not None
    assert (str(seen.callback_oldest.id), seen.callback_oldest.since) == (ids[5], since)
    overview.ensure_indexes(store)
    assert Overview.read(config, store).callbacks == {"due": 4, "failed": 2, "gone": 0}
