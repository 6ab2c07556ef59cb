"""What the contenders behind FastAPI have in common: the JSON that they take, and their server."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field


class Mail(BaseModel):
    """As FastAPI's tutorial has it. Nothing is asked of an address but that it is a string."""

    from_: str = Field(alias="from")
    to: list[str]
    subject: str
    text: str | None = None
    html: str | None = None

    def to_mapping(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)


def serve(app: FastAPI, port: int) -> None:
    """One process with the faster loop and parser, and without a line for each request."""
    uvicorn.run(
        app, port=port, loop="uvloop", http="httptools", log_level="warning", access_log=False
    )
