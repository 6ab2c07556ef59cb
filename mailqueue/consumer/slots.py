"""The slots of a process: how many e-mails it may claim, and how many jobs it may reserve.

Decides: one slot for each sender, and prefetch: where slots come free quickly a few e-mails more
are claimed, so that the next one is there when a sender is free. At most as many as came free
during the last four writes, or in a fifth of a second. Where calls take long those are few, and an
e-mail is left to a process that has a sender free.

A job is first reserved (it waits for its claim), then busy, then done. Busy are the claimed e-mails
that are not parked, as the bulkheads count them.

Promises: any thread may call; nothing here waits for longer than it is told to.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from mailqueue.routing.bulkheads import Bulkheads

WRITES_AHEAD = 4
MOST_AHEAD = 0.2  # seconds


class Slots:
    """``number`` slots, all free at first."""

    def __init__(self, number: int, bulkheads: Bulkheads[Any], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._number = number
        self._few = max(1, number // 4)
        self._bulkheads = bulkheads
        self._reserved = 0
        self._ahead = 0.0  # seconds
        self._done_at: deque[float] = deque()  # of the last moment

    def write_took(self, seconds: float) -> None:
        """The next write that claims will take about as long."""
        if self._number > 1:  # one that sends alone: what is urgent overtakes at once
            self._ahead = min(MOST_AHEAD, (self._ahead + WRITES_AHEAD * seconds) / 2)

    def _soon(self) -> int:
        """How many will come free in a moment: as many as did in the last."""
        recently = self._clock() - self._ahead
        while self._done_at and self._done_at[0] <= recently:
            self._done_at.popleft()
        return len(self._done_at)

    def room(self, seconds: float) -> int:
        """How many further jobs may be reserved; waits up to ``seconds`` for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._room(self._soon()) > 0, seconds)
            return max(0, self._room(self._soon()))

    def _room(self, soon: int) -> int:
        """Twice as far ahead as claims go: reading comes before claiming."""
        return self._number + 2 * soon - self._bulkheads.busy - self._reserved

    def reserve(self, jobs: int) -> None:
        """So many jobs are reserved and wait for their claim; fewer if it is below 0."""
        with self._changed:
            self._reserved += jobs
            self._changed.notify()

    def claim(self, jobs: int) -> None:
        """The e-mails of so many reserved jobs are claimed; fewer if it is below 0."""
        with self._changed:
            self._reserved -= jobs

    def wake(self) -> None:
        """Fewer are busy, so there may be room."""
        with self._changed:
            self._changed.notify()

    @property
    def free(self) -> int:
        """How many e-mails may be claimed now."""
        with self._changed:
            return max(0, self._number + self._soon() - self._bulkheads.busy)

    def done(self, vendor: str) -> None:
        """One of the vendor's has been sent."""
        self._bulkheads.release(vendor)
        with self._changed:
            self._done_at.append(self._clock())
            # Where more will follow in a moment, fewer are not worth a look at the tube.
            soon = self._soon()
            if self._room(soon) >= min(self._few, soon):
                self._changed.notify()

    def expects(self, results: int) -> bool:
        """Whether many more results than these will come in a moment, and nobody is idle."""
        with self._changed:
            return self._bulkheads.busy >= self._number and results < self._few <= self._soon()
