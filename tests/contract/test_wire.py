"""Which answer belongs to which e-mail, on raw sockets: plain ones and TLS.

The vendor is SendGrid, where the status alone is the yes: what is taken for an answer to an e-mail
there decides. Each server here is a function that has the connection to itself.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import trustme

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.sendgrid import SendGrid
from mailqueue.vendors.wire import idle
from tests.contract import sendgrid
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HOST, HttpServer, Wire, hang
from tests.waiting import wait_until

YES = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
NO = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}"
LARGE = 8_000_000

Talk = Callable[[socket.socket], None]
Serve = Callable[[Talk], SendGrid]


@pytest.fixture(params=["plain", "tls"])
def serve(
    request: pytest.FixtureRequest, authority: trustme.CA, vendor: Vendors, tmp_path: Any
) -> Iterator[Serve]:
    """``serve(talk)``: a vendor whose server talks so on each connection."""
    secured = request.param == "tls"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    with ExitStack() as stack:

        def make(talk: Talk) -> SendGrid:
            def on_connect(wire: Wire) -> None:
                sock = wire.sock
                if secured:
                    sock = context.wrap_socket(sock, server_side=True)
                stack.callback(_shut, sock)  # the server cannot: TLS took its descriptor over
                with sock, contextlib.suppress(OSError):
                    talk(sock)

            server = stack.enter_context(HttpServer(hang, on_connect=on_connect))
            url = server.url.replace("http:", "https:") if secured else server.url
            keys = sendgrid.CASE.keys
            made = vendor("sendgrid", base_url=url, keys=keys, ca_file=str(trusted))
            assert isinstance(made, SendGrid)
            return made

        yield make


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def read_request(sock: socket.socket) -> None:
    """One whole request, and nothing of the next."""
    octets = b""
    while b"\r\n\r\n" not in octets:
        octets += _some(sock)
    head, _, body = octets.partition(b"\r\n\r\n")
    (length,) = (line[16:] for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
    missing = int(length) - len(body)
    while missing:
        missing -= len(_some(sock, missing))


def _some(sock: socket.socket, most: int = 65536) -> bytes:
    octets = sock.recv(most)
    if not octets:
        raise ConnectionError
    return octets


def answers(*each: bytes) -> Talk:
    """Answers the first requests of all connections so, and refuses all others."""
    left = iter(each)

    def talk(sock: socket.socket) -> None:
        while True:
            read_request(sock)
            sock.sendall(next(left, NO))

    return talk


@pytest.fixture
def large(plain: Email) -> Email:
    content = b"\x00" * LARGE
    file = {"filename": "a.bin", "content": content, "content_type": "application/octet-stream"}
    return Email.from_mapping({**plain.to_mapping(), "attachments": [file]})


# --- interim answers


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
@pytest.mark.parametrize("times", [1, 20])
def test_interim_answers_are_not_the_answer(
    status: bytes, times: int, serve: Serve, plain: Email, attempt: Attempts
) -> None:
    interim = b"HTTP/1.1 " + status + b"\r\nLink: </a>\r\n\r\n"
    made = serve(answers(interim * times + YES, NO))
    results = [made.send(plain, attempt()).outcome for _ in range(2)]
    assert results == [Outcome.ACCEPTED, Outcome.UNSUITABLE]


def test_a_switch_to_another_protocol_is_no_answer_and_ends_the_connection(
    serve: Serve, plain: Email, attempt: Attempts
) -> None:
    made = serve(answers(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + YES, NO))
    first, second = (made.send(plain, attempt()) for _ in range(2))
    assert first == SendResult(outcome=Outcome.UNKNOWN, code="bad_answer", answered=False)
    assert second.outcome is Outcome.UNSUITABLE


# --- what stands behind an answer is never the answer to the next e-mail

CHUNKED = b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n"
CLOSED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: "
FOLLOWED = {
    "two answers at once": YES + YES,
    "a body after a 204": b"HTTP/1.1 204 No Content\r\n\r\n" + YES,
    "a body after a 204 with its length": b"HTTP/1.1 204 No\r\nContent-Length: 45\r\n\r\n" + YES,
    "a body after a 205": b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n" + YES,
    "a body after a 304": b"HTTP/1.1 304 Not Modified\r\n\r\n" + YES,
    "too short a length": b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}" + YES,
    "two lengths": b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nContent-Length: 45\r\n\r\n"
    + YES,
    "two lengths in one": b"HTTP/1.1 202 Accepted\r\nContent-Length: 0, 45\r\n\r\n" + YES,
    "a negative length": b"HTTP/1.1 202 Accepted\r\nContent-Length: -1\r\n\r\n" + YES,
    "a length with a sign": b"HTTP/1.1 202 Accepted\r\nContent-Length: +0\r\n\r\n" + YES,
    "rubbish behind the chunks": CHUNKED + b"\r\n0\r\n\r\n" + YES,
    "a chunk that is too long": CHUNKED + b"\r\n2\r\n{}" + YES,
    "a chunk size that is none": CHUNKED + b"\r\n0x0\r\n\r\n" + YES,
    "chunks and a length": CHUNKED + b"Content-Length: 0\r\n\r\n0\r\n\r\n" + YES,
    "chunked twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + YES,
    "another coding": b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: gzip\r\n\r\n" + YES,
    "blank behind a header's name": b"HTTP/1.1 202 Accepted\r\nContent-Length : 0\r\n\r\n" + YES,
    "a header without colon": b"HTTP/1.1 202 Accepted\r\nrubbish\r\n\r\n" + YES,
    "a lone CR in a header": b"HTTP/1.1 202 Accepted\r\nA: b\rContent-Length: 0\r\n\r\n" + YES,
    "a lone CR in the status": b"HTTP/1.1 202 Yes\rContent-Length: 0\r\n\r\n" + YES,
    "a folded length": b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n 5\r\n\r\n" + YES,
    "HTTP/1.0": YES.replace(b"HTTP/1.1", b"HTTP/1.0") + YES,
    "a close": CLOSED + b"close\r\n\r\n" + YES,
    "a close among others": CLOSED + b"keep-alive, Close\r\n\r\n" + YES,
    "one more line end": YES + b"\r\n",
}


@pytest.mark.parametrize("octets", FOLLOWED.values(), ids=FOLLOWED)
def test_what_follows_an_answer_is_not_that_to_the_next_email(
    octets: bytes, serve: Serve, plain: Email, attempt: Attempts
) -> None:
    made = serve(answers(octets, NO))
    made.send(plain, attempt())
    assert made.send(plain, attempt()).outcome is Outcome.UNSUITABLE


@pytest.mark.parametrize("late", [YES, b"\r\n", b"x", b""], ids=["yes", "line", "byte", "end"])
@pytest.mark.parametrize("first", [YES, CHUNKED + b"\r\n0\r\n\r\n"], ids=["length", "chunks"])
def test_what_comes_between_two_emails_is_not_the_answer_to_the_second(
    first: bytes, late: bytes, serve: Serve, plain: Email, attempt: Attempts
) -> None:
    seen, answered = [], threading.Event()

    def talk(sock: socket.socket) -> None:
        seen.append(sock)
        if len(seen) > 1:
            answers(NO)(sock)
        read_request(sock)
        sock.sendall(first)
        answered.wait(5)
        sock.sendall(late)
        if late:
            hold(sock)

    made = serve(talk)
    assert made.send(plain, attempt()).outcome is Outcome.ACCEPTED
    kept = made.transport._connection
    assert kept is not None
    assert kept.is_quiet()
    answered.set()
    wait_until(lambda: bool(kept._ready_events(select.POLLIN, 0)), 5)
    assert made.send(plain, attempt()).outcome is Outcome.UNSUITABLE
    assert len(seen) == 2


@pytest.mark.parametrize(
    "octets",
    [
        YES,
        CHUNKED + b"\r\n2;a=b\r\n{}\r\n0\r\nTrailer: x\r\n\r\n",
        YES.replace(b"Length: 0", b"Length: 0\r\nContent-Length: 0"),
        YES.replace(b"\r\n", b"\n"),
    ],
    ids=["length", "chunks", "length twice alike", "bare line feeds"],
)
def test_a_connection_in_step_is_used_again(
    octets: bytes, serve: Serve, plain: Email, attempt: Attempts
) -> None:
    seen: list[socket.socket] = []

    def talk(sock: socket.socket) -> None:
        seen.append(sock)
        answers(*[octets] * 3)(sock)

    made = serve(talk)
    results = [made.send(plain, attempt()).outcome for _ in range(3)]
    assert results == [Outcome.ACCEPTED] * 3
    assert len(seen) == 1


def test_an_answer_that_is_not_understood_ends_the_connection(
    serve: Serve, plain: Email, attempt: Attempts
) -> None:
    made = serve(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", NO))
    assert made.send(plain, attempt()).outcome is Outcome.UNKNOWN
    assert made.transport._connection is None


# --- without end

HEAD = b"HTTP/1.1 202 Accepted\r\n"
ENDLESS = {
    "interim answers": (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "headers": (HEAD, b"X-A: b\r\n"),
    "a header": (HEAD + b"X-A: ", b"b"),
    "a folded header": (HEAD + b"X-A: b\r\n", b" b\r\n"),
    "a status line": (b"HTTP/1.1 202 ", b"x"),
    "no line": (b"", b"x"),
}


@pytest.mark.parametrize("head,octets", ENDLESS.values(), ids=ENDLESS)
def test_an_answer_without_end_is_cut_off(
    head: bytes, octets: bytes, serve: Serve, plain: Email, attempt: Attempts
) -> None:
    def talk(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(head)
        while True:
            sock.sendall(octets * (65536 // len(octets)))

    result = serve(talk).send(plain, attempt(30))
    assert result == SendResult(outcome=Outcome.UNKNOWN, code="bad_answer", answered=False)


# --- an answer before the e-mail is through


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def hold(sock: socket.socket) -> None:
    """Neither read nor close."""
    poll = select.poll()
    poll.register(sock, 0)
    poll.poll()


ENDS: dict[str, Callable[[socket.socket], None]] = {
    "no more is read": hold,
    "closed": socket.socket.close,
    "reset": reset,
}


def early(octets: bytes, then: Callable[[socket.socket], None] = hold) -> Talk:
    """Answers when a part of the request has come, and goes on otherwise than by reading it."""

    def talk(sock: socket.socket) -> None:
        _some(sock, 1000)
        sock.sendall(octets)
        then(sock)

    return talk


def refusal(status: int, more: str = "") -> bytes:
    body = '{"errors": [{"message": "no"}]}'
    return f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n{more}\r\n{body}".encode()


@pytest.mark.parametrize("then", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    "status,outcome",
    [
        (401, Outcome.MISCONFIGURED),
        (413, Outcome.UNSUITABLE),
        (429, Outcome.THROTTLED),
        (503, Outcome.UNAVAILABLE),
    ],
)
def test_a_refusal_before_a_large_email_is_through_is_an_answer(
    status: int,
    outcome: Outcome,
    then: Callable[[socket.socket], None],
    serve: Serve,
    large: Email,
    attempt: Attempts,
) -> None:
    made = serve(early(refusal(status, "Retry-After: 7\r\n"), then))
    result = made.send(large, attempt())
    assert (result.outcome, result.code, result.answered) == (outcome, str(status), True)
    assert (result.detail, result.retry_after) == ("no", 7.0)
    assert made.transport._connection is None


@pytest.mark.parametrize("then", ENDS.values(), ids=ENDS)
def test_a_yes_before_a_large_email_is_through_proves_nothing(
    then: Callable[[socket.socket], None], serve: Serve, large: Email, attempt: Attempts
) -> None:
    result = serve(early(YES, then)).send(large, attempt())
    assert result == SendResult(outcome=Outcome.UNKNOWN, code="early_answer", answered=False)


def test_a_large_email_is_read_to_its_end_though_interim_answers_come_before(
    serve: Serve, large: Email, attempt: Attempts
) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"

    def talk(sock: socket.socket) -> None:
        sock.sendall(interim)
        answers(YES, NO)(sock)

    made = serve(talk)
    results = [made.send(large, attempt()).outcome for _ in range(2)]
    assert results == [Outcome.ACCEPTED, Outcome.UNSUITABLE]


def test_a_refusal_right_behind_an_interim_answer_is_seen_before_the_email_is_through(
    serve: Serve, large: Email, attempt: Attempts
) -> None:
    octets = b"HTTP/1.1 102 Processing\r\n\r\n" + refusal(413)
    assert serve(early(octets)).send(large, attempt()).code == "413"


@pytest.mark.parametrize("then", [socket.socket.close, reset], ids=["closed", "reset"])
def test_half_a_head_before_a_large_email_is_through_is_no_answer(
    then: Callable[[socket.socket], None], serve: Serve, large: Email, attempt: Attempts
) -> None:
    result = serve(early(b"HTTP/1.1 413 No\r\nContent-Le", then)).send(large, attempt())
    assert result == SendResult(outcome=Outcome.UNKNOWN, code="connection_lost", answered=False)


def test_a_server_that_takes_no_more_and_says_nothing_is_waited_for_no_longer_than_configured(
    serve: Serve, large: Email, attempt: Attempts
) -> None:
    made = serve(hold)
    made.config = VendorConfig(name="first", type="sendgrid", keys=made.config.keys, timeout=0.2)
    result = made.send(large, attempt())
    assert result == SendResult(outcome=Outcome.UNKNOWN, code="read_timeout", answered=False)


# --- connections that idle

ONCE = SendResult(outcome=Outcome.UNKNOWN, code="connection_lost", answered=False)


def losing(sock: socket.socket) -> None:
    """Answers the first request of a connection, and closes when the second has come."""
    read_request(sock)
    sock.sendall(YES)
    read_request(sock)


class Clock:
    """A clock that is put forward by hand, instead of the vendor's own."""

    def __init__(self, made: SendGrid) -> None:
        self.now = 1000.0
        made.transport.clock = lambda: self.now

    def idle(self, seconds: float) -> None:
        self.now += seconds


def test_a_loss_after_idling_is_unknown_and_not_held_against_the_vendor(
    serve: Serve, plain: Email, attempt: Attempts
) -> None:
    made = serve(losing)
    assert made.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert made.send(plain, attempt()) == replace(ONCE, our_fault=True)


def test_a_loss_on_a_new_connection_or_within_an_answer_is_held_against_the_vendor(
    serve: Serve, plain: Email, attempt: Attempts
) -> None:
    assert serve(read_request).send(plain, attempt()) == ONCE

    def talk(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(YES)
        read_request(sock)
        sock.sendall(b"HTTP/1.1 ")

    made = serve(talk)
    assert made.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert made.send(plain, attempt()) == ONCE


def test_each_loss_halves_the_time_that_connections_of_the_host_may_idle_down_to_a_second(
    serve: Serve, plain: Email, attempt: Attempts
) -> None:
    made = serve(losing)
    clock = Clock(made)
    limits, blamed = [], []
    for _ in range(6):
        assert made.send(plain, attempt()).outcome is Outcome.ACCEPTED
        clock.idle(0.5)
        blamed.append(not made.send(plain, attempt()).our_fault)
        limits.append(made.transport._idle_limit.seconds(clock.now))
    assert limits == [10, 5, 2.5, 1.25, 1, 1]
    assert blamed == [False] * 5 + [True]


def test_a_learned_limit_is_obeyed_and_forgotten_with_time(
    serve: Serve, plain: Email, attempt: Attempts
) -> None:
    seen: list[socket.socket] = []

    def talk(sock: socket.socket) -> None:
        seen.append(sock)
        if len(seen) == 1:
            losing(sock)
        else:
            answers(*[YES] * 9)(sock)

    made = serve(talk)
    clock, used = Clock(made), []
    for pause in (0.0, 15.0, 0.0, 9.0, 11.0, 600.0, 19.0):
        clock.idle(pause)
        made.send(plain, attempt())
        used.append(len(seen))
    # Lost after 15 s, so after 11 s it is too old; ten minutes later 19 s are none too long.
    assert used == [1, 1, 2, 2, 3, 4, 4]


def test_losses_of_connections_that_idled_together_count_once() -> None:
    limit = idle.IdleLimit()
    assert limit.note_loss(since=100.0, now=106.0)
    assert limit.note_loss(since=101.0, now=106.5)
    assert limit.seconds(107.0) == 10
    assert [limit.seconds(106 + 600 * n) for n in (1, 2, 99)] == [20, 20, 20]


@pytest.mark.parametrize(
    "told,lasts",
    [("timeout=5", 4.0), ("timeout=5, max=100", 4.0), ('max=9, Timeout="2"', 1.0)],
)
def test_a_connection_is_not_used_for_as_long_as_the_server_says_that_it_keeps_it(
    told: str, lasts: float, serve: Serve, plain: Email, attempt: Attempts
) -> None:
    seen: list[socket.socket] = []
    octets = YES.replace(b"\r\n\r\n", f"\r\nKeep-Alive: {told}\r\n\r\n".encode())

    def talk(sock: socket.socket) -> None:
        seen.append(sock)
        answers(*[octets] * 9)(sock)

    made = serve(talk)
    clock = Clock(made)
    for pause in (0.0, lasts, lasts, lasts + 0.1):
        clock.idle(pause)
        made.send(plain, attempt())
    assert len(seen) == 2


def test_what_a_server_says_of_idling_is_read_with_care() -> None:
    for odd in ("", "timeout", "timeout=", "timeout=-1", "timeout=x", "max=5", "timeout=9999999"):
        assert idle.keep_alive_seconds([odd]) == math.inf
    assert idle.keep_alive_seconds(["timeout=0"]) == 0.0
    assert idle.keep_alive_seconds(["timeout=1"]) == 0.5
