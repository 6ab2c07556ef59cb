"""The senders of a process: how many e-mails they can take, now and in a moment.

Decides: how many e-mails may be claimed, and how many jobs reserved. As many as there are free
senders; and where senders come free quickly, a few more, so that the next e-mail is there when one
does: at most as many as came free during the last four writes, or a fifth of a second. Where calls
take long those are few, and an e-mail is left to processes that have a sender free.

Promises: any thread may call; nothing here waits for longer than it is told to.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

WRITES_AHEAD = 4
MOST_AHEAD = 0.2  # seconds


class Slots:
    """``number`` senders, all free at first."""

    def __init__(self, number: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._number = number
        self._few = max(1, number // 4)
        self._busy = 0
        self._reserved = 0
        self._ahead = 0.0  # seconds
        self._freed: deque[float] = deque()

    def wrote(self, seconds: float) -> None:
        """A write took so long; so, about, will the next one that claims."""
        if self._number > 1:  # one that sends alone: what is urgent overtakes at once
            self._ahead = min(MOST_AHEAD, (self._ahead + WRITES_AHEAD * seconds) / 2)

    def _soon(self) -> int:
        """How many will come free in a moment: as many as did in the last."""
        recently = self._clock() - self._ahead
        freed = self._freed
        while freed and freed[0] <= recently:
            freed.popleft()
        return len(freed)

    def room(self, seconds: float) -> int:
        """How many further jobs may be reserved; waits up to ``seconds`` for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._room() > 0, seconds)
            return max(0, self._room())

    def _room(self) -> int:
        """Twice as far ahead as claims go: reading comes before claiming."""
        return self._number + 2 * self._soon() - self._busy - self._reserved

    def reserved(self, number: int) -> None:
        """So many jobs are reserved and wait for their claim; fewer if it is below 0."""
        with self._changed:
            self._reserved += number
            self._changed.notify()

    def take(self, most: int) -> int:
        """Count up to ``most`` of the jobs that wait as claimed; returns how many."""
        with self._changed:
            taken = max(0, min(most, self._number + self._soon() - self._busy))
            self._busy += taken
            self._reserved -= taken
            return taken

    def leave(self, number: int) -> None:
        """So many of those that were taken wait on."""
        with self._changed:
            self._busy -= number
            self._reserved += number

    def expects(self, came: int) -> bool:
        """Whether many more will come in a moment, and nobody is idle meanwhile."""
        with self._changed:
            return self._busy >= self._number and came < self._few <= self._soon()

    @property
    def free(self) -> bool:
        """Whether an e-mail may be claimed now."""
        with self._changed:
            return self._busy < self._number + self._soon()

    def give_back(self, senders: int) -> None:
        """So many senders got nothing to send; they have something after all if it is below 0."""
        with self._changed:
            self._busy -= senders
            self._changed.notify()

    def done(self) -> None:
        """One has sent its e-mail."""
        with self._changed:
            self._busy -= 1
            self._freed.append(self._clock())
            # Where more will follow in a moment, fewer are not worth a look at the tube.
            if self._room() >= min(self._few, self._soon()):
                self._changed.notify()
