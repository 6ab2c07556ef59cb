"""The process of ``mailqueue metrics``: an installation's metrics over HTTP.

Decides: how often MongoDB is asked, and what a scrape gets while it is away: ``mailqueue_up 0`` and
nothing else, so that no old number looks like a new one.

Assumes: the extra ``metrics``. ``MAILQUEUE_ENV`` is that of the consumers: it says which kind of
e-mails is looked at.

Promises: everything comes from MongoDB and the queue; whoever sends may die, and no file of it is
needed. However many scrape, MongoDB is read once in ``FRESH`` seconds. A scrape is answered within
``PATIENCE`` seconds and the queue's own time-out. The process starts without MongoDB, too.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import MetricsHandler
from prometheus_client.registry import Collector

from mailqueue import service
from mailqueue.config import Config, is_production
from mailqueue.config.reload import UNUSED, Source
from mailqueue.errors import StoreUnavailable
from mailqueue.logs import event, place
from mailqueue.monitoring import metrics
from mailqueue.monitoring.overview import Overview, ensure_indexes
from mailqueue.service import Service
from mailqueue.store import document
from mailqueue.store.stats import Stats
from mailqueue.store.store import Store

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 9464
FRESH = 1.0  # seconds
PATIENCE = 5.0  # seconds; Prometheus gives a scrape ten
GRACE = 2.0  # seconds, in which the indexes are made, unless there are many e-mails
TICK = 0.2
SLOW = 10.0  # seconds for a client to say what it wants
MOST = 100  # clients at a time
OTHERS = UNUSED | {"routes", "limits", "http", "smtp", "suppression", "callbacks"}


class Installation(Collector):
    """Reads the installation when it is asked. Any thread may call."""

    def __init__(self, config: Config, store: Store) -> None:
        self._config, self._store = config, store
        self._lock = threading.Lock()
        self._metrics: list[Metric] = []
        self._read_at = -FRESH

    def collect(self) -> Iterator[Metric]:
        """All metrics, at most ``FRESH`` seconds old."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH:
                self._metrics = self._read()
                self._read_at = time.monotonic()
            return iter(self._metrics)

    def _read(self) -> list[Metric]:
        try:
            with self._store.operation(seconds=PATIENCE):  # one clock for both
                totals = Stats(self._store, self._store.env).totals()
                overview = Overview.read(self._config, self._store, PATIENCE)
        except StoreUnavailable:  # said in the log when it began
            return [metrics.up(False)]
        return list(metrics.of(overview, totals))


class Handler(MetricsHandler):
    """``/metrics``, and ``/healthz``, which says that the process answers."""

    timeout = SLOW

    def do_GET(self) -> None:  # noqa: N802  # as the library names it
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            super().do_GET()
        else:
            self.send_response(200 if path == "/healthz" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()


class _Server(ThreadingHTTPServer):
    """A thread for each of ``MOST`` clients; if there are more, those that came first are cut."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, handler: type[Handler]) -> None:
        super().__init__(listener.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._lock = threading.Lock()
        self._clients: dict[Any, None] = {}  # their sockets, in the order in which they came

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let a client in."""
        with self._lock:
            self._clients[request] = None
            if len(self._clients) > MOST:
                first = next(iter(self._clients))
                del self._clients[first]
                with suppress(OSError):
                    first.shutdown(socket.SHUT_RDWR)  # so its thread ends
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """It is served."""
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # as the library has it
        """Log a bug in a line, without its text. That a client went away is none."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            facts = {"error": type(error).__name__, "at": place(error)}
            event(logger, logging.ERROR, "metrics.failed", **facts)


def serve(config: Config, host: str = HOST, port: int = PORT, file: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises ``ConfigError``.

    ``file``: where the configuration was read from; at SIGHUP it is compared with that.
    """
    frame = partial(_serve, config, host, port, file)
    return service.run("mailqueue metrics", frame)


def _start(target: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread


def _make_indexes(store: Store, frame: Service) -> None:
    """Beside the scrapes: it may take long, or MongoDB be away."""
    while not frame.is_stopping:
        try:
            ensure_indexes(store)
        except StoreUnavailable:
            time.sleep(PATIENCE)
        else:
            return


def _serve(config: Config, host: str, port: int, file: Path | None, frame: Service) -> None:
    env = document.PRODUCTION if is_production() else document.SIMULATED
    listener = service.listen(host, port)
    store = Store(config.mongodb, env=env, callbacks=config.callbacks)
    registry = CollectorRegistry()  # nothing of this process, which nobody asks about
    registry.register(Installation(config, store))
    handler = Handler.factory(registry)
    with closing(store), _Server(listener, handler) as server:
        _start(_make_indexes, store, frame).join(GRACE)  # so the first scrape has all numbers
        thread = _start(server.serve_forever, TICK)
        if file is not None:  # it takes nothing over, but says what needs a restart
            frame.reload = partial(Source(file, (), OTHERS).read, config)
        event(logger, logging.INFO, "metrics.started", mode=env)
        frame.ready(service.url("http", listener) + "/metrics")
        while not frame.is_stopping and thread.is_alive():
            frame.keep_alive()
            thread.join(TICK)
        server.shutdown()
    event(logger, logging.INFO, "metrics.stopped")
