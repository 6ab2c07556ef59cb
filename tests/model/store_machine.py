"""The rules by which workers, sweeper, callers and operators act on the real store.

Vendors and tube are in memory, MongoDB is a private one; the workers are the product's own, moved
step by step (see ``stepping``). Time passes only when a rule says so: stored times are set back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Literal

from bson import ObjectId
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from pymongo import MongoClient

from mailqueue.config import Config, VendorConfig
from mailqueue.consumer.sweeper import Sweeper
from mailqueue.consumer.writer import Writer
from mailqueue.events import EventStore
from mailqueue.lifecycle.outcomes import NORMAL, Status
from mailqueue.message import Email
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.router import Router
from mailqueue.store import document
from mailqueue.store.interventions import Verb
from mailqueue.store.store import Store
from mailqueue.vendors.events.source import EventType, VendorEvent
from tests.ends import StoredEnds, Told
from tests.model.memory_tube import Line, MemoryTube
from tests.model.promises import Promises
from tests.model.stepping import (
    ANSWERS,
    AWAY,
    DEAD,
    IDLE,
    LATE,
    NO_ANSWER,
    REPEATED,
    WRITES,
    YES,
    YES_LOST,
    FakeVendor,
    KeyedVendor,
    SteppedStore,
    SweeperActor,
    Truth,
    WorkerActor,
    earlier_times,
)

Stored = dict[str, Any]

FIRST = VendorConfig(name="first", type="smtp", keys={"host": "127.0.0.1"})
SECOND = VendorConfig(name="second", type="smtp", keys={"host": "127.0.0.1"})
KEYED = VendorConfig(name="keyed", type="tests.model.stepping:KeyedVendor")
ASKED = VendorConfig(name="asked", type="tests.model.stepping:FakeVendor")
CASTS = ((FIRST, SECOND), (FIRST, KEYED), (FIRST, ASKED), (KEYED, ASKED), (FIRST,))

PEOPLE = ["bob@example.org", "eve@example.org"]
EMAIL = Email(from_="ann@example.com", to=PEOPLE, subject="Hi", text="Hello").to_mapping()
workers = st.integers(0, 2)
emails = st.integers(0, 2)
answers = st.sampled_from([YES, YES, YES_LOST, *ANSWERS])
faults = st.sampled_from(["", "", "", "", REPEATED, NO_ANSWER, AWAY, LATE])
stops = st.sampled_from([IDLE, "claim", "send", "change", "end"])
verbs = st.sampled_from([*[Verb.RETRY] * 6, Verb.CANCEL, Verb.MARK_SENT])
PAUSED_AT, HEIRS_AT = ("claim", "send", "change"), ("claim", "send", "change", IDLE)
pauses = st.sampled_from([11, 130, 4000, 90_000])


class StoreMachine(RuleBasedStateMachine):
    """Three workers and a sweeper over up to three e-mails."""

    def __init__(self, config: Config, client: MongoClient[Stored]) -> None:
        super().__init__()
        self.client, self.clock = client, 0.0
        self.settings, self.places = config, client[config.mongodb.database]
        self.ids: list[ObjectId] = []
        self.truth, self.tube = Truth(), MemoryTube()
        self.actors: list[WorkerActor | SweeperActor] = []
        self.store = Store(config.mongodb, env=document.SIMULATED, client=client)
        self.event_store, self.numbers = EventStore(config, self.store), count()
        for suffix in ("", ".vendors", ".leases", ".events"):
            self.store.collection(suffix).delete_many({})
        self.stored_ends, self.told, self.is_told = StoredEnds(self.store.emails), Told(), True
        self.told.by(self.store)

    @initialize(cast=st.sampled_from(CASTS), policy=st.sampled_from(["resend", "park"]))
    def begin(self, cast: tuple[VendorConfig, ...], policy: Literal["resend", "park"]) -> None:
        self.config = self.settings.replace(
            vendors=list(cast),
            delivery={"on_unknown": policy},
            retry={"max_attempts": 4},
            consumer={"concurrency": 2},
        )
        self.promises = Promises(self.truth, most=2 if policy == "resend" else 1)
        self.actors = [self._worker() for _ in range(3)]
        self.actors.append(self._sweeper())
        self.send(None, announced=True)

    # The cast ----------------------------------------------------------------------------------

    def _worker(self) -> WorkerActor:
        actor = WorkerActor()
        store, routing, vendors = self._parts(actor.pause)
        worker = Writer(self.config, store, routing, owner=str(ObjectId()), clock=lambda: actor.now)
        actor.begin(worker, Line(self.tube, actor.pause), vendors)
        return actor

    def _sweeper(self) -> SweeperActor:
        actor = SweeperActor(self.tube)
        store, routing, _ = self._parts(actor.pause)
        actor.begin(Sweeper(self.config, store, routing, actor, owner=str(ObjectId())))
        return actor

    def _parts(
        self, pause: Callable[[str], str]
    ) -> tuple[SteppedStore, Router, dict[str, FakeVendor]]:
        options = {"env": document.SIMULATED, "client": self.client}
        store = SteppedStore(pause, self.truth, settings=self.config.mongodb, **options)
        self.told.by(store)
        vendors: dict[str, FakeVendor] = {}
        for entry in self.config.vendors:
            kind = KeyedVendor if entry.name == "keyed" else FakeVendor
            asked = entry.name == "asked"
            vendors[entry.name] = kind(entry, pause, self.truth, asked=asked)
        health = VendorHealth(store, vendors, clock=lambda: self.clock)
        return store, Router(self.config, health, dict(vendors), rand=lambda: 0.9), vendors

    # An application ----------------------------------------------------------------------------

    @precondition(lambda self: len(self.ids) < 3)
    @rule(
        expires_in=st.sampled_from([None, None, 100]),
        announced=st.sampled_from([True, True, False]),
    )
    def send(self, expires_in: int | None, announced: bool) -> None:
        """The put after the store may be lost."""
        email_id, now = ObjectId(), datetime.now(UTC)
        expires_at = None if expires_in is None else now + timedelta(seconds=expires_in)
        names: Any = {"email_id": email_id, "message_id": f"<{email_id}@example.com>"}
        made = document.new(
            EMAIL,
            **names,
            env=document.SIMULATED,
            content_hash="",
            priority=NORMAL,
            now=now,
            expires_at=expires_at,
        )
        self.store.insert([made])
        self.ids.append(email_id)
        if announced:
            self.tube.put(email_id, NORMAL)

    # Workers and the sweeper -------------------------------------------------------------------

    @rule(n=st.integers(0, 3), answer=answers, fault=faults)
    def step(self, n: int, answer: str, fault: str) -> None:
        """One outside call."""
        self._step(n, answer, fault)

    @rule(n=workers, answer=answers, until=stops)
    def work(self, n: int, answer: str, until: str) -> None:
        """As many as it takes to come before a certain one."""
        self._go_on(n, answer, until)

    @rule(n=workers, answer=answers)
    def finish(self, n: int, answer: str) -> None:
        self._go_on(n, answer, IDLE)

    @rule()
    def sweep(self) -> None:
        self._go_on(3, YES, IDLE)

    @rule(n=st.integers(0, 3))
    def crash(self, n: int) -> None:
        """Another one is started; it knows nothing."""
        self.is_told = False  # what it had stored, but not told
        self.actors[n].kill()
        self.actors[n] = self._sweeper() if n == 3 else self._worker()

    def _go_on(self, n: int, answer: str, until: str) -> None:
        for _ in range(40):
            self._step(n, answer)
            if self.actors[n].at in (until, IDLE):
                break

    def _step(self, n: int, answer: str = YES, fault: str = "") -> None:
        actor = self.actors[n]
        assert actor.at != DEAD
        if actor.at == IDLE:
            self.clock += 2  # so that the vendors' health is read anew
        told = answer if actor.at in ("send", "ask") else ""
        if (actor.at in WRITES and fault != LATE) or (actor.at == "deliver" and fault == LATE):
            told = fault
        actor.step(told)

    # What happens to them ----------------------------------------------------------------------

    @rule(n=workers, at=st.sampled_from(["send", "change"]), answer=answers, rescued=st.booleans())
    def stall(self, n: int, at: str, answer: str, rescued: bool) -> None:
        """Paused beyond its lease: before the send, or before the result is written."""
        self._go_on(n, answer, at)
        self._lose_leases()
        if rescued:
            self.sweep()

    @rule(
        n=workers,
        at=st.sampled_from(PAUSED_AT),
        heirs_at=st.sampled_from(HEIRS_AT),
        answer=answers,
        heirs=answers,
        early=st.booleans(),
    )
    def take_over(
        self, n: int, at: str, heirs_at: str, answer: str, heirs: str, early: bool
    ) -> None:
        """A worker is paused until another has its job, ``early`` or not; then both go on."""
        self._go_on(n, answer, at)
        if not early:
            self._lose_leases()
        self.tube.run_out()
        heir = (n + 1) % 3
        for until in (IDLE, heirs_at):
            self._go_on(heir, heirs, until)
        for each, told in ((n, answer), (heir, heirs)):
            self._go_on(each, told, IDLE)
            self.promises_are_kept()

    def _lose_leases(self) -> None:
        long_ago = {"$set": {"lease.until": datetime(2020, 1, 1, tzinfo=UTC)}}
        self.store.emails.update_many({"status": Status.SENDING.value}, long_ago)
        self.promises_are_kept()

    @rule(seconds=pauses)
    def pass_time(self, seconds: int) -> None:
        """Every stored time is so much earlier."""
        for suffix in ("", ".vendors", ".leases"):
            collection = self.store.collection(suffix)
            for stored in collection.find():
                if earlier := dict(earlier_times(stored, timedelta(seconds=seconds))):
                    collection.update_one({"_id": stored["_id"]}, {"$set": earlier})
        self.tube.pass_time(seconds)
        self.clock += seconds
        self.promises_are_kept()

    @rule(n=emails, what=st.sampled_from(["double", "early", "lost"]))
    def upset_tube(self, n: int, what: str) -> None:
        """Early: those delayed are ready, those reserved too, as their time to run is over."""
        if what == "double":
            self.tube.put(self.ids[n % len(self.ids)], NORMAL)
        elif what == "early":
            self.tube.pass_time(1e9)
            self.tube.run_out()
        else:
            self.tube.forget()

    # People ----------------------------------------------------------------------------------

    @rule(n=emails, verb=verbs)
    def intervene(self, n: int, verb: Verb) -> None:
        email_id = self.ids[n % len(self.ids)]
        status = self._document(email_id)["status"]
        if verb is Verb.CANCEL:
            cancelled = self.store.cancel(email_id)
            assert cancelled == (self._document(email_id)["status"] == Status.CANCELLED)
        elif self.store.intervene([email_id], verb, ObjectId()) and verb is Verb.RETRY:
            self.promises.retries[email_id] += status == Status.UNCERTAIN
            self.tube.put(email_id, NORMAL)

    @precondition(lambda self: self.truth.taken_for)
    @rule(which=st.integers(0, 9), kind=st.sampled_from(["sent", "delivered", "bounced_hard"]))
    def event(self, which: int, kind: str) -> None:
        """A vendor tells of a copy that it took, before or after its answer was written down.

        One that decides about each recipient apart tells of the first one.
        """
        (email_id, vendor), who = sorted(self.truth.taken_for.items())[
            which % len(self.truth.taken_for)
        ]
        number = next(self.numbers)
        told = VendorEvent(
            key=str(number),
            type=EventType(kind),
            email_id=str(email_id),
            recipient=min(who),
            message_id="id",
            proves_one=who != set(PEOPLE),
        )
        self.event_store.record(vendor, [told])

    @rule(n=emails, seconds=st.sampled_from([-10, 100, 5000]))
    def reschedule(self, n: int, seconds: int) -> None:
        """Of what nobody has tried yet; workers that have read it may not know (``promises``)."""
        email_id = self.ids[n % len(self.ids)]
        before, send_at = self._document(email_id), self.store.now() + timedelta(seconds=seconds)
        rescheduled = self.store.reschedule(email_id, send_at)
        never_tried = before["status"] == Status.QUEUED and not before["attempts"]
        expires_at = before.get("expires_at")
        assert rescheduled == (never_tried and (expires_at is None or expires_at > send_at))
        if rescheduled:
            self.tube.put(email_id, NORMAL, max(0, seconds))

    # What must hold ----------------------------------------------------------------------------

    @invariant()
    def promises_are_kept(self) -> None:
        found = {stored["_id"]: stored for stored in self.store.emails.find()}
        assert found.keys() == set(self.ids), "an e-mail was lost"
        for stored in found.values():
            self.promises.check(stored)

    def _document(self, email_id: ObjectId) -> Stored:
        found: Stored | None = self.store.emails.find_one({"_id": email_id})
        assert found is not None, "an e-mail was lost"
        return found

    def teardown(self) -> None:
        """Were every job lost now, one undisturbed consumer would bring every e-mail to its end."""
        for actor in self.actors:
            actor.kill()
        if not self.actors:
            return
        self.tube.forget()
        self.actors = [self._worker(), self._sweeper()]
        try:
            for _ in range(30):
                if all(Status(self._document(i)["status"]).final for i in self.ids):
                    break
                self.pass_time(4000)
                self._go_on(1, YES, IDLE)
                for _ in range(4):
                    self._go_on(0, YES, IDLE)
                self.promises_are_kept()
            else:
                raise AssertionError("an e-mail did not come to its end")
            self.promises_are_kept()
            self.every_end_was_told()
        finally:
            self.stored_ends.close()
            for actor in self.actors:
                actor.kill()

    def every_end_was_told(self) -> None:
        """Once each, and nothing else; of what a killed worker stored nobody may have heard."""
        stored, told = self.stored_ends.counts, self.told.counts
        assert told - stored == Counter(), f"{told - stored} {stored - told}"
        assert stored - told == Counter() or not self.is_told
