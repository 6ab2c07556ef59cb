"""What an operator asks for reaches every consumer process, and survives their end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mailqueue import cli
from tests.process.consumer_process import ConsumerProcess
from tests.stage import Stage
from tests.waiting import wait_until


def command(stage: Stage, folder: Path, *arguments: str) -> None:
    file = folder / "operator.json"
    file.write_text(json.dumps(stage.settings))
    file.chmod(0o600)
    assert cli.main(["--config", str(file), *arguments]) == 0


def everywhere(consumers: Sequence[ConsumerProcess], event: str) -> None:
    """Wait until each of them has heard of it."""
    wait_until(lambda: all(each.said(event) for each in consumers), what=event)


def test_a_hold_and_a_drain_reach_every_process_and_outlive_them(
    stage: Stage, tmp_path: Path
) -> None:
    first, second = stage.vendor("first"), stage.vendor("second")
    with (
        ConsumerProcess(stage.settings, tmp_path / "a") as a,
        ConsumerProcess(stage.settings, tmp_path / "b") as b,
    ):
        command(stage, tmp_path, "hold", "--priority", "bulk")
        command(stage, tmp_path, "vendors", "drain", "first")
        everywhere([a, b], "control.begun control=drain:first")
        everywhere([a, b], "control.begun control=priority:bulk")
        stage.send(40, priority="bulk")
        stage.send(40)
        stage.until(queued=40, sent=40)
        assert not first.calls
        assert stage.emails.count_documents({"hold": "priority:bulk"}) == 40
        assert (a.stop(), b.stop()) == (0, 0)
    with ConsumerProcess(stage.settings, tmp_path / "c") as c:
        stage.send(20)
        stage.until(queued=40, sent=60)
        command(stage, tmp_path, "vendors", "undrain", "first")
        everywhere([c], "control.ended control=drain:first")
        command(stage, tmp_path, "release", "--priority", "bulk")
        stage.until(sent=100)
        assert first.calls
        assert c.stop() == 0
    assert len(second.calls) + len(first.calls) == 100
    assert set(stage.copies.values()) == {1}
