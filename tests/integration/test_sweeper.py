"""The sweeper on real servers: what fell through is found, and only that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.config.rates import Rate
from mailqueue.consumer import sweeper
from mailqueue.consumer.sweeper import active_queue
from mailqueue.errors import StoreUnavailable
from mailqueue.producer import Priority, Producer
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.queue.broker import Announcement
from mailqueue.store.document import PRODUCTION, Stored
from tests.integration.bench import (
    MAIL,
    OTHER_MAIL,
    Bench,
    Document,
    beanstalk,
    emptied,
    failing,
    mails,
    next_delayed,
    object_ids,
    put,
    ready,
    ready_ids,
)
from tests.servers import BreakableBeanstalkd

NOBODY = "127.0.0.1:1"
DAY = 86_400


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def the(emails: Collection[Document]) -> Document:
    (found,) = emails.find()
    return found


def aged(emails: Collection[Document], seconds: float, **match: Any) -> None:
    """Write the dates back, as if everything had been done so much earlier."""
    dates = ("created_at", "updated_at", "clock_from", "due_at", "overdue_at", "announced.at")
    for date in dates:
        earlier = {"$subtract": [f"${date}", seconds * 1000]}
        emails.update_many({**match, date: {"$type": "date"}}, [{"$set": {date: earlier}}])


def ids_of(emails: Collection[Document], **match: Any) -> list[str]:
    return sorted(map(str, emails.distinct("_id", match)))


@pytest.fixture
def other(config: Config) -> Iterator[Bench]:
    """Another consumer."""
    made = Bench(config)
    yield made
    made.close()


def leased(bench: Bench, producer: Producer, emails: Collection[Document], n: int = 1) -> list[str]:
    """E-mails whose sender died: claimed, the job gone, the lease over."""
    ids = producer.send_many(mails(n))
    bench.take()
    bench.tube.close()
    emptied(bench.config)
    emails.update_many({"status": "sending"}, {"$set": {"lease.until": ago(1)}})
    return ids


# The relay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 150])
def test_what_is_stored_but_not_on_the_tube_is_there_after_one_sweep(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document], n: int
) -> None:
    ids = producer.send_many(mails(n))
    emptied(config)
    assert bench.sweeper.sweep()["announced"] == n
    assert sorted(ready_ids(config)) == sorted(ids)
    assert emails.count_documents({"announced.n": 1}) == n


def test_after_a_restart_of_a_tube_without_a_binlog_everything_is_announced_again(
    config: Config, emails: Collection[Document]
) -> None:
    with BreakableBeanstalkd(binlog=False) as own:
        there = config.replace(beanstalkd=replace(config.beanstalkd, servers=(own.address,)))
        with Producer(there) as producer:
            ids = producer.send_many(mails(20))
        own.restart()
        bench = Bench(there)
        bench.sweeper.sweep()
        assert sorted(ready_ids(there)) == sorted(ids)
        bench.close()


def test_an_email_whose_put_was_lost_is_found(
    bench: Bench, producer: Producer, config: Config
) -> None:
    alone = Producer(config.replace(beanstalkd=replace(config.beanstalkd, servers=(NOBODY,))))
    lost = [alone.send(MAIL) for _ in range(3)]
    alone.close()
    there = producer.send_many(mails(5))
    bench.sweeper.sweep()
    assert set(lost) <= set(ready_ids(config))
    assert set(ready_ids(config)) == {*lost, *there}


def test_a_long_queue_that_is_on_the_tube_is_not_announced_again(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send_many(mails(300))
    aged(emails, 600)
    assert bench.sweeper.sweep()["announced"] == 0
    assert len(ready(config)) == 300


def test_what_waits_on_the_tube_for_a_send_time_is_not_announced_again_and_what_is_lost_is(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    """It is due, but its job is delayed. Beside it one is due later and has its job, too."""
    limited = [replace(vendor, rate=Rate(per_second=1)) for vendor in config.vendors]
    bench.sweeper.rules = config.replace(vendors=limited), bench.routing
    producer.send_many(mails(20))
    producer.send(OTHER_MAIL, send_at=ago(-3600))
    aged(emails, 5)
    with beanstalk(config) as client:
        for _ in range(20):
            client.release(client.reserve(timeout=0), delay=600)
    assert bench.sweeper.sweep()["announced"] == 0
    lost = producer.send(MAIL)
    aged(emails, 5, _id=ObjectId(lost))
    with beanstalk(config) as client:
        client.delete(client.reserve(timeout=0))
    bench.sweeper.sweep()
    assert lost in ready_ids(config)


def test_a_second_job_that_is_delayed_does_not_stand_for_one_that_is_lost(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    """As that of an e-mail that was being sent by another when it came: for as long as a lease."""
    producer.send_many(mails(20))
    emptied(config)
    put(config, *[ObjectId() for _ in range(20)])
    with beanstalk(config) as client:
        for _ in range(20):
            client.release(client.reserve(timeout=0), delay=600)
    aged(emails, 5)
    assert bench.sweeper.sweep()["announced"] == 20


def test_what_is_being_sent_is_not_mistaken_for_a_lost_job(
    bench: Bench, other: Bench, producer: Producer
) -> None:
    producer.send_many(mails(20))
    bench.take()
    assert other.sweeper.sweep()["announced"] == 0


def test_what_was_just_announced_is_not_announced_again(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    """Until a minute later, should it still be missing."""
    producer.send(MAIL)
    emptied(config)
    assert bench.sweeper.sweep()["announced"] == 1
    emptied(config)
    assert bench.sweeper.sweep()["announced"] == 0
    aged(emails, 61)
    assert bench.sweeper.sweep()["announced"] == 1
    assert the(emails)["announced"]["n"] == 2


def test_an_announced_job_has_the_priority_of_its_class_or_of_a_retry(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    classes: tuple[Priority, ...] = ("high", "normal", "bulk")
    new = {p: producer.send(MAIL, priority=p) for p in classes}
    again = {p: producer.send(MAIL, priority=p) for p in classes}
    line = {"n": 1, "token": 0, "vendor": "first", "outcome": "deferred"}
    tried = {"_id": {"$in": object_ids(again.values())}}
    emails.update_many(tried, {"$set": {"attempts": [line]}})
    emptied(config)
    bench.sweeper.sweep()
    assert [(job.body, job.priority) for job in ready(config)] == [
        (again["high"], 512),
        (new["high"], 2048),
        (again["normal"], 32_768),
        (new["normal"], 65_536),
        (again["bulk"], 524_288),
        (new["bulk"], 1_048_576),
    ]


def test_what_is_not_due_or_not_ours_is_not_announced(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send(MAIL, send_at=ago(-3600))
    theirs = producer.send(MAIL)
    emails.update_one({"_id": ObjectId(theirs)}, {"$set": {"env": PRODUCTION}})
    done = producer.send(MAIL)
    emails.update_one({"_id": ObjectId(done)}, {"$set": {"status": "sent"}})
    emptied(config)
    aged(emails, 60)
    bench.sweeper.sweep()
    assert ready(config) == []


def test_what_has_come_due_is_announced(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL, send_at=ago(-3600))
    emptied(config)
    aged(emails, 3610)
    bench.sweeper.sweep()
    assert ready_ids(config) == [email_id]


def test_the_longest_due_comes_first_when_there_is_more_than_a_page(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send_many(mails(1050))
    emptied(config)
    assert bench.sweeper.sweep()["announced"] == 1050, "one round is enough for many pages"
    assert ready_ids(config) == sorted(map(str, emails.distinct("_id")))


@pytest.mark.parametrize(
    "priority, announced, waited, expected",
    [
        ("high", 0, 50, 0),
        ("high", 0, 70, 1),
        ("high", 1, 70, 0),
        ("high", 1, 250, 1),
        ("high", 4, 60 * 4**4 + 10, 1),
        ("high", 5, 10 * DAY, 0),
        ("normal", 0, 70, 0),
        ("normal", 0, 910, 1),
        ("bulk", 1, 3590, 0),
        ("bulk", 1, 3610, 1),
    ],
)
def test_an_overdue_email_is_announced_again_ever_more_rarely_whatever_the_depth(
    bench: Bench,
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    priority: Priority,
    announced: int,
    waited: int,
    expected: int,
) -> None:
    email_id = producer.send(MAIL, priority=priority)
    if announced:
        past: Document = {"announced": {"at": ago(0), "n": announced}}
        base = 60 if priority == "high" else 900
        past["overdue_at"] = ago(-base * 4**announced)
        emails.update_one({}, {"$set": past} if announced < 5 else {"$unset": {"overdue_at": 1}})
    aged(emails, waited)
    assert bench.sweeper.sweep()["announced"] == expected
    assert ready_ids(config) == [email_id] * (1 + expected)


def test_an_email_for_later_is_overdue_from_its_time_on_not_from_its_creation(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send(MAIL, send_at=ago(-100))
    aged(emails, 200)
    emptied(config)
    with beanstalk(config) as client:
        client.put(str(ObjectId()).encode())
    assert bench.sweeper.sweep()["announced"] == 0
    aged(emails, 810)
    assert bench.sweeper.sweep()["announced"] == 1


def test_the_first_page_of_the_overdue_does_not_keep_the_rest_from_its_turn(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send_many(mails(150))
    aged(emails, 1000)
    announced = [bench.sweeper.sweep()["announced"] for _ in range(3)]
    assert announced == [100, 50, 0]
    assert emails.count_documents({"announced.n": 1}) == 150


def test_a_queue_that_takes_no_jobs_is_tried_once_in_a_round(
    bench: Bench,
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    producer.send_many(mails(4))
    emptied(config)
    aged(emails, 5)
    looks: list[dict[str, int]] = []

    class Full:
        """A queue that answers, and whose memory is full."""

        def depth(self) -> dict[str, int]:
            looks.append({"ready": 0, "reserved": 0, "delayed": 0})
            return looks[-1]

        def announce(self, _: Sequence[Announcement]) -> Sequence[Announcement]:
            return ()

    monkeypatch.setattr(bench.sweeper, "_broker", Full())
    monkeypatch.setattr(sweeper, "RELAYED_MOST", 2)
    assert bench.sweeper.sweep()["announced"] == 0
    assert len(looks) == 1
    assert emails.count_documents({"announced": {"$ne": None}}) == 0


def test_without_beanstalkd_the_rest_of_the_round_is_done(
    config: Config, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    emails.update_one({}, {"$set": {"expires_at": ago(1)}})
    bench = Bench(config.replace(beanstalkd=replace(config.beanstalkd, servers=(NOBODY,))))
    assert bench.sweeper.sweep() == {"rescued": 0, "expired": 1, "pruned": 0}
    bench.close()


# Leases that ran out ----------------------------------------------------------------------------


def test_an_expired_lease_is_an_unknown_and_the_email_is_resent(
    bench: Bench, other: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    (email_id,) = leased(bench, producer, emails)
    assert other.sweeper.sweep()["rescued"] == 1
    found = the(emails)
    assert (found["status"], found["unknowns"], found["counted"]) == ("queued", 1, 1)
    (line,) = found["attempts"]
    assert (line["outcome"], line["code"], line["answered"]) == ("unknown", "lease_expired", False)
    assert [(job.body, job.priority) for job in ready(config)] == [(email_id, 32_768)]
    assert all(health.available for health in other.board.read().values())


def test_a_second_unknown_parks_the_email_for_a_person(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    leased(bench, producer, emails)
    emails.update_one({}, {"$set": {"unknowns": 1}})
    bench.sweeper.sweep()
    assert (the(emails)["status"], the(emails)["reason"]) == ("uncertain", "unknown")


def test_under_park_the_first_unknown_is_enough(
    config: Config, producer: Producer, emails: Collection[Document]
) -> None:
    parking = Bench(config.replace(delivery=replace(config.delivery, on_unknown="park")))
    leased(parking, producer, emails)
    parking.sweeper.sweep()
    assert the(emails)["status"] == "uncertain"
    assert ready(config) == []
    parking.close()


def test_an_expired_lease_with_a_late_yes_is_sent(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    leased(bench, producer, emails)
    yes = {"vendor": "second", "message_id": "late-id", "token": 0, "at": ago(5)}
    emails.update_one({}, {"$set": {"late_accept": yes}})
    bench.sweeper.sweep()
    found = the(emails)
    assert (found["status"], found["vendor"], found["vendor_message_id"]) == (
        "sent",
        "second",
        "late-id",
    )
    bench.sweeper.sweep()
    assert the(emails)["status"] == "sent"


def test_a_lease_that_still_runs_is_not_touched(
    bench: Bench, other: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    bench.take()
    before = the(emails)
    assert other.sweeper.sweep()["rescued"] == 0
    assert the(emails) == before


def test_a_rescuer_is_not_held_up_by_what_it_cannot_rescue(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    """A page of another kind's e-mails, and one of unreadable ones, come first."""
    ids = object_ids(producer.send_many(mails(251)))
    dead = {"status": "sending", "lease": {"token": 1, "owner": "dead", "until": ago(1)}}
    emails.update_many({}, {"$set": dead})
    emails.update_many({"_id": {"$in": ids[:150]}}, {"$set": {"env": PRODUCTION}})
    emails.update_many({"_id": {"$in": ids[150:250]}}, {"$set": {"email": {"nonsense": 1}}})
    assert bench.sweeper.sweep()["rescued"] == 1
    assert emails.distinct("_id", {"status": "queued"}) == ids[250:]


def test_many_expired_leases_are_rescued_in_one_round(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    ids = producer.send_many(mails(250))
    emptied(config)
    dead = {"status": "sending", "lease": {"token": 1, "owner": "dead", "until": ago(1)}}
    emails.update_many({}, {"$set": dead})
    assert bench.sweeper.sweep()["rescued"] == 250
    assert ids_of(emails, status="queued", unknowns=1) == sorted(ids)
    assert sorted(ready_ids(config)) == sorted(ids)


def test_a_lease_that_is_settled_just_before_its_rescue_is_no_trouble(
    bench: Bench, producer: Producer, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    leased(bench, producer, emails)
    read = bench.store.read

    def settled_first(ids: Sequence[ObjectId], most: int) -> dict[ObjectId, Stored]:
        emails.update_many(
            {}, {"$set": {"status": "sent", "lease": {"token": 1, "until": ago(-9)}}}
        )
        return read(ids, most=most)

    monkeypatch.setattr(bench.store, "read", settled_first)
    assert bench.sweeper.sweep()["rescued"] == 0
    assert the(emails)["status"] == "sent"


# Expiry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, status",
    [
        ({}, "failed"),
        ({"unknowns": 1}, "uncertain"),
        ({"pin": {"vendor": "first", "key": "k", "until": ago(0), "repeats": 0}}, "uncertain"),
        ({"pending": ["bob@example.org"]}, "sent"),
    ],
)
def test_what_has_expired_is_ended_truthfully(
    bench: Bench, producer: Producer, emails: Collection[Document], fields: Document, status: str
) -> None:
    producer.send(MAIL, expires_at=ago(-3600))
    assert bench.sweeper.sweep()["expired"] == 0
    emails.update_one({}, {"$set": {"expires_at": ago(1), **fields}})
    assert bench.sweeper.sweep()["expired"] == 1
    assert the(emails)["status"] == status
    assert the(emails).get("reason") == (None if status == "sent" else "expired")


def test_all_that_has_expired_is_ended_though_others_come_first(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    ids = object_ids(producer.send_many(mails(301)))
    emails.update_many({}, {"$set": {"expires_at": ago(1)}})
    emails.update_many({"_id": {"$in": ids[:150]}}, {"$set": {"env": PRODUCTION}})
    assert bench.sweeper.sweep()["expired"] == 151
    assert emails.distinct("_id", {"status": "failed"}) == ids[150:]


# Retention --------------------------------------------------------------------------------------


def test_old_ends_are_forgotten_and_nothing_else_ever(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    keep = config.retention
    limits = {"sent": keep.sent_days, "failed": keep.failed_days, "cancelled": keep.failed_days}
    statuses = ("queued", "sending", "sent", "failed", "uncertain", "cancelled")
    old, young = ({s: producer.send(MAIL) for s in statuses} for _ in range(2))
    for status in statuses:
        for ids, margin in ((old, 1), (young, -1)):
            days = limits.get(status, 10_000) + margin
            fields = {"status": status, "updated_at": ago(days * DAY), "lease.until": ago(-60)}
            emails.update_one({"_id": ObjectId(ids[status])}, {"$set": fields})
    assert bench.sweeper.sweep()["pruned"] == 3
    forgotten = {old[status] for status in limits}
    assert ids_of(emails) == sorted({*old.values(), *young.values()} - forgotten)


def test_ends_of_the_other_kind_are_not_ours_to_forget(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    ids = object_ids(producer.send_many(mails(151)))
    emails.update_many({}, {"$set": {"status": "sent", "updated_at": ago(1000 * DAY)}})
    emails.update_many({"_id": {"$in": ids[:150]}}, {"$set": {"env": PRODUCTION}})
    assert bench.sweeper.sweep()["pruned"] == 1
    assert emails.count_documents({}) == 150


def test_a_key_can_be_used_again_when_its_email_is_forgotten(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    first = producer.send(MAIL, idempotency_key="order-1")
    emails.update_one({}, {"$set": {"status": "sent", "updated_at": ago(1000 * DAY)}})
    bench.sweeper.sweep()
    assert producer.status(first) is None
    assert producer.send(OTHER_MAIL, idempotency_key="order-1") == first
    assert emails.distinct("email.subject") == [OTHER_MAIL["subject"]]


# One at a time ----------------------------------------------------------------------------------


@pytest.fixture
def leases(config: Config, mongo_client: MongoClient[Document]) -> Collection[Document]:
    database = mongo_client[config.mongodb.database]
    return database[config.mongodb.collection + ".leases"]


def test_one_sweeper_works_at_a_time(bench: Bench, other: Bench) -> None:
    assert bench.sweeper.sweep() != {}
    assert other.sweeper.sweep() == {}
    assert bench.sweeper.sweep() != {}


def test_when_the_active_sweeper_dies_another_takes_over(
    bench: Bench, other: Bench, leases: Collection[Document]
) -> None:
    bench.sweeper.sweep()
    leases.update_many({}, {"$set": {"until": ago(1)}})
    assert other.sweeper.sweep() != {}
    assert bench.sweeper.sweep() == {}


@pytest.mark.parametrize("until", [ago(-200 * DAY), "soon", None])
def test_a_lease_until_a_time_that_no_sweeper_wrote_keeps_nobody_from_sweeping(
    until: Any, bench: Bench, other: Bench, leases: Collection[Document]
) -> None:
    """The clock of MongoDB's host was days ahead; or somebody's hand slipped."""
    bench.sweeper.sweep()
    leases.update_many({}, {"$set": {"until": until}})
    assert active_queue(other.store) is None
    assert other.sweeper.sweep() != {}
    assert active_queue(other.store) == other.config.broker.place


def test_a_sweeper_that_stops_lets_another_work_at_once(bench: Bench, other: Bench) -> None:
    bench.sweeper.sweep()
    other.sweeper.close()
    assert other.sweeper.sweep() == {}
    bench.sweeper.close()
    assert other.sweeper.sweep() != {}


def test_sweepers_of_the_two_kinds_do_not_wait_for_each_other(config: Config, bench: Bench) -> None:
    real = Bench(config, env=PRODUCTION)
    assert bench.sweeper.sweep() != {}
    assert real.sweeper.sweep() != {}
    real.close()


def test_a_sweep_without_mongodb_says_so(bench: Bench, mongo_client: MongoClient[Document]) -> None:
    bench.store.timeout = 0.3
    with failing(mongo_client, "update", closeConnection=True), pytest.raises(StoreUnavailable):
        bench.sweeper.sweep()


def test_a_rescued_email_that_has_to_wait_is_announced_with_its_delay(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    leased(bench, producer, emails)
    emails.update_one({}, {"$set": {"round.tried": ["first", "second"]}})
    bench.sweeper.sweep()
    job = next_delayed(config)
    assert job is not None
    assert job.delay == 15
    assert depth(config.beanstalkd)["ready"] == 0
