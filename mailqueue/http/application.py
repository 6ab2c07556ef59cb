"""The service as an ASGI application: its addresses, and what stands behind them.

Decides: which address leads where. ``POST /emails``, the call that everything is measured by, goes
around Starlette's router and middleware; all else goes through them.

Promises: making one connects to nothing. It may run under any ASGI server, or as a part of another
application, mounted under a path.
"""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from mailqueue.aio import AsyncProducer
from mailqueue.config import Config
from mailqueue.http import documents
from mailqueue.http.auth import Callers
from mailqueue.http.calls import Call, Endpoint, Handler, Send
from mailqueue.http.emails import Emails
from mailqueue.http.errors import not_found
from mailqueue.http.events import Events
from mailqueue.http.health import Health
from mailqueue.http.limits import Limits, Receive, longest_body

if TYPE_CHECKING:
    from mailqueue.dashboard.application import Dashboard

DASHBOARD = "/dashboard"


class App(Starlette):
    """The service. ``producer``: through which it stores e-mails.

    ``dashboard``: with the web pages, under ``/dashboard``. Raises ``MissingExtra``.
    """

    def __init__(self, config: Config, *, dashboard: bool = False) -> None:
        self.config = config
        self.producer = AsyncProducer(config)
        limits = Limits(
            longest_body(config.limits.max_size), config.http.max_memory, config.http.requests
        )
        self._callers = Callers(config.http.keys)
        self.events = Events(config, limits)
        routes = [
            Endpoint(path, handlers, self._callers, limits)
            for path, handlers in _table(self.producer, self.events, limits).items()
        ]
        self.send_email = routes[0]
        self.dashboard = _dashboard(config) if dashboard else None
        to_it = [Route(path, _to_dashboard) for path in ("/", DASHBOARD)]
        pages = [Mount(DASHBOARD, self.dashboard), *to_it] if dashboard else []
        super().__init__(
            routes=[*(Route(each.path, each) for each in routes), *pages],
            exception_handlers={HTTPException: _nothing_there},
            lifespan=_lifespan,
        )
        self.router.redirect_slashes = False

    def reload(self, config: Config) -> None:
        """Other keys, vendors and the like from the next request on.

        Raises ``ConfigError`` and ``MissingExtra``; then nothing is changed.
        """
        self.events.reload(config)
        if self.dashboard is not None:
            self.dashboard.reload(config)
        self._callers.replace(config.http.keys)
        self.producer.reload(config)
        self.config = config

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] == "/emails" and not scope.get("root_path"):
            await self.send_email(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


Handlers = Mapping[str, tuple[Handler, str | None]]


def _table(producer: AsyncProducer, events: Events, limits: Limits) -> Mapping[str, Handlers]:
    """Every address, with its methods, and the scope that each needs."""
    emails, health = Emails(producer, events, limits), Health(producer)
    return {
        "/emails": {"POST": (emails.send, "send"), "GET": (emails.page, "read")},
        "/emails/batch": {"POST": (emails.send_batch, "send")},
        "/emails/{id}": {"GET": (emails.show, "read"), "PATCH": (emails.reschedule, "operate")},
        "/emails/{id}/cancel": {"POST": (emails.cancel, "operate")},
        "/events/{vendor}": dict.fromkeys(
            ("POST", "GET", "HEAD", "OPTIONS"), (events.receive, None)
        ),
        "/healthz": {"GET": (health.live, None)},
        "/readyz": {"GET": (health.ready, None)},
        "/openapi.json": {"GET": (documents.openapi, None)},
        "/docs": {"GET": (documents.page, None)},
        "/docs/{name}": {"GET": (documents.asset, None)},
    }


def _dashboard(config: Config) -> Dashboard:
    from mailqueue.dashboard import make  # what is not asked for is not imported

    return make(config)


async def _to_dashboard(request: Request) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}{DASHBOARD}/", 307)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    if isinstance(app, App):
        await app.producer.aclose()
        await to_thread(app.events.close)
        if app.dashboard is not None:
            await to_thread(app.dashboard.close)


async def _nothing_there(request: Request, _: Exception) -> Response:
    """An address that the table does not have."""
    call = Call(request.scope, request.receive)
    reply = call.answer(not_found("There is nothing at this address."))
    headers = {"x-request-id": call.request_id.decode()}
    return Response(reply.body, reply.status, headers, reply.content_type.decode())
