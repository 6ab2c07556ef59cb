"""A connection to a vendor's API: opened, written to, and found fit for another request or not.

Decides: how a socket gets to a vendor (directly or through a proxy, with TLS or without), and what
follows when the server answers before the request is through: the writing stops and the answer is
read, whether the server goes on reading, closes or resets.

Assumes: a socket's time-outs count per read; the deadline of the whole is the ``Call``'s, which
shuts the socket.
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
_LARGE = 64 * 1024  # what is less goes out at once
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def dial(url: SplitResult, authorities: str, proxy: Proxy | None, call: Call) -> Connection:
    """A new connection to the host of this address."""
    host, port = url.hostname or "", url.port or _PORTS[url.scheme]
    sock = _connected(host, port, proxy, call)
    try:
        if url.scheme == "https":
            context = trust.context(authorities, "http/1.1")
            sock = context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise
    return Connection(sock)


def _connected(host: str, port: int, proxy: Proxy | None, call: Call) -> socket.socket:
    if proxy is None:
        return _socket(host, port, call)
    try:
        sock = _socket(proxy.host, proxy.port, call)
    except OSError:
        raise ProxyRefused from None
    try:
        proxy.tunnel(sock, host, port)
    except BaseException:
        sock.close()
        raise
    return sock


def _socket(host: str, port: int, call: Call) -> socket.socket:
    """The first of the host's addresses that takes a connection while there is time."""
    trouble: OSError = ConnectionError("no address")
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
            trouble = error
            if call.expired:
                break
    raise trouble


class Connection:
    """A socket and what came over it. ``lasts``: for how long it may idle by the server's word.

    ``used_at`` is the moment of its last answer; 0 before the first.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.incoming = Incoming(sock.recv)
        self.used_at = 0.0
        self.lasts = math.inf

    def close(self) -> None:
        self.sock.close()

    def limit(self, seconds: float) -> None:
        """Let no single read or write take longer.

        Set only where it changes: whatever may block lets another thread have the interpreter, and
        it takes a while to get it back.
        """
        if self.sock.gettimeout() != seconds:
            self.sock.settimeout(seconds)

    def quiet(self) -> bool:
        """True if nothing came since the last answer: no byte, and not the end."""
        secured = self.sock if isinstance(self.sock, ssl.SSLSocket) else None
        if self.incoming or (secured is not None and secured.pending()):
            return False
        if not self._ready(select.POLLIN, 0):
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
        """True: all of it was handed over. False: the server has answered or closed before that."""
        self.limit(seconds if len(octets) <= _LARGE else 0.0)
        rest = memoryview(octets)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except _NOT_YET:
                if self._answered(response, seconds):
                    return False
                self.limit(0.0)
            except (ConnectionError, ssl.SSLError):  # what has arrived by then may say why
                return False
        return True

    def _answered(self, response: ResponseReader, seconds: float) -> bool:
        """Wait until more can be written; True if the answer comes first."""
        events = self._ready(select.POLLIN | select.POLLOUT, seconds)
        if not events:
            raise TimeoutError("the server takes no more")
        if not events & select.POLLIN:
            return False
        try:
            if not self.incoming.fill():
                raise ConnectionAbortedError("ended within the request")
        except _NOT_YET:
            return False
        self.limit(seconds)
        return response.arrived()

    def _ready(self, events: int, seconds: float) -> int:
        poll = select.poll()
        poll.register(self.sock, events)
        found = poll.poll(math.ceil(seconds * 1000))
        return found[0][1] if found else 0
