"""The plugin for pytest, in a run of its own: that of a project which has mailqueue installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SUITE = """
import sys
BEFORE = set(sys.modules)

def test_nothing_of_ours_is_imported_before_the_fixture_is_used():
    assert "pytest_mailqueue" in BEFORE
    assert not [name for name in BEFORE if name.partition(".")[0] in ("mailqueue", "pymongo")]

def test_an_email(mailqueue_outbox):
    from mailqueue import Producer
    Producer("config.json").send({"from": "a@example.com", "to": ["b@example.org"], "text": ""})
    assert len(mailqueue_outbox) == 1

def test_another_test_has_an_outbox_of_its_own(mailqueue_outbox):
    assert len(mailqueue_outbox) == 0
"""


@pytest.mark.parametrize("options", [[], ["-p", "xdist.plugin", "-n", "2"]], ids=["alone", "xdist"])
def test_the_plugin_costs_nothing_until_its_fixture_is_used(
    tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "test_shop.py").write_text(SUITE)
    environ = {**os.environ, "PYTHONPATH": str(REPO), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_mailqueue", "-p"]
    run = subprocess.run(
        [*command, "no:cacheprovider", *options, "test_shop.py"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, "3 passed" in run.stdout) == (0, True), run.stdout
