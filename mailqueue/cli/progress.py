"""How far a long verb has come: one line on standard error, while a person looks on.

Decides: what the line says, and what fits into the terminal's width. It is there only if standard
error is a terminal: never in a pipe, a file or a log. It is erased at the end, so that the report
stands alone. Whoever stops the verb is told how far it came.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from mailqueue.errors import MailQueueError
from mailqueue.monitoring.words import age

EVERY = 0.1  # seconds between two looks
BAR, SHORTEST_BAR = 24, 6  # characters
_ERASE = "\r\x1b[K"


class Progress:
    """A context manager; ``advance`` says that so many more are done. For one thread.

    ``total``: how many there are, or how to find out, which is asked only where it is shown. None:
    it takes too long to count them, and there is no bar.
    """

    def __init__(
        self,
        what: str,
        total: int | Callable[[], int | None] | None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._clock = what, clock
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        if callable(total):
            total = total() if self._shown else None
        self._total, self._shown = total, self._shown and total != 0
        self._count, self._began, self._next = 0, clock(), -1.0

    def __enter__(self) -> Self:
        self.advance(0)
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        if self._shown:
            self._write(_ERASE)
        if isinstance(error, KeyboardInterrupt | MailQueueError):
            self._write(f"mailqueue: {self._what}: stopped after {self._reached}\n")

    def advance(self, number: int) -> None:
        """So many more are done."""
        self._count += number
        now = self._clock()
        if self._shown and (now >= self._next or self._count == self._total):
            self._next = now + EVERY
            self._write(_ERASE + self._line(now - self._began, _width(self._stream) - 1))

    @property
    def _reached(self) -> str:
        if self._total is None:
            return f"{self._count:,}"
        # What was counted may be an estimate, or there are more by now.
        return f"{self._count:,} of {max(self._count, self._total):,}"

    def _line(self, seconds: float, width: int) -> str:
        """The longest of several forms for which there is room, with a bar as long as may be."""
        texts = self._texts(seconds)
        for text in texts if self._total else ():
            room = width - len(f"{self._what} [] {text}")
            if self._total and room >= SHORTEST_BAR:
                length = min(BAR, room)
                full = length * min(self._count, self._total) // self._total
                return f"{self._what} [{'#' * full}{'.' * (length - full)}] {text}"
        lines = [f"{self._what} {text}" for text in (*texts, "")]
        return next((line for line in lines if len(line) <= width), "")

    def _texts(self, seconds: float) -> list[str]:
        """The longest first."""
        percent = f"{min(100, 100 * self._count // self._total)} %" if self._total else ""
        if not self._count or not seconds:
            return [self._reached, percent]
        rate = self._count / seconds
        speed = f"{rate:,.0f}/s"
        if self._total is None:
            spent = f"{self._reached}, {speed}, {age(seconds)}"
            return [spent, f"{self._reached}, {speed}", self._reached]
        to_go = f"{age(max(0, self._total - self._count) / rate)} to go"
        return [
            f"{self._reached}, {speed}, {to_go}",
            f"{self._reached}, {to_go}",
            f"{percent}, {to_go}",
            percent,
        ]

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _width(stream: TextIO) -> int:
    """Of the terminal that the line is written to: standard output may be a pipe."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or shutil.get_terminal_size().columns
    except OSError:  # no terminal of the system's
        return shutil.get_terminal_size().columns
