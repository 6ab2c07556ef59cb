"""How a request gets to a vendor and an answer back: requests' adapter under a total deadline.

Decides: the settings of the HTTP client, and what a failure of it means. An adapter without a
session has no redirects, no cookies, no netrc and no proxies from the environment; urllib3 repeats
nothing; certificates are verified.

Assumes: one ``Transport`` belongs to one thread; the URL's host is always the same.

Promises: what failed is told by a fact, whether a byte of the request was handed to the socket, and
not by guessing from exception types; the body read is bounded; a connection that idled too long is
not used again (its first request would be lost, and nobody could say whether it was sent).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3.exceptions as trouble
from requests import PreparedRequest, RequestException, Response
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from mailqueue.vendors import failures
from mailqueue.vendors.base import CONNECT_SECONDS, IDLE_SECONDS
from mailqueue.vendors.deadline import Call

MAX_BODY = 1024 * 1024


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
    """One keep-alive connection to one vendor."""

    def __init__(self, base_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.verify: bool | str = True
        self._base_url = base_url.rstrip("/")
        self.clock = clock
        self._adapter = _Adapter(pool_connections=1, pool_maxsize=1)
        self._used_at = clock()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._adapter.close()

    def post(self, request: Request, deadline: float, timeout: float) -> RawAnswer:
        """Send the request once and read the answer. Raises Lost when no status came."""
        return self._call("POST", request, deadline, timeout)

    def get(self, request: Request, deadline: float, timeout: float) -> RawAnswer:
        """The same for a question, which changes nothing at the vendor; it has no body."""
        return self._call("GET", request, deadline, timeout)

    def _call(self, method: str, request: Request, deadline: float, timeout: float) -> RawAnswer:
        if self.clock() - self._used_at > IDLE_SECONDS:
            self.close()
        with Call(deadline) as call, _current(call):
            try:
                answer = self._exchange(method, request, call, timeout)
            except (RequestException, trouble.HTTPError, OSError, ValueError) as error:
                self.close()
                raise Lost(failures.code(error, call), written=call.written) from None
        self._used_at = self.clock()
        return answer

    def _exchange(self, method: str, request: Request, call: Call, timeout: float) -> RawAnswer:
        prepared = PreparedRequest()
        prepared.method = method
        prepared.url = self._base_url + request.path
        prepared.headers = CaseInsensitiveDict(request.headers)
        if method != "GET":
            prepared.headers["Content-Length"] = str(len(request.body))
            prepared.body = request.body
        limit = (min(CONNECT_SECONDS, call.remaining), min(timeout, call.remaining))
        response = self._adapter.send(prepared, stream=True, timeout=limit, verify=self.verify)
        body, cut = self._body(response, call)
        return RawAnswer(response.status_code, response.headers, body, cut)

    def _body(self, response: Response, call: Call) -> tuple[bytes, str]:
        """The body as far as it came. The status is known, so nothing here is an error."""
        body, cut = b"", ""
        try:
            body = response.raw.read(MAX_BODY + 1, decode_content=True)
            if len(body) > MAX_BODY:
                cut = failures.BAD_ANSWER
        except (trouble.HTTPError, OSError, ValueError) as error:
            cut = failures.code(error, call)
        if call.was_shut:  # then also what looks like a proper end was ours
            cut = failures.DEADLINE
        if cut:
            response.raw.close()
            self.close()
        return body[:MAX_BODY], cut


# The call that this thread is in. urllib3 makes the connections, so it cannot be handed to them.
_thread = threading.local()


@contextlib.contextmanager
def _current(call: Call) -> Iterator[None]:
    _thread.call = call
    try:
        yield
    finally:
        _thread.call = None


class _Watched:
    """Mixed into urllib3's connections: shows the call its socket, and when a byte goes out."""

    sock: Any

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]  # of the connection class
        _thread.call.attach(sock)  # before the TLS handshake, which can drip too
        return sock

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]  # of the connection class
        _thread.call.writing(self.sock)
        super().send(data)  # type: ignore[misc]  # of the connection class


class _HTTPConnection(_Watched, HTTPConnection):
    pass


class _HTTPSConnection(_Watched, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *_: Any, **__: Any) -> None:
        self.poolmanager = PoolManager(num_pools=1, maxsize=1)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
