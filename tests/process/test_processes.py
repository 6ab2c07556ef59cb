"""Several consumer processes at the same e-mails, and a simulation beside production."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from mailqueue import Producer
from mailqueue.routing.rotation import HINTS
from tests.process.conftest import Consumers
from tests.servers import BreakableServers
from tests.stage import DOWN, Stage, letter
from tests.waiting import wait_until

CONCURRENCY = 4
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def test_three_processes_call_a_dead_vendor_a_few_times_then_leave_it_alone_for_ten_minutes(
    stage: Stage, run: Consumers
) -> None:
    dead = stage.vendor("dead", DOWN)
    stage.vendor("second")
    stage.vendor("third")
    stage.settings["vendors"][0]["weight"] = 50
    for vendor in stage.vendors:
        vendor.hold()
    stage.send(300)
    consumers = [run(stage, "--concurrency", str(CONCURRENCY)) for _ in range(3)]
    wait_until(lambda: stage.under_way == 3 * CONCURRENCY)
    # Its weight gives it all that it may have: of each process all slots but one for each other.
    assert len(dead.calls) >= 3 * (CONCURRENCY - 2)
    for vendor in stage.vendors:
        vendor.let_go()
    stage.until(sent=300)

    # Its answers are hints at first; when they close it, some calls are on their way.
    assert len(dead.calls) < HINTS + 3 * CONCURRENCY
    assert Counter(stage.copies.values()) == {1: 300}
    rest = stage.health("dead")["unavailable_until"] - datetime.now(UTC)
    assert timedelta(minutes=9) < rest <= timedelta(minutes=10)
    told = len(dead.calls)
    stage.send(100)
    stage.until(sent=400)
    assert len(dead.calls) == told
    assert all(consumer.running for consumer in consumers)


def test_two_processes_and_one_failing_vendor_lose_and_double_nothing(
    stage: Stage, run: Consumers
) -> None:
    failing, other = stage.vendor("failing", DOWN), stage.vendor("other")
    stage.settings["failover"] = {"unavailable_for": 0.5}  # it fails again and again
    consumers = [run(stage), run(stage)]
    ids = [email_id for _ in range(10) for email_id in stage.send(30)]
    stage.until(sent=300)
    assert [consumer.stop() for consumer in consumers] == [0, 0]
    assert other.accepted == Counter(ids)
    for email_id in set(failing.calls):
        assert stage.outcomes(email_id) == [("failing", "unavailable"), ("other", "accepted")]


def test_a_process_that_was_paused_past_its_lease_records_its_late_yes(
    stage: Stage, ready: Consumers
) -> None:
    """The e-mail was sent again meanwhile: the ledger tells of both copies, the owner is kept."""
    vendor = stage.vendor("only")
    stage.settings |= {"consumer": {"sweep_every": 0.2}, "retry": {"base": 0.01, "cap": 0.01}}
    vendor.hold()
    [email_id] = stage.send()
    paused = ready(stage)
    wait_until(lambda: vendor.under_way == 1)
    paused.pause()
    vendor.answer_newcomers()
    stage.emails.update_one({}, {"$set": {"lease.until": LONG_AGO}})
    ready(stage)
    stage.until(sent=1)
    first = stage.document(email_id)
    vendor.let_go()
    paused.resume()
    wait_until(lambda: stage.document(email_id)["attempts"][0].get("extra_copy"))

    late, in_time = stage.document(email_id)["attempts"]
    assert (late["outcome"], late["late"]) == ("accepted", True)
    assert in_time["outcome"] == "accepted"
    assert stage.document(email_id)["sent_at"] == first["sent_at"]
    assert stage.status(email_id).unknowns == 1
    assert stage.copies == {email_id: 2}


def test_outside_production_not_one_connection_is_opened_to_a_vendor(
    stage: Stage, ready: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And e-mails of production are left alone, loudly."""
    vendors = [stage.vendor(name) for name in ("first", "second", "third")]
    smtp = {"name": "third", "type": "smtp", "host": "127.0.0.1", "port": vendors[2].port}
    stage.settings["vendors"][2] = smtp
    of_production = stage.send(3)
    monkeypatch.delenv("MAILQUEUE_ENV")
    with Producer(stage.config) as simulating:
        ids = simulating.send_many([letter(i) for i in range(10)])
    consumer = ready(stage, MAILQUEUE_ENV="")
    wait_until(lambda: {stage.status(email_id).status for email_id in ids} == {"sent"})
    wait_until(lambda: stage.jobs() == {"delayed": 3})
    assert consumer.stop() == 0

    assert [vendor.connections for vendor in vendors] == [0, 0, 0]
    assert all(stage.status(email_id).simulated for email_id in ids)
    assert len(consumer.said("consumer.started mode=simulated")) == 1
    left_alone = consumer.said("email.skipped")
    assert all(" ERROR " in line for line in left_alone)
    for email_id in of_production:
        assert any(email_id in line for line in left_alone)
        assert (stage.status(email_id).status, stage.outcomes(email_id)) == ("queued", [])


def test_in_production_emails_of_a_simulation_are_left_alone_too(
    stage: Stage, ready: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = stage.vendor("only")
    monkeypatch.delenv("MAILQUEUE_ENV")
    [simulated] = stage.send()
    consumer = ready(stage, MAILQUEUE_ENV="production")
    wait_until(lambda: stage.jobs() == {"delayed": 1})
    assert len(consumer.said("consumer.started mode=production")) == 1
    assert vendor.connections == 0
    assert stage.status(simulated).status == "queued"


def test_a_beanstalkd_that_is_killed_and_restarted_costs_no_email_and_no_copy(
    fragile_stage: Stage, servers_to_break: BreakableServers, ready: Consumers
) -> None:
    stage = fragile_stage
    vendor = stage.vendor("only")
    stage.settings["consumer"] = {"sweep_every": 1}
    vendor.hold()
    consumer = ready(stage)
    ids = stage.send(40)
    wait_until(lambda: vendor.under_way == 16)
    servers_to_break.beanstalkd.kill()
    vendor.let_go()
    stage.until(sent=16, queued=24)
    wait_until(lambda: consumer.said("server.lost"))
    ids += stage.send(5)  # announced by nobody: the sweeper finds them, or the producer's next put
    servers_to_break.beanstalkd.start()
    ids += stage.send(5)
    stage.until(sent=50)
    wait_until(lambda: stage.jobs().keys() <= {"delayed"}, 15)  # one may have been doubled
    assert consumer.stop() == 0
    assert vendor.accepted == Counter(ids)
    assert len(consumer.said("server.lost")) == 1
    assert len(consumer.said("server.recovered")) == 1


def test_a_mongod_that_is_killed_and_restarted_costs_no_email_and_no_copy(
    fragile_stage: Stage, servers_to_break: BreakableServers, ready: Consumers
) -> None:
    stage = fragile_stage
    vendor = stage.vendor("only")
    stage.settings["mongodb"]["timeout"] = 2
    vendor.hold()
    consumer = ready(stage)
    ids = stage.send(40)
    wait_until(lambda: vendor.under_way == 16)
    servers_to_break.mongod.kill()
    vendor.let_go()
    wait_until(lambda: consumer.said("server.lost"), 30)
    servers_to_break.mongod.start()
    stage.until(sent=40)
    wait_until(lambda: stage.jobs().keys() <= {"delayed"}, 15)  # one may have been doubled
    assert consumer.stop() == 0
    assert vendor.accepted == Counter(ids)
    assert stage.emails.count_documents({"unknowns": {"$gt": 0}}) == 0
    assert len(consumer.said("server.lost")) == 1
    assert len(consumer.said("server.recovered")) == 1
