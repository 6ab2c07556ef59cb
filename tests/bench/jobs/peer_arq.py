"""arq in the roles of ``work``: its own pool of connections, uvloop, and a worker that polls often.

arq's worker looks for jobs every ``poll_delay``; once ``max_jobs`` are under way it waits for the
next look, so its default of 0.5 s would cost it most of its rate. No result is kept.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import uvloop
import work
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

SETTINGS = RedisSettings.from_dsn(work.BROKER)
POLL_DELAY = 0.005
CHUNK = 500
AT_A_TIME = 50


async def send(_: dict[Any, Any], mail: dict[str, Any]) -> None:
    await work.asend(mail)


# The application ---------------------------------------------------------------------------------


class Application:
    def __init__(self, pool: ArqRedis) -> None:
        self._pool = pool

    async def one(self, mail: dict[str, Any]) -> None:
        await self._pool.enqueue_job("send", mail)

    async def many(self, mails: Sequence[dict[str, Any]]) -> None:
        """There is no call for many: concurrent ones. Each takes a connection; more are slower."""
        for start in range(0, len(mails), AT_A_TIME):
            await asyncio.gather(*map(self.one, mails[start : start + AT_A_TIME]))

    async def fill(self, count: int) -> None:
        for start in range(0, count, CHUNK):
            await self.many([work.email(n) for n in range(start, min(start + CHUNK, count))])


async def act(role: str, *arguments: str) -> None:
    pool = await create_pool(SETTINGS)
    application = Application(pool)
    if role == "prepare":
        await pool.flushdb()
    elif role == "enqueue":
        await work.aenqueue(application.one, int(arguments[0]), float(arguments[1]))
    elif role == "bulk":
        await work.abulk(application.many, float(arguments[0]))
    elif role == "fill":
        await application.fill(int(arguments[0]))
    elif role == "ping":
        await work.aping(application.one, int(arguments[0]), float(arguments[1]))
    await pool.aclose()


# The worker --------------------------------------------------------------------------------------


def worker() -> None:
    asyncio.set_event_loop(uvloop.new_event_loop())
    Worker(
        [send],
        redis_settings=SETTINGS,
        max_jobs=work.CONCURRENCY,
        keep_result=0,
        poll_delay=POLL_DELAY,
    ).run()


def main(role: str, *arguments: str) -> None:
    if role == "worker":
        worker()
    else:
        uvloop.run(act(role, *arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
