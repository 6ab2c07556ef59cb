"""The whole decision table: what follows for an e-mail from every outcome in every situation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mailqueue.lifecycle.decide import (
    Decider,
    end,
    fallback,
    refuses_all,
    requeue_unsent,
    resolve_replay,
    suspension,
)
from mailqueue.lifecycle.outcomes import (
    HIGH,
    NORMAL,
    RETRY_PRIORITIES,
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
    Suspension,
)
from tests.for_each import for_each

POLICY = Policy()
PARK = replace(POLICY, resend_unknown=False)
EMAIL = Snapshot(priority=NORMAL)
AT_A = CurrentAttempt(vendor="a")
B_AVAILABLE: Mapping[str, float] = {"b": 0.0}
B_UNAVAILABLE: Mapping[str, float] = {"b": 400}
PIN = Pin(vendor="a", key="k", remaining=600)
FAILURES = [o for o in Outcome if o is not Outcome.ACCEPTED]


def decide(case: Case, result: SendResult | None, policy: Policy = POLICY) -> Decision:
    return Decider(policy, lambda: 0.5).decide(case, result)


def after(
    outcome: Outcome,
    email: Snapshot = EMAIL,
    waits: Mapping[str, float] = B_AVAILABLE,
    policy: Policy = POLICY,
    attempt: CurrentAttempt | None = AT_A,
    **result: Any,
) -> Decision:
    case = Case(email=email, attempt=attempt, waits=waits)
    return decide(case, SendResult(outcome=outcome, **result), policy)


def held(outcome: Outcome, *, in_doubt: bool = False, **result: Any) -> Suspension:
    """What is held against the vendor after such an answer."""
    found = suspension(SendResult(outcome=outcome, **result), POLICY, in_doubt=in_doubt)
    assert found is not None
    return found


def asked(email: Snapshot = EMAIL, waits: Mapping[str, float] = B_UNAVAILABLE) -> Decision:
    """What follows when no vendor could be asked."""
    return decide(Case(email=email, waits=waits), None)


TABLE = {  # another vendor is available; no other vendor may be asked; two unknowns at most
    Outcome.ACCEPTED: (("sent", 0), ("sent", 0)),
    Outcome.REJECTED: (("failed", 0), ("failed", 0)),
    Outcome.UNSUITABLE: (("queued", 0), ("queued", 400)),
    Outcome.DEFERRED: (("queued", 15), ("queued", 15)),
    Outcome.THROTTLED: (("queued", 0), ("queued", 15)),
    Outcome.UNAVAILABLE: (("queued", 0), ("queued", 15)),
    Outcome.MISCONFIGURED: (("queued", 0), ("queued", 15)),
    Outcome.UNKNOWN: (("queued", 0), ("queued", 15)),
}


@for_each("outcome", Outcome)
def test_the_table_of_statuses_and_delays(outcome: Outcome) -> None:
    for waits, (status, delay) in zip((B_AVAILABLE, B_UNAVAILABLE), TABLE[outcome], strict=True):
        decision = after(outcome, waits=waits)
        assert (decision.status.value, decision.delay) == (status, delay)
        assert decision.priority == RETRY_PRIORITIES[NORMAL]


UNAVAILABLE_FOR = {
    Outcome.THROTTLED: 60.0,
    Outcome.UNAVAILABLE: 600.0,
    Outcome.MISCONFIGURED: 600.0,
    Outcome.UNKNOWN: 600.0,
}


@for_each("outcome", Outcome)
def test_the_table_of_what_is_held_against_the_vendor_or_against_the_email(
    outcome: Outcome,
) -> None:
    against = suspension(SendResult(outcome=outcome, code="x"), POLICY)
    assert (against.seconds if against else None) == UNAVAILABLE_FOR.get(outcome)
    assert after(outcome).counted == (against is None or outcome is Outcome.UNKNOWN)
    if against:
        assert against.reason == f"{outcome} x"


def test_a_vendor_that_accepts_but_holds_emails_back_has_done_its_part_and_gets_no_more() -> None:
    assert after(Outcome.ACCEPTED, code="200", quota_held=True).status is Status.SENT
    against = held(Outcome.ACCEPTED, code="200", quota_held=True)
    assert (against.seconds, against.reason) == (600.0, "misconfigured 200")


@for_each("outcome", FAILURES)
def test_no_end_after_an_unknown_is_called_failed(outcome: Outcome) -> None:
    email = replace(EMAIL, unknowns=1, counted=25, expires_in=0.0)
    assert after(outcome, email).status is Status.UNCERTAIN
    assert after(outcome, replace(email, age=POLICY.give_up_after)).status is Status.UNCERTAIN


@for_each("outcome", Outcome)
def test_an_unknown_of_our_own_or_a_yes_is_not_held_against_the_vendor(outcome: Outcome) -> None:
    assert suspension(SendResult(outcome=outcome, our_fault=True), POLICY) is None


@for_each(
    "retry_after,seconds",
    [
        *((7200.0, 3600.0), (90.0, 90.0), (1.0, 1.0), (0.0, 1.0), (-3.0, 1.0)),
        *((float("inf"), 3600.0), (float("-inf"), 1.0)),
    ],
)
def test_a_throttling_vendor_is_left_alone_until_the_time_it_named(
    retry_after: float, seconds: float
) -> None:
    """But never for no time at all: that would be a hot loop."""
    against = held(Outcome.THROTTLED, retry_after=retry_after)
    assert (against.seconds, against.retry_after) == (seconds, seconds)


def test_what_is_no_number_is_no_time() -> None:
    against = held(Outcome.THROTTLED, retry_after=float("nan"))
    assert (against.seconds, against.retry_after) == (POLICY.silent_throttle, None)
    for email in (EMAIL, replace(EMAIL, pin=PIN)):
        assert 0 <= after(Outcome.DEFERRED, email, retry_after=float("nan")).delay <= 15


MAYBE = [
    {"outcome": Outcome.UNAVAILABLE},
    {"outcome": Outcome.UNKNOWN},
    {"outcome": Outcome.MISCONFIGURED, "content_suspect": True},
]
SURELY_NOT = [
    {"outcome": Outcome.UNAVAILABLE, "answered": False},
    {"outcome": Outcome.UNKNOWN, "answered": False},
    {"outcome": Outcome.MISCONFIGURED},
    {"outcome": Outcome.THROTTLED},
]


@for_each("in_doubt", [False, True])
@for_each("result", MAYBE)
def test_an_answer_that_content_may_have_drawn_is_a_hint(
    result: dict[str, Any], in_doubt: bool
) -> None:
    against = held(**result, in_doubt=in_doubt)
    assert (against.is_hint, against.in_doubt) == (True, in_doubt)


@for_each("changes", [{"hint_vendors": frozenset({"a"})}, {"round": Round(refused=("b",))}])
def test_an_email_that_drew_such_an_answer_or_was_refused_is_in_doubt(
    changes: dict[str, Any],
) -> None:
    assert not EMAIL.in_doubt
    assert replace(EMAIL, **changes).in_doubt


@for_each("result", SURELY_NOT)
def test_a_failure_that_no_content_draws_counts_at_once_whoever_it_hits(
    result: dict[str, Any],
) -> None:
    against = held(**result, in_doubt=True)
    assert (against.is_hint, against.in_doubt) == (False, False)


def test_what_a_vendor_says_that_refuses_everything_is_held_against_it_and_for_a_minute() -> None:
    said = SendResult(outcome=Outcome.REJECTED, code="smtp-550", refused=("x",), pending=("y",))
    result = refuses_all(said)
    assert (result.outcome, result.refused, result.pending) == (Outcome.MISCONFIGURED, (), ())
    decision = decide(Case(email=EMAIL, attempt=AT_A, waits=B_AVAILABLE), result)
    assert (decision.status, decision.round.tried) == (Status.QUEUED, ("a",))
    assert (decision.counted, decision.refused) == (0, ())
    against = suspension(result, POLICY)
    assert against is not None
    assert (against.seconds, against.is_hint) == (60.0, True)
    assert against.reason == "misconfigured refuses_all smtp-550"
    alone = decide(Case(email=EMAIL, attempt=AT_A, waits={"a": 0.0}), result)
    assert (alone.status, alone.delay) == (Status.QUEUED, 15)


@for_each("hint_vendors", [frozenset[str](), frozenset({"b"})])
def test_no_outage_however_often_it_comes_back_uses_up_an_email(
    hint_vendors: frozenset[str],
) -> None:
    email = replace(EMAIL, counted=24, hint_vendors=hint_vendors)
    for outcome in (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.MISCONFIGURED):
        decision = after(outcome, email, waits=B_UNAVAILABLE)
        assert (decision.status, decision.counted) == (Status.QUEUED, 24)


def test_a_vendor_without_room_for_now_is_not_to_blame_and_nothing_is_counted() -> None:
    email = replace(EMAIL, counted=24, round=Round(n=3, tried=("c",)))
    passed = after(Outcome.THROTTLED, email, our_fault=True)
    waits = after(Outcome.THROTTLED, email, waits=B_UNAVAILABLE, our_fault=True)
    for decision in (passed, waits):
        assert decision.status is Status.QUEUED
        assert (decision.counted, decision.round.n) == (24, 3)
    assert (passed.delay, passed.round.tried) == (0.0, ("c", "a"))
    assert (waits.delay, waits.round.tried) == (1.0, ("c",))


def test_attempts_time_and_expiry_end_it_with_their_reasons() -> None:
    assert after(Outcome.DEFERRED, replace(EMAIL, counted=24)).reason == Reason.EXHAUSTED
    assert after(Outcome.THROTTLED, replace(EMAIL, age=259_200.0)).reason == Reason.GAVE_UP
    assert after(Outcome.UNAVAILABLE, replace(EMAIL, expires_in=0.0)).reason == Reason.EXPIRED
    assert after(Outcome.DEFERRED, replace(EMAIL, expires_in=1.0)).status is Status.QUEUED


def test_a_round_asks_each_vendor_once_and_then_ends_with_a_back_off() -> None:
    first = after(Outcome.UNAVAILABLE)
    assert first.round == Round(tried=("a",))
    second = after(Outcome.UNAVAILABLE, replace(EMAIL, round=Round(tried=("b",))))
    assert second.round == Round(n=1)
    assert second.delay == 15


@for_each("n,delay", [(0, 15), (1, 30), (6, 960), (7, 1800), (5000, 1800)])
def test_the_back_off_doubles_up_to_an_hour(n: int, delay: float) -> None:
    assert after(Outcome.DEFERRED, replace(EMAIL, round=Round(n=n))).delay == delay


def test_the_back_off_is_not_before_the_vendors_own_time_nor_after_the_longest_wait() -> None:
    assert after(Outcome.DEFERRED, retry_after=100).delay == 100
    assert after(Outcome.DEFERRED, retry_after=1e9).delay == POLICY.max_wait


def test_one_vendors_refusal_does_not_kill_an_email_but_that_of_all_does() -> None:
    first = after(Outcome.UNSUITABLE)
    assert (first.status, first.round.refused) == (Status.QUEUED, ("a",))
    last = after(Outcome.UNSUITABLE, replace(EMAIL, round=Round(refused=("b",))))
    assert (last.status, last.reason) == (Status.FAILED, Reason.REFUSED_BY_ALL)
    assert asked(waits={}).reason == Reason.REFUSED_BY_ALL


def test_who_refused_is_not_asked_again_in_the_next_round() -> None:
    email = replace(EMAIL, round=Round(refused=("a",)))
    waits = {"a": 0.0}
    decision = after(Outcome.UNAVAILABLE, email, waits, attempt=CurrentAttempt(vendor="b"))
    assert decision.round == Round(n=1, refused=("a",))


def test_a_wait_because_nobody_was_free_counts_as_nothing() -> None:
    decision = asked()
    assert (decision.delay, decision.counted, decision.round) == (400, 0, Round())
    assert decision.priority == NORMAL, "an e-mail that nobody was asked for is no retry"
    assert asked(waits=B_AVAILABLE).delay == 1, "never at once: that would be a hot loop"


def test_what_is_left_of_a_round_ends_with_it_when_nobody_is_free() -> None:
    decision = asked(replace(EMAIL, round=Round(tried=("a",))))
    assert decision.round == Round(n=1)
    assert decision.priority == RETRY_PRIORITIES[NORMAL]


def test_an_unknown_is_resent_once_and_then_waits_for_a_person() -> None:
    first = after(Outcome.UNKNOWN)
    assert (first.status, first.unknowns) == (Status.QUEUED, 1)
    second = after(Outcome.UNKNOWN, replace(EMAIL, unknowns=1))
    assert (second.status, second.reason) == (Status.UNCERTAIN, Reason.UNKNOWN)


def test_parked_an_unknown_is_never_resent() -> None:
    assert after(Outcome.UNKNOWN, policy=PARK).status is Status.UNCERTAIN


@for_each("policy", [POLICY, PARK])
def test_an_unknown_under_a_key_is_repeated_at_once_at_the_same_vendor(policy: Policy) -> None:
    attempt = replace(AT_A, key="k", key_life=43_200)
    decision = after(Outcome.UNKNOWN, policy=policy, attempt=attempt)
    assert decision.pin == Pin(vendor="a", key="k", remaining=900)
    assert (decision.status, decision.delay, decision.unknowns) == (Status.QUEUED, 0, 0)
    short = after(Outcome.UNKNOWN, policy=policy, attempt=replace(attempt, key_life=60))
    assert short.pin == Pin(vendor="a", key="k", remaining=60)
    assert after(Outcome.UNKNOWN, attempt=replace(attempt, key_life=0)).pin is None


REPEATED = set(FAILURES) - {Outcome.REJECTED, Outcome.UNSUITABLE}


@for_each("outcome", FAILURES)
def test_a_pinned_email_is_repeated_until_its_vendor_says_no(outcome: Outcome) -> None:
    decision = after(outcome, replace(EMAIL, pin=PIN))
    if outcome in REPEATED:
        assert decision.pin == replace(PIN, repeats=1)
        assert (decision.delay, decision.unknowns) == (2.5, 0)
    else:
        assert (decision.pin, decision.unknowns) == (None, 1)


def test_a_pin_ends_with_a_yes_or_with_its_time_as_an_ordinary_unknown() -> None:
    assert after(Outcome.ACCEPTED, replace(EMAIL, pin=PIN)).pin is None
    brief = replace(PIN, remaining=1)
    over = after(Outcome.UNAVAILABLE, replace(EMAIL, pin=brief))
    assert (over.pin, over.unknowns, over.round.tried) == (None, 1, ("a",))
    waited = asked(replace(EMAIL, pin=replace(PIN, remaining=0)), waits=B_AVAILABLE)
    assert (waited.pin, waited.unknowns, waited.status) == (None, 1, Status.QUEUED)
    parked = decide(Case(email=replace(EMAIL, pin=PIN), waits=B_AVAILABLE), None, PARK)
    assert parked.status is Status.UNCERTAIN


def test_only_those_put_off_are_tried_again_after_a_partial_yes() -> None:
    decision = after(Outcome.ACCEPTED, pending=("x",), refused=("y",))
    assert (decision.status, decision.delay) == (Status.QUEUED, 15)
    assert (decision.pending, decision.refused) == (("x",), ("y",))


def test_the_rest_of_too_many_recipients_goes_at_once_and_is_no_failed_attempt() -> None:
    last = replace(EMAIL, counted=POLICY.max_attempts - 1)
    for pending in (None, ("x", "y", "z")):
        decision = after(
            *(Outcome.ACCEPTED, replace(last, pending=pending), B_UNAVAILABLE),
            pending=("x", "y"),
            retry_after=0.0,
        )
        assert (decision.status, decision.delay) == (Status.QUEUED, 0)
        assert (decision.pending, decision.round) == (("x", "y"), last.round)
        assert decision.counted == last.counted


def test_a_rest_that_does_not_get_less_waits_and_counts() -> None:
    email = replace(EMAIL, pending=("x",))
    decision = after(Outcome.ACCEPTED, email, pending=("x",), retry_after=0.0)
    assert (decision.status, decision.delay, decision.counted) == (Status.QUEUED, 15, 1)


@for_each(
    "outcome,email",
    [
        (Outcome.REJECTED, EMAIL),
        (Outcome.DEFERRED, replace(EMAIL, counted=24)),
        (Outcome.UNSUITABLE, replace(EMAIL, round=Round(refused=("b",)))),
    ],
)
def test_a_partial_yes_ends_as_sent_with_the_rest_refused(
    outcome: Outcome, email: Snapshot
) -> None:
    decision = after(outcome, replace(email, pending=("x",), refused=("y",)))
    assert decision.status is Status.SENT
    assert (decision.pending, decision.refused) == (None, ("y", "x"))


def test_an_end_from_outside_is_uncertain_while_a_pin_holds() -> None:
    assert end(EMAIL, Reason.EXPIRED).status is Status.FAILED
    pinned = end(replace(EMAIL, pin=PIN), Reason.EXPIRED)
    assert (pinned.status, pinned.pin) == (Status.UNCERTAIN, None)


def test_a_claim_given_back_changes_nothing_and_is_taken_up_before_new_ones() -> None:
    email = replace(EMAIL, priority=HIGH, counted=3, round=Round(n=2, tried=("a",)))
    decision = requeue_unsent(email)
    assert (decision.status, decision.delay, decision.counted) == (Status.QUEUED, 0, 3)
    assert (decision.round, decision.priority) == (email.round, RETRY_PRIORITIES[HIGH])


def test_without_a_vendor_an_unknown_of_ours_goes_to_the_next() -> None:
    decision = after(Outcome.UNKNOWN, attempt=None, our_fault=True)
    assert (decision.status, decision.unknowns) == (Status.QUEUED, 1)
    assert after(Outcome.UNSUITABLE, attempt=None).round.refused == ()


def test_a_vendor_that_can_be_asked_is_given_time_to_know_the_answer() -> None:
    assert after(Outcome.UNKNOWN, attempt=replace(AT_A, lookup=True)).delay == POLICY.lookup_after
    over = replace(EMAIL, expires_in=0.0)
    assert after(Outcome.UNKNOWN, over, attempt=replace(AT_A, lookup=True)).delay == 0


def test_without_the_rules_a_yes_stands_and_what_may_have_left_waits_for_a_person() -> None:
    pinned = replace(EMAIL, pin=PIN)
    for outcome in Outcome:
        decision = fallback(pinned, SendResult(outcome=outcome))
        expected = {Outcome.ACCEPTED: Status.SENT, Outcome.UNKNOWN: Status.UNCERTAIN}
        assert decision.status is expected.get(outcome, Status.QUEUED)
        assert (decision.pin is None) == decision.status.final
    part = fallback(EMAIL, SendResult(outcome=Outcome.ACCEPTED, pending=("x",)))
    assert part.status is Status.UNCERTAIN


@for_each("status", Status)
def test_only_what_is_queued_or_being_sent_is_not_final(status: Status) -> None:
    assert status.final == (status not in (Status.QUEUED, Status.SENDING))


def test_a_replayed_key_is_a_yes_only_after_an_unknown_at_that_vendor() -> None:
    """A request that was refused may have used the key up: then nothing was sent."""
    replay = SendResult(outcome=Outcome.ACCEPTED, code="400", replay=True)
    unknown_before = replace(EMAIL, unknown_vendors=frozenset({"brevo"}))
    assert resolve_replay(EMAIL, "brevo", replay).outcome is Outcome.UNKNOWN
    assert resolve_replay(unknown_before, "brevo", replay) is replay
    fresh = SendResult(outcome=Outcome.ACCEPTED, code="201")
    assert resolve_replay(EMAIL, "brevo", fresh) is fresh


def test_a_key_that_was_first_used_long_ago_pins_nothing() -> None:
    """The vendor has forgotten it: the repeat would be a second copy that nobody counts."""
    lost = SendResult(outcome=Outcome.UNKNOWN, code="lease_expired", answered=False, our_fault=True)
    fresh = CurrentAttempt(vendor="brevo", key="k", key_life=450.0)
    assert decide(Case(email=EMAIL, attempt=fresh), lost).pin is not None
    old = replace(fresh, key_age=14_400.0)
    decision = decide(Case(email=EMAIL, attempt=old), lost, PARK)
    assert decision.pin is None
    assert decision.status is Status.UNCERTAIN
