"""A connection to a vendor's API: how it is opened and written to, and whether it is still good.

Decides: how a socket gets to a vendor (directly or through a proxy, with TLS or without), and what
follows when the server answers before the request is sent completely: writing stops and the
response is read, whether the server goes on reading, closes or resets.

Assumes: a socket's time-outs count per read; the ``Call`` shuts the socket at the deadline.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
from urllib.parse import SplitResult

from mailqueue.vendors.wire import CONNECT_SECONDS, trust
from mailqueue.vendors.wire.deadline import Call
from mailqueue.vendors.wire.proxy import Proxy, ProxyRefused
from mailqueue.vendors.wire.response import Incoming, ResponseReader

_PORTS = {"http": 80, "https": 443}
_LARGE = 64 * 1024  # bytes; fewer are written in one go
_NOT_READY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def dial(url: SplitResult, ca_file: str, proxy: Proxy | None, call: Call) -> Connection:
    """A new connection to the host of this address."""
    host, port = url.hostname or "", url.port or _PORTS[url.scheme]
    sock = _connect(host, port, proxy, call)
    try:
        if url.scheme == "https":
            context = trust.context(ca_file, "http/1.1")
            sock = context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise
    return Connection(sock)


def _connect(host: str, port: int, proxy: Proxy | None, call: Call) -> socket.socket:
    if proxy is None:
        return _connect_directly(host, port, call)
    try:
        sock = _connect_directly(proxy.host, proxy.port, call)
    except OSError:
        raise ProxyRefused from None
    try:
        proxy.tunnel(sock, host, port)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_directly(host: str, port: int, call: Call) -> socket.socket:
    """A socket to the first of the host's addresses that answers in time."""
    last_error: OSError = ConnectionError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(min(CONNECT_SECONDS, call.remaining))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
            call.attach(sock)  # before the TLS handshake, which can drip too
            return sock
        except OSError as error:
            sock.close()
            last_error = error
            if call.has_expired:
                break
    raise last_error


class Connection:
    """A socket, and what came over it.

    ``used_at``: the moment of the last response, on the ``Transport``'s clock; 0 before the first.
    ``idle_seconds``: for how long the server says that it keeps an idle connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.incoming = Incoming(sock.recv)
        self.used_at = 0.0
        self.idle_seconds = math.inf

    def close(self) -> None:
        self.sock.close()

    def limit(self, seconds: float) -> None:
        """Let no single read or write take longer.

        The time-out is set only if it changes: the call releases the interpreter to another thread,
        and it takes a while to get it back.
        """
        if self.sock.gettimeout() != seconds:
            self.sock.settimeout(seconds)

    def is_quiet(self) -> bool:
        """True if nothing came since the last response: no byte, and not the end."""
        secured = self.sock if isinstance(self.sock, ssl.SSLSocket) else None
        if self.incoming or (secured is not None and secured.pending()):
            return False
        if not self._ready_events(select.POLLIN, 0):
            return True
        if secured is None:
            return False
        try:
            secured.settimeout(0)
            self.incoming.fill()
        except ssl.SSLWantReadError:  # a ticket for later sessions, not an answer
            return True
        except OSError:
            pass
        return False

    def write(self, octets: bytes, response: ResponseReader, seconds: float) -> bool:
        """Send it all, and return True. False: the server answered or closed before that."""
        self.limit(seconds if len(octets) <= _LARGE else 0.0)
        rest = memoryview(octets)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except _NOT_READY:
                if self._response_came(response, seconds):
                    return False
                self.limit(0.0)
            except (ConnectionError, ssl.SSLError):  # what has arrived by then may say why
                return False
        return True

    def _response_came(self, response: ResponseReader, seconds: float) -> bool:
        """Wait until more can be written; True if the response comes first."""
        events = self._ready_events(select.POLLIN | select.POLLOUT, seconds)
        if not events:
            raise TimeoutError("the server takes no more")
        if not events & select.POLLIN:
            return False
        try:
            if not self.incoming.fill():
                raise ConnectionAbortedError("ended within the request")
        except _NOT_READY:
            return False
        self.limit(seconds)
        return response.has_begun()

    def _ready_events(self, events: int, seconds: float) -> int:
        poll = select.poll()
        poll.register(self.sock, events)
        events_by_socket = poll.poll(math.ceil(seconds * 1000))
        return events_by_socket[0][1] if events_by_socket else 0
