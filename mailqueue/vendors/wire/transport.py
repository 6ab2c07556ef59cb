"""How a request gets to a vendor and an answer back: one kept connection under a total deadline.

Decides: when a connection is used again, and what a failure means. Requests are written and answers
read here (``response``), since everything hangs on which bytes belong to which e-mail; of requests
the bundle of authorities and the reading of proxy variables are used. No redirects, cookies, netrc
or retries: they would be refused.

Assumes: one ``Transport`` belongs to one thread; the URL's host is always the same.

Promises: what failed is told by a fact, whether a byte of the request was handed to the socket, and
not by guessing from exception types. What is read is bounded. A connection is used again only after
an answer that was read to the end it told itself, with nothing behind it; not after it idled too
long (``idle``), nor when the server has closed it or said anything since: an answer to one e-mail
is never taken for that to the next.
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

_TROUBLE = (OSError, BadResponse, ValueError)
_ILLEGAL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """Path and query, headers, body. No repr: it holds keys and an e-mail."""

    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, repr=False)
class RawResponse:
    """Status, headers and body. ``cut`` is the code of what ended the body too early, or "".

    ``early``: it came before the request was through, so it can only be a refusal.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: str = ""
    early: bool = False


class Lost(Exception):
    """No status came. ``written`` False: the request was surely not sent.

    ``idled``: the connection was kept, and lost before any byte of an answer: nobody's fault.
    """

    def __init__(self, code: str, *, written: bool, idled: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.written = written
        self.idled = idled


class Transport:
    """One keep-alive connection to one vendor. ``verify``: True, or the file of a CA to trust.

    ``written``: a byte of the last request was handed to the socket.
    """

    def __init__(
        self,
        base_url: str,
        clock: Callable[[], float] = time.monotonic,
        proxy: Proxy | None = None,
    ) -> None:
        self.verify: bool | str = True
        self.clock = clock
        self.written = False
        self._proxy = proxy
        self._url = urlsplit(base_url.rstrip("/"))
        self._idle = idle.limit_of(self._url.netloc)
        self._kept: Connection | None = None

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def post(self, request: Request, deadline: float, timeout: float) -> RawResponse:
        """Send the request once and read the answer. Raises Lost when no status came."""
        return self._call("POST", request, deadline, timeout)

    def get(self, request: Request, deadline: float, timeout: float) -> RawResponse:
        """The same for a question, which changes nothing at the vendor; it has no body."""
        return self._call("GET", request, deadline, timeout)

    def _call(self, method: str, request: Request, deadline: float, timeout: float) -> RawResponse:
        used: Connection | None = None
        with Call(deadline) as call:
            try:
                octets = self._octets(method, request)
                used = self._open(call)
                return self._exchange(used, octets, call, timeout)
            except _TROUBLE as error:
                code = failures.code(error, call)
                idled = used is not None and self._idled(used, code)
                raise Lost(code, written=call.written, idled=idled) from None
            finally:
                self.written = call.written
                if used is not None and used is not self._kept:
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
        named = all(map(_NAME.fullmatch, request.headers))
        if not named or " " in target or not target.isascii() or _ILLEGAL.search("".join(lines)):
            raise ValueError("not to be put on the wire")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def _open(self, call: Call) -> Connection:
        """The kept connection if it is still good, else a new one. It is kept no longer."""
        kept, self._kept = self._kept, None
        if kept is not None:
            limit = min(self._idle.seconds(self.clock()), kept.lasts)
            if self.clock() - kept.used_at <= limit and kept.quiet():
                return kept
            kept.close()
        authorities = DEFAULT_CA_BUNDLE_PATH if self.verify is True else str(self.verify)
        return connection.dial(self._url, authorities, self._proxy, call)

    def _exchange(self, used: Connection, octets: bytes, call: Call, timeout: float) -> RawResponse:
        response, limit = ResponseReader(used.incoming), min(timeout, call.remaining)
        used.incoming.began = False
        call.writing(used.sock)
        early = not used.write(octets, response, limit)
        used.limit(limit)
        answer = self._answer(response, call, early=early)
        if response.clean and not (answer.cut or early):
            used.used_at = self.clock()
            used.lasts = idle.promised(response.final().tokens("keep-alive"))
            self._kept = used
        return answer

    def _answer(self, response: ResponseReader, call: Call, *, early: bool) -> RawResponse:
        """Status, headers, and the body as far as it came: from here on nothing is an error."""
        head, cut = response.final(), ""
        try:
            response.read()
        except _TROUBLE as error:
            cut = failures.code(error, call)
        if call.was_shut:  # then also what looks like a proper end was ours
            cut = failures.DEADLINE
        headers = head.headers
        return RawResponse(head.status, headers, _plain(bytes(response.body), headers), cut, early)

    def _idled(self, used: Connection, code: str) -> bool:
        """Whether this loss is that of a connection that idled, which the server was closing."""
        if code != failures.CONNECTION_LOST or not used.used_at or used.incoming.began:
            return False
        return self._idle.lost(used.used_at, self.clock())


def _plain(body: bytes, headers: Mapping[str, str]) -> bytes:
    """The body of a server that compresses though it was told not to."""
    if headers.get("Content-Encoding", "identity") == "identity":
        return body
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_BODY)
    except zlib.error:
        return body
