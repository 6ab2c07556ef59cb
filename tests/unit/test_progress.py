"""The line that says how far a long verb has come."""

from __future__ import annotations

import io
import os
import termios
from itertools import count
from pty import openpty

import pytest

from mailqueue.cli.progress import Progress
from mailqueue.errors import InvalidEmail, StoreUnavailable
from tests.for_each import for_each

ERASE = "\r\x1b[K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> list[str]:
        """The lines, one after the other."""
        return self.getvalue().split(ERASE)[1:]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")


def at(columns: int, what: str, done: int, total: int | None, seconds: float) -> str:
    """The line when so many are done after so long."""
    os.environ["COLUMNS"] = str(columns)
    terminal, times = Terminal(), iter((0.0, 0.0, seconds))
    with Progress(what, total, terminal, lambda: next(times)) as progress:
        progress.advance(done)
    return terminal.shown[1]


def test_it_is_shown_ten_times_a_second_at_most_and_erased_at_the_end() -> None:
    terminal, times = Terminal(), (n / 100 for n in count())
    with Progress("retry", 200, terminal, lambda: next(times)) as progress:
        for _ in range(200):
            progress.advance(1)
    shown = terminal.shown
    assert len(shown) == 22
    assert shown[10] == "retry [############............] 102 of 200, 99/s, 0s to go"
    assert shown[-1] == ""


def test_the_rate_and_what_is_to_go_follow_from_what_is_done() -> None:
    shown = at(100, "retry", 250_000, 1_000_000, 300)
    assert shown == "retry [######..................] 250,000 of 1,000,000, 833/s, 15m to go"
    assert at(100, "retry", 0, 1_000_000, 300).endswith("] 0 of 1,000,000")


@for_each(
    "columns, line",
    [
        (60, "retry [###.........] 250,000 of 1,000,000, 833/s, 15m to go"),
        (50, "retry [##.......] 250,000 of 1,000,000, 15m to go"),
        (40, "retry [###............] 25 %, 15m to go"),
        (30, "retry [####............] 25 %"),
        (15, "retry 25 %"),
        (10, "retry "),
        (5, ""),
    ],
)
def test_in_a_narrow_terminal_the_line_says_less_and_is_one_line(columns: int, line: str) -> None:
    shown = at(columns, "retry", 250_000, 1_000_000, 300)
    assert len(shown) < columns
    assert shown == line


def test_what_nobody_has_counted_has_no_bar() -> None:
    assert at(100, "sweep", 12_345, None, 90) == "sweep 12,345, 137/s, 1m"
    assert at(20, "sweep", 12_345, None, 90) == "sweep 12,345, 137/s"
    assert at(15, "sweep", 12_345, None, 90) == "sweep 12,345"


def test_more_than_were_estimated_fill_the_bar_and_no_more() -> None:
    assert at(100, "audit", 30, 20, 1).endswith(
        "[########################] 30 of 30, 30/s, 0s to go"
    )


def stop(progress: Progress, error: BaseException) -> None:
    with progress:
        progress.advance(1500)
        raise error


@for_each(
    "error, is_said",
    [
        (KeyboardInterrupt(), True),
        (StoreUnavailable("away"), True),
        (InvalidEmail("to", "x"), True),
        (BrokenPipeError(), False),
    ],
)
def test_whoever_stops_it_reads_how_far_it_came_on_a_clean_line(
    error: BaseException, is_said: bool
) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        with pytest.raises(type(error)):
            stop(Progress("retry", 5000, stream), error)
    line = "mailqueue: retry: stopped after 1,500 of 5,000\n" if is_said else ""
    assert terminal.shown[-1] == line
    assert pipe.getvalue() == line


def test_nothing_is_shown_nor_counted_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise AssertionError("counted for nobody")

    streams: list[io.StringIO] = [io.StringIO(), Terminal()]
    for stream, total, term in ((streams[0], fail, "xterm"), (streams[1], fail, "dumb")):
        monkeypatch.setenv("TERM", term)
        with Progress("retry", total, stream) as progress:
            progress.advance(5)
    monkeypatch.setenv("TERM", "xterm")
    streams.append(Terminal())
    with Progress("retry", 0, streams[2]):
        pass
    assert [stream.getvalue() for stream in streams] == ["", "", ""]


def test_the_width_is_that_of_the_terminal_it_writes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of standard output, which may be a pipe."""
    monkeypatch.delenv("COLUMNS")
    terminal, child = openpty()
    termios.tcsetwinsize(child, (24, 40))
    times, seen = iter((0.0, 0.0, 300.0)), ""
    with os.fdopen(child, "w") as stream:
        with Progress("retry", 1_000_000, stream, lambda: next(times)) as progress:
            progress.advance(250_000)
        while seen.count(ERASE) < 3:
            seen += os.read(terminal, 65_536).decode()
    os.close(terminal)
    assert seen.split(ERASE)[2] == "retry [###............] 25 %, 15m to go"
