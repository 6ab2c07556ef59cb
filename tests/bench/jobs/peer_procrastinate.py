"""procrastinate in the roles of ``work``: psycopg's asynchronous pool, LISTEN/NOTIFY, uvloop.

Jobs that succeeded are deleted. A worker fetches one job at a time, each in a transaction.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import uvloop
import work
from procrastinate import App, PsycopgConnector

CHUNK = 500
# A connection is held for a fetch or for a result, not for the time of the job. More did not help.
POOL = 10
# It warns of an App in the main module, whose tasks a worker may know by other names; ours has one.
logging.getLogger("procrastinate").setLevel(logging.ERROR)
app = App(connector=PsycopgConnector(conninfo=work.BROKER, min_size=POOL, max_size=POOL))


@app.task(name="send")
async def send(mail: dict[str, Any]) -> None:
    await work.asend(mail)


# The application ---------------------------------------------------------------------------------


async def one(mail: dict[str, Any]) -> None:
    await send.defer_async(mail=mail)


async def many(mails: list[dict[str, Any]]) -> None:
    await send.batch_defer_async(*({"mail": mail} for mail in mails))


async def fill(count: int) -> None:
    for start in range(0, count, CHUNK):
        await many([work.email(n) for n in range(start, min(start + CHUNK, count))])


async def prepare() -> None:
    if not await app.check_connection_async():  # that is: whether its tables are there
        await app.schema_manager.apply_schema_async()
    tables = "procrastinate_events, procrastinate_jobs, procrastinate_workers"
    await app.connector.execute_query_async(f"TRUNCATE {tables} CASCADE")


async def act(role: str, *arguments: str) -> None:
    async with app.open_async():
        if role == "prepare":
            await prepare()
        elif role == "worker":
            await worker()
        elif role == "enqueue":
            await work.aenqueue(one, int(arguments[0]), float(arguments[1]))
        elif role == "bulk":
            await work.abulk(many, float(arguments[0]))
        elif role == "fill":
            await fill(int(arguments[0]))
        elif role == "ping":
            await work.aping(one, int(arguments[0]), float(arguments[1]))


# The worker --------------------------------------------------------------------------------------


async def worker() -> None:
    await app.run_worker_async(
        concurrency=work.CONCURRENCY, listen_notify=True, delete_jobs="successful"
    )


def main(role: str, *arguments: str) -> None:
    uvloop.run(act(role, *arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
