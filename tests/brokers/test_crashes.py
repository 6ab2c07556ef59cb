"""A process ends before or after each touch of the queue, whatever its kind; another one goes on.

The kinds are spread over the places; with ``MAILQUEUE_ALL_CRASHES`` each is tried at each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.case import Case
from tests.brokers.cases import CASES
from tests.brokers.conftest import Queue
from tests.brokers.test_whole_way import consuming
from tests.faults.child import EMAILS
from tests.faults.seams import CRASHED
from tests.faults.test_crashes import check, crash, run_child
from tests.stage import DOWN, Stage

KINDS = [case for case in CASES if case.is_shared and case.type != "beanstalkd"]
PLACES = (
    *("before:reserve", "after:reserve", "before:delete", "after:delete"),
    *("before:release", "after:release"),
)


def spread(*places: str) -> pytest.MarkDecorator:
    pairs = list(zip(places, cycle(KINDS), strict=False))
    if os.environ.get("MAILQUEUE_ALL_CRASHES"):
        pairs = list(product(places, KINDS))
    return pytest.mark.parametrize(
        "point, case", pairs, ids=lambda each: getattr(each, "name", each)
    )


@pytest.fixture
def stage(
    queue: Queue, mapping: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """Vendors that count, and an application, over this queue."""
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    for name, value in queue.case.environ.items():
        monkeypatch.setenv(name, value)
    settings = {
        **mapping,
        "mongodb": {**mapping["mongodb"], "timeout": 2},
        "queue": queue.section,
        "delivery": {"deadline": 1.0},
        "retry": {"base": 0.01, "cap": 0.01},
        "failover": {"unavailable_for": 0.1},
        "consumer": {"sweep_every": 0.5, "concurrency": 1},
    }
    with Stage(settings) as made:
        yield made


@spread(*PLACES)
def test_a_consumer_that_ends_at_the_queue_loses_nothing_and_doubles_nothing(
    point: str, stage: Stage, tmp_path: Path
) -> None:
    vendor = stage.vendor("first")
    vendor.replies = [DOWN] if point.endswith("release") else []
    (email_id,) = stage.send()
    crash(stage, tmp_path, point)
    stage.vendor("second")
    with consuming(stage.config):
        stage.until(sent=1)
    check(stage)
    assert stage.copies == {email_id: 1}


@spread("before:put", "after:put")
def test_a_producer_that_ends_at_the_queue_loses_and_doubles_nothing(
    point: str, stage: Stage, case: Case, tmp_path: Path
) -> None:
    stage.vendor("first")
    code, before = run_child("producer", stage, tmp_path, point)
    assert code == CRASHED
    code, after = run_child("producer", stage, tmp_path)  # an application repeats
    assert code == 0
    assert after[: len(before)] == before
    with consuming(stage.config):
        stage.until(sent=EMAILS)
    check(stage)
    assert stage.copies == dict.fromkeys(after, 1)
