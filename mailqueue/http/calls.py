"""One request: from its headers to its answer, and the line in the log.

Decides: what is done in which order. The method, a place among the requests under way, who calls,
then the call itself. Whatever goes wrong becomes an answer.

Promises: every answer has an ``X-Request-Id``, the caller's own if it is a plain word. The log has
one line for each request, with the e-mail's id; no address, body or key. No exception leaves an
endpoint, whose traceback might quote an e-mail.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any

from mailqueue import logs
from mailqueue.errors import InvalidEmail, StoreUnavailable
from mailqueue.http.auth import Callers, check_scope
from mailqueue.http.errors import Problem, invalid, unavailable
from mailqueue.http.limits import SMALL, Body, Disconnected, Limits, Receive
from mailqueue.logs import event
from mailqueue.service.keys import ApiKey

Headers = Sequence[tuple[bytes, bytes]]
Send = Callable[[Any], Awaitable[None]]

_JSON = b"application/json"
_PROBLEM = b"application/problem+json"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reply:
    """An answer. ``id``, ``emails``: of the e-mail, or how many they are; for the log."""

    status: int
    body: bytes = field(repr=False)
    content_type: bytes = _JSON
    headers: Headers = ()
    id: str | None = None
    emails: int | None = None

    def head(self, call: Call) -> Headers:
        """All headers of the answer to this request."""
        return [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            (b"x-request-id", call.request_id),
            *self.headers,
        ]


class Call:
    """A request. ``key``: the caller's, once it is known."""

    __slots__ = (
        *("begin", "body", "caller_request_id", "headers", "key"),
        *("receive", "request_id", "scope"),
    )
    key: ApiKey

    def __init__(self, scope: Mapping[str, Any], receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.body: bytes | None = None  # where all of it is there before the call
        self.begin = time.monotonic()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        own = self.headers.get(b"x-request-id", b"")
        is_plain = own and _REQUEST_ID.fullmatch(own)
        self.caller_request_id = own.decode() if is_plain else None  # stored with the e-mail
        self.request_id = own if is_plain else b"%016x" % getrandbits(64)

    @property
    def length(self) -> int | None:
        """The body's ``Content-Length``; None: it comes in chunks, or there is none."""
        length = self.headers.get(b"content-length", b"")
        return int(length) if length.isdigit() else None

    @property
    def content_type(self) -> bytes:
        """The body's type, without its parameters, in lower case."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    async def read(self, room: Body) -> bytes:
        """The whole body. Raises ``Problem`` and ``Disconnected``."""
        return await room.read(self.receive) if self.body is None else self.body

    def answer(self, problem: Problem) -> Reply:
        """The problem as an answer."""
        is_asked_for = _PROBLEM in self.headers.get(b"accept", b"")
        kind = _PROBLEM if is_asked_for else _JSON
        return Reply(problem.status, problem.body(), kind, problem.headers)


def _facts(call: Call, path: str, reply: Reply) -> dict[str, object]:
    """What the log says of a request."""
    facts: dict[str, object] = {
        "method": call.scope["method"],
        "path": path,
        "status": reply.status,
        "ms": round((time.monotonic() - call.begin) * 1000, 1),
    }
    if reply.id is not None:
        facts["id"] = reply.id
    if reply.emails is not None:
        facts["emails"] = reply.emails
    if (key := getattr(call, "key", None)) is not None and key.name:
        facts["key"] = key.name
    facts["request_id"] = call.request_id.decode()
    return facts


Handler = Callable[[Call], Awaitable[Reply]]


class Endpoint:
    """An ASGI application for one address.

    ``handlers`` by method, each with the scope that it needs (None: it is for everybody).
    """

    def __init__(
        self,
        path: str,
        handlers: Mapping[str, tuple[Handler, str | None]],
        callers: Callers,
        limits: Limits,
    ) -> None:
        self.path, self.handlers = path, dict(handlers)
        if "GET" in self.handlers:
            self.handlers.setdefault("HEAD", self.handlers["GET"])
        self._callers, self._limits = callers, limits

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        call = Call(scope, receive)
        try:
            reply = await self.answer(call)
        except Disconnected:
            return
        if len(reply.body) > SMALL:
            reply = await self._send_large(reply, call, send)
        else:
            await _send_head(reply, call, send)
            await send({"type": "http.response.body", "body": reply.body})
        self.note(call, reply)

    async def answer(self, call: Call) -> Reply:
        """What the request is answered. Raises ``Disconnected``, and nothing else."""
        try:
            return await self._serve(call)
        except Problem as problem:
            return call.answer(problem)
        except InvalidEmail as error:
            return call.answer(invalid(error))
        except StoreUnavailable as error:
            return call.answer(unavailable(error))
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001  # a bug, whose traceback may quote an e-mail
            name, place = type(error).__name__, logs.place(error)
            event(_log, logging.ERROR, "request.failed", path=self.path, error=name, at=place)
            bug = Problem(500, "application_error", "The service failed. It is a bug.")
            return call.answer(bug)

    def note(self, call: Call, reply: Reply) -> None:
        """Have the log say how the request was answered."""
        if _log.isEnabledFor(logging.INFO):
            event(_log, logging.INFO, "request.answered", **_facts(call, self.path, reply))

    async def _serve(self, call: Call) -> Reply:
        handler, scope = self.handlers.get(call.scope["method"], (None, None))
        if handler is None:
            allowed = ", ".join(sorted(self.handlers)).encode()
            message = "This address has no such method."
            raise Problem(405, "method_not_allowed", message, headers=[(b"allow", allowed)])
        if scope is None:
            return await handler(call)
        with self._limits:
            call.key = self._callers.find(call.headers, call.scope.get("client"))
            check_scope(call.key, scope)
            return await handler(call)

    async def _send_large(self, reply: Reply, call: Call, send: Send) -> Reply:
        """Send it piece by piece, as its client reads; returns what was answered."""
        try:
            room = self._limits.answer(len(reply.body))
        except Problem as busy:
            reply = call.answer(busy)
            await _send_head(reply, call, send)
            await send({"type": "http.response.body", "body": reply.body})
            return reply
        with room:
            await _send_head(reply, call, send)
            for start in range(0, len(reply.body), SMALL):
                part, is_last = reply.body[start : start + SMALL], start + SMALL >= len(reply.body)
                await send({"type": "http.response.body", "body": part, "more_body": not is_last})
        return reply


async def _send_head(reply: Reply, call: Call, send: Send) -> None:
    headers = reply.head(call)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
