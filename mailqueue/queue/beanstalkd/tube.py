"""The beanstalkd tube: jobs that say which e-mail to look at.

Decides: what is written to a connection, in which order its replies are read, and when it is thrown
away. ``broker`` spreads jobs over servers.

Assumes: a job may be doubled, early, late or lost. A job id means something only on the connection
that reserved it: after a restart of the server it may be another e-mail's.

Promises: a connection is never used again after anything but complete server replies within bounds
(``replies``). Every failure is ``QueueUnavailable``. A connection that waits for a job has no other
one reserved, so no job comes near its time to run while its connection waits. A body is the 24 hex
characters of the e-mail's id.

The exchange. greenstalk's client writes one command and waits for its reply; to delete 500 jobs it
would wait 500 times, most of the time that this takes. beanstalkd answers the commands of a
connection strictly in order, so this module writes many at once and reads the replies afterwards
(pipelining). It talks the wire itself, with bounds on bytes and time; of greenstalk it uses the
exceptions and their table of reply words. A consumer's round, C the client and S the server, each
line ended by CR LF::

    C  reserve-with-timeout 1
    C  reserve-with-timeout 0
    C  reserve-with-timeout 0
    S  RESERVED 7 24
    S  6b09608f33974bc99bbf66b3
    S  RESERVED 8 24
    S  6b09608f33974bc99bbf66b4
    S  TIMED_OUT                      two jobs; both e-mails are sent, and their ends are stored
    C  delete 7
    C  release 8 512 30               owed: DELETED, RELEASED; nobody waits for them
    C  reserve-with-timeout 1
    S  DELETED
    S  RELEASED                       owed: nothing
    S  RESERVED 9 24
    S  6b09608f33974bc99bbf66b5

So a connection remembers the replies that the server owes it (``_owed``). Before it reads the reply
to a new command, it reads these.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import greenstalk
from bson import ObjectId

from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.beanstalkd.replies import Replies, number, numbers
from mailqueue.queue.broker import STATES, Announcement, End, Job, whole_seconds

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 5.0  # for the replies to what was asked at once,
PER_REPLY = 0.02  # and for each of them: a put may wait for a disk
PIPELINE = 500  # commands in one write: they and their replies fit into the sockets' buffers
_BODY = re.compile(rb"([0-9a-f]{24})\r\n")
_END_REPLIES = {"delete": b"DELETED", "release": b"RELEASED", "bury": b"BURIED"}
# The server understood and says no: the next reply on this connection is that of the next command.
# Any other error reply means that the two have lost each other: the connection is closed.
_REFUSALS = (
    greenstalk.BuriedError,
    greenstalk.DrainingError,
    greenstalk.InternalError,
    greenstalk.JobTooBigError,
    greenstalk.OutOfMemoryError,
)


class Connection:
    """One connection to one server; its methods may be called from any thread, one at a time.

    Every method but ``end``, ``flush``, ``give_back`` and ``close`` raises ``QueueUnavailable``
    once the connection is ``broken``. ``reserved`` are the ids of the jobs that are reserved on it.
    """

    def __init__(self, server: str, tube: str, timeout: float = READ_TIMEOUT) -> None:
        self._lock = threading.Lock()
        self._tube = tube
        self._timeout = timeout
        self.reserved: set[int] = set()
        self._owed: deque[bytes] = deque()  # first words of the replies that are still to be read
        self.broken = False
        self._timed_out = False
        host, _, port = server.rpartition(":")
        try:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise QueueUnavailable(f"beanstalkd: {type(error).__name__}") from error
        self._replies = Replies(self._socket)
        with self._exchange(), suppress(greenstalk.NotIgnoredError):  # ours may be the default tube
            self._ask(f"use {tube}", b"USING")
            self._ask(f"watch {tube}", b"WATCHING")
            self._ask(f"ignore {greenstalk.DEFAULT_TUBE}", b"WATCHING")

    def put(self, announcements: Sequence[Announcement], ttr: int) -> None:
        """Put jobs; on return the server has all of them.

        ``ttr``: whole seconds after which the server gives a reserved job to another. After a
        failed call some or all may be on the tube: jobs are harmless when doubled.
        """
        with self._lock, self._exchange(min(len(announcements), PIPELINE)):
            for start in range(0, len(announcements), PIPELINE):
                page = announcements[start : start + PIPELINE]
                if start:
                    self._allow(len(page))
                self._socket.sendall(b"".join([_put_command(each, ttr) for each in page]))
                self._owed.extend([b"INSERTED"] * len(page))
                if refusal := self._read_owed():
                    raise refusal

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        """Wait up to ``timeout`` whole seconds for a job; with it come up to ``limit`` in all.

        ``timeout`` must be well below the connection's own. An empty list: there was no job.
        """
        at_once = b"reserve-with-timeout 0\r\n" * (limit - 1)
        with self._lock, self._exchange(limit + len(self._owed)):
            self._socket.sendall(b"reserve-with-timeout %d\r\n%b" % (timeout, at_once))
            self._read_owed()
            jobs: list[Job] = []
            for _ in range(limit):
                try:
                    jobs.append(self._read_job())
                except greenstalk.TimedOutError:
                    pass
                except greenstalk.DeadlineSoonError:
                    # One of these has a second to run: whoever put it wanted that. It is harmless,
                    # unless the job was reserved earlier.
                    if not jobs:
                        raise
            return jobs

    def _read_job(self) -> Job:
        job_id, size = map(number, self._read(b"RESERVED"))
        body = self._replies.body(size)
        if job_id in self.reserved:
            raise ValueError("reserved twice")
        self.reserved.add(job_id)
        ours = _BODY.fullmatch(body)
        email_id = ObjectId(ours[1].decode()) if ours else None
        return Job(email_id, job_id, self, body=body[:-2])

    def end(self, ends: Mapping[Job, End]) -> None:
        """End jobs that are reserved here, in one write; nothing is waited for.

        A job that is not reserved here is passed over, so that no job is ended twice. On a broken
        connection nothing is done: its server has taken the jobs back. Raises ``QueueUnavailable``.
        """
        with self._lock:
            reserved = {job.turn: end for job, end in ends.items() if job.turn in self.reserved}
            if self.broken or not reserved:
                return
            with self._exchange(len(self._owed)):
                if len(self._owed) > PIPELINE:  # else the sockets' buffers could fill up
                    self._read_owed()
                self.reserved.difference_update(reserved)
                commands = [_end_command(job_id, end) for job_id, end in reserved.items()]
                self._socket.sendall(b"".join(commands))
                self._owed.extend([_END_REPLIES[end.word] for end in reserved.values()])

    def give_back(self, _: Sequence[Job]) -> None:
        """Close: whatever is reserved here is given back."""
        self.close()

    def flush(self) -> None:
        """Wait until the server has executed everything."""
        with self._lock:
            if self._owed and not self.broken:
                with self._exchange(len(self._owed)):
                    if refusal := self._read_owed():
                        raise refusal

    def _read_owed(self) -> greenstalk.Error | None:
        """Read all replies that are owed; returns the first refusal among them.

        That matters to a put. An end that is refused leaves its job reserved, and it comes again.
        """
        refusal: greenstalk.Error | None = None
        while self._owed:
            expected = self._owed.popleft()
            try:
                self._read(expected)
            except greenstalk.NotFoundError:
                # The job's time to run was over, so it is on the tube again: no harm. Only an end
                # may be answered so; as the answer to a put it means that the server is confused.
                if expected not in _END_REPLIES.values():
                    raise
            except _REFUSALS as error:
                refusal = refusal or error
        return refusal

    def _read(self, expected: bytes) -> list[bytes]:
        """The rest of a reply that begins with this word; raises as greenstalk does."""
        word, *rest = self._replies.line()
        if word == expected:
            return rest
        kind = greenstalk.ERROR_RESPONSES.get(word)
        raise kind(rest) if kind else greenstalk.UnknownResponseError(word, rest)

    def _ask(self, command: str, expected: bytes) -> list[bytes]:
        """Write one command and wait for its reply."""
        self._socket.sendall(command.encode("ascii") + b"\r\n")
        self._read_owed()
        return self._read(expected)

    # What a server says of itself --------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """The tube's numbers of jobs by state; all are 0 where there is no such tube yet."""
        values = self.tube_stats()
        with self._exchange():
            words = {state: values.get(f"current-jobs-{state}", 0) for state in STATES}
            return {state: number(str(word).encode()) for state, word in words.items()}

    def tube_stats(self) -> Mapping[str, int | str]:
        """The tube's own numbers; none where there is no such tube yet."""
        with self._lock, self._exchange(len(self._owed)):
            try:
                return self._numbers(f"stats-tube {self._tube}")
            except greenstalk.NotFoundError:  # a tube without jobs does not exist
                return {}

    def server_stats(self) -> Mapping[str, int | str]:
        """The server's own numbers."""
        with self._lock, self._exchange(len(self._owed)):
            return self._numbers("stats")

    def ages(self, job_ids: Sequence[int]) -> dict[int, int]:
        """How many seconds ago jobs were put; those that are gone are left out."""
        ages = {}
        with self._lock, self._exchange(len(self._owed) + len(job_ids)):
            self._socket.sendall(b"".join([b"stats-job %d\r\n" % job_id for job_id in job_ids]))
            self._read_owed()
            for job_id in job_ids:
                with suppress(greenstalk.NotFoundError):
                    age = self._body_of_numbers(self._read(b"OK")).get("age", "")
                    ages[job_id] = number(str(age).encode())
        return ages

    def _numbers(self, command: str) -> Mapping[str, int | str]:
        return self._body_of_numbers(self._ask(command, b"OK"))

    def _body_of_numbers(self, reply: list[bytes]) -> Mapping[str, int | str]:
        (size,) = map(number, reply)
        return numbers(self._replies.body(size))

    # When it is over ---------------------------------------------------------------------------

    @property
    def was_lost(self) -> bool:
        """Whether it broke, and another may work: no server that hangs."""
        return self.broken and not self._timed_out

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
        """Give this many replies their time, from now on."""
        if self._socket.gettimeout() != self._timeout:
            self._socket.settimeout(self._timeout)
        self._replies.within(self._timeout + PER_REPLY * replies)

    @contextmanager
    def _exchange(self, replies: int = 0) -> Iterator[None]:
        """Turn every kind of trouble into ``QueueUnavailable``; close unless it is a refusal."""
        if self.broken:
            raise QueueUnavailable("beanstalkd: the connection is closed")
        try:
            self._allow(replies)
            yield
        except _REFUSALS as error:
            raise QueueUnavailable(f"beanstalkd: {type(error).__name__}") from error
        except (greenstalk.Error, OSError, AssertionError, ValueError) as error:
            self._timed_out = isinstance(error, TimeoutError)
            self.close()
            raise QueueUnavailable(f"beanstalkd: {type(error).__name__}") from error
        except BaseException:  # the thread was interrupted, perhaps in the middle of a reply
            self.close()
            raise


class Tube:
    """The consumer's side of one server: some connections. One at a time waits for jobs.

    While it waits, its lock is held, and nothing could be ended on it. So a connection waits only
    while no job is reserved on it; where all have some, one more is opened.
    """

    def __init__(self, server: str, tube: str, outage: Outage | None = None) -> None:
        self.name = self.server = server
        self.place = f"tube {tube} of {server}"
        self._tube = tube
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._outage = outage or Outage(f"beanstalkd {server}")

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        """Wait up to ``timeout`` whole seconds for a job; one thread at a time may wait.

        What is ready then comes with it, ``limit`` in all, on the same connection: it ends them.
        Raises ``QueueUnavailable``; the outage is logged once, and so is its end.
        """
        with self._outage.listen():
            return self._idle_connection().reserve(timeout, limit)

    def _idle_connection(self) -> Connection:
        with self._lock:
            self._connections = [c for c in self._connections if not c.broken]
            for connection in self._connections:
                if not connection.reserved:
                    return connection
        connection = Connection(self.server, self._tube)
        with self._lock:
            self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close every connection; the server takes back the jobs that are reserved there."""
        with self._lock:
            for connection in self._connections:
                with suppress(QueueUnavailable):
                    connection.flush()
                connection.close()
            self._connections = []


def _put_command(announcement: Announcement, ttr: int) -> bytes:
    body = announcement.email_id.binary.hex().encode()
    delay = whole_seconds(announcement.delay) if announcement.delay > 0 else 0
    return b"put %d %d %d 24\r\n%b\r\n" % (announcement.priority, delay, ttr, body)


def _end_command(job_id: int, end: End) -> bytes:
    if end.word == "delete":
        return b"delete %d\r\n" % job_id
    if end.word == "bury":
        return b"bury %d %d\r\n" % (job_id, end.priority)
    return b"release %d %d %d\r\n" % (job_id, end.priority, end.delay)
