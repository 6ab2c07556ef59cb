"""SAQ in the roles of ``work``: the Redis queue, uvloop, and jobs that are forgotten when done.

A worker waits in Redis (BLMOVE without a timeout), so nothing polls.

Its sweeper takes a job for stuck that was taken and is not marked active yet. Of jobs with retries
that are kept when done (``ttl``, the default), it ran a few twice in our trials (3 of 12,000, with
a sweep each second). With ``ttl=-1`` none was, but the worker may log that such a job is gone.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import orjson
import uvloop
import work
from saq import Queue, Worker

CHUNK = 500
# The default (20) would hold back a worker of 64; each operation takes a connection.
OPERATIONS = max(20, work.CONCURRENCY)


def queue() -> Queue:
    return Queue.from_url(
        work.BROKER, dump=orjson.dumps, load=orjson.loads, max_concurrent_ops=OPERATIONS
    )


async def send(_: dict[str, Any], *, mail: dict[str, Any]) -> None:
    await work.asend(mail)


# The application ---------------------------------------------------------------------------------


class Application:
    def __init__(self, jobs: Queue) -> None:
        self._jobs = jobs

    async def one(self, mail: dict[str, Any]) -> None:
        """A ``ttl`` of -1 keeps nothing of a job that is done; retries and timeout suit a mail."""
        await self._jobs.enqueue("send", mail=mail, ttl=-1, retries=5, timeout=60)

    async def many(self, mails: Sequence[dict[str, Any]]) -> None:
        """There is no call for many: concurrent ones, as its own ``map`` does."""
        await asyncio.gather(*map(self.one, mails))

    async def fill(self, count: int) -> None:
        for start in range(0, count, CHUNK):
            await self.many([work.email(n) for n in range(start, min(start + CHUNK, count))])


async def act(role: str, *arguments: str) -> None:
    jobs = queue()
    await jobs.connect()
    application = Application(jobs)
    if role == "prepare":
        await jobs.redis.flushdb()
    elif role == "enqueue":
        await work.aenqueue(application.one, int(arguments[0]), float(arguments[1]))
    elif role == "bulk":
        await work.abulk(application.many, float(arguments[0]))
    elif role == "fill":
        await application.fill(int(arguments[0]))
    elif role == "ping":
        await work.aping(application.one, int(arguments[0]), float(arguments[1]))
    await jobs.disconnect()


# The worker --------------------------------------------------------------------------------------


async def worker() -> None:
    """As ``saq settings`` runs it, on uvloop."""
    jobs = queue()
    await jobs.connect()
    try:
        await Worker(jobs, [send], concurrency=work.CONCURRENCY).start()
    finally:
        await jobs.disconnect()


def main(role: str, *arguments: str) -> None:
    uvloop.run(worker() if role == "worker" else act(role, *arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
