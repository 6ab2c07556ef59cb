"""The producer's side of Redis, and the way to the consumer's.

Decides: when a connection is used again. Each thread has its own. A signal handler may call
``send()`` in the middle of a ``send()``: each of the two has its own connection, too
(``reentrancy.depth`` tells them apart).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mailqueue import reentrancy
from mailqueue.config.queue import Redis
from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.announcer import Announcer
from mailqueue.queue.broker import BACKLOG, LONGEST, Announcement
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
        self._local = threading.local()
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
        """Jobs by state; raises ``QueueUnavailable``."""
        (reply,) = self._ask([self._tube.depth()])
        return self._tube.counts(reply)

    def _put(self, _: str, announcements: Sequence[Announcement]) -> None:
        pages = range(0, len(announcements), PAGE)
        self._ask([self._tube.put(announcements[start : start + PAGE]) for start in pages])

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands, over this thread's connection.

        A connection that breaks may have been broken for long: the server was restarted since its
        last use. So a second try is made on a new one, unless the server hangs or refuses.
        """
        connections, depth = self._connections, reentrancy.depth()
        connection = connections.get(depth)
        if connection is not None and not connection.broken:
            try:
                return connection.ask_all(commands)
            except QueueUnavailable:
                if connection.timed_out or connection.refused:
                    raise
        connection = connections[depth] = self._connect()
        return connection.ask_all(commands)

    def _connect(self) -> Connection:
        return Connection(self._settings)

    @property
    def _connections(self) -> dict[int, Connection]:
        """This thread's connections, by the depth of the call."""
        connections: dict[int, Connection]
        connections = self._local.__dict__.setdefault("connections", {})
        return connections

    def close(self) -> None:
        """Close this thread's connections; another thread's close when it ends."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
