"""Rates and budgets together with health, probes and rounds: every history with a few failures.

The product's pure functions decide, with two vendors and three e-mails. At each attempt the vendor
may fail, in each of the ways of ``ANSWERS``, as long as failures are left. A history goes on until
all e-mails are sent. It is wrong if that takes too long (an e-mail starves), if an e-mail is looked
at too often (a busy loop), or if a vendor gets two e-mails too soon, or more than its budget.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise

import pytest

from mailqueue.config.rates import Rate
from mailqueue.lifecycle.decide import Decider, suspension
from mailqueue.lifecycle.outcomes import (
    NORMAL,
    Case,
    CurrentAttempt,
    Decision,
    Outcome,
    Policy,
    SendResult,
    Snapshot,
    Status,
)
from mailqueue.routing import rotation
from mailqueue.routing.pace import AHEAD, NO_LIMIT, Pace, Promise, State, Window
from mailqueue.routing.rotation import BUSY, Health, Permit, Sign

START = datetime(2026, 11, 27, 23, 59, 0, tzinfo=UTC).timestamp()  # a minute before midnight
MIDNIGHT = datetime(2026, 11, 28, tzinfo=UTC)
NAMES = ("a", "b")
WEIGHTS = dict.fromkeys(NAMES, 1)
EMAILS = 3
POLICY = Policy(base=4.0, cap=8.0, unavailable_for=20.0)
ANSWERS = {
    "503": SendResult(outcome=Outcome.UNAVAILABLE, code="503"),
    "dns": SendResult(outcome=Outcome.UNAVAILABLE, code="dns", answered=False),
    "429": SendResult(outcome=Outcome.THROTTLED, code="429", retry_after=3.0),
}
YES = SendResult(outcome=Outcome.ACCEPTED)
LONGEST = 150.0  # seconds until the last is sent: past midnight, a suspension and some back-offs
MOST_LOOKS = 2.5  # at one e-mail in a second
NEAR = 0.25


@dataclass
class Letter:
    """An e-mail: what is decided on, and when its job is there."""

    snapshot: Snapshot
    ready_at: float = START
    sent: bool = False
    looks: int = 0
    tries: int = 0


@dataclass
class World:
    """One moment of a history."""

    paces: Mapping[str, Pace]
    states: dict[str, State]
    failures: int
    now: float = START
    health: dict[str, Health] = field(default_factory=lambda: {n: Health(name=n) for n in NAMES})
    letters: list[Letter] = field(
        default_factory=lambda: [Letter(Snapshot(priority=NORMAL)) for _ in range(EMAILS)]
    )
    calls: list[tuple[str, float]] = field(default_factory=list)
    turn: int = 0


@dataclass(frozen=True)
class Rules:
    """The product's functions; a mutant replaces one."""

    choose: Callable[..., Permit | None] = rotation.choose_in_time
    waits_for_time: bool = True
    leaves_out_closed: bool = True


def promise(world: World, name: str, near: bool) -> Promise | None:
    pace = world.paces.get(name)
    if pace is None:
        return NO_LIMIT
    state, grant = pace.reserve(world.states[name], 1, 1, 0.0, world.now)
    times = list(pace.times(grant))
    if not times or times[0] > world.now + (NEAR if near else AHEAD):
        return None
    world.states[name] = state
    return Promise(name, 1, sent_at=times[0])


def closed(world: World) -> dict[str, float]:
    """The seconds until a budget is there again."""
    ends = {
        name: [window.until.timestamp() for _, window in pace.spent(world.states[name], world.now)]
        for name, pace in world.paces.items()
    }
    return {name: max(each) - world.now for name, each in ends.items() if each}


def histories(world: World, rules: Rules) -> Iterator[World]:
    """Every way on from here to the end, or to where it went wrong."""
    while True:
        waiting = [letter for letter in world.letters if not letter.sent]
        if not waiting or world.now > START + LONGEST:
            yield world
            return
        letter = min(waiting, key=lambda each: each.ready_at)
        world.now = max(world.now, letter.ready_at)
        letter.looks += 1
        if letter.looks > MOST_LOOKS * (world.now - START + 4):
            yield world
            return
        permit = look(world, letter, rules)
        if permit is not None:
            yield from attempts(world, letter, permit, rules)
            return


def look(world: World, letter: Letter, rules: Rules) -> Permit | None:
    """Choose a vendor; None: the job went back, or the round ended."""
    world.turn += 1
    choice = partial(rotation.choose, world.turn, WEIGHTS)
    out = closed(world) if rules.leaves_out_closed else ()
    permit = rules.choose(
        lambda email, usable: choice(usable, email, world.health, world.now),
        lambda name, near: promise(world, name, near),
        NAMES,
        letter.snapshot,
        out,
    )
    if permit is BUSY:
        letter.ready_at = world.now + pause(world) * rules.waits_for_time
        return None
    if permit is None:
        take(world, letter, decision(world, letter, None, None, rules))
        return None
    if permit.probe is None:
        return permit
    doubt = letter.snapshot.in_doubt
    won = rotation.win_probe(world.health[permit.vendor], world.now, 120.0, "token", doubt)
    if won is None:
        return None
    world.health[permit.vendor] = won
    if won.probe_token != "token":
        return None
    return replace(permit, generation=won.generation, probe="token")


def pause(world: World) -> float:
    """As ``Limits.delay``, without its lines."""
    times = [pace.next_time(world.states[n], world.now) for n, pace in world.paces.items()]
    return max(1.0, math.floor(min(times) - world.now))


def attempts(world: World, letter: Letter, permit: Permit, rules: Rules) -> Iterator[World]:
    """The vendor takes it, or fails in one way or another."""
    answers = [YES, *(ANSWERS.values() if world.failures else ())]
    for result in answers:
        other = copy.deepcopy(world)
        mine = other.letters[world.letters.index(letter)]
        other.failures -= result is not YES
        answer(other, mine, permit, result, rules)
        yield from histories(other, rules)


def answer(world: World, letter: Letter, permit: Permit, result: SendResult, rules: Rules) -> None:
    if permit.promise is not None and permit.promise.sent_at is not None:
        world.now = max(world.now, permit.promise.sent_at)
    world.calls.append((permit.vendor, world.now))
    letter.tries += 1
    blame = suspension(result, POLICY, in_doubt=letter.snapshot.in_doubt)
    verdict = blame or Sign.YES
    health = world.health[permit.vendor]
    email_id = str(world.letters.index(letter))
    world.health[permit.vendor] = rotation.apply_verdict(
        health, permit, verdict, world.now, email_id=email_id
    )
    take(world, letter, decision(world, letter, permit, result, rules))
    if result.may_be_content:
        vendors = letter.snapshot.hint_vendors | {permit.vendor}
        letter.snapshot = replace(letter.snapshot, hint_vendors=vendors)


def decision(
    world: World, letter: Letter, permit: Permit | None, result: SendResult | None, rules: Rules
) -> Decision:
    waits = rotation.waits(NAMES, world.health, world.now, letter.snapshot.in_doubt)
    if rules.leaves_out_closed:
        waits = {name: max(wait, closed(world).get(name, 0.0)) for name, wait in waits.items()}
    attempt = None if permit is None else CurrentAttempt(vendor=permit.vendor)
    case = Case(email=letter.snapshot, attempt=attempt, waits=waits)
    return Decider(POLICY, lambda: 0.99).decide(case, result)


def take(world: World, letter: Letter, after: Decision) -> None:
    letter.sent = after.status is Status.SENT
    assert letter.sent or after.status is Status.QUEUED
    letter.ready_at = world.now + after.delay
    letter.snapshot = replace(
        letter.snapshot, round=after.round, counted=after.counted, unknowns=after.unknowns
    )


def problems(world: World, before: Mapping[str, State]) -> Iterator[str]:
    """What is wrong with a history."""
    if any(not letter.sent for letter in world.letters):
        fast = world.now <= START + LONGEST
        yield "busy loop" if fast else "starved"
    if any(letter.snapshot.counted > letter.tries for letter in world.letters):
        yield "an attempt was used up without a call"
    for name, pace in world.paces.items():
        at = [when for vendor, when in world.calls if vendor == name]
        if any(b - a < pace.interval - 1e-6 for a, b in pairwise(at)):
            yield "too soon"
        today = [when for when in at if when < MIDNIGHT.timestamp()]
        if len(today) > pace.rest(before.get(name, State()), START):
            yield "over budget"


GAP = Pace.of(Rate(gap=2))
SLOW = Pace.of(Rate(per_minute=12))
DAY = Pace.of(Rate(per_day=1))
SPENT = {"day": Window(MIDNIGHT, 1)}
SCENARIOS: Mapping[str, tuple[Mapping[str, Pace], Mapping[str, State]]] = {
    "one is limited": ({"a": GAP}, {}),
    "both are limited": ({"a": GAP, "b": SLOW}, {}),
    "a budget of one": ({"a": DAY}, {}),
    "a budget of one beside a gap": ({"a": DAY, "b": GAP}, {}),
    "a budget that is used up": ({"a": DAY, "b": GAP}, {"a": State(windows=SPENT)}),
}


def explore(name: str, failures: int, rules: Rules) -> Collection[str]:
    paces, states = SCENARIOS[name]
    start = {vendor: states.get(vendor, State()) for vendor in paces}
    ends = list(histories(World(paces, start, failures), rules))
    assert len(ends) > 3**failures, "hardly anything was explored"
    return {problem for end in ends for problem in problems(end, states)}


@pytest.mark.parametrize("name", SCENARIOS)
def test_with_limits_no_email_starves_and_nothing_turns_in_circles(name: str) -> None:
    assert not explore(name, 3, Rules())


@pytest.mark.parametrize(
    "rules, problem",
    [
        (Rules(waits_for_time=False), "busy loop"),
        (Rules(leaves_out_closed=False), "starved"),
    ],
)
def test_a_rule_that_is_wrong_is_found(rules: Rules, problem: str) -> None:
    found = {p for name in SCENARIOS for p in explore(name, 2, rules)}
    assert problem in found


def test_a_choice_that_asks_for_no_time_is_found() -> None:
    def careless(
        choose: Callable[..., Permit | None],
        _: object,
        carriers: Collection[str],
        email: Snapshot,
        __: object,
    ) -> Permit | None:
        return choose(email, carriers)

    found = {p for name in SCENARIOS for p in explore(name, 1, Rules(choose=careless))}
    assert {"too soon", "over budget"} <= found
