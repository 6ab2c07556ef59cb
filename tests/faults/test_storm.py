"""The short form of the storm; ``python tests/storm.py`` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mailqueue.devserver.process import dies_with_parent
from tests.faults.application import MARKER
from tests.faults.victims import REPO

pytestmark = pytest.mark.usefixtures("beanstalkd", "mongod")  # skipped where these are missing


@pytest.mark.parametrize(
    "seconds, more",
    [(12, []), (6, ["--park"]), (8, ["--events"]), (6, ["--queue", "redis"])],
    ids=["resend", "park", "events", "redis"],
)
def test_a_storm_loses_nothing_and_says_nothing_personal(
    seconds: int, more: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "storm"
    options = ["--emails", str(20 * seconds), "--seconds", str(seconds), "--consumers", "3"]
    options.append("--hurry")
    done = subprocess.run(
        [*dies_with_parent(), sys.executable, "tests/storm.py", "--keep", folder, *options, *more],
        cwd=REPO,
        timeout=150,
        check=False,
        capture_output=True,
        text=True,
    )
    print(done.stdout, done.stderr)  # noqa: T201  # pytest shows it when the test failed
    assert done.returncode == 0
    said = [log.read_text(errors="replace") for log in (folder / "logs").iterdir()]
    assert any("consumer.started" in text for text in said)
    assert all(MARKER not in text.lower() for text in [*said, done.stdout, done.stderr])
