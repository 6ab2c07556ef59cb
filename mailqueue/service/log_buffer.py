"""The log of a server that has an event loop: one write for all that one turn of the loop logs.

Decides: when lines are written. A write of its own for each line costs a busy server more than all
else that it does for a request. So lines wait until the loop has run what is due, some milliseconds
at most. A process that is killed loses these; what ends in another way loses none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from mailqueue import logs


class _Buffer:
    """Stands in the place of a handler's stream. Any thread may call."""

    def __init__(self, stream: TextIO, loop: asyncio.AbstractEventLoop) -> None:
        self._stream, self._loop = stream, loop
        self._lines: list[str] = []
        self._is_due = False

    def write(self, text: str) -> None:
        """Keep it until the end of this turn."""
        self._lines.append(text)

    def flush(self) -> None:
        """See to it that it is written soon."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon_threadsafe(self.write_out)

    def write_out(self) -> None:
        """Write what waits."""
        self._is_due = False
        lines, self._lines = self._lines, []
        if lines:
            self._stream.write("".join(lines))
            self._stream.flush()


@contextmanager
def buffered_log() -> Iterator[None]:
    """For the running loop. Only what ``logs.configure`` has set up is buffered."""
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler)
        and isinstance(handler.formatter, logs.Formatter)
    ]
    streams = [handler.stream for handler in handlers]
    buffers = [_Buffer(stream, asyncio.get_running_loop()) for stream in streams]
    for handler, buffer in zip(handlers, buffers, strict=True):
        handler.stream = buffer
    try:
        yield
    finally:
        for handler, stream, buffer in zip(handlers, streams, buffers, strict=True):
            handler.stream = stream
            buffer.write_out()
