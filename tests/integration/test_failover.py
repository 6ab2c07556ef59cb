"""Where e-mails go when vendors refuse, rest, come back, or take an e-mail in part only.

The consumer runs in threads of the test process, against vendors on loopback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import greenstalk
import pytest
from bson import ObjectId

from mailqueue.consumer import Consumer
from mailqueue.message import EmailDict
from mailqueue.routing import rotation
from mailqueue.routing.bulkheads import Bulkheads
from mailqueue.routing.rotation import FEW, HINTS
from mailqueue.routing.router import REFUSALS_IN_A_ROW, Router
from mailqueue.store.store import Store
from tests.logged import event
from tests.stage import BAD_REQUEST, DOWN, NO_ENTRY, TAKEN, CountingVendor, Stage, letter
from tests.vendor_servers import Received, Reply, SmtpServer, Wire
from tests.waiting import wait_until

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
IMPATIENT = {"base": 0.01, "cap": 0.01}  # no back-off: a test need not wait for it


@contextmanager
def consuming(stage: Stage, **options: Any) -> Iterator[Consumer]:
    """A consumer at work while the block runs; stopped and done at its end."""
    consumer = Consumer(stage.config, **options)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(consumer.run)
        try:
            yield consumer
        except BaseException:
            consumer.stop()
            consumer.stop()
            running.result(30)  # why it ended says more than what was missed
            raise
        if not consumer._stopping.is_set():  # else a burst is over
            consumer.stop()
        with stage.tube() as tube:  # wakes whoever waits for a job, which saves a second
            nudge = tube.put(str(ObjectId()), priority=0)
            assert running.result(30) == 0
            with suppress(greenstalk.NotFoundError):
                tube.delete(nudge)


def drain(stage: Stage) -> None:
    """Let a consumer do all that is due now."""
    with consuming(stage, burst=True) as consumer:
        wait_until(consumer._stopping.is_set, 60)


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


# --- whose turn it is


@pytest.fixture
def room_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """No vendor is ever crowded, so each e-mail goes to the one whose turn it is.

    On a busy machine a vendor that has many calls is passed over: see ``test_bulkheads``.
    """
    monkeypatch.setattr(Bulkheads, "crowded", lambda *_: False)


@pytest.mark.usefixtures("room_for_all")
def test_1000_emails_are_spread_evenly_over_3_vendors(stage: Stage) -> None:
    vendors = [stage.vendor(name) for name in ("first", "second", "third")]
    stage.send(1000)
    drain(stage)
    assert all(abs(len(vendor.accepted) - 333) <= 7 for vendor in vendors)
    assert Counter(stage.copies.values()) == {1: 1000}


@pytest.mark.usefixtures("room_for_all")
def test_1000_emails_are_spread_evenly_over_the_other_two_while_one_rests(stage: Stage) -> None:
    """Also: a resting vendor is never picked."""
    first, resting, third = (stage.vendor(name) for name in ("first", "resting", "third"))
    resting.reply = NO_ENTRY
    with consuming(stage):
        stage.send(3)
        stage.until(sent=3)
    told = len(resting.calls)
    assert told >= 1
    before = Counter(first=len(first.calls), third=len(third.calls))

    stage.send(1000)
    drain(stage)
    assert len(resting.calls) == told
    assert abs(len(first.calls) - before["first"] - 500) <= 10
    assert abs(len(third.calls) - before["third"] - 500) <= 10
    assert Counter(stage.copies.values()) == {1: 1003}


def test_a_consumer_of_concurrency_16_sends_16_at_a_time(stage: Stage) -> None:
    vendor = stage.vendor("only")
    vendor.hold()
    stage.send(40)
    with consuming(stage, concurrency=16):
        wait_until(lambda: vendor.under_way == 16)
        wait_until(lambda: stage.jobs() == {"ready": 24, "reserved": 16})
        vendor.let_go()
        stage.until(sent=40)
    assert vendor.most_under_way == 16


def test_a_retried_email_overtakes_5000_waiting_ones(stage: Stage) -> None:
    vendors = [stage.vendor(name) for name in ("first", "second")]
    stage.send(5001, priority="normal")
    for vendor in vendors:
        vendor.replies = [DOWN]
        vendor.hold()
    answered: list[CountingVendor] = []

    def failed() -> list[CountingVendor]:
        answered.extend(vendor for vendor in vendors if vendor.calls)
        return answered

    with consuming(stage, concurrency=1):
        failing = wait_until(failed)[0]
        other = next(vendor for vendor in vendors if vendor is not failing)
        other.replies = []
        failing.let_go()
        retried = failing.calls[0]
        wait_until(lambda: retried in other.calls or comes_next(stage) == retried)
        other.let_go()
        wait_until(lambda: retried in other.calls)
        # The one sender may have had the next e-mail in its hands before the first was put back.
        assert other.calls.index(retried) <= 1
    assert stage.outcomes(retried) == [(failing.name, "unavailable"), (other.name, "accepted")]


def comes_next(stage: Stage) -> str:
    with stage.tube() as tube:
        return str(tube.peek_ready().body)


# --- refusals


def test_one_vendors_400_does_not_kill_an_email_that_another_vendor_takes(stage: Stage) -> None:
    choosy, other = stage.vendor("choosy", BAD_REQUEST), stage.vendor("other")
    ids = stage.send(6)
    drain(stage)
    assert stage.statuses() == {"sent": 6}
    assert Counter(other.accepted) == Counter(ids)
    assert choosy.calls
    for email_id in choosy.calls:
        assert stage.outcomes(email_id) == [("choosy", "unsuitable"), ("other", "accepted")]
    assert stage.health("choosy")["unavailable_until"] is None


def test_an_email_that_every_vendor_finds_unsuitable_fails_as_refused_by_all(
    stage: Stage,
) -> None:
    vendors = [stage.vendor(name, BAD_REQUEST) for name in ("first", "second", "third")]
    [email_id] = stage.send()
    drain(stage)
    status = stage.status(email_id)
    assert (status.status, status.reason, status.unknowns) == ("failed", "refused_by_all", 0)
    assert [len(vendor.calls) for vendor in vendors] == [1, 1, 1]


def test_a_refusal_waits_for_the_vendor_that_could_not_be_asked(stage: Stage) -> None:
    """Not failed while a vendor that may take it is only away."""
    stage.vendor("choosy", BAD_REQUEST)
    away = stage.vendor("away", DOWN)
    [email_id] = stage.send()
    drain(stage)
    assert stage.status(email_id).status == "queued"
    away.reply = TAKEN
    stage.edit_health("away", probe_at=LONG_AGO)
    stage.emails.update_one({"_id": ObjectId(email_id)}, {"$set": {"due_at": None}})
    drain(stage)
    assert stage.status(email_id).vendor == "away"


def refusing(server: SmtpServer, number: int) -> None:
    """Every recipient is refused as if it were unknown."""
    gone = {f"reader{i}@example.org": "550 5.1.1 no such user" for i in range(number)}
    server.handler.rcpt.update(gone)


def test_a_vendor_that_refuses_one_email_after_the_other_does_not_end_them_all(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    refusing(stage.smtp("refuses"), 60)
    good = stage.vendor("good")
    stage.send(60)
    with consuming(stage, concurrency=2):
        wait_until(lambda: sum(stage.statuses()[s] for s in ("sent", "failed")) == 60)
    failed = stage.statuses()["failed"]
    assert failed < REFUSALS_IN_A_ROW
    assert len(good.accepted) == 60 - failed
    health = stage.health("refuses")
    assert health["reason"].startswith("misconfigured refuses_all smtp-550")
    assert (health["unavailable_until"] - datetime.now(UTC)).total_seconds() <= 60
    said = [r.levelno for r in caplog.records if event(r) == "vendor.refused_all"]
    assert said == [logging.ERROR]


def test_the_only_vendor_that_refused_everything_sends_the_rest_when_it_takes_emails_again(
    stage: Stage,
) -> None:
    server = stage.smtp("only")
    refusing(server, 30)
    stage.settings["retry"] = IMPATIENT
    stage.send(30)
    with consuming(stage, concurrency=2):
        wait_until(lambda: stage.health("only").get("unavailable_until"))
        wait_until(lambda: stage.statuses()["sending"] == 0)
        failed = stage.statuses()["failed"]
        server.handler.rcpt.clear()
        stage.edit_health("only", probe_at=LONG_AGO)
        wait_until(lambda: stage.health("only")["unavailable_until"] is None)
        stage.emails.update_many({"status": "queued"}, {"$set": {"due_at": None}})
        make_jobs_ready(stage)
        stage.until(sent=30 - failed, failed=failed)
    assert failed < REFUSALS_IN_A_ROW
    assert stage.health("only")["unavailable_until"] is None


def test_a_list_of_bad_addresses_does_not_hold_up_good_mail_at_the_only_vendor(
    stage: Stage,
) -> None:
    server = stage.smtp("only")
    refusing(server, 30)
    stage.settings["retry"] = IMPATIENT
    stage.send(30, priority="bulk")
    with consuming(stage, concurrency=2):
        wait_until(lambda: stage.health("only").get("unavailable_until"))
        server.handler.rcpt.pop("reader0@example.org")
        [good] = stage.send()
        stage.edit_health("only", probe_at=LONG_AGO)
        # At the next probe; should a bulk e-mail have had this one, at that after it.
        wait_until(lambda: stage.status(good).status == "sent", timeout=40)


# --- suspensions and probes


def test_a_late_200_of_a_call_begun_before_a_vendor_was_closed_does_not_open_it(
    stage: Stage,
) -> None:
    vendor = stage.vendor("only")
    vendor.hold()
    with consuming(stage):
        [early] = stage.send()
        wait_until(lambda: vendor.under_way == 1)
        vendor.answer_newcomers()
        vendor.reply = NO_ENTRY
        stage.send()
        wait_until(lambda: stage.health("only").get("unavailable_until"))
        health = stage.health("only")
        vendor.let_go()
        wait_until(lambda: stage.status(early).status == "sent")
    assert stage.health("only") == health


class Choosy:
    """Has a server error for poison, and takes any other e-mail."""

    status = 0

    def __call__(self, wire: Wire, request: Received) -> None:
        (DOWN if request.json["subject"] == "poison" else TAKEN)(wire, request)


def test_emails_that_draw_a_503_everywhere_close_no_vendor_among_good_mail(stage: Stage) -> None:
    vendors = [stage.vendor(name) for name in ("first", "second", "third")]
    for vendor in vendors:
        vendor.reply = Choosy()  # type: ignore[assignment]  # answers like one
    stage.send(12)
    with consuming(stage):
        stage.until(sent=12)
        poison = []
        for _ in range(6):
            poison.append(stage.producer.send({**letter(0), "subject": "poison"}))
            stage.send(10)
        stage.until(sent=72, queued=6)
        wait_until(lambda: all(len(stage.outcomes(each)) == 3 for each in poison))
    assert [stage.health(v.name)["generation"] for v in vendors] == [0, 0, 0]


def test_a_vendor_that_has_a_503_for_all_is_closed_by_its_second_email(stage: Stage) -> None:
    failing = stage.vendor("failing", DOWN)
    stage.vendor("good")
    stage.send(30)
    with consuming(stage, concurrency=1):
        stage.until(sent=30)
    assert len(failing.calls) == 2
    health = stage.health("failing")
    assert health["reason"] == "unavailable 503"
    assert (health["unavailable_until"] - datetime.now(UTC)).total_seconds() > 500


def test_a_429_with_retry_after_closes_the_vendor_for_that_long_and_a_probe_opens_it(
    stage: Stage,
) -> None:
    vendor = stage.vendor("busy", Reply(429, {"Retry-After": "120"}))
    stage.vendor("other")
    stage.send(4)
    drain(stage)
    assert stage.statuses() == {"sent": 4}
    health = stage.health("busy")
    for until in (health["unavailable_until"], health["retry_after_until"]):
        assert 60 < (until - datetime.now(UTC)).total_seconds() <= 120
    assert stage.outcomes(vendor.calls[0])[0] == ("busy", "throttled")

    asked, vendor.reply = len(vendor.calls), TAKEN
    stage.edit_health("busy", unavailable_until=LONG_AGO, retry_after_until=LONG_AGO)
    stage.send(4)
    drain(stage)
    assert len(vendor.calls) > asked
    assert stage.health("busy")["unavailable_until"] is None
    assert [line["probe"] for line in stage.document(vendor.calls[asked])["attempts"]] == [True]


class Limited:
    """Takes so many requests a second, and says of the others to come back in one."""

    status = 0

    def __init__(self, most: int) -> None:
        self.taken = self.asked = 0
        self._most, self._lock = most, threading.Lock()
        self.seconds, self._in_second = [0.0], 0

    def __call__(self, wire: Wire, request: Received) -> None:
        with self._lock:
            self.asked += 1
            if time.monotonic() - self.seconds[-1] >= 1:
                self.seconds.append(time.monotonic())
                self._in_second = 0
            self._in_second += 1
            taken = self._in_second <= self._most
            self.taken += taken
        (TAKEN if taken else Reply(429, {"Retry-After": "1"}))(wire, request)


def test_a_vendor_that_says_to_come_back_in_a_second_is_asked_again_in_a_second(
    stage: Stage,
) -> None:
    """Seconds of 5 e-mails."""
    vendor, limited = stage.vendor("limited"), Limited(5)
    vendor.reply = limited  # type: ignore[assignment]  # answers like one
    stage.send(120)
    with consuming(stage):
        wait_until(lambda: limited.taken >= 20)
    assert min(later - earlier for earlier, later in pairwise(limited.seconds)) < 3
    assert limited.asked < 120


def test_a_vendor_that_says_to_come_back_at_once_is_not_asked_in_a_hot_loop(stage: Stage) -> None:
    vendor = stage.vendor("busy", Reply(429, {"Retry-After": "0"}))
    stage.send(50)
    with consuming(stage, concurrency=4):
        wait_until(lambda: vendor.calls)
        observe()
    assert len(vendor.calls) <= 4 + 2


def test_a_time_that_the_vendor_named_is_kept_even_when_no_vendor_is_left(stage: Stage) -> None:
    vendor = stage.vendor("busy", Reply(429, {"Retry-After": "120"}))
    stage.send()
    drain(stage)
    stage.edit_health("busy", probe_at=LONG_AGO)
    stage.send()
    with consuming(stage):
        observe()
    assert len(vendor.calls) == 1


def test_after_the_rest_one_process_alone_probes_the_vendor(stage: Stage) -> None:
    failing, other = stage.vendor("failing", DOWN), stage.vendor("other")
    stage.settings["failover"] = {"unavailable_for": 1}
    with consuming(stage), consuming(stage):
        stage.send(4)
        stage.until(sent=4)
        wait_until(lambda: stage.health("failing")["unavailable_until"] < datetime.now(UTC))
        asked, failing.reply = len(failing.calls), TAKEN
        failing.hold()
        stage.send(60)
        stage.until(sent=63, sending=1)
        assert len(failing.calls) == asked + 1
        assert stage.health("failing")["unavailable_until"] is not None

        failing.let_go()
        wait_until(lambda: stage.health("failing")["unavailable_until"] is None)
        taken = len(other.calls)
        wait_until(lambda: stage.send() and len(failing.calls) > asked + 1)
        wait_until(lambda: len(other.calls) > taken)
        wait_until(lambda: set(stage.statuses()) == {"sent"})
    assert set(stage.copies.values()) == {1}


def test_when_no_vendor_is_left_each_is_probed_at_growing_intervals_and_never_in_a_hot_loop(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine may be slow: no probe is due before the test says so.
    monkeypatch.setattr(rotation, "ROW_SECONDS", 60.0)
    monkeypatch.setattr(rotation, "PROBE_STEP", 100.0)
    monkeypatch.setattr(rotation, "PROBE_STEP_MAX", 400.0)
    stage.settings["failover"] = {"unavailable_for": 86400}
    vendors = [stage.vendor(name, DOWN) for name in ("first", "second")]
    stage.send(90)
    with consuming(stage, concurrency=4):
        wait_until(lambda: all(stage.health(v.name).get("unavailable_until") for v in vendors))
        wait_until(lambda: stage.statuses() == {"queued": 90})
        # Those that suspended it are part of the first row.
        for step, row in ((200, HINTS - FEW), (400, HINTS)):
            asked = [len(vendor.calls) for vendor in vendors]
            before = releases(stage)
            observe()
            assert [len(vendor.calls) for vendor in vendors] == asked
            assert releases(stage) - before <= 90
            for vendor in vendors:
                stage.edit_health(vendor.name, probe_at=datetime.now(UTC))
                stage.emails.update_many({}, {"$set": {"due_at": None}})
                make_jobs_ready(stage)
            wait_until(
                lambda: all(stage.health(v.name)["probe_step"] == step for v in vendors)  # noqa: B023  # ``step`` is this turn's: the call waits
            )
            # Each e-mail may have drawn the 503 itself: as many probe in a row as tell.
            assert [len(vendor.calls) for vendor in vendors] == [n + row for n in asked]
            for vendor in vendors:
                health = stage.health(vendor.name)
                wait = (health["probe_at"] - datetime.now(UTC)).total_seconds()
                assert step - 100 < wait <= step
    assert stage.statuses() == {"queued": 90}


def observe() -> None:
    """Look on for a while. Were it too short, it could only overlook a fault, never invent one."""
    threading.Event().wait(1.5)


def releases(stage: Stage) -> int:
    with stage.tube() as tube:
        return int(tube.stats()["cmd-release"])


def make_jobs_ready(stage: Stage) -> None:
    with stage.tube() as tube:
        tube.kick(1000)


# --- e-mails that end by their clocks


def test_an_email_older_than_give_up_after_fails_as_gave_up(stage: Stage) -> None:
    stage.vendor("only", DOWN)
    [email_id] = stage.send()
    stage.emails.update_one({"_id": ObjectId(email_id)}, {"$set": {"clock_from": LONG_AGO}})
    drain(stage)
    status = stage.status(email_id)
    assert (status.status, status.reason, status.unknowns) == ("failed", "gave_up", 0)


@pytest.mark.parametrize("days", [-10, 10])
def test_a_producer_whose_clock_is_wrong_by_days_shortens_and_lengthens_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    server = stage.smtp("only")
    server.handler.replies["MAIL"] = "450 4.2.0 come back later"
    stage.settings["retry"] = {**IMPATIENT, "give_up_after": 3600}
    wrong = soon(days * 86_400)
    monkeypatch.setattr("mailqueue.producer.submission.datetime", Mock(now=lambda _: wrong))
    [email_id] = stage.send()
    assert abs(stage.document(email_id)["created_at"] - wrong) < timedelta(seconds=1)
    with consuming(stage):
        wait_until(lambda: len(stage.outcomes(email_id)) > 1)
        late = {"$set": {"clock_from": datetime.now(UTC) - timedelta(hours=2)}}
        started = stage.document(email_id)["clock_from"]
        stage.emails.update_one({"_id": ObjectId(email_id)}, late)
        stage.until(failed=1)
    assert abs(started - datetime.now(UTC)) < timedelta(seconds=60)
    assert stage.status(email_id).reason == "gave_up"


def test_the_clock_of_an_email_runs_while_nobody_can_be_asked(stage: Stage) -> None:
    stage.vendor("only")
    stage.settings["retry"] = {"give_up_after": 3600}
    [email_id] = stage.send()
    drain(stage)
    stage.edit_health("only", unavailable_until=soon(600), probe_at=soon(600))
    [email_id] = stage.send()
    with consuming(stage) as consumer:
        consumer._router.intake = lambda: (0.0, 1)  # type: ignore[method-assign]  # take it anyway
        wait_until(lambda: stage.document(email_id)["clock_from"])
    assert stage.status(email_id).status == "queued"


def test_an_email_deferred_max_attempts_times_fails_as_exhausted(stage: Stage) -> None:
    server = stage.smtp("only")
    server.handler.replies["MAIL"] = "450 4.2.0 come back later"
    stage.settings["retry"] = {**IMPATIENT, "max_attempts": 3}
    [email_id] = stage.send()
    with consuming(stage):
        stage.until(failed=1)
    assert stage.status(email_id).reason == "exhausted"
    assert stage.outcomes(email_id) == [("only", "deferred")] * 3


def test_an_email_is_never_sent_after_expires_at(stage: Stage) -> None:
    vendor = stage.vendor("only")
    [kept] = stage.send(expires_at=soon(3600))
    [late] = stage.send(expires_at=soon(0.05))
    wait_until(lambda: stage.document(late)["expires_at"] < datetime.now(UTC))
    drain(stage)
    assert vendor.calls == [kept]
    status = stage.status(late)
    assert (status.status, status.reason, status.attempts) == ("failed", "expired", ())


def test_an_email_is_not_sent_before_send_at(stage: Stage) -> None:
    vendor = stage.vendor("only")
    due = soon(2)
    [later] = stage.send(send_at=due)
    [now] = stage.send()
    with consuming(stage):
        stage.until(sent=1, queued=1)
        assert vendor.calls == [now]
        stage.until(sent=2)
    assert vendor.calls == [now, later]
    sent_at = stage.status(later).sent_at
    assert sent_at is not None
    assert sent_at >= due.replace(microsecond=due.microsecond // 1000 * 1000)


# --- SMTP: put off, and taken in part


def test_a_deferred_email_is_sent_later_to_the_same_vendor_as_greylisting_wants(
    stage: Stage,
) -> None:
    server = stage.smtp("only")
    server.handler.rcpt["reader0@example.org"] = "450 4.7.1 greylisted, come back later"
    stage.settings["retry"] = IMPATIENT
    [email_id] = stage.send()
    with consuming(stage):
        wait_until(lambda: stage.outcomes(email_id) and stage.outcomes(email_id)[0][1])
        server.handler.rcpt.clear()
        stage.until(sent=1)
    assert stage.outcomes(email_id)[0] == ("only", "deferred")
    assert stage.outcomes(email_id)[-1] == ("only", "accepted")
    assert len(server.letters) == 1
    assert stage.health("only")["unavailable_until"] is None


def test_a_deferred_email_backs_off(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailqueue.consumer.consumer.Router", partial(Router, rand=lambda: 0.5))
    stage.smtp("only").handler.replies["MAIL"] = "450 4.2.0 come back later"
    [email_id] = stage.send()
    drain(stage)
    document = stage.document(email_id)
    assert (document["status"], document["round"]["n"]) == ("queued", 1)
    assert document["due_at"] - document["updated_at"] == timedelta(seconds=15)
    assert stage.jobs() == {"delayed": 1}


def test_an_email_with_one_refused_recipient_of_three_is_sent_and_says_which(
    stage: Stage,
) -> None:
    server = stage.smtp("only")
    server.handler.rcpt["gone@example.org"] = "550 5.1.1 no such user"
    email_id = stage.producer.send(to_three("gone@example.org"))
    drain(stage)
    status = stage.status(email_id)
    assert (status.status, status.refused) == ("sent", ("gone@example.org",))
    [received] = server.letters
    assert received.recipients == ["bob@example.org", "carol@example.org"]


def test_only_the_recipient_that_was_put_off_is_sent_to_later(stage: Stage) -> None:
    """Never an HTTP vendor either: it would send to all of them again."""
    server = stage.smtp("smtp")
    server.handler.rcpt["full@example.org"] = "452 4.2.2 mailbox full"
    stage.settings["retry"] = IMPATIENT
    email_id = stage.producer.send(to_three("full@example.org"))
    with consuming(stage):
        wait_until(lambda: stage.document(email_id).get("pending") == ["full@example.org"])
    server.handler.rcpt.clear()
    http = stage.vendor("http")
    with consuming(stage):
        stage.until(sent=1)
    first, last = server.letters
    assert first.recipients == ["bob@example.org", "carol@example.org"]
    assert last.recipients == ["full@example.org"]
    assert last.message["To"] == first.message["To"]
    assert http.calls == []
    assert stage.status(email_id).refused == ()


def test_a_server_that_takes_few_recipients_at_a_time_gets_the_others_at_once(
    stage: Stage,
) -> None:
    """However many transactions that needs: they are no failed attempts, and nobody waits."""
    server = stage.smtp("only")
    server.handler.most = 2
    stage.settings["retry"] = {"base": 600, "max_attempts": 1}
    people = [f"p{n}@example.org" for n in range(7)]
    email_id = stage.producer.send({**letter(0), "to": people})
    with consuming(stage):
        stage.until(sent=1)
    assert [each.recipients for each in server.letters] == [
        *(people[:2], people[2:4], people[4:6], people[6:]),
    ]
    assert stage.status(email_id).refused == ()


def to_three(special: str) -> EmailDict:
    return {**letter(0), "to": ["bob@example.org", special, "carol@example.org"]}


# --- the job and the document


class SlowlySettling(Store):
    """Holds every settlement back."""

    held = threading.Event()
    asked = threading.Event()

    def write(self, changes: Any, claims: Any = (), **options: Any) -> Any:
        if changes and not claims:
            self.asked.set()
            assert self.held.wait(20)
        return super().write(changes, claims, **options)


def test_a_job_stays_on_the_tube_until_mongodb_says_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailqueue.consumer.consumer.Store", SlowlySettling)
    vendor = stage.vendor("only")
    stage.send()
    with consuming(stage):
        assert SlowlySettling.asked.wait(10)
        assert len(vendor.accepted) == 1
        assert stage.statuses() == {"sending": 1}
        assert stage.jobs() == {"reserved": 1}
        SlowlySettling.held.set()
        stage.until(sent=1)
        wait_until(lambda: stage.jobs() == {})


def test_a_result_is_recorded_once_though_mongodb_drops_the_connection_again_and_again(
    stage: Stage,
) -> None:
    """The vendor's answer is slow enough for the next update to be the settlement."""
    vendor = stage.vendor("only")
    vendor.hold()
    [email_id] = stage.send()
    stage.settings["consumer"] = {"sweep_every": 3600}
    failing = {
        "configureFailPoint": "failCommand",
        "data": {"failCommands": ["update"], "closeConnection": True},
    }
    admin = stage.emails.database.client.admin
    with consuming(stage):
        wait_until(lambda: vendor.under_way == 1)
        admin.command({**failing, "mode": {"times": 4}})
        try:
            vendor.let_go()
            stage.until(sent=1)
        finally:
            admin.command({**failing, "mode": "off"})
        wait_until(lambda: stage.jobs() == {})
    assert stage.outcomes(email_id) == [("only", "accepted")]
    assert stage.copies == {email_id: 1}


def test_a_foreign_body_is_buried_and_a_job_without_email_deleted(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    vendor = stage.vendor("only")
    with stage.tube() as tube:
        tube.put("not one of ours")
        tube.put(str(ObjectId()))
    [email_id] = stage.send()
    drain(stage)
    assert vendor.calls == [email_id]
    assert stage.jobs() == {"buried": 1}
    assert {"job.buried", "job.orphaned"} <= set(map(event, caplog.records))


def test_a_job_that_is_doubled_sends_the_email_once(stage: Stage) -> None:
    vendor = stage.vendor("only")
    ids = stage.send(10)
    for _ in range(2):
        assert stage.producer.announce(ids) == 10
    drain(stage)
    assert vendor.accepted == Counter(ids)


def test_what_the_tube_lost_is_found_by_the_sweeper(stage: Stage) -> None:
    vendor = stage.vendor("only")
    stage.settings["consumer"] = {"sweep_every": 0.2}
    ids = stage.send(10)
    with stage.tube() as tube:
        for _ in ids:
            tube.delete(tube.reserve(0))
    with consuming(stage):
        stage.until(sent=10)
    assert vendor.accepted == Counter(ids)
