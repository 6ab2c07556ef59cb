"""Who may stay when many come: the connections of the server, and the memory of their messages.

Decides: a newcomer beyond ``smtp.connections`` takes the place of whoever has been silent for
longest, if that is a second or more, and is turned away otherwise. So ten thousand clients that say
nothing, or a byte now and then, keep nobody out. A large message gets all the memory that it needs
at once, and waits for it before it is sent: of many that had a part each, none could go on.

Assumes: one event loop; nothing here is for threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

PATIENCE = 1.0  # seconds that a connection may be silent and keep its place
LARGE = 2**20  # bytes of a message


class Client(Protocol):
    """A connection, as far as it matters here."""

    @property
    def is_waiting(self) -> bool:
        """Whether it is its client's turn to say something."""

    def abort(self) -> None:
        """Close it here and now."""

    def finish(self) -> None:
        """Close it once what is under way is over."""


class Connections:
    """The open connections, the one that was silent for longest first."""

    def __init__(self, room: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = room
        self._clock = clock
        self._heard: dict[Client, float] = {}  # in the order of the times
        self._gone = asyncio.Event()
        self.is_stopping = False

    def __len__(self) -> int:
        return len(self._heard)

    def admit(self) -> bool:
        """Whether there is room for one more; it makes room if it can."""
        if self.is_stopping:
            return False
        if len(self._heard) < self._room:
            return True
        before = self._clock() - PATIENCE
        for client, heard_at in self._heard.items():
            if heard_at > before:
                return False
            if client.is_waiting:
                self.remove(client)
                client.abort()
                return True
        return False

    def add(self, client: Client) -> None:
        """The client is there."""
        self._heard[client] = self._clock()

    def hear(self, client: Client) -> None:
        """It said something whole: a command, a block of a message."""
        if self._heard.pop(client, None) is not None:  # else it is gone already
            self._heard[client] = self._clock()

    def remove(self, client: Client) -> None:
        self._heard.pop(client, None)
        self._gone.set()

    async def finish(self, seconds: float) -> None:
        """Admit nobody any more, and let each finish its message within so many seconds."""
        self.is_stopping = True
        for client in list(self._heard):
            client.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._heard:
                    self._gone.clear()
                    await self._gone.wait()
        for client in list(self._heard):
            client.abort()


class Memory:
    """Bytes for the messages that are being received; an eighth is for the small ones alone."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._for_small = size // 8
        self._freed = asyncio.Event()

    def try_reserve(self, size: int) -> bool:
        """Whether there are so many bytes; then they are held."""
        if size > self._free - (self._for_small if size > LARGE else 0):
            return False
        self._free -= size
        return True

    async def reserve(self, size: int, seconds: float) -> bool:
        """Wait until there are so many; False: there were not in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.try_reserve(size):
                    self._freed.clear()
                    await self._freed.wait()
                return True
        return False

    def release(self, size: int) -> None:
        self._free += size
        self._freed.set()
