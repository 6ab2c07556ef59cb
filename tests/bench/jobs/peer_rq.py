"""RQ in the roles of ``work``: a ``SimpleWorker``, JSON, and jobs that are forgotten when done.

A worker does one job at a time, whatever ``BENCH_CONCURRENCY`` says, in its own process, with some
25 round trips to Redis for each. (The default one forks for each: 75 jobs/s, where this did 250.)
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import work
from redis import Redis
from rq import Queue, Retry, SimpleWorker
from rq.serializers import JSONSerializer

CHUNK = 500
CALLERS = 64
# By name: in the application this module is ``__main__``. A description, else RQ keeps the whole
# call a second time.
FUNCTION = "peer_rq.send"
OPTIONS: dict[str, Any] = {"result_ttl": 0, "description": "mail"}

queue = Queue(
    "mail",
    connection=Redis.from_url(work.BROKER, max_connections=CALLERS),
    serializer=JSONSerializer,
    default_timeout=60,
)


def send(mail: dict[str, Any]) -> None:
    work.send(mail)


# The application ---------------------------------------------------------------------------------


def one(mail: dict[str, Any]) -> None:
    queue.enqueue_call(FUNCTION, (mail,), retry=Retry(max=5), **OPTIONS)


def many(mails: Sequence[dict[str, Any]]) -> None:
    """In one pipeline."""
    queue.enqueue_many(
        [Queue.prepare_data(FUNCTION, (mail,), retry=Retry(max=5), **OPTIONS) for mail in mails]
    )


def fill(count: int) -> None:
    for start in range(0, count, CHUNK):
        many([work.email(n) for n in range(start, min(start + CHUNK, count))])


# The worker --------------------------------------------------------------------------------------


def worker() -> None:
    one_at_a_time = SimpleWorker(
        [queue],
        connection=queue.connection,
        serializer=JSONSerializer,
        log_job_description=False,
    )
    one_at_a_time.log_result_lifespan = False
    one_at_a_time.work(burst=False, logging_level="ERROR")


def main(role: str, *arguments: str) -> None:
    logging.getLogger("rq").setLevel(logging.ERROR)
    if role == "prepare":
        queue.connection.flushdb()
    elif role == "worker":
        worker()
    elif role == "enqueue":
        work.enqueue(one, int(arguments[0]), float(arguments[1]))
    elif role == "bulk":
        work.bulk(many, float(arguments[0]))
    elif role == "fill":
        fill(int(arguments[0]))
    elif role == "ping":
        work.ping(one, int(arguments[0]), float(arguments[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
