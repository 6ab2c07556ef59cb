"""Whose turn it is, and how a vendor's health changes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from mailqueue.lifecycle.outcomes import NORMAL, Pin, Round, Snapshot, Suspension
from mailqueue.routing.pace import Promise
from mailqueue.routing.rotation import (
    BUSY,
    FEW,
    FULL,
    HINTS,
    LAST_RESORT,
    PROBE_RESULT_WAIT,
    ROW_SECONDS,
    WANTED,
    Health,
    Permit,
    Sign,
    Verdict,
    apply_verdict,
    choose,
    choose_in_time,
    confirm_hint,
    probe_wait,
    waits,
    win_probe,
)
from tests.for_each import for_each

NOW = 1_000_000.0
NAMES = ("a", "b", "c")
WEIGHTS = dict.fromkeys(NAMES, 1)
DOWN = Suspension(seconds=600, reason="unavailable dns")
HINT = Suspension(seconds=600, reason="unavailable 503", is_hint=True)
FRESH = Snapshot(priority=NORMAL)


def failed(
    health: Health,
    held: Suspension,
    now: float,
    generation: int = 0,
    email_id: str = "",
    **known: Any,
) -> Health:
    """After a failed call that was begun in this generation."""
    permit = Permit(health.name, generation)
    return apply_verdict(health, permit, held, now, email_id=email_id, **known)


def probed(health: Health, verdict: Verdict, now: float, token: str, email_id: str = "") -> Health:
    """After a probe, whose token was this one."""
    permit = Permit(health.name, health.generation, token)
    return apply_verdict(health, permit, verdict, now, email_id=email_id)


def resting() -> Health:
    """A vendor that was just suspended for ten minutes."""
    return failed(Health(name="b"), DOWN, NOW)


def held(health: Health, now: float) -> Health:
    """The same with its probe taken."""
    taken = win_probe(health, now, 120, "t")
    assert taken is not None
    return taken


def board(**changed: Health) -> dict[str, Health]:
    return {name: changed.get(name, Health(name=name)) for name in NAMES}


def asked(*tried: str, refused: tuple[str, ...] = ()) -> Snapshot:
    return Snapshot(priority=NORMAL, round=Round(tried=tried, refused=refused))


def test_a_resting_vendor_is_never_picked() -> None:
    picked = {choose(n, WEIGHTS, NAMES, FRESH, board(b=resting()), NOW) for n in range(100)}
    assert picked == {Permit("a"), Permit("c")}


@for_each("away", [{}, {"b": resting()}])
def test_a_thousand_emails_are_spread_evenly_over_those_available(away: dict[str, Health]) -> None:
    names = [choose(n, WEIGHTS, NAMES, FRESH, board(**away), NOW) for n in range(1200)]
    counts = [names.count(Permit(name)) for name in NAMES if name not in away]
    assert max(counts) - min(counts) == 0
    assert sum(counts) == 1200


def test_a_vendor_comes_as_often_as_its_weight_says() -> None:
    weights = {"a": 3, "b": 1}
    picked = [choose(n, weights, ["a", "b"], FRESH, board(), NOW) for n in range(8)]
    assert picked.count(Permit("a")) == 6


def test_who_was_tried_who_refused_and_who_cannot_carry_is_left_out() -> None:
    email = asked("a", refused=("b",))
    assert choose(7, WEIGHTS, NAMES, email, board(), NOW) == Permit("c")
    assert choose(7, WEIGHTS, ["a", "b"], email, board(), NOW) is None


def test_a_vendor_whose_time_has_passed_is_probed_before_anyone_else_is_asked() -> None:
    health = board(b=resting())
    assert choose(0, WEIGHTS, NAMES, FRESH, health, NOW + 600) == Permit("b", 1, WANTED)


def test_the_early_probe_is_for_emails_that_no_available_vendor_is_left_for() -> None:
    health = board(b=resting())
    later = NOW + 5
    assert choose(0, WEIGHTS, ["a", "b"], FRESH, health, later) == Permit("a")
    assert choose(0, WEIGHTS, ["b"], FRESH, health, later) == Permit("b", 1, WANTED)
    refused = asked(refused=("a",))
    assert choose(0, WEIGHTS, ["a", "b"], refused, health, later) == Permit("b", 1, WANTED)
    assert choose(0, WEIGHTS, ["a", "b"], asked("a"), health, later) is None


def test_a_pinned_email_goes_to_its_vendor_available_or_not_until_the_pin_ends() -> None:
    pin = Pin(vendor="b", key="k", remaining=1)
    email = replace(asked("b"), pin=pin)
    assert choose(0, WEIGHTS, NAMES, email, board(b=resting()), NOW) == Permit("b", 1)
    assert choose(0, WEIGHTS, ["a"], email, board(), NOW) is None
    over = replace(email, pin=replace(pin, remaining=0))
    assert choose(0, WEIGHTS, NAMES, over, board(), NOW) is None


def test_the_waits_tell_when_each_vendor_may_be_asked() -> None:
    health = board(b=resting())
    assert waits(["a", "b"], health, NOW) == {"a": 0, "b": 600}
    assert waits(["b"], health, NOW) == {"b": 5}


def test_no_early_probe_before_the_time_that_the_vendor_named() -> None:
    named = replace(DOWN, seconds=60, retry_after=60)
    health = failed(Health(name="a"), named, NOW, 0)
    assert probe_wait(health, NOW, early=True) == 60
    assert probe_wait(resting(), NOW, early=True) == 5


def test_an_available_vendor_is_not_probed() -> None:
    assert probe_wait(Health(name="a"), NOW, early=True) == float("inf")
    assert win_probe(Health(name="a"), NOW, 120, "t") is None


def test_others_look_again_soon_while_a_probe_is_in_flight() -> None:
    held = win_probe(resting(), NOW + 600, 120, "t")
    assert held is not None
    assert probe_wait(held, NOW + 601, early=False) == PROBE_RESULT_WAIT
    assert probe_wait(held, NOW + 719, early=False) == 1
    assert probe_wait(held, NOW + 720, early=False) <= 0


def test_one_process_at_a_time_wins_the_probe() -> None:
    held = win_probe(resting(), NOW + 600, 120, "mine")
    assert held is not None
    assert win_probe(held, NOW + 600, 120, "other") is None
    taken = win_probe(held, NOW + 721, 120, "other")
    assert taken is not None
    assert taken.probe_token == "other"
    assert probed(taken, Sign.WORKS, NOW, "mine") is taken


def test_who_lost_the_race_does_not_probe_right_after_the_winner_has_failed() -> None:
    held = win_probe(resting(), NOW + 5, 120, "winner")
    assert held is not None
    over = probed(held, DOWN, NOW + 6, "winner")
    assert win_probe(over, NOW + 6, 120, "loser") is None


def test_success_restores_as_if_nothing_had_been() -> None:
    held = win_probe(resting(), NOW + 600, 120, "t")
    assert held is not None
    assert probed(held, Sign.WORKS, NOW, "t") == Health(name="b", generation=held.generation + 1)


def test_a_failed_probe_suspends_for_ten_more_minutes_and_the_next_is_later() -> None:
    held = win_probe(resting(), NOW + 5, 120, "t")
    assert held is not None
    over = probed(held, DOWN, NOW + 6, "t")
    assert over.unavailable_until == NOW + 606
    assert over.probe_at == NOW + 16
    assert over.since == NOW
    assert over.probe_token is None
    assert probed(over, DOWN, NOW + 6, "t") is over


def drew(health: Health, now: float, *emails: str) -> Health:
    """The same after each of these e-mails, as a probe, has drawn a failure of its own."""
    for email in emails:
        health = probed(held(health, now), HINT, now, "t", email)
    return health


def test_after_a_probe_that_drew_a_hint_another_email_may_probe_at_once() -> None:
    now = NOW + 600
    first = drew(resting(), now, "one")
    assert (first.unavailable_until, first.hints) == (now, ("one",))
    assert probe_wait(first, now, early=False) <= 0
    assert probe_wait(first, now, early=False, in_doubt=True) == LAST_RESORT
    assert not first.available
    assert drew(first, now, "one").hints == ("one",), "the same e-mail again"


def test_a_hint_is_never_held_against_a_vendor_for_longer_than_proof() -> None:
    vendor = Health(name="a")
    for n in range(HINTS):
        vendor = failed(vendor, replace(HINT, seconds=2), NOW, 0, str(n))
    assert vendor.unavailable_until == NOW + 2


def test_a_row_of_hints_puts_the_next_probe_off_ever_longer() -> None:
    first = drew(resting(), NOW + 600, *map(str, range(HINTS)))
    assert first.unavailable_until == NOW + 610
    later = drew(first, NOW + 610, *map(str, range(HINTS, 2 * HINTS - 1)))
    assert later.unavailable_until == NOW + 610
    second = drew(later, NOW + 610, "last")
    assert (second.unavailable_until, second.probe_step) == (NOW + 630, 20)
    assert len(second.hints) == HINTS


def test_a_hint_that_comes_late_ends_the_row_of_probes() -> None:
    """Where mail is rare ten e-mails take minutes, and each of them pays with its own back-off."""
    due = NOW + 600
    prompt = drew(resting(), due + ROW_SECONDS - 1, "one")
    assert prompt.unavailable_until == due
    late = drew(prompt, due + ROW_SECONDS, "two")
    assert (late.unavailable_until, late.hints) == (due + ROW_SECONDS + 10, ("one", "two"))
    early = drew(resting(), NOW + 5, "one")
    assert probe_wait(early, NOW + 5, early=True) <= 0
    assert probe_wait(drew(early, NOW + 10, "two"), NOW + 10, early=True) == 10


def test_a_probes_hint_suspends_for_long_once_it_is_proven() -> None:
    over = drew(resting(), NOW + 600, "one", "two")
    proven = confirm_hint(over, NOW + 601, "two")
    assert (proven.unavailable_until, proven.probe_step) == (NOW + 1201, 5)
    again = confirm_hint(held(over, NOW + 600), NOW + 601, "two")
    assert again.probe_token == "t", "its probe is under way"
    assert probed(again, HINT, NOW + 602, "t", "three").unavailable_until == NOW + 1202
    assert probed(again, Sign.WORKS, NOW, "t").available


def test_a_failed_probe_of_an_email_in_doubt_leaves_the_next_to_others() -> None:
    doubtful = replace(HINT, in_doubt=True)
    over = probed(held(resting(), NOW + 600), doubtful, NOW + 600, "t", "one")
    assert probe_wait(over, NOW + 600, early=False) <= 0
    assert probe_wait(over, NOW + 600, early=False, in_doubt=True) == LAST_RESORT
    assert not over.available


def test_an_email_in_doubt_probes_only_when_no_other_has_for_a_while() -> None:
    asked_first = win_probe(resting(), NOW + 5, 120, "t", in_doubt=True)
    assert asked_first is not None
    assert asked_first.probe_token is None
    assert win_probe(asked_first, NOW + 6, 120, "t", in_doubt=True) is None
    fresh = win_probe(asked_first, NOW + 6, 120, "t")
    assert fresh is not None
    assert fresh.probe_token == "t"
    last = win_probe(asked_first, NOW + 5 + LAST_RESORT, 120, "t", in_doubt=True)
    assert last is not None
    assert last.probe_token == "t"
    over = probed(fresh, DOWN, NOW + 7, "t")
    assert over.last_resort_at is None, "others go first each time"


@for_each("doubt", [{"hint_vendors": frozenset({"a"})}, {"round": Round(refused=("c",))}])
def test_an_email_in_doubt_asks_who_is_available_before_it_probes(doubt: dict[str, Any]) -> None:
    health = board(b=resting())
    email = replace(FRESH, **doubt)
    assert choose(0, WEIGHTS, NAMES, email, health, NOW + 600) == Permit("a")
    tried = replace(email, round=replace(email.round, tried=("a", "c")))
    assert choose(0, WEIGHTS, NAMES, tried, health, NOW + 600) == Permit("b", 1, WANTED)
    named = replace(health["b"], last_resort_at=NOW + 610)
    assert choose(0, WEIGHTS, NAMES, tried, board(b=named), NOW + 600) is None
    assert waits(["b"], board(b=named), NOW + 600, in_doubt=True) == {"b": 10}
    assert waits(["b"], board(b=named), NOW - 600, in_doubt=True) == {"b": 605}, (
        "clocks are set back"
    )
    far = replace(health["b"], last_resort_at=NOW + 10**9)
    assert waits(["b"], board(b=far), NOW + 600, in_doubt=True) == {"b": LAST_RESORT}
    assert waits(["b"], board(b=named), NOW + 600) == {"b": 0}


def test_a_probe_that_sent_nothing_is_given_back() -> None:
    held = win_probe(resting(), NOW + 600, 120, "t")
    assert held is not None
    assert probed(held, Sign.NONE, NOW, "other") is held
    assert win_probe(probed(held, Sign.NONE, NOW, "t"), NOW + 600, 120, "other") is not None


def test_a_late_failure_of_a_call_begun_before_the_present_generation_changes_nothing() -> None:
    again_open = Health(name="a", generation=2)
    assert failed(again_open, DOWN, NOW, 0) is again_open


SUSPECT = failed(Health(name="a"), HINT, NOW, 0, "one")


def test_what_may_be_the_emails_own_fault_suspends_nobody_by_one_email() -> None:
    assert SUSPECT.available
    assert failed(SUSPECT, HINT, NOW + 1, 0, "one") is SUSPECT
    assert failed(SUSPECT, DOWN, NOW + 1, 0, "one").unavailable_until == NOW + 601


def test_two_emails_suspend_a_vendor_if_another_took_one_of_them() -> None:
    assert failed(SUSPECT, HINT, NOW + 1, 0, "two").available, "both may draw it anywhere"
    proven = confirm_hint(SUSPECT, NOW + 1, "one")
    assert proven.available
    assert failed(proven, HINT, NOW + 1, 0, "two").unavailable_until == NOW + 601
    both = failed(SUSPECT, HINT, NOW + 1, 0, "two")
    assert confirm_hint(both, NOW + 2, "another") is both
    late = confirm_hint(both, NOW + 2, "two")
    assert (late.unavailable_until, late.reason) == (NOW + 602, "unavailable 503")


def test_without_any_proof_it_takes_some_more_which_suspend_it_until_an_early_probe() -> None:
    vendor = Health(name="a")
    for n in range(HINTS):
        assert vendor.available
        vendor = failed(vendor, HINT, NOW, 0, str(n))
    assert (vendor.unavailable_until, vendor.probe_at) == (NOW + 5, NOW + 5)
    proven = confirm_hint(vendor, NOW + 1, "0")
    assert proven.unavailable_until == NOW + 601


def test_where_no_vendor_has_said_yes_lately_a_few_suspend_it_until_an_early_probe() -> None:
    vendor = Health(name="a")
    for n in range(FEW):
        assert vendor.available
        vendor = failed(vendor, HINT, NOW, 0, str(n), quiet=True)
    assert vendor.unavailable_until == NOW + 5
    again = drew(vendor, NOW + 5, *"abcdefg"[: HINTS - FEW])
    assert again.unavailable_until == NOW + 15
    more = Health(name="a", hints=tuple("abcde"), hint_at=NOW)
    assert not failed(more, HINT, NOW, 0, "f", quiet=True).available, "the row is long enough"


def test_a_yes_in_between_clears_the_vendor() -> None:
    permit = Permit("a")
    assert apply_verdict(SUSPECT, permit, Sign.YES, NOW + 1, yes_at=NOW) == Health(name="a")
    assert apply_verdict(SUSPECT, permit, Sign.YES, NOW + 1, yes_at=NOW - 1) is SUSPECT, (
        "it came before"
    )
    proven = confirm_hint(SUSPECT, NOW, "one")
    assert apply_verdict(proven, permit, Sign.YES, NOW + 1, yes_at=NOW) == Health(name="a")
    proven = confirm_hint(SUSPECT, NOW, "one")
    heard = failed(proven, HINT, NOW + 2, 0, "two", yes_at=NOW + 1)
    assert heard.available
    assert (heard.hints, heard.hint_at) == (("two",), NOW + 2)
    assert not failed(proven, HINT, NOW + 2, 0, "two", yes_at=NOW - 1).available


def test_an_email_in_doubt_suspends_nobody_by_an_answer() -> None:
    vendor = failed(Health(name="a"), HINT, NOW, 0, "one")
    assert failed(vendor, replace(HINT, in_doubt=True), NOW, 0, "two") is vendor


def test_a_pinned_emails_failure_neither_puts_off_nor_takes_an_unavailable_vendors_probe() -> None:
    held = win_probe(resting(), NOW + 5, 120, "t")
    assert held is not None
    assert failed(held, DOWN, NOW + 6, held.generation) is held


# Send times --------------------------------------------------------------------------------------


@for_each(
    "near, far, closed, chosen",
    [
        ("ab", "ab", "", "a"),  # its turn, and it has a time
        ("b", "ab", "", "b"),  # another one has a time that is near
        ("", "b", "", "b"),  # none is near, so one that is farther off is as good
        ("", "", "", None),
        ("a", "a", "a", None),  # its budget is used up, and the other one has no time
        ("ab", "ab", "ab", None),
    ],
)
def test_an_email_goes_to_a_vendor_that_has_a_send_time(
    near: str, far: str, closed: str, chosen: str | None
) -> None:
    def choose(email: Snapshot, usable: Collection[str]) -> Permit | None:
        left = [name for name in usable if name not in email.round.tried]
        return Permit(left[0]) if left else None

    def promise(vendor: str, only_near: bool) -> Promise | None:
        return Promise(vendor, 1) if vendor in (near if only_near else far) else None

    permit = choose_in_time(choose, promise, ["a", "b"], FRESH, closed)
    assert permit is not None
    if chosen is None:
        assert permit is BUSY
    else:
        assert permit.promise is not None
        assert (permit.vendor, permit.promise.vendor) == (chosen, chosen)


def test_who_has_all_the_calls_that_it_may_have_is_not_asked_for_a_send_time() -> None:
    def promise(*_: object) -> None:
        raise AssertionError

    assert choose_in_time(lambda *_: FULL, promise, ["a"], FRESH, ()) is FULL
