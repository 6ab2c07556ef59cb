"""Workers, sweeper and people at work on the real store, interleaved as Hypothesis likes.

The short form runs in the suite, the same examples each time. The long one, with new examples::

    MAILQUEUE_MODEL=long python -m pytest tests/model/test_store_machine.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from pymongo import MongoClient

from mailqueue.config import Config
from mailqueue.store import document
from mailqueue.store.store import Store
from tests.model.stepping import NO_LOST, YES
from tests.model.store_machine import FIRST, HEIRS_AT, PAUSED_AT, SECOND, Stored, StoreMachine

LONG = os.environ.get("MAILQUEUE_MODEL") == "long"
SETTINGS = settings(
    max_examples=3000 if LONG else 40,
    stateful_step_count=60 if LONG else 30,
    derandomize=not LONG,
    phases=[Phase.generate, Phase.shrink] if LONG else [Phase.generate],  # shrinking takes minutes
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def machine(config: Config, mongo_client: MongoClient[Stored]) -> Callable[[], StoreMachine]:
    Store(config.mongodb, env=document.SIMULATED, client=mongo_client).ensure_indexes()
    return lambda: StoreMachine(config, mongo_client)


def test_no_order_of_events_loses_or_doubles_an_email(
    machine: Callable[[], StoreMachine],
) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)  # type: ignore[arg-type]  # it only calls it


@pytest.mark.parametrize("early", [False, True], ids=["lease lost", "job early"])
@pytest.mark.parametrize("heirs_at", HEIRS_AT)
@pytest.mark.parametrize("at", PAUSED_AT)
def test_two_workers_meet_at_every_point(
    at: str, heirs_at: str, early: bool, machine: Callable[[], StoreMachine]
) -> None:
    """What Hypothesis may or may not find in the short form."""
    for answer, heirs in product((YES, "unavailable"), (YES, NO_LOST, "deferred")):
        made = machine()
        made.begin((FIRST, SECOND), "resend")
        try:
            made.take_over(0, at, heirs_at, answer, heirs, early)
        finally:
            made.teardown()
