"""The process of ``mailqueue http``: uvicorn, for clients that may be slow, many or hostile.

Decides: how long a client may keep us waiting, how long a request's head may be, and who goes when
there are more connections than ``http.connections``: those that have waited longest without a
request, else those whose requests have been coming longest.

Promises: nobody holds a connection for ever, and those who do not dawdle are served. A request that
is complete is never cut off, except of a client that sends more than ``MOST_AHEAD`` others before
it has the answer; of those that are not complete nothing was promised.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from math import inf
from typing import TYPE_CHECKING, Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from mailqueue.config import is_production
from mailqueue.config.reload import STORING, UNUSED, Source
from mailqueue.errors import ConfigError
from mailqueue.http.application import App
from mailqueue.http.calls import Call, Endpoint
from mailqueue.http.errors import Problem
from mailqueue.http.limits import SMALL
from mailqueue.logs import event
from mailqueue.service import Service, is_loopback, listen, room_for, run_async, url
from mailqueue.service.memory import collect_seldom, return_freed_blocks

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from mailqueue.config import Config

SLOWEST = 16 * 1024  # bytes per second
MAX_HEAD = 64 * 1024  # bytes of a request's line and headers
MOST_AHEAD = 16  # requests that a client may send before the answer to an earlier one
# What a reload takes over (the last three are what the dashboard explains e-mails by), and what is
# not for this service.
LIVE = {*STORING, "http.keys", "http.dashboard", "retry", "delivery", "staging"}
# An event is kept for so long, and may tell that an e-mail was sent, which then has no content.
OTHERS = {*UNUSED, "smtp"} - {"retention.sent_days", "retention.content"}
KEEP_ALIVE = 75  # seconds that a connection may wait for its next request

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Clients:
    """The connections of all clients. It belongs to one event loop.

    ``most``: connections. ``timeout``: seconds to send a request or to read an answer; a second
    more for each ``SLOWEST`` bytes of it.
    """

    most: int
    timeout: float
    connections: set[Connection] = field(default_factory=set)
    _cut: dict[str, int] = field(default_factory=dict)

    def add(self, new: Connection) -> None:
        """Let a client in; if there is no room, others go."""
        self.connections.add(new)
        if len(self.connections) > self.most:
            waiting = [each for each in self.connections if each.deadline < inf and each is not new]
            # Some at once: to look through them all for each newcomer would hold up everybody.
            number = max(1, self.most // 64)
            oldest = nsmallest(number, waiting, key=lambda each: (each.is_reading, each.since))
            for each in oldest or [new]:
                self._end(each, "crowded", None)

    async def watch(self) -> None:
        """Cut those who are late, for ever."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for each in [each for each in self.connections if each.is_late(now)]:
                late = Problem(408, "request_timeout", "The request came too slowly.")
                self._end(each, "slow", late)
            if self._cut:  # one line, however many they are
                event(_log, logging.INFO, "clients.cut", **self._cut)
                self._cut.clear()

    def _end(self, connection: Connection, why: str, problem: Problem | None) -> None:
        self._cut[why] = self._cut.get(why, 0) + 1
        self.connections.discard(connection)
        connection.cut(problem)


class Connection(HttpToolsProtocol):
    """One client's connection. It has a deadline while it waits for its client."""

    clients: Clients  # of the class that ``_uvicorn`` makes, as is this:
    send_email: Endpoint

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(transport)
        self.is_reading, self._in_head, self._octets, self._beside = False, True, 0, 0
        self._incomplete: Call | None = None  # the call whose body is still coming
        self._expect()
        self.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.clients.connections.discard(self)
        super().connection_lost(exc)

    def is_late(self, now: float) -> bool:
        """Whether the client has had all the time that it may take."""
        return now > self.deadline + self._octets / SLOWEST

    def _expect(self, octets: int = 0) -> None:
        """Set the deadline (``inf``: none), by what the connection waits for."""
        if self.flow.write_paused or self.is_reading or self.cycle is None:
            seconds = self.clients.timeout
        elif self.cycle.response_complete:
            seconds = KEEP_ALIVE
        else:  # it waits for us
            seconds = inf
        self.since = time.monotonic()
        self.deadline = self.since + seconds
        self._octets = octets

    def data_received(self, data: bytes) -> None:
        """The client sends."""
        # The rest of a request that was answered already earns it no time.
        if self._in_head or not self.cycle.response_complete:
            self._octets += len(data)
        self._beside += len(data)
        self._parse(data)
        self._leave_to_asgi()
        if self.is_reading and (self._octets if self._in_head else self._beside) > MAX_HEAD:
            self.cut(Problem(431, "request_too_large", "The headers are too long."))

    def _parse(self, data: bytes) -> None:
        """Have the parser read it, as uvicorn does, except for a request that asks for an upgrade.

        Java's client asks for h2c with each first request. A server may ignore that (RFC 9110,
        7.8), but the parser takes what follows for another protocol. So it reads the request again
        without the header that asks.
        """
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            head = b"".join(b"%b: %b\r\n" % h for h in self.headers if h[0] != b"upgrade")
            line = b"%b %b HTTP/%b\r\n" % (
                self.parser.get_method(),
                self.url,
                self.parser.get_http_version().encode(),
            )
            self.parser = httptools.HttpRequestParser(self)
            self._parse(line + head + b"\r\n" + data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    @property
    def _asks_for_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade())

    def on_message_begin(self) -> None:
        """A request begins."""
        self.is_reading = self._in_head = True
        self._expect(self._octets)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """What follows is the body."""
        if len(self.pipeline) >= MOST_AHEAD:  # one read may hold thousands
            raise ValueError("too many requests ahead of their answers")
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")
        if self._asks_for_upgrade:
            return
        self._in_head = False
        super().on_headers_complete()
        # Fields after a body in chunks are no headers (RFC 9110, 6.5.1): nobody sees them here.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """A part of the body. What else comes after the head (chunks' sizes, trailers) is short."""
        self._beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        if self._asks_for_upgrade:
            return
        self.is_reading, self._in_head = False, True
        super().on_message_complete()
        self._expect()
        if self._incomplete is not None:
            call, self._incomplete = self._incomplete, None
            self._start(self.cycle, call)

    # ``POST /emails``, the call that everything is measured by, goes around ASGI where its body is
    # small and comes with the headers: it begins when all of the body is there, and its answer is
    # one write. uvicorn's cycle says how far it is, as that of every request.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """The request is next, its headers are there."""
        scope = cycle.scope
        if scope["path"] == self.send_email.path and scope["method"] == "POST":
            call = Call(scope, cycle.receive)
            # SMALL is not more than uvicorn takes in before it stops reading.
            if (call.length or inf) <= SMALL and not cycle.waiting_for_100_continue:
                if cycle.more_body:
                    self._incomplete = call
                else:
                    self._start(cycle, call)
                return
        super()._start_asgi_task(cycle, app)

    def _leave_to_asgi(self) -> None:
        """The rest of a body is still to come. There, who calls is asked first, and it is counted.

        Ten thousand clients that stop before the last byte would take 640 MB here.
        """
        if self._incomplete is not None:
            self._incomplete = None
            super()._start_asgi_task(self.cycle, self.app)

    def _start(self, cycle: RequestResponseCycle, call: Call) -> None:
        call.body = bytes(cycle.body)
        task = self.loop.create_task(self._answer(cycle, call))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, cycle: RequestResponseCycle, call: Call) -> None:
        reply = await self.send_email.answer(call)
        if self.flow.write_paused:
            await self.flow.drain()
        if not cycle.disconnected:
            headers = [*cycle.default_headers, *reply.head(call)]
            if not cycle.keep_alive:
                headers.append((b"connection", b"close"))
            lines = [b"%b: %b\r\n" % header for header in headers]
            self.transport.write(b"".join([STATUS_LINE[reply.status], *lines, b"\r\n", reply.body]))
            cycle.response_started = cycle.response_complete = True
            if not cycle.keep_alive:
                self.transport.close()
            self.on_response_complete()
        self.send_email.note(call, reply)

    def on_response_complete(self) -> None:
        """The request is answered; the rest of its body may still come."""
        super().on_response_complete()
        self._leave_to_asgi()  # a request that was sent ahead
        self._expect(self.transport.get_write_buffer_size())

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        super().pause_writing()
        self._expect(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._expect()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self.cut(Problem(400, "validation_error", msg))

    @property
    def _may_answer(self) -> bool:
        """Nothing was said about the request that is coming, and nothing is left to say before."""
        if self.pipeline or self.transport.is_closing():
            return False
        # uvicorn says that there is a cycle always; before the first request there is none.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or self._in_head:
            return cycle is None or cycle.response_complete
        return not cycle.response_started

    def cut(self, problem: Problem | None) -> None:
        """End the connection; a client whose request is half there gets an answer."""
        if problem is None or not self._may_answer:
            self.transport.abort()
            return
        body = problem.body()
        self.transport.write(
            b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (problem.status, len(body), body)
        )
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's, without its own signals."""

    def __init__(self, config: uvicorn.Config, service: Service, place: str) -> None:
        super().__init__(config)
        self._service, self._place = service, place

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The signals are the service's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve from now on."""
        await super().startup(sockets)
        collect_seldom()
        self._service.ready(self._place)


def serve(
    config: Config,
    host: str | None = None,
    port: int | None = None,
    file: Path | None = None,
    *,
    dashboard: bool = False,
) -> int:
    """Serve until a signal; returns the exit code.

    ``host``, ``port``: instead of those of the configuration. ``file``: where SIGHUP has it read
    its configuration again. Raises ``ConfigError``: without API keys (or, for the ``dashboard``, a
    proxy that says who it is) it listens on a loopback address only; the port is in use.
    """
    host = config.http.host if host is None else host
    port = config.http.port if port is None else port
    _check_exposure(config, host, dashboard=dashboard)
    app = App(config, dashboard=dashboard)
    listener = listen(host, port, shared=config.http.share_port)
    return_freed_blocks()
    return run_async("mailqueue http", partial(_serve, app, listener, host, file), _loop_factory())


def _check_exposure(config: Config, host: str, *, dashboard: bool) -> None:
    has_proxy = dashboard and config.http.dashboard.proxy_header is not None
    if not config.http.keys and not has_proxy and not is_loopback(host):
        problem = "without an API key only a loopback address is served: mailqueue key new NAME"
        raise ConfigError([f"http.keys: {problem}"])


async def _serve(
    app: App,
    listener: socket.socket,
    host: str,
    file: Path | None,
    service: Service,
    stopping: asyncio.Event,
) -> None:
    config = app.config
    clients = Clients(room_for(config.http.connections), config.http.timeout)
    server = _Server(_uvicorn(app, clients), service, url("http", listener))
    if file is not None:
        service.reload = partial(_reload, app, Source(file, LIVE, OTHERS), host)
    _say_started(has_keys=bool(config.http.keys))
    watch = asyncio.create_task(clients.watch())
    serving = asyncio.create_task(server.serve([listener]))
    stop = asyncio.create_task(stopping.wait())
    # Without the watch, clients that are late would keep their connections for ever.
    await asyncio.wait([serving, stop, watch], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    if watch.done():
        await watch  # raises what ended it
    watch.cancel()


def _reload(app: App, source: Source, host: str) -> None:
    """Read the configuration again, for the requests from now on."""

    def check(config: Config) -> None:
        _check_exposure(config, host, dashboard=app.dashboard is not None)
        app.reload(config)

    source.read(app.config, check)


def _say_started(*, has_keys: bool) -> None:
    production = is_production()
    # Without keys everybody on this host may do everything.
    level = logging.INFO if production and has_keys else logging.WARNING
    mode = "production" if production else "simulated"
    auth = "required" if has_keys else "no API key is configured: only this host is served"
    event(_log, level, "http.started", mode=mode, auth=auth)


def _uvicorn(app: App, clients: Clients) -> uvicorn.Config:
    config = app.config
    own = {"clients": clients, "send_email": app.send_email}
    return uvicorn.Config(
        app,
        http=type("_Connection", (Connection,), own),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",  # it would log tracebacks, which may quote an e-mail
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        # A request that is under way ends by then, one that is still coming is cut.
        timeout_graceful_shutdown=int(config.http.timeout + 2 * config.mongodb.timeout) + 1,
    )


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # it does not exist for every platform
        return None
    return uvloop.new_event_loop
