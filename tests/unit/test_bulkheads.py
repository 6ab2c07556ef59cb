"""How many senders a vendor may hold, and which calls are given up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from mailqueue.routing import bulkheads
from mailqueue.routing.bulkheads import Bulkheads, Call, Pace, limit
from tests.for_each import for_each

UNPROVEN, QUICK, SLOW = Pace(), Pace(usual=0.05), Pace(usual=3.0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def three(clock: Clock) -> Bulkheads[str]:
    """Sixteen senders and three vendors of equal weight, all available."""
    made: Bulkheads[str] = Bulkheads(16, {"a": 1, "b": 1, "c": 1}, clock)
    made.refresh_limits(lambda: ["a", "b", "c"])
    return made


def look(made: Bulkheads[str], clock: Clock, available: Sequence[str] = ("a", "b", "c")) -> None:
    clock.now += bulkheads.EVERY * 1.01
    made.refresh_limits(lambda: available)


def began(
    made: Bulkheads[str], vendor: str, what: str = "", deadline: float = math.inf
) -> Call[str]:
    """A call whose vendor was not full."""
    call = made.begin(vendor, what, deadline)
    assert call is not None
    return call


def answer(made: Bulkheads[str], clock: Clock, vendor: str, calls: int, took: float = 0.0) -> None:
    """So many calls, one after the other."""
    for _ in range(calls):
        call = began(made, vendor)
        clock.now += took
        made.end(call, measured=True)


# The rule ---------------------------------------------------------------------------------------


@for_each("pace", [UNPROVEN, QUICK, SLOW, Pace(3.0, 30.0)])
@for_each("number", [1, 2, 16])
def test_while_no_other_is_available_a_vendor_may_hold_all_senders(number: int, pace: Pace) -> None:
    assert limit(number, 1, [], pace) == math.inf


def test_a_vendor_that_takes_so_many_calls_only_holds_no_more_senders(clock: Clock) -> None:
    made: Bulkheads[str] = Bulkheads(16, {"a": 1, "b": 1}, clock, most={"a": 2})
    for available in (["a"], ["a", "b"]):
        look(made, clock, available)
        assert not made.full("a")
        made.claim("a")
        made.claim("a")
        assert made.full("a")
        assert not made.full("b")
        made.release("a")
        made.release("a")


@for_each("pace", [UNPROVEN, SLOW, Pace(0.05, 0.6)])
def test_what_is_not_known_to_be_quick_has_its_share_by_weight(pace: Pace) -> None:
    assert limit(16, 1, [1], pace) == 8
    assert limit(16, 1, [1, 1], pace) == 6
    assert limit(16, 3, [1], pace) == 12
    assert limit(64, 1, [1, 1, 1], pace) == 16


@for_each("weights", [[1, 1], [1, 1, 1], [50, 1, 1], [10, 1], [1] * 10])
def test_shares_leave_no_sender_idle_and_none_takes_everything(weights: list[int]) -> None:
    for number in range(2, 40):
        shares = [
            limit(number, weight, weights[:i] + weights[i + 1 :], UNPROVEN)
            for i, weight in enumerate(weights)
        ]
        assert sum(shares) >= number
        assert all(1 <= share < number for share in shares)


def test_a_vendor_of_little_weight_has_at_least_half_of_an_equal_part() -> None:
    assert limit(16, 1, [100], SLOW) == 4


def test_what_is_quick_takes_what_it_needs_but_leaves_a_quarter() -> None:
    assert limit(16, 1, [1, 1], QUICK) == 12
    assert limit(64, 1, [1000], QUICK) == 48


def test_where_all_are_alike_none_is_slow_but_what_takes_seconds_is() -> None:
    assert limit(16, 1, [1, 1], Pace(0.9, 0.9, quickest=0.6)) == 12
    assert limit(16, 1, [1, 1], Pace(0.9, 0.9, quickest=0.4)) == 6
    assert limit(16, 1, [1, 1], Pace(0.9, 1.3, quickest=0.6)) == 6
    assert limit(16, 1, [1, 1], Pace(2.1, 1.0, quickest=2.0)) == 6


def test_one_sender_is_shared_by_nobody() -> None:
    assert limit(1, 1, [1, 1], SLOW) == math.inf


@for_each(
    "pace,long",
    [
        (Pace(None, 1.9), False),
        (Pace(None, 2.1), True),
        (Pace(0.1, 2.1), True),
        (Pace(5.0, 19.0), False),
        (Pace(5.0, 21.0), True),
    ],
)
def test_a_call_takes_long_by_what_is_usual_with_its_vendor(pace: Pace, long: bool) -> None:
    assert pace.long is long


# In a process -----------------------------------------------------------------------------------


def test_a_vendor_that_holds_its_share_is_full_until_one_is_given_back(
    three: Bulkheads[str],
) -> None:
    for _ in range(6):
        assert not three.full("a")
        three.claim("a")
    assert three.full("a")
    assert not three.full("b")
    three.release("a")
    assert not three.full("a")


def test_a_vendor_that_answers_quickly_gets_more_and_loses_it_when_it_hangs(
    three: Bulkheads[str], clock: Clock
) -> None:
    call = began(three, "a")
    clock.now += 0.05
    three.end(call, measured=True)
    look(three, clock)
    for _ in range(11):
        three.claim("a")
        began(three, "a")
    assert not three.full("a")
    clock.now += bulkheads.QUICK
    look(three, clock)
    assert three.full("a")


def test_a_call_that_was_not_made_says_nothing_of_the_vendor(
    three: Bulkheads[str], clock: Clock
) -> None:
    three.end(began(three, "a"), measured=False)
    assert three.pace("a") == UNPROVEN


def test_what_is_usual_follows_the_newest_calls(three: Bulkheads[str], clock: Clock) -> None:
    for took in (0.1, 0.1, 30.0):
        call = began(three, "a")
        clock.now += took
        three.end(call, measured=True)
    assert three.pace("a").usual == pytest.approx(7.6, abs=0.1)


def test_a_vendor_whose_call_takes_long_is_passed_over_before_it_is_full(
    three: Bulkheads[str], clock: Clock
) -> None:
    three.claim("a")
    call = began(three, "a")
    clock.now += bulkheads.LONG
    look(three, clock)
    assert three.crowded("a")
    assert not three.full("a")
    three.end(call, measured=True)
    look(three, clock)
    assert not three.crowded("a")


def test_where_all_hold_their_share_nobody_is_starved_and_what_comes_may_wait(
    three: Bulkheads[str],
) -> None:
    for name in "abc":
        assert not three.worth_waiting("a")
        for _ in range(6):
            three.claim(name)
    assert three.worth_waiting("a")
    three.release("b")
    assert not three.worth_waiting("a")


def test_what_waits_for_a_quick_vendor_need_not_go_away(
    three: Bulkheads[str], clock: Clock
) -> None:
    three.end(began(three, "a"), measured=True)
    three.refresh_limits(lambda: "abc")  # at once: it has become quick
    assert (three.worth_waiting("a"), three.worth_waiting("b")) == (True, False)


def test_the_last_one_available_has_no_limit(three: Bulkheads[str], clock: Clock) -> None:
    for _ in range(16):
        three.claim("a")
    look(three, clock, ["a"])
    assert not three.full("a")
    look(three, clock, ["b", "c"])  # it is asked all the same: pinned e-mails
    assert three.full("a")


def test_a_look_is_taken_twenty_times_a_second_however_often_it_is_asked_for(
    three: Bulkheads[str], clock: Clock
) -> None:
    looked: list[float] = []

    def available() -> list[str]:
        looked.append(clock.now)
        return []

    for _ in range(1000):
        clock.now += 0.001
        three.refresh_limits(available)
    assert len(looked) <= 20


def test_what_cannot_go_comes_back_the_later_the_more_there_is_of_it(
    three: Bulkheads[str], clock: Clock
) -> None:
    waits = [three.delay() for _ in range(10_000)]
    assert 1.0 < waits[0] < 1.1
    assert waits[500] == pytest.approx(1 + 501 / bulkheads.PER_SECOND)
    assert max(waits) == bulkheads.LONGEST_WAIT
    clock.now += 1000
    assert three.delay() < 1.1


# Claimed ahead ----------------------------------------------------------------------------------


def claimed_until_full(made: Bulkheads[str], vendor: str) -> int:
    number = 0
    while not made.full(vendor):
        made.claim(vendor)
        number += 1
    return number


def test_for_a_quick_vendor_as_many_are_claimed_ahead_as_it_answered_in_a_fifth_of_a_second(
    three: Bulkheads[str], clock: Clock
) -> None:
    answer(three, clock, "a", 1)
    look(three, clock)
    answer(three, clock, "a", 50)
    look(three, clock)
    ahead = 50 * bulkheads.AHEAD / bulkheads.EVERY
    assert claimed_until_full(three, "a") == pytest.approx(12 + ahead, rel=0.02)
    look(three, clock)
    assert three.full("a")
    for _ in range(round(ahead)):
        three.release("a")
    assert claimed_until_full(three, "a") == pytest.approx(0, abs=4)  # it has answered none since


def test_for_a_slow_vendor_or_one_that_has_not_answered_none_is_claimed_ahead(
    three: Bulkheads[str], clock: Clock
) -> None:
    answer(three, clock, "a", 3, took=3.0)
    look(three, clock)
    assert claimed_until_full(three, "a") == claimed_until_full(three, "b") == 6


def test_what_finds_its_vendor_full_of_calls_is_parked_until_one_is_over(
    three: Bulkheads[str],
) -> None:
    calls = [began(three, "a") for _ in range(6)]
    assert [three.begin("a", what, math.inf) for what in ("first", "second")] == [None, None]
    assert three.unpark() is None
    began(three, "b")
    three.end(calls[0], measured=True)
    assert three.unpark() == "first"
    began(three, "a", "first")
    assert three.unpark() is None
    three.end(calls[1], measured=True)
    assert three.unpark() == "second"
    assert three.unpark() is None


def test_the_last_slots_are_reserved_for_available_vendors_with_few_calls(
    three: Bulkheads[str], clock: Clock
) -> None:
    for vendor in ("a", "b", "c"):
        answer(three, clock, vendor, 1)
    look(three, clock)
    for vendor in ["a"] * 7 + ["b"] * 7:
        began(three, vendor)
    assert three.begin("a", "parked", math.inf) is None
    assert three.begin("b", "parked too", math.inf) is None
    assert three.unpark() is None
    calls = [began(three, "c") for _ in range(2)]
    three.end(calls.pop(), measured=True)
    assert three.unpark() is None
    began(three, "c")
    look(three, clock, ["a", "b"])
    assert three.unpark() == "parked"


@for_each("number", range(1, 40))
def test_whoever_hangs_every_available_vendor_finds_a_slot(number: int) -> None:
    clock = Clock()
    names = ["a", "b", "c"][: max(1, number // 2 + 1)]
    made: Bulkheads[str] = Bulkheads(number, dict.fromkeys(names, 1), clock)
    look(made, clock, names)
    for vendor in names:
        answer(made, clock, vendor, 1)
    look(made, clock, names)
    *hang, works = names
    for vendor in hang * number:
        made.begin(vendor, "", math.inf)
    under_way = sum(len(calls) for calls in made._calls.values())
    assert under_way < number or not hang
    assert made.begin(works, "", math.inf) is not None


def test_a_call_that_is_given_up_makes_room_for_what_is_parked(
    three: Bulkheads[str], clock: Clock
) -> None:
    for _ in range(6):
        began(three, "a", "", clock.now + 1)
    three.begin("a", "parked", math.inf)
    clock.now += 5
    assert len(three.overdue(1.0)) == 6
    assert three.unpark() == "parked"


def test_a_probe_is_never_parked(three: Bulkheads[str]) -> None:
    for _ in range(6):
        began(three, "a")
    assert three.begin("a", "", math.inf) is None
    assert three.begin("a", "", math.inf, probe=True) is not None


def test_vendors_for_whom_something_is_parked_take_turns(three: Bulkheads[str]) -> None:
    calls = [began(three, name) for name in "ab" for _ in range(6)]
    for name in "aabb":
        three.begin(name, name, math.inf)
    for call in calls:
        three.end(call, measured=True)
    assert [three.unpark() for _ in range(5)] == ["a", "b", "a", "b", None]


def test_what_is_parked_for_long_is_taken_back_and_is_not_its_vendors_any_more(
    three: Bulkheads[str], clock: Clock
) -> None:
    assert claimed_until_full(three, "a") == 6
    for _ in range(5):
        began(three, "a")
    three.begin("a", "", math.inf)
    three.claim("a")
    three.begin("a", "long ago", math.inf)
    clock.now += 1
    three.claim("a")
    three.begin("a", "just now", math.inf)
    assert three.recall(1.0) == ["long ago"]
    assert three.recall(1.0) == []
    three.release("a")
    assert three.full("a")
    assert three.recall(0.0) == ["just now"]
    assert not three.full("a")
    assert three.unpark() is None


def test_nothing_is_claimed_while_it_is_idle(three: Bulkheads[str]) -> None:
    assert three.idle
    three.claim("b")
    assert not three.idle
    three.release("b")
    assert three.idle


# Given up ---------------------------------------------------------------------------------------


def test_a_call_is_given_up_once_its_deadline_and_the_grace_are_over(
    three: Bulkheads[str], clock: Clock
) -> None:
    kept = began(three, "a", "kept", clock.now + 10)
    clock.now += 10.5
    assert three.overdue(1.0) == []
    clock.now += 0.6
    assert three.overdue(1.0) == [kept]
    assert three.overdue(1.0) == []
    assert not three.end(kept, measured=True)
    assert three.pace("a").usual == pytest.approx(11.1)


def test_a_call_that_ended_in_time_is_not_given_up(three: Bulkheads[str], clock: Clock) -> None:
    call = began(three, "a", "", clock.now + 10)
    assert three.end(call, measured=True)
    clock.now += 100
    assert three.overdue(1.0) == []


def test_never_more_are_given_up_than_there_are_senders(clock: Clock) -> None:
    two: Bulkheads[str] = Bulkheads(2, {"a": 1}, clock)
    calls = [began(two, "a", "", clock.now + 1) for _ in range(3)]
    clock.now += 10
    assert two.overdue(1.0) == calls[:2]
    assert two.overdue(1.0) == []
    assert not two.end(calls[0], measured=True)
    assert two.overdue(1.0) == [calls[2]]


def test_vendors_that_are_alike_slow_are_compared_with_each_other(
    three: Bulkheads[str], clock: Clock
) -> None:
    for name, took in {"a": 0.8, "b": 0.9, "c": 1.9}.items():
        call = began(three, name)
        clock.now += took
        three.end(call, measured=True)
    look(three, clock)
    assert [three.worth_waiting(name) for name in "abc"] == [True, True, False]
