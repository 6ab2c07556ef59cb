"""Dramatiq in the roles of ``work``: one worker process with threads, only the retries kept.

A message is acknowledged when its actor is done. On RabbitMQ each publish waits for the broker's
confirm; queues and messages are durable there by default.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import work

# On Redis nothing notifies the worker: it polls, and sleeps longer each time that it finds nothing,
# or that as much is prefetched as may be, up to the timeout. With the defaults (twice the threads;
# 1 s) a drain went at half the rate (2,050/s, not 4,200), and an idle worker takes up to a second.
# 20 ms cost 6 % of a processor when idle. A larger prefetch than this gained nothing.
AMQP = work.BROKER.startswith("amqp")
os.environ.setdefault("dramatiq_queue_prefetch", str(work.CONCURRENCY * 4))
os.environ.setdefault("dramatiq_worker_timeout", "1000" if AMQP else "20")

import dramatiq  # noqa: E402  # reads the above when it is imported
from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: E402  # the same
from dramatiq.brokers.redis import RedisBroker  # noqa: E402  # the same
from dramatiq.middleware import Retries  # noqa: E402  # the same
from redis import Redis  # noqa: E402  # the same

QUEUE = "mail"
CALLERS = 64


def make_broker() -> dramatiq.Broker:
    middleware = [Retries(max_retries=5)]
    if AMQP:
        # For pika the virtual host "/" must be escaped; with "//" it looks for one without a name.
        url = work.BROKER.removesuffix("//") + "/%2F" if work.BROKER.endswith("//") else work.BROKER
        return RabbitmqBroker(url=url, confirm_delivery=True, middleware=middleware)
    connections = max(CALLERS, work.CONCURRENCY + 8)
    client = Redis.from_url(work.BROKER, max_connections=connections)
    return RedisBroker(client=client, middleware=middleware)


broker = make_broker()
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def send(mail: dict[str, Any]) -> None:
    work.send(mail)


# The application ---------------------------------------------------------------------------------


def many(mails: Sequence[dict[str, Any]]) -> None:
    """There is no call for many; its ``group`` loops as well."""
    for mail in mails:
        send.send(mail)


def fill(count: int) -> None:
    for number in range(count):
        send.send(work.email(number))


def prepare() -> None:
    """Delete rather than flush: that takes what is not acknowledged, too."""
    if isinstance(broker, RedisBroker):
        broker.client.flushdb()
        return
    for name in (QUEUE, f"{QUEUE}.DQ", f"{QUEUE}.XQ"):
        broker.channel.queue_delete(name)
    broker.declare_queue(QUEUE, ensure=True)


# The worker --------------------------------------------------------------------------------------


def worker() -> None:
    """As ``dramatiq peer_dramatiq`` runs it; this script's folder is on the path."""
    from dramatiq import cli

    options = ["peer_dramatiq:broker", "--processes", "1", "--threads", str(work.CONCURRENCY)]
    options.append("--skip-logging")
    sys.exit(cli.main(cli.make_argument_parser().parse_args(options)))


def main(role: str, *arguments: str) -> None:
    if role == "prepare":
        prepare()
    elif role == "worker":
        worker()
    elif role == "enqueue":
        work.enqueue(send.send, int(arguments[0]), float(arguments[1]))
    elif role == "bulk":
        work.bulk(many, float(arguments[0]))
    elif role == "fill":
        fill(int(arguments[0]))
    elif role == "ping":
        work.ping(send.send, int(arguments[0]), float(arguments[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
