"""How long a connection may idle before it carries another e-mail, learned for each host.

Decides: when an idle connection is too old. Servers close them, many after 5 s. What is written at
that very moment is lost, and the outcome is unknown.

Promises: a server's own limit (``Keep-Alive: timeout=``) is obeyed with a margin. Without one, each
loss that idling can explain halves our limit, down to a second. The limit doubles again with every
ten minutes without such a loss. At the floor, idling explains no loss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from mailqueue.vendors.wire import IDLE_SECONDS

FLOOR = 1.0  # seconds
RECOVERY = 600.0  # seconds without a loss, after which the limit doubles
_TIMEOUT = re.compile(r"timeout[ \t]*=[ \t]*\"?([0-9]{1,6})\"?")


class IdleLimit:
    """The limit for one host. ``now`` and ``since`` are moments of the same clock, in seconds."""

    def __init__(self) -> None:
        self._learned = IDLE_SECONDS
        self._lost_at = -math.inf

    def seconds(self, now: float) -> float:
        """The longest that a connection may have idled."""
        if self._learned >= IDLE_SECONDS:
            return IDLE_SECONDS
        doublings = int((now - self._lost_at) // RECOVERY)
        return min(IDLE_SECONDS, math.ldexp(self._learned, max(0, min(10, doublings))))

    def note_loss(self, since: float, now: float) -> bool:
        """Note a loss before the first byte of a response, and say whether idling explains it.

        The connection was idle ``since`` then. Before the last loss: nothing is learned.
        """
        if since < self._lost_at:
            return True
        limit = self.seconds(now)
        self._learned, self._lost_at = max(FLOOR, limit / 2), now
        return limit > FLOOR


_limits: dict[str, IdleLimit] = {}


def limit_of(host: str) -> IdleLimit:
    """The limit of this host, which all threads share."""
    return _limits.get(host) or _limits.setdefault(host, IdleLimit())  # one step: for all threads


def keep_alive_seconds(keep_alive: Iterable[str]) -> float:
    """For how long, by its ``Keep-Alive``, the server keeps the connection; less a margin."""
    for parameter in keep_alive:
        if match := _TIMEOUT.fullmatch(parameter):
            seconds = float(match[1])
            return seconds - min(1.0, seconds / 2)
    return math.inf
