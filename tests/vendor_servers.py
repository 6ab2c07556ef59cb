"""Vendors on loopback: HTTP servers that do what they are told, and real SMTP by aiosmtpd.

``HttpServer`` speaks just enough HTTP over plain sockets to misbehave at any byte: a ``Behaviour``
is called with the connection and the request, a ``Reply`` is the well-behaved one. ``SmtpServer``
is aiosmtpd with replies that can be replaced step by step; ``ScriptedSmtp`` sends what it is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.parser import BytesParser
from functools import cached_property
from types import TracebackType
from typing import Any, ClassVar, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Received:
    """A request as it came; ``connection`` counts the connections from 1."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @cached_property
    def form(self) -> list[tuple[str, EmailMessage]]:
        """The parts of a multipart form, by field name, in order."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser(policy=policy.HTTP).parsebytes(head + self.body)
        assert isinstance(message, EmailMessage)
        parts = [part for part in message.iter_parts() if isinstance(part, EmailMessage)]
        return [(str(p.get_param("name", header="content-disposition")), p) for p in parts]


Behaviour = Callable[["Wire", Received], None]


@dataclass(frozen=True)
class Reply:
    """An answer as an HTTP server gives it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def __call__(self, wire: Wire, _: Received) -> None:
        wire.sock.sendall(self.head() + self.body)

    def head(self, length: int | None = None) -> bytes:
        length = len(self.body) if length is None else length
        headers = {"Content-Length": str(length), **self.headers}
        lines = [f"HTTP/1.1 {self.status} Reason", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass
class Wire:
    """A connection and the server's end of the day, for behaviours that wait."""

    sock: socket.socket
    stopped: threading.Event

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.sock.detach())

    def reset_unread(self) -> None:
        """Reset as soon as something has come, without reading it."""
        self.sock.recv(1, socket.MSG_PEEK)
        self.reset()

    def drip(self, octets: bytes, pause: float = 0.02) -> None:
        """Send byte by byte, each well within any time-out of a single read."""
        with contextlib.suppress(OSError):
            for at in range(len(octets)):
                self.sock.sendall(octets[at : at + 1])
                if self.stopped.wait(pause):
                    return


class HttpServer:
    """One loopback HTTP server; a context manager. ``behaviour`` may be changed between requests.

    ``on_connect``, if set, has the connection before a byte is read.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        tls: ssl.SSLContext | None = None,
        on_connect: Callable[[Wire], None] | None = None,
    ) -> None:
        self.behaviour = behaviour
        self.on_connect = on_connect
        self.requests: list[Received] = []
        self.connections = 0
        self._tls = tls
        self._stopped = threading.Event()
        self._listener = socket.create_server((HOST, 0))
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        for thread in list(self._threads):
            thread.join(5)
        self._listener.close()

    def hang_up(self) -> None:
        """Close all connections."""
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._open.add(sock)
            self._start(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        raw = sock
        with contextlib.suppress(OSError, ValueError):
            if self.on_connect is not None:
                self.on_connect(Wire(sock, self._stopped))
            if self._tls is not None:
                sock = self._tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                self._open.add(sock)  # ``raw`` is no connection any more
                sock.do_handshake()
            with sock.makefile("rb") as stream:
                while (request := _read(stream, number)) is not None:
                    self.requests.append(request)
                    self.behaviour(Wire(sock, self._stopped), request)
        self._open -= {raw, sock}
        sock.close()


def _read(stream: Any, number: int) -> Received | None:
    line = stream.readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while (header := stream.readline().decode("latin-1").strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", 0)))
    return Received(line[0], line[1], headers, body, number)


# --- ways to misbehave


def hang(wire: Wire, _: Received) -> None:
    """Never answer."""
    wire.stopped.wait(30)


def close(wire: Wire, _: Received) -> None:
    """Close the connection without an answer."""
    wire.sock.shutdown(socket.SHUT_RDWR)


def reset(wire: Wire, _: Received) -> None:
    """Reset the connection without an answer."""
    wire.reset()


def say(octets: bytes, *, then_close: bool = True) -> Behaviour:
    """Send these bytes, whatever they are."""

    def behave(wire: Wire, _: Received) -> None:
        wire.sock.sendall(octets)
        if then_close:
            wire.sock.shutdown(socket.SHUT_RDWR)

    return behave


def drip_headers(reply: Reply) -> Behaviour:
    """The headers come byte by byte, and there are very many of them."""
    head = reply.head()[:-2] + b"X-Padding: " + b"x" * 2000 + b"\r\n\r\n"
    return lambda wire, _: wire.drip(head + reply.body)


def drip_body(reply: Reply) -> Behaviour:
    """The headers at once, the body byte by byte after a long stretch of blanks."""

    def behave(wire: Wire, _: Received) -> None:
        body = b" " * 2000 + reply.body
        wire.sock.sendall(reply.head(len(body)))
        wire.drip(body)

    return behave


def cut_body(reply: Reply) -> Behaviour:
    """More body is announced than comes."""
    return say(reply.head(len(reply.body) + 100) + reply.body[:-2])


def cut_chunks(reply: Reply) -> Behaviour:
    """A chunked body that ends in the middle of a chunk."""
    headers = {**reply.headers, "Transfer-Encoding": "chunked"}
    lines = [f"HTTP/1.1 {reply.status} Reason", *(f"{k}: {v}" for k, v in headers.items())]
    return say("\r\n".join([*lines, "", "40", ""]).encode() + reply.body[:10])


# --- SMTP


@dataclass
class Letter:
    """What an SMTP server was given."""

    sender: str
    recipients: list[str]
    octets: bytes
    options: list[str]

    @property
    def message(self) -> EmailMessage:
        message = message_from_bytes(self.octets, policy=policy.default)
        assert isinstance(message, EmailMessage)
        return message


class Handler:
    """aiosmtpd's hooks. ``replies`` by step ("MAIL", "DATA", "EHLO"); ``rcpt`` by recipient.

    ``most`` recipients are taken in one transaction.
    """

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.replies: dict[str, str] = {}
        self.rcpt: dict[str, str] = {}
        self.most = 1000
        self.steps: list[str] = []

    async def handle_MAIL(  # noqa: N802  # the name is aiosmtpd's
        self, _: SMTP, __: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.steps.append("MAIL")
        if "MAIL" in self.replies:
            return self.replies["MAIL"]
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(  # noqa: N802  # the name is aiosmtpd's
        self, _: SMTP, __: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.steps.append("RCPT")
        if address in self.rcpt:
            return self.rcpt[address]
        if len(envelope.rcpt_tos) >= self.most:
            return "452 4.5.3 Error: too many recipients"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Ok"

    async def handle_RSET(  # noqa: N802  # the name is aiosmtpd's
        self, _: SMTP, __: Session, ___: Envelope
    ) -> str:
        self.steps.append("RSET")
        return "250 2.0.0 Ok"

    async def handle_DATA(  # noqa: N802  # the name is aiosmtpd's
        self, _: SMTP, __: Session, envelope: Envelope
    ) -> str:
        self.steps.append("DATA")
        if "DATA" in self.replies:
            return self.replies["DATA"]
        content = envelope.original_content or b""
        options = list(map(str, envelope.mail_options))
        sender = envelope.mail_from or ""
        self.letters.append(Letter(sender, list(envelope.rcpt_tos), content, options))
        return self.replies.get("DONE", "250 2.0.0 Ok: queued as 4AB12")


class _Crowded(SMTP):
    """Answers 421 while more connections are open than there is ``room`` for."""

    room = 0
    admitted: ClassVar[set[SMTP]] = set()

    async def _handle_client(self) -> None:
        if len(self.admitted) >= self.room:
            await self.push("421 4.7.0 Error: too many connections")
            assert self.transport is not None
            self.transport.close()
            return
        self.admitted.add(self)
        await super()._handle_client()

    def connection_lost(self, error: Exception | None) -> None:
        self.admitted.discard(self)
        super().connection_lost(error)


class _Controller(Controller):
    """aiosmtpd's, with another protocol."""

    protocol: type[SMTP] = SMTP

    def factory(self) -> SMTP:
        return self.protocol(self.handler, **self.SMTP_kwargs)


class SmtpServer:
    """A real SMTP server; a context manager. ``login`` (user, password) makes it ask for one.

    With ``room`` it answers 421 to all connections beyond so many.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        login: tuple[str, str] | None = None,
        smtputf8: bool = True,
        size: int = 33_554_432,
        room: int | None = None,
    ) -> None:
        self.handler = Handler()
        self._login = login
        options: dict[str, Any] = {"enable_SMTPUTF8": smtputf8, "data_size_limit": size}
        if login is not None:
            # Without TLS only because it is loopback.
            options |= {"authenticator": self._authenticate, "auth_require_tls": tls is not None}
            options |= {"auth_required": tls is not None}
        if tls is not None:
            options |= {"ssl_context": tls} if implicit else {"tls_context": tls}
        self._controller = _Controller(self.handler, hostname=HOST, port=_free_port(), **options)
        if room is not None:
            own = {"room": room, "admitted": set()}
            self._controller.protocol = type("Crowded", (_Crowded,), own)
        self.port: int = self._controller.port

    @property
    def letters(self) -> list[Letter]:
        return self.handler.letters

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._controller.stop()

    def _authenticate(
        self, _: SMTP, __: Session, ___: Envelope, ____: str, data: LoginPassword
    ) -> AuthResult:
        given = (data.login.decode(), data.password.decode())
        return AuthResult(success=given == self._login, handled=False)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


Line = Callable[[Wire, str], bytes | None]


class ScriptedSmtp:
    """An SMTP server that says what it is told; a context manager.

    ``answer(wire, line)`` gives the reply to each line ("" for the greeting), None closes. The
    message itself is one "line", which begins with "MESSAGE".
    """

    def __init__(self, answer: Line) -> None:
        self.answer = answer
        self.lines: list[str] = []
        self._http = HttpServer(hang, on_connect=self._talk)
        self.port = self._http.port

    @property
    def connections(self) -> int:
        return self._http.connections

    def __enter__(self) -> Self:
        self._http.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.__exit__(kind, error, trace)

    def hang_up(self) -> None:
        """Close all connections."""
        self._http.hang_up()

    def _talk(self, wire: Wire) -> None:
        with wire.sock.makefile("rb") as stream:
            for line in _lines(stream):
                self.lines.append(line)
                reply = self.answer(wire, line)
                if reply is None:
                    break
                wire.sock.sendall(reply)
                if line == "DATA" and reply.startswith(b"354"):
                    while stream.readline() not in (b".\r\n", b""):
                        pass
                    self.lines.append("MESSAGE")
                    reply = self.answer(wire, "MESSAGE")
                    if reply is None:
                        break
                    wire.sock.sendall(reply)
        with contextlib.suppress(OSError):
            wire.sock.shutdown(socket.SHUT_RDWR)


def _lines(stream: Any) -> Iterator[str]:
    yield ""
    while line := stream.readline():
        word, space, rest = line.decode("latin-1").strip().partition(" ")
        yield word.upper() + space + rest


def polite(_: Wire, line: str) -> bytes | None:
    """The replies of a server to which everything is fine."""
    word = line.partition(" ")[0]
    special = {"": b"220 ready", "EHLO": b"250-me\r\n250 SIZE 1000000", "DATA": b"354 go on"}
    return special.get(word, b"250 2.0.0 Ok") + b"\r\n"


def polite_but(**replies: bytes | None) -> Line:
    """The same, with other replies to some words (``GREETING`` for the first)."""

    def answer(wire: Wire, line: str) -> bytes | None:
        word = line.partition(" ")[0] or "GREETING"
        return replies[word] if word in replies else polite(wire, line)

    return answer
