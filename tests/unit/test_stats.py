"""Attempts as counters and a histogram."""

from __future__ import annotations

import pytest

from mailqueue.consumer.reporter import Attempts
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.store.stats import BOUNDS, Tally
from tests.for_each import for_each


def test_a_call_counts_in_the_first_bound_that_it_does_not_exceed() -> None:
    tally = Tally.over([0.01, 0.05, 0.051, 59.0, 61.0])
    assert tally.counts == (2, 1, *(0,) * (len(BOUNDS) - 3), 1, 1)
    assert tally.number == 5
    assert tally.seconds == pytest.approx(120.111)


def test_what_was_taken_is_counted_once() -> None:
    attempts = Attempts()
    for seconds in (0.1, 0.2):
        attempts.count(("ses", Outcome.ACCEPTED, seconds))
    attempts.count(("ses", Outcome.UNKNOWN, 60.0))
    numbers = {kind: tally.number for kind, tally in attempts.take().items()}
    assert numbers == {("ses", "accepted"): 2, ("ses", "unknown"): 1}
    assert attempts.take() == {}


@for_each("entry", [None, "x", {"counts": 3, "seconds": "x"}, {"counts": {"le_50": "x"}}])
def test_a_damaged_counter_counts_nothing(entry: object) -> None:
    assert Tally.of(entry) == Tally()
