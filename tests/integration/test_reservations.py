"""The update of MongoDB's does what the pure rule says, whatever stands in the document."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailqueue.config.rates import Rate
from mailqueue.routing.pace import Pace, State, Window
from mailqueue.routing.reservations import (
    Reservations,
    document_id,
    grant_of,
    level_before,
    state_of,
)
from mailqueue.store.store import Store
from tests.damage import MARK, undecodable

Document = dict[str, Any]

RATES = st.builds(
    Rate,
    per_second=st.sampled_from([None, 5, 10, 1000]),
    per_minute=st.sampled_from([None, 120]),
    per_day=st.sampled_from([None, 100]),
    per_month=st.sampled_from([100, 300]),
    gap=st.sampled_from([None, 0.5, 2]),
    count=st.sampled_from(["messages", "recipients"]),
)
AWAY = st.sampled_from([None, -100.0, -0.2, 0.0, 0.3, 0.9, 1.5, 40.0, 1e7])  # from now
USED = st.sampled_from([0, 1, 79, 80, 97, 100, 120])
DAYS = st.sampled_from([-1.0, 0.5, 20, 400])


@pytest.fixture
def reservations(store: Store) -> Reservations:
    return Reservations(store, store.collection(".vendors"))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rate=RATES,
    burst=st.sampled_from([1, 20]),
    tat=AWAY,
    peak_tat=AWAY,
    used=USED,
    days=DAYS,
    need=st.sampled_from([1, 3]),
    want=st.sampled_from([3, 22]),
    debt=st.booleans(),
)
def test_a_reservation_on_mongodb_is_the_pure_one(
    store: Store,
    reservations: Reservations,
    rate: Rate,
    burst: int,
    tat: float | None,
    peak_tat: float | None,
    used: int,
    days: float,
    need: int,
    want: int,
    debt: bool,
) -> None:
    if rate.per_second or rate.per_minute:
        rate = replace(rate, burst=burst)
    pace = Pace.of(rate)
    now = store.now()
    until = (now + timedelta(days=days)).replace(microsecond=0)
    document: Document = {"_id": document_id("v"), "day": {"until": until, "used": used}}
    at = {"tat": tat, "peak_tat": peak_tat}
    document |= {name: now.timestamp() + away for name, away in at.items() if away is not None}
    collection = store.collection(".vendors")
    collection.replace_one({"_id": document["_id"]}, document, upsert=True)

    before = state_of(document)
    after = reservations.reserve("v", pace, need, want, 0.03, now.timestamp(), debt=debt)
    state, grant = pace.reserve(before, need, want, 0.03, after["grant"]["at"], debt=debt)

    assert grant_of(after) == pytest.approx(grant) if grant.units else not grant_of(after).units
    if grant.units:
        assert_same(state_of(after), state, pace)
    else:
        assert state_of(after) == before


def assert_same(stored: State, pure: State, pace: Pace) -> None:
    assert stored.tat == pytest.approx(pure.tat, abs=1e-4)
    assert stored.peak_tat == pytest.approx(pure.peak_tat, abs=1e-4)
    for name in pace.budgets:
        assert stored.windows[name] == pure.windows[name]


SOON = datetime.now(UTC) + timedelta(hours=20)
DAMAGE: list[dict[str, Any]] = [
    {"tat": "soon", "peak_tat": [1], "day": {"until": "never", "used": None}, "month": 7},
    {"tat": nan, "day": {"until": SOON, "used": nan, "level": nan}},
    {"peak_tat": inf, "month": {"until": SOON, "used": inf, "level": inf}, "day": {"until": MARK}},
]


@pytest.mark.parametrize("damage", DAMAGE, ids=["types", "no numbers", "infinite and no text"])
def test_what_is_damaged_in_the_document_counts_as_not_there(
    store: Store, reservations: Reservations, damage: dict[str, Any]
) -> None:
    document = {"_id": document_id("v"), **damage}
    is_text = MARK in document.get("day", {}).values()
    store.collection(".vendors").insert_one(undecodable(document) if is_text else document)
    pace = Pace.of(Rate(per_second=10, gap=0.01, per_day=5, per_month=9))
    after = reservations.reserve("v", pace, 1, 9, 0.0, store.now().timestamp(), debt=False)
    assert grant_of(after).units == 5
    assert state_of(after).windows["day"].used == 5
    assert level_before(after, "day") == 0


def test_a_process_whose_clock_is_a_day_late_gets_nothing_until_it_knows(
    store: Store, reservations: Reservations
) -> None:
    pace = Pace.of(Rate(per_day=5))
    late = store.now() - timedelta(days=2)
    after = reservations.reserve("v", pace, 1, 1, 0.0, late.timestamp(), debt=False)
    assert grant_of(after).units == 0
    after = reservations.reserve("v", pace, 1, 1, 0.0, after["grant"]["at"], debt=False)
    assert grant_of(after).units == 1


def test_units_are_given_back_only_by_the_last_who_reserved(
    store: Store, reservations: Reservations
) -> None:
    pace = Pace.of(Rate(per_minute=60, per_day=100))
    now = store.now().timestamp()
    mine = state_of(reservations.reserve("v", pace, 1, 1, 0.0, now, debt=False))
    other = state_of(reservations.reserve("v", pace, 1, 1, 0.0, now, debt=False))
    ends = {"day": mine.windows["day"].until}

    after = state_of(reservations.give_back("v", pace, 1, 1, mine.tat, ends))
    assert (after.tat, after.windows["day"].used) == (other.tat, 1)
    pure = pace.give_back(other, 1, 1, mine.tat, ends)
    assert after == pure

    after = state_of(reservations.give_back("v", pace, 1, 1, other.tat, ends))
    assert after.tat == pytest.approx(mine.tat)
    assert after.windows["day"].used == 0
    yesterday = {"day": datetime(2020, 1, 1, tzinfo=UTC)}
    assert state_of(reservations.give_back("v", pace, 1, 0, 0.0, yesterday)) == after
    assert after.windows["day"] == Window(ends["day"])
