"""The log as whoever follows one e-mail reads it, of the real processes that it meets."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from mailqueue.store import ids
from tests.callbacks.receiver import SECRET, Receiver
from tests.events.sendgrid import CASE, signed
from tests.process.consumer_process import (
    REPO,
    ConsumerProcess,
    HttpProcess,
    OwnProcess,
    ResponderProcess,
)
from tests.stage import DOWN, Stage, letter
from tests.waiting import wait_until

PRIVATE = ("ann@", "bob@", "example.com", "example.org", "secret-subject", "secret-body", "whsec_")
EMAIL = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "subject": "secret-subject",
    "text": "secret-body",
}
REQUEST_ID = "order-4711"
WAY: list[dict[str, Any]] = [
    {"event": "email.stored"},
    {"event": "request.answered", "status": 201, "path": "/emails"},
    {"event": "attempt.failed", "vendor": "first", "outcome": "unavailable", "code": "503"},
    {"event": "email.sent", "vendor": "second"},
    {"event": "events.stored", "vendor": "second", "delivered": 1},
    {"event": "callback.delivered", "type": "email.sent"},
    {"event": "callback.delivered", "type": "email.delivered"},
]
LOGFMT = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|[^" ]+)')


def of_json(line: str) -> dict[str, Any]:
    """The facts of a line, with their types."""
    facts: dict[str, Any] = json.loads(line)
    return facts


def of_logfmt(line: str) -> dict[str, Any]:
    """The same of logfmt, which has no types but in this test."""
    words = {k: json.loads(v) if v[0] == '"' else v for k, v in LOGFMT.findall(line)}
    numbers = {k: json.loads(v) for k, v in words.items() if re.fullmatch(r"\d+(\.\d+)?", v)}
    _, _, level, event, *_ = line.split()
    return {"level": level, "event": event, **words, **numbers, "code": words.get("code")}


def lines_about(
    email_id: str, processes: list[OwnProcess], read: Callable[[str], dict[str, Any]]
) -> list[dict[str, Any]]:
    """What each of them says of this e-mail, one process after the other."""
    lines = [line for each in processes for line in each.output.splitlines() if email_id in line]
    return [read(line) for line in lines]


@pytest.mark.parametrize(
    "environ, read",
    [({}, of_logfmt), ({"MAILQUEUE_LOG_FORMAT": "json"}, of_json)],
    ids=["logfmt", "json"],
)
def test_one_email_is_followed_by_its_id_from_the_request_to_the_callback(
    stage: Stage,
    tmp_path: Path,
    environ: dict[str, str],
    read: Callable[[str], dict[str, Any]],
) -> None:
    """With the caller's own id in each line of each process, and nothing private in any."""
    # The first one in line, whatever the job's id says.
    first, second = stage.vendor("first", DOWN), stage.vendor("second")
    stage.settings["vendors"][0]["weight"] = 1000
    stage.settings["vendors"][1]["events"] = dict(CASE.settings)
    stage.settings["callbacks"] = {"secrets": [SECRET], "allow": ["127.0.0.1"]}
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        kinds = (HttpProcess, ConsumerProcess, ResponderProcess)
        http, consumer, responder = (
            stack.enter_context(kind(stage.settings, tmp_path / kind.__name__, **environ))
            for kind in kinds
        )
        assert isinstance(http, HttpProcess)
        url = f"http://127.0.0.1:{http.port}"
        answer = requests.post(
            f"{url}/emails",
            json={**EMAIL, "callback_url": receiver.url},
            headers={"X-Request-Id": REQUEST_ID},
            timeout=30,
        )
        email_id = str(ids.parse(answer.json()["id"]))
        stage.until(sent=1)
        delivered = {"event": "delivered", "email": "bob@example.org", "mailqueue_id": email_id}
        body = json.dumps([{**delivered, "sg_event_id": "1", "timestamp": 1780000003}]).encode()
        told = signed(body)
        assert requests.post(
            f"{url}/events/second", data=told.body, headers=dict(told.headers), timeout=30
        ).ok
        wait_until(lambda: receiver.types.keys() == {"email.sent", "email.delivered"})
        processes = [http, consumer, responder]
        for each in processes:
            assert each.stop() == 0
        assert "consumer.stopped" in consumer.output  # the last line, too
        lines = lines_about(email_id, [http, consumer, responder], read)
        output = "".join(each.output for each in processes)
    assert (len(first.calls), len(second.calls)) == (1, 1)
    # One process after the other: the vendor's event comes last in the first one.
    way = sorted(WAY, key=lambda facts: facts["event"])
    assert [
        {name: line[name] for name in facts}
        for line, facts in zip(sorted(lines, key=lambda line: line["event"]), way, strict=True)
    ] == way
    assert {line["request_id"] for line in lines} == {REQUEST_ID}
    (failed,) = [line for line in lines if line["event"] == "attempt.failed"]
    (sent,) = [line for line in lines if line["event"] == "email.sent"]
    assert (failed["next"], failed["seconds"]) == ("other_vendor", 0.0)
    assert isinstance(sent["ms"], float)
    assert [word for word in PRIVATE if word in output] == []


@pytest.mark.parametrize(
    "command",
    [["mailqueue.consumer"], ["mailqueue", "http"]],
    ids=" ".join,
)
def test_an_unknown_format_ends_a_process_with_a_clear_error(
    stage: Stage, tmp_path: Path, command: list[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**stage.settings, "vendors": [stage.vendor("first").entry]}))

    def run(*arguments: str, **environ: str) -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, "-m", *command, "--config", str(config), *arguments],
            cwd=REPO,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stderr.splitlines()[-1]

    code, error = run(MAILQUEUE_LOG_FORMAT="xml")
    assert (code, error.partition(": ")[2]) == (2, "MAILQUEUE_LOG_FORMAT: must be logfmt or json")
    code, error = run("--log-format", "xml")
    assert code == 2
    assert "--log-format: invalid choice: 'xml'" in error


@pytest.fixture
def unread_pipe() -> Iterator[int]:
    """The end of a pipe at whose other end nobody reads."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield writer
    os.close(reader)
    os.close(writer)


def test_a_consumer_whose_log_nobody_reads_loses_no_lease(
    stage: Stage, tmp_path: Path, unread_pipe: int
) -> None:
    """It sends all e-mails, far more than have room for their lines in a pipe, and ends."""
    stage.vendor("first")
    email_ids = stage.send(200)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(stage.settings))
    command = [sys.executable, "-m", "mailqueue.consumer", "--config", str(config), "--burst"]
    environ = {**os.environ, "MAILQUEUE_ENV": "production"}
    ended = subprocess.run(
        command, cwd=REPO, env=environ, stderr=unread_pipe, timeout=120, check=False
    )
    assert ended.returncode == 0
    assert stage.statuses() == {"sent": 200}
    assert stage.copies.total() == len(email_ids)


def test_a_meter_that_nobody_reads_does_not_keep_a_consumer_from_its_end(
    stage: Stage, tmp_path: Path, unread_pipe: int
) -> None:
    """Its thread waits for standard error, and has the lock of Python's stream meanwhile."""
    stage.vendor("first")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(stage.settings))
    os.set_blocking(unread_pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(unread_pipe, b"x" * 4096)
    os.set_blocking(unread_pipe, True)
    command = [sys.executable, "-m", "mailqueue.consumer", "--config", str(config), "--meter"]
    environ = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, cwd=REPO, env=environ, stderr=unread_pipe) as process:
        try:
            # The thread that writes the log, and the meter's.
            wait_until(lambda: _threads_that_write_to_stderr(process.pid) == 2)
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def _threads_that_write_to_stderr(pid: int) -> int:
    """As Linux tells it: the number of a call, and its arguments."""
    files = Path(f"/proc/{pid}/task").glob("*/syscall")
    return sum(file.read_text().split()[1:2] == ["0x2"] for file in files)


@pytest.mark.parametrize("asked", [False, True], ids=["usual", "asked for"])
def test_an_operators_command_logs_what_it_ends_where_it_is_asked_to(
    stage: Stage, tmp_path: Path, *, asked: bool
) -> None:
    """Its report says it otherwise."""
    (email_id,) = stage.send(request_id=REQUEST_ID)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**stage.settings, "vendors": [stage.vendor("first").entry]}))
    options = ["--log-format", "json"] if asked else []
    command = [sys.executable, "-m", "mailqueue", "cancel", email_id, "--config", str(config)]
    ended = subprocess.run(
        [*command, *options], cwd=REPO, capture_output=True, text=True, timeout=60, check=True
    )
    if not asked:
        assert "email." not in ended.stderr
        return
    lines = [json.loads(line) for line in ended.stderr.splitlines() if line[0] == "{"]
    (line,) = [line for line in lines if line["event"].startswith("email.")]
    facts = {"event": "email.cancelled", "id": email_id, "reason": "cancelled"}
    assert line.items() >= {**facts, "request_id": REQUEST_ID, "level": "INFO"}.items()


def test_sendmail_logs_the_id_where_it_is_asked_to(stage: Stage, tmp_path: Path) -> None:
    stage.vendor("first")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(stage.settings))
    command = [sys.executable, "-m", "mailqueue", "sendmail", "--config", str(config)]
    text = f"From: {letter(1)['from']}\nSubject: secret-subject\n\nsecret-body\n"

    def run(*options: str) -> list[str]:
        ended = subprocess.run(
            [*command, *options, "bob@example.org"],
            cwd=REPO,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return [line for line in ended.stderr.splitlines() if "exposed" not in line]

    assert run() == []
    (line,) = run("--log-format=json")
    (email_id,) = {str(d["_id"]) for d in stage.emails.find().sort("created_at", -1).limit(1)}
    assert (json.loads(line)["event"], json.loads(line)["id"]) == ("email.stored", email_id)
