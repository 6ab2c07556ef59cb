"""How much is read of a server that may say anything, and for how long."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mailqueue.queue.beanstalkd import replies
from mailqueue.queue.beanstalkd.replies import Replies, number, numbers
from tests.for_each import for_each


class Drip:
    """A socket that gives a byte a second, for ever."""

    def __init__(self, word: bytes = b"x") -> None:
        self.now = 0.0
        self._word = word
        self.given = 0
        self.limit: float | None = None
        self.settings = 0

    def clock(self) -> float:
        return self.now

    def settimeout(self, seconds: float) -> None:
        self.limit = seconds
        self.settings += 1

    def gettimeout(self) -> float | None:
        return self.limit

    def recv_into(self, buffer: memoryview) -> int:
        buffer[:1] = self._word[self.given % len(self._word) :][:1]
        self.given += 1
        self.now += 1
        return 1


@contextmanager
def saying(what: bytes) -> Iterator[Replies]:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(what)
        heard = Replies(here)
        heard.within(0.05)
        yield heard
        heard.close()


@for_each("read", [Replies.line, lambda heard: heard.body(1000)])
def test_replies_that_drip_are_given_up_when_their_time_is_over(
    read: Callable[[Replies], object],
) -> None:
    drip = Drip()
    heard = Replies(drip, drip.clock)  # type: ignore[arg-type]  # as much of a socket as it takes
    heard.within(5)
    with pytest.raises(TimeoutError):
        read(heard)
    assert drip.given == 5
    assert drip.limit == 1  # so the last byte was not waited for beyond its time


def test_a_time_out_is_not_set_where_the_sockets_own_is_about_right() -> None:
    drip = Drip(b"OK\r\n")
    drip.limit = 5.0
    heard = Replies(drip, drip.clock)  # type: ignore[arg-type]  # as much of a socket as it takes
    heard.within(5.02)
    assert heard.line() == [b"OK"]
    assert drip.settings == 2  # not for the first two of four bytes


def test_the_time_is_for_all_replies_together() -> None:
    drip = Drip(b"OK\r\n")
    heard = Replies(drip, drip.clock)  # type: ignore[arg-type]  # as much of a socket as it takes
    heard.within(10)
    assert (heard.line(), heard.line()) == ([b"OK"], [b"OK"])
    with pytest.raises(TimeoutError):
        heard.line()


def test_a_line_without_an_end_is_cut_off() -> None:
    with saying(b"a" * 50_000) as heard, pytest.raises(ConnectionError):
        heard.line()


@for_each("size", [0, 24, replies.BODY])
def test_a_body_ends_where_its_size_says(size: int) -> None:
    with saying(b"b" * size + b"\r\nOK\r\n") as heard:
        assert heard.body(size) == b"b" * size + b"\r\n"
        assert heard.line() == [b"OK"]


@for_each("size", [3, 5])
def test_a_body_of_another_size_is_none(size: int) -> None:
    with saying(b"body\r\nOK\r\n") as heard, pytest.raises(ValueError):
        heard.body(size)


def test_a_strangers_large_body_is_passed_over_but_not_kept() -> None:
    size = replies.BODY + 1
    with saying(b"b" * size + b"\r\nOK\r\n") as heard:
        assert heard.body(size) == b""
        assert heard.line() == [b"OK"]


def test_of_what_is_too_large_not_one_byte_is_read() -> None:
    with saying(b"") as heard, pytest.raises(ValueError):
        heard.body(8_000_000_000)


@for_each("word", [b"", b"-1", b"+1", b"1_0", b" 1", b"0x1", b"1.0", "٣".encode(), b"9" * 21])
def test_a_number_is_digits_and_no_more_of_them_than_the_protocol_has(word: bytes) -> None:
    assert number(b"18446744073709551615") == 2**64 - 1
    with pytest.raises(ValueError):
        number(word)


def test_numbers_stand_beside_their_names() -> None:
    told = b'---\ncurrent-jobs-ready: 7\nversion: "1.12"\ndraining: false\nnonsense\n'
    assert numbers(told) == {"current-jobs-ready": 7, "version": "1.12", "draining": "false"}
