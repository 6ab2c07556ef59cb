"""examples/load_test.py, run as its users do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.queue.beanstalkd.broker import depth

REPO = Path(__file__).parents[2]


def load_test(
    folder: Path, mapping: dict[str, Any], *options: str, env: str = "development"
) -> subprocess.CompletedProcess[str]:
    file = folder / "config.json"
    file.write_text(json.dumps(mapping))
    return subprocess.run(
        [sys.executable, "examples/load_test.py", "--config", str(file), *options],
        cwd=REPO,
        env=os.environ | {"MAILQUEUE_ENV": env},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


CALLS = r"^a call took p50 [\d.]+ ms, p95 [\d.]+ ms, p99 [\d.]+ ms$"


@pytest.mark.parametrize("how", [["--threads", "4"], ["--bulk"]], ids=["threads", "bulk"])
def test_every_email_is_stored_and_announced_and_the_rate_is_told(
    how: list[str],
    config: Config,
    config_mapping: dict[str, Any],
    emails: Collection[dict[str, Any]],
    tmp_path: Path,
) -> None:
    done = load_test(tmp_path, config_mapping, "--emails", "700", *how)
    assert done.returncode == 0, done.stderr
    assert emails.count_documents({"status": "queued"}) == 700
    assert depth(config.beanstalkd)["ready"] == 700
    assert re.search(r"^700 e-mails in [\d.]+ s: [\d,]+ a second$", done.stdout, re.MULTILINE)
    assert bool(re.search(CALLS, done.stdout, re.MULTILINE)) is ("--bulk" not in how)
    mode, *lines = done.stderr.splitlines()
    assert mode == "mode: simulated: nothing leaves"
    assert lines[-1].endswith("700 of 700")
    assert len(lines) <= 11, "a line for every tenth"


def test_in_production_nothing_is_sent(
    config_mapping: dict[str, Any], emails: Collection[dict[str, Any]], tmp_path: Path
) -> None:
    done = load_test(tmp_path, config_mapping, env="production")
    assert (done.returncode, emails.count_documents({})) == (2, 0)
    assert "would go out" in done.stderr


def test_in_production_they_are_sent_if_that_is_really_meant(
    config: Config,
    config_mapping: dict[str, Any],
    emails: Collection[dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Stored only: no consumer runs."""
    done = load_test(tmp_path, config_mapping, "--really-send", "--emails", "3", env="production")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("mode: production: these e-mails go out\n")
    assert emails.count_documents({"env": "production"}) == 3


def test_a_bad_configuration_is_said_in_one_line(
    config_mapping: dict[str, Any], tmp_path: Path
) -> None:
    done = load_test(tmp_path, config_mapping | {"colour": "red", "limits": {"max_size": 0}})
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("load_test: ")]
    assert "colour: unknown key" in line
    assert "limits.max_size: " in line
    assert "Traceback" not in done.stderr


def test_a_mongodb_that_is_away_is_said_in_one_line(
    config_mapping: dict[str, Any], tmp_path: Path
) -> None:
    config_mapping["mongodb"] |= {"uri": "mongodb://127.0.0.1:1", "timeout": 1}
    done = load_test(tmp_path, config_mapping)
    assert done.returncode == 1
    assert "\nload_test: MongoDB: " in done.stderr
    assert "Traceback" not in done.stderr
