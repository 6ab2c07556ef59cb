"""One vendor that hangs, or does not come back at all, beside healthy ones."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pytest
from bson import ObjectId

from mailqueue.config import Config
from mailqueue.consumer import Consumer
from mailqueue.consumer.slots import MOST_AHEAD
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.producer import Producer
from mailqueue.routing.bulkheads import EVERY, Bulkheads, Call
from mailqueue.vendors.base import Attempt, Vendor
from tests.integration.bench import Bench, Document, mails, ready_ids
from tests.stage import CountingVendor, Stage
from tests.waiting import wait_until

SHARE, MOST = 6, 12  # of sixteen senders with three vendors: a share, and what a quick one may take


@contextmanager
def at_work(stage: Stage, concurrency: int = 16) -> Iterator[Consumer]:
    """A consumer in a thread of this process."""
    consumer = Consumer(stage.config, concurrency=concurrency)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield consumer
    finally:
        for vendor in stage.vendors:
            vendor.let_go()
        consumer.stop()
        thread.join()


@pytest.fixture
def three(stage: Stage) -> list[CountingVendor]:
    return [stage.vendor(name) for name in ("first", "second", "third")]


def test_a_vendor_that_hangs_holds_its_share_and_the_others_carry_everything_else(
    stage: Stage, three: list[CountingVendor]
) -> None:
    hangs, *others = three
    hangs.hold()
    ids = stage.send(300)
    with at_work(stage):
        wait_until(lambda: sum(len(v.calls) for v in others) >= len(ids) - SHARE)
        assert hangs.under_way == hangs.most_under_way <= SHARE
        hangs.let_go()
        stage.until(sent=300)
    assert stage.copies == Counter(ids)


def test_a_vendor_that_begins_to_hang_leaves_the_others_their_part(
    stage: Stage, three: list[CountingVendor]
) -> None:
    hangs, *others = three
    with at_work(stage):
        first = stage.send(60)
        stage.until(sent=60)
        assert hangs.calls
        hangs.hold()
        before = sum(len(v.calls) for v in others)
        ids = stage.send(300)
        wait_until(lambda: sum(len(v.calls) for v in others) >= before + len(ids) - MOST)
        assert hangs.most_under_way <= MOST
        hangs.let_go()
        stage.until(sent=360)
    assert stage.copies == Counter(first + ids)


def test_two_of_three_that_hang_leave_the_third_its_part(
    stage: Stage, three: list[CountingVendor]
) -> None:
    *hang, works = three
    for vendor in hang:
        vendor.hold()
    ids = stage.send(100)
    with at_work(stage):
        wait_until(lambda: len(works.calls) >= len(ids) - 2 * SHARE)
        for vendor in hang:
            vendor.let_go()
        stage.until(sent=100)
    assert stage.copies == Counter(ids)


@pytest.mark.parametrize("concurrency", [4, 16])
def test_two_of_three_that_begin_to_hang_leave_the_third_its_part(
    concurrency: int, stage: Stage, three: list[CountingVendor]
) -> None:
    *hang, works = three
    with at_work(stage, concurrency):
        first = stage.send(60)
        stage.until(sent=60)
        for vendor in hang:
            vendor.hold()
        before = len(works.calls)
        ids = stage.send(300)
        wait_until(lambda: len(works.calls) >= before + len(ids) - concurrency)
        for vendor in hang:
            vendor.let_go()
        stage.until(sent=360)
    assert stage.copies == Counter(first + ids)


def test_a_vendor_that_is_alone_has_all_senders(stage: Stage) -> None:
    alone = stage.vendor("alone")
    alone.hold()
    stage.send(40)
    with at_work(stage):
        wait_until(lambda: alone.under_way == 16)
        alone.let_go()
        stage.until(sent=40)


def test_an_email_that_only_a_full_vendor_can_take_waits_and_is_not_in_the_way(
    stage: Stage, three: list[CountingVendor]
) -> None:
    hangs, *_ = three
    hangs.hold()
    tried = {"round.tried": ["second", "third"]}
    waiting = stage.send(30, priority="high")
    stage.emails.update_many({}, {"$set": tried})
    others = stage.send(50)
    with at_work(stage):
        wait_until(lambda: stage.statuses()["sent"] == 50)
        assert hangs.most_under_way <= SHARE
        assert stage.emails.count_documents({"status": "queued", **tried}) == 30 - SHARE
        hangs.let_go()
        stage.until(sent=80)
    assert stage.copies == Counter(waiting + others)
    assert set(hangs.calls) >= set(waiting)


# A sender comes, and the vendor is full ---------------------------------------------------------

HALF = 8  # of sixteen senders with two vendors


@pytest.fixture
def full(bench: Bench, producer: Producer) -> list[Call[str]]:
    """Five e-mails are claimed for each of two vendors; then the first has all calls it may."""
    producer.send_many(mails(10))
    bench.take()
    bulkheads: Bulkheads[str] = bench.routing.bulkheads
    calls = [bulkheads.begin("first", "", math.inf) for _ in range(HALF)]
    bench.deliver()
    return [call for call in calls if call is not None]


def test_an_email_whose_vendor_is_full_of_calls_keeps_no_sender_and_goes_when_one_is_over(
    bench: Bench, full: list[Call[str]]
) -> None:
    assert [len(bench.vendors[name].asked) for name in ("first", "second")] == [0, 5]
    assert bench.worker.slots.room(0) >= HALF * 2  # all are free
    bench.routing.bulkheads.end(full[0], measured=True)
    for _ in range(5):
        bench.worker.sender.deliver(bench.vendors)
    assert len(bench.vendors["first"].asked) == 5
    bench.settle()
    assert bench.routing.bulkheads.idle
    assert bench.store.has_work() is False


@pytest.mark.parametrize("why", ["we stop", "it took too long"])
def test_what_waits_for_a_vendor_to_have_a_place_is_given_back_unsent(
    bench: Bench, config: Config, full: list[Call[str]], why: str
) -> None:
    bench.settle()
    assert ready_ids(config) == []
    if why == "we stop":
        bench.worker.stopping.set()
    else:
        bench.routing.bulkheads._clock = lambda: time.monotonic() + 5
    bench.worker._recall()
    bench.settle()
    assert len(ready_ids(config)) == 5
    assert bench.routing.bulkheads.idle
    assert len(full) == HALF
    assert bench.vendors["first"].asked == []


def test_what_is_claimed_ahead_of_quick_vendors_does_not_fill_them(
    config_mapping: Document, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three vendors answer at once: round by round more is claimed, and nothing passed over."""
    vendors = [{"name": n, "type": "smtp", "host": "127.0.0.1"} for n in ("a", "b", "c")]
    more = {"vendors": vendors, "consumer": {"concurrency": 8}}
    bench = Bench(Config.from_mapping(config_mapping | more))
    worker, now = bench.worker, [100.0]
    for each in (
        worker.slots,
        bench.routing.bulkheads,
        worker.fetcher,
        worker,
        worker.sender,
    ):
        monkeypatch.setattr(each, "_clock", lambda: now[0])
    monkeypatch.setattr(worker.slots, "write_took", lambda _: None)
    monkeypatch.setattr(worker.slots, "_ahead", MOST_AHEAD)
    producer.send_many(mails(400))
    claimed = []
    for _ in range(5):
        assert worker.fetcher.fetch(bench.tube)
        worker.turn(5)
        assert not worker.blocked
        claimed.append(worker.sender.queue.qsize())
        bench.deliver()
        now[0] += EVERY * 1.01
    assert claimed[-1] > 3 * 8
    bench.close()


def test_an_email_that_waits_for_its_vendor_keeps_no_slot_from_the_next(
    bench: Bench, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = ObjectId(producer.send(mails(1)[0], priority="high"))
    bench.store.emails.update_one({"_id": waits}, {"$set": {"round.tried": ["second"]}})
    goes = ObjectId(producer.send(mails(1)[0]))
    bulkheads: Bulkheads[str] = bench.routing.bulkheads
    monkeypatch.setattr(bulkheads, "full", lambda name: name == "first")
    monkeypatch.setattr(bulkheads, "worth_waiting", lambda _: True)
    monkeypatch.setattr(type(bench.worker.slots), "free", 1)
    assert bench.worker.fetcher.fetch(bench.tube)
    bench.worker.turn(5)
    assert bench.worker.blocked
    assert bench.store.emails.distinct("_id", {"status": "sending"}) == [goes]


# A vendor of the user's own ---------------------------------------------------------------------


class Late(Vendor):
    """It obeys no deadline."""

    gate: ClassVar[threading.Event]
    asked: ClassVar[list[str]]
    answer = SendResult(outcome=Outcome.ACCEPTED, code="late")

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        self.asked.append(attempt.email_id)
        self.gate.wait(30)
        return self.answer


@pytest.fixture
def late(stage: Stage) -> Iterator[type[Late]]:
    """In the configuration, with short times around it."""
    Late.gate, Late.asked = threading.Event(), []
    name = f"{__name__}:Late"
    stage.settings["vendors"].append({"name": "late", "type": name})
    stage.settings["mongodb"]["timeout"] = 1.0
    stage.settings["delivery"] = {"deadline": 1.0}
    yield Late
    Late.gate.set()


def test_a_vendor_that_does_not_come_back_is_given_up_and_its_late_yes_counts(
    stage: Stage, late: type[Late]
) -> None:
    stage.settings["delivery"]["on_unknown"] = "park"
    [email_id] = stage.send()
    with at_work(stage, 2):
        # status() reads what a majority has; until() may see it a moment before.
        wait_until(lambda: stage.status(email_id).status == "uncertain")
        [line] = stage.status(email_id).attempts
        assert (line.outcome, line.code) == ("unknown", "deadline")
        assert stage.health("late")["reason"] == "unknown deadline"
        late.gate.set()
        stage.until(sent=1)
    assert late.asked == [email_id]
    assert stage.document(email_id)["attempts"][0]["late"]


def test_what_it_was_given_goes_out_through_another_and_its_senders_go_on(
    stage: Stage, late: type[Late]
) -> None:
    other = stage.vendor("other")
    ids = stage.send(8)
    with at_work(stage, 2):
        stage.until(sent=8)
        assert set(stage.copies) == set(ids)
        assert len(late.asked) <= 2
        assert len(other.calls) == 8
        late.gate.set()


def test_a_vendor_that_does_not_come_back_keeps_no_process_from_its_end(
    stage: Stage, late: type[Late]
) -> None:
    stage.send(2)
    consumer = Consumer(stage.config, concurrency=2)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    wait_until(lambda: len(late.asked) == 2)
    consumer.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert stage.statuses() == {"queued": 2}
    assert stage.emails.count_documents({"attempts.outcome": "unknown"}) == 2


class Clinging(Late):
    """It answers, but does not close."""

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        return self.answer

    def close(self) -> None:
        self.gate.wait(30)


def test_a_vendor_that_does_not_close_keeps_no_process_from_its_end(
    stage: Stage, late: type[Late]
) -> None:
    stage.settings["vendors"][0]["type"] = f"{__name__}:Clinging"
    stage.send(2)
    consumer = Consumer(stage.config, concurrency=2)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(consumer.run()))
    thread.start()
    stage.until(sent=2)
    consumer.stop()
    thread.join(10)
    assert codes == [1]
