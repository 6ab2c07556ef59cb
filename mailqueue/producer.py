"""What an application calls: write the e-mail down, then announce it.

Decides: the order of things in ``send()``. First the e-mail is validated and rendered into its
document, then it is stored durably, then its job is put. Nothing after the store can fail the call.

Assumes: one ``Producer`` per application. It may be made before a fork and used on both sides: each
process opens its own connections at its first call.

Promises: when ``send()`` returns an id, the e-mail is journaled by a majority of MongoDB; when it
raises ``InvalidEmail``, nothing was stored. Every method may be called from any thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bson import ObjectId
from bson.errors import InvalidId

from mailqueue import document
from mailqueue.config import Config, is_production
from mailqueue.errors import InvalidEmail, StoreUnavailable
from mailqueue.message import Email
from mailqueue.record import PRIORITIES, Status
from mailqueue.status import EmailStatus, status_of
from mailqueue.tube import Announcement, Announcer
from mailqueue.vendors import limits

if TYPE_CHECKING:
    from email.message import EmailMessage

    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

    from mailqueue.store import Store

    Sendable = Email | Mapping[str, Any] | EmailMessage

BULK = 500
KEY_LENGTH = 512


class Producer:
    """Stores e-mails and announces them to the consumers.

    ``config``: a path to a JSON file, a ``Config``, or None for ``$MAILQUEUE_CONFIG`` and then
    ``./config.json``. ``client``: the application's own ``MongoClient``, needed only to make
    e-mails part of its own transactions. Raises ``ConfigError``; connects to nothing yet.
    """

    def __init__(
        self,
        config: Config | str | Path | None = None,
        *,
        client: MongoClient[dict[str, Any]] | None = None,
    ) -> None:
        self.config = config if isinstance(config, Config) else Config.load(config, secrets=False)
        self.env = document.PRODUCTION if is_production() else document.SIMULATED
        self._given_client = client
        self._lock = threading.Lock()
        self._pid = -1
        self._opened: tuple[Store, Announcer] | None = None

    # Connections -------------------------------------------------------------------------------

    def connect(self) -> Self:
        """Connect and create the indexes. Optional: the first call that needs them does it.

        Raises ``StoreUnavailable``. beanstalkd is not needed for it.
        """
        self._store.ensure_indexes()
        return self

    def close(self) -> None:
        """Close this process's connections. A later call opens new ones."""
        with self._lock:
            opened, pid = self._opened, self._pid
            self._opened, self._pid = None, -1
        if opened is not None and pid == os.getpid():
            opened[0].close()
            opened[1].close()

    quit = close

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def client(self) -> MongoClient[dict[str, Any]]:
        """The MongoDB client, for sessions whose transactions e-mails shall be part of."""
        return self._store.client

    def _open(self) -> tuple[Store, Announcer]:
        """This process's connections; those inherited through a fork are left to the parent.

        pymongo is imported here: an application that only imports us need not wait for it.
        """
        opened = self._opened
        if opened is not None and self._pid == os.getpid():
            return opened
        with self._lock:
            if self._opened is None or self._pid != os.getpid():
                from mailqueue.store import Store

                store = Store(self.config.mongodb, env=self.env, client=self._given_client)
                announcer = Announcer(self.config.beanstalkd, self.config.delivery.ttr)
                self._opened, self._pid = (store, announcer), os.getpid()
            return self._opened

    @property
    def _store(self) -> Store:
        return self._open()[0]

    # Sending -----------------------------------------------------------------------------------

    def send(
        self,
        email: Sendable,
        *,
        priority: str = "normal",
        send_at: datetime | None = None,
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
        session: ClientSession | None = None,
    ) -> str:
        """Store one e-mail durably and announce it; returns its id (24 hex characters).

        ``email``: a mapping, an ``Email`` or a stdlib ``EmailMessage``. ``priority``: ``high``,
        ``normal`` or ``bulk``. ``send_at``: not before; ``expires_at``: never from then on (aware
        datetimes). ``idempotency_key``: the same key with the same content gives the first id.

        With ``session`` the e-mail is part of the caller's transaction: the driver's errors pass
        through, what is stored is decided by the caller's commit, and ``announce([id])`` right
        after the commit saves the wait for the sweeper.

        Raises ``InvalidEmail`` (nothing stored) and ``StoreUnavailable`` (within
        ``mongodb.timeout``; repeating with the same key is safe).
        """
        keys = None if idempotency_key is None else [idempotency_key]
        made = self._documents([email], priority, send_at, expires_at, keys, name_index=False)
        return self._keep(made, session)[0]

    def send_many(
        self,
        emails: Iterable[Sendable],
        *,
        priority: str = "normal",
        send_at: datetime | None = None,
        expires_at: datetime | None = None,
        idempotency_keys: Sequence[str | None] | None = None,
        session: ClientSession | None = None,
    ) -> list[str]:
        """Store e-mails durably, 500 to a write, and announce them; returns their ids in order.

        All are validated before any is stored. ``idempotency_keys``: one for each, or None.
        ``StoreUnavailable`` says which ids are stored and of which it is not known.
        """
        made = self._documents(
            list(emails), priority, send_at, expires_at, idempotency_keys, name_index=True
        )
        ids: list[str] = []
        for start in range(0, len(made), BULK):
            try:
                ids += self._keep(made[start : start + BULK], session)
            except StoreUnavailable as error:
                raise StoreUnavailable(str(error), ids, error.ids_unknown) from error
        return ids

    def announce(self, ids: Iterable[str]) -> int:
        """Put stored e-mails on the tube, right after the commit of their transaction.

        Returns how many were put. Never needed for correctness: the sweeper does it too.
        Raises ``ValueError`` for a malformed id, and ``StoreUnavailable``.
        """
        store, announcer = self._open()
        found = store.read([_object_id(email_id) for email_id in ids])
        queued = [stored for stored in found.values() if stored.status is Status.QUEUED]
        return announcer.announce(
            [Announcement(s.id, s.document["priority"], s.due_in) for s in queued]
        )

    # Looking -----------------------------------------------------------------------------------

    def status(self, email_id: str) -> EmailStatus | None:
        """Where the e-mail stands; None: there is none (or no more: see ``retention``).

        Raises ``ValueError`` for a malformed id, and ``StoreUnavailable``.
        """
        found = self._store.find({"_id": _object_id(email_id)}, 1)
        return status_of(found[0].document) if found else None

    def cancel(self, email_id: str) -> bool:
        """Cancel an e-mail that is still queued; True: it is cancelled and will not be sent.

        An e-mail of which a copy may have left becomes ``uncertain``, and the answer is False.
        Raises ``ValueError`` for a malformed id, and ``StoreUnavailable``.
        """
        return self._store.cancel(_object_id(email_id))

    # Steps -------------------------------------------------------------------------------------

    def _documents(
        self,
        emails: Sequence[Sendable],
        priority: str,
        send_at: datetime | None,
        expires_at: datetime | None,
        keys: Sequence[str | None] | None,
        *,
        name_index: bool,
    ) -> list[dict[str, Any]]:
        if keys is not None and len(keys) != len(emails):
            raise InvalidEmail("idempotency_keys", "needs one entry for each e-mail")
        if priority not in PRIORITIES:
            raise InvalidEmail("priority", f"must be one of {', '.join(PRIORITIES)}")
        _check_times(send_at, expires_at)
        now = datetime.now(UTC)
        made = []
        for index, given in enumerate(emails):
            key = None if keys is None else keys[index]
            try:
                made.append(self._document(given, priority, send_at, expires_at, key, now))
            except InvalidEmail as error:
                if not name_index:
                    raise
                raise InvalidEmail(error.field, error.problem, index) from None
        _share_ids(made)
        return made

    def _document(
        self,
        given: Sendable,
        priority: str,
        send_at: datetime | None,
        expires_at: datetime | None,
        key: str | None,
        now: datetime,
    ) -> dict[str, Any]:
        email = Email.of(given)
        email.check_size(self.config.limits.max_size)
        if uncarried := limits.nobody_carries(self.config.vendors, email):
            raise InvalidEmail("email", uncarried)
        _check_key(key)
        email_id = ObjectId()
        return document.new(
            email.to_mapping(),
            email_id=email_id,
            message_id=f"<{email_id}@{email.from_.ascii.rpartition('@')[2]}>",
            env=self.env,
            content_hash=email.content_hash(),
            priority=PRIORITIES[priority],
            now=now,
            send_at=send_at,
            expires_at=expires_at,
            idempotency_key=key,
        )

    def _keep(self, made: list[dict[str, Any]], session: ClientSession | None) -> list[str]:
        """Store documents and announce those that are new; returns the ids they are known by."""
        store, announcer = self._open()
        look_first = session is not None or len(made) > 1
        first = self._first_of_key(store, made, session) if look_first else {}
        unique = {d["_id"]: d for d in made}.values()
        new = [d for d in unique if d.get("idempotency_key") not in first]
        try:
            if new:
                first |= self._insert(store, new, session)
        except StoreUnavailable as error:
            unknown = [str(d["_id"]) for d in new]
            raise StoreUnavailable(str(error), (), unknown) from error
        if session is None:
            stored = [d for d in new if d.get("idempotency_key") not in first]
            now = datetime.now(UTC)
            announcer.announce([_announcement(d, now) for d in stored])
        return [str(first.get(d.get("idempotency_key"), d["_id"])) for d in made]

    def _insert(
        self, store: Store, new: list[dict[str, Any]], session: ClientSession | None
    ) -> dict[str | None, ObjectId]:
        """Insert; returns the id of the first e-mail of each key that was there already."""
        if not store.insert(new, session):
            return {}
        known = {d["_id"] for d in new}
        first = self._first_of_key(store, new, None)
        return {key: email_id for key, email_id in first.items() if email_id not in known}

    @staticmethod
    def _first_of_key(
        store: Store, made: list[dict[str, Any]], session: ClientSession | None
    ) -> dict[str | None, ObjectId]:
        """Look the idempotency keys up; the same key with other content is refused."""
        by_key = {d["idempotency_key"]: d for d in made if "idempotency_key" in d}
        if not by_key:
            return {}
        found = store.by_key(list(by_key), session)
        for key, stored in found.items():
            if stored["content_hash"] != by_key[key]["content_hash"]:
                raise InvalidEmail("idempotency_key", "was used before for another content")
        return {key: stored["_id"] for key, stored in found.items()}


def _share_ids(made: Sequence[dict[str, Any]]) -> None:
    """The same key twice in one call is one e-mail; with other content it is refused."""
    first: dict[str, dict[str, Any]] = {}
    for one in made:
        if "idempotency_key" in one:
            other = first.setdefault(one["idempotency_key"], one)
            if other["content_hash"] != one["content_hash"]:
                raise InvalidEmail("idempotency_key", "is given twice for different contents")
            one["_id"] = other["_id"]


def _announcement(made: Mapping[str, Any], now: datetime) -> Announcement:
    due = made["due_at"]
    delay = 0.0 if due is None else (due - now).total_seconds()
    return Announcement(made["_id"], made["priority"], delay)


def _check_times(send_at: datetime | None, expires_at: datetime | None) -> None:
    for name, value in (("send_at", send_at), ("expires_at", expires_at)):
        if value is not None and getattr(value, "tzinfo", None) is None:
            raise InvalidEmail(name, "must be an aware datetime")
    if send_at is not None and expires_at is not None and expires_at <= send_at:
        raise InvalidEmail("expires_at", "must be later than send_at")


def _check_key(key: str | None) -> None:
    given: object = key
    if given is None:
        return
    if not isinstance(given, str) or not 0 < len(given) <= KEY_LENGTH or "\0" in given:
        raise InvalidEmail("idempotency_key", f"must be a string of 1 to {KEY_LENGTH} characters")


def _object_id(email_id: str) -> ObjectId:
    try:
        return ObjectId(email_id)
    except (InvalidId, TypeError):
        raise ValueError("an e-mail's id has 24 hexadecimal characters") from None
