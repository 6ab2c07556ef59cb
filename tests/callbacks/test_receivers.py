"""The receivers of docs/callbacks.md, as programs, and other people's verification."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import resend

from mailqueue.callbacks import signing
from mailqueue.callbacks.poster import Poster
from mailqueue.config.callbacks import TYPES
from mailqueue.consumer import Consumer
from mailqueue.devserver.process import dies_with_parent
from tests.callbacks.receiver import OTHER_SECRET, SECRET
from tests.process.consumer_process import ResponderProcess
from tests.stage import Stage, letter
from tests.waiting import wait_until

REPO = Path(__file__).parents[2]
PAGE = (REPO / "docs/callbacks.md").read_text("utf-8")
NODE_PACKAGES = Path(sys.prefix) / "node/node_modules"  # tests/run.sh puts them there
BODY = b'{"type":"email.sent","created_at":"2026-11-27T09:00:00.000Z","data":{"email_id":"x"}}'


def node_is_here() -> bool:
    there = bool(shutil.which("node")) and (NODE_PACKAGES / "resend").is_dir()
    if not there and os.environ.get("CI"):
        pytest.fail("node, or its package resend, is not there", pytrace=False)
    return there


@contextmanager
def program(folder: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """The example runs; its URL, and the file that it prints to."""
    command = [sys.executable, str(REPO / "examples/callback_receiver.py")]
    if kind == "node":
        if not node_is_here():
            pytest.skip("node, or its package resend, is not there (tests/run.sh gets it)")
        (folder / "node_modules").symlink_to(NODE_PACKAGES)
        shutil.copy(REPO / "examples/callback_receiver.mjs", folder / "main.mjs")
        command = ["node", "main.mjs"]
    output = folder / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [*dies_with_parent(), *command, "0"],
            cwd=folder,
            env={**os.environ, "CALLBACK_SECRET": SECRET},
            stdout=file,
        )
    try:
        wait_until(lambda: "listening on" in output.read_text(), what="it listens")
        (url,) = re.findall(r"listening on (\S+)", output.read_text())
        yield url, output
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def lines(output: Path) -> list[str]:
    """What was printed after the first line."""
    return output.read_text().splitlines()[1:]


@pytest.mark.parametrize("kind", ["python", "node"])
def test_a_receiver_of_the_documentation_hears_each_event_once(
    kind: str, told: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    told.vendor("first")
    with program(tmp_path, kind) as (url, output):
        told.producer.send(letter(1), callback_url=url)
        assert Consumer(told.config, burst=True).run() == 0
        with ResponderProcess(told.settings, tmp_path / "responder"):
            wait_until(lambda: len(lines(output)) == 1, what="it heard")
        seconds = int(time.time())
        poster = Poster(lambda *_: True)
        for secret, code in ((OTHER_SECRET, "401"), (SECRET, "204"), (SECRET, "204")):
            headers = signing.headers([secret], "msg_again", seconds, BODY)
            assert poster.post(url, BODY, headers, 5).code == code
        stale = signing.headers([SECRET], "msg_stale", seconds - 3600, BODY)
        assert poster.post(url, BODY, stale, 5).code == "401"
        poster.close()
        assert [line.split()[0] for line in lines(output)] == ["email.sent", "email.sent"]


def test_resends_sdk_for_python_verifies_with_either_secret() -> None:
    both = signing.headers([OTHER_SECRET, SECRET], "msg_1", int(time.time()), BODY)
    for prefix in ("webhook", "svix"):
        headers: Any = {name: both[f"{prefix}-{name}"] for name in ("id", "timestamp", "signature")}
        for secret in (SECRET, OTHER_SECRET):
            options: Any = {"payload": BODY.decode(), "headers": headers, "webhook_secret": secret}
            assert resend.Webhooks.verify(options)["type"] == "email.sent"
        options["payload"] += " "
        with pytest.raises(ValueError, match="signature"):
            resend.Webhooks.verify(options)


def test_the_signature_is_that_of_the_specification() -> None:
    """A vector with an invented key, which other implementations agree upon."""
    body = (
        b'{"type":"email.delivered","created_at":"2026-05-28T20:26:40.000Z",'
        b'"data":{"email_id":"11111111-2222-4333-8444-555555555555"}}'
    )
    secret = "whsec_aW52ZW50ZWQtc2VjcmV0LW9mLTI0Ynl0"
    headers = signing.headers([secret], "msg_invented1", 1_780_000_000, body)
    assert headers["webhook-signature"] == "v1,Rwp+5MYS5Q8DsRBABjJuPsfadISqAscShh69yF/HXT4="


def test_the_documentation_names_every_type() -> None:
    (table,) = re.findall(r"<!-- callback table -->\n(.*?)<!-- /", PAGE, re.DOTALL)
    assert re.findall(r"^\| `(email\.\w+)`", table, re.MULTILINE) == list(TYPES)


def test_the_event_of_the_documentation_has_the_shape_of_a_callback() -> None:
    shown = [json.loads(code) for code in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    assert shown[0].keys() == {"callbacks"}
    assert shown[1]["type"] in TYPES
