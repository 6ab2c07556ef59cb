"""One process's connections, and storing e-mails over them.

Decides: what is stored in one write, and what becomes of an e-mail whose idempotency key is taken.

Assumes: e-mails are prepared, and where one has a key, ``ensure_indexes`` has looked for those of
older versions. What is asked of MongoDB and of the queue is in ``EmailStore`` and ``Announces``.

Promises: ``store_page`` is the one way to store. Each outcome it returns is durable: a majority of
MongoDB has the e-mail in its journal (in a caller's transaction: once the caller has committed).
Announcing never raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, Self

from mailqueue.errors import StoreUnavailable, Unreadable
from mailqueue.lifecycle.outcomes import Status
from mailqueue.producer.group_commit import GroupCommit
from mailqueue.producer.submission import Inserted, KeyTaken, Outcome, Submission
from mailqueue.queue import open_broker
from mailqueue.queue.broker import Announcement
from mailqueue.store.document import Stored
from mailqueue.store.store import Store

if TYPE_CHECKING:
    from bson import ObjectId
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

    from mailqueue.config import Config
    from mailqueue.outage import Outage


class EmailStore(Protocol):
    """What a producer asks of a ``Store``; while an application is tested, one in memory."""

    indexed: bool

    @property
    def is_away(self) -> bool: ...
    @property
    def client(self) -> MongoClient[dict[str, Any]]: ...
    def start_clock(self, seconds: float = ...) -> None: ...
    def time_left(self) -> float: ...
    def unless_away(self) -> AbstractContextManager[None]: ...
    def operation(self, session: ClientSession | None = None) -> AbstractContextManager[None]: ...
    def ensure_indexes(self) -> None: ...
    def insert(
        self, documents: Sequence[dict[str, Any]], session: ClientSession | None = None
    ) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[ObjectId, int]]: ...
    def by_key(
        self, keys: Sequence[str], session: ClientSession | None = None
    ) -> dict[str, Mapping[str, Any]]: ...
    def read(self, ids: Sequence[ObjectId], without: Sequence[str]) -> dict[ObjectId, Stored]: ...
    def find(self, match: Mapping[str, Any], limit: int) -> list[Stored]: ...
    def cancel(self, email_id: ObjectId) -> bool: ...
    def reschedule(self, email_id: ObjectId, send_at: datetime) -> bool: ...
    def find_whole(self, email_id: ObjectId) -> Stored | None: ...
    def page(
        self,
        limit: int,
        *,
        after: ObjectId | None = None,
        before: ObjectId | None = None,
    ) -> list[Stored]: ...
    def check_writable(self) -> None: ...
    def close(self) -> None: ...


class Announces(Protocol):
    """What a producer asks of a ``Broker``."""

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Storage:
    """The connections of one process to MongoDB and the queue. Any of its threads may call.

    ``commits``: what its threads store together over them; large e-mails (True) for themselves.
    """

    store: EmailStore
    announcer: Announces
    commits: dict[bool, GroupCommit[Submission, Outcome]] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        config: Config,
        env: str,
        client: MongoClient[dict[str, Any]] | None,
        outage: Outage,
        announcer: Announces | None = None,
    ) -> Self:
        """New connections, except those of ``client`` and ``announcer``, if given."""
        announcer = announcer or open_broker(config)  # first: its package may be missing
        store = Store(
            config.mongodb,
            env=env,
            client=client,
            outage=outage,
            callbacks=config.callbacks,
            retention=config.retention,
        )
        return cls(store, announcer)

    def ensure_indexes(self, submissions: Iterable[Submission]) -> None:
        """Before the first key is stored: e-mails of older versions must be found by theirs."""
        if not self.store.indexed and any(each.key is not None for each in submissions):
            self.store.ensure_indexes()

    def store_page(
        self, submissions: Sequence[Submission], session: ClientSession | None = None
    ) -> dict[Submission, Outcome]:
        """Store e-mails in one write; returns what came of each.

        The write itself finds the keys that are taken: a new e-mail is one round trip.
        Raises ``StoreUnavailable``, after which nothing is known of any of them; repeating is safe.
        With ``session`` the driver's exceptions pass through.
        """
        if not submissions:
            return {}
        outcomes: dict[Submission, Outcome] = {}
        holders, refusals = self.store.insert([each.document for each in submissions], session)
        for each in submissions:
            if (code := refusals.get(each.document["_id"])) is not None:
                outcomes[each] = each.refuse("email", f"MongoDB refuses it (error {code})")
            elif each.key is not None and each.key in holders:
                outcomes[each] = _key_outcome(each, holders[each.key])
            else:
                outcomes[each] = Inserted(each.document)
        return outcomes

    def look_up_keys(
        self, submissions: Sequence[Submission], session: ClientSession | None = None
    ) -> dict[Submission, Outcome]:
        """What came of the e-mails whose idempotency keys are in the store; the others are new."""
        keys = {each.key for each in submissions if each.key is not None}
        if not keys:
            return {}
        holders = self.store.by_key(list(keys), session)
        return {
            each: _key_outcome(each, holders[each.key])
            for each in submissions
            if each.key in holders
        }

    def announce(self, outcomes: Iterable[Outcome]) -> None:
        """Put the jobs of new e-mails; the sweeper finds those that cannot be put now."""
        self.announcer.announce(announcements(outcomes))

    def announce_queued(self, email_ids: Sequence[ObjectId]) -> int:
        """Put the jobs of the e-mails that are stored and queued; returns how many were put."""
        announcements = []
        for stored in self.store.read(email_ids, ["email", "attempts"]).values():
            with suppress(Unreadable):  # the sweeper announces it, so that it is set aside
                if stored.status is Status.QUEUED:
                    announcements.append(Announcement(stored.id, stored.priority, stored.due_in))
        return len(self.announcer.announce(announcements))

    def reschedule(self, email_id: ObjectId, send_at: datetime) -> bool:
        """Give an e-mail that was never tried another time, and a job for it."""
        if not self.store.reschedule(email_id, send_at):
            return False
        with suppress(StoreUnavailable):  # the sweeper announces it
            self.announce_queued([email_id])
        return True

    def close(self) -> None:
        """Close the connections to MongoDB, and this thread's connections to the queue."""
        self.store.close()
        self.announcer.close()


def _key_outcome(submission: Submission, holder: Mapping[str, Any]) -> Outcome:
    """What came of an e-mail, given the one that is stored under its key."""
    # Our own, beside another of this write that has the same key; or from an earlier try.
    if holder.get("nonce") == submission.document["nonce"]:
        return Inserted(submission.document)
    if holder.get("content_hash") != submission.document["content_hash"]:
        problem = "was used before for a different e-mail: use one key for each e-mail"
        return submission.refuse("idempotency_key", problem)
    return KeyTaken(holder["_id"])


def announcements(outcomes: Iterable[Outcome]) -> list[Announcement]:
    """The jobs that new e-mails need."""
    now = datetime.now(UTC)
    documents = [each.document for each in outcomes if isinstance(each, Inserted)]
    return [_announcement(document, now) for document in documents]


def _announcement(document: Mapping[str, Any], now: datetime) -> Announcement:
    due = document["due_at"]
    delay = 0.0 if due is None else (due - now).total_seconds()
    return Announcement(document["_id"], document["priority"], delay)
