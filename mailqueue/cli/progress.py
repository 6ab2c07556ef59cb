"""How far a long verb has come: one line on standard error, while a person looks on.

Decides: what the line says. It is there only if standard error is a terminal: never in a pipe, a
file or a log. It is erased at the end, so that the report stands alone.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

from mailqueue.monitoring.words import age

EVERY = 0.1  # seconds between two looks
BAR = 24  # characters
_ERASE = "\r\x1b[K"


class Progress:
    """A context manager; ``advance`` says that so many more are done. For one thread."""

    def __init__(
        self,
        what: str,
        total: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._clock = what, total, clock
        self._stream = sys.stderr if stream is None else stream
        self._shown = bool(total) and self._stream.isatty()
        self._count, self._began, self._next = 0, clock(), -1.0

    def __enter__(self) -> Self:
        self.advance(0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._write(_ERASE)

    def advance(self, number: int) -> None:
        """So many more are done."""
        self._count += number
        now = self._clock()
        if self._shown and (now >= self._next or self._count >= self._total):
            self._next = now + EVERY
            width = shutil.get_terminal_size().columns
            self._write(_ERASE + self._line(now - self._began)[: width - 1])

    def _line(self, seconds: float) -> str:
        full = BAR * min(self._count, self._total) // self._total
        bar = "#" * full + "." * (BAR - full)
        line = f"{self._what} [{bar}] {self._count:,} of {self._total:,}"
        if not self._count or not seconds:
            return line
        rate = self._count / seconds
        return f"{line}, {rate:,.0f}/s, {age(max(0.0, self._total - self._count) / rate)} to go"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
