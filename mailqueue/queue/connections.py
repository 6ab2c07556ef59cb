"""The connections over which a process announces: each thread has its own, to each server.

Decides: when a connection is used again. A signal handler may call ``send()`` in the middle of a
``send()``: each of the two has its own connections, too (``reentrancy.depth`` tells them apart).

Promises: any thread may call. There is no lock that an interrupted one could hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from mailqueue import reentrancy
from mailqueue.errors import QueueUnavailable

T = TypeVar("T")


class Connection(Protocol):
    """What is asked of a kind's own. ``was_lost``: it broke, and another one may work."""

    broken: bool

    @property
    def was_lost(self) -> bool: ...
    def close(self) -> None: ...


C = TypeVar("C", bound=Connection)


class ThreadConnections(Generic[C]):
    """``connect`` opens one to the server of this name, or raises ``QueueUnavailable``."""

    def __init__(self, connect: Callable[[str], C]) -> None:
        self._connect = connect
        self._local = threading.local()

    def use(self, server: str, work: Callable[[C], T]) -> T:
        """Do this over the thread's connection. Raises ``QueueUnavailable``.

        A connection that breaks may have been broken for long: the server was restarted since its
        last use. So a second try is made on a new one, unless the server hangs or refuses.
        """
        connections, key = self._connections, (server, reentrancy.depth())
        connection = connections.get(key)
        if connection is not None and not connection.broken:
            try:
                return work(connection)
            except QueueUnavailable:
                if not connection.was_lost:
                    raise
        connection = connections[key] = self._connect(server)
        return work(connection)

    @property
    def _connections(self) -> dict[tuple[str, int], C]:
        """This thread's, by server and by the depth of the call."""
        connections: dict[tuple[str, int], C]
        connections = self._local.__dict__.setdefault("connections", {})
        return connections

    def close(self) -> None:
        """Close this thread's; another thread's close when it ends."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
