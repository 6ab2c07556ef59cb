"""A beanstalkd that says anything at all: nothing is raised but what is documented."""

from __future__ import annotations

import contextlib
import socket
import tracemalloc
from collections.abc import Iterator
from unittest import mock

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from mailqueue.errors import QueueUnavailable
from mailqueue.queue.beanstalkd.tube import Connection
from mailqueue.queue.broker import BURIED, Announcement, Job, release_end

bounded = settings(derandomize=True, database=None, deadline=None)
GREETINGS = b"USING t\r\nWATCHING 2\r\nWATCHING 1\r\n"
JOB = b"%d 24\r\n" + b"a" * 24 + b"\r\n"
WORDS = (
    b"RESERVED INSERTED DELETED RELEASED BURIED TIMED_OUT NOT_FOUND OK USING WATCHING KICKED FOUND"
    b" DEADLINE_SOON DRAINING INTERNAL_ERROR OUT_OF_MEMORY JOB_TOO_BIG BAD_FORMAT EXPECTED_CRLF"
).split()
NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.integers(-3, 30)
    | st.sampled_from([-2, -1, 65_536, 8_000_000_000])
)

lines = st.builds(
    lambda word, rest: b" ".join([word, *rest]) + b"\r\n",
    st.sampled_from(WORDS),
    st.lists(NUMBERS.map(lambda n: b"%d" % n) | st.binary(max_size=5), max_size=3),
)
jobs = st.integers(0, 9).map(lambda n: b"RESERVED " + JOB % n)
stats = st.builds(
    lambda text, size: b"OK %d\r\n%b\r\n" % (len(text) if size is None else size, text),
    st.binary(max_size=40) | st.just(b"---\ncurrent-jobs-ready: 3\n"),
    st.none() | NUMBERS,
)
said = st.lists(lines | jobs | stats | st.binary(max_size=30), max_size=12).map(b"".join)
asked = st.lists(st.sampled_from(["reserve", "put", "end", "stats", "server"]), max_size=6)


@contextlib.contextmanager
def connected_to(
    replies: bytes, greetings: bytes = GREETINGS, timeout: float = 0.5
) -> Iterator[Connection]:
    """A connection whose server has said all this already, and hangs up."""
    here, there = socket.socketpair(socket.AF_UNIX)
    there.sendall(greetings + replies)
    there.shutdown(socket.SHUT_WR)
    with there, mock.patch("socket.create_connection", return_value=_Tcp(fileno=here.detach())):
        made = Connection("127.0.0.1:1", "t", timeout)
        try:
            yield made
        finally:
            made.close()


class _Tcp(socket.socket):
    """A local socket that takes TCP's options."""

    def setsockopt(self, *_: object) -> None: ...


def ask(connection: Connection, what: str, held: list[Job]) -> None:
    if what == "reserve":
        held += connection.reserve(0, 3)
    elif what == "put":
        connection.put([Announcement(ObjectId(), 1)] * 2, 180)
    elif what == "end" and held:
        job = held.pop()
        connection.end({job: release_end(512, 1)})
        connection.flush()
    elif what == "stats":
        assert all(count >= 0 for count in connection.stats().values())
    elif what == "server":
        connection.server_stats()


@settings(bounded, max_examples=400)
@given(said, asked)
def test_whatever_a_server_says_is_an_answer_or_the_queue_is_unavailable(
    replies: bytes, commands: list[str]
) -> None:
    with connected_to(replies) as connection:
        held: list[Job] = []
        for command in commands:
            with contextlib.suppress(QueueUnavailable):
                ask(connection, command, held)


@settings(bounded, max_examples=100)
@given(said)
def test_whatever_a_server_greets_with_is_a_greeting_or_the_queue_is_unavailable(
    greetings: bytes,
) -> None:
    with contextlib.suppress(QueueUnavailable), connected_to(b"", greetings):
        pass


LIES = {
    "a job of 8 GB": b"RESERVED 1 8000000000\r\n" + b"x" * 200_000,
    "a job of less than nothing": b"RESERVED 1 -3\r\n" + b"x" * 200_000,
    "a job of 20 digits": b"RESERVED 1 99999999999999999999\r\n" + b"x" * 200_000,
    "a line without an end": b"RESERVED " + b"1" * 200_000,
    "a line of many words": b"RESERVED " + b"1 " * 100_000 + b"\r\n",
    "two jobs in one": b"RESERVED " + JOB % 7 + b"RESERVED " + JOB % 7,
    "numbers instead of a job": b"OK 100000\r\n" + b"x" * 200_000,
    "an answer to another question": b"INSERTED 1\r\n",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_ends_the_connection_and_takes_no_memory(lie: bytes) -> None:
    with connected_to(lie) as connection:
        tracemalloc.start()
        with pytest.raises(QueueUnavailable):
            connection.reserve(0, 2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert connection.broken
        assert peak < 256 * 1024


def test_numbers_of_8_gb_are_no_numbers() -> None:
    for ask_for in (Connection.stats, Connection.server_stats):
        with connected_to(b"OK 8000000000\r\n") as connection:
            with pytest.raises(QueueUnavailable):
                ask_for(connection)
            assert connection.broken


def test_a_put_is_not_done_because_something_was_not_found() -> None:
    with connected_to(b"NOT_FOUND\r\n") as connection, pytest.raises(QueueUnavailable):
        connection.put([Announcement(ObjectId(), 1)], 180)


def test_a_job_too_large_for_any_of_ours_is_a_strangers() -> None:
    """A server may have been told to take such (-z): it must not stop what comes behind it."""
    large = b"RESERVED 3 70000\r\n" + b"x" * 70_000 + b"\r\n"
    with connected_to(large + b"RESERVED " + JOB % 4 + b"BURIED\r\n") as connection:
        stranger, mine = connection.reserve(0, 2)
        assert (stranger.email_id, str(mine.email_id)) == (None, "a" * 24)
        connection.end({stranger: BURIED})
        connection.flush()
        assert not connection.broken
