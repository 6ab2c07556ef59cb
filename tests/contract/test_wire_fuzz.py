"""Whatever bytes come for an answer: it is read within bounds, and is a yes only if it is one."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors import load
from mailqueue.vendors.http import HttpVendor, Response
from mailqueue.vendors.wire import connection
from mailqueue.vendors.wire.connection import Connection
from mailqueue.vendors.wire.deadline import Call
from mailqueue.vendors.wire.response import (
    MAX_BODY,
    MAX_LINES,
    MAX_VALUE,
    BadResponse,
    Head,
    Incoming,
    ResponseReader,
)
from mailqueue.vendors.wire.transport import RawResponse, Request, Transport
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.test_fuzz import attempt, bounded, check

AT_A_TIME = 65_536
each_vendor = pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])


class Source:
    """Gives these bytes in pieces of these sizes, and counts what was asked for."""

    def __init__(self, octets: bytes, sizes: Sequence[int] = ()) -> None:
        self.left, self.sizes = memoryview(octets), iter(sizes)
        self.calls = 0
        self.given = 0

    def __call__(self, most: int) -> bytes:
        self.calls += 1
        piece = bytes(self.left[: min(most, next(self.sizes, most))])
        self.left = self.left[len(piece) :]
        self.given += len(piece)
        return piece


Outline = tuple[int, Mapping[str, str], bytes, bool]


def read(source: Source) -> Outline:
    """Status, headers, body and whether it was read to its end; status 0: it is no answer."""
    response = ResponseReader(Incoming(source))
    head: Head | None = None
    try:
        head = response.final()
        response.read()
    except (BadResponse, ConnectionError):
        pass
    status, headers = (head.status, head.headers) if head else (0, {})
    return status, headers, bytes(response.body), response.clean


# --- the reader

STATUS_LINES = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 102 P\r\n", b"HTTP/1.1 204 N\r\n"),
    *(b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 503 No\n", b"HTTP/1.1 101 S\r\n", b"HTTP/2 2\r\n"),
]
HEADERS = [
    *(b"Content-Length: 2\r\n", b"Content-Length: 1\r\n", b"Content-Length:\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b" folded\r\n"),
    *(b"X: y\r\n", b"X : y\r\n"),
]
PIECES = [
    *(b"\r\n", b"\n", b"\r", b"{}", b"2\r\n{}\r\n", b"0\r\n\r\n", b"0\r\n"),
    *(b"ffffffff\r\n", b"\x00"),
]
octets = st.lists(
    st.sampled_from([*STATUS_LINES, *HEADERS, *PIECES]) | st.binary(max_size=4), max_size=14
).map(b"".join)
answers = st.builds(lambda line, rest: line + rest, st.sampled_from(STATUS_LINES), octets) | octets
sizes = st.lists(st.integers(1, 7), max_size=60)
NAMES = st.from_regex(r"x-[a-z]{1,5}", fullmatch=True)
VALUES = st.from_regex(r"([!-~]([ -~]{0,9}[!-~])?)?", fullmatch=True)


@given(octets=answers, sizes=sizes)
@settings(bounded, max_examples=400)
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(octets: bytes, sizes: list[int]) -> None:
    whole, pieces = Source(octets), Source(octets, sizes)
    found = read(whole)
    status, _, body, clean = found
    assert read(pieces)[:3] == found[:3]
    if clean:
        assert not whole.left
        assert status >= 200
        assert octets.endswith(body) or b"chunked" in octets
    assert len(body) <= MAX_BODY


@given(
    interim=st.lists(st.sampled_from([100, 102, 103, 199]), max_size=3),
    status=st.integers(200, 599).filter(lambda s: s not in (204, 205, 304)),
    headers=st.dictionaries(NAMES, VALUES, max_size=4),
    chunks=st.none() | st.lists(st.binary(min_size=1, max_size=9), max_size=4),
    body=st.binary(max_size=30),
    sizes=sizes,
)  # fmt: skip
@settings(bounded, max_examples=200)
def test_what_a_server_says_properly_is_understood_to_the_last_byte(
    interim: list[int],
    status: int,
    headers: dict[str, str],
    chunks: list[bytes] | None,
    body: bytes,
    sizes: list[int],
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    octets = b"".join(b"HTTP/1.1 %d\r\n%b\r\n" % (each, lines) for each in interim)
    octets += b"HTTP/1.1 %d A reason\r\n%b" % (status, lines)
    if chunks is None:
        octets += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    else:
        body = b"".join(chunks)
        octets += b"Transfer-Encoding: Chunked\r\n\r\n"
        octets += b"".join(b"%x;a=b\r\n%b\r\n" % (len(each), each) for each in chunks)
        octets += b"0\r\nTrailer: x\r\n\r\n"
    found = read(Source(octets, sizes))
    assert found[0] == status
    assert all(found[1][name] == value for name, value in headers.items())
    assert found[2:] == (body, True)


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "interim answers": (b"", b"HTTP/1.1 102 P\r\n\r\n"),
    "headers": (HEAD, b"X-A: b\r\n"),
    "a header": (HEAD + b"X-A: ", b"b"),
    "a folded header": (HEAD + b"X-A: b\r\n", b" b\r\n"),
    "lines without anything": (HEAD, b"\n"),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n"),
    "a chunk": (CHUNKED + b"ffffffff\r\n", b"x"),
    "a chunk's size": (CHUNKED, b"0"),
    "a chunk's extension": (CHUNKED + b"1;", b"x"),
    "trailers": (CHUNKED + b"0\r\n", b"X-A: b\r\n"),
    "a body of a length": (HEAD + b"Content-Length: 999999999999999\r\n\r\n", b"x"),
    "a body up to the end": (HEAD + b"\r\n", b"x"),
}


@pytest.mark.parametrize("head,octets", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("size", [AT_A_TIME, 999])
def test_of_what_has_no_end_only_so_much_is_read(head: bytes, octets: bytes, size: int) -> None:
    much = 3 * (MAX_BODY + MAX_LINES)
    source = Source(head + octets * (much // len(octets)), [size] * much)
    _, _, body, clean = read(source)
    assert not clean or octets == b"\n"
    assert len(body) <= MAX_BODY
    assert source.given <= MAX_BODY + MAX_LINES + 2 * AT_A_TIME
    assert source.calls <= source.given // size + 2


# --- the vendors


class Wired:
    """Connections on which these bytes have come already; then the end. ``theirs`` stays open."""

    theirs: socket.socket

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def __call__(self, _url: Any, _authorities: str, _proxy: Any, call: Call) -> Connection:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        theirs.sendall(self.octets)
        theirs.shutdown(socket.SHUT_WR)
        self.theirs = theirs
        call.attach(ours)
        return Connection(ours)


def made(case: Case) -> HttpVendor:
    config = VendorConfig(
        name="first", type=case.type, keys=case.keys, base_url="http://127.0.0.1:1"
    )
    vendor = load(config, simulated=False)
    assert isinstance(vendor, HttpVendor)
    return vendor


def framed(case: Case, status: int, body: bytes) -> bytes:
    given = "".join(f"{n}: {v}\r\n" for n, v in case.accepted.headers.items()).encode()
    return b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b" % (status, given, len(body), body)


@st.composite
def torn(draw: st.DrawFn, case: Case) -> bytes:
    """The documented acceptance, torn: something of it is missing, or other bytes are put in."""
    whole = framed(case, case.accepted.status, case.accepted.body)
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    return whole[:start] + draw(octets) + whole[end:]


@each_vendor
@given(data=st.data())
@settings(
    bounded,
    max_examples=60,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.generate],
)
def test_any_bytes_are_a_result_and_a_yes_only_if_the_answer_says_so(
    case: Case, data: st.DataObject, plain: Email, monkeypatch: pytest.MonkeyPatch
) -> None:
    octets = data.draw(torn(case) | answers)
    wired = Wired(octets)
    monkeypatch.setattr(connection, "dial", wired)
    vendor = made(case)
    result = vendor.send(plain, attempt())
    vendor.close()
    wired.theirs.close()
    check(result, plain)
    if result.outcome is Outcome.ACCEPTED:
        status, headers, body, _ = read(Source(octets))
        raw = RawResponse(status, headers, body)
        assert re.search(rb"HTTP/1\.\d %d[ \r\n]" % status, octets)
        assert status == case.accepted.status
        assert vendor.parse(Response(raw), plain).outcome is Outcome.ACCEPTED


def test_of_an_answer_that_unpacks_to_very_much_only_the_beginning_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compressed though we ask for none."""
    for number, kept in ((10, 12), (20_000_000, MAX_BODY)):
        packed = gzip.compress(b" " * number + b"{}")
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        wired = Wired(head % len(packed) + packed)
        monkeypatch.setattr(connection, "dial", wired)
        transport = Transport("http://127.0.0.1:1")
        raw = transport.post(Request("/", b"", {}), time.monotonic() + 5, 5)
        assert len(raw.body) == kept
        transport.close()
        wired.theirs.close()


# --- what JSON can hold

HOSTILE = {
    "no number": b"NaN",
    "infinity": b"-Infinity",
    "a huge number": b"9" * 4000,
    "a number beyond all": b"9" * 50_000,
    "a huge fraction": b"1e" + b"9" * 4000,
    "half a letter": rb'"\ud800"',
    "the other half": rb'"x\udfff"',
    "nothing to be seen": rb'"\u0000\u200b\u202e"',
    "very much": b'"' + b"a" * 200_000 + b'"',
    "very many lines": b'"' + rb"\n" * 100_000 + b'"',
    "very deep": b"[" * 20_000 + b"]" * 20_000,
    "deep": b"[" * 400 + b"]" * 400,
    "very many": b"[" + b"0," * 20_000 + b"0]",
    "very many names": b'{"a":0' + b',"a":1' * 20_000 + b"}",
}


def _bodies(document: Any, hostile: bytes) -> Iterator[bytes]:
    """The document with each of its values replaced, and once more under the same name."""
    for path in _paths(document):
        marked = json.dumps(_put(document, path, "@@")).encode()
        yield marked.replace(b'"@@"', hostile)
    if isinstance(document, dict):
        whole = json.dumps(document)[1:-1].encode()
        for name in document:
            yield b"{%b,%b:%b}" % (whole, json.dumps(name).encode(), hostile)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    parts: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    parts = enumerate(value) if isinstance(value, list) else parts
    for key, part in parts:
        yield from _paths(part, (*path, key))


def _put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = _put(document[path[0]], path[1:], value)
    return copy


@each_vendor
def test_hostile_json_anywhere_in_an_answer_is_a_result(
    case: Case, plain: Email, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = made(case)
    replies = (case.accepted, *(row.reply for row in case.rows[:3]))
    for reply in replies:
        document = json.loads(reply.body) if reply.body.startswith((b"{", b"[")) else {}
        for hostile in HOSTILE.values():
            for body in _bodies(document, hostile):
                answer = Response(RawResponse(reply.status, reply.headers, body))
                assert isinstance(vendor.parse(answer, plain), SendResult)


@each_vendor
def test_no_text_in_an_answer_is_longer_than_patterns_are_let_to_see(
    case: Case, plain: Email
) -> None:
    text = "a" * MAX_BODY
    answer = Response(RawResponse(400, {}, json.dumps({text: [text, {"message": text}]}).encode()))
    ((name, (first, second)),) = answer.object.items()
    assert {len(word) for word in (name, first, second["message"])} == {MAX_VALUE}
    assert len(answer.text) == MAX_VALUE
