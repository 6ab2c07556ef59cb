"""Heartbeats and counters of consumers, over a real MongoDB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect
from pymongo.monitoring import CommandListener

from mailqueue import __version__
from mailqueue.config import Config
from mailqueue.consumer import Consumer, reporter
from mailqueue.consumer import consumer as consumers
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.store import mongo
from mailqueue.store.document import PRODUCTION
from mailqueue.store.ledger import NOT_STARTED
from mailqueue.store.stats import Counts, Heartbeat, Stats, Tally
from mailqueue.store.store import Store
from tests.damage import MARK, damaged, undecodable
from tests.faults.conftest import consuming
from tests.stage import DOWN, Stage
from tests.waiting import wait_until

Document = dict[str, Any]
MINUTE = datetime(2026, 11, 27, 10, 16, tzinfo=UTC)
OUTCOMES = {"accepted": {"seconds": 1.5, "counts": {"le_100": 3}}}
ME = Heartbeat("web-1:7:x", 3, "1.0", PRODUCTION, ("ses",))


@pytest.fixture
def stats(config: Config) -> Iterator[Stats]:
    store = Store(config.mongodb, env=PRODUCTION, callbacks=None)
    yield Stats(store, PRODUCTION)
    store.close()


def counts(number: int = 1, outcome: str = "accepted", minute: datetime = MINUTE) -> Counts:
    return Counts(minute, {("ses", outcome): Tally.over([0.07] * number)})


def numbers(stats: Stats) -> dict[tuple[str, str], int]:
    return {kind: tally.number for kind, tally in stats.totals().items()}


class Heard(CommandListener):
    """The commands to the heartbeats' collection that write."""

    def __init__(self) -> None:
        self.verbs: list[str] = []

    def started(self, event: Any) -> None:
        verb = event.command_name
        if str(event.command.get(verb)).endswith(".stats") and verb in ("update", "delete"):
            self.verbs.append(verb)

    def succeeded(self, event: Any) -> None:
        """Nothing to note."""

    def failed(self, event: Any) -> None:
        """The same."""


# --- a consumer


def test_a_consumer_is_there_as_soon_as_it_runs_and_gone_when_it_has_stopped(
    stage: Stage, stats: Stats
) -> None:
    stage.vendor("first"), stage.vendor("second")
    with consuming(stage):
        (beat,) = wait_until(stats.consumers, what="a heartbeat")
    assert (beat.env, beat.version) == (PRODUCTION, __version__)
    assert beat.vendors == ("first", "second")
    assert beat.in_flight == 0
    assert stats.consumers() == []


def test_a_consumer_that_was_killed_is_there_for_a_minute(stats: Stats) -> None:
    stats.write(ME, [])
    assert [(beat.owner, beat.in_flight) for beat in stats.consumers()] == [(ME.owner, 3)]
    minute_ago = datetime.now(UTC) - timedelta(seconds=61)
    stats.collection.update_one({}, {"$set": {"at": minute_ago}})
    assert stats.consumers() == []
    assert [beat.host for beat in stats.consumers(within=90)] == ["web-1"]


def test_heartbeats_and_minutes_are_removed_after_a_day(stage: Stage, stats: Stats) -> None:
    stage.vendor("first")
    with consuming(stage):
        wait_until(stats.consumers, what="a heartbeat")
    indexes = stats.collection.index_information()
    assert indexes["at_1"]["expireAfterSeconds"] == 86_400


def test_each_attempt_is_counted_by_vendor_and_outcome(stage: Stage, stats: Stats) -> None:
    first, second = stage.vendor("first"), stage.vendor("second")
    first.reply = DOWN
    with consuming(stage):
        ids = stage.send(20)
        wait_until(lambda: stage.statuses() == {"sent": 20}, what="all sent")
    totals = stats.totals()
    outcomes = Counter(line for email_id in ids for line in stage.outcomes(email_id))
    # A claim that was given back, as the first vendor became unavailable, was no attempt.
    asked = {kind: number for kind, number in outcomes.items() if kind[1] != NOT_STARTED}
    assert {kind: tally.number for kind, tally in totals.items()} == asked
    assert outcomes["second", "accepted"] == 20
    assert totals["second", "accepted"].seconds > 0
    (minute,) = stats.minutes(datetime.now(UTC) - timedelta(minutes=2))[-1:]
    assert ("second", "accepted") in minute.totals
    assert first.accepted.total() + second.accepted.total() == 20


def test_a_consumer_writes_once_in_ten_seconds_and_once_at_its_end(
    stage: Stage, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many e-mails there are."""
    assert reporter.EVERY == 10
    monkeypatch.setattr(consumers, "EVERY", 3600.0)  # the machine may be slow
    heard = Heard()
    monkeypatch.setattr(mongo, "connect", partial(mongo.connect, event_listeners=[heard]))
    stage.vendor("first")
    ids = stage.send(300)
    with consuming(stage):
        wait_until(lambda: stage.statuses() == {"sent": 300}, what="all sent")
        assert heard.verbs == ["update"]
    assert sorted(heard.verbs[1:]) == ["delete", "update"]
    assert numbers(stats) == {("first", "accepted"): len(ids)}


def test_a_consumer_that_was_made_long_before_it_runs_is_there_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    monkeypatch.setattr(mongo, "connect", partial(mongo.connect, event_listeners=[heard]))
    stage.vendor("first")
    consumer = Consumer(stage.config, burst=True)
    consumer._well_at -= 60  # as if a minute had passed
    assert consumer.run() == 0
    assert heard.verbs == ["update", "delete"]


def test_emails_are_sent_where_heartbeats_may_not_be_written(
    stage: Stage, stats: Stats, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "EVERY", 0.05)
    name = stats.collection.name
    stats.collection.database.create_collection(name, validator={"allowed": True})
    stage.vendor("first")
    stage.send(3)
    with consuming(stage):
        wait_until(lambda: stage.statuses() == {"sent": 3}, what="all sent")
    refused = [r.getMessage() for r in caplog.records if "stats." in r.getMessage()]
    assert refused == ["stats.refused code=121"]
    assert not [r for r in caplog.records if "server.lost" in r.getMessage()]


def test_a_process_without_work_in_a_burst_leaves_nothing_behind(
    stage: Stage, stats: Stats
) -> None:
    stage.vendor("first")
    assert Consumer(stage.config, burst=True).run() == 0
    assert list(stats.collection.find()) == []


def test_a_consumer_whose_main_thread_hangs_gives_no_sign_of_life(
    stage: Stage, stats: Stats
) -> None:
    """As it gives none to the service manager."""
    stage.vendor("first")
    consumer = Consumer(stage.config)
    consumer._stopping.set()  # the thread looks once, and ends
    consumer._well_at -= 2 * reporter.EVERY
    consumer._report()
    assert stats.consumers() == []
    consumer._well_at += 2 * reporter.EVERY
    consumer._report()
    assert len(stats.consumers()) == 1
    consumer._store.close()


# --- counting


def test_what_several_processes_counted_is_added(stats: Stats) -> None:
    stats.write(ME, [counts(2), counts(3, "unavailable")])
    stats.write(ME, [counts(5, minute=MINUTE + timedelta(minutes=1))])
    assert numbers(stats) == {("ses", "accepted"): 7, ("ses", "unavailable"): 3}
    assert stats.totals()["ses", "accepted"].seconds == pytest.approx(0.49)
    minutes = stats.minutes(MINUTE)
    assert [(m.at, m.totals["ses", "accepted"].number) for m in minutes] == [
        (MINUTE, 2),
        (MINUTE + timedelta(minutes=1), 5),
    ]
    assert len(stats.minutes(MINUTE + timedelta(seconds=1))) == 1


def test_a_write_whose_reply_was_lost_counts_once(stats: Stats) -> None:
    once = counts(4)
    for _ in range(3):
        stats.write(ME, [once])
    stats.write(ME, [counts(1)])
    stats.write(ME, [once])
    assert numbers(stats) == {("ses", "accepted"): 5}


def test_counts_are_kept_while_mongodb_is_away_and_none_counts_twice(
    stage: Stage, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is executed, and its reply is lost."""
    monkeypatch.setattr(reporter, "AT_THE_END", 0.5)
    stage.vendor("first")
    consumer = Consumer(stage.config)
    shared, mine = consumer._writer._shared, consumer._writer.reporter
    write = Collection.bulk_write
    attempt = ("ses", Outcome.ACCEPTED, 0.07)

    def unheard(self: Collection[Document], *arguments: Any, **options: Any) -> Any:
        write(self, *arguments, **options)
        raise AutoReconnect("connection closed")

    with monkeypatch.context() as lossy:
        lossy.setattr(Collection, "bulk_write", unheard)
        for _ in range(3):
            shared.attempts.count(attempt)
            mine.beat()
    assert numbers(stats) == {("ses", "accepted"): 1}
    mine.close()
    assert numbers(stats) == {("ses", "accepted"): 3}
    consumer._store.close()


def test_damaged_counters_are_counted_up_again(stats: Stats) -> None:
    stats.write(ME, [counts(2)])
    broken: Mapping[str, Any] = {"outcomes": {"accepted": "many"}, "marks": 3}
    stats.collection.update_many({"total": True}, {"$set": broken})
    stats.collection.insert_one({"_id": 4, "at": datetime.now(UTC), "in_flight": "x", "env": "?"})
    assert numbers(stats) == {("ses", "accepted"): 0}
    stats.write(ME, [counts(3)])
    assert numbers(stats) == {("ses", "accepted"): 3}
    assert [beat.owner for beat in stats.consumers()] == [ME.owner]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_no_damage_hides_what_else_is_counted(stats: Stats, kind: int) -> None:
    """In a heartbeat, a total or a minute."""
    now = datetime.now(UTC)
    sound = [
        {"at": now, **ME.fields},
        {"total": True, "env": PRODUCTION, "vendor": "b", "outcomes": OUTCOMES, "marks": []},
        {"at": MINUTE, "env": PRODUCTION, "vendor": "b", "outcomes": OUTCOMES, "marks": []},
    ]
    stats.write(ME, [counts(2)])
    stats.collection.insert_many([each for _, each in damaged(sound[kind])])
    stats.collection.insert_one(undecodable({**sound[kind], "version": MARK, "vendor": MARK}))
    assert ME.owner in [beat.owner for beat in stats.consumers()]
    assert numbers(stats)["ses", "accepted"] == 2
    (minute,) = [each for each in stats.minutes(MINUTE) if each.at == MINUTE]
    assert minute.totals["ses", "accepted"].number == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5, True, "x"])
def test_a_damaged_number_is_counted_up_again(stats: Stats, value: object) -> None:
    stats.write(ME, [counts(2)])
    path = "outcomes.accepted.counts.le_100"
    stats.collection.update_many({"total": True}, {"$set": {path: value}})
    stats.write(ME, [counts(3)])
    assert numbers(stats) == {("ses", "accepted"): 3}
