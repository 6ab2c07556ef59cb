"""The frame of a server process: its socket, its first line, its signals, its end.

Decides: what all of them do alike. ``run`` is for a server that has threads, ``run_async`` for one
with an event loop. Both return the exit code 0; the command line has the codes of what they raise:
``ConfigError`` (a port that is in use) is 2, ``Unavailable`` is 3.

SIGTERM and SIGINT: the server finishes what is under way. A second signal (``systemd`` says what
counts as one) ends the process at once with 1. Nothing is lost by it: what was not answered was
not promised. SIGHUP: the server reads its configuration again, and goes on.

Promises: a handler takes no lock, which the thread that it interrupts may hold.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mailqueue.errors import ConfigError
from mailqueue.service.systemd import ServiceManager, Signals

if TYPE_CHECKING:
    import asyncio

EXIT_OK = 0
EXIT_ABANDONED = 1  # what was under way was left
BACKLOG = 2048  # connections that wait until they are accepted; the kernel may allow fewer
OTHER_FILES = 100  # for connections to MongoDB and beanstalkd, logs and the like
TICK = 0.5  # seconds between two signs of life of an event loop


class Service:
    """What a server process is told, and what it tells."""

    def __init__(self, name: str, manager: ServiceManager | None = None) -> None:
        self._name = name
        self._manager = manager or ServiceManager()
        self._wake: Callable[[], object] = bool
        self._is_ready = self._reload_wanted = False
        self.reload: Callable[[], object] = bool  # what SIGHUP asks for; nothing, at first
        self.is_stopping = False

    def ready(self, place: str) -> None:
        """It serves from now on: ``NAME: listening on PLACE`` is the first line of output."""
        sys.stdout.write(f"{self._name}: listening on {place}\n")
        sys.stdout.flush()
        self._is_ready = True
        self._manager.ready()

    def keep_alive(self) -> None:
        """A sign of life, twice a second or so; without one systemd starts the process anew.

        Here ``reload`` is called, too, if somebody asked for it.
        """
        self._manager.keep_alive()
        if self._reload_wanted and self._is_ready:
            self._reload_wanted = False
            self._manager.reloading()
            self.reload()
            self._manager.ready()

    def ask_for_reload(self) -> None:
        """Have ``keep_alive`` call ``reload``. A signal handler may call it."""
        self._reload_wanted = True

    def stop(self) -> None:
        """Finish what is under way; called again: end at once. A signal handler may call it."""
        if self.is_stopping:
            os._exit(EXIT_ABANDONED)
        self.is_stopping = True
        self._manager.stopping()
        self._wake()

    def handle_signals(self, wake: Callable[[], object] = bool) -> None:
        """Call ``stop`` for each that counts, and ``wake`` after the first. For the main thread.

        They stay: a supervisor may say it twice, and the second may come when all is finished.
        """
        self._wake = wake
        signals = Signals(self.stop)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signals.handle)
        signal.signal(signal.SIGHUP, lambda *_: self.ask_for_reload())


def run(name: str, serve: Callable[[Service], None]) -> int:
    """Call ``serve``, which returns when ``service.is_stopping`` and all is finished.

    It calls ``service.ready`` once, and ``service.keep_alive`` while all is well. For the main
    thread: the handlers of signals are set meanwhile. Returns the exit code.
    """
    service = Service(name)
    service.handle_signals()
    serve(service)
    return EXIT_OK


def run_async(
    name: str,
    serve: Callable[[Service, asyncio.Event], Awaitable[None]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """The same on an event loop: ``serve`` returns when its event is set and all is finished.

    The signs of life are given here, as long as the loop turns.
    """
    import asyncio

    service = Service(name)

    async def live() -> None:
        while True:
            service.keep_alive()
            await asyncio.sleep(TICK)

    async def main() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        service.handle_signals(lambda: loop.call_soon_threadsafe(stopping.set))
        life = loop.create_task(live())
        life.add_done_callback(lambda _: stopping.set())  # of a bug: nobody would reload any more
        try:
            await serve(service, stopping)
            if life.done():
                await life  # raises what ended it
        finally:
            life.cancel()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    return EXIT_OK


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens. Raises ``ConfigError`` when the address or port cannot be had.

    ``shared``: other processes of this user that say so may listen there, too. The kernel divides
    the connections among them (``SO_REUSEPORT``).
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        # asyncio's and ``create_server``'s texts have the address once more, as a tuple.
        reason = (error.strerror or type(error).__name__).partition(" (while")[0]
        raise ConfigError([f"cannot listen on port {port} of {host}: {reason}"]) from None


def room_for(connections: int) -> int:
    """How many of these connections there may be, once we may open as many files as we can."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, files - OTHER_FILES))


def url(scheme: str, listener: socket.socket) -> str:
    """Where a listening socket is reached: ``http://127.0.0.1:8080``, with its real port."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
