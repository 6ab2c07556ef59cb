"""How many senders a vendor may hold, and which calls are given up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from mailqueue import bulkheads
from mailqueue.bulkheads import Bulkheads, Pace, limit

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
    made.look(lambda: ["a", "b", "c"])
    return made


def look(made: Bulkheads[str], clock: Clock, available: Sequence[str] = ("a", "b", "c")) -> None:
    clock.now += bulkheads.EVERY * 1.01
    made.look(lambda: available)


# The rule ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [UNPROVEN, QUICK, SLOW, Pace(3.0, 30.0)])
@pytest.mark.parametrize("number", [1, 2, 16])
def test_while_no_other_is_available_a_vendor_may_hold_all_senders(number: int, pace: Pace) -> None:
    assert limit(number, 1, [], pace) == math.inf


def test_a_vendor_that_takes_so_many_calls_only_holds_no_more_senders(clock: Clock) -> None:
    made: Bulkheads[str] = Bulkheads(16, {"a": 1, "b": 1}, clock, most={"a": 2})
    for available in (["a"], ["a", "b"]):
        look(made, clock, available)
        assert not made.full("a")
        made.taken("a")
        made.taken("a")
        assert made.full("a")
        assert not made.full("b")
        made.given_back("a")
        made.given_back("a")


@pytest.mark.parametrize("pace", [UNPROVEN, SLOW, Pace(0.05, 0.6)], ids=["new", "slow", "hangs"])
def test_what_is_not_known_to_be_quick_has_its_share_by_weight(pace: Pace) -> None:
    assert limit(16, 1, [1], pace) == 8
    assert limit(16, 1, [1, 1], pace) == 6
    assert limit(16, 3, [1], pace) == 12
    assert limit(64, 1, [1, 1, 1], pace) == 16


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1], [50, 1, 1], [10, 1], [1] * 10])
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


@pytest.mark.parametrize(
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
        three.taken("a")
    assert three.full("a")
    assert not three.full("b")
    three.given_back("a")
    assert not three.full("a")


def test_a_vendor_that_answers_quickly_gets_more_and_loses_it_when_it_hangs(
    three: Bulkheads[str], clock: Clock
) -> None:
    call = three.begin("a", "", math.inf)
    clock.now += 0.05
    three.end(call, telling=True)
    look(three, clock)
    for _ in range(11):
        three.taken("a")
        three.begin("a", "", math.inf)
    assert not three.full("a")
    clock.now += bulkheads.QUICK
    look(three, clock)
    assert three.full("a")


def test_a_call_that_was_not_made_says_nothing_of_the_vendor(
    three: Bulkheads[str], clock: Clock
) -> None:
    three.end(three.begin("a", "", math.inf), telling=False)
    assert three.pace("a") == UNPROVEN


def test_what_is_usual_follows_the_newest_calls(three: Bulkheads[str], clock: Clock) -> None:
    for took in (0.1, 0.1, 30.0):
        call = three.begin("a", "", math.inf)
        clock.now += took
        three.end(call, telling=True)
    assert three.pace("a").usual == pytest.approx(7.6, abs=0.1)


def test_a_vendor_whose_call_takes_long_is_passed_over_before_it_is_full(
    three: Bulkheads[str], clock: Clock
) -> None:
    three.taken("a")
    call = three.begin("a", "", math.inf)
    clock.now += bulkheads.LONG
    look(three, clock)
    assert three.crowded("a")
    assert not three.full("a")
    three.end(call, telling=True)
    look(three, clock)
    assert not three.crowded("a")


def test_where_all_hold_their_share_nobody_is_starved_and_what_comes_may_wait(
    three: Bulkheads[str],
) -> None:
    for name in "abc":
        assert not three.moves("a")
        for _ in range(6):
            three.taken(name)
    assert three.moves("a")
    three.given_back("b")
    assert not three.moves("a")


def test_what_waits_for_a_quick_vendor_need_not_go_away(
    three: Bulkheads[str], clock: Clock
) -> None:
    three.end(three.begin("a", "", math.inf), telling=True)
    three.look(lambda: "abc")  # at once: it has become quick
    assert (three.moves("a"), three.moves("b")) == (True, False)


def test_the_last_one_available_has_no_limit(three: Bulkheads[str], clock: Clock) -> None:
    for _ in range(16):
        three.taken("a")
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
        three.look(available)
    assert len(looked) <= 20


def test_what_cannot_go_comes_back_the_later_the_more_there_is_of_it(
    three: Bulkheads[str], clock: Clock
) -> None:
    waits = [three.wait() for _ in range(10_000)]
    assert 1.0 < waits[0] < 1.1
    assert waits[500] == pytest.approx(1 + 501 / bulkheads.PER_SECOND)
    assert max(waits) == bulkheads.LONGEST_WAIT
    clock.now += 1000
    assert three.wait() < 1.1


# Given up ---------------------------------------------------------------------------------------


def test_a_call_is_given_up_once_its_deadline_and_the_grace_are_over(
    three: Bulkheads[str], clock: Clock
) -> None:
    kept = three.begin("a", "kept", clock.now + 10)
    clock.now += 10.5
    assert three.overdue(1.0) == []
    clock.now += 0.6
    assert three.overdue(1.0) == [kept]
    assert three.overdue(1.0) == []
    assert not three.end(kept, telling=True)
    assert three.pace("a").usual == pytest.approx(11.1)


def test_a_call_that_ended_in_time_is_not_given_up(three: Bulkheads[str], clock: Clock) -> None:
    call = three.begin("a", "", clock.now + 10)
    assert three.end(call, telling=True)
    clock.now += 100
    assert three.overdue(1.0) == []


def test_never_more_are_given_up_than_there_are_senders(clock: Clock) -> None:
    two: Bulkheads[int] = Bulkheads(2, {"a": 1}, clock)
    calls = [two.begin("a", n, clock.now + 1) for n in range(3)]
    clock.now += 10
    assert two.overdue(1.0) == calls[:2]
    assert two.overdue(1.0) == []
    assert not two.end(calls[0], telling=True)
    assert two.overdue(1.0) == [calls[2]]


def test_vendors_that_are_alike_slow_are_compared_with_each_other(
    three: Bulkheads[str], clock: Clock
) -> None:
    for name, took in {"a": 0.8, "b": 0.9, "c": 1.9}.items():
        call = three.begin(name, "", math.inf)
        clock.now += took
        three.end(call, telling=True)
    look(three, clock)
    assert [three.moves(name) for name in "abc"] == [True, True, False]
