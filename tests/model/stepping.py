"""The product's own threads and Sweeper, moved one outside call at a time by a test.

Decides: where an actor can be stopped. Before each look at MongoDB, each write, each call of a
vendor and each word to the tube it waits until it is told to go on, and with what result. So an
actor that is left alone is paused, one that is killed has crashed there, and those of several
interleave as the test likes. Each actor is a thread, but only one of them ever runs.

Assumes: one test's thread does all the telling. MongoDB is real; tube and vendors are in memory.

Promises: nothing here waits for a clock. ``Killed`` is no ``Exception``, so that no handler of the
product's can mistake a crash for trouble.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId

from mailqueue.config import VendorConfig
from mailqueue.consumer.sweeper import Sweeper
from mailqueue.consumer.writer import Writer
from mailqueue.errors import StoreUnavailable, Unavailable
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.queue.broker import Announcement, Receiver
from mailqueue.store.bulk import BulkWriter
from mailqueue.store.store import Store
from mailqueue.store.transitions import Aside, Change, Claim
from mailqueue.vendors.base import Attempt, Vendor
from tests.model.memory_tube import Line, MemoryTube

IDLE, DEAD = "idle", "dead"
REPEATED, NO_ANSWER, AWAY, LATE = "repeated", "no answer", "away", "late"
WRITES = ("claim", "change", "late yes", "looked up")


TIMES = [
    *("due_at", "send_at", "expires_at", "clock_from", "created_at", "updated_at"),
    *("lease.until", "pin.until", "announced.at", "overdue_at"),
    *("until", "unavailable_until", "retry_after_until", "since", "probe_at", "probe_until"),
    *("hint_at", "last_resort_at"),
]


class Killed(BaseException):
    """The process is gone."""


class Actor:
    """A thread that runs only from one pause to the next, when it is told to."""

    def __init__(self) -> None:
        self.at = IDLE
        self._told = ""
        self._killed = False
        self._error: BaseException | None = None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, life: Callable[[], None]) -> None:
        """Begin; ``life`` runs to its first pause."""
        self._life = life
        self._thread.start()
        self._paused.acquire()

    def step(self, told: str = "") -> None:
        """Go on to the next pause; what went wrong on the way is raised here."""
        self._told = told
        self._go.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error

    def kill(self) -> None:
        """End it where it stands."""
        self._killed = True
        self._go.release()
        self._thread.join()

    def pause(self, at: str) -> str:
        """Called by the actor itself: wait to be told to go on, and how."""
        if self._killed:
            raise Killed
        self.at = at
        self._paused.release()
        self._go.acquire()
        if self._killed:
            raise Killed
        return self._told

    def _run(self) -> None:
        try:
            self._life()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  # it is raised again in the test's thread
            self._error = error
        self.at = DEAD
        self._paused.release()


@dataclass
class Truth:
    """What really happened, whatever is written down: copies by e-mail and recipient, claims."""

    copies: Counter[tuple[ObjectId, str]] = field(default_factory=Counter)
    calls: Counter[tuple[ObjectId, str]] = field(default_factory=Counter)
    keys: set[tuple[str, str]] = field(default_factory=set)
    at_vendor: set[tuple[ObjectId, str]] = field(default_factory=set)
    owners: set[tuple[ObjectId, int]] = field(default_factory=set)
    recorded: set[ObjectId] = field(default_factory=set)
    taken_for: dict[tuple[ObjectId, str], set[str]] = field(default_factory=dict)

    def take(self, vendor: str, email_id: ObjectId, key: str | None, who: Sequence[str]) -> None:
        """The vendor takes an e-mail; one that knows the key takes no second copy."""
        self.at_vendor.add((email_id, vendor))
        self.taken_for.setdefault((email_id, vendor), set()).update(who)
        if key is not None and (vendor, key) in self.keys:
            return
        if key is not None:
            self.keys.add((vendor, key))
        self.copies.update((email_id, one) for one in who)


class SteppedStore(Store):
    """The real store, with a pause before each read and write.

    A write may be executed twice (``REPEATED``: its first reply was lost), executed without an
    answer (``NO_ANSWER``), or not at all (``AWAY``).
    """

    def __init__(self, pause: Callable[[str], str], truth: Truth, **options: Any) -> None:
        super().__init__(**options)
        self._pause, self._truth, self._what = pause, truth, ""
        self.bulk = SteppedBulk(self._pause_for, self, self.emails, self.env, self.noting)

    def _pause_for(self, what: str = "") -> str:
        return self._pause(what or self._what)

    def read(self, *given: Any, **more: Any) -> Any:
        self._pause("read")
        return super().read(*given, **more)

    def find(self, *given: Any) -> Any:
        self._pause("find")
        return super().find(*given)

    def write(
        self, changes: Sequence[Change | Aside], claims: Sequence[Claim] = (), **options: Any
    ) -> tuple[set[ObjectId], set[ObjectId]]:
        self._what = "claim" if claims else "change"
        written, won = super().write(changes, claims, **options)
        self._note_claims(claims, won)
        self._note_changes(changes, written)
        return written, won

    def _note_claims(self, claims: Sequence[Claim], won: set[ObjectId]) -> None:
        mine = {(c.id, c.token + 1) for c in claims if c.id in won}
        assert not mine & self._truth.owners, "two workers were told that a claim is theirs"
        self._truth.owners |= mine

    def _note_changes(self, changes: Sequence[Change | Aside], written: set[ObjectId]) -> None:
        done = [c for c in changes if isinstance(c, Change) and c.id in written]
        yes = {c.id for c in done if _whole_yes(c.result)}
        self._truth.recorded |= yes

    def record_late_yes(self, email_id: ObjectId, *given: Any) -> None:
        self._what = "late yes"
        super().record_late_yes(email_id, *given)
        self._truth.recorded.add(email_id)

    def record_look_up(self, *given: Any) -> None:
        self._what = "looked up"
        super().record_look_up(*given)


class SteppedBulk(BulkWriter):
    """Writes as the pause before says."""

    def __init__(self, pause: Callable[..., str], *given: Any) -> None:
        super().__init__(*given)
        self._pause = pause

    def ids_won(self, *given: Any) -> set[ObjectId]:
        self._pause("read back")
        return super().ids_won(*given)

    def ids_written(self, *given: Any) -> set[ObjectId]:
        self._pause("read back")
        return super().ids_written(*given)

    def write_counted(self, writes: Any, seconds: float) -> tuple[int, set[ObjectId], bool]:
        told = self._pause()
        if told in (REPEATED, NO_ANSWER):
            super().write_counted(writes, seconds)
        if told in (NO_ANSWER, AWAY):
            raise StoreUnavailable(told)
        matched, refused, is_repeated = super().write_counted(writes, seconds)
        return matched, refused, is_repeated or told == REPEATED


def _whole_yes(result: SendResult | None) -> bool:
    return result is not None and result.outcome is Outcome.ACCEPTED and not result.pending


LOST = SendResult(outcome=Outcome.UNKNOWN, code="connection_lost", answered=False)
YES, YES_LOST, NO_LOST, SOME, ALL_BUT = "yes", "yes, lost", "no, lost", "some", "all but one"
ANSWERS = {
    YES: SendResult(outcome=Outcome.ACCEPTED, message_id="theirs"),
    SOME: SendResult(outcome=Outcome.ACCEPTED, message_id="theirs"),
    ALL_BUT: SendResult(outcome=Outcome.ACCEPTED, message_id="theirs"),
    YES_LOST: LOST,
    NO_LOST: LOST,
    **{
        str(outcome): SendResult(outcome=outcome, code="no")
        for outcome in Outcome
        if outcome not in (Outcome.ACCEPTED, Outcome.UNKNOWN)
    },
}


class FakeVendor(Vendor):
    """Answers as it is told, and keeps the truth. One that is ``keyed`` de-duplicates."""

    def __init__(
        self, config: VendorConfig, pause: Callable[[str], str], truth: Truth, *, asked: bool
    ) -> None:
        super().__init__(config)
        self._pause, self._truth = pause, truth
        self.lookup = self._lookup if asked else None

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        who = attempt.recipients or tuple(a.address for a in email.recipients)
        email_id = ObjectId(attempt.email_id)
        told = self._pause("send")
        self._truth.calls[email_id, self.name] += 1
        if told in (SOME, ALL_BUT) and (len(who) < 2 or self.config.type != "smtp"):
            told = YES
        result = ANSWERS[told]
        taken = who[:1] if told in (SOME, ALL_BUT) else who
        if told in (YES, YES_LOST, SOME, ALL_BUT):
            self._truth.take(self.name, email_id, attempt.key, taken)
        left = who[1:]
        if told == SOME:
            return SendResult(outcome=result.outcome, message_id="theirs", pending=left)
        if told == ALL_BUT:
            return SendResult(outcome=result.outcome, message_id="theirs", refused=left)
        return result

    def _lookup(self, email: Email, attempt: Attempt) -> SendResult | None:
        known = (ObjectId(attempt.email_id), self.name) in self._truth.at_vendor
        return ANSWERS[YES] if self._pause("ask") == YES and known else None


class KeyedVendor(FakeVendor):
    """Documents that it takes one copy under a key."""

    key_life = 86_400.0


class _NoWaiting(threading.Event):
    """For whoever would wait a moment before the next look."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


class WorkerActor(Actor):
    """A consumer process without its sweeper."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def begin(self, worker: Writer, line: Line, vendors: dict[str, FakeVendor]) -> None:
        self._worker, self.line, self._vendors = worker, line, vendors
        worker.stopping = worker.fetcher._stopping = worker.sender._stopping = _NoWaiting()
        self.start(self._work)

    def kill(self) -> None:
        super().kill()
        self.line.close()

    def _work(self) -> None:
        worker = self._worker
        while True:
            self.pause(IDLE)
            with suppress(Unavailable):
                worker.fetcher.fetch(self.line)
            with suppress(Unavailable):
                if not worker.inbox.empty():
                    worker.turn(1.0)
            for _ in range(worker.sender.queue.qsize()):
                self.now += 61 if self.pause("deliver") == LATE else 0
                worker.sender.deliver(self._vendors)


class SweeperActor(Actor):
    """The sweeper of a consumer process, and the queue as it knows it."""

    max_delay = 1e9

    def __init__(self, tube: MemoryTube) -> None:
        super().__init__()
        self._tube = tube

    def begin(self, sweeper: Sweeper) -> None:
        self._sweeper = sweeper
        self.start(self._sweep)

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        self.pause("announce")
        for one in announcements:
            self._tube.put(one.email_id, one.priority, one.delay)
        return announcements

    def depth(self) -> dict[str, int]:
        return self._tube.depth()

    def receivers(self) -> Sequence[Receiver]:
        return ()

    def close(self) -> None:
        """Nothing is open."""

    def _sweep(self) -> None:
        while True:
            self.pause(IDLE)
            with suppress(Unavailable):
                self._sweeper.sweep()


def earlier_times(stored: dict[str, Any], by: timedelta) -> Iterator[tuple[str, datetime]]:
    """The times in a document, each by its path, set back as if so much time had passed."""
    for path in TIMES:
        value: Any = stored
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, datetime) and value.year > 2000:
            yield path, value - by
