"""One vendor's send times in hand, as one process keeps them. Pure.

Decides: how many are reserved together, until when a time is good, and which are promised.

Assumes: one thread at a time; ``limits`` has the lock. Times are those of the database server.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mailqueue.routing.pace import AHEAD, Pace, State

# Seconds
SLACK, GAP_SLACK = 0.07, 0.04  # by which a send time may pass
BLOCK = 0.22  # of a vendor's rate that are reserved together: four processes stay within a second

LARGEST_BLOCK = 100


@dataclass(slots=True)
class Pool:
    """One vendor's send times in hand, and what this process knows of its limits."""

    pace: Pace
    times: deque[float] = field(default_factory=deque)
    promised: int = 0  # units
    claiming: int = 0  # of these
    unused: int = 0  # units that are to be given back
    fresh: int = 0  # units of the last reservation, while none of them was used
    used: int = 0  # units, since the last reservation, and whether others passed
    wasted: bool = False
    wanted: bool = True  # e-mails for this vendor come
    block: int = 1
    state: State = field(default_factory=State)
    tat: float = 0.0  # after the last reservation
    ends: Mapping[str, datetime] = field(default_factory=dict)
    rest_until: float = 0.0
    gave_back_at: float = 0.0
    asking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def slack(self) -> float:
        """By how much a time may pass."""
        if not self.pace.interval:
            return AHEAD
        return min(GAP_SLACK, self.pace.peak / 4) if self.pace.peak else SLACK

    @property
    def largest_block(self) -> int:
        """The units that are reserved together at most; fewer as a budget comes to its end."""
        if not self.pace.interval:
            return LARGEST_BLOCK
        return max(1, min(LARGEST_BLOCK, int(BLOCK / self.pace.interval)))

    def drop_passed(self, now: float) -> None:
        """Forget the times that have passed."""
        while self.times and self.times[0] + self.slack < now:
            self.times.popleft()
            self.wasted = self.wasted or not self.promised
            self.unused += 1

    @property
    def free(self) -> int:
        """The units in hand that nobody is promised."""
        return len(self.times) - self.promised

    def expected(self, units: int) -> float | None:
        """When an e-mail of so many units would go; None: there are not so many in hand."""
        return self.times[self.promised] if 0 < units <= self.free else None

    def within(self, now: float, seconds: float) -> int:
        """The units whose time has come in so many seconds."""
        end = now + seconds
        return sum(1 for at in self.times if at <= end)

    def may_ask(self, now: float) -> bool:
        """Whether a reservation has a chance."""
        return now >= max(self.rest_until, self.ask_at(now))

    def ask_at(self, now: float) -> float:
        """When the vendor's state allows a reservation."""
        ends = [window.until.timestamp() for _, window in self.pace.spent(self.state, now)]
        return max([self.pace.next_time(self.state, now) - AHEAD, *ends])
