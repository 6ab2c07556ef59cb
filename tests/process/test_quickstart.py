"""``examples/quickstart.sh`` as a newcomer runs it, and interrupts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.waiting import wait_until

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "examples" / "quickstart.sh"
READY = Path(sys.prefix) / "mailqueue-quickstart"  # examples/setup.sh was here

pytestmark = [
    pytest.mark.usefixtures("mongod", "beanstalkd"),  # skip, or fail in CI, without binaries
    pytest.mark.skipif(not READY.exists(), reason="needs the environment of tests/run.sh"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]


@contextmanager
def quickstart(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    environ = {**os.environ, "MAILQUEUE_VENV": sys.prefix, "TMPDIR": str(folder)}
    with subprocess.Popen(
        ["bash", SCRIPT, *options],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def processes_of(folder: Path) -> list[str]:
    """Every process that has inherited the quickstart's TMPDIR."""
    mark, found = f"TMPDIR={folder}\0".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:  # it ended, or is another user's
            continue
    return found


def read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout
    said = ""
    while words not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


@pytest.mark.parametrize(
    "options",
    [(), ("--http",), ("--queue", "none")],
    ids=["in Python", "by HTTP", "with MongoDB alone"],
)
def test_the_quickstart_sends_everything_although_a_vendor_is_down_and_leaves_nothing(
    tmp_path: Path, options: Sequence[str]
) -> None:
    with quickstart(tmp_path, *options) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert ("The HTTP service" in out) == ("--http" in options)
    assert ("beanstalkd " in out) == ("--queue" not in options)
    rows = [line.split() for line in out.splitlines()]
    sendgrid, mailgun, smtp = (
        next(row for row in rows if row[:1] == [name] and row[1].isdigit())
        for name in ("sendgrid", "mailgun", "smtp")
    )
    assert sendgrid[1] == "0"
    assert int(sendgrid[2]) >= 1
    assert sendgrid[3] != "-"
    assert int(mailgun[1]) + int(smtp[1]) == 12
    assert "Grüße aus dem Café ☕  sent" in out
    assert "accepted exactly once" in out
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--queue", "none")], ids=["", "with MongoDB alone"])
def test_the_dashboard_is_open_on_the_batch_until_ctrl_c_and_leaves_nothing(
    tmp_path: Path, options: Sequence[str]
) -> None:
    with quickstart(tmp_path, "--dashboard", *options) as process:
        out = read_until(process, "/dashboard/")
        url = out.split()[out.split().index("dashboard") + 1]
        assert "accepted exactly once" in out
        overview = requests.get(url, timeout=30)
        emails = requests.get(f"{url}emails", timeout=30)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        rest, err = process.communicate(timeout=60)
    assert (overview.status_code, emails.status_code) == (200, 200)
    assert "sendgrid" in overview.text
    assert len(set(re.findall(r"/dashboard/emails/[0-9a-f]{24}", emails.text))) == 12
    assert (process.returncode, err) == (0, "")
    assert "stopped and removed" in rest
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "found,how",
    [
        (signal.SIG_IGN, [signal.SIGINT]),  # as a shell's background job finds SIGINT
        (signal.SIG_DFL, [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]),
    ],
    ids=["Ctrl-C in the background", "several at once"],
)
@pytest.mark.parametrize("when", ["MongoDB", "Three vendors", "Two consumers"])
def test_an_interrupted_quickstart_leaves_nothing(
    tmp_path: Path, found: signal.Handlers, how: Sequence[signal.Signals], when: str
) -> None:
    before = signal.signal(signal.SIGINT, found)
    with quickstart(tmp_path) as process:
        signal.signal(signal.SIGINT, before)
        read_until(process, when)
        for number in how:
            os.killpg(process.pid, number)  # as a terminal does
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with quickstart(tmp_path, "--smoke-signals") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "--smoke-signals" in err


def test_no_process_outlives_a_quickstart_that_was_killed(tmp_path: Path) -> None:
    with quickstart(tmp_path) as process:
        read_until(process, "Two consumers")
        process.kill()
    wait_until(lambda: not processes_of(tmp_path), what="servers and consumers are gone")
