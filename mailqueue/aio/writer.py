"""The thread that stores what the event loops of one process hand in.

Decides: what is stored together. All that waits when a write begins makes the next batch, so that
a lone task waits for nobody, and many are served by one write. Large e-mails have a writer of their
own, so that the others do not wait behind them; jobs are announced by another thread, so that
beanstalkd delays nobody.

Assumes: writing an e-mail twice does no harm (its id is made once, when it is read).

Promises: a call stays in line until it is done, whatever strikes the thread. A call whose time is
over is not begun. No call gets the error of another. When the interpreter ends, or ``close`` is
called, what waits is written first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from mailqueue import reentrancy
from mailqueue.aio.pending import NO_ANSWER, Pending, PendingSend
from mailqueue.errors import InvalidEmail, Unavailable
from mailqueue.producer.connections import Connections
from mailqueue.producer.group_commit import LARGE, MAX_BATCH, MAX_BYTES, write_batch
from mailqueue.producer.stored_log import log_stored
from mailqueue.producer.submission import Outcome, id_of
from mailqueue.store import ids

if TYPE_CHECKING:
    from mailqueue.producer.storage import Announces
    from mailqueue.queue.broker import Announcement

MAX_UNANNOUNCED = 10_000  # jobs; the sweeper finds the others


class JobThread:
    """Puts the jobs of what was stored on the tube."""

    def __init__(self) -> None:
        self._waiting: deque[Announcement] = deque(maxlen=MAX_UNANNOUNCED)
        self._executor = ThreadPoolExecutor(1, "mailqueue-announcer")

    def put(self, announcements: Iterable[Announcement], announcer: Announces) -> None:
        """Announce these soon; at once, in this thread, when the interpreter is about to end."""
        self._waiting.extend(announcements)
        try:
            self._executor.submit(self._announce, announcer)
        except RuntimeError:
            self._announce(announcer)

    def _announce(self, announcer: Announces) -> None:
        page = []
        with suppress(IndexError):
            while True:
                page.append(self._waiting.popleft())
        if page:
            announcer.announce(page)

    def close(self) -> None:
        """Return when all is announced."""
        self._executor.shutdown()

    def give_up(self) -> None:
        """Do not wait for that."""
        self._executor.shutdown(wait=False)


class Writer:
    """One thread, and the calls that wait for it. Any thread may ``put`` and ``start``."""

    def __init__(
        self, connections: Connections, jobs: JobThread, large: Writer | None = None
    ) -> None:
        self._connections, self._jobs, self._large = connections, jobs, large
        self._process = ids.process()
        self._waiting: deque[PendingSend] = deque()
        self._announcer: Announces | None = None  # beside the store of the last write
        self._is_called = False  # the thread will look at what waits, from the beginning
        self._executor = ThreadPoolExecutor(1, "mailqueue-writer" + ("" if large else "-large"))

    def put(self, call: PendingSend) -> None:
        """Put it in line; ``start`` must follow."""
        self._waiting.append(call)

    def start(self) -> bool:
        """Have the thread write what waits.

        False: nothing was done. It is closed, or we are beyond a fork, or the interpreter is about
        to end.
        """
        if ids.process() == self._process:
            with suppress(RuntimeError):
                if not self._is_called:
                    self._is_called = True
                    self._executor.submit(self._write_all)
                return True
            self._is_called = False
        return False

    def _hand_over(self, call: PendingSend) -> bool:
        """Put a large e-mail in the other line; False: that one is not written any more."""
        if self._large is None or call.done or call.size <= LARGE:
            return False
        self._large.put(call)
        if not self._large.start():
            return False
        self._waiting.remove(call)
        return True

    def close(self) -> None:
        """Return when all that waits is written or given up."""
        self.start()
        self._executor.shutdown()

    def give_up(self) -> None:
        """Leave the thread alone, which is stuck or gone."""
        self._executor.shutdown(wait=False)

    def _write_all(self) -> None:
        try:
            self._is_called = False
            while self._waiting:
                reentrancy.run(self._commit)
        finally:
            self._is_called = False
            if self._waiting:  # something struck this thread, and not the calls
                self.start()

    def _commit(self) -> None:
        """Write one batch; what could not be written stays in line."""
        batch = self._choose_batch()
        unwritten = [call for call in batch if not call.done]
        if unwritten:
            self._write(unwritten)
        self._resolve([call for call in batch if call.done])

    def _choose_batch(self) -> list[PendingSend]:
        """The first calls in line, read; as many as fit into one write."""
        batch: list[PendingSend] = []
        size, now = 0, time.monotonic()
        for call in list(islice(self._waiting, MAX_BATCH)):
            self._read(call, now)
            if self._hand_over(call):
                continue
            size += call.size
            if batch and size > MAX_BYTES:
                break
            batch.append(call)
        return batch

    def _read(self, call: PendingSend, now: float) -> None:
        """Validate the e-mail, once; end the call if its time is over."""
        if call.done:
            return
        if call.deadline <= now:
            call.error, call.done = call.unavailable(NO_ANSWER), True
        elif call.read is not None:
            try:
                call.item = call.read()
                call.size = call.item.size
            except Exception as error:  # noqa: BLE001  # a caller's own object raises anything
                call.error, call.done = _for_future(error), True
            except BaseException as error:
                # It is meant for this thread, and then it comes once; or the caller's own object
                # raises it each time, and nobody else must wait for that.
                if not call.is_struck:
                    call.is_struck = True
                    raise
                call.error, call.done = _for_future(error), True
            call.read = None

    def _write(self, calls: Sequence[PendingSend]) -> None:
        try:
            storage = self._connections.storage()
        except Exception as error:  # noqa: BLE001  # the configuration cannot be used, say
            for call in calls:
                call.error, call.done = error, True
            return
        self._announcer = storage.announcer
        storage.store.start_clock(calls[0].deadline - time.monotonic())
        write_batch(self._connections.write, calls, time.monotonic, callers_thread=False)

    def _resolve(self, calls: Sequence[PendingSend]) -> None:
        """Tell the loops, then have the jobs announced."""
        outcomes = [call.result for call in calls if call.result is not None]
        by_loop: dict[Pending, list[PendingSend]] = {}
        for call in calls:
            _conclude(call)
            by_loop.setdefault(call.pending, []).append(call)
        for pending, own in by_loop.items():
            try:
                own[0].future.get_loop().call_soon_threadsafe(pending.resolve, own)
            except RuntimeError:  # it is closed
                pending.forget()
        for call in calls:
            self._waiting.remove(call)
        if outcomes and self._announcer is not None:
            self._jobs.put(_announcements(outcomes), self._announcer)
        log_stored(outcomes)


def _announcements(outcomes: Sequence[Outcome]) -> list[Announcement]:
    from mailqueue.producer.storage import announcements  # loads pymongo, as the write did

    return announcements(outcomes)


def _conclude(call: PendingSend) -> None:
    """The id or the error that the task gets."""
    if isinstance(call.error, Unavailable):
        call.error = call.unavailable(str(call.error))
    elif call.result is not None:
        try:
            call.id = id_of(call.result)
        except InvalidEmail as error:
            call.error = error


def _for_future(error: BaseException) -> Exception:
    """A future does not take this one, and a task is no place for SystemExit and the like."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(type(error).__name__)
