"""Situations nobody thought of: rules for every e-mail and for every unavailable vendor."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mailqueue.lifecycle.decide import Decider
from mailqueue.lifecycle.outcomes import (
    RETRY_PRIORITIES,
    Case,
    CurrentAttempt,
    Outcome,
    Pin,
    Policy,
    Round,
    SendResult,
    Snapshot,
    Status,
)
from mailqueue.routing.rotation import (
    HINTS,
    LAST_RESORT,
    PROBE_STEP_MAX,
    Permit,
    Sign,
    apply_verdict,
    probe_wait,
    win_probe,
)
from tests.unit.test_rotation import DOWN, NOW, resting

POLICY = Policy()
PIN = Pin(vendor="a", key="k", remaining=600)
RESULTS = st.builds(
    SendResult,
    outcome=st.sampled_from(Outcome),
    retry_after=st.none() | st.floats(),
    answered=st.booleans(),
    content_suspect=st.booleans(),
    our_fault=st.booleans(),
)
EMAILS = st.builds(
    Snapshot,
    priority=st.sampled_from(sorted(RETRY_PRIORITIES)),
    counted=st.integers(0, 30),
    unknowns=st.integers(0, 2),
    age=st.floats(0, 3e5),
    round=st.builds(
        Round, n=st.integers(0, 99), tried=st.just(("b",)) | st.just(()), refused=st.just(())
    ),
    pin=st.none() | st.just(PIN),
    hint_vendors=st.frozensets(st.sampled_from(["a", "b"])),
)
ATTEMPTS = st.builds(
    CurrentAttempt,
    vendor=st.just("a"),
    key=st.none() | st.just("k"),
    key_life=st.floats(0, 1e5),
    lookup=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    EMAILS,
    st.none() | ATTEMPTS,
    st.none() | RESULTS,
    *(st.floats(0, 1e4), st.floats(0, 0.999), st.booleans()),
)
def test_in_every_situation_the_promises_hold(
    email: Snapshot,
    attempt: CurrentAttempt | None,
    result: SendResult | None,
    wait: float,
    rand: float,
    resend: bool,
) -> None:
    policy = replace(POLICY, resend_unknown=resend)
    waits = {"b": wait}
    case = Case(email=email, attempt=attempt if result else None, waits=waits)
    decision = Decider(policy, lambda: rand).decide(case, result)
    yes = result is not None and result.outcome is Outcome.ACCEPTED
    assert 0 <= decision.delay < 1e5
    assert decision.counted - email.counted in (0, 1)
    assert decision.unknowns - email.unknowns in (0, 1)
    assert (decision.status is Status.SENT) == yes
    if decision.status is Status.FAILED:
        assert not email.unknowns
        assert email.pin is None
    if result is None and email.pin is None and decision.status is Status.QUEUED:
        assert decision.delay >= 1
    if decision.unknowns > max(1, email.unknowns):
        assert decision.status is Status.UNCERTAIN


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["fail", *["hint"] * 5, "doubt", "give back", "named"]),
        max_size=40,
    )
)
def test_probes_come_at_growing_intervals_up_to_a_minute(events: list[str]) -> None:
    health, now, before, at_once = resting(), NOW, 5.0, 0
    for n, event in enumerate(events):
        doubt = event == "doubt"
        now += max(0.0, probe_wait(health, now, early=True, in_doubt=doubt))
        if doubt and health.last_resort_at is None:
            left = win_probe(health, now, 120, "t", in_doubt=True)
            assert left is not None
            health, now = left, now + LAST_RESORT
        taken = win_probe(health, now, 120, "t", in_doubt=doubt)
        assert taken is not None
        if event == "give back":
            health = apply_verdict(taken, Permit("b", taken.generation, "t"), Sign.NONE, now)
            continue
        named = 7.0 if event == "named" else None
        is_hint = doubt or event == "hint"
        held = replace(DOWN, is_hint=is_hint, in_doubt=doubt, retry_after=named)
        permit = Permit("b", taken.generation, "t")
        health = apply_verdict(taken, permit, held, now, email_id=str(n))
        assert before <= health.probe_step <= PROBE_STEP_MAX
        assert 0 < probe_wait(health, now, early=True, in_doubt=is_hint) <= PROBE_STEP_MAX
        at_once += event == "hint"
        if probe_wait(health, now, early=True) > 0:
            at_once = 0
        assert at_once < HINTS
        before = health.probe_step
    assert not health.available
