"""A queue in the memory of one process, for tests and development.

Decides: that all who name the same tube in this process share its jobs. They are numbered from 0,
so that the first e-mail is offered to the first vendor of the configuration.

Assumes: MongoDB is the truth here, too. Another process has a queue of its own, a fork begins with
an empty one, and the sweeper of whoever consumes finds what is due.

Promises: what each kind of queue promises (``broker``), with priorities and delays. No call waits
for another but ``reserve``. ``announce`` and ``end`` hold no lock: they leave a change in a mailbox
that a signal handler may write to, too, and whoever reserves or counts next carries it out.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from typing import NamedTuple
from uuid import uuid4

from mailqueue.config import Memory
from mailqueue.queue.broker import (
    INTAKE,
    LONGEST,
    STATES,
    Announcement,
    End,
    Event,
    Job,
    Options,
    email_id_of,
)

NAME = "memory"


class _Held(NamedTuple):
    """A job as it was reserved: ``times`` tells this holder from the next one."""

    number: int
    times: int


@dataclass(slots=True)
class _Entry:
    """A job of the tube. ``at``: when it is ready, of one that is delayed or reserved."""

    body: bytes
    priority: int
    state: str = ""
    at: float = 0.0
    times: int = 0  # that it was reserved


@dataclass(frozen=True, slots=True)
class _Put:
    body: bytes
    priority: int
    delay: float


@dataclass(frozen=True, slots=True)
class _End:
    """``how`` is None for a job that is given back as it was."""

    held: _Held
    how: End | None


class Tube:
    """The jobs of one name. Any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.id = uuid4().hex  # tells a number of this tube from that of any other
        self._clock = clock
        self._changes: SimpleQueue[_Put | _End] = SimpleQueue()
        self._lock = threading.Lock()  # guards all below
        self._numbers = count()
        self._entries: dict[int, _Entry] = {}
        self._states: Counter[str] = Counter()
        self._ready: list[tuple[int, int]] = []  # heap of priorities and numbers
        self._waiting: list[tuple[float, int]] = []  # heap of times and numbers

    def put(self, body: bytes, priority: int, delay: float = 0.0) -> None:
        """Put a job that is ready in ``delay`` seconds."""
        self._changes.put(_Put(body, priority, delay))

    def end(self, held: _Held, how: End | None) -> None:
        """End a job unless another has it meanwhile; None: give it back as it was."""
        self._changes.put(_End(held, how))

    def reserve(self, timeout: float, limit: int, ttr: float) -> list[tuple[_Held, bytes]]:
        """Wait up to ``timeout`` seconds for a job; with it come up to ``limit`` in all.

        They are ready again after ``ttr`` seconds.
        """
        deadline = self._clock() + timeout
        change = None
        while True:
            with self._lock:
                now = self._carry_out(change)
                jobs = self._take(limit, now + ttr)
                next_at = min(deadline, self._waiting[0][0]) if self._waiting else deadline
            if jobs or now >= deadline:
                return jobs
            try:
                change = self._changes.get(timeout=max(0.0, next_at - now))
            except Empty:
                change = None

    def depth(self) -> dict[str, int]:
        """The number of jobs by state."""
        with self._lock:
            self._carry_out()
            return {state: self._states[state] for state in STATES}

    # With the lock -----------------------------------------------------------------------------

    def _carry_out(self, change: _Put | _End | None = None) -> float:
        """Carry out all that is in the mailbox, and what time has brought; returns the time."""
        now = self._clock()
        try:
            while True:
                match change:
                    case _Put():
                        number = next(self._numbers)
                        entry = self._entries[number] = _Entry(change.body, change.priority)
                        self._delay(number, entry, change.delay, now)
                    case _End():
                        self._finish(change.held, change.how, now)
                change = self._changes.get_nowait()
        except Empty:
            pass
        while self._waiting and self._waiting[0][0] <= now:
            at, number = heappop(self._waiting)
            waiting = self._entries.get(number)
            if waiting and waiting.at == at and waiting.state in ("delayed", "reserved"):
                self._delay(number, waiting, 0.0, now)
        return now

    def _take(self, limit: int, until: float) -> list[tuple[_Held, bytes]]:
        jobs: list[tuple[_Held, bytes]] = []
        while self._ready and len(jobs) < limit:
            _, number = heappop(self._ready)
            entry = self._entries[number]
            entry.times += 1
            self._set(entry, "reserved", until)
            heappush(self._waiting, (until, number))
            jobs.append((_Held(number, entry.times), entry.body))
        return jobs

    def _finish(self, held: _Held, how: End | None, now: float) -> None:
        entry = self._entries.get(held.number)
        if entry is None or entry.state != "reserved" or entry.times != held.times:
            return
        if how is None:
            self._delay(held.number, entry, 0.0, now)
        elif how.word == "delete":
            self._set(entry, "")
            del self._entries[held.number]
        elif how.word == "bury":
            self._set(entry, "buried")
        else:
            entry.priority = how.priority
            self._delay(held.number, entry, how.delay, now)

    def _delay(self, number: int, entry: _Entry, delay: float, now: float) -> None:
        if delay > 0:
            self._set(entry, "delayed", now + delay)
            heappush(self._waiting, (entry.at, number))
        else:
            self._set(entry, "ready")
            heappush(self._ready, (entry.priority, number))

    def _set(self, entry: _Entry, state: str, at: float = 0.0) -> None:
        self._states[entry.state] -= 1
        self._states[state] += 1
        entry.state, entry.at = state, at


_TUBES: dict[str, Tube] = {}


def tube(name: str) -> Tube:
    """The jobs of this name."""
    return _TUBES.get(name) or _TUBES.setdefault(name, Tube())


def forget_all() -> None:
    """Lose the jobs of all names, and number new ones from 0 again."""
    _TUBES.clear()


# Another thread may have held a lock at the moment of the fork.
os.register_at_fork(after_in_child=forget_all)


class _Reserved:
    """What one receiver has reserved."""

    def __init__(self, tube_name: str, ttr: float) -> None:
        self.name, self.place = NAME, f"tube {tube_name} of this process"
        self._tube, self._ttr = tube_name, ttr
        self._held: dict[_Held, None] = {}

    def _reserve(self, timeout: int, limit: int) -> list[tuple[_Held, bytes]]:
        reserved = tube(self._tube).reserve(timeout, limit, self._ttr)
        self._held.update((held, None) for held, _ in reserved)
        return reserved

    def _end(self, held: _Held, how: End | None) -> None:
        self._held.pop(held, None)
        tube(self._tube).end(held, how)

    def close(self) -> None:
        """Give back what is reserved here."""
        for held in tuple(self._held):
            self._end(held, None)


class MemoryReceiver(_Reserved):
    """Who reserves jobs; it is also their holder."""

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        """Wait up to ``timeout`` seconds for a job; with it come up to ``limit`` in all."""
        return [
            Job(email_id_of(body.decode("latin-1")), held.number, self, handle=held, body=body)
            for held, body in self._reserve(timeout, limit)
        ]

    def end(self, ends: Mapping[Job, End]) -> None:
        """End jobs that are reserved here."""
        for job, how in ends.items():
            self._end(job.handle, how)

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Let anybody have these at once, as they were."""
        for job in jobs:
            self._end(job.handle, None)


class MemoryEvents(_Reserved):
    """The events of one name. One thread reserves and ends them."""

    def reserve(self, timeout: int, limit: int = 1) -> list[Event]:
        """Wait up to ``timeout`` seconds for an event; with it come up to ``limit`` in all."""
        key = f"intake:{tube(self._tube).id}:"
        return [
            Event(held.number, body, f"{key}{held.number}", handle=held)
            for held, body in self._reserve(timeout, limit)
        ]

    def end(self, events: Sequence[Event], how: End) -> None:
        """End events that were reserved here."""
        for each in events:
            self._end(each.handle, how)

    def give_back(self) -> None:
        """Let anybody have at once what is reserved here."""
        self.close()


class MemoryBroker:
    """The jobs of ``settings.tube`` in this process. Nothing can be away."""

    max_delay = float(LONGEST)

    def __init__(self, settings: Memory, ttr: float, suffix: str = "") -> None:
        self._tube, self._ttr = settings.tube + suffix, ttr

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs; all of them are on the queue."""
        jobs = tube(self._tube)
        for each in announcements:
            jobs.put(each.email_id.binary.hex().encode(), each.priority, each.delay)
        return announcements

    def receivers(self) -> Sequence[MemoryReceiver]:
        """One."""
        return [MemoryReceiver(self._tube, self._ttr)]

    def depth(self) -> dict[str, int]:
        """The number of jobs by state."""
        return tube(self._tube).depth()

    def close(self) -> None:
        """Do nothing: whoever names the tube has its jobs."""


def open_broker(settings: Memory, options: Options) -> MemoryBroker:
    """See ``queue.Kind``."""
    return MemoryBroker(settings, options.ttr, suffix=options.suffix)


def open_events(settings: Memory, options: Options) -> Sequence[MemoryEvents]:
    """See ``queue.Kind``."""
    return [MemoryEvents(settings.tube + INTAKE, options.ttr)]


def events_depth(settings: Memory, _: Options) -> dict[str, int]:
    """See ``queue.Kind``."""
    return tube(settings.tube + INTAKE).depth()


def put_event(body: bytes, tube_name: str = "mailqueue") -> None:
    """Put an event for ``mailqueue intake`` of this process; see its documentation."""
    tube(tube_name + INTAKE).put(body, 0)
