"""The long verbs show a person at a terminal how far they are, and a pipe nothing of it.

The terminal is a real one (a pty), on standard error; standard output is a file, as for
``mailqueue retry --json > changed``.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from pty import openpty
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.cli.context import Context
from mailqueue.devserver.process import dies_with_parent
from mailqueue.producer import Producer
from mailqueue.store.document import HELD
from tests.console import Console
from tests.integration.bench import MAIL

Document = dict[str, Any]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ERASE = "\r\x1b[K"
MANY = 10_000
FAILED = {"status": "failed", "reason": "rejected"}
CALLBACK = {
    "id": "msg_1",
    "type": "email.failed",
    "state": "failed",
    "at": LONG_AGO,
    "since": LONG_AGO,
    "token": 1,
    "tries": 1,
}


class Terminal:
    """A pty of so many columns; ``stream`` is a program's side of it."""

    def __init__(self, columns: int) -> None:
        self.descriptor, child = openpty()
        termios.tcsetwinsize(child, (24, columns))
        self.stream = os.fdopen(child, "w")
        self._seen = b""

    def read_to_end(self) -> str:
        """All that was written, once the program's side is closed."""
        with suppress(OSError):  # as Linux says that the other side is closed
            while chunk := os.read(self.descriptor, 65_536):
                self._seen += chunk
        return self._seen.decode()

    def read_until(self, pattern: str) -> str:
        while not re.search(pattern, self._seen.decode()):
            self._seen += os.read(self.descriptor, 65_536)
        return self._seen.decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self.descriptor)


@contextmanager
def terminal(columns: int = 80) -> Iterator[Terminal]:
    made = Terminal(columns)
    try:
        yield made
    finally:
        with suppress(OSError):
            made.close()


@pytest.fixture
def console(console: Console, config_mapping: Document) -> Console:
    console.configure({**config_mapping, "suppression": {}})
    return console


@pytest.fixture
def three(producer: Producer, emails: Collection[Document]) -> Callable[..., list[str]]:
    """Three e-mails that have these fields."""

    def store(**fields: Any) -> list[str]:
        ids = producer.send_many([MAIL] * 3)
        emails.update_many({}, {"$set": fields})
        return ids

    return store


def lines_on_terminal(
    console: Console, monkeypatch: pytest.MonkeyPatch, columns: int, *arguments: str
) -> list[str]:
    """What stood on the terminal's line, one after the other."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with terminal(columns) as seen:
        with monkeypatch.context() as context:
            context.setattr(sys, "stderr", seen.stream)
            answer = console(*arguments)
        seen.stream.close()
        lines = seen.read_to_end().split(ERASE)
    assert answer.code in {0, 1}, lines
    assert ERASE not in answer.out
    return lines


# The verb, what the three e-mails are, its arguments, and how far it says it came: how much there
# is to sweep, nobody knows before.
CASES: Sequence[tuple[str, Document, Sequence[str], str]] = [
    ("retry", FAILED, ("retry", "--status", "failed", "--yes"), "3 of 3"),
    ("retry", FAILED, ("retry", "--status", "failed", "--yes", "--limit", "2"), "2 of 2"),
    ("retry", FAILED, ("retry", "--status", "failed", "--dry-run"), "3 of 3"),
    ("mark-sent", FAILED, ("mark-sent", "--status", "failed", "--yes"), "3 of 3"),
    ("cancel", {}, ("cancel", "--status", "queued", "--yes"), "3 of 3"),
    ("audit", {}, ("audit",), "3 of 3"),
    ("forget", {}, ("forget", "bob@example.org", "--yes"), "3 of 3"),
    ("sweep", {"status": "sent", "updated_at": LONG_AGO}, ("sweep",), ""),
    (
        "release",
        {"due_at": HELD, "hold": "tag:news"},
        ("release", "--tag", "news"),
        "3 of 3",
    ),
    (
        "callbacks retry",
        {**FAILED, "callbacks": [CALLBACK]},
        ("callbacks", "retry", "--state", "failed", "--yes"),
        "3 of 3",
    ),
]


@pytest.mark.parametrize("verb, fields, arguments, end", CASES, ids=lambda each: str(each)[:16])
def test_a_long_verb_shows_a_bar_on_a_terminal_and_none_in_a_pipe(
    console: Console,
    three: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    fields: Document,
    arguments: Sequence[str],
    end: str,
) -> None:
    monkeypatch.setattr("mailqueue.store.control.SECOND_LOOK", 0.0)
    three(**fields)
    lines = lines_on_terminal(console, monkeypatch, 80, *arguments)
    assert lines[1].startswith(f"{verb} [......" if end else f"{verb} 0"), lines
    assert not end or any(re.search(rf"#\] {end}, [\d,]+/s, ", line) for line in lines), lines
    assert "\n" not in "".join(lines[:-1])
    assert lines[-1].startswith("mailqueue: ") or lines[-1] == "", "nothing of it stays"
    three(**fields)
    assert "\x1b" not in console(*arguments).err


@pytest.mark.parametrize("columns", [40, 20])
def test_a_bar_is_one_line_of_a_narrow_terminal(
    console: Console,
    three: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    three(**FAILED)
    lines = lines_on_terminal(console, monkeypatch, columns, "retry", "--status", "failed", "--yes")
    drawn = [line for line in lines if line.startswith("retry ")]
    assert len(drawn) >= 2
    assert max(map(len, drawn)) < columns


def test_an_import_and_an_export_show_how_far_they_have_come(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, copy = tmp_path / "many.txt", tmp_path / "copy"
    file.write_text("".join(f"reader{n}@example.org\n" for n in range(5000)))
    lines = lines_on_terminal(console, monkeypatch, 80, "suppress", "import", str(file))
    assert "reading 0" in lines
    assert "suppress import [........................] 0 of 5,000" in lines
    assert any("[########" in line and "5,000 of 5,000, " in line for line in lines)
    assert any(
        line.startswith("suppress export [")
        for line in lines_on_terminal(console, monkeypatch, 80, "suppress", "export", str(copy))
    )
    assert len(copy.read_text().splitlines()) == 5001


def test_where_it_takes_too_long_to_count_there_is_no_bar_and_all_is_done(
    console: Console,
    three: Callable[..., list[str]],
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three(**FAILED)
    monkeypatch.setattr("mailqueue.cli.context.COUNT_SECONDS", 1e-9)
    lines = lines_on_terminal(console, monkeypatch, 80, "retry", "--status", "failed", "--yes")
    assert lines[1] == "retry 0"
    assert not any("[" in line for line in lines)
    assert emails.count_documents({"status": "queued"}) == 3


def test_nobody_counts_for_a_pipe(
    console: Console, three: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To count a million e-mails takes seconds, and --yes asks for no number."""
    three(**FAILED)
    monkeypatch.setattr(Context, "count_in_time", lambda *_: pytest.fail("counted"))
    assert console("retry", "--status", "failed", "--yes").code == 0


def test_ctrl_c_leaves_a_clean_line_that_says_how_far_it_came(
    console: Console, producer: Producer, emails: Collection[Document]
) -> None:
    """What was done by then is done: it is called again for the rest."""
    producer.send(MAIL)
    one = emails.find_one_and_update({}, {"$set": FAILED}) or {}
    emails.insert_many(
        [{**one, **FAILED, "_id": ObjectId(), "nonce": ObjectId()} for _ in range(MANY - 1)]
    )
    command = [sys.executable, "-m", "mailqueue", "--config", str(console.file)]
    command += ["retry", "--status", "failed", "--yes"]
    with terminal() as seen:
        process = subprocess.Popen(
            [*dies_with_parent(), *command],
            stdin=seen.stream,
            stdout=subprocess.PIPE,
            stderr=seen.stream,
            env={**os.environ, "TERM": "xterm"},
            start_new_session=True,
            # The terminal becomes that of the child's session, so that Ctrl-C reaches it.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # it takes no lock
        )
        seen.stream.close()
        seen.read_until(r"\] [1-9][\d,]+ of 10,000, [\d,]+/s, ")
        os.write(seen.descriptor, b"\x03")
        out, _ = process.communicate(timeout=60)
        last = seen.read_to_end().split(ERASE)[-1]
    assert (process.returncode, out) == (130, b"")
    found = re.fullmatch(r"mailqueue: retry: stopped after ([\d,]+) of 10,000\r\n", last)
    assert found, last
    stopped_after = int(found[1].replace(",", ""))
    assert stopped_after <= emails.count_documents({"status": "queued"}) <= stopped_after + 500
    assert emails.count_documents({"status": "failed"}) > 0
