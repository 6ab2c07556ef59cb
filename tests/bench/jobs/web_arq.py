"""FastAPI that enqueues to arq: roles ``prepare``, ``serve PORT`` and ``stored`` of ``work``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import peer_arq
import web
import work
from arq import create_pool
from arq.constants import default_queue_name
from fastapi import FastAPI, Request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.pool = await create_pool(peer_arq.SETTINGS)
    yield
    await app.state.pool.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/emails", status_code=201)
async def send(mail: web.Mail, request: Request) -> dict[str, str]:
    job = await request.app.state.pool.enqueue_job("send", mail.to_mapping())
    return {"id": job.job_id}


async def stored() -> None:
    pool = await create_pool(peer_arq.SETTINGS)
    work.tell(count=await pool.zcard(default_queue_name))
    await pool.aclose()


def main(role: str, *arguments: str) -> None:
    if role == "serve":
        web.serve(app, int(arguments[0]))
    elif role == "stored":
        asyncio.run(stored())
    else:
        peer_arq.main(role, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
