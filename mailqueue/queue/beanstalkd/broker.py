"""The producer's side of all beanstalkd servers, and the way to the consumer's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

from mailqueue.config import Beanstalkd
from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.announcer import Announcer
from mailqueue.queue.beanstalkd import tube
from mailqueue.queue.broker import BACKLOG, LONGEST, Announcement
from mailqueue.queue.connections import ThreadConnections


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
        self._connections = ThreadConnections(self._connect)
        self._outages = {server: Outage(f"beanstalkd {server}") for server in settings.servers}
        self._announcer = Announcer(self._put, self._outages, keep=keep, clock=clock)

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

    def _put(self, server: str, announcements: Sequence[Announcement]) -> None:
        self._connections.use(server, lambda connection: connection.put(announcements, self._ttr))

    def _connect(self, server: str) -> tube.Connection:
        return tube.Connection(server, self._tube)

    def close(self) -> None:
        """Close this thread's connections; another thread's close when it ends."""
        self._connections.close()


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
