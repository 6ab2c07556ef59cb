"""Each end of an e-mail is told once it is stored: in the log, and to the application's hook."""

from __future__ import annotations

import ast
import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import AutoReconnect

from mailqueue.aio import AsyncProducer
from mailqueue.config import Config
from mailqueue.consumer import Consumer, EmailEnd
from mailqueue.consumer import hook as hooks
from mailqueue.errors import StoreUnavailable
from mailqueue.events import EventStore
from mailqueue.lifecycle.outcomes import Decision, Outcome, Pin, Round, SendResult, Status
from mailqueue.producer import Producer
from mailqueue.store.document import PRODUCTION
from mailqueue.store.interventions import Verb
from mailqueue.store.store import Store
from mailqueue.store.transitions import Aside, Change, Claim, Lease
from mailqueue.vendors.events.source import EventType, VendorEvent
from tests.ends import StoredEnds
from tests.logged import event
from tests.stage import BAD_REQUEST, Stage, letter
from tests.structure.test_structure import MODULES
from tests.waiting import wait_until

Document = dict[str, Any]
NORMAL, SECONDS = 65_536, 10.0
NO = SendResult(outcome=Outcome.REJECTED, code="550")
LOST = SendResult(outcome=Outcome.UNKNOWN, code="timeout", answered=False)
YES = SendResult(outcome=Outcome.ACCEPTED, code="202")
EXPIRED = SendResult(outcome=Outcome.UNKNOWN, code="lease_expired", answered=False)
ENDS = ("email.sent", "email.failed", "email.uncertain", "email.cancelled")


def decision(status: Status, **more: Any) -> Decision:
    return Decision(status=status, priority=NORMAL, **more)


UNKNOWN_ENDS = decision(Status.UNCERTAIN, reason="unknown", unknowns=1)


class Desk:
    """An e-mail of a producer of this test's, and what workers and others do with it."""

    def __init__(self, config: Config, stage: Stage) -> None:
        self.config, self.stage = config, stage
        self.store = Store(config.mongodb, env=PRODUCTION, callbacks=config.callbacks)
        self.id = ObjectId(stage.send(request_id="r-1")[0])
        self.nonce = ObjectId()

    def claim(self, token: int = 0, seconds: float = 60) -> None:
        claim = Claim(id=self.id, token=token, vendor="first", key="k")
        lease = Lease(owner="me", nonce=self.nonce, seconds=seconds)
        assert self.store.write([], [claim], lease=lease)[1] == {self.id}

    def change(self, then: Decision, result: SendResult | None = None, **more: Any) -> None:
        options: Document = {"token": 1, "nonce": self.nonce, "vendor": "first", **more}
        change = Change(id=self.id, decision=then, result=result, request_id="r-1", **options)
        self.store.write([change], seconds=SECONDS)

    def uncertain(self) -> None:
        self.claim()
        self.change(UNKNOWN_ENDS, LOST)

    def intervene(self, verb: Verb) -> None:
        assert self.store.intervene([self.id], verb, ObjectId()) == {self.id}

    def event(self, kind: EventType = EventType.DELIVERED) -> None:
        told = VendorEvent(
            key=str(ObjectId()),
            type=kind,
            email_id=str(self.id),
            recipient="reader0@example.org",
            message_id="id",
        )
        EventStore(self.config, self.store).record("first", [told, told])


# Every path: what it does, and the ends that it leads to, one after the other.


def settled(desk: Desk) -> None:
    desk.claim()
    desk.change(decision(Status.SENT), YES, seconds=0.0284)


def rejected(desk: Desk) -> None:
    desk.claim()
    desk.change(decision(Status.FAILED, reason="rejected"), NO)


def expired_in_the_queue(desk: Desk) -> None:
    then = decision(Status.FAILED, reason="expired")
    desk.change(then, token=0, nonce=None, sending=False, vendor=None)


def rescued(desk: Desk) -> None:
    desk.claim(seconds=-1)
    desk.change(UNKNOWN_ENDS, EXPIRED, nonce=None, expired=True)


def set_aside(desk: Desk) -> None:
    desk.store.write([Aside(id=desk.id, guard={"status": {"$eq": "queued"}})])


def claim_refused(desk: Desk) -> None:
    """The document takes no update that adds to it."""
    desk.store.emails.update_one({"_id": desk.id}, {"$set": {"attempts": "damaged"}})
    claim = Claim(id=desk.id, token=0, vendor="first", key="k")
    desk.store.write([], [claim], lease=Lease(owner="me", nonce=desk.nonce, seconds=60))


def late_yes(desk: Desk) -> None:
    desk.uncertain()
    desk.store.record_late_yes(desk.id, 1, "first", YES, SECONDS)
    desk.store.record_late_yes(desk.id, 1, "first", YES, SECONDS)


def late_yes_under_way(desk: Desk) -> None:
    """It waits for the settlement of the next attempt, which fails."""
    desk.claim(seconds=-1)
    queued = decision(Status.QUEUED, unknowns=1)
    desk.change(queued, EXPIRED, nonce=None, expired=True)
    desk.claim(1)
    desk.store.record_late_yes(desk.id, 1, "first", YES, SECONDS)
    failed = decision(Status.UNCERTAIN, reason="rejected", unknowns=1)
    desk.change(failed, NO, token=2)


def event_after(desk: Desk) -> None:
    desk.uncertain()
    desk.event()
    desk.event(EventType.OPENED)


def event_under_way(desk: Desk) -> None:
    desk.claim()
    desk.event()
    desk.change(UNKNOWN_ENDS, LOST)


def event_under_way_of_a_pinned_one(desk: Desk) -> None:
    desk.claim()
    desk.event()
    pin = Pin(vendor="first", key="k", remaining=60)
    desk.change(decision(Status.QUEUED, pin=pin), LOST)


def cancelled(desk: Desk) -> None:
    assert desk.stage.producer.cancel(str(desk.id))
    assert desk.stage.producer.cancel(str(desk.id))


def cancelled_by_an_operator(desk: Desk) -> None:
    desk.intervene(Verb.CANCEL)


def cancelled_late(desk: Desk) -> None:
    """A copy may have left."""
    desk.claim()
    desk.change(decision(Status.QUEUED, unknowns=1), LOST)
    assert not desk.stage.producer.cancel(str(desk.id))


def marked_as_sent(desk: Desk) -> None:
    desk.uncertain()
    desk.intervene(Verb.MARK_SENT)


def retried(desk: Desk) -> None:
    """That is no end; the next one is."""
    desk.uncertain()
    desk.intervene(Verb.RETRY)
    desk.intervene(Verb.CANCEL)


def written_twice(desk: Desk) -> None:
    """As after a lost reply, in a turn of its own; and by another process, which was too late."""
    settled(desk)
    desk.change(decision(Status.SENT), YES)
    desk.id = ObjectId(desk.stage.send(request_id="r-1")[0])
    expired_in_the_queue(desk)
    expired_in_the_queue(desk)


PATHS: list[tuple[Callable[[Desk], None], list[tuple[str, str | None]]]] = [
    (settled, [("sent", None)]),
    (rejected, [("failed", "rejected")]),
    (expired_in_the_queue, [("failed", "expired")]),
    (rescued, [("uncertain", "unknown")]),
    (set_aside, [("failed", "unreadable")]),
    (claim_refused, [("uncertain", "unreadable")]),
    (late_yes, [("uncertain", "unknown"), ("sent", None)]),
    (late_yes_under_way, [("sent", None)]),
    (event_after, [("uncertain", "unknown"), ("sent", None)]),
    (event_under_way, [("sent", None)]),
    (event_under_way_of_a_pinned_one, [("sent", None)]),
    (cancelled, [("cancelled", "cancelled")]),
    (cancelled_by_an_operator, [("cancelled", "cancelled")]),
    (cancelled_late, [("uncertain", "cancelled")]),
    (marked_as_sent, [("uncertain", "unknown"), ("sent", "marked_sent")]),
    (retried, [("uncertain", "unknown"), ("uncertain", "cancelled")]),
]


@pytest.fixture
def desk(stage: Stage) -> Iterator[Desk]:
    stage.vendor("first")
    made = Desk(stage.config, stage)
    yield made
    made.store.close()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[..., list[Document]]:
    """The facts of the lines about these events."""
    caplog.set_level(logging.INFO, "mailqueue")

    def find(*names: str) -> list[Document]:
        return [
            {"event": event(record), **vars(record)["facts"]}
            for record in caplog.records
            if event(record) in names
        ]

    return find


@pytest.mark.parametrize("act, ends", PATHS, ids=[act.__name__ for act, _ in PATHS])
def test_every_path_to_an_end_tells_it_once_when_it_is_stored(
    act: Callable[[Desk], None],
    ends: list[tuple[str, str | None]],
    desk: Desk,
    lines: Callable[..., list[Document]],
) -> None:
    stored = StoredEnds(desk.store.emails)
    act(desk)
    told = lines(*ENDS)
    assert [(end["event"], end.get("reason")) for end in told] == [
        (f"email.{status}", reason) for status, reason in ends
    ]
    assert {(end["id"], end["request_id"]) for end in told} == {(str(desk.id), "r-1")}
    assert stored.counts == Counter((str(desk.id), status) for status, _ in ends)
    stored.close()


def test_what_is_written_again_or_by_another_process_is_not_told_again(
    desk: Desk, lines: Callable[..., list[Document]]
) -> None:
    written_twice(desk)
    assert [end["event"] for end in lines(*ENDS)] == ["email.sent", "email.failed"]


def test_an_own_end_is_told_and_not_what_another_process_wrote_alike_beside_it(
    desk: Desk, lines: Callable[..., list[Document]]
) -> None:
    others = ObjectId(desk.stage.send()[0])
    expired = decision(Status.FAILED, reason="expired")
    other = Change(id=others, token=0, decision=expired, sending=False)
    with closing(Store(desk.config.mongodb, env=PRODUCTION, callbacks=None)) as store:
        store.write([other], seconds=SECONDS)
    desk.claim()
    own = Change(
        id=desk.id,
        token=1,
        decision=decision(Status.SENT),
        result=YES,
        nonce=desk.nonce,
        vendor="first",
    )
    assert desk.store.write([own, other], seconds=SECONDS)[0] == {desk.id, others}
    ends = [(end["event"], end["id"]) for end in lines(*ENDS)]
    assert ends == [("email.failed", str(others)), ("email.sent", str(desk.id))]


def test_an_end_whose_reply_was_lost_is_told_by_the_next_try(
    desk: Desk, lines: Callable[..., list[Document]], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.claim()
    write = desk.store.bulk.write_counted

    def lose_reply(*arguments: Any) -> Any:
        write(*arguments)
        raise StoreUnavailable("lost")

    with monkeypatch.context() as patch:
        patch.setattr(desk.store.bulk, "write_counted", lose_reply)
        with pytest.raises(StoreUnavailable):
            desk.change(decision(Status.SENT), YES)
    assert lines(*ENDS) == []
    desk.change(decision(Status.SENT), YES)
    assert [end["event"] for end in lines(*ENDS)] == ["email.sent"]


@pytest.mark.parametrize(
    "act",
    [
        lambda desk: desk.event(),
        lambda desk: desk.store.record_late_yes(desk.id, 1, "first", YES, SECONDS),
    ],
    ids=["an event", "an answer"],
)
def test_a_late_yes_is_told_where_its_first_reply_was_lost(
    act: Callable[[Desk], None],
    desk: Desk,
    lines: Callable[..., list[Document]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its repeat matches nothing: the first try did it."""
    desk.uncertain()
    write, written = desk.store.bulk._write_once, list[Any]()

    def lose_first_reply(updates: Any) -> Any:
        answer = write(updates)
        if updates not in written:
            written.append(updates)
            raise AutoReconnect("lost")
        return answer

    monkeypatch.setattr(desk.store.bulk, "_write_once", lose_first_reply)
    act(desk)
    assert [end["event"] for end in lines("email.sent")] == ["email.sent"]


def test_who_can_end_an_email_is_known() -> None:
    """Whatever notes an end for callbacks tells it, too; a new place joins ``PATHS`` above."""
    places = set()
    for name, tree in MODULES.items():
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            calls = {ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)}
            ends = ("noting.with_end", "change_writes", "aside_writes")
            if any(call.endswith(ends) for call in calls):
                places.add(f"{name}: {function.name}")
    assert places == {
        "store.merging: change_writes",
        "store.merging: aside_writes",
        "store.store: write",
        "store.store: _change_writes",  # the same
        "store.bulk: write_in_short",  # the same
        "store.store: cancel",
        "store.store: record_late_yes",
        "store.store: intervene",
        "events.event_store: _yes_write",
    }


def test_a_failed_attempt_says_what_comes_next(
    desk: Desk, lines: Callable[..., list[Document]]
) -> None:
    desk.claim()
    down = SendResult(outcome=Outcome.UNAVAILABLE, code="503", detail="secret words")
    then = decision(Status.QUEUED, delay=31.26, round=Round(n=1))
    desk.change(then, down, seconds=0.0284)
    (line,) = lines("attempt.failed")
    assert line == {
        "event": "attempt.failed",
        "id": str(desk.id),
        "vendor": "first",
        "outcome": "unavailable",
        "code": "503",
        "next": "new_round",
        "seconds": 31.3,
        "ms": 28.4,
        "request_id": "r-1",
    }


def test_an_attempt_that_a_vendors_event_has_settled_did_not_fail(
    desk: Desk, lines: Callable[..., list[Document]]
) -> None:
    event_under_way(desk)
    assert lines("attempt.failed") == []
    assert lines("email.sent")[0]["late"] is True


# The producers -----------------------------------------------------------------------------------


def test_every_producer_logs_the_id_of_what_it_stores(
    stage: Stage, lines: Callable[..., list[Document]]
) -> None:
    """Once for a repeat with the same key, and not for what is refused."""
    stage.vendor("first")
    producer = stage.producer
    stored = [producer.send(letter(1), request_id="r-1")]
    stored += producer.send_many([letter(2), letter(3)])
    stored += [str(each) for each in producer.send_each([{"email": letter(4)}])]
    stored.append(producer.send(letter(5), idempotency_key="k"))
    assert producer.send(letter(5), idempotency_key="k") == stored[-1]

    async def send() -> list[str]:
        async with AsyncProducer(stage.config) as aio:
            one = await asyncio.gather(*[aio.send(letter(n), request_id="r-2") for n in (6, 7)])
            return [*one, *await aio.send_many([letter(8)])]

    stored += asyncio.run(send())
    told = lines("email.stored")
    assert sorted(line["id"] for line in told) == sorted(stored)
    assert told[0] == {"event": "email.stored", "id": stored[0], "request_id": "r-1"}
    assert [line.get("request_id") for line in told].count("r-2") == 2


def test_a_log_handler_that_sends_does_so_once(
    stage: Stage, lines: Callable[..., list[Document]]
) -> None:
    """Its own e-mail has no line, of which it would send another."""
    stage.vendor("first")
    producer: Producer = stage.producer
    stored: list[str] = []

    class Sender(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if event(record) == "email.stored":
                stored.append(producer.send(letter(1)))

    handler = Sender()
    logging.getLogger("mailqueue").addHandler(handler)
    try:
        first = producer.send(letter(0))
    finally:
        logging.getLogger("mailqueue").removeHandler(handler)
    assert len(stored) == 1
    assert [line["id"] for line in lines("email.stored")] == [first]
    assert stage.emails.count_documents({}) == 2


# The application's hook --------------------------------------------------------------------------


def consume(stage: Stage, on_event: Callable[[EmailEnd], object]) -> Consumer:
    consumer = Consumer(stage.config, burst=True, on_event=on_event)
    assert consumer.run() == 0
    return consumer


def test_a_hook_hears_of_each_end_once_it_is_stored(stage: Stage) -> None:
    vendor = stage.vendor("first")
    vendor.replies = [BAD_REQUEST]
    (failed,) = stage.send(request_id="r-1")
    heard: list[tuple[EmailEnd, str]] = []

    def hear(end: EmailEnd) -> None:
        heard.append((end, stage.document(end.id)["status"]))

    consume(stage, hear)
    sent = stage.send(3)
    consume(stage, hear)
    assert [status for _, status in heard] == [str(end.status) for end, _ in heard]
    (first, _), *others = heard
    assert (first.id, first.event, first.status, first.request_id) == (
        *(failed, "email.failed", Status.FAILED, "r-1"),
    )
    assert (first.reason, first.vendor) == ("refused_by_all", "first")
    assert abs(datetime.now(UTC) - first.at) < timedelta(minutes=1)
    assert sorted(end.id for end, _ in others) == sorted(sent)
    assert {(end.event, end.vendor, end.reason) for end, _ in others} == {
        ("email.sent", "first", None)
    }
    assert "example" not in repr(heard)


def test_a_hook_that_raises_changes_nothing(
    stage: Stage, lines: Callable[..., list[Document]]
) -> None:
    stage.vendor("first")
    email_ids = stage.send(20)
    heard = []

    def fail(end: EmailEnd) -> None:
        heard.append(end.id)
        raise SystemExit("ann@example.org")

    consume(stage, fail)
    assert stage.statuses() == {"sent": 20}
    assert sorted(heard) == sorted(email_ids)
    raised = lines("hook.raised")
    assert {line["error"] for line in raised} == {"SystemExit"}
    assert "ann@" not in str(raised)


def test_a_hook_that_hangs_delays_nothing_and_what_has_no_room_is_counted(
    stage: Stage, lines: Callable[..., list[Document]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "ROOM", 5)
    monkeypatch.setattr("mailqueue.consumer.consumer.HOOK_SECONDS", 0.1)
    stage.vendor("first")
    stage.send(20)
    gate, heard = threading.Event(), []

    def hang(end: EmailEnd) -> None:
        heard.append(end)
        gate.wait()

    consume(stage, hang)
    assert stage.statuses() == {"sent": 20}
    assert stage.jobs() == {}
    assert len(lines("email.sent")) == 20
    assert [line["room"] for line in lines("hook.full")] == [5]
    (line,) = lines("hook.not_finished")
    assert line["unheard"] == 19
    gate.set()
    wait_until(lambda: "hook" not in {thread.name for thread in threading.enumerate()})
    assert len(heard) == 1  # what waited at the stop is not heard later


def test_without_a_hook_there_is_no_thread(stage: Stage) -> None:
    stage.vendor("first")
    consumer = Consumer(stage.config, burst=True)
    assert consumer.run() == 0
    assert consumer._hook is None  # what the test is about
    assert "hook" not in {thread.name for thread in threading.enumerate()}
