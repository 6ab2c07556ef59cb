"""Huey in the roles of ``work``: RedisHuey, threads that wait in Redis (BRPOP), no results.

At most once: a task is taken off Redis before it runs, so a worker that dies loses the e-mail it is
at. Its Redis storage has no other way. Its serializer is pickle; it has none for JSON.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import work
from huey import RedisHuey
from redis import ConnectionPool

CHUNK = 500
CALLERS = 64

# Each thread of a worker holds a connection while it waits, the scheduler takes one more.
pool = ConnectionPool.from_url(work.BROKER, max_connections=max(CALLERS, work.CONCURRENCY + 8))
huey = RedisHuey("mail", immediate=False, results=False, blocking=True, connection_pool=pool)


# Named, since this module is ``__main__`` in the application and in the worker.
@huey.task(name="send", retries=5, retry_delay=10)
def send(mail: dict[str, Any]) -> None:
    work.send(mail)


# The application ---------------------------------------------------------------------------------


def many(mails: Sequence[dict[str, Any]]) -> None:
    """It loops: there is no call for many."""
    send.map(mails)


def fill(count: int) -> None:
    for start in range(0, count, CHUNK):
        many([work.email(n) for n in range(start, min(start + CHUNK, count))])


# The worker --------------------------------------------------------------------------------------


def worker() -> None:
    """As ``huey_consumer`` runs it."""
    logging.getLogger("huey").setLevel(logging.ERROR)
    huey.create_consumer(workers=work.CONCURRENCY, worker_type="thread", periodic=False).run()


def main(role: str, *arguments: str) -> None:
    if role == "prepare":
        huey.storage.conn.flushdb()
    elif role == "worker":
        worker()
    elif role == "enqueue":
        work.enqueue(send, int(arguments[0]), float(arguments[1]))
    elif role == "bulk":
        work.bulk(many, float(arguments[0]))
    elif role == "fill":
        fill(int(arguments[0]))
    elif role == "ping":
        work.ping(send, int(arguments[0]), float(arguments[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
