"""The consumer's side of Redis: a connection that waits for jobs, and one that ends them.

Decides: over which connection what goes, and what becomes of ends while the server is away.

Assumes: one thread reserves. Any thread ends jobs; the writer's, for one, for which all senders
wait.

Promises: an end waits for no connection and, unless many are under way, for no reply. One whose
reply did not come is sent again over the next connection, which the reserving thread opens: it
changes nothing if the first one did (see ``scripts``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.broker import End, Job
from mailqueue.queue.redis.connection import Connection
from mailqueue.queue.redis.scripts import Command, Tube

UNDER_WAY = 16  # ends for whose replies nobody waits: they fit into the sockets' buffers
REMEMBERED = 256  # ends that are sent again after an outage


class Ends:
    """The connection that ends jobs. Any thread calls ``send``, one the other methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._unconfirmed: deque[Command] = deque(maxlen=REMEMBERED)

    def send(self, command: Command) -> None:
        """Have it executed, now or once there is a connection again."""
        with self._lock:
            self._unconfirmed.append(command)
            if self._connection is None or self._connection.broken:
                return
            with suppress(QueueUnavailable):
                self._connection.send(command)
                self._confirm(self._connection)

    def renew(self, connect: Callable[[], Connection]) -> None:
        """See that there is a connection; raises ``QueueUnavailable``."""
        with self._lock, suppress(QueueUnavailable):
            if self._connection is not None:
                self._confirm(self._connection)
        if self._connection is not None and not self._connection.broken:
            return
        connection = connect()  # without the lock, since it may last
        with self._lock:
            self._connection = connection
            if self._unconfirmed:
                connection.send(*self._unconfirmed)
                self._confirm(connection)

    def _confirm(self, connection: Connection, most: int = UNDER_WAY) -> None:
        """Read the replies that are there, and those beyond ``most``."""
        while connection.owed > most or (connection.owed and connection.can_read()):
            try:
                connection.read()
            finally:
                # Refused is done, too: sent again, it would be refused again.
                if not connection.broken or connection.refused:
                    self._unconfirmed.popleft()

    def close(self) -> None:
        """Wait until everything is executed, unless the server is away."""
        with self._lock:
            if self._connection is not None:
                with suppress(QueueUnavailable):
                    self._confirm(self._connection, most=0)
                self._connection.close()
                self._connection = None


class RedisReceiver:
    """Reserves jobs in one thread; the holder of all of them."""

    def __init__(
        self, name: str, tube: Tube, connect: Callable[[], Connection], outage: Outage
    ) -> None:
        self.name, self.place = name, f"tube {tube.name} of {name}"
        self._tube, self._connect, self._outage = tube, connect, outage
        self._connection: Connection | None = None
        self._ends = Ends()
        self._reserved: set[Job] = set()

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        """Wait up to ``timeout`` whole seconds for a job; with it come up to ``limit`` in all.

        Raises ``QueueUnavailable``; the outage is logged once, and so is its end.
        """
        with self._outage.listen():
            return self._reserve(timeout, limit)

    def _reserve(self, timeout: int, limit: int) -> list[Job]:
        if self._connection is None or self._connection.broken:
            self._connection = self._connect()
        connection, until = self._connection, time.monotonic() + timeout
        while True:
            self._ends.renew(self._connect)
            jobs, wait = self._tube.jobs(connection.ask(*self._tube.take(limit)), self)
            self._reserved.update(jobs)
            rest = until - time.monotonic()
            if jobs or rest <= 0:
                return jobs
            # 0 would be for ever.
            seconds = max(0.001, min(wait, rest, connection.longest_wait))
            connection.ask("BLPOP", self._tube.wake, f"{seconds:.3f}")

    def end(self, ends: Mapping[Job, End]) -> None:
        """End jobs that are reserved here; while the server is away, once it is back."""
        self._reserved.difference_update(ends)
        self._ends.send(self._tube.end(ends))

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Let anybody have these at once."""
        self._reserved.difference_update(jobs)
        self._ends.send(self._tube.give_back(jobs))

    def close(self) -> None:
        """Have everything ended that was to end, and give back the rest."""
        if self._reserved:
            self.give_back(list(self._reserved))
        self._ends.close()
        if self._connection is not None:
            self._connection.close()
