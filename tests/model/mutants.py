"""Rules with one thing wrong each, and the scenario in which that must be found.

Decides: what counts as the model's teeth. Beside lost guards these are rules that the
product, or its first design, had once: the model is why it has others (docs/lifecycle.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from mailqueue.lifecycle import decide as lifecycle
from mailqueue.lifecycle import outcomes as record
from mailqueue.lifecycle.outcomes import (
    Decision,
    Outcome,
    Policy,
    SendResult,
    Snapshot,
    Status,
    Suspension,
    VendorState,
)
from mailqueue.routing import rotation
from mailqueue.routing.rotation import Choice, Health
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
    record: Snapshot, result: SendResult | None, others: Others, policy: Policy, rand: Rand
) -> Decision:
    decision = lifecycle.decide(record, result, others, policy, rand)
    if decision.round.tried or decision.status is not Status.QUEUED:
        return decision
    tried = {*record.round.tried, *filter(None, [record.vendor])}
    return replace(decision, round=replace(decision.round, tried=tuple(tried)))


def _at_once_for_nobody(
    record: Snapshot, result: SendResult | None, others: Others, policy: Policy, rand: Rand
) -> Decision:
    decision = lifecycle.decide(record, result, others, policy, rand)
    return decision if result else replace(decision, delay=0.0)


def _forgets_refusals(
    record: Snapshot, result: SendResult | None, others: Others, policy: Policy, rand: Rand
) -> Decision:
    """As the first design had it: a new round asks every vendor again."""
    decision = lifecycle.decide(record, result, others, policy, rand)
    if decision.round.tried:
        return decision
    return replace(decision, round=replace(decision.round, refused=()))


def _counting(counts: Callable[[Snapshot, SendResult, Suspension | None], bool]) -> Rules:
    def decide(*args: Any) -> Decision:
        with patch.object(lifecycle, "_counts", counts):
            return lifecycle.decide(*args)

    return Rules(decide=decide)


def _all_but_throttled_and_probes(
    record: Snapshot, result: SendResult, _: Suspension | None
) -> bool:
    """As the first design had it."""
    return not record.probe and result.outcome is not Outcome.THROTTLED


def _suspected_server_errors(_: Snapshot, __: SendResult, closing: Suspension | None) -> bool:
    return closing is None or closing.of_content


def _closes_again(
    health: Health, closing: Suspension, now: float, generation: int, *_: object, **__: object
) -> Health:
    """A closed vendor that a pinned e-mail asks is closed anew, and its probe's slot lost."""
    if generation != health.generation or closing.of_content:
        return health
    return rotation._shut(health, closing, now, step=record.PROBE_STEP)


def _by_any_generation(
    health: Health, closing: Suspension, now: float, _: int, email_id: str, **more: Any
) -> Health:
    return rotation.closed(health, closing, now, health.generation, email_id, **more)


def _wins_if_free(health: Health, now: float, lease: float, token: str, _: bool) -> Health | None:
    """Whoever finds the slot free has it, due or not any more."""
    if health.open or (health.probe_until is not None and health.probe_until > now):
        return None
    return replace(health, probe_token=token, probe_until=now + lease)


def _leaves_the_time(
    health: Health, closing: Suspension, now: float, token: str, email_id: str, **more: Any
) -> Health:
    """After the failed probe of an e-mail in doubt another such may probe at once."""
    after = rotation.probe_failed(health, closing, now, token, email_id, **more)
    return replace(after, last_resort_at=health.last_resort_at) if closing.in_doubt else after


def _wins_in_doubt(health: Health, now: float, lease: float, token: str, _: bool) -> Health | None:
    """An e-mail in doubt probes like any other, as in the first design."""
    return rotation.probe_won(health, now, lease, token)


def _without_doubts(health: Health, closing: Suspension, *args: Any, **more: Any) -> Health:
    """As the first design had it: whatever the answer, one e-mail closes a vendor."""
    return rotation.closed(
        health, replace(closing, of_content=False, in_doubt=False), *args, **more
    )


def _twice_by_one(health: Health, closing: Suspension, *args: Any, **more: Any) -> Health:
    """What an e-mail in doubt draws counts like that of any other."""
    return rotation.closed(health, replace(closing, in_doubt=False), *args, **more)


def _never_by_content(health: Health, closing: Suspension, *args: Any, **more: Any) -> Health:
    return health if closing.of_content else rotation.closed(health, closing, *args, **more)


def _by_any_two(health: Health, closing: Suspension, *args: Any, **more: Any) -> Health:
    """Two e-mails close a vendor, though no other has taken either."""
    with patch.object(rotation, "HINTS", 2):
        return rotation.closed(health, closing, *args, **more)


def _never_convicted(health: Health, *_: Any) -> Health:
    return health


def _for_long_by_one(health: Health, closing: Suspension, *args: Any, **more: Any) -> Health:
    """A probe that draws a failure closes for long, whoever drew it."""
    proof = replace(closing, of_content=closing.in_doubt)
    return rotation.probe_failed(health, proof, *args, **more)


def _not_vouched(health: Health, _: object) -> Health:
    return health


def _pinned_for_ever(*args: Any) -> Choice | None:
    record: Snapshot = args[3]
    return Choice(record.pin.vendor) if record.pin else rotation.choose(*args)


def _no_wait_for_a_probe(health: Health, *args: Any) -> float:
    """As if nobody held the slot."""
    return _probe_wait(replace(health, probe_until=None), *args)


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
        "an e-mail in doubt probes before others",
        scenarios.POISON,
        Rules(probe_won=_wins_in_doubt),
        "in doubt before others could",
    ),
    Mutant(
        "one e-mail closes a vendor",
        scenarios.POISON_ALONE,
        Rules(closed=_without_doubts),
        "closed by what may be",
    ),
    Mutant(
        "an e-mail in doubt closes a vendor",
        scenarios.POISON_TWO,
        Rules(closed=_twice_by_one),
        "closed by what may be",
    ),
    Mutant(
        "server errors close nothing",
        scenarios.POISON_TWO,
        Rules(closed=_never_by_content),
        "still open after a second e-mail",
    ),
    Mutant(
        "any two e-mails close a vendor",
        scenarios.POISON_TWO,
        Rules(closed=_by_any_two),
        "closed by what may be",
    ),
    Mutant(
        "nobody is proven to be down",
        scenarios.POISON_THREE,
        Rules(convicted=_never_convicted),
        "still open after a second e-mail",
    ),
    Mutant(
        "one e-mail's probe closes a vendor for long",
        scenarios.POISON,
        Rules(probe_failed=_for_long_by_one),
        "kept closed by what one e-mail drew",
    ),
    Mutant(
        "a yes leaves the suspicion",
        scenarios.POISON_THREE,
        Rules(vouched=_not_vouched),
        "closed by what may be",
    ),
    Mutant(
        "the first design's count: all but throttled and failed probes",
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
        "the first design's round: all vendors are asked again",
        scenarios.UNSUITABLE,
        Rules(decide=_forgets_refusals),
        "failed (exhausted) through an outage",
    ),
)
