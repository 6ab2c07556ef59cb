"""beanstalkd's protocol, served from memory: a consumer's tests need no program for the queue.

Decides: as much of the protocol as ``mailqueue.queue`` speaks. Jobs are numbered from 0, so that
the first e-mail is offered to the first vendor of the configuration.

Assumes: one test; nothing is kept when it is over.

Promises: what beanstalkd promises of priorities, delays, and jobs that are reserved.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any, Self

LINE = 1024
Words = list[bytes]


@dataclass(slots=True)
class _Job:
    id: int
    tube: bytes
    body: bytes
    priority: int
    ttr: int
    ready_at: float
    holder: object = None
    is_buried: bool = False

    def is_ready(self, now: float) -> bool:
        """Also once the time to run of whoever reserved it is over."""
        return not self.is_buried and self.ready_at <= now

    def state(self, now: float) -> str:
        if self.is_buried:
            return "buried"
        if self.is_ready(now):
            return "ready"
        return "delayed" if self.holder is None else "reserved"


@dataclass(slots=True)
class _Jobs:
    """The jobs of all tubes. ``changed`` guards them, and wakes those who wait for one."""

    numbers: Iterator[int] = field(default_factory=count)
    by_id: dict[int, _Job] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, tube: bytes, body: bytes, priority: int, delay: int, ttr: int) -> int:
        with self.changed:
            number = next(self.numbers)
            at = time.monotonic() + delay
            self.by_id[number] = _Job(number, tube, body, priority, ttr, at)
            self.changed.notify_all()
            return number

    def reserve(self, holder: object, tubes: set[bytes], seconds: float) -> _Job | None:
        """The most urgent job, of these the oldest; None: there is none within ``seconds``."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                now = time.monotonic()
                jobs = [job for job in self.by_id.values() if job.tube in tubes]
                if ready := [job for job in jobs if job.is_ready(now)]:
                    job = min(ready, key=lambda each: (each.priority, each.id))
                    job.holder, job.ready_at = holder, now + job.ttr
                    return job
                if now >= deadline:
                    return None
                times = [deadline, *(job.ready_at for job in jobs if not job.is_buried)]
                self.changed.wait(min(times) - now)

    def end(self, holder: object, number: int, change: Callable[[_Job], object]) -> bool:
        """Do what ends the job; False: it is not reserved there."""
        with self.changed:
            job = self.by_id.get(number)
            if job is None or job.holder is not holder:
                return False
            job.holder = None
            change(job)
            self.changed.notify_all()
            return True

    def give_back(self, holder: object) -> None:
        """The connection is gone."""
        with self.changed:
            for job in self.by_id.values():
                if job.holder is holder:
                    job.holder, job.ready_at = None, 0.0
            self.changed.notify_all()

    def depth(self, tube: bytes | None = None) -> Counter[str]:
        """The numbers of jobs by their states."""
        now = time.monotonic()
        with self.changed:
            jobs = self.by_id.values()
            return Counter(job.state(now) for job in jobs if tube in (None, job.tube))


class _Connection(StreamRequestHandler):
    """One client."""

    server: _Server

    def handle(self) -> None:
        self.used, self.watched = b"default", {b"default"}
        self.server.sockets.add(self.connection)
        try:
            while line := self.rfile.readline(LINE):
                name, *words = line.split()
                method = getattr(self, "do_" + name.decode().replace("-", "_"), None)
                self.wfile.write(b"UNKNOWN_COMMAND\r\n" if method is None else method(words))
        except (OSError, ValueError):  # it is closed, or does not speak the protocol
            pass
        finally:
            self.server.sockets.discard(self.connection)
            self.server.jobs.give_back(self)

    def do_use(self, words: Words) -> bytes:
        self.used = words[0]
        return b"USING %b\r\n" % self.used

    def do_watch(self, words: Words) -> bytes:
        self.watched.add(words[0])
        return b"WATCHING %d\r\n" % len(self.watched)

    def do_ignore(self, words: Words) -> bytes:
        if self.watched == {words[0]}:
            return b"NOT_IGNORED\r\n"
        self.watched.discard(words[0])
        return b"WATCHING %d\r\n" % len(self.watched)

    def do_put(self, words: Words) -> bytes:
        priority, delay, ttr, size = map(int, words)
        body = self.rfile.read(size + 2)[:-2]
        return b"INSERTED %d\r\n" % self.server.jobs.put(self.used, body, priority, delay, ttr)

    def do_reserve_with_timeout(self, words: Words) -> bytes:
        job = self.server.jobs.reserve(self, self.watched, int(words[0]))
        if job is None:
            return b"TIMED_OUT\r\n"
        return b"RESERVED %d %d\r\n%b\r\n" % (job.id, len(job.body), job.body)

    def do_delete(self, words: Words) -> bytes:
        jobs = self.server.jobs
        return self._end(words, lambda job: jobs.by_id.pop(job.id), b"DELETED\r\n")

    def do_release(self, words: Words) -> bytes:
        def release(job: _Job) -> None:
            job.priority, job.ready_at = int(words[1]), time.monotonic() + int(words[2])

        return self._end(words, release, b"RELEASED\r\n")

    def do_bury(self, words: Words) -> bytes:
        def bury(job: _Job) -> None:
            job.is_buried = True

        return self._end(words, bury, b"BURIED\r\n")

    def _end(self, words: Words, change: Callable[[_Job], object], reply: bytes) -> bytes:
        return reply if self.server.jobs.end(self, int(words[0]), change) else b"NOT_FOUND\r\n"

    def do_stats_tube(self, words: Words) -> bytes:
        return _stats(self.server.jobs.depth(words[0]))

    def do_stats(self, _: Words) -> bytes:
        return _stats(self.server.jobs.depth())


def _stats(depth: Counter[str]) -> bytes:
    states = ("ready", "reserved", "delayed", "buried")
    body = "---\n" + "".join(f"current-jobs-{state}: {depth[state]}\n" for state in states)
    return b"OK %d\r\n%b\r\n" % (len(body), body.encode())


class _Server(ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.jobs = _Jobs()
        self.sockets: set[socket.socket] = set()


class MemoryQueue:
    """A queue in the test's own process, in the place of beanstalkd.

    ``with MemoryQueue() as queue:`` put ``queue.address`` into ``beanstalkd.servers`` of the
    configuration. Other processes of this host can use it, too. All jobs are gone at the end.
    """

    def __init__(self) -> None:
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self._server = _Server()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        server, self._server = self._running, None
        server.shutdown()
        for each in list(server.sockets):
            with suppress(OSError):  # its client has closed it meanwhile
                each.shutdown(socket.SHUT_RDWR)
        server.server_close()

    @property
    def _running(self) -> _Server:
        if self._server is None:
            raise RuntimeError("the MemoryQueue is not in use: with MemoryQueue() as queue")
        return self._server

    @property
    def address(self) -> str:
        """Host and port, for ``beanstalkd.servers``."""
        host, port = self._running.server_address[:2]
        return f"{host!s}:{port}"

    def depth(self) -> dict[str, Any]:
        """The numbers of jobs by their states: ready, reserved, delayed and buried."""
        return dict(self._running.jobs.depth())
