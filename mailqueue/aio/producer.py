"""What an asyncio application calls: ``Producer`` with ``await``.

Decides: which thread does what. ``send()`` hands the e-mail to the writer's thread, which validates
it and stores it with those of other tasks (see ``writer``). All other calls run in a few threads
beside it, as does ``send()`` while MongoDB is known to be away.

Assumes: one ``AsyncProducer`` per application. It may be made anywhere, before a fork and before
there is a loop, and be used by several loops: each process has its own threads and connections from
its first call on.

Promises: what ``Producer`` promises, and the loop never waits: whatever takes long is done by the
threads. A call that was begun goes on when its task is cancelled: ``CancelledError`` means that the
e-mail may be stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakKeyDictionary

from mailqueue.aio.pending import Pending, PendingSend, shares_of
from mailqueue.aio.writer import JobThread, Writer
from mailqueue.config import Config
from mailqueue.producer import Priority, Producer, submission
from mailqueue.producer.connections import Connections, Process
from mailqueue.producer.producer import CallResult
from mailqueue.producer.status import EmailStatus, StoredEmail
from mailqueue.producer.submission import Sendable, SendOptions, Submission
from mailqueue.store import ids as identities

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

THREADS = 8  # for the calls that the writer does not do
T = TypeVar("T")


class AsyncProducer:
    """Stores e-mails in MongoDB and announces them to the consumers, for asyncio.

    Arguments and exceptions are those of ``Producer``, also of the methods: each of them says what
    is different here. Making one connects to nothing. ``async with AsyncProducer() as producer:``
    connects at once and closes at the end.

    Of several event loops any may call, at the same time, before and after a fork.
    """

    def __init__(
        self,
        config: Config | str | Path | None = None,
        *,
        client: MongoClient[dict[str, Any]] | None = None,
    ) -> None:
        self._producer = Producer(config, client=client)
        self._connections = self._producer._connections  # noqa: SLF001  # the two share it
        self.config, self.env = self._producer.config, self._producer.env
        self._threads: dict[Process, _Threads] = {}

    # Connections -------------------------------------------------------------------------------

    async def connect(self) -> Self:
        """``Producer.connect``; returns the ``AsyncProducer``."""
        await self._call(self._producer.connect)
        return self

    def reload(self, config: Config) -> None:
        """Use another configuration from the next call on: see ``Producer.reload``."""
        self._producer.reload(config)
        self.config = config

    async def aclose(self) -> None:
        """Wait for all that was handed in, then close this process's connections and threads.

        It takes at most ``mongodb.timeout`` where MongoDB does not answer (a ``send_many()`` has
        that time for each write). A later call opens new connections.
        """
        threads = self._threads.pop(identities.process(), None)
        await asyncio.shield(asyncio.to_thread(self._close, threads))

    def _close(self, threads: _Threads | None) -> None:
        if threads is not None:
            threads.close()
        self._connections.close()

    async def __aenter__(self) -> Self:
        try:
            return await self.connect()
        except BaseException:
            await self.aclose()  # __aexit__ is not called after an exception here
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # Sending -----------------------------------------------------------------------------------

    async def send(
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
        """``Producer.send``: when it returns the id, a majority has the e-mail in its journal.

        The e-mail is read in another thread: leave it unchanged until the call returns. Its job is
        put on the tube right after that. When the task is cancelled, or times out, the write goes
        on: the e-mail may be stored, and repeating with the same ``idempotency_key`` is safe.
        While very many e-mails wait (1,000 for each loop, or 64 MB), the call waits before it hands
        in its own, within the same ``mongodb.timeout``.
        """
        if session is not None or self._connections.is_away:
            work = partial(
                self._producer.send,
                email,
                priority=priority,
                send_at=send_at,
                expires_at=expires_at,
                idempotency_key=idempotency_key,
                callback_url=callback_url,
                request_id=request_id,
                vendors=vendors,
                session=session,
            )
            return await self._call(work)
        deadline = time.monotonic() + self.config.mongodb.timeout
        shares = shares_of(email)
        threads = self._own_threads()
        pending = threads.pending()
        if not pending.has_room(shares):
            await pending.wait_for_room(shares)
            threads = self._own_threads()  # the writer may have been given up
        options = priority, send_at, expires_at, callback_url, request_id, vendors
        read = partial(copy_context().run, _read, email, options, idempotency_key)
        call = PendingSend(read, shares, deadline, pending)
        threads.writer.put(call)
        pending.add(call, threads.writer.start)
        return await call.future

    async def send_many(
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
        """``Producer.send_many``, as one call in a thread.

        When the task is cancelled, it goes on: any of the e-mails may be stored.
        """
        work = partial(
            self._producer.send_many,
            emails,
            priority=priority,
            send_at=send_at,
            expires_at=expires_at,
            idempotency_keys=idempotency_keys,
            callback_url=callback_url,
            request_id=request_id,
            vendors=vendors,
            session=session,
        )
        return await self._call(work, one_clock=False)

    async def send_all(self, calls: Iterable[submission.SendCall]) -> list[str]:
        """``Producer.send_all``, as one call in a thread, as ``send_many()``."""
        return await self._call(partial(self._producer.send_all, calls), one_clock=False)

    async def send_each(self, calls: Iterable[submission.SendCall]) -> list[CallResult]:
        """``Producer.send_each``, as one call in a thread, as ``send_many()``."""
        return await self._call(partial(self._producer.send_each, calls), one_clock=False)

    async def announce(self, ids: Iterable[str]) -> int:
        """``Producer.announce``: right after the commit of the transaction that stored them."""
        return await self._call(partial(self._producer.announce, ids))

    # Looking -----------------------------------------------------------------------------------

    async def status(self, email_id: str) -> EmailStatus | None:
        """``Producer.status``: where an e-mail stands; None: there is no such e-mail."""
        return await self._call(partial(self._producer.status, email_id))

    async def cancel(self, email_id: str) -> bool:
        """``Producer.cancel``. When the task is cancelled, the e-mail may be cancelled or not."""
        return await self._call(partial(self._producer.cancel, email_id))

    async def reschedule(self, email_id: str, send_at: datetime) -> bool:
        """``Producer.reschedule``. When the task is cancelled, either time may be the e-mail's."""
        return await self._call(partial(self._producer.reschedule, email_id, send_at))

    async def find(self, email_id: str) -> StoredEmail | None:
        """``Producer.find``: an e-mail with its content; None: there is no such e-mail."""
        return await self._call(partial(self._producer.find, email_id))

    async def recent(
        self, limit: int = 20, *, after: str | None = None, before: str | None = None
    ) -> list[StoredEmail]:
        """``Producer.recent``: the newest e-mails, page by page."""
        return await self._call(partial(self._producer.recent, limit, after=after, before=before))

    async def check_writable(self) -> None:
        """``Producer.check_writable``: raises ``StoreUnavailable`` where nothing can be stored."""
        await self._call(self._producer.check_writable)

    # Threads -----------------------------------------------------------------------------------

    def _own_threads(self) -> _Threads:
        """This process's; those that a child inherits through a fork have no thread."""
        process = identities.process()
        threads = self._threads.get(process)
        if threads is None:
            new = _Threads(self._connections, self._give_up)
            threads = self._threads.setdefault(process, new)  # another loop may have been faster
        return threads

    def _give_up(self, threads: _Threads) -> None:
        """The writer did not answer in time: the next call gets another one."""
        process = identities.process()
        if self._threads.get(process) is threads:
            del self._threads[process]

    async def _call(self, work: Callable[[], T], *, one_clock: bool = True) -> T:
        """Run a call of the producer in a thread, in the context of the task.

        It goes on when the task is cancelled.
        """
        if one_clock:
            work = partial(_by, time.monotonic() + self.config.mongodb.timeout, work)
        loop = asyncio.get_running_loop()
        run = partial(copy_context().run, work)
        return await asyncio.shield(loop.run_in_executor(self._own_threads().calls, run))


class _Threads:
    """The threads of one process, and what each of its loops waits for."""

    def __init__(self, connections: Connections, on_give_up: Callable[[_Threads], object]) -> None:
        self._env = connections.env
        self.calls = ThreadPoolExecutor(THREADS, "mailqueue-call")
        self._jobs = JobThread()
        self._large = Writer(connections, self._jobs)
        self.writer = Writer(connections, self._jobs, self._large)
        self._on_give_up = on_give_up
        self._pending: WeakKeyDictionary[asyncio.AbstractEventLoop, Pending] = WeakKeyDictionary()
        self._latest: Pending | None = None  # to look it up takes longer than all else in a call

    def pending(self) -> Pending:
        """What the running loop waits for."""
        loop, latest = asyncio.get_running_loop(), self._latest
        if latest is not None and latest.loop() is loop:
            return latest
        pending = self._pending.get(loop)
        if pending is None:
            pending = self._pending[loop] = Pending(self._env, self._stop)
        self._latest = pending
        return pending

    def close(self) -> None:
        """Return when all calls are done."""
        for each in (self.writer, self._large, self._jobs):
            each.close()
        self.calls.shutdown()

    def _stop(self) -> None:
        """The writer is stuck or gone: nobody uses these threads any more, or waits for them."""
        self._on_give_up(self)
        for writer in (self.writer, self._large):
            writer.give_up()
        self._jobs.give_up()
        self.calls.shutdown(wait=False)


def _read(
    email: Sendable,
    options: tuple[
        Priority, datetime | None, datetime | None, str | None, str | None, Sequence[str] | None
    ],
    idempotency_key: str | None,
) -> Submission:
    return Submission.of(email, SendOptions(*options), idempotency_key)


def _by(deadline: float, work: Callable[[], T]) -> T:
    """Run a call that has waited for its thread: its time began with the task's call."""
    from mailqueue.store.mongo import within

    with within(deadline - time.monotonic()):
        return work()
