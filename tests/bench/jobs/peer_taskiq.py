"""taskiq in the roles of ``work``, with taskiq-redis's stream broker and no result backend.

A message of the stream broker is acknowledged when its task is done. taskiq-redis's list broker
loses what a killed worker had taken, and was no faster here. ``max_prefetch`` and ``no_parse`` made
no difference, so they are left alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop
import work
from redis.asyncio import Redis
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

CHUNK = 500


# From the stream's beginning: what was enqueued before the first worker counts as well. The stream
# is never trimmed: ``maxlen`` would also drop what was not sent yet.
broker = RedisStreamBroker(work.BROKER, consumer_id="0").with_serializer(ORJSONSerializer())


@broker.task(task_name="send")
async def send(mail: dict[str, Any]) -> None:
    await work.asend(mail)


# The application ---------------------------------------------------------------------------------


async def one(mail: dict[str, Any]) -> None:
    await send.kiq(mail)


async def many(mails: Sequence[dict[str, Any]]) -> None:
    """There is no call for many: concurrent ones."""
    await asyncio.gather(*map(one, mails))


async def fill(count: int) -> None:
    for start in range(0, count, CHUNK):
        await many([work.email(n) for n in range(start, min(start + CHUNK, count))])


async def act(role: str, *arguments: str) -> None:
    if role == "prepare":
        async with Redis.from_url(work.BROKER) as redis:
            await redis.flushdb()
    await broker.startup()
    if role == "enqueue":
        await work.aenqueue(one, int(arguments[0]), float(arguments[1]))
    elif role == "bulk":
        await work.abulk(many, float(arguments[0]))
    elif role == "fill":
        await fill(int(arguments[0]))
    elif role == "ping":
        await work.aping(one, int(arguments[0]), float(arguments[1]))
    await broker.shutdown()


# The worker --------------------------------------------------------------------------------------


def worker() -> None:
    """taskiq's command; it uses uvloop where that is installed."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    command = ["-m", "taskiq", "worker", "peer_taskiq:broker", "--workers", "1"]
    command += ["--max-async-tasks", str(work.CONCURRENCY), "--log-level", "WARNING"]
    os.execv(sys.executable, [sys.executable, *command])


def main(role: str, *arguments: str) -> None:
    if role == "worker":
        worker()
    else:
        uvloop.run(act(role, *arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
