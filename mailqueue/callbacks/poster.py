"""Posting one callback, to a host on the internet, within bounds.

Decides: what a post may do. The address is looked up once, here, and checked; the connection goes
to that very address, so that a name that leads elsewhere at the second look-up gains nothing. No
redirect is followed, no proxy asked, no cookie or password sent. A deadline bounds all of it, and
of the answer only the status counts.

Assumes: posting twice does no harm: the receiver knows a repeat by its ``webhook-id``.

Promises: ``post`` raises nothing that a receiver can cause. One ``Poster`` belongs to one thread.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from requests import PreparedRequest, Request, RequestException
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from mailqueue.callbacks.addresses import is_public
from mailqueue.vendors.wire import CONNECT_SECONDS, failures, trust
from mailqueue.vendors.wire.deadline import Call

MOST_READ = 65_536  # bytes of an answer, after which its connection is closed
NOT_PUBLIC = "not_public"
_HOSTS = 4  # whose connections a poster keeps


class NotPublic(OSError):
    """The host has no address on the internet."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a post: the status as text, or a word of ``wire.failures``.

    ``retry_after``: seconds that the receiver asks for.
    """

    code: str
    retry_after: float = 0.0


class _Post:
    """The post that this thread makes now: it opens the connection, and its deadline ends it."""

    def __init__(self, call: Call, allows: Callable[[str, int], bool]) -> None:
        self.call = call
        self._allows = allows
        self.is_fresh = False  # its connection was made for it

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to an address of the host that may be connected to."""
        self.is_fresh = True
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        is_allowed = self._allows(host.strip("[]").lower().rstrip("."), port)
        places = [
            (each[0], each[4]) for each in answers if is_allowed or is_public(str(each[4][0]))
        ]
        error: OSError = NotPublic("no public address")
        for family, place in places:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(min(CONNECT_SECONDS, self.call.remaining))
                sock.connect(place)
                self.call.attach(sock)
                return sock
            except OSError as failure:
                sock.close()
                error = failure
        raise error


_present: ContextVar[_Post] = ContextVar("post")


class _HTTP(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _present.get().connect(self.host, self.port or self.default_port)

    def connect(self) -> None:
        super().connect()
        _present.get().call.written = True

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # it was kept, and has this post's deadline from now on
            _present.get().call.writing(self.sock)
            _present.get().call.attach(self.sock)
        super().request(*args, **kwargs)


class _HTTPS(_HTTP, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


class _Adapter(HTTPAdapter):
    """Of requests, with connections that go where ``_Post`` allows it."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        pools = {"http": _HTTPPool, "https": _HTTPSPool}
        self.poolmanager.pool_classes_by_scheme = pools

    def build_connection_pool_key_attributes(
        self, request: PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """With one TLS context for all: to read the authorities takes 20 ms each time."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": trust.context(_authorities())} if verify else {}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context does it."""


def _authorities() -> str:
    names = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
    return next(filter(None, map(os.environ.get, names)), DEFAULT_CA_BUNDLE_PATH)


class Poster:
    """Posts, one after the other. ``allows``: hosts and ports that need not be public."""

    def __init__(self, allows: Callable[[str, int], bool]) -> None:
        self._allows = allows
        self._adapter = _Adapter(pool_connections=_HOSTS, pool_maxsize=1, max_retries=0)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        """Post once, within ``seconds``."""
        deadline = time.monotonic() + seconds
        answer, was_kept = self._post(url, body, headers, deadline)
        if was_kept and answer.code == failures.CONNECTION_LOST:
            # The receiver closed it while it idled, perhaps before it read anything.
            self._adapter.close()
            answer, _ = self._post(url, body, headers, deadline)
        return answer

    def _post(
        self, url: str, body: bytes, headers: Mapping[str, str], deadline: float
    ) -> tuple[Answer, bool]:
        """The answer, and whether a connection was used that had been kept."""
        with Call(deadline) as call:
            post = _Post(call, self._allows)
            token = _present.set(post)
            try:
                # Not a Session's: it reads the whole body of a redirect, however large that is.
                request = Request("POST", url, headers=dict(headers), data=body).prepare()
                answer = self._send(request, call)
            except (RequestException, HTTPError, OSError, ValueError) as error:
                answer = Answer(_code(error, call))
            finally:
                _present.reset(token)
            return answer, not post.is_fresh

    def _send(self, request: PreparedRequest, call: Call) -> Answer:
        response = self._adapter.send(request, stream=True, timeout=call.remaining)
        try:
            if call.has_expired:  # in the middle of the headers, say, which nobody notices
                return Answer(failures.DEADLINE)
            answer = Answer(str(response.status_code), _seconds(response.headers))
            # So that the connection can be kept; a deadline that passes now takes nothing back.
            response.raw.read(MOST_READ, decode_content=False)
        except (HTTPError, OSError):
            pass
        finally:
            response.close()
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._adapter.close()


def _code(error: BaseException, call: Call) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NotPublic):
            return NOT_PUBLIC
        cause = cause.__cause__ or cause.__context__
    return failures.code(error, call)


def _seconds(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "").strip()
    return float(text[:9]) if text.isascii() and text.isdigit() else 0.0
