"""The total deadline of one call: a watchdog that shuts the socket.

Decides: when a call to a vendor has taken too long. Socket time-outs count per read, so a server
that sends a byte now and then never runs into them. Only shutting the socket from outside ends it.

Assumes: deadlines are ``time.monotonic`` moments; a call stays in one thread.

Promises: one small thread per process, started by the first call and again after a fork. It shuts
only sockets of calls that are still running, never a descriptor that was closed and reused: each
call holds a duplicate of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from types import TracebackType
from typing import Self


class DeadlinePassed(OSError):
    """The deadline passed before anything was handed to the socket."""


class Call:
    """One call under a deadline; a context manager. ``with Call(deadline) as call: ...``

    ``written`` is True once bytes that could send the e-mail were handed to the socket. If the call
    fails before that, the e-mail was surely not sent. ``was_shut``: the watchdog ended it.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.written = False
        self.was_shut = False
        self._handle: socket.socket | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        _watchdog.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _watchdog.remove(self)
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    @property
    def has_expired(self) -> bool:
        """True when the deadline has passed. An error may then come from the watchdog."""
        return self.was_shut or time.monotonic() >= self.deadline

    @property
    def remaining(self) -> float:
        """Seconds left, never less than a millisecond (a time-out of 0 means non-blocking)."""
        return max(0.001, self.deadline - time.monotonic())

    def attach(self, sock: socket.socket) -> None:
        """Let the deadline shut this socket, instead of an earlier one."""
        # A duplicate: the number of the descriptor itself may belong to another file by the time
        # at which the watchdog shuts it.
        handle = socket.socket(fileno=os.dup(sock.fileno()))
        with self._lock:
            if self._handle is not None:
                self._handle.close()
            self._handle = handle
        # The watchdog may have come by when there was nothing to shut yet.
        if self.has_expired:
            self.shut()

    def writing(self, sock: socket.socket) -> None:
        """Note that bytes which may send the e-mail go out now. Raises DeadlinePassed."""
        if not self.written and self.has_expired:
            raise DeadlinePassed("deadline")
        if self._handle is None:
            self.attach(sock)
        self.written = True

    def shut(self) -> None:
        """Shut the socket in both directions, which wakes up the thread that waits on it."""
        with self._lock:
            self.was_shut = True
            if self._handle is not None:
                with contextlib.suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)


class Watchdog:
    """The thread that shuts the sockets of calls over their deadline."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start without thread and calls; a forked child has neither of its parent's."""
        self._calls: set[Call] = set()
        self._wake_at = 0.0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, call: Call) -> None:
        """Watch this call; the thread is woken only if this deadline is the next one."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="mailqueue-watchdog", daemon=True)
                thread.start()  # raises where the system has no room: the next call tries again
                self._thread = thread
            self._calls.add(call)
            if call.deadline < self._wake_at:
                self._changed.notify()

    def remove(self, call: Call) -> None:
        """The call is over. The thread may still wake up for it once, and then does nothing."""
        with self._changed:
            self._calls.discard(call)

    def _run(self) -> None:
        while True:
            for call in self._wait():
                call.shut()

    def _wait(self) -> list[Call]:
        """Sleep until the next deadline; return the calls whose deadline has passed."""
        with self._changed:
            # A call that ends does not wake this thread, so its deadline may still be the next one.
            # The thread then wakes up once for nothing.
            self._wake_at = min((c.deadline for c in self._calls), default=float("inf"))
            pause = self._wake_at - time.monotonic()
            self._changed.wait(None if pause == float("inf") else max(0.0, pause))
            now = time.monotonic()
            over = [c for c in self._calls if c.deadline <= now]
            self._calls.difference_update(over)
            return over


_watchdog = Watchdog()
os.register_at_fork(after_in_child=_watchdog.forget)
