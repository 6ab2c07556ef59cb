"""What a consumer does right now: a line a second, on request.

Decides: what the line says: e-mails sent in the second, how many are with a vendor now, and how
long the calls took (median and 95th percentile).

Promises: any thread may call; a call costs a microsecond.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO, TypeVar

T = TypeVar("T")
MOST = 100_000  # calls that wait for a line, while nobody reads the lines


class Meter:
    """Counts the calls that go through ``measure``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._took: deque[float] = deque(maxlen=MOST)
        self._under_way: set[int] = set()

    def measure(self, call: Callable[[], T]) -> T:
        """Do it, and count it."""
        # No lock: each of these is one operation of a set or a deque.
        me = threading.get_ident()
        self._under_way.add(me)
        began = self._clock()
        try:
            return call()
        finally:
            self._took.append(self._clock() - began)
            self._under_way.discard(me)

    def run(self, stop: threading.Event, out: TextIO) -> None:
        """Print a line a second until ``stop`` is set."""
        while not stop.wait(1.0):
            line = self.line()
            with suppress(OSError, ValueError):  # whoever read it is gone: no reason to stop
                out.write(line + "\n")
                out.flush()

    def line(self) -> str:
        """What came together since the last line."""
        took = [self._took.popleft() for _ in range(len(self._took))]
        now = self._clock()
        rate, self._since = len(took) / max(now - self._since, 1e-9), now
        middle, most = _percentile(took, 0.5), _percentile(took, 0.95)
        busy = len(self._under_way)
        return f"{rate:8,.0f} e-mails/s  {busy:4} in flight  p50 {middle:>9}  p95 {most:>9}"


def _percentile(took: list[float], share: float) -> str:
    """In milliseconds; a dash when there was nothing."""
    if not took:
        return "-"
    ordered = sorted(took)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000:,.1f} ms"
