"""What one process takes on at a time: requests, and bytes of their bodies.

Decides: when a request is refused for its size (413), or since others are under way (429). A body's
length is reserved before it is read. A body of up to ``SMALL`` bytes that is there at once is not
counted: their number is bounded already.

Promises: a body is never read beyond its limit, whatever its ``Content-Length`` says. Requests that
are still coming take no place from others: slow clients cannot keep them all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from mailqueue.http.errors import Problem, retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator

Receive = Callable[[], Awaitable[Any]]

SMALL = 64 * 1024  # bytes
_ROOM = 64 * 1024  # bytes of JSON beside the content


class Disconnected(Exception):
    """The client went away before its request was complete."""


def longest_body(max_size: int) -> int:
    """Bytes of the largest body: an e-mail of ``max_size``, all of it in base64."""
    return (max_size + 2) // 3 * 4 + _ROOM


class Limits:
    """The requests that one process has under way, each in a ``with`` block. Of one event loop.

    ``longest``: bytes of one body; ``memory``: of all; ``requests``: how many at a time.
    """

    def __init__(self, longest: int, memory: int, requests: int) -> None:
        self._longest, self._free, self._places = longest, memory, requests

    def __enter__(self) -> None:
        """One more request is under way. Raises ``Problem`` if that are too many."""
        if self._places <= 0:
            raise _busy()
        self._places -= 1

    def __exit__(self, *_: object) -> None:
        self._places += 1

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Others may have this request's place meanwhile. Raises ``Problem`` if all are in use."""
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1
        if self._places < 0:
            raise _busy()

    def body(self, length: int | None) -> Body:
        """Reads a body of this ``Content-Length`` (None: chunked), in a ``with`` block.

        Raises ``Problem`` if it is too large, or if there is no room for it now.
        """
        body = Body(self)
        if length is not None:
            self.check(length)
            if length > SMALL:
                body.reserve(length)
        return body

    def answer(self, length: int) -> Body:
        """The same for the body of an answer: clients may read it slowly. Raises ``Problem``."""
        body = Body(self)
        body.reserve(length)
        return body

    def reserve(self, octets: int) -> None:
        """Raises ``Problem`` if there is no room for them now."""
        if octets > self._free:
            raise _busy()
        self._free -= octets

    def release(self, octets: int) -> None:
        """They are no longer in memory."""
        self._free += octets

    def check(self, octets: int) -> None:
        """Raises ``Problem`` if no body may have so many."""
        if octets > self._longest:
            message = f"A request may have {self._longest} bytes (see limits.max_size)."
            raise Problem(413, "request_too_large", message)


class Body:
    """A body in memory. Its bytes count until the ``with`` block ends."""

    __slots__ = ("_limits", "_reserved")

    def __init__(self, limits: Limits) -> None:
        self._limits, self._reserved = limits, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._limits.release(self._reserved)

    def reserve(self, octets: int) -> None:
        """Let it have so many bytes."""
        if octets > self._reserved:
            self._limits.reserve(octets - self._reserved)
            self._reserved = octets

    async def read(self, receive: Receive) -> bytes:
        """The whole body. Raises ``Problem`` and ``Disconnected``."""
        with self._limits.lent():
            message = await receive()
            octets: bytes = message.get("body", b"")
            if message.get("more_body"):
                message, octets = await self._read_parts(octets, receive)
        if message["type"] != "http.request":
            raise Disconnected
        self._limits.check(len(octets))
        return octets

    async def _read_parts(self, first: bytes, receive: Receive) -> tuple[Any, bytes]:
        """The last message, and all that came of the body."""
        parts, message = bytearray(first), {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            parts += message.get("body", b"")
            self._limits.check(len(parts))
            self.reserve(len(parts))
        return message, bytes(parts)


def _busy() -> Problem:
    message = "Too many requests are under way. Repeat this one a little later."
    return Problem(429, "rate_limit_exceeded", message, headers=[retry_after(1)])
