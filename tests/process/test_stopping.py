"""How a consumer process starts and ends: readiness, signals, exit codes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from signal import SIGINT, SIGTERM

import pytest

from tests.process.conftest import Consumers
from tests.stage import Stage
from tests.waiting import wait_until

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NO_BACK_OFF = {"base": 0.01, "cap": 0.01}
SHORT_LEASE = {
    "delivery": {"deadline": 1.0},
    "consumer": {"sweep_every": 0.2},
    "retry": NO_BACK_OFF,
}


@contextmanager
def heeding(number: signal.Signals, how: signal.Handlers) -> Iterator[None]:
    """What a process does about a signal; those that it starts ignore what it ignores."""
    before = signal.signal(number, how)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_sigterm_during_50_sends_ends_with_all_50_recorded(stage: Stage, ready: Consumers) -> None:
    vendor = stage.vendor("slow")
    vendor.hold()
    stage.send(60)
    consumer = ready(stage, "--concurrency", "50")
    wait_until(lambda: vendor.under_way == 50)
    consumer.terminate()
    consumer.wait_for("STOPPING=1")
    vendor.let_go()
    assert consumer.exit_code() == 0
    assert stage.statuses() == {"sent": 50, "queued": 10}
    assert stage.emails.count_documents({"unknowns": {"$gt": 0}}) == 0
    assert stage.emails.count_documents({"status": "queued", "attempts": {"$ne": []}}) == 0
    assert sorted(stage.copies.values()) == [1] * 50
    assert stage.jobs() == {"ready": 10}


@pytest.mark.parametrize("ignored", [False, True], ids=["in front", "in the background"])
def test_several_signals_within_a_moment_are_one(
    stage: Stage, ready: Consumers, ignored: bool
) -> None:
    """As ``timeout`` and process groups send them; a shell's background job ignores SIGINT."""
    vendor = stage.vendor("slow")
    vendor.hold()
    stage.send(2)
    with heeding(SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL):
        consumer = ready(stage)
    wait_until(lambda: vendor.under_way == 2)
    consumer.signal(SIGINT, SIGTERM, SIGTERM, SIGINT)
    consumer.wait_for("STOPPING=1")
    vendor.let_go()
    assert consumer.exit_code() == 0
    assert stage.statuses() == {"sent": 2}


def test_a_second_sigterm_leaves_what_is_being_sent_to_its_lease_and_gives_the_rest_back(
    stage: Stage, ready: Consumers
) -> None:
    vendor = stage.vendor("slow")
    vendor.hold()
    stage.send(12)
    consumer = ready(stage, "--concurrency", "8")
    wait_until(lambda: vendor.under_way == 8)
    consumer.terminate()
    consumer.wait_for("STOPPING=1")
    assert consumer.running

    def told_again() -> bool:
        consumer.terminate()
        return not consumer.running

    wait_until(told_again)  # it counts a second after the first
    assert consumer.exit_code() == 1
    assert stage.statuses() == {"sending": 8, "queued": 4}
    sending = {"status": "sending", "lease.until": {"$exists": True}, "attempts.outcome": None}
    assert stage.emails.count_documents(sending) == 8
    assert stage.emails.count_documents({"status": "queued", "attempts": []}) == 4
    wait_until(lambda: stage.jobs() == {"ready": 12})


def test_an_email_whose_sender_was_killed_is_resent_once_and_its_ledger_says_why(
    stage: Stage, ready: Consumers
) -> None:
    vendor = stage.vendor("only")
    stage.settings |= SHORT_LEASE
    stage.settings["mongodb"]["timeout"] = 1.0
    vendor.hold()
    [email_id] = stage.send()
    first = ready(stage)
    wait_until(lambda: vendor.under_way == 1)
    first.kill()
    vendor.let_go()
    second = ready(stage)
    stage.until(sent=1)
    assert second.stop() == 0

    status = stage.status(email_id)
    assert status.unknowns == 1
    lost, taken = status.attempts
    assert (lost.outcome, lost.code) == ("unknown", "lease_expired")
    assert (taken.outcome, taken.code) == ("accepted", "202")
    assert lost.ended_at is not None
    assert taken.started_at >= lost.ended_at
    assert stage.copies == {email_id: 2}
    assert stage.health("only")["unavailable_until"] is None


def test_an_email_whose_senders_were_killed_twice_waits_for_a_person(
    stage: Stage, ready: Consumers
) -> None:
    """Two copies at most; and what may have left is never called failed."""
    vendor = stage.vendor("only")
    stage.settings |= {"consumer": {"sweep_every": 0.2}, "retry": NO_BACK_OFF}
    vendor.hold()
    [email_id] = stage.send()
    for attempt in (1, 2):
        consumer = ready(stage)
        wait_until(lambda: len(vendor.calls) == attempt)  # noqa: B023  # called at once
        consumer.kill()
        stage.emails.update_one({}, {"$set": {"lease.until": LONG_AGO}})
    ready(stage)
    stage.until(uncertain=1)
    assert stage.status(email_id).reason == "unknown"
    assert stage.copies == {email_id: 2}


def test_burst_sends_what_is_due_and_exits_0(stage: Stage, ready: Consumers) -> None:
    stage.vendor("only")
    stage.send(20)
    consumer = ready(stage, "--burst")
    assert consumer.exit_code() == 0
    assert stage.statuses() == {"sent": 20}


def test_the_service_manager_hears_ready_then_that_all_is_well_then_stopping(
    stage: Stage, ready: Consumers
) -> None:
    stage.vendor("only")
    consumer = ready(stage, WATCHDOG_USEC="100000")
    wait_until(lambda: consumer.heard().count("WATCHDOG=1") >= 3)
    consumer.terminate()
    consumer.wait_for("STOPPING=1")
    assert consumer.exit_code() == 0
    first, *between, last = consumer.heard()
    assert (first, set(between), last) == ("READY=1", {"WATCHDOG=1"}, "STOPPING=1")


def test_a_bad_config_exits_2_and_prints_every_problem(stage: Stage, run: Consumers) -> None:
    stage.settings["vendors"] = [{"name": "first", "type": "sendgrid", "api_key": "${NOT_SET}"}]
    stage.settings["retry"] = {"max_attempts": 0}
    stage.settings["surprise"] = {}
    consumer = run(stage)
    assert consumer.exit_code() == 2
    for problem in ("vendors[0].api_key", "NOT_SET", "retry.max_attempts", "surprise"):
        assert problem in consumer.output
    assert "Traceback" not in consumer.output


def test_a_consumer_without_vendors_or_with_bad_arguments_exits_2(
    stage: Stage, run: Consumers
) -> None:
    consumers = [run(stage), run(stage, "--concurrency", "none"), run(stage, "--concurrency", "0")]
    assert [consumer.exit_code() for consumer in consumers] == [2, 2, 2]
    assert "vendors: a consumer needs at least one" in consumers[0].output
    assert "--concurrency" in consumers[1].output
    assert not any("Traceback" in consumer.output for consumer in consumers)


def test_where_nothing_listens_a_consumer_exits_3(stage: Stage, run: Consumers) -> None:
    stage.vendor("only")
    stage.settings["mongodb"]["timeout"] = 0.5
    reachable = stage.settings
    stage.settings = {**reachable, "beanstalkd": {"servers": ["127.0.0.1:1"]}}
    without_beanstalkd = run(stage)
    stage.settings = {**reachable, "mongodb": {"uri": "mongodb://127.0.0.1:1", "timeout": 0.5}}
    without_mongodb = run(stage)
    for consumer in (without_beanstalkd, without_mongodb):
        assert consumer.exit_code() == 3
        assert "could not connect" in consumer.output
        assert "Traceback" not in consumer.output
        assert consumer.heard() == []
