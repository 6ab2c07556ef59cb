"""One request: who asks, the page in a thread, the answer, and the line in the log.

Decides: which headers every answer has, and what is refused before a page is asked. A page that
changes something (POST) is for users who may act, on our own pages only.

Promises: the event loop never waits. Pages run in ``THREADS`` threads, and at most ``MAX_WAITING``
requests wait for one. The log has a line for each request, with the address's pattern: a query may
hold an address of a person. No traceback leaves an endpoint, as it might quote an e-mail.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mailqueue import logs
from mailqueue.dashboard.access import Access, is_own
from mailqueue.dashboard.backend import Backend
from mailqueue.dashboard.pages import (
    Answer,
    Fields,
    Page,
    PageRequest,
    Raw,
    Redirect,
    Refusal,
    User,
    View,
)
from mailqueue.dashboard.rendering import render
from mailqueue.errors import StoreUnavailable
from mailqueue.logs import event

THREADS = 2  # pages at a time: each takes its share of the interpreter from the API's threads
MAX_WAITING = 100  # requests that wait for a thread
MAX_FORM = 64 * 1024  # bytes of a form
MAX_FIELDS = 2000
NOBODY = User("", may_see=False)
_log = logging.getLogger(__name__)

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; frame-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Where a browser sends no Sec-Fetch-Site, our own pages are known by this.
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-robots-tag": "noindex",
}
"""Of every answer, unless a document has its own."""


class Pool:
    """The threads that all pages share. It belongs to one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "mailqueue-dashboard")
        self._waiting = 0

    async def run(self, view: View, request: PageRequest) -> Response:
        """The page's answer, as HTML. Raises ``Refusal`` if too many wait already."""
        if self._waiting >= THREADS + MAX_WAITING:
            text = "Too many pages are being looked at. Try again in a moment."
            raise Refusal(503, "Busy", text, headers=[("retry-after", "2")])
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, _respond, view, request)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Finish what is under way."""
        self._threads.shutdown()


class Endpoint:
    """An ASGI application for one address: ``views`` by method."""

    def __init__(
        self, path: str, views: Mapping[str, View], access: Access, backend: Backend, pool: Pool
    ) -> None:
        self.path, self.views = path, dict(views)
        if "GET" in self.views:
            self.views["HEAD"] = self.views["GET"]
        self._access, self._backend, self._pool = access, backend, pool

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        begin = time.monotonic()
        request = Request(scope, receive)
        response, user = await self._answer(request)
        await response(scope, receive, send)
        facts: dict[str, object] = {"method": request.method, "path": self.path}
        facts |= {"status": response.status_code, "ms": round((time.monotonic() - begin) * 1000, 1)}
        if user.name:
            facts["by"] = user.name
        event(_log, logging.INFO, "dashboard.answered", **facts)

    async def _answer(self, request: Request) -> tuple[Response, User]:
        base, user = request.scope.get("root_path", ""), NOBODY
        headers = dict(request.headers.raw)
        try:
            user = self._access.find(headers, request.scope.get("client"))
            view = self._view(request.method)
            if request.method == "POST":
                _check_may_act(user, headers)
            page_request = PageRequest(
                self._backend,
                user,
                base,
                request.path_params,
                _fields(request.scope["query_string"]),
                _fields(await _body(request)) if request.method == "POST" else Fields(),
                is_own(headers, changes=request.method == "POST"),
            )
            return await self._pool.run(view, page_request), user
        except Refusal as refusal:
            return respond(_refusal_page(refusal), base, user, refusal.headers), user
        except StoreUnavailable:
            page = _HALF_DONE if request.method == "POST" else _AWAY
            return respond(page, base, user, [("retry-after", "2")]), user
        except ClientDisconnect:
            return Response(status_code=400), user
        except Exception as error:  # noqa: BLE001  # a bug, whose traceback may quote an e-mail
            name, place = type(error).__name__, logs.place(error)
            event(_log, logging.ERROR, "dashboard.failed", path=self.path, error=name, at=place)
            return respond(_BUG, base, user), user

    def _view(self, method: str) -> View:
        if (view := self.views.get(method)) is None:
            allowed = [("allow", ", ".join(sorted(self.views)))]
            text = "This address has no such method."
            raise Refusal(405, "Not allowed", text, headers=allowed)
        return view


def _check_may_act(user: User, headers: Mapping[bytes, bytes]) -> None:
    """Raises ``Refusal`` unless this user may change something, and asked for it himself."""
    if not is_own(headers, changes=True):
        text = "The request came from another site, so nothing was changed."
        raise Refusal(403, "Not from here", text)
    if not user.may_act:
        text = "You may look at everything here, and change nothing."
        raise Refusal(403, "Read-only", text)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM:
            raise Refusal(413, "Too large", f"A form here has at most {MAX_FORM} bytes.")
    return bytes(body)


def _fields(text: bytes) -> Fields:
    try:
        return Fields(
            parse_qs(text.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        )
    except ValueError:
        raise Refusal(400, "Not understood", "The request has too many fields.") from None


# The answer ---------------------------------------------------------------------------------------

_AWAY = Page(
    "problem.html",
    "MongoDB does not answer",
    {
        "text": "Until it does, nothing can be shown or changed. What is stored stays stored.",
        "hint": "mailqueue doctor says more. If only a list fails, its filter looks at too many"
        " e-mails: narrow it, by status or by age.",
        "back": None,
    },
    status=503,
)
_HALF_DONE = Page(
    "problem.html",
    "MongoDB does not answer",
    {
        "text": "Nobody knows how much of it was done. What was changed is stored, and stays so.",
        "hint": "When it answers again, look at the list, and do the rest.",
        "back": None,
    },
    status=503,
)
_BUG = Page(
    "problem.html",
    "This page failed",
    {
        "text": "It is a bug. The log of mailqueue http has a line about it: dashboard.failed.",
        "hint": "",
        "back": None,
    },
    status=500,
)


def _refusal_page(refusal: Refusal) -> Page:
    values = {"text": refusal.text, "hint": "", "back": refusal.back}
    return Page("problem.html", refusal.title, values, status=refusal.status)


def _respond(view: View, request: PageRequest) -> Response:
    """Have the page made, and rendered; in a thread."""
    return respond(view(request), request.base, request.user)


def respond(
    answer: Answer, base: str, user: User, headers: Sequence[tuple[str, str]] = ()
) -> Response:
    """The answer with all its headers."""
    extra = dict(headers)
    if isinstance(answer, Raw):
        return Response(
            answer.body, 200, {**HEADERS, **answer.headers, **extra}, answer.content_type
        )
    if isinstance(answer, Redirect):
        place = {"location": f"{base}{answer.place}"}
        return Response(b"", 303, {**HEADERS, **place, **extra})
    frame = {"title": answer.title, "section": answer.section, "base": base, "user": user}
    body = render(answer.template, frame | dict(answer.values))
    return Response(body, answer.status, {**HEADERS, **extra}, "text/html; charset=utf-8")
