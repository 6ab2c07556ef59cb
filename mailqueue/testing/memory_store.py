"""The e-mails in memory: what a producer asks of a store, without a server.

Decides: nothing about e-mails. The documents are those that would be stored in MongoDB, and each
method answers as ``store.Store`` would. A test may have the next calls fail.

Assumes: no consumer works on it, so each e-mail is queued or cancelled.

Promises: any thread may call. What is stored in a transaction counts once the caller has committed
it, and is gone when it is aborted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from mailqueue.lifecycle.outcomes import Reason, Status
from mailqueue.store import ids
from mailqueue.store.document import SIMULATED, Stored

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

Document = dict[str, Any]
_LONG_AGO, _NOBODY = datetime(1970, 1, 1, tzinfo=UTC), ObjectId(b"\0" * 12)
_CONTENT = frozenset({"html", "alternatives", "attachments"})


class MemoryStore:
    """The e-mails of all producers of a process, in the order in which they were stored.

    A copy has the same e-mails; ``env`` is the kind of its producer.
    """

    env = SIMULATED
    timeout = 10.0
    indexed = True
    is_away = False

    def __init__(self) -> None:
        # A signal handler may send in the middle of another call of its thread.
        self._lock = threading.RLock()
        self._documents: dict[ObjectId, Document] = {}
        self._uncommitted: dict[int, list[Document]] = {}  # by the session's identity
        self.failures: deque[Exception] = deque()

    def queued(self) -> list[Document]:
        """The e-mails that are to be sent."""
        with self._lock:
            return [d for d in self._documents.values() if d["status"] == Status.QUEUED.value]

    def clear(self) -> None:
        """Forget all e-mails, their keys, and the failures to come."""
        with self._lock:
            self._documents.clear()
            self._uncommitted.clear()
            self.failures.clear()

    # Calls -------------------------------------------------------------------------------------

    @contextmanager
    def operation(
        self,
        session: ClientSession | None = None,  # noqa: ARG002  # as a store's
        seconds: float | None = None,  # noqa: ARG002  # the same
    ) -> Iterator[None]:
        """One after the other; no call takes any time."""
        with self._lock:
            yield

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._lock:
            if self.failures:
                raise self.failures.popleft()
            yield

    def start_clock(self, seconds: float = timeout) -> None:
        """Nothing here waits."""

    def time_left(self) -> float:
        """As if the call had just begun."""
        return self.timeout

    @contextmanager
    def unless_away(self) -> Iterator[None]:
        """It is never away."""
        yield

    def ensure_indexes(self) -> None:
        """Nothing to create."""
        with self._call():
            pass

    def close(self) -> None:
        """The e-mails stay: another producer may have stored them."""

    @property
    def client(self) -> MongoClient[dict[str, Any]]:
        """There is none."""
        raise RuntimeError("an Outbox has no MongoDB: give the Producer a client of your own")

    # Storing -----------------------------------------------------------------------------------

    def insert(
        self, documents: Sequence[Document], session: ClientSession | None = None
    ) -> tuple[dict[str, Document], dict[ObjectId, int]]:
        """Store new e-mails; returns those that hold an idempotency key already."""
        with self._call():
            if session is not None and session.in_transaction:
                self._hold(documents, session)
                return {}, {}
            return self._keep(documents), {}

    def _keep(self, documents: Iterable[Document]) -> dict[str, Document]:
        """Of two e-mails with one ``_id``, which follows from their key, the first is kept."""
        holders = {}
        for each in documents:
            stored = self._documents.setdefault(each["_id"], dict(each))
            if stored["nonce"] != each["nonce"]:
                holders[each["idempotency_key"]] = stored
        return holders

    def _hold(self, documents: Sequence[Document], session: ClientSession) -> None:
        """Until the caller commits or aborts: both are methods of the session that tell us then."""
        held = self._uncommitted.get(id(session))
        if held is None:
            held = self._uncommitted[id(session)] = []
            for name, keeps in (("commit_transaction", True), ("abort_transaction", False)):
                finish = partial(self._finish, session, getattr(session, name), keeps)
                setattr(session, name, finish)
        held += documents

    def _finish(self, session: ClientSession, method: Callable[[], None], keeps: bool) -> None:
        method()
        for each in ("commit_transaction", "abort_transaction"):
            session.__dict__.pop(each, None)
        with self._lock:
            held = self._uncommitted.pop(id(session), [])
            if keeps:
                self._keep(held)

    def by_key(
        self, keys: Sequence[str], session: ClientSession | None = None
    ) -> dict[str, Mapping[str, Any]]:
        """The e-mails of ``env`` stored under these idempotency keys."""
        with self._call():
            held = self._uncommitted.get(id(session), []) if session is not None else []
            documents = self._documents | {d["_id"]: d for d in held}
            places = {key: ids.of_key(self.env, key) for key in keys}
            return {key: documents[i] for key, i in places.items() if i in documents}

    def cancel(self, email_id: ObjectId) -> bool:
        """Cancel what is queued. False: it is not cancelled."""
        with self._call():
            document = self._documents.get(email_id)
            if document is None:
                return False
            document |= {"status": Status.CANCELLED.value, "reason": Reason.CANCELLED.value}
            document |= {"due_at": None, "updated_at": datetime.now(UTC)}
            return True

    def reschedule(self, email_id: ObjectId, send_at: datetime) -> bool:
        """Give what is queued another time, if it does not expire before. False: nothing done."""
        with self._call():
            document = self._documents.get(email_id, {})
            expires_at = document.get("expires_at")
            if document.get("status") != Status.QUEUED.value or (
                expires_at is not None and expires_at <= send_at
            ):
                return False
            document |= {"send_at": send_at, "due_at": send_at, "updated_at": datetime.now(UTC)}
            return True

    def check_writable(self) -> None:
        """Return; while failures are to come, fail."""
        with self._call():
            pass

    # Looking -----------------------------------------------------------------------------------

    def find(self, match: Mapping[str, Any], limit: int, *sort: str) -> list[Stored]:  # noqa: ARG002  # as a store's
        """The e-mail with this ``_id``; no other question is asked."""
        (email_id,) = match.values()
        return list(self.read([email_id]).values())

    def read(
        self,
        email_ids: Sequence[ObjectId],
        without: Sequence[str] = (),  # noqa: ARG002  # as a store's
    ) -> dict[ObjectId, Stored]:
        """The documents of these; a missing one is left out."""
        with self._call():
            now = datetime.now(UTC)
            return {i: Stored(self._documents[i], now) for i in email_ids if i in self._documents}

    def find_whole(self, email_id: ObjectId) -> Stored | None:
        """The document; None: it is not there."""
        return self.read([email_id]).get(email_id)

    def page(
        self,
        limit: int,
        *,
        after: ObjectId | None = None,
        before: ObjectId | None = None,
    ) -> list[Stored]:
        """The newest, the newest first: those older than ``after``, or newer than ``before``.

        As a store's, with an empty text, and without HTML and files.
        """
        with self._lock:
            newest = sorted(map(_place, self._documents.values()), reverse=True)
            cursor = self._place_of(after or before)
        if before is not None:
            newest = [place for place in newest if place > cursor][-limit:]
        elif after is not None:
            newest = [place for place in newest if place < cursor]
        page = self.read([email_id for _, email_id in newest[:limit]])
        return [_without_content(stored) for stored in page.values()]

    def _place_of(self, email_id: ObjectId | None) -> tuple[datetime, ObjectId]:
        """As if it was older than all, if it is not there."""
        document = self._documents.get(email_id or _NOBODY)
        return (_LONG_AGO, _NOBODY) if document is None else _place(document)


def _place(document: Document) -> tuple[datetime, ObjectId]:
    """By which e-mails are in order."""
    return document["created_at"], document["_id"]


def _without_content(stored: Stored) -> Stored:
    email = {key: each for key, each in stored.document["email"].items() if key not in _CONTENT}
    return Stored({**stored.document, "email": {**email, "text": ""}}, stored.now)


class NoQueue:
    """An announcer whose queue takes every job, and that keeps none."""

    def announce(self, announcements: Sequence[Any]) -> Sequence[Any]:
        """All are announced."""
        return announcements

    def close(self) -> None:
        """Nothing is open."""
