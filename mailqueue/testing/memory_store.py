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
from mailqueue.store.document import Stored

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

Document = dict[str, Any]
_CONTENT = frozenset({"html", "alternatives", "attachments"})


class MemoryStore:
    """The e-mails of all producers of a process, in the order in which they were stored."""

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
    ) -> tuple[set[str], dict[ObjectId, int]]:
        """Store new e-mails; returns the idempotency keys that were there already."""
        with self._call():
            if session is not None and session.in_transaction:
                self._hold(documents, session)
                return set(), {}
            return self._keep(documents), {}

    def _keep(self, documents: Iterable[Document]) -> set[str]:
        keys = self._by_key(self._documents.values())
        taken_keys = set()
        for each in documents:
            key = each.get("idempotency_key")
            if key in keys:
                taken_keys.add(key)
            else:
                self._documents[each["_id"]] = dict(each)
                keys |= self._by_key([each])
        return taken_keys

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
        """The e-mails stored under these idempotency keys."""
        with self._call():
            held = self._uncommitted.get(id(session), []) if session is not None else []
            documents = self._by_key([*self._documents.values(), *held])
            return {key: documents[key] for key in keys if key in documents}

    @staticmethod
    def _by_key(documents: Iterable[Document]) -> dict[str, Document]:
        return {d["idempotency_key"]: d for d in documents if "idempotency_key" in d}

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

    def read(self, ids: Sequence[ObjectId], without: Sequence[str] = ()) -> dict[ObjectId, Stored]:  # noqa: ARG002  # as a store's
        """The documents of ``ids``; a missing one is left out."""
        with self._call():
            now = datetime.now(UTC)
            return {i: Stored(self._documents[i], now) for i in ids if i in self._documents}

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
            ids = sorted(self._documents, reverse=True)
        if before is not None:
            ids = [i for i in ids if i > before][-limit:]
        elif after is not None:
            ids = [i for i in ids if i < after]
        return [_without_content(stored) for stored in self.read(ids[:limit]).values()]


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
