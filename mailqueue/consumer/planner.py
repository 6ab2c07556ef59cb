"""What to do about a job, by what its e-mail is now.

Decides: for each reserved job, whether its e-mail is to be sent (a ``Task``: through which vendor)
or what else follows (an ``Ending``: a change to write, then delete, release or bury the job).

Assumes: the document was just read; the claim's guard will tell if it has changed since.

Promises: no e-mail is changed here. A probe that is won belongs to the ``Task``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from bson import ObjectId

from mailqueue.config import Delivery
from mailqueue.consumer.memory import Held
from mailqueue.errors import QueueUnavailable, StoreUnavailable, Unreadable
from mailqueue.lifecycle import decide
from mailqueue.lifecycle.outcomes import (
    CurrentAttempt,
    Decision,
    Reason,
    Snapshot,
    Status,
    retry_priority,
)
from mailqueue.logs import Once, event, place
from mailqueue.message import Email
from mailqueue.queue.tube import BURIED, DELETED, Connection, End, Job, released
from mailqueue.routing.rotation import Permit
from mailqueue.routing.router import LEASE_EXPIRED, NO_SLOT, Router
from mailqueue.store.document import Stored
from mailqueue.store.transitions import Aside, Change, Claim

logger = logging.getLogger(__name__)

OTHER_ENV_DELAY = 60.0
BUG_DELAY = 60.0


@dataclass(slots=True, kw_only=True, eq=False)
class Task:
    """An e-mail on its way to one vendor; ``nonce`` and ``deadline`` are those of its claim."""

    job: Job
    stored: Stored
    email: Email
    snapshot: Snapshot
    attempt: CurrentAttempt
    carriers: Sequence[str]
    permit: Permit
    nonce: ObjectId | None = None
    deadline: float = 0.0
    held: Held | None = None

    @property
    def vendor(self) -> str:
        """Who is asked."""
        return self.permit.vendor

    @property
    def claim(self) -> Claim:
        """The intent, as it is written down."""
        return Claim(
            id=self.stored.id,
            token=self.stored.token,
            vendor=self.vendor,
            key=self.attempt.key,
            probe=self.permit.probe is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """An e-mail whose last outcome is unknown: its vendor is asked before it is sent again."""

    job: Job
    stored: Stored
    email: Email
    vendor: str
    token: int
    held: Held | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What to do with a job, after ``change`` (if any) is written."""

    job: Job
    priority: int = 0
    delay: float | None = None
    bury: bool = False
    change: Change | Aside | None = None

    @classmethod
    def of(cls, job: Job, decision: Decision, change: Change) -> Ending:
        """Release the job of an e-mail that is queued again; delete any other."""
        delay = decision.delay if decision.status is Status.QUEUED else None
        return cls(job=job, priority=decision.priority, delay=delay, change=change)

    @property
    def end(self) -> End:
        """What becomes of the job."""
        if self.bury:
            return BURIED
        return DELETED if self.delay is None else released(self.priority, self.delay)


@dataclass(slots=True, eq=False)
class Waiting:
    """A job that waits for its turn, its e-mail as it was read, and what is to be done about it.

    ``email``, ``snapshot`` and ``carriers`` are what ``Planner`` found out on its way to that.
    """

    job: Job
    since: float
    tries: int = 0
    looked_at: float = -math.inf  # again, for a vendor that was full
    stored: Stored | None = None
    held: Held | None = None
    email: Email = field(init=False, repr=False)
    snapshot: Snapshot = field(init=False, repr=False)
    carriers: Sequence[str] = field(init=False, repr=False)
    seen: Task | Inquiry | Ending | None = None


Step = Callable[[Waiting, Stored], None]


class Planner:
    """Looks at jobs. Any thread may call; ``counts`` says what was odd.

    Each step is taken for all jobs before the next: a processor does one thing a hundred times in
    less time than everything a hundred times.
    """

    def __init__(self, env: str, delivery: Delivery, routing: Router) -> None:
        self._env = env
        self._delivery = delivery
        self._routing = routing
        self.counts = {"missing": 0, "foreign": 0}
        self._once = Once()
        self._odd_jobs = Once()  # whoever reaches the tube may put as many as they like

    def look(self, jobs: Iterable[Waiting]) -> None:
        """See what is to be done about each job; an e-mail has one ``Task``.

        Raises ``StoreUnavailable``; some may have a ``Task``, and its probe, all the same.
        """
        tasks: set[ObjectId] = set()
        found: list[tuple[Waiting, Stored]] = []
        for each in jobs:
            each.seen = None
            if each.stored is None:
                each.seen = self._without_email(each.job)
            else:
                found.append((each, each.stored))
        for step in (self._sort, self._read, self._recall, partial(self._route, tasks)):
            for each, stored in found:
                if each.seen is None:
                    self._take_step(step, each, stored)

    def choose_again(self, each: Waiting, taken: Collection[ObjectId]) -> None:
        """Choose a vendor anew for what had one, unless its e-mail is ``taken`` by another job.

        All else that was found out stays as it is. Raises ``StoreUnavailable``.
        """
        each.seen = None
        if each.stored is not None:
            self._take_step(partial(self._route, set(taken)), each, each.stored)

    def _take_step(self, step: Step, each: Waiting, stored: Stored) -> None:
        """One e-mail must not stop all others, and a bug of ours must not end an e-mail."""
        try:
            step(each, stored)
        except StoreUnavailable:
            raise
        except Unreadable as error:
            each.seen = Ending(job=each.job, change=set_aside(stored, error))
        except Exception as error:  # noqa: BLE001  # see above
            facts = {"id": str(stored.id), "error": type(error).__name__, "at": place(error)}
            event(logger, self._once.level(facts["at"]), "email.not_planned", **facts)
            each.seen = _later(each.job, stored, BUG_DELAY)

    def _without_email(self, job: Job) -> Ending:
        if job.email_id is None:
            self.counts["foreign"] += 1
            event(logger, self._odd_jobs.level(job.id), "job.foreign", job=job.id)
            return Ending(job=job, bury=True)
        self.counts["missing"] += 1
        level = self._odd_jobs.level(job.email_id)
        event(logger, level, "job.without_email", id=str(job.email_id))
        return Ending(job=job)

    def _sort(self, each: Waiting, stored: Stored) -> None:
        """What is not to be sent now."""
        if stored.env != self._env:
            event(logger, logging.ERROR, "email.of_other_env", id=str(stored.id))
            each.seen = _later(each.job, stored, OTHER_ENV_DELAY)
        elif (status := stored.status).final:
            each.seen = Ending(job=each.job)
        elif status is Status.SENDING:
            each.seen = self._leased(each.job, stored)
        elif stored.expires_in is not None and stored.expires_in <= 0:
            expired = decide.end(stored.snapshot(), Reason.EXPIRED)
            each.seen = _queued(each.job, stored, expired)
        elif stored.due_in > 0:
            each.seen = _later(each.job, stored, stored.due_in)

    def _leased(self, job: Job, stored: Stored) -> Ending:
        if stored.leased_for > 0:
            return _later(job, stored, stored.leased_for)
        decision = self._routing.after_expired_lease(stored, stored.email)
        return Ending.of(job, decision, rescue(stored, decision))

    def _read(self, each: Waiting, stored: Stored) -> None:
        """The e-mail itself and what was tried before; whether a vendor is asked about it first."""
        email = each.email = stored.email
        each.snapshot = stored.snapshot()
        line = stored.unasked
        if line is not None and self._routing.can_look_up(line["vendor"]):
            vendor, token = line["vendor"], line["token"]
            each.seen = Inquiry(
                job=each.job,
                stored=stored,
                email=email,
                vendor=vendor,
                token=token,
                held=each.held,
            )

    def _recall(self, each: Waiting, _stored: Stored) -> None:
        """Who can be tried."""
        each.carriers = self._routing.carriers(each.email, each.snapshot)

    def _route(self, tasks: set[ObjectId], each: Waiting, stored: Stored) -> None:
        """Choose the vendor whose turn it is."""
        if stored.id in tasks:
            each.seen = _later(each.job, stored, self._delivery.lease)
            return
        permit = self._routing.choose(each.job.id, each.carriers, each.snapshot)
        if permit is None:
            nobody = self._routing.decide(each.snapshot, None, None, each.carriers)
            each.seen = _queued(each.job, stored, nobody)
        elif permit is NO_SLOT:
            each.seen = self.later(each.job, stored)
        else:
            each.seen = self._task(each, stored, permit)
            tasks.add(stored.id)

    def _task(self, each: Waiting, stored: Stored, permit: Permit) -> Task:
        pin = each.snapshot.pin
        key = pin.key if pin is not None else str(stored.id)
        age = stored.key_age(permit.vendor, key)
        attempt = CurrentAttempt(vendor=permit.vendor, key=key, key_age=age)
        return Task(
            job=each.job,
            stored=stored,
            email=each.email,
            snapshot=each.snapshot,
            attempt=self._routing.with_vendor(attempt),
            carriers=each.carriers,
            permit=permit,
            held=each.held,
        )

    def later(self, job: Job, stored: Stored) -> Ending:
        """Out of the way of what can be sent now."""
        return _later(job, stored, self._routing.bulkheads.wait())


def set_aside(stored: Stored, error: Unreadable) -> Change | Aside:
    """End what can never be sent, so that a person sees it: as it must be, where that is known."""
    event(logger, logging.ERROR, "email.unreadable", id=str(stored.id), error=str(error))
    try:
        record, expired = stored.snapshot(), stored.leased_for <= 0
        if stored.status is Status.QUEUED:
            decision = decide.end(record, Reason.UNREADABLE)
            return Change(id=stored.id, token=stored.token, decision=decision, sending=False)
        if expired:
            unknown = replace(record, pin=None, unknowns=record.unknowns + 1)
            return rescue(stored, decide.end(unknown, Reason.UNREADABLE))
    except Unreadable:  # so is what is needed for that
        pass
    known = stored.document
    seen = {name: {"$eq": known[name]} for name in ("status", "lease") if name in known}
    return Aside(id=stored.id, seen=seen)


def rescue(stored: Stored, decision: Decision) -> Change:
    """The change that ends an expired lease."""
    return Change(
        id=stored.id,
        token=stored.token,
        decision=decision,
        result=LEASE_EXPIRED,
        expired=True,
    )


def conclude(endings: Iterable[Ending], written: Collection[ObjectId] = frozenset()) -> None:
    """End the jobs whose change, if there is one, is ``written``."""
    ends: dict[Connection, dict[int, End]] = {}
    for ending in endings:
        if ending.change is None or ending.change.id in written:
            ends.setdefault(ending.job.connection, {})[ending.job.id] = ending.end
    for connection, jobs in ends.items():
        quietly(partial(connection.finish, jobs))


def quietly(act: Callable[[], None]) -> None:
    """End a job; when the connection broke, the server has taken the job back by itself."""
    try:
        act()
    except QueueUnavailable as error:
        event(logger, logging.INFO, "job.not_ended", error=str(error))


def _queued(job: Job, stored: Stored, decision: Decision) -> Ending:
    change = Change(id=stored.id, token=stored.token, decision=decision, sending=False)
    return Ending.of(job, decision, change)


def _later(job: Job, stored: Stored, delay: float) -> Ending:
    return Ending(job=job, priority=job_priority(stored), delay=delay)


def job_priority(stored: Stored) -> int:
    """The job's priority: that of a retry once there was an attempt."""
    tried = stored.document.get("attempts")
    return retry_priority(stored.priority) if tried else stored.priority
