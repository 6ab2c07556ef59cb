"""Keeps a process on one core at a time, where Linux lets us.

Threads under one interpreter lock cannot use two cores; let loose on them they only pass the lock
from core to core, which costs up to half of the process's time.

Decides: which core, and when another is better. Once a second the idlest core is looked for; the
process moves when it is busy and another core has been idle for a quarter of the second more than
its own. Of two processes on one core each moves with even odds, so that one of them stays.

Promises: never leaves the set of cores it was started with; where nothing can be said or done
(other systems, one core only) it does nothing.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

EVERY = 1.0
BUSY = 0.2
BETTER = 0.25


class CpuAffinity:
    """The core of this process. While it is entered, a thread of its own calls ``stay``."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        rand: Callable[[], float] = random.random,
        proc: Path = Path("/proc"),
    ) -> None:
        self._clock, self._rand, self._proc = clock, rand, proc
        self._cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._mine: int | None = None
        self._over = threading.Event()
        self._at, self._idle, self._used = clock(), self._idle_times(), time.process_time()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="affinity", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            with suppress(OSError):  # no file may be opened now, say
                self.stay()

    def stay(self) -> None:
        """Look around if a second has passed, and move if that is better."""
        now = self._clock()
        seconds = now - self._at
        if seconds < EVERY or len(self._cores) < 2:
            return
        idle, used = self._idle_times(), time.process_time()
        if not idle:
            return
        free = {core: (idle[core] - self._idle.get(core, 0.0)) / seconds for core in idle}
        busy = (used - self._used) / seconds > BUSY
        self._at, self._idle, self._used = now, idle, used
        # One that has little to do gains nothing by moving.
        if busy:
            self._choose(free)

    def _choose(self, free: Mapping[int, float]) -> None:
        best = max(free, key=lambda core: free[core])
        gain = free[best] - free.get(self._mine, 0.0) if self._mine is not None else 1.0
        if self._mine is None or (gain > BETTER and self._rand() < 0.5):
            self._mine = best
            self._pin(best)

    def _pin(self, core: int) -> None:
        """Every thread there is; those to come inherit it."""
        # The call sets the cores of one thread, not of the process (sched_setaffinity(2)).
        for task in (self._proc / "self" / "task").iterdir():
            with suppress(OSError):  # it has just ended
                os.sched_setaffinity(int(task.name), {core})

    def _idle_times(self) -> dict[int, float]:
        """Seconds that each core has been idle since the start of the machine (proc(5))."""
        times: dict[int, float] = {}
        with suppress(OSError, ValueError, IndexError):
            for line in (self._proc / "stat").read_text().splitlines():
                name, *ticks = line.split()
                if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in self._cores:
                    # idle and iowait: a core that waits for a disk is free for us, too.
                    times[int(name[3:])] = (int(ticks[3]) + int(ticks[4])) / _TICKS
        return times


_TICKS = os.sysconf("SC_CLK_TCK")
