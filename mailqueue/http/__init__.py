"""The service in Resend's wire format: ``mailqueue http``, or an ASGI application.

``application`` is the file to read: which address leads where. ``emails`` has the calls.

=================  ===============================================================================
``application``    the addresses, and the ASGI application
``calls``          one request: from its headers to its answer, and the line in the log
``emails``         the calls on ``/emails``
``wire``           Resend's JSON: what comes in as an e-mail, and how an e-mail is shown
``errors``         what goes wrong, as an answer
``auth``           who calls, and what they may do
``limits``         how much is taken on at a time
``health``         ``/healthz`` and ``/readyz``
``documents``      ``openapi.json``, and Swagger UI to read it
``server``         the process: uvicorn, and clients that are slow, many or hostile
=================  ===============================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mailqueue.errors import MissingExtra

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from mailqueue.config import Config

__all__ = ["app", "serve"]


def app(config: Config | str | Path | None = None, *, dashboard: bool = False) -> Starlette:
    """The service as an ASGI application, for a server of your own; ``dashboard``: with its pages.

    ``config``: a path, a ``Config``, or None for ``$MAILQUEUE_CONFIG`` and then ``./config.json``.
    Bounds on clients that are slow or many are the server's: ``mailqueue http`` has them.

    Raises ``ConfigError``, and ``MissingExtra`` if the extra ``http`` is not installed, or ``web``.
    """
    from mailqueue.config import Config

    _need_extra()
    from mailqueue.http.application import App

    if not isinstance(config, Config):
        config = Config.load(config, secrets=False)
    return App(config, dashboard=dashboard)


def serve(
    config: Config,
    host: str | None = None,
    port: int | None = None,
    file: Path | None = None,
    *,
    dashboard: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT, as ``mailqueue http`` does; returns the exit code.

    ``host``, ``port``: instead of those of the configuration. ``file``: where it was read from; at
    SIGHUP it is read again. ``dashboard``: with the web pages. For the main thread. Raises
    ``ConfigError`` (the port is in use, say) and ``MissingExtra``.
    """
    _need_extra()
    from mailqueue.http.server import serve as serve_until_signal

    return serve_until_signal(config, host, port, file, dashboard=dashboard)


def _need_extra() -> None:
    for package in ("starlette", "uvicorn", "httptools"):
        MissingExtra.unless("http", package, "the HTTP service needs it")
