"""Rules with one thing wrong each, and the scenario in which that must be found.

Decides: what counts as the model's teeth. Beside lost guards these are rules that the
product, or its first design, had once: the model is why it has others (docs/lifecycle.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from mailqueue.lifecycle import decide as lifecycle
from mailqueue.lifecycle.decide import Decider
from mailqueue.lifecycle.outcomes import (
    PROBE_STEP,
    Case,
    Decision,
    Outcome,
    SendResult,
    Snapshot,
    Status,
    Suspension,
)
from mailqueue.routing import rotation
from mailqueue.routing.rotation import Health, Permit, Sign, Verdict
from tests.model import scenarios
from tests.model.rules import Rules
from tests.model.states import Scenario


@dataclass(frozen=True)
class Mutant:
    """``found`` is a part of what the model says about it."""

    name: str
    scenario: Scenario
    rules: Rules
    found: str


def _never_ends_a_round(decider: Decider, case: Case, result: SendResult | None) -> Decision:
    decision = decider.decide(case, result)
    if decision.round.tried or decision.status is not Status.QUEUED:
        return decision
    tried = {*case.email.round.tried, *case.asked}
    return replace(decision, round=replace(decision.round, tried=tuple(tried)))


def _at_once_for_nobody(decider: Decider, case: Case, result: SendResult | None) -> Decision:
    decision = decider.decide(case, result)
    return decision if result else replace(decision, delay=0.0)


def _forgets_refusals(decider: Decider, case: Case, result: SendResult | None) -> Decision:
    """As the first design had it: a new round asks every vendor again."""
    decision = decider.decide(case, result)
    if decision.round.tried:
        return decision
    return replace(decision, round=replace(decision.round, refused=()))


def _counting(counts: Callable[[Snapshot, SendResult, Suspension | None], bool]) -> Rules:
    def decide(*args: Any) -> Decision:
        with patch.object(lifecycle, "_counts", counts):
            return Decider.decide(*args)

    return Rules(decide=decide)


def _all_but_throttled(_: Snapshot, result: SendResult, __: Suspension | None) -> bool:
    """As the first design had it."""
    return result.outcome is not Outcome.THROTTLED


def _suspected_server_errors(_: Snapshot, __: SendResult, held: Suspension | None) -> bool:
    return held is None or held.is_hint


def _suspends_again(
    health: Health, permit: Permit, verdict: Verdict, now: float, **known: Any
) -> Health:
    """An unavailable vendor that a pinned e-mail asks is suspended anew, and its probe lost."""
    sure = isinstance(verdict, Suspension) and not verdict.is_hint
    if permit.probe is None and permit.generation == health.generation and sure:
        assert isinstance(verdict, Suspension)
        return rotation.suspend(health, verdict, now, PROBE_STEP)
    return rotation.apply_verdict(health, permit, verdict, now, **known)


def _by_any_generation(health: Health, permit: Permit, *args: Any, **known: Any) -> Health:
    return rotation.apply_verdict(
        health, replace(permit, generation=health.generation), *args, **known
    )


def _wins_if_free(health: Health, now: float, lease: float, token: str, _: bool) -> Health | None:
    """Whoever finds the slot free has it, due or not any more."""
    if health.available or (health.probe_until is not None and health.probe_until > now):
        return None
    return replace(health, probe_token=token, probe_until=now + lease)


def _leaves_the_time(
    health: Health, permit: Permit, verdict: Verdict, now: float, **known: Any
) -> Health:
    """After the failed probe of an e-mail in doubt another such may probe at once."""
    after = rotation.apply_verdict(health, permit, verdict, now, **known)
    doubtful = permit.probe is not None and isinstance(verdict, Suspension) and verdict.in_doubt
    return replace(after, last_resort_at=health.last_resort_at) if doubtful else after


def _wins_in_doubt(health: Health, now: float, lease: float, token: str, _: bool) -> Health | None:
    """An e-mail in doubt probes like any other, as in the first design."""
    return rotation.win_probe(health, now, lease, token)


Judge = Callable[[Suspension], Verdict]


def _judging(judge: Judge, *, probes: bool = False) -> Rules:
    """Another judgement of failed calls, or of failed probes."""

    def after(health: Health, permit: Permit, verdict: Verdict, now: float, **known: Any) -> Health:
        if isinstance(verdict, Suspension) and (permit.probe is not None) == probes:
            verdict = judge(verdict)
        return rotation.apply_verdict(health, permit, verdict, now, **known)

    return Rules(after=after)


def _without_doubts(held: Suspension) -> Verdict:
    """As the first design had it: whatever the answer, one e-mail suspends a vendor."""
    return replace(held, is_hint=False, in_doubt=False)


def _twice_by_one(held: Suspension) -> Verdict:
    """What an e-mail in doubt draws counts like that of any other."""
    return replace(held, in_doubt=False)


def _never_by_content(held: Suspension) -> Verdict:
    return Sign.WORKS if held.is_hint else held


def _for_long_by_one(held: Suspension) -> Verdict:
    """A probe that draws a failure suspends for long, whoever drew it."""
    return replace(held, is_hint=held.in_doubt)


def _by_any_two(*args: Any, **known: Any) -> Health:
    """Two e-mails suspend a vendor, though no other has taken either."""
    with patch.object(rotation, "HINTS", 2):
        return rotation.apply_verdict(*args, **known)


def _never_confirmed(health: Health, *_: Any) -> Health:
    return health


def _yes_is_forgotten(*args: Any, **known: Any) -> Health:
    return rotation.apply_verdict(*args, **known | {"yes_at": 0.0})


def _pinned_for_ever(*args: Any) -> Permit | None:
    email: Snapshot = args[3]
    return Permit(email.pin.vendor) if email.pin else rotation.choose(*args)


def _no_wait_for_a_probe(health: Health, *args: Any) -> float:
    """As if nobody held the slot."""
    return _probe_wait(replace(health, probe_until=None), *args)


_probe_wait = rotation.probe_wait


def _blind_choice(*args: Any) -> Permit | None:
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
        Rules(after=_by_any_generation),
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
        Rules(win_probe=_wins_if_free),
        "a probe before its time",
    ),
    Mutant(
        "nobody waits for a probe in flight",
        scenarios.OUTAGE_PROBES,
        Rules(choose=_blind_choice),
        "hot loop",
    ),
    Mutant(
        "a pinned e-mail suspends an unavailable vendor",
        scenarios.KEYED,
        Rules(after=_suspends_again),
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
        Rules(after=_leaves_the_time),
        "due at once",
    ),
    Mutant(
        "an e-mail in doubt probes before others",
        scenarios.POISON,
        Rules(win_probe=_wins_in_doubt),
        "in doubt before others could",
    ),
    Mutant(
        "one e-mail suspends a vendor",
        scenarios.POISON_ALONE,
        _judging(_without_doubts),
        "suspended by what may be",
    ),
    Mutant(
        "an e-mail in doubt suspends a vendor",
        scenarios.POISON_TWO,
        _judging(_twice_by_one),
        "suspended by what may be",
    ),
    Mutant(
        "server errors suspend nobody",
        scenarios.POISON_TWO,
        _judging(_never_by_content),
        "still available after a second e-mail",
    ),
    Mutant(
        "any two e-mails suspend a vendor",
        scenarios.POISON_TWO,
        Rules(after=_by_any_two),
        "suspended by what may be",
    ),
    Mutant(
        "nobody is proven to be down",
        scenarios.POISON_THREE,
        Rules(confirm_hint=_never_confirmed),
        "still available after a second e-mail",
    ),
    Mutant(
        "one e-mail's probe suspends a vendor for long",
        scenarios.POISON,
        _judging(_for_long_by_one, probes=True),
        "kept unavailable by what one e-mail drew",
    ),
    Mutant(
        "a yes leaves the suspicion",
        scenarios.POISON_THREE,
        Rules(after=_yes_is_forgotten),
        "suspended by what may be",
    ),
    Mutant(
        "the first design's count: all but throttled",
        scenarios.OUTAGE_FLAPPING,
        _counting(_all_but_throttled),
        "failed (exhausted) through an outage",
    ),
    Mutant(
        "a suspected server error counts",
        scenarios.OUTAGE_ALONE,
        _counting(_suspected_server_errors),
        "failed (exhausted) through an outage",
    ),
    Mutant(
        "the first design's round: all vendors are asked again",
        scenarios.UNSUITABLE,
        Rules(decide=_forgets_refusals),
        "failed (exhausted) through an outage",
    ),
)
