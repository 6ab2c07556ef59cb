"""How a request gets to a vendor and an answer back: one kept connection under a total deadline.

Decides: the settings of the HTTP client, and what a failure of it means. The connection is the one
that requests is built on (urllib3's: it opens the socket and verifies the certificate against
requests' bundle); the standard library's http.client, which it derives from, speaks on it. The
layers above (sessions, redirects, cookies, netrc, proxies, pools, retries) have no part in this:
they would be refused, and cost two thirds of the time of a call.

Assumes: one ``Transport`` belongs to one thread; the URL's host is always the same.

Promises: what failed is told by a fact, whether a byte of the request was handed to the socket, and
not by guessing from exception types; the body read is bounded; a connection that idled too long is
not used again (its first request would be lost, and nobody could say whether it was sent), nor one
that the server has closed.
"""

from __future__ import annotations

import http.client
import socket
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3.exceptions as trouble
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection

from mailqueue.vendors import failures, trust
from mailqueue.vendors.base import CONNECT_SECONDS, IDLE_SECONDS
from mailqueue.vendors.deadline import Call

MAX_BODY = 1024 * 1024
_TROUBLE = (trouble.HTTPError, http.client.HTTPException, OSError, ValueError)


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """Path and query, headers, body. No repr: it holds keys and an e-mail."""

    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, repr=False)
class RawAnswer:
    """Status, headers and body. ``cut`` is the code of what ended the body too early, or ""."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: str = ""


class Lost(Exception):
    """No status came. ``written`` False: the request was surely not sent."""

    def __init__(self, code: str, *, written: bool) -> None:
        super().__init__(code)
        self.code = code
        self.written = written


class Transport:
    """One keep-alive connection to one vendor. ``verify``: True, or the file of a CA to trust.

    ``written``: a byte of the last request was handed to the socket.
    """

    def __init__(self, base_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.verify: bool | str = True
        self.clock = clock
        self.written = False
        self._url = urlsplit(base_url.rstrip("/"))
        self._connection: _Plain | _Tls | None = None
        self._used_at = clock()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def post(self, request: Request, deadline: float, timeout: float) -> RawAnswer:
        """Send the request once and read the answer. Raises Lost when no status came."""
        return self._call("POST", request, deadline, timeout)

    def get(self, request: Request, deadline: float, timeout: float) -> RawAnswer:
        """The same for a question, which changes nothing at the vendor; it has no body."""
        return self._call("GET", request, deadline, timeout)

    def _call(self, method: str, request: Request, deadline: float, timeout: float) -> RawAnswer:
        with Call(deadline) as call:
            try:
                connection = self._open(call, timeout)
                body = None if method == "GET" else request.body
                connection.holds_head = bool(body)
                connection.request(method, self._url.path + request.path, body, request.headers)
                answer = self._answer(connection.getresponse(), call)
            except _TROUBLE as error:
                self.close()
                raise Lost(failures.code(error, call), written=call.written) from None
            finally:
                self.written = call.written
        self._used_at = self.clock()
        return answer

    def _open(self, call: Call, timeout: float) -> _Plain | _Tls:
        """The kept connection if it is still good, else a new one that will connect."""
        kept = self._connection
        if self.clock() - self._used_at > IDLE_SECONDS or (kept and not kept.is_connected):
            self.close()
        if self._connection is None:
            self._connection = self._new()
        self._connection.call = call
        self._connection.read_timeout = timeout
        return self._connection

    def _new(self) -> _Plain | _Tls:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return _Plain(host, port)
        file = DEFAULT_CA_BUNDLE_PATH if self.verify is True else str(self.verify)
        return _Tls(host, port, ssl_context=trust.context(file))

    def _answer(self, response: http.client.HTTPResponse, call: Call) -> RawAnswer:
        """Status, headers, and the body as far as it came: from here on nothing is an error."""
        headers = CaseInsensitiveDict(response.getheaders())
        body, cut = b"", ""
        try:
            body = response.read(MAX_BODY + 1)
            if len(body) > MAX_BODY:
                cut = failures.BAD_ANSWER
            elif response.length:  # more was announced
                cut = failures.CONNECTION_LOST
        except _TROUBLE as error:
            cut = failures.code(error, call)
        if call.was_shut:  # then also what looks like a proper end was ours
            cut = failures.DEADLINE
        if cut:
            response.close()
            self.close()
        return RawAnswer(response.status, headers, _plain(body[:MAX_BODY], headers), cut)


def _plain(body: bytes, headers: Mapping[str, str]) -> bytes:
    """The body of a server that compresses though it was told not to."""
    if headers.get("Content-Encoding", "identity") == "identity":
        return body
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_BODY)
    except zlib.error:
        return body


class _Watched(http.client.HTTPConnection):
    """Mixed into urllib3's connections: shows the call its socket, and when a byte goes out.

    Head and body go out together, and a socket's time-out is set only where it changes: whatever
    may block lets another thread have the interpreter, and it takes a while to get it back.
    """

    call: Call
    read_timeout: float
    holds_head = False
    _head = b""

    # As http.client has them, without what urllib3 adds for its pools.
    request = http.client.HTTPConnection.request
    putrequest = http.client.HTTPConnection.putrequest
    putheader = http.client.HTTPConnection.putheader
    getresponse = http.client.HTTPConnection.getresponse

    def connect(self) -> None:
        self.timeout = min(CONNECT_SECONDS, self.call.remaining)
        super().connect()

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]  # of the connection class
        self.call.attach(sock)  # before the TLS handshake, which can drip too
        return sock

    def send(self, data: Any) -> None:
        if self.holds_head:
            self.holds_head, self._head = False, data
            return
        if self.sock is None:
            self.connect()
        limit = min(self.read_timeout, self.call.remaining)
        if self.sock.gettimeout() != limit:
            self.sock.settimeout(limit)
        data, self._head = self._head + data, b""
        self.call.writing(self.sock)
        super().send(data)


class _Plain(_Watched, HTTPConnection):  # type: ignore[misc]  # request() is http.client's
    pass


class _Tls(_Watched, HTTPSConnection):  # type: ignore[misc]  # the same
    pass
