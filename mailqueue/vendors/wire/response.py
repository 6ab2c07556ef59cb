"""One HTTP response off the wire, read strictly and within bounds.

Decides: what is a response, where it ends, and whether the connection may carry another one. The
standard library's client is lenient where it matters here. It takes a 102 for the response, the end
of the connection for the end of the headers, and the first of two lengths. What is left over is
then the "response" to the next e-mail.

Assumes: ``receive`` gives bytes as ``socket.recv`` does, and ``b""`` at the connection's end.

Promises: what is not HTTP raises BadResponse, an end that comes too early ConnectionError, and
nothing else is raised except what ``receive`` raises. All lines together (of interim responses,
headers, chunk sizes, trailers) have at most 64 KiB, a body 1 MiB. The work is linear in what came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from requests.structures import CaseInsensitiveDict

MAX_LINES = 64 * 1024
MAX_BODY = 1024 * 1024
MAX_VALUE = 4096  # characters of a header's value or of a text in the body

_READ_SIZE = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_FOLDED = re.compile(rb"[ \t]+([^\x00-\x08\x0a-\x1f\x7f]*)")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", re.DOTALL)
_LENGTH = re.compile(r"[0-9]{1,15}")
_NO_BODY = {204, 205, 304}


class BadResponse(Exception):
    """What came is not HTTP, or far too much."""


class Incoming:
    """The bytes that a connection brings. ``began``: some came since it was last set to False."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self.began = False

    def __bool__(self) -> bool:
        """True if something was received and not yet read."""
        return bool(self._buffer)

    def fill(self) -> bool:
        """Receive some more; False at the connection's end."""
        octets = self._receive(_READ_SIZE)
        self._buffer += octets
        self.began = self.began or bool(octets)
        return bool(octets)

    def line(self, most: int) -> bytes:
        """The next line with its end, if that came before the connection's."""
        start = 0  # what is before it has no line end, and need not be searched again
        while (at := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if start > most or not self.fill():
                at = start - 1
                break
        if at >= most:
            raise BadResponse("too many lines")
        return self._pop(at + 1)

    def read(self, number: int) -> bytes:
        """``number`` bytes; fewer if the connection ends."""
        while len(self._buffer) < number and self.fill():
            pass
        return self._pop(number)

    def _pop(self, number: int) -> bytes:
        octets = bytes(self._buffer[:number])
        del self._buffer[:number]
        return octets


@dataclass(frozen=True, slots=True, repr=False)
class Head:
    """Status and headers. ``fields`` has every header with its name in lower case, in order."""

    status: int
    minor: int
    fields: tuple[tuple[str, str], ...]

    @property
    def is_interim(self) -> bool:
        """True for 1xx: the response itself is yet to come."""
        return self.status < 200

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers by name, in whatever case; of a repeated one the first."""
        return CaseInsensitiveDict(reversed(self.fields))

    @property
    def is_persistent(self) -> bool:
        """Whether the server keeps the connection open, as far as the headers say."""
        return self.minor >= 1 and "close" not in self.tokens("connection")

    def tokens(self, name: str) -> list[str]:
        """The elements of a header that is a list, in lower case."""
        values = (value for field, value in self.fields if field == name)
        return [token.strip().lower() for value in values for token in value.split(",")]


class ResponseReader:
    """Reads one response as it comes in. ``body`` is what came of the body so far.

    ``clean``: the response was read to its declared end, so another one may follow.
    """

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._spare = MAX_LINES
        self._final: Head | None = None
        self.body = bytearray()
        self.clean = False

    def final(self) -> Head:
        """The head of the response itself, after interim ones."""
        while self._final is None:
            self._advance()
        return self._final

    def has_begun(self) -> bool:
        """Whether the head of the response itself has come, at least its first bytes."""
        while self._final is None and self._incoming:
            self._advance()
        return self._final is not None

    def _advance(self) -> None:
        head = self._head()
        self._final = None if head.is_interim else head

    def _head(self) -> Head:
        """The next head, which may be interim: status and headers, whole."""
        minor, status = self._status()
        # 101 ends HTTP on this connection: what follows would be read as the next response.
        if status == 101:
            raise BadResponse("another protocol, which nobody asked for")
        fields: list[tuple[str, str]] = []
        while line := self._line():
            if (folded := _FOLDED.fullmatch(line)) and fields:  # obsolete, but still sent
                name, value = fields.pop()
                fields.append((name, f"{value} {_text(folded[1])}"[:MAX_VALUE]))
            elif field := _FIELD.fullmatch(line):
                fields.append((field[1].decode("ascii").lower(), _text(field[2])))
            else:
                raise BadResponse("not a header")
        return Head(status, minor, tuple(fields))

    def read(self) -> None:
        """Read the body into ``body``, which keeps what came before an error."""
        head = self.final()
        codings, lengths = head.tokens("transfer-encoding"), set(head.tokens("content-length"))
        if head.status in _NO_BODY:  # one may come all the same, so it is not ``clean``
            return
        # The three ways in which a body ends (RFC 9112, 6.3). With both a coding and a length, the
        # coding counts; a proxy on the way may have read the length, so the connection is not used
        # again.
        if codings:
            if codings != ["chunked"] or not head.minor:
                raise BadResponse("a transfer coding that was not asked for")
            self._chunks()
        elif lengths:
            if len(lengths) > 1 or not _LENGTH.fullmatch(length := lengths.pop()):
                raise BadResponse("no length, or several")
            self._octets(int(length))
        else:
            self.body += self._incoming.read(MAX_BODY + 1)
            self._check_size()
            return
        self.clean = head.is_persistent and not (codings and lengths) and not self._incoming

    def _status(self) -> tuple[int, int]:
        line = self._incoming.line(self._spare)
        if not line or (line.startswith(b"HTTP/") and not line.endswith(b"\n")):
            raise ConnectionAbortedError("ended before the answer")
        self._spare -= len(line)
        match = _STATUS.fullmatch(_without_end(line))
        if not match:
            raise BadResponse("not HTTP/1")
        return int(match[1]), int(match[2])

    def _line(self) -> bytes:
        """A whole line without its end."""
        line = self._incoming.line(self._spare)
        self._spare -= len(line)
        if not line.endswith(b"\n"):
            raise ConnectionAbortedError("ended within the answer")
        return _without_end(line)

    def _octets(self, number: int) -> None:
        size = min(number, MAX_BODY + 1 - len(self.body))  # one too many shows that it is too long
        octets = self._incoming.read(size)
        self.body += octets
        if len(octets) < size:
            raise ConnectionAbortedError("ended within the body")
        self._check_size()

    def _check_size(self) -> None:
        if len(self.body) > MAX_BODY:
            del self.body[MAX_BODY:]
            raise BadResponse("a body without end")

    def _chunks(self) -> None:
        while size := self._size():
            self._octets(size)
            if self._line():
                raise BadResponse("a chunk longer than its size")
        while self._line():
            pass

    def _size(self) -> int:
        match = _SIZE.fullmatch(self._line())
        if not match:
            raise BadResponse("a chunk without a size")
        return int(match[1], 16)


def _without_end(line: bytes) -> bytes:
    return line[:-2] if line.endswith(b"\r\n") else line[:-1]


def _text(octets: bytes) -> str:
    return octets.decode("latin-1").strip(" \t")[:MAX_VALUE]
