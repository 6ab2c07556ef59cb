"""What fell through: expired leases, expired e-mails, lost jobs, and what is old enough to forget.

Decides: what a round does. It rescues e-mails whose lease ran out (their outcome is unknown), ends
those whose ``expires_at`` passed, announces what is due but not on the tube, and prunes what ended
long ago.

Assumes: announcing an e-mail twice is harmless. Every consumer has a sweeper; a lease in
``<collection>.leases`` lets one at a time work.

Promises: only guarded transitions, so that two active sweepers would do no harm. An e-mail that is
not final, or is ``uncertain``, is never deleted. Each round is bounded by pages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from mailqueue import lifecycle, tube
from mailqueue.config import Config
from mailqueue.document import Stored
from mailqueue.errors import QueueUnavailable
from mailqueue.message import Email
from mailqueue.outage import Outage
from mailqueue.record import HIGH, Reason, Status
from mailqueue.routing import Routing
from mailqueue.store import Store
from mailqueue.transitions import Change
from mailqueue.triage import job_priority, rescue
from mailqueue.tube import Announcement, Announcer

logger = logging.getLogger(__name__)

PAGE = 100
RELAYED = 1000
PRUNED = 20_000
JUST_NOW = timedelta(seconds=1)
ANNOUNCED_LATELY = timedelta(seconds=60)
ANNOUNCEMENTS = 5
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_ID = ObjectId(b"\0" * 12)
OVERDUE = {True: 60.0, False: 900.0}


class Sweeper:
    """One per consumer process; ``sweep`` is called by one thread."""

    def __init__(self, config: Config, store: Store, routing: Routing, *, owner: str) -> None:
        self._config = config
        self._store = store
        self._routing = routing
        self._owner = owner
        self._announcer = Announcer(config.beanstalkd, config.delivery.ttr)
        self._leases = store.collection(".leases")
        self._lease_id = f"sweeper.{store.env}"

    def sweep(self) -> Mapping[str, int]:
        """Do one round if the lease is mine; returns what was done, by name.

        Raises ``StoreUnavailable``. Without beanstalkd the rest of the round is done all the same.
        """
        if not self._leased():
            return {}
        done = {"rescued": self._rescue(), "expired": self._expire(), "pruned": self._prune()}
        try:
            done["announced"] = self._relay()
        except QueueUnavailable as error:
            logger.info("sweep.no_relay", extra={"facts": {"error": str(error)}})
        if any(done.values()):
            logger.info("sweep.done", extra={"facts": done})
        return done

    def preview(self) -> Mapping[str, int]:
        """What a round would do now, each counted up to its page; nothing is changed."""
        now = self._store.now()
        found = {
            "rescued": self._store.count(self._over(), PRUNED),
            "expired": self._store.count(self._past(now), PRUNED),
            "pruned": sum(self._store.count(match, PRUNED) for _, match in self._old(now)),
        }
        try:
            pages = self._unannounced(now)
        except QueueUnavailable:
            return found
        return found | {"announced": len({stored.id for page in pages for stored in page})}

    def close(self) -> None:
        """Let another process sweep at once."""
        with self._store.reached():
            self._leases.delete_one({"_id": self._lease_id, "owner": self._owner})
        self._announcer.close()

    def outage(self, server: str) -> Outage:
        """The present outage of a beanstalkd, if any, as this process says it."""
        return self._announcer.outage(server)

    def _leased(self) -> bool:
        """Take or keep the lease for two rounds."""
        until = {"$add": ["$$NOW", round(self._config.consumer.sweep_every * 2000)]}
        mine_or_over = {
            "_id": self._lease_id,
            "$or": [{"owner": self._owner}, {"$expr": {"$lt": ["$until", "$$NOW"]}}],
        }
        update = [{"$set": {"owner": {"$literal": self._owner}, "until": until}}]
        with self._store.reached():
            taken = self._leases.update_one(mine_or_over, update).matched_count
        return bool(taken) or (self._create_lease() and self._leased())

    def _create_lease(self) -> bool:
        """Make the lease that is to be taken; False: another process holds it."""
        with self._store.reached():
            try:
                self._leases.insert_one({"_id": self._lease_id, "until": _LONG_AGO})
            except DuplicateKeyError:
                return False
            return True

    # Leases and expiry -------------------------------------------------------------------------

    def _rescue(self) -> int:
        """End leases that ran out, page by page: what cannot be rescued holds up nobody."""
        rescued = 0
        last = _FIRST_ID
        while page := self._store.find(self._over() | {"_id": {"$gt": last}}, PAGE, "_id"):
            last = page[-1].id
            found = self._store.read([stored.id for stored in page])
            changes = {s.id: (s, c) for s in found.values() if (c := self._rescued(s))}
            done = self._store.change([c for _, c in changes.values()], self._store.timeout)
            rescued += len(done)
            for email_id in done:
                logger.warning("lease.expired", extra={"facts": {"id": str(email_id)}})
                self._announce(*changes[email_id])
        return rescued

    def _over(self) -> dict[str, Any]:
        return self._mine(Status.SENDING) | {"$expr": {"$lt": ["$lease.until", "$$NOW"]}}

    def _rescued(self, stored: Stored) -> Change | None:
        """What follows for one of them; None: its lease was renewed, or it cannot be read."""
        if stored.leased_for > 0:
            return None
        try:
            email = Email.from_document(stored.document["email"])
            return rescue(stored, self._routing.rescued(stored, email))
        except (LookupError, TypeError, ValueError) as error:  # it must not stop all others
            facts = {"id": str(stored.id), "error": type(error).__name__}
            logger.error("email.unreadable", extra={"facts": facts})
            return None

    def _announce(self, stored: Stored, change: Change) -> None:
        decision = change.decision
        if decision.status is Status.QUEUED:
            one = Announcement(stored.id, decision.priority, decision.delay)
            self._announcer.announce([one])

    def _expire(self) -> int:
        """End queued e-mails whose time has passed."""
        expired = 0
        match = self._past(self._store.now())
        while page := self._store.find(match, PAGE):
            changes = [
                Change(
                    id=stored.id,
                    token=stored.token,
                    decision=lifecycle.end(stored.record(), Reason.EXPIRED),
                    sending=False,
                )
                for stored in page
            ]
            done = self._store.change(changes, self._store.timeout)
            expired += len(done)
            if len(page) < PAGE or not done:
                break
        return expired

    def _past(self, now: datetime) -> dict[str, Any]:
        return self._mine(Status.QUEUED) | {"expires_at": {"$lte": now}}

    # The relay ---------------------------------------------------------------------------------

    def _relay(self) -> int:
        """Announce what is due but not on the tube."""
        pages = self._unannounced(self._store.now())
        return sum(self._announce_page(page) for page in pages)

    def _unannounced(self, now: datetime) -> list[list[Stored]]:
        """The next pages to announce. Raises ``QueueUnavailable``."""
        jobs = tube.depth(self._config.beanstalkd)
        there = jobs["ready"] + jobs["reserved"]
        due = self._due(now - JUST_NOW)
        sending = self._store.count(self._mine(Status.SENDING), there + RELAYED)
        missing = sending + self._store.count(due, there + RELAYED) - there
        pages = [self._overdue(now)]
        if missing > 0:
            pages.insert(0, self._longest_unannounced(due, now, min(RELAYED, missing + PAGE)))
        return pages

    def _due(self, now: datetime) -> dict[str, Any]:
        return self._mine(Status.QUEUED) | {"$or": [{"due_at": None}, {"due_at": {"$lte": now}}]}

    def _longest_unannounced(
        self, due: Mapping[str, Any], now: datetime, limit: int
    ) -> list[Stored]:
        lately = {"announced.at": {"$gt": now - ANNOUNCED_LATELY}}
        return self._store.find({**due, "$nor": [lately]}, limit, "due_at", "_id")

    def _overdue(self, now: datetime) -> list[Stored]:
        """Whatever the tube's depth: what waits for longer than its class should, ever rarer."""
        waited = [
            self._due(before)
            | self._class(high)
            | self._announced(n)
            | {"updated_at": {"$lte": before}}
            for high, base in OVERDUE.items()
            for n in range(ANNOUNCEMENTS)
            for before in [now - timedelta(seconds=base * 4**n)]
        ]
        due = self._due(now - timedelta(seconds=min(OVERDUE.values())))
        return self._store.find({"$and": [due, {"$or": waited}]}, PAGE, "due_at", "_id")

    @staticmethod
    def _class(high: bool) -> dict[str, Any]:
        return {"priority": HIGH if high else {"$ne": HIGH}}

    @staticmethod
    def _announced(n: int) -> dict[str, Any]:
        return {"announced.n": n} if n else {"announced": None}

    def _announce_page(self, page: list[Stored]) -> int:
        done = self._announcer.announce([_announcement(stored) for stored in page])
        self._store.mark_announced([stored.id for stored in page[:done]])
        return done

    # Retention ---------------------------------------------------------------------------------

    def _prune(self) -> int:
        """Delete what ended long ago; never what waits for a person."""
        return sum(self._prune_page(s, match) for s, match in self._old(self._store.now()))

    def _old(self, now: datetime) -> Iterator[tuple[Status, dict[str, Any]]]:
        days = self._config.retention
        kept = {
            Status.SENT: days.sent_days,
            Status.FAILED: days.failed_days,
            Status.CANCELLED: days.failed_days,
        }
        for status, kept_for in kept.items():
            before = now - timedelta(days=kept_for)
            yield status, self._mine(status) | {"updated_at": {"$lt": before}}

    def _prune_page(self, status: Status, match: Mapping[str, Any]) -> int:
        pruned = 0
        for page in self._pages(match):
            pruned += self._store.delete([stored.id for stored in page], status)
            if pruned >= PRUNED:
                break
        return pruned

    def _pages(self, match: Mapping[str, Any]) -> Iterator[list[Stored]]:
        while page := self._store.find(match, RELAYED, "updated_at"):
            yield page
            if len(page) < RELAYED:
                return

    def _mine(self, status: Status) -> dict[str, Any]:
        return {"status": status.value, "env": self._store.env}


def _announcement(stored: Stored) -> Announcement:
    return Announcement(stored.id, job_priority(stored))
