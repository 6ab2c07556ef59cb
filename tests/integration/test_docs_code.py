"""The documentation's blocks of code, run as they stand there; and every example has its test.

``bash`` scripts and the development servers have tests of their own; here are the Python code and
the operator's commands, one after the other, on what the code before them has stored.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from pymongo.collection import Collection

from mailqueue import cli
from mailqueue.consumer import Consumer

REPO = Path(__file__).parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- run: (?P<name>\w+) -->\n)?```(?P<kind>\w+)\n(?P<code>.*?)```", re.DOTALL
)
BLOCKS = [block.groupdict() for page in PAGES for block in BLOCK.finditer(page.read_text("utf-8"))]
TESTED = {  # what is in examples/, and which test runs it
    "Dockerfile": "integration/test_deployment.py",
    "Dockerfile.dockerignore": "integration/test_deployment.py",
    "custom_vendor.py": "integration/test_custom_vendor.py",
    "docker-compose.yml": "integration/test_deployment.py",
    "load_test.py": "integration/test_load_test.py",
    "mailqueue-consumer@.service": "integration/test_deployment.py",
    "quickstart.py": "process/test_quickstart.py",
    "quickstart.sh": "process/test_quickstart.py",
    "setup.sh": "process/test_quickstart.py",
}


@pytest.fixture
def place(
    config_mapping: dict[str, Any],
    emails: Collection[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with a ``config.json``, as the README's reader has one; outside production."""
    vendors = [{"name": "mailgun-eu", "type": "mailgun", "api_key": "x", "domain": "example.org"}]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**config_mapping, "vendors": vendors}))
    config.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAILQUEUE_ENV", raising=False)
    return tmp_path


def test_every_python_block_says_which_test_runs_it() -> None:
    assert [block["name"] for block in BLOCKS if block["kind"] == "python"] == ["producer"]


def test_the_producers_code_stores_an_email_that_a_consumer_sends(
    place: Path, emails: Collection[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = [block for block in BLOCKS if block["name"] == "producer"]
    names: dict[str, Any] = {}
    exec(block["code"], names)
    with names["producer"] as producer:
        assert capsys.readouterr().out == "queued\n"
        assert Consumer("config.json", burst=True).run() == 0
        status = producer.status(names["email_id"])
        assert (status.status, status.simulated) == ("sent", True)
        exec(block["code"].replace("producer = Producer", "again = Producer"), names)
        names["again"].close()
    assert emails.count_documents({}) == 1


def commands() -> list[list[str]]:
    """The operator's commands, of all shell blocks."""
    lines = "".join(block["code"] for block in BLOCKS if block["kind"] == "sh").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("mailqueue ")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_operators_commands_are_ones_that_there_are(place: Path, command: list[str]) -> None:
    """There is nothing to find, to retry or to open: exit code 1 at worst."""
    assert cli.main(command[1:]) in {0, 1}


def test_every_example_has_a_test() -> None:
    files = {file.name for file in (REPO / "examples").rglob("*") if file.suffix != ".pyc"}
    assert files - {"systemd", "__pycache__"} == TESTED.keys()
    assert all((REPO / "tests" / test).is_file() for test in TESTED.values())


def test_the_two_commands_are_scripts_that_there_are() -> None:
    (block,) = [b for b in BLOCKS if "quickstart.sh" in b["code"] and b["kind"] == "sh"]
    for line in block["code"].splitlines():
        program, script = shlex.split(line, comments=True)
        assert program == "bash"
        assert os.access(REPO / script, os.R_OK)
