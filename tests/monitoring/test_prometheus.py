"""A real Prometheus with the files of examples/monitoring, which scrapes a real exporter."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from bson import ObjectId

from mailqueue.devserver.process import dies_with_parent
from mailqueue.store.control import Control, ControlStore
from mailqueue.store.document import PRODUCTION
from mailqueue.store.store import Store
from tests.faults.conftest import consuming
from tests.monitoring.test_alerts import rules
from tests.process.conftest import program
from tests.process.consumer_process import MetricsProcess
from tests.stage import Stage
from tests.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples/monitoring"
BOARD = json.loads((EXAMPLES / "grafana.json").read_text())
Ask = Callable[..., Any]


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[Ask]:
    """Prometheus as the example has it, but for the target and the pace; ask it by its API."""
    config = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())
    # A scrape may take as long as its interval, on a busy machine too.
    config["global"] = {
        "scrape_interval": "4s",
        "scrape_timeout": "4s",
        "evaluation_interval": "1s",
    }
    config["rule_files"] = [str(EXAMPLES / file) for file in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    file, address = folder / "prometheus.yml", f"127.0.0.1:{_free_port()}"
    file.write_text(yaml.safe_dump(config))
    options = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    command = [program("prometheus"), *options, f"--web.listen-address={address}"]
    with subprocess.Popen(
        [*dies_with_parent(), *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:

        def ask(path: str, **query: str) -> Any:
            """None: it is starting yet."""
            try:
                with urlopen(f"http://{address}/api/v1/{path}?{urlencode(query)}") as answer:
                    return json.load(answer)["data"]
            except URLError as error:
                starting = isinstance(error, HTTPError) and error.code == 503
                if starting or isinstance(error.reason, ConnectionRefusedError):
                    return None
                raise

        try:
            yield ask
        finally:
            process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def busy(stage: Stage) -> Stage:
    """A stage of which every panel has something to show."""
    stage.vendor("first"), stage.vendor("second")
    for entry in stage.settings["vendors"]:
        entry["rate"] = {"per_second": 100, "per_day": 5}
    for field in ("callbacks.due_at", "callbacks.state"):  # as a responder makes them
        stage.emails.create_index([("env", 1), (field, 1)])
    return stage


def test_prometheus_scrapes_it_and_takes_every_rule_and_every_panel(
    busy: Stage, tmp_path: Path
) -> None:
    wreck(busy)
    expected = {rule["alert"] for rule in rules()} - NOT_TOGETHER
    with MetricsProcess(busy.settings, tmp_path / "metrics") as exporter:
        target = exporter.url.removeprefix("http://").removesuffix("/metrics")
        with prometheus(target, tmp_path) as ask:
            wait_until(lambda: not (_alerts(ask).keys() ^ expected), 120, f"{expected} pend")
            for name, notes in _alerts(ask).items():
                text = " ".join(notes.values())
                assert not re.search(r"error|<no value>|NaN|\n", text), name
            urgent = _alerts(ask)["MailqueueHighOldestDue"]["summary"]
            assert re.fullmatch(r"Urgent e-mails wait for [12]m \d+s already\.", urgent)
            assert "the vendor second" in _alerts(ask)["MailqueueHeld"]["summary"]
            (group,) = ask("rules")["groups"]
            assert [rule for rule in group["rules"] if rule.get("lastError")] == []
            wait_until(lambda: not _without_data(ask), 60, "every panel has data")


# Where the metrics are missing, or MongoDB or the queue is away, the others cannot be known.
NOT_TOGETHER = {
    *("MailqueueMetricsMissing", "MailqueueMongoDBUnavailable", "MailqueueQueueUnavailable")
}


def wreck(stage: Stage) -> None:
    """As bad as can be: everything at once, in an installation that was at work."""
    with consuming(stage):
        ids = stage.send(8)
        stage.until(sent=8)
    stage.edit_health("first", unavailable_until=datetime.now(UTC) + timedelta(hours=1))
    with closing(Store(stage.config.mongodb, env=PRODUCTION, callbacks=None)) as store:
        ControlStore(store).begin(Control("drain", "second"))
    ids += [*stage.send(1, priority="high"), *stage.send(1)]
    ago = {"updated_at": datetime.now(UTC) - timedelta(seconds=100)}
    hours_ago = {"updated_at": datetime.now(UTC) - timedelta(hours=3)}
    failed_callback = {"callbacks": [{"id": "msg_1", "state": "failed"}]}
    changes: list[dict[str, Any]] = [
        *({"status": "failed"}, {"status": "uncertain"}, failed_callback),
        *({"status": "queued", "env": "simulated"}, ago, hours_ago),
    ]
    for email_id, change in zip([*ids[:4], *ids[-2:]], changes, strict=True):
        stage.emails.update_one({"_id": ObjectId(email_id)}, {"$set": change})
    with stage.tube() as tube:
        tube.put("no id of ours", priority=0)
        tube.bury(tube.reserve(timeout=0))


def _alerts(ask: Ask) -> dict[str, dict[str, str]]:
    """What those that pend, or fire, say to a person."""
    alerts = (ask("alerts") or {"alerts": []})["alerts"]
    return {each["labels"]["alertname"]: each["annotations"] for each in alerts}


def _without_data(ask: Ask) -> list[str]:
    """The panels that show nothing. What Grafana puts in is put in here."""
    empty = []
    for panel in BOARD["panels"]:
        for each in panel["targets"]:
            expr = each["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            if not ask("query", query=expr)["result"]:
                empty.append(panel["title"])
    return empty


def test_each_panel_of_the_board_has_a_unit_a_word_of_explanation_and_its_own_place() -> None:
    places: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert {each["datasource"]["uid"] for each in panel["targets"]} == {"${datasource}"}
        box = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(box["x"], box["x"] + box["w"])
            for y in range(box["y"], box["y"] + box["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & places, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    source, _ = BOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
