"""What fell through: expired leases, expired e-mails, lost jobs, and what is old enough to forget.

Decides: what a round does. It rescues e-mails whose lease ran out (their outcome is unknown), ends
those whose ``expires_at`` passed, lets go on what no hold keeps any more, announces what is due but
not on the tube, and prunes what ended long ago.

Assumes: announcing an e-mail twice is harmless. Every consumer has a sweeper; a lease in
``<collection>.leases`` lets one at a time work.

Promises: only guarded transitions, so that two active sweepers would do no harm. An e-mail that is
not final, or is ``uncertain``, is never deleted. Each round is bounded by pages.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from mailqueue.config import Config
from mailqueue.consumer.planner import end_queued, rescue, set_aside
from mailqueue.errors import QueueUnavailable, Unreadable
from mailqueue.lifecycle import decide
from mailqueue.lifecycle.outcomes import Reason, Status
from mailqueue.logs import Once, event, place
from mailqueue.queue.broker import Announcement, Broker
from mailqueue.routing.router import Router
from mailqueue.store.callbacks import NO_CALLBACK_DUE
from mailqueue.store.content import HAS_CONTENT, drop_write
from mailqueue.store.control import DRAIN, ControlStore
from mailqueue.store.document import Stored
from mailqueue.store.indexes import EPOCH
from mailqueue.store.lease import ProcessLease, lease_has_ended
from mailqueue.store.store import Store
from mailqueue.store.transitions import FINAL, Aside, Change

logger = logging.getLogger(__name__)

PAGE = 100  # e-mails read at once
LARGE = 2**18  # bytes; one that is larger is read alone
RESCUED = 20_000  # at most in a round
RELAYED_MOST = 20_000  # in memory
PREVIEWED = 20_000  # counted up to
RELAYED = 1000  # jobs announced together, or e-mails pruned together
LATER = 10 * 365 * 86400.0  # seconds: no e-mail that has a job is due later
RELAY_SECONDS = 5.0  # for announcing, at least
PRUNE_SHARE = 3  # pruning a status may take a third of the time between two rounds
JUST_NOW = timedelta(seconds=1)  # what became due only now may have its job on the way
ANNOUNCED_LATELY = timedelta(seconds=60)  # and is not announced again


class Sweeper:
    """One per consumer process; ``sweep`` is called by one thread."""

    def __init__(
        self, config: Config, store: Store, routing: Router, broker: Broker, *, owner: str
    ) -> None:
        self.rules = config, routing  # replaced together when the configuration is read again
        self._store = store
        self._broker = broker
        self._lease = ProcessLease(store, lease_name(store), owner, config.broker.place)
        self._controls = ControlStore(store)
        self._drained: frozenset[str] | None = None  # vendors, when what waits for any was put back
        self._routed = routing  # and by which rules
        self._dropped_until: dict[Status, datetime] = {}
        self._once = Once()
        self._end = math.inf  # of the round
        # Hears of each page that so many e-mails were changed, announced or deleted.
        self.advance: Callable[[int], object] = lambda _: None

    @property
    def _config(self) -> Config:
        return self.rules[0]

    @property
    def _routing(self) -> Router:
        return self.rules[1]

    def sweep(self, seconds: float = math.inf) -> Mapping[str, int]:
        """Do one round if the lease is mine; returns what was done, by name.

        After ``seconds`` no further page is begun. Raises ``StoreUnavailable``. Without the queue
        the rest of the round is done all the same.
        """
        self._end = time.monotonic() + seconds
        # One at a time: rounds of several would read the same e-mails for nothing.
        if not self._lease.take(2 * self._config.consumer.sweep_every):  # two rounds
            # By the configuration of before, this process held what others may send by now.
            if self._routed is not self._routing:
                self._put_back_drained()
            return {}
        counts = {"rescued": self._rescue(), "expired": self._expire()}
        try:
            counts["announced"] = self._put_back() + self._relay()
        except QueueUnavailable as error:
            event(logger, logging.INFO, "sweep.not_announced", error=str(error))
        counts["pruned"] = self._prune()
        if self._config.retention.content_days is not None:
            counts["dropped"] = self._drop(self._config.retention.content_days)
        if any(counts.values()):
            event(logger, logging.INFO, "sweep.finished", **counts)
        return counts

    def run_once(self, seconds: float = math.inf) -> Mapping[str, int]:
        """Do one round outside a consumer, and let another process sweep at once."""
        self._store.ensure_indexes()
        counts = self.sweep(seconds)
        self.close()
        return counts

    @property
    def _is_over(self) -> bool:
        return time.monotonic() > self._end

    def preview(self) -> Mapping[str, int]:
        """What a round would do now, each counted up to its page; nothing is changed."""
        now = self._store.now()
        counts = {
            "rescued": self._store.count(self._over(), RESCUED),
            "expired": self._store.count(self._past(now), PREVIEWED),
            "pruned": sum(self._store.count(match, PREVIEWED) for _, match in self._old(now)),
        }
        if (days := self._config.retention.content_days) is not None:
            old = {"updated_at": {"$lt": now - timedelta(days=days)}} | HAS_CONTENT
            ended = {"status": {"$in": FINAL}, "env": self._store.env}
            counts["dropped"] = self._store.count(ended | old, PREVIEWED)
        try:
            jobs = self._broker.depth()
        except QueueUnavailable:
            return counts
        if jobs is None:
            return counts | {"announced": 0}
        waiting = (*self._unannounced(now, jobs), *self._overdue(now))
        return counts | {"announced": len({stored.id for stored in waiting})}

    def close(self) -> None:
        """Let another process sweep at once."""
        self._lease.release()
        self._broker.close()

    # Leases and expiry -------------------------------------------------------------------------

    def _rescue(self) -> int:
        """End leases that ran out, page by page: what cannot be rescued holds up nobody."""
        rescued = 0
        # In the order of the index, and only what is small: nothing is sorted in memory.
        over = self._store.find_jobs(self._over(), RESCUED, "due_at", "_id")
        for start in range(0, len(over), PAGE):
            if self._is_over:
                break
            ids = [stored.id for stored in over[start : start + PAGE]]
            emails = self._store.read(ids, most=LARGE).values()
            rescued += self._rescue_all([stored for stored in emails if stored.size <= LARGE])
            for large in (stored for stored in emails if stored.size > LARGE):
                rescued += self._rescue_all(self._store.read([large.id]).values())  # one in memory
        return rescued

    def _rescue_all(self, emails: Iterable[Stored]) -> int:
        changes = {s.id: (s, c) for s in emails if (c := self._plan_rescue(s))}
        ids, _ = self._store.write([c for _, c in changes.values()])
        self.advance(len(ids))
        return sum(self._announce(*changes[email_id]) for email_id in ids)

    def _over(self) -> dict[str, Any]:
        return self._mine(Status.SENDING) | {"$expr": lease_has_ended("$lease.until")}

    def _plan_rescue(self, stored: Stored) -> Change | Aside | None:
        """What follows for one of them; None: its lease was renewed, or it has to wait."""
        try:
            if stored.id in self._store.unwritable:
                return None
            if stored.status is not Status.SENDING or stored.leased_for > 0:
                return None
            return rescue(stored, self._routing.after_expired_lease(stored, stored.email))
        except Unreadable as error:
            return set_aside(stored, error)
        except Exception as error:  # noqa: BLE001  # a bug of ours must not stop all others
            facts = {**stored.facts, "error": type(error).__name__, "at": place(error)}
            event(logger, self._once.level(facts["at"]), "email.not_planned", **facts)
            return None

    def _announce(self, stored: Stored, change: Change | Aside) -> bool:
        """Say that it was rescued, and have it sent again; False: it was set aside."""
        if isinstance(change, Aside) or change.decision.reason == Reason.UNREADABLE:
            return False
        event(logger, logging.WARNING, "lease.expired", **stored.facts)
        decision = change.decision
        if decision.status is Status.QUEUED:
            # At once. The relay finds it only if jobs are missing, and perhaps in a later round.
            one = Announcement(stored.id, decision.priority, decision.delay)
            self._broker.announce([one])
        return True

    def _expire(self) -> int:
        """End queued e-mails whose time has passed."""
        expired = 0
        match = self._past(self._store.now())
        while page := self._store.find(match, PAGE):
            changes = [_expiry(s) for s in page if s.id not in self._store.unwritable]
            ids, _ = self._store.write(changes)
            expired += len(ids)
            self.advance(len(ids))
            # A page of which nothing could be changed would be found again for ever.
            if len(page) < PAGE or not ids or self._is_over:
                break
        return expired

    def _past(self, now: datetime) -> dict[str, Any]:
        return self._mine(Status.QUEUED) | {"expires_at": {"$lte": now}}

    def _put_back(self) -> int:
        """Let be due, and announce, what is held under no hold that there is.

        Who ends a hold does so at once. This finds what that left: it was stopped half-way, or a
        consumer had not heard of the end when it put an e-mail under the hold.
        """
        self._routing.health.read()
        controls = self._routing.health.controls
        announced = 0
        if controls.drained != self._drained or self._routed is not self._routing:
            announced = self._put_back_drained()
        page = self._controls.put_back_abandoned(controls.holds, RELAYED_MOST)
        return announced + len(self._broker.announce([_announcement(stored) for stored in page]))

    def _put_back_drained(self) -> int:
        """Let go on what waits for any vendor: other ones are drained now, or are configured.

        What still has none is held again. Without the queue, the next round does it once more.
        """
        routing, announced = self._routing, 0
        drained = routing.health.controls.drained
        for page in self._controls.put_back(DRAIN, [self._store.env]):
            announced += len(self._broker.announce([_announcement(stored) for stored in page]))
            self.advance(len(page))
            if self._is_over:
                return announced
        self._drained, self._routed = drained, routing
        return announced

    # The relay ---------------------------------------------------------------------------------

    def _relay(self) -> int:
        """Announce what is due but not on the tube, then what waits for longer than it should."""
        seconds = max(RELAY_SECONDS, self._config.consumer.sweep_every)
        end = min(self._end, time.monotonic() + seconds)
        now = self._store.now()
        announced = 0
        while (jobs := self._broker.depth()) is not None:
            waiting = self._unannounced(now, jobs)
            progress = self._announce_all(waiting, end)
            announced += progress
            # A queue that answers may take no jobs all the same: that is for the next round.
            if len(waiting) < RELAYED_MOST or not progress or time.monotonic() > end:
                return announced + self._announce_page(self._overdue(now))
        return 0  # no queue, so no job is missing or late

    def _unannounced(self, now: datetime, jobs: Mapping[str, int]) -> list[Stored]:
        """The longest due of those not announced just now, as many as jobs are missing and a page.

        ``jobs``: how many the queue has by state.
        """
        on_tube = jobs["ready"] + jobs["reserved"]
        missing = self._backlog(now - JUST_NOW, on_tube + RELAYED_MOST) - on_tube
        if missing > 0 and jobs["delayed"] and any(v.rate for v in self._config.vendors):
            # What waits for the send time of a limited vendor is due, and its job is delayed. So
            # together with what is due later, and has a delayed job, there are enough jobs.
            # Elsewhere this would be wrong: the second job of an e-mail that is being sent is
            # delayed for its lease, and would stand for one that is missing.
            later = now + timedelta(seconds=min(self._broker.max_delay, LATER))
            jobs_of_all = on_tube + jobs["delayed"]
            of_all = self._backlog(later, jobs_of_all + RELAYED_MOST) - jobs_of_all
            missing = min(missing, of_all)
        if missing <= 0:
            return []
        lately = {"announced.at": {"$gt": now - ANNOUNCED_LATELY}}
        # Not an $or, which would have the index read to its end, through all that are due later.
        due = {"due_at": {"$not": {"$gt": now - JUST_NOW}}, "$nor": [lately]}
        limit = min(RELAYED_MOST, missing + PAGE)
        return self._store.find_jobs(self._mine(Status.QUEUED) | due, limit, "due_at", "_id")

    def _backlog(self, now: datetime, limit: int) -> int:
        """How many e-mails should have a job now: those due and those being sent. Index only."""
        queued = self._mine(Status.QUEUED)
        due = self._store.count(queued | {"due_at": {"$not": {"$gt": now}}}, limit)
        return due + self._store.count(self._mine(Status.SENDING), limit)

    def _overdue(self, now: datetime) -> list[Stored]:
        """Whatever the tube's depth: what waits for longer than its class should, ever rarer."""
        overdue = self._mine(Status.QUEUED) | {"overdue_at": {"$lte": now}}
        return self._store.find(overdue, PAGE, "overdue_at")

    def _announce_all(self, waiting: Sequence[Stored], end: float) -> int:
        """Announce page by page, at least one; after ``end`` none is begun."""
        announced = 0
        for start in range(0, len(waiting), RELAYED):
            announced += self._announce_page(waiting[start : start + RELAYED])
            if time.monotonic() > end:
                break
        return announced

    def _announce_page(self, page: Sequence[Stored]) -> int:
        """Put the jobs of a page, each once, and note it."""
        unwritable = self._store.unwritable  # it cannot be noted that they were announced
        unique = list({s.id: s for s in page if s.id not in unwritable}.values())
        if not unique:
            return 0
        on_tube = self._broker.announce([_announcement(stored) for stored in unique])
        if on_tube:
            self._store.mark_announced([one.email_id for one in on_tube])
            self.advance(len(on_tube))
        return len(on_tube)

    # Retention ---------------------------------------------------------------------------------

    def _prune(self) -> int:
        """Delete what ended long ago; never what waits for a person."""
        return sum(self._prune_status(s, match) for s, match in self._old(self._store.now()))

    def _old(self, now: datetime) -> Iterator[tuple[Status, dict[str, Any]]]:
        days = self._config.retention
        limits = {
            Status.SENT: days.sent_days,
            Status.FAILED: days.failed_days,
            Status.CANCELLED: days.failed_days,
        }
        for status, limit in limits.items():
            before = now - timedelta(days=limit)
            yield status, self._mine(status) | {"updated_at": {"$lt": before}} | NO_CALLBACK_DUE

    def _prune_status(self, status: Status, match: Mapping[str, Any]) -> int:
        # By time, not by number: where many are sent, as many have to go.
        end = min(self._end, time.monotonic() + self._config.consumer.sweep_every / PRUNE_SHARE)
        pruned = 0
        for page in self._pages(match):
            pruned += self._store.delete([stored.id for stored in page], status, match)
            self.advance(len(page))
            if time.monotonic() > end:
                break
        return pruned

    def _drop(self, days: float) -> int:
        """Drop what those say that ended long ago.

        Each round goes on where the last one ended: many may be kept for long without content.
        """
        before = self._store.now() - timedelta(days=days)
        dropped = 0
        for status in (each for each in Status if each.final):
            after = self._dropped_until.get(status, EPOCH)
            times = {"updated_at": {"$gte": after, "$lt": before}}
            match = self._mine(status) | times | HAS_CONTENT
            dropped += self._drop_status(status, match)
            if not self._is_over:
                self._dropped_until[status] = max(after, before)
        return dropped

    def _drop_status(self, status: Status, match: dict[str, Any]) -> int:
        dropped = 0
        while page := self._store.find(match, RELAYED, "updated_at"):
            write = drop_write([stored.id for stored in page], status, match)
            matched, refused = self._store.bulk.write([write], self._store.timeout)
            self._store.bulk.give_up(refused)
            dropped += max(0, matched)
            self.advance(len(page))
            # A page of which something could not be changed would be found again for ever.
            if len(page) < RELAYED or matched <= 0 or self._is_over:
                break
        return dropped

    def _pages(self, match: Mapping[str, Any]) -> Iterator[list[Stored]]:
        while page := self._store.find(match, RELAYED, "updated_at"):
            yield page
            if len(page) < RELAYED:
                return

    def _mine(self, status: Status) -> dict[str, Any]:
        return {"status": status.value, "env": self._store.env}


def lease_name(store: Store) -> str:
    """The lease of those who sweep the e-mails of the store's kind."""
    return f"sweeper.{store.env}"


def active_queue(store: Store) -> str | None:
    """At which queue the process that sweeps waits; None: no process does, so no consumer runs.

    Every consumer sweeps, but one at a time.
    """
    holder = ProcessLease(store, lease_name(store)).holder()
    return None if holder is None else str(holder.get("queue") or "")


def _expiry(stored: Stored) -> Change | Aside:
    """The end of an e-mail whose time has passed."""
    try:
        return end_queued(stored, decide.end(stored.snapshot(), Reason.EXPIRED))
    except Unreadable as error:
        return set_aside(stored, error)


def _announcement(stored: Stored) -> Announcement:
    return Announcement(stored.id, stored.job_priority)
