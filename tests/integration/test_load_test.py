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
from mailqueue.tube import depth

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
    assert re.search(r"^a call took p50 [\d.]+ ms, p95 [\d.]+ ms, p99 ", done.stdout, re.MULTILINE)
    assert "700 of 700" in done.stderr


def test_in_production_nothing_is_sent(
    config_mapping: dict[str, Any], emails: Collection[dict[str, Any]], tmp_path: Path
) -> None:
    done = load_test(tmp_path, config_mapping, env="production")
    assert (done.returncode, emails.count_documents({})) == (2, 0)
    assert "would go out" in done.stderr
