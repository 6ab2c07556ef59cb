"""The producer's side of all beanstalkd servers, and the way to the consumer's.

Decides: when a connection is used again. Each thread has its own. A signal handler may call
``send()`` in the middle of a ``send()``: each of the two has its own connections, too
(``reentrancy.depth`` tells them apart).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

from mailqueue import reentrancy
from mailqueue.config import Beanstalkd
from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.announcer import Announcer
from mailqueue.queue.beanstalkd import tube
from mailqueue.queue.broker import BACKLOG, LONGEST, Announcement


class BeanstalkdBroker:
    """The servers of ``settings``, which share the jobs; each producer goes round them.

    ``ttr``: whole seconds after which a server gives a reserved job to another. ``suffix`` makes
    the name of another tube of ours. ``keep``: see ``Announcer``.
    """

    max_delay = float(LONGEST)

    def __init__(
        self,
        settings: Beanstalkd,
        ttr: int,
        clock: Callable[[], float] = time.monotonic,
        keep: int = BACKLOG,
        suffix: str = "",
    ) -> None:
        self._settings, self._ttr, self._suffix = settings, ttr, suffix
        self._tube = settings.tube + suffix
        self._local = threading.local()
        self._outages = {server: Outage(f"beanstalkd {server}") for server in settings.servers}
        self._announcer = Announcer(self._put_on, self._outages, keep=keep, clock=clock)

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs, spread over the servers; returns those on the tube, keeps the others."""
        return self._announcer.announce(announcements)

    def receivers(self) -> Sequence[tube.Tube]:
        """A tube for each server. An outage is logged once, whoever sees it."""
        servers = self._settings.servers
        return [tube.Tube(server, self._tube, self._outages[server]) for server in servers]

    def depth(self) -> dict[str, int]:
        """Jobs by state over all servers that answer; ``QueueUnavailable`` if none does."""
        return depth(self._settings, self._suffix)

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

    def close(self) -> None:
        """Close this thread's connections; another thread's close when it ends."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def depth(settings: Beanstalkd, suffix: str = "") -> dict[str, int]:
    """Jobs by state over all servers that answer; raises ``QueueUnavailable`` if none does.

    ``suffix`` makes the name of another tube of that of ours.
    """
    totals: Counter[str] = Counter()
    trouble: QueueUnavailable | None = None
    for server in settings.servers:
        try:
            with closing(tube.Connection(server, settings.tube + suffix)) as connection:
                totals.update(connection.stats())
        except QueueUnavailable as error:
            trouble = error
    if not totals:
        raise trouble or QueueUnavailable("beanstalkd: no server")
    return dict(totals)
