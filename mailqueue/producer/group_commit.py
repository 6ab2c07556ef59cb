"""Group commit: writes that many threads ask for at the same time are done as one.

Decides: the first caller writes at once. Callers that arrive during a write form the next batch,
and one of them, the leader, writes it for all; the others, the followers, wait for it. So a lone
caller waits for nobody, and with many callers one write to the database serves dozens of them.
Callers that were served together usually come back together: the next leader lingers until as many
are there, but no longer than the last write took, nor than a quarter of its own time.

Assumes: writing an item twice does no harm. A thread may be interrupted at any step, by a handler
that runs for long or by an exception, and may die there.

Promises: a call returns the result of its own item, or raises its own error, or raises
``CommitTimeout`` at the end of its own time. The leadership is the only lock, and is held only
during a write. A follower replaces a leader that is gone or over its time, and writes again what
that one began: the error of one item or of one thread never reaches another caller.
Any thread may call; an instance belongs to one process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar
from weakref import ref

from mailqueue.errors import MailQueueError, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_BATCH = 64  # items
MAX_BYTES = 16 * 2**20
LARGE = MAX_BYTES // MAX_BATCH  # bytes; of smaller e-mails a full batch always fits into one write
POLL = 0.25  # seconds; how often a follower checks that there still is a leader
GRACE = 1.0  # seconds that a leader may take beyond its own time, before it is replaced


class CommitTimeout(MailQueueError):
    """The item was not written in time; or it was, and nobody knows."""


class Entry(Generic[Item, Result]):
    """One caller's item, and its result or error once it is ``done``."""

    __slots__ = ("deadline", "done", "error", "item", "result", "size")

    def __init__(self, item: Item, size: int, deadline: float) -> None:
        self.item, self.size, self.deadline = item, size, deadline
        self.done = False
        self.error: Exception | None = None
        self.result: Result | None = None


def write_batch(
    write: Callable[[list[Item]], Sequence[Result]],
    batch: Sequence[Entry[Item, Result]],
    clock: Callable[[], float],
    *,
    callers_thread: bool = True,
) -> None:
    """Write the items of a batch, so that no entry is done with the error of another.

    ``write`` is as ``GroupCommit`` has it. ``callers_thread``: it is run by the thread of the first
    entry's caller, which an exception of the application may strike.
    """
    try:
        results = write([entry.item for entry in batch])
    except Unavailable as error:
        now = clock()
        for entry in batch:
            if entry is batch[0] or entry.deadline <= now:
                entry.error, entry.done = error, True
    except Exception as error:
        if len(batch) == 1 and callers_thread:
            raise
        _write_each(write, batch, error, callers_thread)
    else:
        for entry, result in zip(batch, results, strict=True):
            entry.result = result
            entry.done = True


def _write_each(
    write: Callable[[list[Item]], Sequence[Result]],
    batch: Sequence[Entry[Item, Result]],
    error: Exception,
    callers_thread: bool,
) -> None:
    """Write the items one by one, so that only the caller of a bad item gets its error.

    If none fails alone, ``error`` was meant for this thread (a time-out of the application, say)
    and is raised here. In a caller's thread an item of another caller that fails stays in line:
    this thread may have been interrupted once more, and the caller's own thread finds out.
    """
    failed = False
    for entry in batch:
        try:
            (entry.result,) = write([entry.item])
        except Unavailable:
            return
        except Exception as own_error:  # noqa: BLE001  # raised to the caller of this item
            failed = True
            if callers_thread and entry is not batch[0]:  # another caller's: it stays in line
                continue
            entry.error = own_error
        entry.done = True
    if not failed:
        raise error


class _Entry(Entry[Item, Result]):
    """An entry with what its caller's thread needs to wait, and to lead."""

    __slots__ = ("__weakref__", "lead_until", "removed", "signal")
    lead_until: float  # when its thread may be replaced as the leader; set when it leads

    def __init__(self, item: Item, size: int, deadline: float) -> None:
        super().__init__(item, size, deadline)
        self.signal = threading.Lock()
        self.signal.acquire()  # released by ``wake``: a lock is the cheapest event
        self.removed = False

    def wake(self) -> None:
        try:  # noqa: SIM105  # suppress would take several times as long
            self.signal.release()
        except RuntimeError:  # it is awake
            pass

    def outcome(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # it is set where there is no error


class GroupCommit(Generic[Item, Result]):
    """Collects the items of concurrent callers and writes them together.

    ``write`` gets items and returns a result for each, in their order, or raises. ``Unavailable``
    is no item's fault: it is raised to the leader and to callers whose time is over, and the others
    wait for the next write. Any other exception may be the fault of one item, so each is then
    written alone. ``after`` gets the results once they are final. The leader runs it, and the
    followers wait for it for ``POLL`` seconds at most.
    """

    def __init__(
        self,
        write: Callable[[list[Item]], Sequence[Result]],
        after: Callable[[list[Result]], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._after = write, after
        self._clock = clock
        # Entries stay in here until they are done: what a dead leader began is not lost.
        self._waiting: deque[_Entry[Item, Result]] = deque()
        # Held by the leader. An RLock knows its owner: only the leader's thread can release it.
        self._leadership = threading.RLock()
        self._leader: ref[_Entry[Item, Result]] | None = None  # weak: a dead thread's entry is gone
        self._lingering: _Entry[Item, Result] | None = None
        self._expected, self._linger_until = 1, 0.0

    def submit(self, item: Item, seconds: float, size: int = 0) -> Result:
        """Have ``item`` written within ``seconds``, together with those of other callers.

        ``size`` in bytes: a batch has at most ``MAX_BYTES``, unless one item is larger. Raises
        ``CommitTimeout``, and what ``write`` raises for this item.
        """
        entry: _Entry[Item, Result] = _Entry(item, size, self._clock() + seconds)
        self._waiting.append(entry)
        try:
            lingering = self._lingering
            if lingering is not None and len(self._waiting) >= self._expected:
                lingering.wake()
            follows = self._leader is not None  # only at first: a follower that is woken may lead
            while not entry.done:
                remaining = entry.deadline - self._clock()
                if remaining <= 0:
                    raise CommitTimeout
                if (follows or not self._lead(entry)) and not entry.signal.acquire(
                    timeout=min(remaining, POLL)
                ):
                    self._check_leader()
                follows = False
        finally:
            if not entry.removed:
                self._remove(entry)
        return entry.outcome()

    def _remove(self, entry: _Entry[Item, Result]) -> None:
        try:  # noqa: SIM105  # see above
            self._waiting.remove(entry)
        except ValueError:  # another thread removed it
            pass
        entry.removed = True

    def _lead(self, own: _Entry[Item, Result]) -> bool:
        """Write one batch as the leader; False: another thread leads."""
        leadership = self._leadership
        try:
            if not leadership.acquire(blocking=False):
                return False
            own.lead_until = own.deadline + GRACE
            self._leader = ref(own)
            if not own.done:
                self._commit(own)
            return True
        finally:
            # An exception may strike this thread between any two steps, even in this block. So the
            # lock is released until it says that it is not ours: what an earlier call of this
            # thread could not release is released now, too.
            was_leader = False
            try:
                while True:
                    leadership.release()
                    was_leader = True
            except RuntimeError:
                if was_leader:
                    self._resign(own)

    def _check_leader(self) -> None:
        """Make the leadership free if the leader is gone, or held up beyond its time."""
        leader = None if self._leader is None else self._leader()
        if leader is None or self._clock() > leader.lead_until:
            self._leadership = threading.RLock()  # the old lock cannot be released from here

    def _resign(self, own: _Entry[Item, Result]) -> None:
        leader = self._leader
        if leader is not None and leader() is own:  # else a follower has taken over already
            self._leader = None
            with suppress(IndexError):
                self._waiting[0].wake()

    def _commit(self, own: _Entry[Item, Result]) -> None:
        """Write a batch; what could not be written stays in line."""
        self._linger(own)
        start = self._clock()
        batch = self._choose_batch(own)
        write_batch(self._write, batch, self._clock)
        seconds = self._clock() - start
        for entry in batch:
            if entry.done:
                self._remove(entry)
        self._release_followers(batch, seconds)

    def _linger(self, own: _Entry[Item, Result]) -> None:
        """Wait for the callers of the last batch, while they are likely to come back.

        A slow write needs most of the leader's own time: no more than a quarter of it is waited.
        """
        now = self._clock()
        seconds = min(self._linger_until - now, (own.deadline - now) / 4)
        if seconds > 0 and len(self._waiting) < self._expected:
            self._lingering = own
            # Looked at again: a caller that came in between did not see us linger.
            if len(self._waiting) < self._expected:
                own.signal.acquire(timeout=seconds)
            self._lingering = None

    def _choose_batch(self, own: _Entry[Item, Result]) -> list[_Entry[Item, Result]]:
        """Our own entry and the first of the others, as many as fit into one write."""
        batch, size, now = [own], own.size, self._clock()
        for entry in list(self._waiting):
            if entry is own or entry.done or entry.deadline <= now:  # its caller gives up
                continue
            size += entry.size
            if len(batch) == MAX_BATCH or size > MAX_BYTES:
                break
            batch.append(entry)
        return batch

    def _release_followers(self, batch: Sequence[_Entry[Item, Result]], seconds: float) -> None:
        """Run ``after``, then wake the followers; if it takes long, their poll finds them done.

        The next leader lingers as long as the write took (``seconds``); after a failure, whose
        callers stay away for a while, not at all.
        """
        batch[0].lead_until = self._clock() + POLL
        try:
            successes = [entry for entry in batch if entry.done and entry.error is None]
            self._after([entry.outcome() for entry in successes])
        finally:
            self._expected = min(MAX_BATCH, len(batch) + len(self._waiting))
            has_failed = batch[0].error is not None
            self._linger_until = 0.0 if has_failed else self._clock() + seconds
            for entry in batch:
                entry.wake()
