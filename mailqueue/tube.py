"""The beanstalkd tube: hints that say which e-mail to look at. The only user of greenstalk.

Decides: when a connection is thrown away, on which connection a job may be ended, and how a
producer behaves while the server is away.

Assumes: a job may be doubled, early, late or lost, and a job id means something only on the
connection that reserved it (after a restart it may be another e-mail's).

Promises: a connection that gave anything but a complete server reply is never used again. A
connection that waits for a job holds none, so no reserved job comes near its time to run while its
connection is busy waiting. Bodies are the 24 hex characters of the e-mail's id.
"""

from __future__ import annotations

import math
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import greenstalk
from bson import ObjectId

from mailqueue.config import Beanstalkd
from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 5.0
MAX_DELAY = 2**32 - 1
_BODY = re.compile(rb"[0-9a-f]{24}")
_COMPLETE_REPLIES = (
    greenstalk.BuriedError,
    greenstalk.DrainingError,
    greenstalk.InternalError,
    greenstalk.JobTooBigError,
    greenstalk.OutOfMemoryError,
)


@dataclass(frozen=True, slots=True)
class Announcement:
    """One job to put: which e-mail, how urgent, and in how many seconds."""

    email_id: ObjectId
    priority: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A reserved job. ``email_id`` is None when the body is not one of ours."""

    id: int
    email_id: ObjectId | None
    connection: Connection

    def delete(self) -> None:
        """Take the job off the tube: its e-mail's end is stored."""
        self.connection.finish(self.id, lambda client: client.delete(self.id))

    def release(self, priority: int, delay: float) -> None:
        """Put the job back, to be taken again in ``delay`` seconds (rounded up)."""
        raw = greenstalk.Job(self.id, b"")
        self.connection.finish(self.id, lambda client: client.release(raw, priority, _whole(delay)))

    def bury(self) -> None:
        """Set a foreign job aside for a person."""
        raw = greenstalk.Job(self.id, b"")
        self.connection.finish(self.id, lambda client: client.bury(raw))


class Connection:
    """One connection to one server; its methods may be called from any thread, one at a time."""

    def __init__(self, server: str, tube: str, timeout: float = READ_TIMEOUT) -> None:
        self._lock = threading.Lock()
        self._tube = tube
        self.held: set[int] = set()
        self.broken = False
        host, _, port = server.rpartition(":")
        try:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT)
            self._socket.settimeout(timeout)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._client = greenstalk.Client(self._socket, encoding=None)
        except OSError as error:
            raise QueueUnavailable(f"beanstalkd: {type(error).__name__}") from error
        with self._talking(), suppress(greenstalk.NotIgnoredError):  # ours may be the default tube
            self._client.use(tube)
            self._client.watch(tube)
            self._client.ignore(greenstalk.DEFAULT_TUBE)

    def put(self, what: Announcement, ttr: int) -> None:
        """Put one job. A failed put may have been executed: it is harmless when doubled."""
        body = str(what.email_id).encode()
        with self._lock, self._talking():
            self._client.put(body, what.priority, _whole(what.delay), ttr)

    def reserve(self, timeout: int) -> Job | None:
        """Wait up to ``timeout`` whole seconds for a job; None: there was none."""
        with self._lock, self._talking():
            try:
                raw = self._client.reserve(timeout)
            except greenstalk.TimedOutError:
                return None
            self.held.add(raw.id)
        ours = _BODY.fullmatch(raw.body)
        return Job(raw.id, ObjectId(raw.body.decode()) if ours else None, self)

    def finish(self, job_id: int, end: Callable[[greenstalk.Client[bytes]], None]) -> None:
        """End a reserved job, once. On a broken connection the server has taken it back already."""
        with self._lock:
            if self.broken or job_id not in self.held:
                return
            with self._talking():
                self.held.remove(job_id)
                try:
                    end(self._client)
                except greenstalk.NotFoundError:
                    return  # its time to run was over: it is back on the tube

    def stats(self) -> dict[str, int]:
        """The tube's numbers of jobs by state; all 0 where there is no such tube yet."""
        with self._lock, self._talking():
            try:
                found = self._client.stats_tube(self._tube)
            except greenstalk.NotFoundError:
                found = {}  # type: ignore[typeddict-item]  # a tube without jobs does not exist
        states = ("ready", "reserved", "delayed", "buried")
        return {s: int(found.get(f"current-jobs-{s}", 0)) for s in states}  # type: ignore[call-overload]  # keys are computed

    def server(self) -> Mapping[str, int | str]:
        """The server's own numbers."""
        with self._lock, self._talking():
            return dict(self._client.stats())  # type: ignore[arg-type]  # a typed dictionary

    def close(self) -> None:
        """Close; the server takes back what was reserved here, priorities and all."""
        self.broken = True
        with suppress(OSError):  # it is not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that is reading
        self._client.close()

    def __del__(self) -> None:
        # A thread that ended leaves its connection behind.
        if hasattr(self, "_client"):
            self._client.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        if self.broken:
            raise QueueUnavailable("beanstalkd: the connection is closed")
        try:
            yield
        except _COMPLETE_REPLIES as error:
            raise QueueUnavailable(f"beanstalkd: {type(error).__name__}") from error
        except (greenstalk.Error, OSError, AssertionError, ValueError) as error:
            self.close()
            raise QueueUnavailable(f"beanstalkd: {type(error).__name__}") from error


class Tube:
    """The consumer's side of one server: connections that wait, and those that hold jobs."""

    def __init__(self, server: str, tube: str, outage: Outage | None = None) -> None:
        self.server = server
        self._tube = tube
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._outage = outage or Outage(f"beanstalkd {server}")

    def reserve(self, timeout: int) -> Job | None:
        """Wait up to ``timeout`` whole seconds for a job; one thread at a time may wait."""
        try:
            job = self._waiting().reserve(timeout)
        except QueueUnavailable as error:
            self._outage.began(str(error))
            raise
        self._outage.over()
        return job

    @staticmethod
    def more(first: Job, limit: int) -> list[Job]:
        """Up to ``limit`` further jobs that are ready now, on the connection of ``first``."""
        jobs: list[Job] = []
        while len(jobs) < limit and (job := first.connection.reserve(0)) is not None:
            jobs.append(job)
        return jobs

    def _waiting(self) -> Connection:
        """A connection that holds no job, so that waiting on it keeps nothing from its end."""
        with self._lock:
            self._connections = [c for c in self._connections if not c.broken]
            for connection in self._connections:
                if not connection.held:
                    return connection
        connection = Connection(self.server, self._tube)
        with self._lock:
            self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close every connection; the server takes back what they hold."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections = []


class Announcer:
    """The producer's side of all servers. Any thread may call; each has its own connections.

    After a failed put a server is left alone for 1 s, doubling to 30 s. What could not be put is
    kept (the newest 10,000, or ``keep``) and goes out with the next success; what is forgotten, the
    sweeper finds in MongoDB.
    """

    REST, REST_MAX, KEPT = 1.0, 30.0, 10_000

    def __init__(
        self,
        settings: Beanstalkd,
        ttr: int,
        clock: Callable[[], float] = time.monotonic,
        keep: int = KEPT,
    ) -> None:
        self._settings, self._ttr, self._clock = settings, ttr, clock
        self._lock = threading.Lock()
        self._local = threading.local()
        self._rests: dict[str, tuple[float, float]] = {}
        self._kept: deque[Announcement] = deque(maxlen=keep)
        self._turn = 0
        self._outages = {server: Outage(f"beanstalkd {server}") for server in settings.servers}

    def announce(self, what: Sequence[Announcement]) -> int:
        """Put jobs; returns how many are on the tube. What is not, is kept. Never raises."""
        done = 0
        for one in what:
            if not self._put(one):
                with self._lock:
                    self._kept.extend(what[done:])
                return done
            done += 1
        self._announce_kept()
        return done

    def _announce_kept(self) -> None:
        while self._kept:
            try:
                one = self._kept.popleft()
            except IndexError:  # another thread took the last one
                return
            if not self._put(one):
                self._kept.appendleft(one)
                return

    def _put(self, what: Announcement) -> bool:
        servers = self._settings.servers
        self._turn += 1
        for i in range(len(servers)):
            server = servers[(self._turn + i) % len(servers)]
            if self._rests.get(server, (0.0, 0.0))[0] > self._clock():
                continue
            try:
                self._put_on(server, what)
            except QueueUnavailable as error:
                self._outages[server].began(str(error))
                self._rest(server)
                continue
            self._outages[server].over()
            self._rests.pop(server, None)
            return True
        return False

    def _put_on(self, server: str, what: Announcement) -> None:
        """Put one job; a connection from before an outage says nothing about the server now."""
        kept = self._local.__dict__.get(server)
        connection = self._connection(server)
        try:
            connection.put(what, self._ttr)
        except QueueUnavailable as error:
            hangs = isinstance(error.__cause__, TimeoutError)
            if connection is not kept or not connection.broken or hangs:
                raise
            self._connection(server).put(what, self._ttr)

    def _rest(self, server: str) -> None:
        with self._lock:
            until, last = self._rests.get(server, (0.0, 0.0))
            if until > self._clock():
                return  # another thread failed at the same time
            rest = min(self.REST_MAX, max(self.REST, last * 2))
            self._rests[server] = (self._clock() + rest, rest)

    def _connection(self, server: str) -> Connection:
        mine: dict[str, Connection] = self._local.__dict__
        if server not in mine or mine[server].broken:
            mine[server] = Connection(server, self._settings.tube)
        return mine[server]

    def outage(self, server: str) -> Outage:
        """For others in this process that talk to the server, so that an outage is said once."""
        return self._outages[server]

    def close(self) -> None:
        """Close this thread's connections; another thread's close when it ends."""
        for connection in self._local.__dict__.values():
            connection.close()
        self._local.__dict__.clear()


def depth(settings: Beanstalkd) -> dict[str, int]:
    """Jobs by state over all servers that answer; raises ``QueueUnavailable`` if none does."""
    totals: dict[str, int] = {}
    trouble: QueueUnavailable | None = None
    for server in settings.servers:
        try:
            connection = Connection(server, settings.tube)
            found = connection.stats()
        except QueueUnavailable as error:
            trouble = error
            continue
        connection.close()
        for state, count in found.items():
            totals[state] = totals.get(state, 0) + count
    if not totals:
        raise trouble or QueueUnavailable("beanstalkd: no server")
    return totals


def _whole(seconds: float) -> int:
    """beanstalkd counts whole seconds; rounded up, so that no job is early."""
    return min(MAX_DELAY, math.ceil(max(0.0, seconds)))
