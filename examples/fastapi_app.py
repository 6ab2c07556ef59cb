"""A FastAPI application that sends: ``uvicorn fastapi_app:app``, with ``config.json`` beside it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException

from mailqueue import AsyncProducer, InvalidEmail, StoreUnavailable

producer = AsyncProducer(os.environ.get("MAILQUEUE_CONFIG", "config.json"))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connect at the start; at the end wait for what is still being stored."""
    async with producer:
        yield


app = FastAPI(lifespan=lifespan)


@dataclass
class Signup:
    """The body of a request."""

    id: str
    email: str


@app.post("/signups", status_code=201)
async def sign_up(signup: Signup) -> dict[str, str]:
    """The answer says that the e-mail is stored; the same request again sends no second one."""
    try:
        email_id = await producer.send(
            {
                "from": "Shop <shop@example.com>",
                "to": signup.email,
                "subject": "Welcome",
                "text": "Glad to have you.",
            },
            idempotency_key=f"welcome-{signup.id}",
        )
    except InvalidEmail as error:
        raise HTTPException(422, str(error)) from None
    except StoreUnavailable:
        raise HTTPException(503, "try again", {"Retry-After": "5"}) from None
    return {"id": email_id}


@app.get("/ready")
async def ready() -> dict[str, str]:
    """For a load balancer: whether an e-mail could be stored now."""
    try:
        await producer.check_writable()
    except StoreUnavailable:
        raise HTTPException(503, "MongoDB takes no writes") from None
    return {"status": "ok"}
