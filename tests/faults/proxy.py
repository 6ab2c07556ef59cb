"""A TCP proxy before a real server, which spoils what the server says.

Decides: how replies are spoilt (``drip``, ``cut``), and that a put may be refused instead of
forwarded (``out_of_memory``). Promises: gone with all its connections at the end.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable
from typing import Self

HOST = "127.0.0.1"

# What becomes of a piece of a reply: the pieces to send on, and whether to close after them.
Spoil = Callable[[bytes], tuple[list[bytes], bool]]


def intact(reply: bytes) -> tuple[list[bytes], bool]:
    return [reply], False


def drip(reply: bytes) -> tuple[list[bytes], bool]:
    """One byte at a time."""
    return [reply[i : i + 1] for i in range(len(reply))], False


def mute(reply: bytes) -> tuple[list[bytes], bool]:
    """Nothing, as of a host that is cut off: the connection stays open."""
    return [], False


def cut(rand: random.Random) -> Spoil:
    """Some replies end in the middle, and the connection with them."""

    def spoil(reply: bytes) -> tuple[list[bytes], bool]:
        if rand.random() > 0.1:
            return [reply], False
        return [reply[: rand.randrange(len(reply))]], True

    return spoil


class Proxy:
    """Listens on ``address``; a context manager. ``spoil`` may be changed at any time.

    ``refusal``: the answer to every command that begins with ``put``, which is not passed on.
    ``heard`` counts the pieces that came from clients.
    """

    def __init__(self, target: tuple[str, int], spoil: Spoil = intact) -> None:
        self.spoil = spoil
        self.refusal: bytes | None = None
        self.refused = 0
        self.spoilt = 0
        self.heard = 0
        self._target = target
        self._listener = socket.create_server((HOST, 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> str:
        return f"{HOST}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        _shut(self._listener)
        for each in self._sockets:
            _shut(each)
        for thread in self._threads:
            thread.join(5)
        for each in (self._listener, *self._sockets):
            each.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._start(self._commands, client, server)
                self._start(self._replies, server, client)

    def _commands(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while command := client.recv(65536):
                self.heard += 1
                if self.refusal is not None and command.startswith(b"put "):
                    self.refused += 1
                    client.sendall(self.refusal)
                else:
                    server.sendall(command)
        _shut(server)

    def _replies(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while reply := server.recv(65536):
                pieces, close = self.spoil(reply)
                self.spoilt += close or len(pieces) > 1
                for piece in pieces:
                    client.sendall(piece)
                if close:
                    break
        _shut(client)
        _shut(server)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
