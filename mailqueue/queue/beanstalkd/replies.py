"""What a beanstalkd server answers, read within bounds: any program may be listening there.

Decides: how much is read, and for how long. A line has 1 KiB at most and what follows it 64 KiB;
the replies to what was asked come within one time budget (a quarter more at the most), however
they drip.

Promises: memory stays within these bounds. An answer that is not of the protocol raises
``ValueError``; a connection that ends or takes too long raises ``OSError``.
"""

from __future__ import annotations

import io
import math
import socket
import time
from collections.abc import Callable, Mapping

LINE = 1024
BODY = 65_536  # more than the largest job of a server as it comes (65,535 bytes)
SKIPPED = 16 * 2**20  # a stranger's larger job, on a server that was told to take them (-z)
_ID = 20  # digits of 2**64
FAR_OFF = 1.25


class Replies:
    """The replies on a connection. ``within`` says how long the next ones may take together."""

    def __init__(self, sock: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        self._raw = _Timed(sock, clock)
        self._buffered = io.BufferedReader(self._raw)
        self._clock = clock

    def within(self, seconds: float) -> None:
        """Let the next replies take ``seconds`` together, from now on."""
        self._raw.until = self._clock() + seconds

    def line(self) -> list[bytes]:
        """The words of the next line, at least one."""
        line = self._buffered.readline(LINE)
        if line[-2:] != b"\r\n":
            raise ConnectionError("cut off")
        return line.split() or [b""]

    def body(self, size: int) -> bytes:
        """``size`` bytes, and the line end after them; empty if there are too many to keep."""
        if size > SKIPPED:
            raise ValueError("too large")
        remaining = size + 2
        while remaining > BODY + 2:
            remaining -= len(self._read_exactly(min(BODY, remaining - BODY)))
        body = self._read_exactly(remaining)
        if body[-2:] != b"\r\n":
            raise ValueError("not where it should end")
        return body if size <= BODY else b""

    def _read_exactly(self, size: int) -> bytes:
        body = self._buffered.read(size)
        if len(body) != size:
            raise ConnectionError("cut off")
        return body

    def close(self) -> None:
        """Close the reader, but not the socket."""
        self._buffered.close()


class _Timed(io.RawIOBase):
    """The bytes of a socket, up to the moment ``until``."""

    def __init__(self, sock: socket.socket, clock: Callable[[], float]) -> None:
        self._socket = sock
        self._clock = clock
        self.until = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands over
        seconds = self.until - self._clock()
        if seconds <= 0:
            raise TimeoutError
        # Only where it is far off: to set it is a system call, and releases the interpreter's lock.
        if (self._socket.gettimeout() or math.inf) > seconds * FAR_OFF:
            self._socket.settimeout(seconds)
        return self._socket.recv_into(buffer)


def number(word: bytes) -> int:
    """A number as the protocol has it: digits only."""
    if not word.isdigit() or len(word) > _ID:
        raise ValueError("not a number")
    return int(word)


def numbers(body: bytes) -> Mapping[str, int | str]:
    """What a server says of itself: lines of ``name: value``."""
    values: dict[str, int | str] = {}
    for line in body.decode("ascii").splitlines():
        name, colon, value = line.partition(": ")
        if colon:
            text = value.strip().strip('"')
            values[name] = number(text.encode()) if text.isdigit() else text
    return values
