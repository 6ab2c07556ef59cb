"""Celery in the roles of ``work``: acknowledged when done, no results, no events, no gossip.

On RabbitMQ each publish waits for the broker's confirm, and messages are persistent in a durable
queue. On Redis a task that was taken is kept until its acknowledgement (visibility timeout).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import work
from celery import Celery

CHUNK = 500
QUEUE = "mail"
CALLERS = 64
# The faster pool of one worker, in e-mails a second as measured with two processors. Prefork starts
# as many processes as it sends at a time, so it uses both; 64 need seconds to start.
#                    Redis: threads  prefork    RabbitMQ: threads  prefork
#   posts, 0 ms, x8         530-560  660-890             740-850     1,130
#   posts, 50 ms, x32           460      550                 600       460
#   posts, 50 ms, x64           500      430                 740       660
#   no posts, x8              1,100    1,050               3,100     3,200
POOL = "prefork" if work.CONCURRENCY <= 8 else "threads"
# The default. 16 gained 4 % with one worker of threads, and would keep more from the others.
PREFETCH = 4


def transport_options() -> dict[str, Any]:
    if work.BROKER.startswith("amqp"):
        return {"confirm_publish": True}
    return {"max_connections": max(CALLERS, work.CONCURRENCY + 8)}


app = Celery("bench", broker=work.BROKER)
app.conf.update(
    broker_transport_options=transport_options(),
    broker_pool_limit=CALLERS,
    broker_connection_retry_on_startup=True,
    # An idle worker sees a SIGTERM only when one of its timers wakes it: on RabbitMQ this one, with
    # the default (60 s) after up to 10 s; now after 2 s.
    broker_heartbeat=20,
    broker_heartbeat_checkrate=10,
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_default_queue=QUEUE,
    task_default_delivery_mode="persistent",
    worker_prefetch_multiplier=PREFETCH,
    worker_enable_remote_control=False,
    worker_disable_rate_limits=True,
)


# Named, since this module is ``__main__`` in the application and in the worker.
@app.task(name="send", autoretry_for=(Exception,), max_retries=5, retry_backoff=True)
def send(mail: dict[str, Any]) -> None:
    work.send(mail)


# The application ---------------------------------------------------------------------------------


def one(mail: dict[str, Any]) -> None:
    send.apply_async((mail,))


def many(mails: Sequence[dict[str, Any]]) -> None:
    """There is no call for many: the manual has one producer kept for all of them."""
    with app.producer_pool.acquire(block=True) as producer:
        for mail in mails:
            send.apply_async((mail,), producer=producer)


def fill(count: int) -> None:
    for start in range(0, count, CHUNK):
        many([work.email(n) for n in range(start, min(start + CHUNK, count))])


def prepare() -> None:
    """Delete rather than purge: that takes what is not acknowledged, too."""
    with app.connection_for_write() as connection, connection.channel() as channel:
        if work.BROKER.startswith("amqp"):
            channel.queue_delete(QUEUE)
        else:
            channel.client.flushdb()
        app.amqp.queues[QUEUE](channel).declare()


# The worker --------------------------------------------------------------------------------------


def worker() -> None:
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR")
    pool = ("--pool", POOL, "--concurrency", str(work.CONCURRENCY))
    app.worker_main(["--quiet", "worker", *pool, *quiet, "--hostname", f"bench-{os.getpid()}@%h"])


def main(role: str, *arguments: str) -> None:
    if role == "prepare":
        prepare()
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
