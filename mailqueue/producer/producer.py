"""What an application calls: write the e-mail down, then announce it.

Decides: the order of things in ``send()``. First the e-mail is validated and rendered into its
document, then it is stored durably, then its job is put. Nothing after the store can fail the call,
nor keep those waiting whose e-mails were stored with it. Large e-mails are stored apart from the
others, which do not wait behind them.

Assumes: one ``Producer`` per application. It may be made before a fork and used on both sides: each
process opens its own connections at its first call. A call may begin in the middle of another one
of its thread (in a signal handler, say): it has connections of its own and writes by itself, since
the other may be holding anything of the driver's.

Promises: when ``send()`` returns an id, the e-mail is journaled by a majority of MongoDB; when it
raises ``InvalidEmail``, nothing was stored. Every method may be called from any thread and raises
within ``mongodb.timeout`` when MongoDB does not answer, waiting for other threads included;
``send_many`` so long after it stopped answering. While MongoDB is known to be away, within a
second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from bson import ObjectId
from bson.errors import InvalidId

from mailqueue import calls
from mailqueue.config import Config, is_production
from mailqueue.errors import InvalidEmail, StoreUnavailable, Unreadable
from mailqueue.lifecycle.outcomes import Status
from mailqueue.outage import Outage
from mailqueue.producer.group_commit import HEAVIEST, MOST, GroupCommit, OutOfTime
from mailqueue.producer.status import EmailStatus, status_of
from mailqueue.producer.submission import Intake, Sendable, SendOptions, Submission
from mailqueue.queue.announcer import Announcer
from mailqueue.queue.tube import Announcement
from mailqueue.store import document

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

    from mailqueue.store.store import Store

BULK = 500
LARGE = HEAVIEST // MOST  # so many bytes, and of the smaller ones as many as come fit together
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inserted:
    """The e-mail is stored."""

    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class KeyTaken:
    """It is not: its idempotency key was there already."""

    document: dict[str, Any]


Kept = Inserted | KeyTaken | InvalidEmail


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
        self._intake = Intake(self.config, self.env)
        self._given_client = client
        self._outage = Outage("mongodb")
        # By process, and for calls in the middle of calls.
        self._opened: dict[tuple[tuple[int, int], int], tuple[Store, Announcer]] = {}
        self._together: dict[tuple[tuple[int, int], bool], GroupCommit[Submission, Kept]] = {}

    # Connections -------------------------------------------------------------------------------

    def connect(self) -> Self:
        """Connect and create the indexes. Optional: the first call that needs them does it.

        Raises ``StoreUnavailable``, and ``ConfigError`` for an index that the server refuses.
        beanstalkd is not needed for it.
        """
        self._call(lambda store: store.ensure_indexes())
        return self

    def close(self) -> None:
        """Close this process's connections. A later call opens new ones."""
        process = calls.process()
        for large in (False, True):
            self._together.pop((process, large), None)
        for which in [which for which in self._opened if which[0] == process]:
            store, announcer = self._opened.pop(which)
            store.close()
            announcer.close()

    quit = close

    def __enter__(self) -> Self:
        try:
            return self.connect()
        except BaseException:
            self.close()  # nobody else would
            raise

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
        which = calls.process(), calls.depth()
        opened = self._opened.get(which)
        if opened is None:
            from mailqueue.store.store import Store

            store = Store(
                self.config.mongodb, env=self.env, client=self._given_client, outage=self._outage
            )
            first = self._opened.get((which[0], 0))
            announcer = (
                first[1] if first else Announcer(self.config.beanstalkd, self.config.delivery.ttr)
            )
            # No lock: a child forked while it is held could never take it.
            opened = self._opened.setdefault(which, (store, announcer))
            if opened[0] is not store:  # another thread was faster
                store.close()
        return opened

    @property
    def _store(self) -> Store:
        return self._open()[0]

    @property
    def _announcer(self) -> Announcer:
        return self._open()[1]

    def _call(self, work: Callable[[Store], T], *, one_clock: bool = True) -> T:
        """Do what the application called for, all of it in its time unless it says otherwise."""
        return calls.run(self._reach, work, one_clock)

    def _reach(self, work: Callable[[Store], T], one_clock: bool) -> T:
        store = self._store
        if one_clock:
            store.start_clock()
        if store.away:
            with store.unless_away():
                return work(store)
        return work(store)

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
        terms = SendOptions(priority, send_at, expires_at)
        draft = self._intake.read(email, terms, idempotency_key)
        if session is not None:
            return self._keep([[self._intake.document(draft)]], session)[0]
        try:
            return self._call(lambda store: self._keep_one(store, draft))
        except StoreUnavailable as error:
            raise StoreUnavailable(str(error), (), [str(draft.id)]) from error

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

        All are validated, and their keys looked up, before any is stored; if another caller takes
        one of the keys for another content in between, the others are stored all the same.
        ``idempotency_keys``: one for each, or None. ``StoreUnavailable`` says which ids are stored
        and of which it is not known.
        """
        terms = SendOptions(priority, send_at, expires_at)
        drafts = self._intake.read_all(list(emails), terms, idempotency_keys)
        pages = list(_pages(drafts, self._intake.all_good(drafts)))
        if session is not None:
            return self._keep(pages, session)
        return self._call(lambda _: self._keep(pages, None), one_clock=False)

    def announce(self, ids: Iterable[str]) -> int:
        """Put stored e-mails on the tube, right after the commit of their transaction.

        Returns how many were put. Never needed for correctness: the sweeper does it too.
        Raises ``ValueError`` for a malformed id, and ``StoreUnavailable``.
        """
        wanted = [_object_id(email_id) for email_id in ids]

        def announced(store: Store) -> int:
            what = []
            for stored in store.read(wanted, ["email", "attempts"]).values():
                with suppress(Unreadable):  # the sweeper announces it, so that it is set aside
                    if stored.status is Status.QUEUED:
                        what.append(Announcement(stored.id, stored.priority, stored.due_in))
            return len(self._announcer.announce(what))

        return self._call(announced)

    # Looking -----------------------------------------------------------------------------------

    def status(self, email_id: str) -> EmailStatus | None:
        """Where the e-mail stands; None: there is none (or no more: see ``retention``).

        Raises ``ValueError`` for a malformed id, and ``StoreUnavailable``.
        """
        match = {"_id": _object_id(email_id)}
        found = self._call(lambda store: store.find(match, 1))
        return status_of(found[0].document) if found else None

    def cancel(self, email_id: str) -> bool:
        """Cancel an e-mail that is still queued; True: it is cancelled and will not be sent.

        An e-mail of which a copy may have left becomes ``uncertain``, and the answer is False.
        Raises ``ValueError`` for a malformed id, and ``StoreUnavailable``.
        """
        wanted = _object_id(email_id)
        return self._call(lambda store: store.cancel(wanted))

    # Steps -------------------------------------------------------------------------------------

    def _keep_one(self, store: Store, draft: Submission) -> str:
        """Store and announce one e-mail, together with those that other threads send meanwhile."""
        if draft.key is not None and not store.indexed:
            store.ensure_indexes()
        if calls.depth():
            kept = self._keep_alone(draft)
        else:
            kept = self._keep_together(draft, store.time_left())
        if isinstance(kept, Inserted):
            return str(kept.document["_id"])
        if isinstance(kept, InvalidEmail):
            raise kept
        # Its key was there already, be it by another of those that were stored with it.
        return self._keep_page([kept.document], {}, None)[0]

    def _keep_together(self, draft: Submission, seconds: float) -> Kept:
        weight = draft.weight
        which = calls.process(), weight > LARGE
        together = self._together.get(which) or self._together.setdefault(
            which, GroupCommit(self._keep_new, self._announce)
        )
        try:
            return together(draft, seconds, weight)
        except OutOfTime:
            raise StoreUnavailable("MongoDB: no answer in time") from None

    def _keep_alone(self, draft: Submission) -> Kept:
        (kept,) = self._keep_new([draft])
        self._announce([kept])
        return kept

    def _keep_new(self, drafts: list[Submission]) -> list[Kept]:
        """Store e-mails of several callers; says what came of each."""
        made = self._intake.documents(drafts)
        new = [one for one in made if isinstance(one, dict)]
        try:
            taken = self._store.insert(new) if new else []
        finally:
            for draft, one in zip(drafts, made, strict=True):
                if isinstance(one, dict):
                    draft.id = one["_id"]  # another's had the first one
        return [
            one
            if isinstance(one, InvalidEmail)
            else (KeyTaken if one.get("idempotency_key") in taken else Inserted)(one)
            for one in made
        ]

    def _announce(self, kept: Sequence[Kept]) -> None:
        now = datetime.now(UTC)
        new = [one.document for one in kept if isinstance(one, Inserted)]
        self._announcer.announce([_announcement(each, now) for each in new])

    def _keep(
        self, pages: Sequence[list[dict[str, Any]]], session: ClientSession | None
    ) -> list[str]:
        """Store e-mails and announce those that are new; returns the ids they are known by.

        Keys are looked up before anything is stored. A single new e-mail needs no look-up.
        """
        store = self._store
        made = [document for page in pages for document in page]
        if not store.indexed and any("idempotency_key" in d for d in made):
            store.ensure_indexes()  # a key is unique by its index
        first: dict[str | None, ObjectId] = {}
        if session is not None or len(made) > 1:
            for page in pages:
                first |= self._first_of_key(store, page, session)
        ids: list[str] = []
        for page in pages:
            try:
                ids += self._keep_page(page, first, session)
            except StoreUnavailable as error:
                raise StoreUnavailable(str(error), ids, error.ids_unknown) from error
        return ids

    def _keep_page(
        self,
        page: list[dict[str, Any]],
        first: Mapping[str | None, ObjectId],
        session: ClientSession | None,
    ) -> list[str]:
        store, announcer = self._open()
        unique = {id(d): d for d in page}.values()  # one key may stand for several
        new = [d for d in unique if d.get("idempotency_key") not in first]
        taken: dict[str | None, ObjectId] = {}
        try:
            with store.reached(session):
                taken = self._insert(store, new, session) if new else {}
        except StoreUnavailable as error:
            unknown = [str(d["_id"]) for d in new]
            raise StoreUnavailable(str(error), (), unknown) from error
        if session is None:
            now = datetime.now(UTC)
            stored = [d for d in new if d.get("idempotency_key") not in taken]
            announcer.announce([_announcement(d, now) for d in stored])
        known = {**first, **taken}
        return [str(known.get(d.get("idempotency_key"), d["_id"])) for d in page]

    def _insert(
        self, store: Store, new: list[dict[str, Any]], session: ClientSession | None
    ) -> dict[str | None, ObjectId]:
        """Insert; returns the id of the first e-mail of each key that was there already."""
        taken = store.insert(new, session)
        if not taken:
            return {}
        mine = {d["_id"] for d in new}
        found = self._first_of_key(store, new, None)
        first = {key: email_id for key, email_id in found.items() if email_id not in mine}
        pruned = [
            d
            for d in new
            if d.get("idempotency_key") in taken and d["idempotency_key"] not in found
        ]
        return first | (self._insert(store, pruned, None) if pruned else {})

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
            if stored.get("content_hash") != by_key[key]["content_hash"]:
                raise InvalidEmail("idempotency_key", "was used before for another content")
        return {key: stored["_id"] for key, stored in found.items()}


def _pages(
    drafts: Sequence[Submission], made: Sequence[dict[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """What is stored in one write each."""
    page: list[dict[str, Any]] = []
    weight = 0
    for draft, one in zip(drafts, made, strict=True):
        weight += (own := draft.weight)
        if page and (len(page) == BULK or weight > HEAVIEST):
            yield page
            page, weight = [], own
        page.append(one)
    if page:
        yield page


def _announcement(made: Mapping[str, Any], now: datetime) -> Announcement:
    due = made["due_at"]
    delay = 0.0 if due is None else (due - now).total_seconds()
    return Announcement(made["_id"], made["priority"], delay)


def _object_id(email_id: str) -> ObjectId:
    try:
        return ObjectId(str(email_id))  # None would make a new one
    except InvalidId:
        raise ValueError("an e-mail's id has 24 hexadecimal characters") from None
