"""What many threads ask for at the same time, done in one go.

Decides: who does it. Whoever finds nobody at it does it at once, alone; those who come meanwhile
wait, and the first of them then does it for all. So a lone caller waits for no company, and with
many callers one write to the database serves dozens of them. Callers that were served together are
likely to come again together: the next one waits for as many as there were, but no longer than the
last time took.

Assumes: doing an item twice does no harm. A thread may be interrupted at any step, by a handler
that runs for long or by an exception, and may die there.

Promises: a call returns when its own item is done, with what came of that item, or raises at its
own time's end. Nothing is held but the right to do it, and that only while it is done; where
whoever has it is gone or held up, another takes over: nobody is waited for beyond its time. What
was begun by a thread that failed is done again by another, so that no item's trouble, and no
thread's, is another's. Any thread may call; an instance belongs to one process.
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

MOST = 64
HEAVIEST = 16 * 2**20
LOOK = 0.25  # seconds; how often one who waits looks whether anybody is at it
GRACE = 1.0  # seconds that may pass after the time of whoever is at it


class OutOfTime(MailQueueError):
    """It was not done in time, by nobody; or it was, but it is not known."""


class _Entry(Generic[Item, Result]):
    """One caller's item, and what came of it once ``done``."""

    __slots__ = (
        *("__weakref__", "done", "ends", "error", "item"),
        *("overdue", "result", "signal", "struck", "weight"),
    )
    overdue: float  # when it must have been done, where its own thread is at it

    def __init__(self, item: Item, weight: int, ends: float) -> None:
        self.item, self.weight, self.ends = item, weight, ends
        self.signal = threading.Lock()
        self.signal.acquire()  # until there is something to see
        self.done = self.struck = False  # struck off the line
        self.error: Exception | None = None
        self.result: Result | None = None

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
    """``do`` gets items and gives a result for each, in their order, or raises.

    ``Unavailable`` is nobody's fault: it is for those whose time is up. Anything else may be one
    item's fault: each is done by itself then. ``after`` gets the results that nothing can change
    any more: where it takes longer than a moment nobody waits for it, but for whose thread does it.
    """

    def __init__(
        self,
        do: Callable[[list[Item]], Sequence[Result]],
        after: Callable[[list[Result]], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._do, self._after = do, after
        self._clock = clock
        self._waiting: deque[_Entry[Item, Result]] = deque()  # until done, so that none is lost
        self._right = threading.RLock()  # to do it; it knows its owner, so only who has it gives it
        self._leader: ref[_Entry[Item, Result]] | None = None  # whose thread has it, if it lives
        self._hesitant: _Entry[Item, Result] | None = None  # waits for others
        self._enough, self._until = 1, 0.0  # how many are likely to come, and until when

    def __call__(self, item: Item, seconds: float, weight: int = 0) -> Result:
        """Have it done within ``seconds``, together with what others ask for meanwhile.

        Items of more than ``HEAVIEST`` are not done together. Raises ``OutOfTime``, and what ``do``
        raises for this item.
        """
        entry: _Entry[Item, Result] = _Entry(item, weight, self._clock() + seconds)
        self._waiting.append(entry)
        try:
            hesitant = self._hesitant
            if hesitant is not None and len(self._waiting) >= self._enough:
                hesitant.wake()
            waits = self._leader is not None  # at first: whoever leads wakes the next
            while not entry.done:
                left = entry.ends - self._clock()
                if left <= 0:
                    raise OutOfTime
                if (waits or not self._lead(entry)) and not entry.signal.acquire(
                    timeout=min(left, LOOK)
                ):
                    self._see_to_leader()
                waits = False
        finally:
            if not entry.struck:
                self._strike(entry)
        return entry.outcome()

    def _strike(self, entry: _Entry[Item, Result]) -> None:
        try:  # noqa: SIM105  # see above
            self._waiting.remove(entry)
        except ValueError:  # it is not there any more
            pass
        entry.struck = True

    def _lead(self, mine: _Entry[Item, Result]) -> bool:
        """Do what is waiting, unless another is at it."""
        right = self._right
        try:
            if not right.acquire(blocking=False):
                return False
            mine.overdue = mine.ends + GRACE
            self._leader = ref(mine)
            if not mine.done:
                self._do_all(mine)
            return True
        finally:
            led = False
            try:
                while True:  # once more, should it have been interrupted here the last time
                    right.release()
                    led = True
            except RuntimeError:  # it does not have it (any more): nothing else is sure here
                if led:
                    self._leave(mine)

    def _see_to_leader(self) -> None:
        """Whoever is held up beyond its time, or gone without a word, has the right no longer."""
        leader = None if self._leader is None else self._leader()
        if leader is None or self._clock() > leader.overdue:
            self._right = threading.RLock()

    def _leave(self, mine: _Entry[Item, Result]) -> None:
        leader = self._leader
        if leader is not None and leader() is mine:  # else another is at it already
            self._leader = None
            with suppress(IndexError):
                self._waiting[0].wake()

    def _do_all(self, mine: _Entry[Item, Result]) -> None:
        """Do what is waiting; what could not be done waits on."""
        self._hesitate(mine)
        began = self._clock()
        batch = self._batch(mine)
        self._serve(batch, mine)
        for each in batch:
            if each.done:
                self._strike(each)
        self._let_go(batch, began)

    def _let_go(self, batch: Sequence[_Entry[Item, Result]], began: float) -> None:
        """Do what comes after, then wake the others: where it takes long, they have looked."""
        batch[0].overdue = self._clock() + LOOK
        try:
            self._after([each.outcome() for each in batch if each.done and each.error is None])
        finally:
            now = self._clock()
            self._enough = min(MOST, len(batch) + len(self._waiting))
            self._until = now + (now - began)
            for each in batch:
                each.wake()

    def _hesitate(self, mine: _Entry[Item, Result]) -> None:
        """Wait for those who were there the last time, while they are likely to come."""
        seconds = min(self._until, mine.ends) - self._clock()
        if seconds > 0 and len(self._waiting) < self._enough:
            self._hesitant = mine
            if len(self._waiting) < self._enough:  # who came since may not have seen it
                mine.signal.acquire(timeout=seconds)
            self._hesitant = None

    def _batch(self, mine: _Entry[Item, Result]) -> list[_Entry[Item, Result]]:
        """Mine and the first of the others: as many as go together."""
        batch, weight, now = [mine], mine.weight, self._clock()
        for each in list(self._waiting):
            if each is mine or each.done or each.ends <= now:  # whose caller is gone, or will be
                continue
            weight += each.weight
            if len(batch) == MOST or weight > HEAVIEST:
                break
            batch.append(each)
        return batch

    def _serve(self, batch: Sequence[_Entry[Item, Result]], mine: _Entry[Item, Result]) -> None:
        try:
            results = self._do([each.item for each in batch])
        except Unavailable as error:
            now = self._clock()
            for each in batch:
                if each is mine or each.ends <= now:
                    each.error, each.done = error, True
        except Exception as error:
            if len(batch) == 1:
                raise
            self._serve_each(batch, error)
        else:
            for each, result in zip(batch, results, strict=True):
                each.result = result
                each.done = True

    def _serve_each(self, batch: Sequence[_Entry[Item, Result]], error: Exception) -> None:
        """One by one, so that whose item it is hears of it; nobody's: it was for this thread.

        What fails for another waits on: this thread may have been struck a second time, and whose
        item it is learns the truth when its own thread does it.
        """
        failed = False
        for each in batch:
            try:
                (each.result,) = self._do([each.item])
            except Unavailable:
                return
            except Exception as own:  # noqa: BLE001  # it is handed to whom it belongs
                failed = True
                if each is not batch[0]:
                    continue
                each.error = own
            each.done = True
        if not failed:
            raise error
