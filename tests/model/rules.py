"""The product's functions as the model uses them; a mutant replaces one or drops a guard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from mailqueue.lifecycle import decide as lifecycle
from mailqueue.lifecycle.outcomes import Decision, Snapshot, VendorState
from mailqueue.routing import rotation
from tests.model.states import NOW, RESULTS, VENDORS, Email, Scenario, State, Work, health, record

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

    decide: Callable[..., Decision] = lifecycle.decide
    choose: Callable[..., rotation.Choice | None] = rotation.choose
    waits: Callable[..., dict[str, float]] = rotation.waits
    closed: Callable[..., rotation.Health] = rotation.closed
    probe_won: Callable[..., rotation.Health | None] = rotation.probe_won
    probe_failed: Callable[..., rotation.Health] = rotation.probe_failed
    convicted: Callable[..., rotation.Health] = rotation.convicted
    vouched: Callable[..., rotation.Health] = rotation.vouched
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
        self._turns = [rotation.WeightedVendor(name) for name in VENDORS]

    def known(self, email: Email, work: Work | None) -> Snapshot:
        keyed = work is not None and work.vendor in self.scenario.keyed
        vendor = None if work is None else work.vendor
        return record(email, keyed, vendor, probe=work is not None and bool(work.probe))

    def decide(
        self,
        state: State,
        email: Email,
        answer: str,
        vendor: str | None,
        probe: bool = False,
    ) -> tuple[Decision, ...]:
        key = (email[6:13], email.key_left, state.doors, answer, vendor, probe)
        if key not in self._decided:
            keyed = vendor in self.scenario.keyed
            known = record(email, keyed, vendor, probe=probe)
            result = RESULTS[answer] if answer else None
            doubt = known.in_doubt or (result is not None and result.may_be_content)
            others = self._others(state, known, doubt)
            decided = [
                self.rules.decide(known, result, others, self.scenario.policy, lambda r=r: r)
                for r in JITTER
            ]
            self._decided[key] = tuple({replace(d, vendor_closing=None): d for d in decided})
        return self._decided[key]

    def _others(self, state: State, known: Snapshot, in_doubt: bool) -> list[VendorState]:
        seen = {n: health(n, d) for n, d in zip(VENDORS, state.doors, strict=True)}
        usable = [n for n in VENDORS if n not in known.round.refused]
        waits = self.rules.waits(usable, seen, NOW, in_doubt)
        return [VendorState(name=n, wait=waits.get(n, 0.0)) for n in VENDORS]
