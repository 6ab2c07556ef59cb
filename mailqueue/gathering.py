"""What many threads ask for at the same time, done in one go.

Decides: who does it. Whoever finds nobody at it does it at once, alone; those who come meanwhile
wait, and the first of them then does it for all. So a lone caller waits for no company, and with
many callers one write to the database serves dozens of them.

Promises: a call returns when its own item is done, with what came of that item. Any thread may
call; an instance belongs to one process.
"""

from __future__ import annotations

import threading
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

    def __init__(self, do: Callable[[list[Item]], Sequence[Result]]) -> None:
        self._do = do
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: list[_Entry[Item, Result]] = []

    def __call__(self, item: Item) -> Result:
        """Have it done, together with what others ask for meanwhile."""
        entry: _Entry[Item, Result] = _Entry(item)
        with self._lock:
            waits = self._busy
            self._waiting.append(entry)
            self._busy = True
        if waits:
            entry.turn.acquire()
        if not entry.done:
            self._do_all()
        if entry.error is not None:
            raise entry.error
        return entry.result  # type: ignore[return-value]  # it is set where there is no error

    def _do_all(self) -> None:
        """Do what is waiting, then leave the next turn to the first of those who came since."""
        with self._lock:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
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
            self._finish(batch)

    def _finish(self, batch: Sequence[_Entry[Item, Result]]) -> None:
        with self._lock:
            for entry in batch:
                entry.done = True
            following = self._waiting[0] if self._waiting else None
            self._busy = following is not None
        for entry in batch:
            entry.turn.release()
        if following is not None:
            following.turn.release()
