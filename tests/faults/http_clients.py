"""Clients of the HTTP service, as many as one process can hold: whole ones, and bad ones.

Decides: what a client says and when it stops. A client here is a coroutine on a bare connection, so
that requests can be left half said, and that thousands of them cost little.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tests.stage import letter

HOST = "127.0.0.1"
PATIENCE = 60.0  # seconds until a test gives up


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Client:
    """One connection to the service at ``port``."""

    port: int
    reader: asyncio.StreamReader = field(init=False)
    writer: asyncio.StreamWriter = field(init=False)

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answer:
        """Raises ``ConnectionError`` if the service goes away before it has answered."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("in the middle of an answer") from error
        return Answer(int(first.split()[1]), headers, body)

    async def ask(self, request: bytes) -> Answer:
        await self.say(request)
        return await asyncio.wait_for(self.answer(), PATIENCE)


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


def post(number: int, key: str | None = None) -> bytes:
    """A request to send the e-mail of this number."""
    body = json.dumps(letter(number)).encode()
    return head(len(body), key) + body


def post_batch(numbers: Iterable[int], key: str) -> bytes:
    """A request to send the e-mails of these numbers."""
    body = json.dumps([letter(number) for number in numbers]).encode()
    return head(len(body), key, "/emails/batch") + body


def head(length: int | None, key: str | None = None, path: str = "/emails") -> bytes:
    """The first part of a POST whose body has so many bytes; None: it comes in chunks."""
    size = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json", size]
    lines += [f"Idempotency-Key: {key}"] if key is not None else []
    return "\r\n".join([*lines, "", ""]).encode()


async def ask(port: int, request: bytes) -> Answer:
    """The answer to one request on a connection of its own."""
    async with Client(port) as client:
        return await client.ask(request)


async def send(port: int, number: int, key: str | None = None) -> Answer | None:
    """The answer to the e-mail of this number; None: the service went away, who knows when."""
    try:
        return await ask(port, post(number, key))
    except ConnectionError:
        return None
