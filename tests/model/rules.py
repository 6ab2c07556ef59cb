"""The product's functions as the model uses them; a mutant replaces one or drops a guard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mailqueue.lifecycle.decide import Decider
from mailqueue.lifecycle.outcomes import Case, Decision, SendResult, Snapshot
from mailqueue.routing import rotation
from tests.model.states import (
    NOW,
    RESULTS,
    VENDORS,
    Email,
    Scenario,
    State,
    attempt,
    health,
    snapshot,
)

JITTER = (0.01, 0.99)


class Step(NamedTuple):
    """A step to ``state``. ``fault``: "" (normal), "free" or the kind of fault that it costs."""

    label: str
    state: State
    fault: str = ""
    ticks: int = 0
    wrong: str = ""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The product's functions, and the guards of the I/O around them."""

    decide: Callable[[Decider, Case, SendResult | None], Decision] = Decider.decide
    choose: Callable[..., rotation.Permit | None] = rotation.choose
    waits: Callable[..., dict[str, float]] = rotation.waits
    after: Callable[..., rotation.Health] = rotation.apply_verdict
    win_probe: Callable[..., rotation.Health | None] = rotation.win_probe
    confirm_hint: Callable[..., rotation.Health] = rotation.confirm_hint
    claim_guarded: bool = True
    settle_guarded: bool = True
    gives_probe_back: bool = True
    relay: bool = True


class Deciding:
    """What the product decides for an e-mail of a state."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario = scenario
        self.rules = rules
        self._decided: dict[tuple[object, ...], tuple[Decision, ...]] = {}
        self._weights = dict.fromkeys(VENDORS, 1)
        self._deciders = [Decider(scenario.policy, rand.__float__) for rand in JITTER]

    def decide(
        self, state: State, email: Email, answer: str, vendor: str | None
    ) -> tuple[Decision, ...]:
        key = (email[6:13], email.key_left, state.doors, answer, vendor)
        if key not in self._decided:
            known = snapshot(email)
            result = RESULTS[answer] if answer else None
            doubt = known.in_doubt or (result is not None and result.may_be_content)
            tried = attempt(email, vendor, vendor in self.scenario.keyed) if vendor else None
            case = Case(email=known, attempt=tried, waits=self._waits(state, known, doubt))
            decisions = [self.rules.decide(each, case, result) for each in self._deciders]
            self._decided[key] = tuple(dict.fromkeys(decisions))
        return self._decided[key]

    def _waits(self, state: State, known: Snapshot, in_doubt: bool) -> dict[str, float]:
        seen = {n: health(n, d) for n, d in zip(VENDORS, state.doors, strict=True)}
        usable = [n for n in VENDORS if n not in known.round.refused]
        waits = self.rules.waits(usable, seen, NOW, in_doubt)
        return {n: waits.get(n, 0.0) for n in VENDORS}
