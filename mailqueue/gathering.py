"""What many threads ask for at the same time, done in one go.

Decides: who does it. Whoever finds nobody at it does it at once, alone; those who come meanwhile
wait, and the first of them then does it for all. So a lone caller waits for no company, and with
many callers one write to the database serves dozens of them. Callers that were served together are
likely to come again together: the next one waits for as many as there were, but no longer than the
last time took.

Promises: a call returns when its own item is done, with what came of that item. Any thread may
call; an instance belongs to one process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 64


class Interrupted(Exception):
    """The thread that did it was interrupted: what came of it is not known."""


class _Entry(Generic[Item, Result]):
    """One caller's item, and what came of it once ``done``."""

    __slots__ = ("done", "error", "item", "result", "turn")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.turn = threading.Lock()
        self.turn.acquire()  # until it is done, or this caller's turn to do it
        self.done = False
        self.error: Exception | None = None
        self.result: Result | None = None


class Gathering(Generic[Item, Result]):
    """``do`` gets items and gives a result for each, in their order, or raises for all."""

    def __init__(
        self,
        do: Callable[[list[Item]], Sequence[Result]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._do = do
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[_Entry[Item, Result]] = []
        self._leader: _Entry[Item, Result] | None = None  # whose thread does it
        self._hesitates = False  # it waits for others
        self._enough, self._until = 1, 0.0  # how many are likely to come, and until when

    def __call__(self, item: Item) -> Result:
        """Have it done, together with what others ask for meanwhile."""
        entry: _Entry[Item, Result] = _Entry(item)
        try:
            if not self._leads(entry):
                entry.turn.acquire()
            if not entry.done:
                self._hesitate(entry)
                self._do_all(entry)
        except BaseException:
            self._leave(entry)
            raise
        if entry.error is not None:
            raise entry.error
        return entry.result  # type: ignore[return-value]  # it is set where there is no error

    def _leads(self, entry: _Entry[Item, Result]) -> bool:
        """Line up; True: nobody is at it."""
        with self._lock:
            self._waiting.append(entry)
            if self._leader is None:
                self._leader = entry
                return True
            if self._hesitates and len(self._waiting) >= self._enough:
                self._hesitates = False
                self._leader.turn.release()
            return False

    def _hesitate(self, mine: _Entry[Item, Result]) -> None:
        """Wait for those who were there the last time, while they are likely to come."""
        with self._lock:
            seconds = self._until - self._clock()
            self._hesitates = len(self._waiting) < self._enough and seconds > 0
            if not self._hesitates:
                return
        mine.turn.acquire(timeout=seconds)
        with self._lock:
            self._hesitates = False

    def _do_all(self, mine: _Entry[Item, Result]) -> None:
        """Do what is waiting, then leave the next turn to the first of those who came since."""
        with self._lock:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        began = self._clock()
        try:
            results = self._do([entry.item for entry in batch])
            for entry, result in zip(batch, results, strict=True):
                entry.result = result
        except BaseException as error:
            for entry in batch:
                entry.error = error if isinstance(error, Exception) else Interrupted()
            if not isinstance(error, Exception):
                raise
        finally:
            self._finish([entry for entry in batch if entry is not mine], began)

    def _finish(self, others: Sequence[_Entry[Item, Result]], began: float) -> None:
        with self._lock:
            now = self._clock()
            self._enough = min(MOST, 1 + len(others) + len(self._waiting))
            self._until = now + (now - began)
            for entry in others:
                entry.done = True
                entry.turn.release()
            self._pass_on()

    def _leave(self, entry: _Entry[Item, Result]) -> None:
        """The thread was interrupted: nobody may wait for it."""
        with self._lock:
            if entry in self._waiting:
                self._waiting.remove(entry)
            if self._leader is entry:
                self._pass_on()

    def _pass_on(self) -> None:
        self._hesitates = False
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader is not None:
            self._leader.turn.release()
