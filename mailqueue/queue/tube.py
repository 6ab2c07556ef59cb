"""The beanstalkd tube: hints that say which e-mail to look at. The only user of greenstalk.

Decides: when a connection is thrown away, and on which connection a job may be ended. How jobs are
spread over servers, and what follows while one is away, is in ``announcer``.

Assumes: a job may be doubled, early, late or lost, and a job id means something only on the
connection that reserved it (after a restart it may be another e-mail's).

Promises: a connection that gave anything but a complete server reply, within bounds (``replies``),
is never used again; all that can go wrong with one is ``QueueUnavailable``. A connection that waits
for a job holds none, so no reserved job comes near its time to run while its connection is busy
waiting. Bodies are the 24 hex characters of the e-mail's id.
"""

from __future__ import annotations

import math
import re
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import greenstalk
from bson import ObjectId

from mailqueue.config import Beanstalkd
from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.replies import Replies, number, numbers

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 5.0  # for the replies to what was asked at once,
PER_REPLY = 0.02  # and for each of them: a put may wait for a disk
MAX_DELAY = 2**32 - 1
PIPELINE = 500  # commands in one write: they and their replies fit into the sockets' buffers
_BODY = re.compile(rb"([0-9a-f]{24})\r\n")
_ENDED = {"delete": b"DELETED", "release": b"RELEASED", "bury": b"BURIED"}
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


@dataclass(frozen=True, slots=True)
class End:
    """How a reserved job ends: deleted, put back (``delay`` in whole seconds), or buried."""

    word: str
    priority: int = 0
    delay: int = 0

    def command(self, job_id: int) -> bytes:
        """The line that says so."""
        words = {
            "delete": b"delete %d\r\n" % job_id,
            "release": b"release %d %d %d\r\n" % (job_id, self.priority, self.delay),
            "bury": b"bury %d %d\r\n" % (job_id, self.priority),
        }
        return words[self.word]


DELETED, BURIED = End("delete"), End("bury")


def released(priority: int, delay: float) -> End:
    """Put back, to be taken again in ``delay`` seconds (rounded up)."""
    return End("release", priority, _whole(delay))


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A reserved job. ``email_id`` is None when the body is not one of ours."""

    id: int
    email_id: ObjectId | None
    connection: Connection

    def delete(self) -> None:
        """Take the job off the tube: its e-mail's end is stored."""
        self._finish(DELETED)

    def release(self, priority: int, delay: float) -> None:
        """Put the job back, to be taken again in ``delay`` seconds (rounded up)."""
        self._finish(released(priority, delay))

    def bury(self) -> None:
        """Set the job aside for a person."""
        self._finish(BURIED)

    def _finish(self, end: End) -> None:
        self.connection.finish({self.id: end})
        self.connection.flush()


class Connection:
    """One connection to one server; its methods may be called from any thread, one at a time.

    Commands that belong together are written together, and their replies read in order: beanstalkd
    answers each in turn, and a wait for every reply would be most of the time that they take.
    """

    def __init__(self, server: str, tube: str, timeout: float = READ_TIMEOUT) -> None:
        self._lock = threading.Lock()
        self._tube = tube
        self._timeout = timeout
        self.held: set[int] = set()
        self._owed: deque[bytes] = deque()  # the words of replies that are not read yet
        self.broken = False
        host, _, port = server.rpartition(":")
        try:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise QueueUnavailable(f"beanstalkd: {type(error).__name__}") from error
        self._replies = Replies(self._socket)
        with self._talking(), suppress(greenstalk.NotIgnoredError):  # ours may be the default tube
            self._ask(f"use {tube}", b"USING")
            self._ask(f"watch {tube}", b"WATCHING")
            self._ask(f"ignore {greenstalk.DEFAULT_TUBE}", b"WATCHING")

    def put(self, what: Sequence[Announcement], ttr: int) -> None:
        """Put jobs. Of a failed call all may have been executed: they are harmless when doubled."""
        with self._lock, self._talking(min(len(what), PIPELINE)):
            for start in range(0, len(what), PIPELINE):
                page = what[start : start + PIPELINE]
                if start:
                    self._allow(len(page))
                self._socket.sendall(b"".join([_put_command(each, ttr) for each in page]))
                self._owed.extend([b"INSERTED"] * len(page))
                self._read_owed()

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        """Wait up to ``timeout`` whole seconds for a job; with it come up to ``limit`` in all."""
        at_once = b"reserve-with-timeout 0\r\n" * (limit - 1)
        with self._lock, self._talking(limit + len(self._owed)):
            self._socket.sendall(b"reserve-with-timeout %d\r\n%b" % (timeout, at_once))
            with suppress(*_COMPLETE_REPLIES):
                self._read_owed()
            return [job for _ in range(limit) if (job := self._read_job()) is not None]

    def _read_job(self) -> Job | None:
        try:
            job_id, size = map(number, self._read(b"RESERVED"))
        except greenstalk.TimedOutError:
            return None
        body = self._replies.body(size)
        if job_id in self.held:
            raise ValueError("reserved twice")
        self.held.add(job_id)
        ours = _BODY.fullmatch(body)
        return Job(job_id, ObjectId(bytes.fromhex(ours[1].decode())) if ours else None, self)

    def finish(self, ends: Mapping[int, End]) -> None:
        """End reserved jobs, each once. Of a broken connection the server has them already.

        Nobody waits for the replies: they are read by what follows on this connection.
        """
        with self._lock:
            if self.broken or not (mine := [one for one in ends if one in self.held]):
                return
            with self._talking(len(self._owed)):
                if len(self._owed) > PIPELINE:
                    self._read_owed()
                self.held.difference_update(mine)
                self._socket.sendall(b"".join([ends[one].command(one) for one in mine]))
                self._owed.extend(_ENDED[ends[one].word] for one in mine)

    def flush(self) -> None:
        """Wait until the server has executed everything."""
        with self._lock:
            if self._owed and not self.broken:
                with self._talking(len(self._owed)):
                    self._read_owed()

    def _read_owed(self) -> None:
        """Read the replies to come; raises what the server says of the first refused command."""
        refused = None
        while self._owed:
            expected = self._owed.popleft()
            try:
                self._read(expected)
            except greenstalk.NotFoundError:
                if expected not in _ENDED.values():
                    raise
                continue  # its time to run was over: it is back on the tube
            except _COMPLETE_REPLIES as error:
                refused = refused or error
        if refused is not None:
            raise refused

    def _read(self, expected: bytes) -> list[bytes]:
        """The rest of a reply that begins with this word; raises as greenstalk does."""
        word, *rest = self._replies.line()
        if word == expected:
            return rest
        known = greenstalk.ERROR_RESPONSES.get(word)
        raise known(rest) if known else greenstalk.UnknownResponseError(word, rest)

    def _ask(self, command: str, expected: bytes) -> list[bytes]:
        self._socket.sendall(command.encode("ascii") + b"\r\n")
        return self._read(expected)

    def _numbers(self, command: str) -> Mapping[str, int | str]:
        (size,) = map(number, self._ask(command, b"OK"))
        return numbers(self._replies.body(size))

    def stats(self) -> dict[str, int]:
        """The tube's numbers of jobs by state; all 0 where there is no such tube yet."""
        found = self.tube()
        states = ("ready", "reserved", "delayed", "buried")
        counts = (found.get(f"current-jobs-{state}", 0) for state in states)
        with self._talking():
            return {s: number(b"%d" % int(n)) for s, n in zip(states, counts, strict=True)}

    def tube(self) -> Mapping[str, int | str]:
        """The tube's own numbers; none where there is no such tube yet."""
        self.flush()
        with self._lock, self._talking():
            try:
                return self._numbers(f"stats-tube {self._tube}")
            except greenstalk.NotFoundError:  # a tube without jobs does not exist
                return {}

    def server(self) -> Mapping[str, int | str]:
        """The server's own numbers."""
        self.flush()
        with self._lock, self._talking():
            return self._numbers("stats")

    def close(self) -> None:
        """Close; the server takes back what was reserved here, priorities and all."""
        self.broken = True
        with suppress(OSError):  # it is not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that is reading
        self._replies.close()
        self._socket.close()

    def __del__(self) -> None:
        # A thread that ended leaves its connection behind.
        if hasattr(self, "_replies"):
            self._replies.close()
            self._socket.close()

    def _allow(self, replies: int) -> None:
        """From now on the time for so many."""
        if self._socket.gettimeout() != self._timeout:
            self._socket.settimeout(self._timeout)
        self._replies.within(self._timeout + PER_REPLY * replies)

    @contextmanager
    def _talking(self, replies: int = 0) -> Iterator[None]:
        if self.broken:
            raise QueueUnavailable("beanstalkd: the connection is closed")
        try:
            self._allow(replies)
            yield
        except _COMPLETE_REPLIES as error:
            raise QueueUnavailable(f"beanstalkd: {type(error).__name__}") from error
        except (greenstalk.Error, OSError, AssertionError, ValueError) as error:
            self.close()
            raise QueueUnavailable(f"beanstalkd: {type(error).__name__}") from error
        except BaseException:  # the thread was interrupted, perhaps in the middle of a reply
            self.close()
            raise


class Tube:
    """The consumer's side of one server: connections that wait, and those that hold jobs."""

    def __init__(self, server: str, tube: str, outage: Outage | None = None) -> None:
        self.server = server
        self._tube = tube
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._outage = outage or Outage(f"beanstalkd {server}")

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        """Wait up to ``timeout`` whole seconds for a job; one thread at a time may wait.

        What is ready then comes with it, ``limit`` in all, on the same connection.
        """
        try:
            jobs = self._waiting().reserve(timeout, limit)
        except QueueUnavailable as error:
            self._outage.begin(str(error))
            raise
        self._outage.end()
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
                with suppress(QueueUnavailable):
                    connection.flush()
                connection.close()
            self._connections = []


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


def _put_command(what: Announcement, ttr: int) -> bytes:
    body = what.email_id.binary.hex().encode()
    delay = _whole(what.delay) if what.delay > 0 else 0
    return b"put %d %d %d 24\r\n%b\r\n" % (what.priority, delay, ttr, body)


def _whole(seconds: float) -> int:
    """beanstalkd counts whole seconds; rounded up, so that no job is early."""
    return min(MAX_DELAY, math.ceil(max(0.0, seconds)))
