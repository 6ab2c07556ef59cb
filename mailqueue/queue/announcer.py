"""Announcing stored e-mails: the producer's side of all beanstalkd servers.

Decides: which server gets which job, and how a producer behaves while a server is away.

Assumes: an announcement is harmless when doubled, and the sweeper finds what is forgotten here.

Promises: announcing never raises. An outage costs the caller one failed try, then nothing. There is
no lock that an interrupted thread could hold: what threads share changes in single steps. A signal
handler may call ``send()`` in the middle of a ``send()``: each of the two has its own connections
(``reentrancy.depth`` tells them apart).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from mailqueue import reentrancy
from mailqueue.config import Beanstalkd
from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue import tube
from mailqueue.queue.tube import Announcement


class Announcer:
    """The producer's side of all servers. Any thread may call; each has its own connections.

    After a failed put a server is left alone for 1 s, doubling to 30 s. What could not be put waits
    in a backlog of the newest 10,000 (or ``keep``) and goes out with the next success. The sweeper
    finds in MongoDB what the backlog drops. ``suffix`` makes the name of another tube of ours.
    """

    REST, REST_MAX, BACKLOG = 1.0, 30.0, 10_000

    def __init__(
        self,
        settings: Beanstalkd,
        ttr: int,
        clock: Callable[[], float] = time.monotonic,
        keep: int = BACKLOG,
        suffix: str = "",
    ) -> None:
        self._tube = settings.tube + suffix
        self._settings, self._ttr, self._clock = settings, ttr, clock
        self._local = threading.local()
        self._rests: dict[str, tuple[float, float]] = {}  # until when, and for how many seconds
        self._backlog: deque[Announcement] = deque(maxlen=keep)
        self._next = 0  # counts puts, so that they go round the servers
        self._outages = {server: Outage(f"beanstalkd {server}") for server in settings.servers}

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs, spread over the servers; returns those on the tube, keeps the others.

        Never raises.
        """
        on_tube: list[Announcement] = []
        servers = len(self._settings.servers)
        for first in range(min(servers, len(announcements))):
            share = announcements[first::servers]
            if self._put(share):
                on_tube += share
            else:
                self._backlog.extend(share)
        if on_tube or not announcements:  # a server answers, or may again
            self._announce_backlog()
        return on_tube

    def _announce_backlog(self) -> None:
        while self._backlog:
            page: list[Announcement] = []
            with suppress(IndexError):  # another thread takes from it, too
                while len(page) < tube.PIPELINE:
                    page.append(self._backlog.popleft())
            if page and not self._put(page):
                self._backlog.extendleft(reversed(page))
                return

    def _put(self, announcements: Sequence[Announcement]) -> bool:
        """Put jobs on the next server that takes them; False: none does."""
        servers = self._settings.servers
        self._next += 1
        for i in range(len(servers)):
            server = servers[(self._next + i) % len(servers)]
            if self._rests.get(server, (0.0, 0.0))[0] > self._clock():
                continue
            try:
                self._put_on(server, announcements)
            except QueueUnavailable as error:
                self._rest(server)
                self._outages[server].begin(str(error))
                continue
            self._rests.pop(server, None)
            self._outages[server].end()
            return True
        return False

    def _put_on(self, server: str, announcements: Sequence[Announcement]) -> None:
        """Put jobs on this server.

        A connection that breaks may have been broken for long: the server was restarted since its
        last use. So a second try is made on a new one, unless the server hangs.
        """
        used_before = self._connections.get((server, reentrancy.depth()))
        connection = self._connection(server)
        try:
            connection.put(announcements, self._ttr)
        except QueueUnavailable as error:
            hangs = isinstance(error.__cause__, TimeoutError)
            if connection is not used_before or not connection.broken or hangs:
                raise
            self._connection(server).put(announcements, self._ttr)

    def _rest(self, server: str) -> None:
        until, seconds = self._rests.get(server, (0.0, 0.0))
        if until > self._clock():
            return  # another thread failed at the same time
        seconds = min(self.REST_MAX, max(self.REST, seconds * 2))
        self._rests[server] = (self._clock() + seconds, seconds)

    def _connection(self, server: str) -> tube.Connection:
        key = server, reentrancy.depth()
        if key not in self._connections or self._connections[key].broken:
            self._connections[key] = tube.Connection(server, self._tube)
        return self._connections[key]

    @property
    def _connections(self) -> dict[tuple[str, int], tube.Connection]:
        """This thread's connections, by server and by the depth of the call."""
        connections: dict[tuple[str, int], tube.Connection]
        connections = self._local.__dict__.setdefault("connections", {})
        return connections

    def outage(self, server: str) -> Outage:
        """For others in this process that talk to the server, so that an outage is logged once."""
        return self._outages[server]

    def close(self) -> None:
        """Close this thread's connections; another thread's close when it ends."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
