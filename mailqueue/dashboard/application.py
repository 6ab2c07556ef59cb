"""The dashboard as an ASGI application: its addresses, and the page behind each.

Decides: which address leads where. A page behind GET is for everybody who may see, one behind POST
changes something, and is for those who may act.

Promises: making one connects to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mailqueue.config import Config
from mailqueue.dashboard import actions, emails, overview, story, vendors
from mailqueue.dashboard.access import Access
from mailqueue.dashboard.backend import Backend
from mailqueue.dashboard.endpoint import HEADERS, Endpoint, Pool
from mailqueue.dashboard.pages import Page, PageRequest, View, not_found
from mailqueue.dashboard.rendering import style

Views = Mapping[str, View]
_STYLE_FOR = "private, max-age=31536000, immutable"  # its address changes with it

TABLE: Mapping[str, Views] = {
    "/": {"GET": overview.page},
    "/emails": {"GET": emails.page},
    "/emails/{id}": {"GET": story.page},
    "/emails/{id}/content": {"GET": story.content},
    "/emails/{id}/html": {"GET": story.html},
    "/failed": {"GET": emails.failed},
    "/uncertain": {"GET": emails.uncertain},
    "/confirm": {"GET": actions.confirm},
    "/act": {"POST": actions.act},
    "/result": {"GET": actions.result},
    "/vendors": {"GET": vendors.page},
    "/vendors/{action}": {"GET": vendors.confirm, "POST": vendors.act},
}
"""Every address with its pages, by method."""


class Dashboard(Starlette):
    """The pages. ``http`` mounts them; who is let in is decided here."""

    def __init__(self, config: Config) -> None:
        self._access, self._backend, self._pool = Access(config), Backend(config), Pool()
        shared = self._access, self._backend, self._pool
        endpoints = [Endpoint(path, views, *shared) for path, views in TABLE.items()]
        nothing = Endpoint("/{path}", {"GET": _nothing_there, "POST": _nothing_there}, *shared)
        super().__init__(
            routes=[
                Route("/style.css", _style),
                *(Route(each.path, each) for each in endpoints),
                Route("/{path:path}", nothing),
            ]
        )
        self.router.redirect_slashes = False

    def reload(self, config: Config) -> None:
        """Other keys and vendors from the next request on."""
        self._access.replace(config)
        self._backend.config = config

    def close(self) -> None:
        """Finish what is under way, and close the connections."""
        self._pool.close()
        self._backend.close()


async def _style(_: Request) -> Response:
    """It is no secret, and the page that asks who you are needs it."""
    return Response(style(), 200, {**HEADERS, "cache-control": _STYLE_FOR}, "text/css")


def _nothing_there(_: PageRequest) -> Page:
    raise not_found()
