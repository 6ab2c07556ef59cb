"""``mailqueue health``, as a container's probe calls it."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailqueue import cli
from mailqueue.store.document import PRODUCTION
from mailqueue.store.stats import Heartbeat, Stats
from mailqueue.store.store import Store
from tests.faults.conftest import consuming
from tests.stage import Stage
from tests.waiting import wait_until

Probe = Any


@pytest.fixture
def probe(stage: Stage, tmp_path: Path) -> Probe:
    """The exit code of ``mailqueue health``."""
    stage.vendor("first")

    def run(*arguments: str, **changes: Any) -> int:
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**stage.settings, **changes}))
        file.chmod(0o600)
        return cli.main(["--config", str(file), "health", *arguments])

    return run


def test_a_host_is_healthy_while_its_consumer_lives(
    stage: Stage, probe: Probe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe("--max-age", "60") == 1
    assert socket.gethostname() in capsys.readouterr().err
    with consuming(stage):
        wait_until(lambda: probe("--max-age", "60") == 0, what="it is healthy")
        assert f"{socket.gethostname()}:" in capsys.readouterr().out
    assert probe("--max-age", "60") == 1


def test_a_consumer_that_hangs_or_was_killed_is_found_and_one_elsewhere_is_not_mine(
    stage: Stage, probe: Probe
) -> None:
    store = Store(stage.config.mongodb, env=PRODUCTION, callbacks=None)
    stats = Stats(store, PRODUCTION)
    for host in (socket.gethostname(), "elsewhere"):
        stats.write(Heartbeat(f"{host}:7:x", 0, "1.0", PRODUCTION, ()), [])
    ago = datetime.now(UTC) - timedelta(seconds=75)
    stats.collection.update_one({"_id": f"{socket.gethostname()}:7:x"}, {"$set": {"at": ago}})
    store.close()
    assert probe() == 1
    assert probe("--max-age", "2m") == 0
    assert probe("--anywhere") == 0


def test_a_consumer_of_the_other_kind_does_not_count(
    stage: Stage, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with consuming(stage):
        wait_until(lambda: probe() == 0, what="it is healthy")
        monkeypatch.setenv("MAILQUEUE_ENV", "")
        assert probe() == 1


def test_mongodb_that_is_away_says_nothing_of_the_consumer(stage: Stage, probe: Probe) -> None:
    assert probe(mongodb={"uri": "mongodb://127.0.0.1:1", "timeout": 1}) == 3
