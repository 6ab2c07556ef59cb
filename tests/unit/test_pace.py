"""Send times and budgets: the pure rule."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import cast

import pytest

from mailqueue.config import VendorConfig
from mailqueue.config.rates import Rate
from mailqueue.routing.limits import Limits
from mailqueue.routing.pace import AHEAD, LOW, SPENT, Grant, Pace, State, Window, window_end
from mailqueue.routing.reservations import Reservations
from tests.for_each import for_each

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 11, 28, tzinfo=UTC)


def reserved(pace: Pace, state: State, want: int, now: float = NOW) -> tuple[State, list[float]]:
    """What a reservation leaves, and its times from ``NOW`` on."""
    state, grant = pace.reserve(state, 1, want, 0.0, now)
    return state, [round(at - NOW, 6) for at in pace.times(grant)]


def test_times_are_spread_evenly_and_the_next_process_has_the_next_ones() -> None:
    pace = Pace.of(Rate(per_second=10))
    state, first = reserved(pace, State(), 3)
    _, second = reserved(pace, state, 3)
    assert (first, second) == ([0.0, 0.1, 0.2], [0.3, 0.4, 0.5])


def test_nobody_reserves_more_than_a_second_ahead() -> None:
    pace = Pace.of(Rate(per_second=10))
    state, times = reserved(pace, State(), 100)
    assert times[-1] == AHEAD
    assert reserved(pace, state, 1)[1] == []
    assert len(reserved(pace, state, 5, NOW + 0.25)[1]) == 2


def test_a_pause_is_not_made_up_for() -> None:
    pace = Pace.of(Rate(per_second=10))
    state, _ = reserved(pace, State(), 5)
    _, times = reserved(pace, state, 2, NOW + 60)
    assert times == [60.0, 60.1]


def test_a_burst_goes_at_once_after_a_pause_and_then_no_more() -> None:
    pace = Pace.of(Rate(per_second=10, burst=5))
    state, times = reserved(pace, State(), 7)
    assert times == [0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.2]
    assert reserved(pace, state, 1)[1] == [0.3]


def test_a_gap_and_the_faster_rate_hold_within_a_burst() -> None:
    pace = Pace.of(Rate(per_second=10, per_minute=60, burst=5))
    state, times = reserved(pace, State(), 9)
    assert times == [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
    assert reserved(pace, state, 1, NOW + 1)[1] == [2.0]
    pace = Pace.of(Rate(per_second=10, gap=0.4))
    assert reserved(pace, State(), 9)[1] == [0.0, 0.4, 0.8]


def test_an_email_of_many_recipients_goes_at_once_and_the_next_one_after_their_time() -> None:
    pace = Pace.of(Rate(per_second=10, count="recipients"))
    state, grant = pace.reserve(State(), 50, 50, 0.0, NOW)
    assert grant.units == 50
    assert pace.next_time(state, NOW) == pytest.approx(NOW + 5)


def test_its_rest_is_reserved_although_that_is_far_ahead() -> None:
    pace = Pace.of(Rate(per_second=1, count="recipients", per_day=60))
    state, _ = pace.reserve(State(), 2, 2, 0.0, NOW)
    after, grant = pace.reserve(state, 40, 40, 0.0, NOW, debt=True)
    assert (grant.units, after.windows["day"].used) == (40, 42)
    assert pace.reserve(after, 40, 40, 0.0, NOW, debt=True)[1].units == 0


def test_a_budget_is_used_to_the_last_and_begins_anew_at_midnight() -> None:
    pace = Pace.of(Rate(per_day=100))
    state = State(windows={"day": Window(MIDNIGHT, 97, LOW)})
    state, grant = pace.reserve(state, 1, 8, 0.0, NOW)
    assert (grant.units, state.windows["day"]) == (3, Window(MIDNIGHT, 100, SPENT))
    assert pace.reserve(state, 1, 8, 0.0, NOW)[1].units == 0
    assert pace.next_time(state, NOW) == MIDNIGHT.timestamp()
    state, grant = pace.reserve(state, 1, 8, 0.0, MIDNIGHT.timestamp())
    assert (grant.units, state.windows["day"].used, state.windows["day"].level) == (8, 8, 0)


def test_no_time_is_reserved_beyond_the_end_of_a_window() -> None:
    pace = Pace.of(Rate(per_second=10, per_day=1000))
    before = MIDNIGHT.timestamp() - 0.25
    _, grant = pace.reserve(State(), 1, 20, 0.0, before)
    assert [round(at - before, 3) for at in pace.times(grant)] == [0.0, 0.1, 0.2]


def test_it_is_said_of_a_budget_once_at_80_and_once_at_100_per_cent() -> None:
    pace = Pace.of(Rate(per_day=10))
    state, levels = State(), []
    for _ in range(10):
        state, _ = pace.reserve(state, 1, 1, 0.0, NOW)
        levels.append(state.windows["day"].level)
    assert levels == [0] * 7 + [LOW] * 2 + [SPENT]
    state = pace.give_back(state, 1, 0, 0.0, {"day": MIDNIGHT})
    assert state.windows["day"] == Window(MIDNIGHT, 9, SPENT)


@for_each(
    "name, zone, at, end",
    [
        ("day", "UTC", "2026-11-27T23:59:59+00:00", "2026-11-28T00:00:00+00:00"),
        ("day", "America/New_York", "2026-11-27T03:00:00+00:00", "2026-11-27T05:00:00+00:00"),
        ("day", "Europe/Berlin", "2026-03-28T23:30:00+00:00", "2026-03-29T22:00:00+00:00"),
        ("day", "Europe/Berlin", "2026-10-24T22:30:00+00:00", "2026-10-25T23:00:00+00:00"),
        ("month", "UTC", "2026-12-31T12:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        ("month", "Asia/Tokyo", "2026-02-01T12:00:00+00:00", "2026-02-28T15:00:00+00:00"),
    ],
)
def test_days_and_months_end_in_the_vendors_zone(name: str, zone: str, at: str, end: str) -> None:
    now = datetime.fromisoformat(at).timestamp()
    assert window_end(name, now, zone).isoformat() == end


def test_a_time_that_no_reservation_can_have_made_counts_as_over() -> None:
    """The clock was set back by an hour, or the rate was one an hour before."""
    pace = Pace.of(Rate(per_second=10, per_day=9))
    year = datetime(2027, 11, 28, tzinfo=UTC)
    state = State(NOW + 3600, NOW + 3600, {"day": Window(year, 9)})
    assert pace.next_time(state, NOW) == NOW
    assert pace.reserve(state, 1, 1, 0.0, NOW)[1].units == 1


def test_a_window_is_kept_to_its_own_end_when_the_zone_changes() -> None:
    state, _ = Pace.of(Rate(per_day=9)).reserve(State(), 9, 9, 0.0, NOW)
    elsewhere = Pace.of(Rate(per_day=9, zone="Asia/Tokyo"))
    assert elsewhere.reserve(state, 1, 1, 0.0, NOW)[1].units == 0
    assert elsewhere.reserve(state, 1, 1, 0.0, MIDNIGHT.timestamp())[1].units == 1


def test_whatever_is_asked_for_no_two_times_are_closer_than_the_rate_allows() -> None:
    pace = Pace.of(Rate(per_second=40))
    state, times, now = State(), list[float](), NOW
    for step in range(300):
        state, grant = pace.reserve(state, 1, 1 + step % 7, 0.02, now)
        times += pace.times(grant)
        now += 0.01 * (step % 5)
    assert min(b - a for a, b in pairwise(times)) > 1 / 40 - 1e-6
    assert isinstance(grant, Grant)


# Reloads ------------------------------------------------------------------------------------------


def test_threads_that_meet_a_reload_find_a_vendor_without_limits() -> None:
    """They had just seen that it has some: an exception would end the whole process."""
    limits = Limits(cast("Reservations", None))
    limits.rearrange([VendorConfig("a", "tests.vendors:Any", rate=Rate(gap=2))])
    (name,) = limits.names
    limits.rearrange([])
    assert limits.room(name) == 1
    assert limits.opens_in(name) == 0
    assert limits.delay([name], 2048, 1) == 1
