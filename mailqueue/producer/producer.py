"""What an application calls: store the e-mail, then announce it.

Decides: the order of things in ``send()``. First the e-mail is validated and its document is made,
then it is stored durably, then its job is put on the tube. Nothing after the store can fail the
call, nor delay other callers whose e-mails were stored with it. Large e-mails are stored apart, so
that the others do not wait behind them.

Assumes: one ``Producer`` per application. It may be made before a fork and used on both sides: each
process opens its own connections at its first call. A call may begin in the middle of another one
of its thread, in a signal handler, say (see ``reentrancy``).

Promises: when ``send()`` returns an id, a majority of MongoDB has the e-mail in its journal; when
it raises ``InvalidEmail``, nothing was stored. Every method may be called from any thread and
raises within ``mongodb.timeout`` when MongoDB does not answer, waiting for other threads included;
``send_many`` within that time after it stopped answering. While MongoDB is known to be away, every
call raises within a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from bson import ObjectId

from mailqueue import reentrancy
from mailqueue.config import Config, is_production
from mailqueue.errors import InvalidEmail, StoreUnavailable
from mailqueue.producer import stand_in
from mailqueue.producer.connections import Connections
from mailqueue.producer.group_commit import LARGE, CommitTimeout, GroupCommit
from mailqueue.producer.status import EmailStatus, StoredEmail, status_of
from mailqueue.producer.stored_log import log_stored
from mailqueue.producer.submission import (
    Outcome,
    Priority,
    Refused,
    Sendable,
    SendCall,
    SendOptions,
    Submission,
    id_of,
    merge_keys,
    pages,
    prepare,
    read_all,
    time_of,
)
from mailqueue.store import document, ids

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

    from mailqueue.producer.storage import Storage

CallResult: TypeAlias = str | InvalidEmail | StoreUnavailable
MAX_RECENT = 1000  # e-mails


class Producer:
    """Stores e-mails in MongoDB and announces them to the consumers over beanstalkd.

    ``config``: a path to a JSON file, a ``Config``, or None for ``$MAILQUEUE_CONFIG`` and then
    ``./config.json``. The vendors' secrets need not be set. ``client``: the application's own
    ``MongoClient``. It is needed only to make e-mails part of the application's transactions, and
    is never closed here.

    Raises ``ConfigError`` if the configuration cannot be used. Making one connects to nothing: the
    first call connects, in each process for itself. One is enough for an application. All its
    threads may use it at the same time, before and after a fork. ``with Producer() as producer:``
    connects at once and closes at the end.
    """

    def __init__(
        self,
        config: Config | str | Path | None = None,
        *,
        client: MongoClient[dict[str, Any]] | None = None,
    ) -> None:
        self.config = stand_in.load(config)
        self.env = document.PRODUCTION if is_production() else document.SIMULATED
        self._connections = Connections(self.config, self.env, client)

    # Connections -------------------------------------------------------------------------------

    def connect(self) -> Self:
        """Connect to MongoDB and create the indexes; returns the producer itself.

        Optional: the first call does what it needs.

        Raises ``StoreUnavailable`` within ``mongodb.timeout``, and ``ConfigError`` for an index
        that the server refuses. beanstalkd need not be there.
        """
        self._connections.call(lambda storage: storage.store.ensure_indexes())
        return self

    def close(self) -> None:
        """Close this process's connections, except those of the application's own ``client``.

        Nothing is lost: an e-mail whose id ``send()`` returned is stored. A later call opens new
        connections. Any thread may call.
        """
        self._connections.close()

    quit = close

    def reload(self, config: Config) -> None:
        """Use another configuration from the next call on. Any thread may call.

        What e-mails must be like follows it (``vendors``, ``routes``, ``limits``,
        ``callbacks.allow``). The connections, and so ``mongodb`` and the queue, stay as they are.
        """
        self.config = self._connections.config = config

    def __enter__(self) -> Self:
        try:
            return self.connect()
        except BaseException:
            self.close()  # __exit__ is not called after an exception here
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def client(self) -> MongoClient[dict[str, Any]]:
        """This process's MongoDB client: start sessions for ``send(..., session=...)`` on it."""
        return self._connections.client

    # Sending -----------------------------------------------------------------------------------

    def send(
        self,
        email: Sendable,
        *,
        priority: Priority = "normal",
        send_at: datetime | None = None,
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
        callback_url: str | None = None,
        request_id: str | None = None,
        vendors: Sequence[str] | None = None,
        session: ClientSession | None = None,
    ) -> str:
        """Store one e-mail and announce it to the consumers; returns its id (24 hex characters).

        When it returns, a majority of MongoDB has the e-mail in its journal. It is sent even if
        beanstalkd is away: a consumer's sweeper finds it. Any thread may call.

        ``email``: a mapping (``EmailDict``), an ``Email``, or a stdlib ``EmailMessage``.
        ``priority``: ``"high"``, ``"normal"`` or ``"bulk"``. ``send_at``: not sent before;
        ``expires_at``: not sent from then on (both aware datetimes, kept in milliseconds).
        ``idempotency_key`` (1 to 512 characters): a second call with the same key and content
        stores nothing and returns the first id; a key is remembered until its e-mail is pruned.
        ``callback_url``: a responder posts there what becomes of the e-mail (https, or a host in
        ``callbacks.allow``). ``request_id``: the caller's own word for what this belongs to (1 to
        200 visible ASCII characters); it stands in logs and callbacks. ``vendors``: names of those
        that it may go to; None: those that ``routes`` of the configuration names, or all.

        ``session``: a pymongo session in a transaction of ``client``. The e-mail is then part of
        that transaction and durable once the caller has committed it; the driver's exceptions pass
        through. Nothing is announced: call ``announce([id])`` right after the commit, or the
        sweeper finds it later.

        Raises ``InvalidEmail`` (it names the field; nothing was stored) and ``StoreUnavailable``
        (within ``mongodb.timeout``; the id is in ``ids_unknown``; repeating with the same key is
        safe).
        """
        options = SendOptions(priority, send_at, expires_at, callback_url, request_id, vendors)
        submission = Submission.of(email, options, idempotency_key)
        if session is not None:
            return self._store_all(self._prepare_all([submission]), session)[0]
        try:
            return self._connections.call(lambda storage: self._store_one(storage, submission))
        except StoreUnavailable as error:
            unknown = [str(submission.id_in(self.env))]
            raise StoreUnavailable(str(error), (), unknown) from error

    def send_many(
        self,
        emails: Iterable[Sendable],
        *,
        priority: Priority = "normal",
        send_at: datetime | None = None,
        expires_at: datetime | None = None,
        idempotency_keys: Sequence[str | None] | None = None,
        callback_url: str | None = None,
        request_id: str | None = None,
        vendors: Sequence[str] | None = None,
        session: ClientSession | None = None,
    ) -> list[str]:
        """Store e-mails, up to 500 in a write, and announce them; returns their ids in order.

        Arguments, durability and threads as in ``send()``; ``idempotency_keys`` has one entry for
        each e-mail, a key or None.

        Raises ``InvalidEmail`` with the ``index`` of the first bad e-mail. Nothing was stored: all
        e-mails are validated and all keys looked up before the first write. One exception: if
        another caller takes a key for a different e-mail in between, or if MongoDB refuses an
        e-mail (a validator of yours does, say), the others are still stored. Raises
        ``StoreUnavailable`` within ``mongodb.timeout`` after MongoDB stopped answering:
        ``ids_stored`` are stored durably, ``ids_unknown`` may be stored or not, and all others were
        not stored.
        """
        options = SendOptions(priority, send_at, expires_at, callback_url, request_id, vendors)
        submissions = self._prepare_all(read_all(list(emails), options, idempotency_keys))
        if session is not None:
            return self._store_all(submissions, session)
        return self._connections.call(lambda _: self._store_all(submissions, None), one_clock=False)

    def send_all(self, calls: Iterable[SendCall]) -> list[str]:
        """``send_many()`` for e-mails that differ in their options: all are stored, or none.

        ``calls``: the arguments of one ``send()`` each.
        """
        read = [Submission.of_call(call, index) for index, call in enumerate(calls)]
        submissions = self._prepare_all(read)
        return self._connections.call(lambda _: self._store_all(submissions, None), one_clock=False)

    def send_each(self, calls: Iterable[SendCall]) -> list[CallResult]:
        """Store e-mails that do not depend on each other, up to 500 in a write, and announce them.

        ``calls``: the arguments of one ``send()`` each. Returns for each, in order, what ``send()``
        would return or raise for it; an ``InvalidEmail`` has its ``index``. So a bad e-mail keeps
        no other from being stored, and when MongoDB stops answering, it is known of each whether it
        is stored. Durability, time and threads as in ``send_many()``.
        """
        results: dict[int, CallResult] = {}
        submissions: dict[int, Submission] = {}
        for index, call in enumerate(calls):
            try:
                submissions[index] = Submission.of_call(call, index)
            except InvalidEmail as error:
                results[index] = error
        try:
            self._connections.call(
                lambda storage: self._store_each(storage, submissions.values(), results),
                one_clock=False,
            )
        except StoreUnavailable as error:
            for index, each in submissions.items():
                unknown = {str(each.document.get("_id"))}.intersection(error.ids_unknown)
                results.setdefault(index, StoreUnavailable(str(error), (), [*unknown]))
        return [results[index] for index in range(len(results))]

    def announce(self, ids: Iterable[str]) -> int:
        """Announce stored e-mails, right after the commit of the transaction that stored them.

        Returns how many jobs were put on the tube. An e-mail that is not stored or not queued gets
        none, and no e-mail gets one while beanstalkd is away. The call only saves time: the sweeper
        announces every e-mail that is due. Any thread may call. Raises ``ValueError`` for a
        malformed id, and ``StoreUnavailable``.
        """
        email_ids = [_object_id(email_id) for email_id in ids]
        return self._connections.call(lambda storage: storage.announce_queued(email_ids))

    @property
    def _vendors(self) -> list[str]:
        return [vendor.name for vendor in self.config.vendors]

    # Looking -----------------------------------------------------------------------------------

    def status(self, email_id: str) -> EmailStatus | None:
        """Where an e-mail stands, as a majority of MongoDB knows it; None: there is no such e-mail.

        A final e-mail is pruned after ``retention`` days. Any thread may call. Raises
        ``ValueError`` for a malformed id, and ``StoreUnavailable``.
        """
        match = {"_id": _object_id(email_id)}
        emails = self._connections.call(lambda storage: storage.store.find(match, 1))
        return status_of(emails[0].document, self._vendors) if emails else None

    def cancel(self, email_id: str) -> bool:
        """Cancel an e-mail that is still queued. True: it is cancelled, durably, and never sent.

        False: it is not. If a copy may have left already, it becomes ``uncertain``. Any thread may
        call. Raises ``ValueError`` for a malformed id, and ``StoreUnavailable``.
        """
        object_id = _object_id(email_id)
        return self._connections.call(lambda storage: storage.store.cancel(object_id))

    def reschedule(self, email_id: str, send_at: datetime) -> bool:
        """Have an e-mail sent at ``send_at`` instead (an aware datetime). True: durably.

        False: it is not queued any more, was tried before, would have expired by then, or there is
        no such e-mail. A consumer may be faster where the old time has come. Any thread may call.
        Raises ``InvalidEmail`` for a time that ``send()`` would refuse, ``ValueError`` for a
        malformed id, and ``StoreUnavailable``: then the e-mail has the one time or the other.
        """
        object_id, time = _object_id(email_id), time_of(send_at, "send_at")
        return self._connections.call(lambda storage: storage.reschedule(object_id, time))

    def find(self, email_id: str) -> StoredEmail | None:
        """An e-mail with its content, as a majority of MongoDB knows it; None: there is none.

        Any thread may call. Raises ``ValueError`` for a malformed id, and ``StoreUnavailable``.
        """
        object_id = _object_id(email_id)
        stored = self._connections.call(lambda storage: storage.store.find_whole(object_id))
        return None if stored is None else StoredEmail.of(stored, self._vendors)

    def recent(
        self, limit: int = 20, *, after: str | None = None, before: str | None = None
    ) -> list[StoredEmail]:
        """The newest e-mails, the newest of them first; at most ``limit`` (1 to 1,000).

        To turn pages, give the id of the last one as ``after``: the next older ones follow; or that
        of the first one as ``before``: those that are next newer. Neither is in the list, nor need
        be stored any more. What may be large is left out (HTML, alternatives, files), and the text
        is empty: see ``find``.

        Any thread may call. Raises ``ValueError`` for a malformed id, another limit, or both ids,
        and ``StoreUnavailable``.
        """
        if not 1 <= limit <= MAX_RECENT:
            raise ValueError(f"limit must be 1 to {MAX_RECENT}")
        if after is not None and before is not None:
            raise ValueError("after and before exclude each other")
        cursors = {"after": after, "before": before}
        bounds = {name: _object_id(each) for name, each in cursors.items() if each is not None}
        emails = self._connections.call(lambda storage: storage.store.page(limit, **bounds))
        return [StoredEmail.of(stored, self._vendors) for stored in emails]

    def check_writable(self) -> None:
        """Return if MongoDB takes writes to which a majority agrees; beanstalkd is not asked.

        Any thread may call. Raises ``StoreUnavailable`` within ``mongodb.timeout``, and within a
        second while MongoDB is known to be away.
        """
        self._connections.call(lambda storage: storage.store.check_writable())

    # Storing one e-mail ------------------------------------------------------------------------

    def _store_one(self, storage: Storage, submission: Submission) -> str:
        """Store and announce one e-mail, together with those that other threads send meanwhile."""
        if reentrancy.depth():  # waits for no other thread
            (outcome,) = outcomes = self._connections.write([submission])
            self._connections.announce(outcomes)
        else:
            outcome = self._commit(storage, submission)
        log_stored([outcome])
        return id_of(outcome)

    def _commit(self, storage: Storage, submission: Submission) -> Outcome:
        size = submission.size
        commits, large = storage.commits, size > LARGE
        commit = commits.get(large) or commits.setdefault(
            large, GroupCommit(self._connections.write, self._connections.announce)
        )
        try:
            return commit.submit(submission, storage.store.time_left(), size)
        except CommitTimeout:
            raise StoreUnavailable("MongoDB: no answer in time") from None

    # Storing many ------------------------------------------------------------------------------

    def _prepare_all(self, submissions: Sequence[Submission]) -> list[Submission]:
        """The e-mails of one call, prepared and merged by key; raises if one is refused."""
        _raise_refused(prepare(submissions, self.config, self.env))
        return merge_keys(submissions)

    def _store_all(
        self, submissions: Sequence[Submission], session: ClientSession | None
    ) -> list[str]:
        """Look all keys up, then store page by page; returns the ids in order.

        One new e-mail alone needs no look-up: its write finds out. In a transaction it does, since
        a taken key would end the transaction.
        """
        storage = self._connections.storage()
        storage.ensure_indexes(submissions)
        outcomes: dict[Submission, Outcome] = {}
        parts = list(pages(dict.fromkeys(submissions)))
        if session is not None or len(submissions) > 1:
            for page in parts:
                outcomes |= storage.look_up_keys(page, session)
            _raise_refused(outcomes)
        for page in parts:
            new = [each for each in page if each not in outcomes]
            outcomes |= self._store_page(storage, new, session, outcomes)
        return [id_of(outcomes[each]) for each in submissions]

    def _store_each(
        self, storage: Storage, submissions: Iterable[Submission], results: dict[int, CallResult]
    ) -> None:
        """Store page by page what is not refused, and note what came of each."""
        refused = prepare(submissions, self.config, self.env)
        new = [each for each in submissions if each not in refused]
        storage.ensure_indexes(new)
        _note(refused, results)
        for page in pages(new):
            _note(self._store_page(storage, page, None, {}), results)

    def _store_page(
        self,
        storage: Storage,
        page: Sequence[Submission],
        session: ClientSession | None,
        earlier: Mapping[Submission, Outcome],
    ) -> Mapping[Submission, Outcome]:
        """Store and announce one page; an error names what is stored and what is not known."""
        try:
            with storage.store.operation(session):
                outcomes = storage.store_page(page, session)
        except StoreUnavailable as error:
            stored = [id_of(each) for each in earlier.values() if not isinstance(each, Refused)]
            unknown = [str(each.document["_id"]) for each in page]
            raise StoreUnavailable(str(error), stored, unknown) from error
        if session is None:
            storage.announce(outcomes.values())
            log_stored(outcomes.values())
        return outcomes


def _note(outcomes: Mapping[Submission, Outcome], results: dict[int, CallResult]) -> None:
    for each, outcome in outcomes.items():
        if each.index is not None:
            refusal = outcome.error if isinstance(outcome, Refused) else None
            results[each.index] = refusal or id_of(outcome)


def _raise_refused(outcomes: Mapping[Submission, Outcome]) -> None:
    for outcome in outcomes.values():
        if isinstance(outcome, Refused):
            raise outcome.error


def _object_id(email_id: str) -> ObjectId:
    return ids.parse(str(email_id))
