"""The alert rules of examples/monitoring: each fires in its situation, and in no other.

A situation is made for real: consumers, vendors, beanstalkd and MongoDB. What the exporter shows
then are the series on which Prometheus' own tool tests the rules, as if it lasted for two hours.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from bson import ObjectId
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mailqueue import Producer
from mailqueue.callbacks.due import DueCallbacks
from mailqueue.config import Config
from mailqueue.monitoring.server import Installation
from mailqueue.store.callbacks import DUE
from mailqueue.store.control import Control, ControlStore
from mailqueue.store.document import PRODUCTION
from mailqueue.store.stats import Stats
from mailqueue.store.store import Store
from tests.faults.conftest import consuming
from tests.process.conftest import program
from tests.stage import BAD_REQUEST, DOWN, Stage, letter
from tests.vendor_servers import Reply
from tests.waiting import wait_until

REPO = Path(__file__).parents[2]
RULES = REPO / "examples/monitoring/alerts.yml"
LASTS = "2h"
MINUTES = 130

Promtool = Any


@pytest.fixture
def firing(tmp_path: Path) -> Promtool:
    """The alerts that fire if these metrics stay as they are for two hours."""

    def run(text: str, *expected: str) -> None:
        series = [
            {"series": _series(sample.name, sample.labels), "values": f"{sample.value}+0x{MINUTES}"}
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
        names = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected]
        test = {
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [
                {
                    "expr": 'max by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": LASTS,
                    "exp_samples": names,
                }
            ],
        }
        file = tmp_path / "test.yml"
        file.write_text(json.dumps({"rule_files": [str(RULES)], "tests": [test]}))
        tool = [program("promtool"), "test", "rules", str(file)]
        checked = subprocess.run(tool, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr

    return run


def _series(name: str, labels: dict[str, str]) -> str:
    labels = {**labels, "job": "mailqueue", "instance": "127.0.0.1:9464"}
    return (
        name + "{" + ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items()) + "}"
    )


@contextmanager
def store_of(config: Config) -> Iterator[Store]:
    store = Store(config.mongodb, env=PRODUCTION, callbacks=config.callbacks)
    try:
        yield store
    finally:
        store.close()


def scrape(stage: Stage, config: Config | None = None) -> str:
    """What the exporter shows now."""
    with store_of(stage.config) as store:
        registry = CollectorRegistry()
        registry.register(Installation(config or stage.config, store))
        return generate_latest(registry).decode()


@contextmanager
def at_work(stage: Stage, **options: Any) -> Iterator[Store]:
    """A consumer whose heartbeat is there."""
    with consuming(stage, **options), store_of(stage.config) as store:
        wait_until(Stats(store, PRODUCTION).consumers, what="a heartbeat")
        yield store


@pytest.fixture
def pair(stage: Stage) -> Stage:
    """A stage with two vendors."""
    stage.vendor("first"), stage.vendor("second")
    return stage


def test_nothing_fires_while_all_is_well(pair: Stage, firing: Promtool) -> None:
    pair.settings["vendors"][0]["rate"] = {"per_second": 500, "per_day": 1000}
    with at_work(pair):
        pair.send(20, priority="high")
        pair.send(5, send_at=datetime.now(UTC) + timedelta(days=1))
        pair.until(sent=20, queued=5)
        firing(scrape(pair))


def test_missing_metrics_fire(firing: Promtool) -> None:
    firing("", "MailqueueMetricsMissing")


def test_mongodb_that_is_away_fires(pair: Stage, firing: Promtool) -> None:
    away = {"uri": "mongodb://127.0.0.1:1", "timeout": 0.3}
    pair.settings["mongodb"] = {**pair.settings["mongodb"], **away}
    firing(scrape(pair), "MailqueueMongoDBUnavailable")


def test_a_queue_without_a_consumer_fires(pair: Stage, firing: Promtool) -> None:
    pair.send(3)
    firing(scrape(pair), "MailqueueNoConsumer")


def test_vendors_that_are_all_unavailable_fire(pair: Stage, firing: Promtool) -> None:
    for vendor in pair.vendors:
        vendor.reply = DOWN
    with at_work(pair):
        pair.send(30)
        wait_until(lambda: all(pair.health(v.name)["unavailable_until"] for v in pair.vendors))
        firing(scrape(pair), "MailqueueAllVendorsUnavailable", "MailqueueVendorUnavailable")


def test_one_vendor_that_is_unavailable_fires_after_an_hour(pair: Stage, firing: Promtool) -> None:
    pair.vendors[0].reply = DOWN
    with at_work(pair):
        pair.send(10)
        pair.until(sent=10)
        firing(scrape(pair), "MailqueueVendorUnavailable")


@pytest.mark.parametrize(
    "priority, seconds, alert",
    [("high", 90, "MailqueueHighOldestDue"), ("bulk", 400, "MailqueueOldestDue")],
)
def test_a_backlog_fires_that_waits_for_too_long(
    pair: Stage, firing: Promtool, priority: Any, seconds: int, alert: str
) -> None:
    """All senders are with vendors that hang."""
    for vendor in pair.vendors:
        vendor.hold()
    with at_work(pair, concurrency=1) as store:
        pair.send(1)
        wait_until(lambda: pair.under_way == 1, what="the sender is busy")
        ids = pair.send(20, priority=priority)
        long_ago = store.now() - timedelta(seconds=seconds)
        waiting = {"_id": {"$in": list(map(ObjectId, ids))}, "status": "queued"}
        pair.emails.update_many(waiting, {"$set": {"updated_at": long_ago}})
        firing(scrape(pair), alert)
        for vendor in pair.vendors:
            vendor.let_go()


def test_uncertain_emails_fire(pair: Stage, firing: Promtool) -> None:
    pair.settings["delivery"] = {"on_unknown": "park"}
    pair.vendors[0].replies = [Reply(504)]
    pair.vendors[1].replies = [Reply(504)]
    with at_work(pair):
        pair.send(1)
        pair.until(uncertain=1)
        firing(scrape(pair), "MailqueueUncertain")


def test_many_failed_emails_fire(pair: Stage, firing: Promtool) -> None:
    with at_work(pair):
        pair.send(20)
        pair.until(sent=20)
        for vendor in pair.vendors:
            vendor.reply = BAD_REQUEST
        pair.send(1)
        pair.until(sent=20, failed=1)
        firing(scrape(pair), "MailqueueManyFailed")


def test_a_budget_near_its_end_fires(stage: Stage, firing: Promtool) -> None:
    stage.vendor("first")
    stage.settings["vendors"][0]["rate"] = {"per_day": 10}
    with at_work(stage):
        stage.send(8)
        stage.until(sent=8)
        firing(scrape(stage), "MailqueueBudgetNearlyUsed")


def test_callbacks_that_failed_fire(pair: Stage, firing: Promtool) -> None:
    pair.settings["callbacks"] = {"url": "https://example.com/hook"}
    with at_work(pair) as store:
        pair.send(1)
        pair.until(sent=1)
        due = DueCallbacks(store, pair.config.callbacks, lease=30.0)
        due.ensure_indexes()
        four_days = datetime.now(UTC) - timedelta(days=4)
        pair.emails.update_one({}, {"$set": {"callbacks.0.since": four_days}})
        (callback,) = due.claim(list(due.find(1, ())))
        due.settle(callback, DUE, "500")
        firing(scrape(pair), "MailqueueCallbacksFailed")


def test_a_queue_that_is_away_fires(pair: Stage, firing: Promtool) -> None:
    with at_work(pair):
        pair.settings["beanstalkd"] = {**pair.settings["beanstalkd"], "servers": ["127.0.0.1:1"]}
        firing(scrape(pair), "MailqueueQueueUnavailable")


def test_a_buried_job_fires(pair: Stage, firing: Promtool) -> None:
    with at_work(pair), pair.tube() as tube:
        tube.put("no id of ours")
        wait_until(lambda: pair.jobs().get("buried"), what="it is buried")
        firing(scrape(pair), "MailqueueBuriedJobs")


@pytest.mark.parametrize("control", [Control("all"), Control("drain", "first")])
def test_what_an_operator_stopped_fires_after_an_hour(
    pair: Stage, firing: Promtool, control: Control
) -> None:
    with at_work(pair) as store:
        ControlStore(store).begin(control)
        firing(scrape(pair), "MailqueueHeld")


def test_emails_of_the_other_mode_fire(
    pair: Stage, firing: Promtool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_work(pair):
        monkeypatch.setenv("MAILQUEUE_ENV", "")
        with Producer(pair.config) as producer:
            producer.send(letter(1))
        firing(scrape(pair), "MailqueueOtherMode")


# --- the files


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def test_each_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on() -> None:
    page = (REPO / "docs/operating.md").read_text()
    anchors = {h.lower().replace(" ", "-") for h in re.findall(r"^### (.+)$", page, re.MULTILINE)}
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        summary, link = (rule["annotations"][n] for n in ("summary", "runbook_url"))
        assert re.fullmatch(r"[A-Z'{].{20,160}\.?", summary, re.DOTALL), summary
        assert rule["annotations"]["description"]
        path, _, anchor = link.partition("#")
        assert (path, anchor in anchors) == ("docs/operating.md", True), link


def test_each_alert_has_a_situation_in_which_it_fires() -> None:
    own = Path(__file__).read_text()
    assert [rule["alert"] for rule in rules() if f'"{rule["alert"]}"' not in own] == []


def test_the_table_of_alerts_is_that_of_the_rules() -> None:
    page = (REPO / "docs/monitoring.md").read_text()
    (table,) = re.findall(r"<!-- alert table -->\n(.*?)<!-- /", page, re.DOTALL)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    assert [
        (row[0].strip("`"), row[1], row[2], row[4].rpartition("#")[2][:-1]) for row in rows
    ] == [
        (
            rule["alert"],
            rule["labels"]["severity"],
            rule["for"],
            rule["annotations"]["runbook_url"].rpartition("#")[2],
        )
        for rule in rules()
    ]
