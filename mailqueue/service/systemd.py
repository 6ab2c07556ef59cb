"""The service manager's side: readiness and watchdog over $NOTIFY_SOCKET, and its signals.

Source: systemd's sd_notify(3) and sd_watchdog_enabled(3). Without that variable nothing is said.

Decides: what counts as a second signal. ``timeout``, supervisors and process groups say one thing
twice within a moment; who means it a second time says so a second after the first, or later.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Self

ONE_SIGNAL = 1.0  # seconds
CLOCK = time.CLOCK_MONOTONIC  # which systemd compares


class Signals:
    """Handles the signals to stop: calls ``stop`` for each that counts.

    ``stop`` must take no lock: the very thread that the handler interrupts may hold it.
    """

    def __init__(
        self, stop: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stop = stop
        self._clock = clock
        self._first_at: float | None = None

    def handle(self, *_: object) -> None:
        """A signal came; within a second of the first it is the same one."""
        now = self._clock()
        if self._first_at is None:
            self._first_at = now
        elif now - self._first_at < ONE_SIGNAL:
            return
        self._stop()


class ServiceManager:
    """Hears READY, RELOADING, WATCHDOG while ``keep_alive`` is called, and STOPPING. Takes no lock.

    As a context manager: READY on entering, STOPPING on leaving.
    """

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._every = int(environ.get("WATCHDOG_USEC") or 0) / 1e6 / 2
        self._clock = clock
        self._sent_at = -self._every

    def __enter__(self) -> Self:
        self.ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping()

    def ready(self) -> None:
        """The process serves from now on."""
        self._send("READY=1")

    def reloading(self) -> None:
        """It reads its configuration again, until ``ready``."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(CLOCK) // 1000}")

    def stopping(self) -> None:
        """It finishes what is under way, and ends."""
        self._send("STOPPING=1")

    def keep_alive(self) -> None:
        """All is well; passed on twice in each watchdog period."""
        if self._every and self._clock() - self._sent_at >= self._every:
            self._sent_at = self._clock()
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the abstract namespace's null byte.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        # A manager that went away, or does not listen, is no reason to stop, nor is a process that
        # may open no more files; nor to wait: the manager's queue takes a dozen words, and an event
        # loop or a signal handler may speak here.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(state.encode(), address)
