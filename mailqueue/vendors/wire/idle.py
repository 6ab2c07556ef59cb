"""How long a connection may idle before it carries another e-mail, learned for each host.

Decides: when a kept connection is too old. Servers close idle ones, many after 5 s; what is written
at that very moment is lost, and nobody can say whether it was sent.

Promises: what a server says of itself (``Keep-Alive: timeout=``) is obeyed with a margin. Where it
says nothing, each loss that idling can explain halves the limit, down to a second; it doubles again
with every ten minutes that pass without one. Losses at the floor are explained by nothing.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable

from mailqueue.vendors.wire import IDLE_SECONDS

FLOOR = 1.0  # seconds
RECOVERY = 600.0
_TIMEOUT = re.compile(r"timeout[ \t]*=[ \t]*\"?([0-9]{1,6})\"?")


class IdleLimit:
    """What this process knows of one host. ``now`` and ``since`` are moments of the same clock."""

    def __init__(self) -> None:
        self._learned = IDLE_SECONDS
        self._lost_at = -math.inf

    def seconds(self, now: float) -> float:
        """The longest that a connection may have idled."""
        if self._learned >= IDLE_SECONDS:
            return IDLE_SECONDS
        doublings = int((now - self._lost_at) // RECOVERY)
        return min(IDLE_SECONDS, math.ldexp(self._learned, max(0, min(10, doublings))))

    def lost(self, since: float, now: float) -> bool:
        """A connection kept ``since`` was lost before any byte of an answer: was it the idling?

        Those that were kept before the last loss tell nothing new: they idled just as long.
        """
        if since < self._lost_at:
            return True
        limit = self.seconds(now)
        self._learned, self._lost_at = max(FLOOR, limit / 2), now
        return limit > FLOOR


_limits: defaultdict[str, IdleLimit] = defaultdict(IdleLimit)


def limit_of(host: str) -> IdleLimit:
    """The one that all threads share."""
    return _limits[host]


def promised(keep_alive: Iterable[str]) -> float:
    """How long the server keeps the connection by its ``Keep-Alive``, less a margin for the way."""
    for parameter in keep_alive:
        if found := _TIMEOUT.fullmatch(parameter):
            seconds = float(found[1])
            return seconds - min(1.0, seconds / 2)
    return math.inf
