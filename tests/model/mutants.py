"""Rules with one thing wrong each, and the scenario in which that must be found.

Decides: what counts as the model's teeth. Beside lost guards these are rules that were the design's
or the product's own once: the model is why they are not any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from mailqueue import lifecycle, record, rotation
from mailqueue.record import (
    Closing,
    Decision,
    Outcome,
    Policy,
    Record,
    SendResult,
    Status,
    VendorState,
)
from mailqueue.rotation import Choice, Health
from tests.model import scenarios
from tests.model.rules import Rules
from tests.model.states import Scenario

Others = Sequence[VendorState]
Rand = Callable[[], float]


@dataclass(frozen=True)
class Mutant:
    """``found`` is a part of what the model says about it."""

    name: str
    scenario: Scenario
    rules: Rules
    found: str


def _never_ends_a_round(
    record: Record, result: SendResult | None, others: Others, policy: Policy, rand: Rand
) -> Decision:
    decision = lifecycle.decide(record, result, others, policy, rand)
    if decision.round.tried or decision.status is not Status.QUEUED:
        return decision
    tried = {*record.round.tried, *filter(None, [record.vendor])}
    return replace(decision, round=replace(decision.round, tried=tuple(tried)))


def _at_once_for_nobody(
    record: Record, result: SendResult | None, others: Others, policy: Policy, rand: Rand
) -> Decision:
    decision = lifecycle.decide(record, result, others, policy, rand)
    return decision if result else replace(decision, delay=0.0)


def _forgets_refusals(
    record: Record, result: SendResult | None, others: Others, policy: Policy, rand: Rand
) -> Decision:
    """As the design had it: a new round asks every vendor again."""
    decision = lifecycle.decide(record, result, others, policy, rand)
    if decision.round.tried:
        return decision
    return replace(decision, round=replace(decision.round, refused=()))


def _counting(counts: Callable[[Record, SendResult, Closing | None], bool]) -> Rules:
    def decide(*args: Any) -> Decision:
        with patch.object(lifecycle, "_counts", counts):
            return lifecycle.decide(*args)

    return Rules(decide=decide)


def _all_but_throttled_and_probes(record: Record, result: SendResult, _: Closing | None) -> bool:
    """As the design had it."""
    return not record.probe and result.outcome is not Outcome.THROTTLED


def _suspected_server_errors(_: Record, __: SendResult, closing: Closing | None) -> bool:
    return closing is None or closing.probe_only


def _closes_again(health: Health, closing: Closing, now: float, generation: int) -> Health:
    """A closed vendor that a pinned e-mail asks is closed anew, and its probe's slot lost."""
    if generation != health.generation or closing.probe_only:
        return health
    return rotation._shut(health, closing, now, step=record.PROBE_STEP)


def _by_any_generation(health: Health, closing: Closing, now: float, _: int) -> Health:
    return rotation.closed(health, closing, now, health.generation)


def _wins_if_free(health: Health, now: float, lease: float, token: str) -> Health | None:
    """Whoever finds the slot free has it, due or not any more."""
    if health.open or (health.probe_until is not None and health.probe_until > now):
        return None
    return replace(health, probe_token=token, probe_until=now + lease)


def _leaves_the_time(health: Health, closing: Closing, now: float, token: str) -> Health:
    """A suspected e-mail's failed probe does not move the vendor's time."""
    after = rotation.probe_failed(health, closing, now, token)
    if not closing.probe_only:
        return after
    return replace(after, unavailable_until=health.unavailable_until)


def _pinned_for_ever(*args: Any) -> Choice | None:
    record: Record = args[3]
    return Choice(record.pin.vendor) if record.pin else rotation.choose(*args)


def _no_wait_for_a_probe(health: Health, now: float, alone: bool) -> float:
    """As if nobody held the slot."""
    return _probe_wait(replace(health, probe_until=None), now, alone)


_probe_wait = rotation.probe_wait


def _blind_choice(*args: Any) -> Choice | None:
    with patch.object(rotation, "probe_wait", _no_wait_for_a_probe):
        return rotation.choose(*args)


MUTANTS = (
    Mutant(
        "settles without the token",
        scenarios.CRASHES,
        Rules(settle_guarded=False),
        "settled over another worker's lease",
    ),
    Mutant("claims without the token", scenarios.CRASHES, Rules(claim_guarded=False), "copies"),
    Mutant(
        "health without generation",
        scenarios.STALE,
        Rules(closed=_by_any_generation),
        "begun before the last change",
    ),
    Mutant(
        "probe not given back",
        scenarios.STALE,
        Rules(gives_probe_back=False),
        "held for nobody",
    ),
    Mutant(
        "round not ended",
        scenarios.ANSWERS,
        Rules(decide=_never_ends_a_round),
        "turns in a circle",
    ),
    Mutant(
        "released at once for nobody",
        scenarios.OUTAGE_ALONE,
        Rules(decide=_at_once_for_nobody),
        "released at once",
    ),
    Mutant("no relay", scenarios.CRASHES, Rules(relay=False), "stuck"),
    Mutant(
        "who lost the probe wins it next",
        scenarios.STALE,
        Rules(probe_won=_wins_if_free),
        "a probe before its time",
    ),
    Mutant(
        "nobody waits for a probe in flight",
        scenarios.OUTAGE_PROBES,
        Rules(choose=_blind_choice),
        "hot loop",
    ),
    Mutant(
        "a pinned e-mail closes a closed vendor",
        scenarios.KEYED,
        Rules(closed=_closes_again),
        "taken from its holder",
    ),
    Mutant(
        "a pin outlives the key",
        scenarios.KEY_FORGOTTEN,
        Rules(choose=_pinned_for_ever),
        "2 copies, 0 resent",
    ),
    Mutant(
        "a poison probe leaves the vendor's time",
        scenarios.POISON,
        Rules(probe_failed=_leaves_the_time),
        "due at once",
    ),
    Mutant(
        "the design's first count: all but throttled and failed probes",
        scenarios.OUTAGE_FLAPPING,
        _counting(_all_but_throttled_and_probes),
        "failed (exhausted) through an outage",
    ),
    Mutant(
        "a suspected server error counts",
        scenarios.OUTAGE_ALONE,
        _counting(_suspected_server_errors),
        "failed (exhausted) through an outage",
    ),
    Mutant(
        "the design's first round: all vendors are asked again",
        scenarios.UNSUITABLE,
        Rules(decide=_forgets_refusals),
        "failed (exhausted) through an outage",
    ),
)
