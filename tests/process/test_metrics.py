"""``mailqueue metrics`` as a process, scraped as Prometheus does it."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mailqueue import cli
from mailqueue.config import Config
from mailqueue.errors import StoreUnavailable
from mailqueue.monitoring.overview import Overview
from mailqueue.monitoring.server import MOST, PATIENCE, Installation
from mailqueue.store.document import PRODUCTION
from mailqueue.store.stats import Stats, Totals
from mailqueue.store.store import Store
from tests.faults.conftest import consuming
from tests.process.conftest import program
from tests.process.consumer_process import MetricsProcess
from tests.stage import DOWN, Stage
from tests.waiting import wait_until

Samples = dict[tuple[str, ...], float]
Exporter = Callable[..., MetricsProcess]

# As the contract has them.
NAMES = {
    "mailqueue_oldest_due_seconds": ("priority",),
    "mailqueue_emails": ("status",),
    "mailqueue_attempts_total": ("outcome", "vendor"),
    "mailqueue_send_seconds_bucket": ("le",),
    "mailqueue_vendor_available": ("vendor",),
    "mailqueue_queue_jobs": ("state",),
    "mailqueue_consumers": (),
    "mailqueue_uncertain_oldest_seconds": (),
    "mailqueue_rate_wait_seconds": ("vendor",),
    "mailqueue_callbacks": ("state",),
}


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """Start ``mailqueue metrics`` on a stage, and wait until it serves."""
    numbers = count(1)
    with ExitStack() as stack:

        def start(stage: Stage, **environ: str) -> MetricsProcess:
            folder = tmp_path / f"metrics{next(numbers)}"
            return stack.enter_context(MetricsProcess(stage.settings, folder, **environ))

        yield start


def samples(text: str) -> Samples:
    """The values, by name and labels (sorted by the labels' names)."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def until(process: MetricsProcess, name: str, value: float) -> Samples:
    """Scrape until a metric has this value."""
    seen: Samples = {}

    def is_so() -> bool:
        nonlocal seen
        seen = samples(process.scrape())
        return seen.get((name,)) == value

    wait_until(is_so, what=f"{name} is {value}")
    return seen


def labels(text: str) -> dict[str, set[tuple[str, ...]]]:
    found: dict[str, set[tuple[str, ...]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).add(tuple(sorted(sample.labels)))
    return found


def test_all_that_a_scrape_reads_has_one_clock(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus gives up after ten seconds, and would not even learn that MongoDB is away."""
    left: list[float] = []

    def totals(_: Stats) -> Totals:
        while Store.time_left() > PATIENCE - 0.01:
            pass  # the counters take that long
        return {}

    def read(_: Config, store: Store, seconds: float) -> Overview:
        with store.operation(seconds=seconds):
            left.append(store.time_left())
        raise StoreUnavailable("MongoDB: does not answer")

    monkeypatch.setattr(Stats, "totals", totals)
    monkeypatch.setattr(Overview, "read", read)
    with closing(Store(config.mongodb, env=PRODUCTION, callbacks=None)) as store:
        (up,) = Installation(config, store).collect()
    assert [sample.value for sample in up.samples] == [0]
    assert left[0] <= PATIENCE - 0.01


def test_clients_that_hang_or_go_away_keep_nobody_out_and_leave_no_traceback(
    stage: Stage, exporter: Exporter
) -> None:
    process = exporter(stage)
    host, port = process.url.split("/")[2].split(":")
    place = host, int(port)
    with ExitStack() as stack:
        for n in range(2 * MOST):
            stack.enter_context(socket.create_connection(place, timeout=20))
            if n % 10 == 0:
                assert "mailqueue_up 1" in process.scrape()
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        assert MOST < threads < MOST + 50
        for request in (
            b"GET /metrics HTTP/1.0",
            b"GET /metrics HTTP/1.0\r\n\r\n",
            b"GET http://[",
        ):
            rude = stack.enter_context(socket.create_connection(place, timeout=20))
            rude.sendall(request)
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rude.close()
    assert "mailqueue_up 1" in process.scrape()
    assert "Traceback" not in process.output


def test_a_scrape_has_the_numbers_of_an_installation_at_work(
    stage: Stage, exporter: Exporter
) -> None:
    first = stage.vendor("first")
    stage.vendor("second")
    stage.settings["vendors"][0]["rate"] = {"per_day": 1000, "per_second": 500}
    stage.settings["callbacks"] = {"url": "https://example.com/hook"}
    first.reply = DOWN
    with consuming(stage):
        stage.send(10, priority="high")
        stage.until(sent=10)
        process = exporter(stage)
        seen = samples(process.scrape())
        assert seen["mailqueue_consumers",] == 1
    assert seen["mailqueue_up",] == 1
    assert seen["mailqueue_emails", "sent"] == 10
    assert seen["mailqueue_emails", "queued"] == 0
    assert seen["mailqueue_emails_last_day", "sent"] == 10
    assert seen["mailqueue_oldest_due_seconds", "high"] == 0
    assert seen["mailqueue_vendor_available", "first"] == 0
    assert seen["mailqueue_vendor_available", "second"] == 1
    assert seen["mailqueue_queue_jobs", "ready"] == 0
    assert seen["mailqueue_budget_limit", "first", "day"] == 1000
    assert ("mailqueue_rate_wait_seconds", "first") in seen
    assert seen["mailqueue_rate_wait_seconds", "second"] == 0
    # The consumer has ended, so all is written down. MongoDB is read once in a second.
    seen = until(process, "mailqueue_consumers", 0)
    assert seen["mailqueue_attempts_total", "accepted", "second"] == 10
    assert seen["mailqueue_attempts_total", "unavailable", "first"] >= 1
    assert seen["mailqueue_attempts_total", "rejected", "first"] == 0
    attempts = sum(n for (name, *_), n in seen.items() if name == "mailqueue_attempts_total")
    assert seen["mailqueue_send_seconds_count",] == attempts
    assert seen["mailqueue_send_seconds_bucket", "+Inf"] == attempts
    assert seen["mailqueue_vendor_send_seconds_count", "second"] == 10


def test_a_first_scrape_has_the_names_of_the_documents_and_promtool_finds_nothing_wrong(
    stage: Stage, exporter: Exporter
) -> None:
    stage.vendor("first")
    stage.settings["vendors"][0]["rate"] = {"per_day": 1000, "per_second": 500}
    text = exporter(stage).scrape()
    found = labels(text)
    for name, expected in NAMES.items():
        assert found[name] == {expected}, name
    command = [program("promtool"), "check", "metrics"]
    checked = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    families = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    assert families == documented()


def documented() -> set[str]:
    page = (Path(__file__).parents[2] / "docs/monitoring.md").read_text()
    (table,) = re.findall(r"<!-- metric table -->\n(.*?)<!-- /", page, re.DOTALL)
    return set(re.findall(r"^\| `(\w+)", table, re.MULTILINE))


def test_an_exporter_looks_at_the_kind_of_its_environment(stage: Stage, exporter: Exporter) -> None:
    stage.vendor("first")
    stage.send(3)
    seen = samples(exporter(stage, MAILQUEUE_ENV="").scrape())
    assert (seen["mailqueue_emails", "queued"], seen["mailqueue_emails_other_env",]) == (0, 3)
    seen = samples(exporter(stage).scrape())
    assert (seen["mailqueue_emails", "queued"], seen["mailqueue_emails_other_env",]) == (3, 0)


def test_a_scrape_says_that_mongodb_is_away_and_when_it_is_back(
    fragile_stage: Stage, servers_to_break: Any, exporter: Exporter
) -> None:
    """It starts without it, too. No number of before is shown."""
    fragile_stage.vendor("first")
    fragile_stage.settings["mongodb"]["timeout"] = 1
    fragile_stage.send(2)
    process = exporter(fragile_stage)
    assert samples(process.scrape())["mailqueue_emails", "queued"] == 2
    servers_to_break.mongod.pause()
    away = {("mailqueue_up",): 0.0}
    wait_until(lambda: samples(process.scrape()) == away, what="it says so")
    started_late = exporter(fragile_stage)
    assert samples(started_late.scrape()) == away
    servers_to_break.mongod.resume()
    for each in (process, started_late):
        until(each, "mailqueue_up", 1)
    servers_to_break.beanstalkd.stop()
    seen = until(process, "mailqueue_queue_up", 0)
    assert ("mailqueue_queue_jobs", "ready") not in seen
    assert seen["mailqueue_emails", "queued"] == 2
    assert process.stop() == 0


def test_only_metrics_are_served(stage: Stage, exporter: Exporter) -> None:
    stage.vendor("first")
    process = exporter(stage)
    root = process.url.removesuffix("/metrics")
    host, _, port = root.removeprefix("http://").partition(":")
    silent = socket.create_connection((host, int(port)))  # one that says nothing
    with urlopen(f"{root}/healthz", timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{root}/", timeout=10)
    silent.close()


def test_without_its_extra_the_verb_says_what_to_install(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(stage.settings))
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert cli.main(["--config", str(file), "metrics"]) == 2
    assert "pip install 'mailqueue[metrics]'" in capsys.readouterr().err
