"""The plot of the last hour, as numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mailqueue.dashboard.plot import HEAD, HEIGHT, MINUTES, SERIES, THINNEST, Plot, plot
from mailqueue.store.stats import Minute, Tally
from tests.for_each import for_each

NOW = datetime(2026, 3, 1, 3, 0, 40, tzinfo=UTC)


def minute(back: int, accepted: int = 0, failed: int = 0, at: datetime = NOW) -> Minute:
    start = at.replace(second=0) - timedelta(minutes=back)
    totals = {("a", "accepted"): tally(accepted), ("b", "unavailable"): tally(failed)}
    return Minute(start, totals)


def tally(number: int) -> Tally:
    return Tally((number, *Tally().counts[1:]))


def values(drawn: Plot, name: str) -> list[int]:
    return [column.numbers[name] for column in drawn.columns]


def test_each_series_has_a_bar_for_each_minute_of_the_hour() -> None:
    drawn = plot([minute(0, 4), minute(59, 3, 1)], NOW)
    assert [len(drawn.series[name]) for name in SERIES] == [MINUTES, MINUTES]
    assert drawn.columns[0].at == datetime(2026, 3, 1, 2, 1, tzinfo=UTC)
    assert drawn.columns[-1].at == datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
    assert (values(drawn, "accepted")[0], values(drawn, "accepted")[-1]) == (3, 4)
    assert drawn.totals == {"accepted": 7, "failed": 1}


def test_what_is_older_than_the_hour_is_not_drawn() -> None:
    assert not plot([minute(60, 5)], NOW)


def test_without_any_attempt_it_is_false_and_has_a_scale_all_the_same() -> None:
    drawn = plot([], NOW)
    assert not drawn
    assert [level.label for level in drawn.levels] == ["0", "1", "2"]
    assert drawn.busy == []


def test_all_that_was_not_accepted_is_drawn_as_failed() -> None:
    totals = {("a", outcome): tally(1) for outcome in ("rejected", "unknown", "misconfigured")}
    assert plot([Minute(NOW.replace(second=0), totals)], NOW).totals["failed"] == 3


def test_failed_stands_on_accepted_and_no_bar_leaves_the_scale() -> None:
    drawn = plot([minute(n, 10 * n, n) for n in range(60)], NOW)
    for accepted, failed in zip(*drawn.series.values(), strict=True):
        assert failed.y + failed.height == pytest.approx(accepted.y, abs=0.02)
        assert failed.y >= HEAD
        assert accepted.y + accepted.height == pytest.approx(HEAD + HEIGHT, abs=0.02)
    xs = [bar.x for bar in drawn.series["accepted"]]
    assert xs == sorted(xs)
    assert 0 < xs[0] < xs[-1] + drawn.series["accepted"][-1].width < 100


def test_one_failure_among_thousands_is_seen() -> None:
    assert plot([minute(3, 9999, 1)], NOW).series["failed"][-4].height == THINNEST


@for_each(
    "most, levels",
    [
        (1, "0 1 2"),
        (3, "0 1 2 3"),
        (7, "0 2 4 6 8"),
        (12, "0 5 10 15"),
        (99, "0 50 100"),
        (101, "0 50 100 150"),
        (3999, "0 1,000 2,000 3,000 4,000"),
        (39_000, "0 10k 20k 30k 40k"),
        (1_100_000, "0 500k 1M 1.5M"),
    ],
)
def test_the_scale_has_round_numbers(most: int, levels: str) -> None:
    drawn = plot([minute(5, most)], NOW)
    assert " ".join(level.label for level in drawn.levels) == levels
    places = [level.place for level in drawn.levels]
    assert places == sorted(places, reverse=True)


def test_its_text_says_what_is_seen() -> None:
    drawn = plot([minute(4, 1200, 7), minute(9, 12)], NOW)
    assert drawn.text == "In all 1,212 accepted and 7 failed. Most, 1,207, at 02:56 UTC."
    assert drawn.columns[-5].text == "02:56 UTC: 1,200 accepted, 7 failed"
    assert [column.at.minute for column in drawn.busy] == [56, 51]
