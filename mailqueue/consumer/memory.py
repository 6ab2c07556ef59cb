"""How much memory the e-mails of a process may take: ``consumer.max_memory`` bytes.

Decides: which e-mails are read at once, and which later. What an e-mail takes is its size in
MongoDB, ``COPIES`` times: while it is sent there is, beside what was read, its base64, the request
made of that and the pieces on their way (measured: 5). It is counted from its reading until nothing
refers to it any more, so also while it waits, or while a vendor keeps the thread that sends it.

Small ones are read together, as long as there is room for as many of the size. A larger one is read
alone, once there is room for it beside all others, or no other large one is there: one always may
go. An eighth is left to the small ones, so that they are never behind the large.

Promises: any thread may call; a small e-mail costs a microsecond.
"""

from __future__ import annotations

import threading
from collections import deque

COPIES = 6


class Held:
    """The memory of one e-mail; free when nobody holds this any more."""

    __slots__ = ("_freed", "_kind_and_cost")

    def __init__(self, kind: str, cost: int, freed: deque[tuple[str, int]]) -> None:
        self._kind_and_cost = kind, cost
        self._freed = freed

    def __del__(self) -> None:
        # At any moment, in any thread: no lock.
        self._freed.append(self._kind_and_cost)


class Memory:
    """``most`` bytes for the e-mails in flight."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._for_large = most - most // 8
        self._lock = threading.Lock()
        self._used = {"small": 0, "large": 0}
        self._freed: deque[tuple[str, int]] = deque()

    def share(self, emails: int) -> int:
        """The size up to which so many e-mails may be read at once."""
        with self._lock:
            self._count_freed()
            # As if all were of that size: the real sizes are known only after the reading.
            free = self._most - sum(self._used.values())
            return max(0, free) // (COPIES * max(1, emails))

    def hold_small(self, size: int) -> Held:
        """The memory of a small one, which was read."""
        with self._lock:
            return self._hold("small", COPIES * size)

    def hold_large(self, size: int) -> Held | None:
        """The memory of a large one, which is to be read; None: there is no room now."""
        cost = min(COPIES * size, self._for_large)
        with self._lock:
            self._count_freed()
            # Without another large one it may go, however large: otherwise it would never be sent.
            if self._used["large"] and sum(self._used.values()) + cost > self._for_large:
                return None
            return self._hold("large", cost)

    def _hold(self, kind: str, cost: int) -> Held:
        self._used[kind] += cost
        return Held(kind, cost, self._freed)

    def _count_freed(self) -> None:
        while self._freed:
            kind, cost = self._freed.popleft()
            self._used[kind] -= cost
