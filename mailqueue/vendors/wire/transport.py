"""How a request gets to a vendor and its response back: one connection, under a total deadline.

Decides: when a connection is used again, and what a failure means. Requests are written and
responses read by our own code (``response``), since everything depends on which bytes belong to
which e-mail. The library requests gives the bundle of authorities and reads the proxy variables. No
redirects, cookies, netrc or retries.

Assumes: one ``Transport`` belongs to one thread; the URL's host is always the same.

Promises: whether the e-mail may have been sent follows from a fact (was a byte of the request
handed to the socket?), not from the type of an exception. What is read is bounded. The response to
one e-mail is never taken for the next one's: a connection is used again only if the last response
was read to its declared end, with nothing behind it, if it did not idle too long (``idle``), and if
the server has neither closed it nor sent anything since.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from mailqueue.vendors.wire import connection, failures, idle
from mailqueue.vendors.wire.connection import Connection
from mailqueue.vendors.wire.deadline import Call
from mailqueue.vendors.wire.proxy import Proxy
from mailqueue.vendors.wire.response import MAX_BODY, BadResponse, ResponseReader

_ERRORS = (OSError, BadResponse, ValueError)
_ILLEGAL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """What to send: path and query, body, headers. No repr, since it holds keys and an e-mail."""

    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, repr=False)
class RawResponse:
    """Status, headers and body. ``cut``: the code of what ended the body too early, else "".

    ``early``: it came before the request was sent completely, so it can only be a refusal.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: str = ""
    early: bool = False


class NoResponse(Exception):
    """No status came. ``written`` False: the request was surely not sent.

    ``idled``: an idle connection was lost before the first byte of a response: nobody's fault.
    """

    def __init__(self, code: str, *, written: bool, idled: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.written = written
        self.idled = idled


class Transport:
    """One keep-alive connection to one vendor. ``ca_file``: the authorities to trust, as PEM.

    ``written``: a byte of the last request was handed to the socket.
    """

    def __init__(
        self,
        base_url: str,
        clock: Callable[[], float] = time.monotonic,
        proxy: Proxy | None = None,
    ) -> None:
        self.ca_file = DEFAULT_CA_BUNDLE_PATH
        self.clock = clock
        self.written = False
        self._proxy = proxy
        self._url = urlsplit(base_url.rstrip("/"))
        self._idle_limit = idle.limit_of(self._url.netloc)
        self._connection: Connection | None = None  # idle, for the next request

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def post(self, request: Request, deadline: float, timeout: float) -> RawResponse:
        """Send the request once and read the answer. Raises NoResponse when no status came."""
        return self._call("POST", request, deadline, timeout)

    def get(self, request: Request, deadline: float, timeout: float) -> RawResponse:
        """The same for a search, which changes nothing at the vendor; it has no body."""
        return self._call("GET", request, deadline, timeout)

    def _call(self, method: str, request: Request, deadline: float, timeout: float) -> RawResponse:
        used: Connection | None = None
        with Call(deadline) as call:
            try:
                octets = self._octets(method, request)
                used = self._open(call)
                return self._exchange(used, octets, call, timeout)
            except _ERRORS as error:
                code = failures.code(error, call)
                idled = used is not None and self._is_loss_by_idling(used, code)
                raise NoResponse(code, written=call.written, idled=idled) from None
            finally:
                self.written = call.written
                if used is not None and used is not self._connection:
                    used.close()

    def _octets(self, method: str, request: Request) -> bytes:
        """The request as it goes out. Raises ValueError for what cannot be put on the wire."""
        target, body = self._url.path + request.path, b"" if method == "GET" else request.body
        lines = [f"{method} {target} HTTP/1.1"]
        if not any(name.lower() == "host" for name in request.headers):
            lines.append(f"Host: {self._url.netloc}")
        if method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        legal = all(map(_NAME.fullmatch, request.headers)) and not _ILLEGAL.search("".join(lines))
        if not legal or " " in target or not target.isascii():
            raise ValueError("not to be put on the wire")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def _open(self, call: Call) -> Connection:
        """The idle connection if it is still good, else a new one. The idle one is taken out."""
        idle_one, self._connection = self._connection, None
        if idle_one is not None:
            limit = min(self._idle_limit.seconds(self.clock()), idle_one.idle_seconds)
            if self.clock() - idle_one.used_at <= limit and idle_one.is_quiet():
                return idle_one
            idle_one.close()
        return connection.dial(self._url, self.ca_file, self._proxy, call)

    def _exchange(self, used: Connection, octets: bytes, call: Call, timeout: float) -> RawResponse:
        response, limit = ResponseReader(used.incoming), min(timeout, call.remaining)
        used.incoming.began = False
        # Before the write, not after it: part of a write that fails may have arrived.
        call.writing(used.sock)
        early = not used.write(octets, response, limit)
        used.limit(limit)
        raw = self._read(response, call, early=early)
        # Kept only if nothing of this exchange can come later: a rest of the request would be read
        # as part of the next one, a rest of the response as the answer to the next e-mail.
        if response.clean and not (raw.cut or early):
            used.used_at = self.clock()
            used.idle_seconds = idle.keep_alive_seconds(response.final().tokens("keep-alive"))
            self._connection = used
        return raw

    def _read(self, response: ResponseReader, call: Call, *, early: bool) -> RawResponse:
        """Status, headers, and the body as far as it came.

        Once there is a status, a failure only cuts the body: the status alone may be enough.
        """
        head, cut = response.final(), ""
        try:
            response.read()
        except _ERRORS as error:
            cut = failures.code(error, call)
        if call.was_shut:  # then the end came from us, even if it looks like a proper one
            cut = failures.DEADLINE
        headers = head.headers
        body = _decompress(bytes(response.body), headers)
        return RawResponse(head.status, headers, body, cut, early)

    def _is_loss_by_idling(self, used: Connection, code: str) -> bool:
        """Whether the server was closing the connection because it had idled."""
        if code != failures.CONNECTION_LOST or not used.used_at or used.incoming.began:
            return False
        return self._idle_limit.note_loss(used.used_at, self.clock())


def _decompress(body: bytes, headers: Mapping[str, str]) -> bytes:
    """The plain body. Some servers compress although we ask them not to."""
    if headers.get("Content-Encoding", "identity") == "identity":
        return body
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_BODY)
    except zlib.error:
        return body
