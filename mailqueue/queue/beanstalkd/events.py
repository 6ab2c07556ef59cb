"""Events: jobs that other programs put on a tube of their own, ``<tube>.intake``.

Decides: by which key an event is known when it comes again. Whoever stores something for an event
stores it under this key, so that the second time finds the first.

Assumes: an event may come again at any time until it has ended: a connection broke, its time to run
was over, the server was restarted.

Promises: the same job has the same keys, and two jobs have no key in common. Every failure is
``QueueUnavailable``, and the server then has all events back that were reserved. Used by one thread
at a time.

The key of a job. Its id alone is not enough: without a binlog a server counts from 1 again after a
restart, but its instance has an id that no other has (``id`` in its ``stats``). With a binlog jobs
outlive the instance; and where the log was empty, the second restart counts from 1 again, too. What
outlives it is the job itself: its id, its body, and the moment at which it was put, of which the
server tells the age in seconds. The moment is rounded to the hour, so that two readers agree. Near
the full hour they may not: an age lacks up to a second, and clocks differ. Then the event has a
second key, of the other hour, under which it may be stored already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256

from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.beanstalkd.tube import Connection
from mailqueue.queue.broker import INTAKE, End, Event, Job

_HOUR = 3600
_EDGE = 60  # seconds before and after a full hour


class EventTube:
    """The events of one server. One thread reserves and ends them."""

    def __init__(
        self,
        server: str,
        tube: str,
        outage: Outage | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = self.server = server
        self._tube = tube + INTAKE
        self.place = f"tube {self._tube} of {server}"
        self._outage = outage or Outage(f"beanstalkd {server}")
        self._clock = clock
        self._connection: Connection | None = None
        self._instance = ""  # of the server; none if it has a binlog

    def reserve(self, timeout: int, limit: int = 1) -> list[Event]:
        """Wait up to ``timeout`` whole seconds for an event; with it come up to ``limit`` in all.

        An empty list: there was none. Raises ``QueueUnavailable``; the outage is logged once, and
        so is its end.
        """
        try:
            with self._outage.listen():
                connection = self._open()
                return self._events(connection, connection.reserve(timeout, limit))
        except QueueUnavailable:
            self.give_back()
            raise

    def end(self, events: Sequence[Event], how: End) -> None:
        """End events that were reserved here; nothing is waited for.

        An event that cannot be ended, since the connection broke, comes again.
        """
        try:
            if self._connection is not None:
                self._connection.end({event.handle: how for event in events})
        except QueueUnavailable as error:
            self._outage.begin(str(error))

    def give_back(self) -> None:
        """Have the server take back what is reserved here, priorities and all, for anybody."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Wait until the server has ended what was to end, and close."""
        if self._connection is not None:
            try:
                self._connection.flush()
            except QueueUnavailable as error:
                self._outage.begin(str(error))
        self.give_back()

    def _open(self) -> Connection:
        connection = self._connection
        if connection is None or connection.broken:
            connection = self._connection = Connection(self.server, self._tube)
            server = connection.server_stats()
            # beanstalkd says 0 where no binlog is active (its protocol.txt).
            has_binlog = server.get("binlog-current-index") != 0
            self._instance = "" if has_binlog else str(server.get("id", ""))
        return connection

    def _events(self, connection: Connection, jobs: Sequence[Job]) -> list[Event]:
        if self._instance:
            return [
                Event(job.turn, job.body, f"intake:{self._instance}:{job.turn}", handle=job)
                for job in jobs
            ]
        ages = connection.ages([job.turn for job in jobs]) if jobs else {}
        now = self._clock()
        return [
            Event(job.turn, job.body, *self._lasting_keys(job, now - ages[job.turn]), handle=job)
            for job in jobs
            if job.turn in ages
        ]

    def _lasting_keys(self, job: Job, put_at: float) -> tuple[str, str]:
        """The keys of a job that outlives its server's restart: one, near the full hour two."""
        digest = sha256(job.body).hexdigest()[:32]
        hours = dict.fromkeys((put_at + edge) // _HOUR for edge in (0, -_EDGE, _EDGE))
        keys = [f"intake:{self.server}:{job.turn}:{hour:.0f}:{digest}" for hour in hours]
        return keys[0], keys[1] if len(keys) > 1 else ""
