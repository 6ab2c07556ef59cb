"""Rounds, vendor health and probes hold in every state of the model, and the model has teeth."""

from __future__ import annotations

import pytest

from tests.model.checks import explore
from tests.model.mutants import MUTANTS, Mutant
from tests.model.scenarios import SCENARIOS
from tests.model.states import Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_the_promises_hold_in_every_state(scenario: Scenario) -> None:
    report = explore(scenario)
    assert not report.wrong, str(report)
    assert report.states > 100, "hardly anything was explored"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_rule_that_is_wrong_is_found(mutant: Mutant) -> None:
    report = explore(mutant.scenario, mutant.rules)
    assert mutant.found in report.wrong, str(report)
