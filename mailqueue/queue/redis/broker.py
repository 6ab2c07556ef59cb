"""The producer's side of Redis, and the way to the consumer's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mailqueue.config.queue import Redis
from mailqueue.outage import Outage
from mailqueue.queue.announcer import Announcer
from mailqueue.queue.broker import BACKLOG, LONGEST, Announcement
from mailqueue.queue.connections import ThreadConnections
from mailqueue.queue.redis.connection import Connection
from mailqueue.queue.redis.receiver import RedisReceiver
from mailqueue.queue.redis.scripts import Command, Tube

PAGE = 500  # jobs in one script, for which all other clients wait


class RedisBroker:
    """The server of ``settings``; the arguments are those of ``BeanstalkdBroker``."""

    max_delay = float(LONGEST)

    def __init__(
        self,
        settings: Redis,
        ttr: int,
        clock: Callable[[], float] = time.monotonic,
        keep: int = BACKLOG,
        suffix: str = "",
    ) -> None:
        self._settings = settings
        self._tube = Tube(settings.tube + suffix, ttr)
        self._connections = ThreadConnections(self._connect)
        self._outage = Outage(f"redis {settings.server}")
        outages = {settings.server: self._outage}
        self._announcer = Announcer(self._put, outages, keep=keep, clock=clock)

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs; returns those that are there, keeps the others."""
        return self._announcer.announce(announcements)

    def receivers(self) -> Sequence[RedisReceiver]:
        """One. An outage is logged once, whoever sees it."""
        server = self._settings.server
        return [RedisReceiver(server, self._tube, self._connect, self._outage)]

    def depth(self) -> dict[str, int]:
        """Jobs by state. Raises ``QueueUnavailable``."""
        (reply,) = self._ask([self._tube.depth()])
        return self._tube.counts(reply)

    def _put(self, _: str, announcements: Sequence[Announcement]) -> None:
        pages = range(0, len(announcements), PAGE)
        self._ask([self._tube.put(announcements[start : start + PAGE]) for start in pages])

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands, over this thread's connection."""
        server = self._settings.server
        return self._connections.use(server, lambda connection: connection.ask_all(commands))

    def _connect(self, _: str = "") -> Connection:
        return Connection(self._settings)

    def close(self) -> None:
        """Close this thread's connections; another thread's close when it ends."""
        self._connections.close()
