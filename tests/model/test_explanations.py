"""Every decision is explained, and the vendors that are said to be next are those that are.

Which decisions there are is found by asking ``decide`` in every situation.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator
from datetime import timedelta
from itertools import product
from typing import Any

from mailqueue.config import Config
from mailqueue.lifecycle.decide import Decider, end, fallback, requeue_unsent
from mailqueue.lifecycle.outcomes import (
    NORMAL,
    Case,
    CurrentAttempt,
    Decision,
    Outcome,
    Pin,
    Policy,
    Reason,
    Round,
    SendResult,
    Snapshot,
    Status,
)
from mailqueue.monitoring import wording
from mailqueue.monitoring.conditions import Conditions
from mailqueue.routing import rotation
from mailqueue.routing.rotation import Health
from mailqueue.routing.router import LEASE_EXPIRED
from mailqueue.store.document import Stored
from mailqueue.store.ledger import NOT_STARTED
from tests.unit.test_explanation import (
    ALIVE,
    NAMES,
    NOW,
    SECRET,
    Document,
    ago,
    assert_reads_well,
    email,
    line,
    told,
)

PIN = Pin(vendor="ses", key="k", remaining=600)


# --- the whole table of decisions


def snapshots() -> Iterator[Snapshot]:
    for (age, expires_in), counted, unknowns, refused, pin, pending in product(
        ((0.0, None), (1e9, None), (0.0, 0.0)),
        (0, 25),
        (0, 1),
        ((), ("ses", "mailgun")),
        (None, PIN),
        (None, (SECRET,)),
    ):
        yield Snapshot(
            priority=NORMAL,
            age=age,
            expires_in=expires_in,
            counted=counted,
            unknowns=unknowns,
            round=Round(refused=refused),
            pin=pin,
            pending=pending,
        )


def decisions() -> Iterator[tuple[Decision, SendResult | None, CurrentAttempt | None]]:
    """Every decision about every outcome, in every situation; and those without an outcome."""
    results = [SendResult(outcome=o, our_fault=f) for o, f in product(Outcome, (False, True))]
    results += [SendResult(outcome=Outcome.ACCEPTED, pending=(SECRET,)), LEASE_EXPIRED]
    waits = {"ses": 0.0, "mailgun": 0.0}
    attempts = [CurrentAttempt(vendor="ses"), CurrentAttempt(vendor="ses", key="k", key_life=900)]
    deciders = [Decider(Policy(resend_unknown=resend), lambda: 0.5) for resend in (True, False)]
    for snapshot in snapshots():
        for decider in deciders:
            yield decider.decide(Case(email=snapshot, waits=waits), None), None, None
            for attempt, result in product(attempts, results):
                case = Case(email=snapshot, attempt=attempt, waits=waits)
                yield decider.decide(case, result), result, attempt
        for result in results:
            decision = fallback(snapshot, result)
            yield from ((decision, result, attempt) for attempt in attempts)
        yield requeue_unsent(snapshot), None, attempts[0]
        for reason in Reason:
            yield end(snapshot, reason), None, None


def kind(*case: Any) -> Hashable:
    """Of two cases of a kind one is enough: they differ in numbers and names only."""
    decision, result, attempt = case
    flags = decision.pin, decision.pending, decision.refused, decision.delay, attempt
    outcome = result and (result.outcome, result.code)
    current = decision.round.tried, decision.round.refused
    ends = decision.status, decision.reason, decision.unknowns
    return *ends, current, outcome, *map(bool, flags), attempt and attempt.key


def stored_after(
    decision: Decision, result: SendResult | None, attempt: CurrentAttempt | None
) -> Document:
    """The document as the decision leaves it."""
    lines = []
    if attempt is not None:
        outcome = NOT_STARTED if result is None else result.outcome.value
        lines = [line(1, attempt.vendor, outcome, 30, key=attempt.key)]
    pin = decision.pin and {
        "vendor": decision.pin.vendor,
        "key": decision.pin.key,
        "until": NOW + timedelta(seconds=decision.pin.remaining),
        "repeats": decision.pin.repeats,
    }
    pending, current = decision.pending, decision.round
    return email(
        decision.status.value,
        reason=decision.reason,
        due_at=NOW + timedelta(seconds=decision.delay) if decision.delay else None,
        round={"n": current.n, "tried": list(current.tried), "refused": list(current.refused)},
        pin=pin,
        pending=None if pending is None else list(pending),
        refused=list(decision.refused) or None,
        unknowns=decision.unknowns,
        counted=decision.counted,
        attempts=lines,
        lease={"token": len(lines)},
        clock_from=ago(40),
        **({"sent_at": ago(10)} if decision.status is Status.SENT else {}),
    )


def test_every_decision_is_explained() -> None:
    """A new status, reason or outcome without a text, or a text that is no sentence, fails here."""
    ends = set()
    cases = {kind(*case): case for case in decisions()}
    for case in cases.values():
        decision, stored = case[0], stored_after(*case)
        explanation = told(stored)
        assert_reads_well(explanation)
        assert explanation.next
        if decision.reason is not None:
            ends.add((decision.status, decision.reason))
            assert wording.REASONS[Reason(decision.reason)] in explanation.summary
        if decision.status is Status.UNCERTAIN:
            assert "may have reached its readers" in explanation.summary
        else:
            assert decision.unknowns or "may have reached" not in explanation.summary
    failed = {Reason.REJECTED, Reason.REFUSED_BY_ALL, Reason.EXHAUSTED, Reason.GAVE_UP}
    assert {reason for status, reason in ends if status is Status.FAILED} >= failed
    assert len(cases) > 500


# --- whose turn it is next: what the rotation itself says


def random_situation(rand: random.Random) -> tuple[Document, Conditions, Config]:
    """An e-mail that is due, and vendors in any state."""
    weights = {name: rand.randint(1, 3) for name in NAMES}
    vendors = [
        {"name": n, "type": "sendgrid", "api_key": "x", "weight": w} for n, w in weights.items()
    ]
    states = {}
    for name in NAMES:
        until = rand.choice([None, -1.0, 30.0, 600.0])
        seconds = NOW.timestamp()
        states[name] = (
            Health(name=name)
            if until is None
            else Health(
                name=name,
                generation=1,
                reason="unavailable 503",
                since=seconds - 60,
                unavailable_until=seconds + until,
                probe_at=seconds + rand.choice([-5, 5]),
                probe_until=rand.choice([None, seconds + 20]),
                retry_after_until=rand.choice([None, seconds + 25]),
            )
        )
    stored = email(
        attempts=[line(1, "ses", rand.choice(["unavailable", "deferred"]), 30, answered=True)],
        round={
            "n": rand.randint(0, 2),
            "tried": rand.sample(NAMES, rand.randint(0, 2)),
            "refused": rand.sample(NAMES, rand.randint(0, 1)),
        },
        clock_from=ago(30),
    )
    return stored, Conditions(states, consumers=ALIVE), Config.from_mapping({"vendors": vendors})


def test_the_vendors_named_are_those_that_the_rotation_chooses() -> None:
    """With the weights as they are, for a thousand jobs."""
    rand = random.Random(1)
    for _ in range(100):
        stored, conditions, configured = random_situation(rand)
        weights = {vendor.name: vendor.weight for vendor in configured.vendors}
        snapshot, now = Stored(stored, NOW).snapshot(), NOW.timestamp()
        permits = {
            rotation.choose(job, weights, NAMES, snapshot, conditions.health, now)
            for job in range(sum(weights.values()))
        }
        names = {permit.vendor for permit in permits if permit is not None}
        explanation = told(stored, conditions, configured=configured)
        assert_reads_well(explanation)
        sentences = [s.text for s in explanation.next]
        goes = next((each for each in sentences if each.startswith("As things are")), "")
        assert {name for name in NAMES if name in goes.partition(":")[0]} == names
        assert any("No vendor may be asked then" in each for each in sentences) == (not names)
        for name in set(NAMES) - names:
            assert any(each.startswith(f"Not {name}: ") for each in sentences)
