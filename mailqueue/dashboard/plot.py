"""The plot of the last hour: attempts a minute, as rectangles and labels. Pure.

Decides: the scale, the places and the words. The template ``plot.html`` draws them.

Across, places are shares of the width, so that the plot fits a phone and its text keeps its size.
Down, they are pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.store.stats import Minute, Totals

MINUTES = 60
HEIGHT = 160  # pixels of the tallest bar
HEAD, FOOT = 20, 24  # pixels above and below, for labels
THINNEST = 2  # pixels: one failure among thousands is to be seen
GAP = 0.2  # of a minute's width, between two bars
MINUTE = timedelta(minutes=1)
SERIES = ("accepted", "failed")
"""What is drawn, from the ground up. All that a vendor did not accept is ``failed``."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """One minute of one series. ``x`` and ``width`` in per cent, ``y`` and ``height`` in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at an axis: in per cent across or in pixels down."""

    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Column:
    """What is said of one minute."""

    at: datetime  # its start
    numbers: Mapping[str, int]  # by series
    x: float

    @property
    def total(self) -> int:
        """All attempts."""
        return sum(self.numbers.values())

    @property
    def text(self) -> str:
        """For who points at it."""
        numbers = ", ".join(f"{number:,} {name}" for name, number in self.numbers.items())
        return f"{self.at:%H:%M} UTC: {numbers}"


@dataclass(frozen=True, slots=True)
class Plot:
    """All that is drawn. ``totals`` has the attempts of the hour by series."""

    columns: tuple[Column, ...]
    series: Mapping[str, tuple[Rectangle, ...]]
    levels: tuple[Tick, ...]
    times: tuple[Tick, ...]
    totals: Mapping[str, int]

    height = HEAD + HEIGHT + FOOT
    width = 100 / MINUTES  # of a minute, in per cent

    @property
    def busy(self) -> list[Column]:
        """The minutes with any attempt, newest first."""
        return [column for column in reversed(self.columns) if column.total]

    @property
    def text(self) -> str:
        """What a person sees in it."""
        totals = " and ".join(f"{number:,} {name}" for name, number in self.totals.items())
        busiest = max(self.columns, key=lambda column: column.total)
        return f"In all {totals}. Most, {busiest.total:,}, at {busiest.at:%H:%M} UTC."

    def __bool__(self) -> bool:
        return any(self.totals.values())


def plot(minutes: Iterable[Minute], now: datetime) -> Plot:
    """The plot of the hour that ends ``now``; its last minute is still going on."""
    counts = {minute.at: _by_series(minute.totals) for minute in minutes}
    last = now.replace(second=0, microsecond=0)
    columns = tuple(
        Column(
            at,
            {name: counts.get(at, {}).get(name, 0) for name in SERIES},
            round(n * Plot.width, 3),
        )
        for n, at in enumerate(last - MINUTE * back for back in reversed(range(MINUTES)))
    )
    levels = _levels(max(column.total for column in columns))
    top = levels[-1]
    return Plot(
        columns,
        {name: tuple(_bars(columns, name, top)) for name in SERIES},
        tuple(Tick(_y(level, top), _short(level)) for level in levels),
        tuple(_times()),
        {name: sum(column.numbers[name] for column in columns) for name in SERIES},
    )


def _by_series(totals: Totals) -> dict[str, int]:
    numbers: Counter[str] = Counter()
    for (_, outcome), tally in totals.items():
        numbers[series_of(outcome)] += tally.number
    return dict(numbers)


def series_of(outcome: str) -> str:
    """As which of ``SERIES`` an attempt is drawn."""
    return "accepted" if outcome == Outcome.ACCEPTED else "failed"


def _bars(columns: Iterable[Column], name: str, top: int) -> Iterator[Rectangle]:
    """The bars of one series, each on those of the series below it."""
    below = SERIES[: SERIES.index(name)]
    for column in columns:
        ground, number = sum(column.numbers[other] for other in below), column.numbers[name]
        height = max(HEIGHT * number / top, THINNEST if number else 0)
        yield Rectangle(
            round(column.x + Plot.width * GAP / 2, 3),
            round(_y(ground, top) - height, 2),
            round(Plot.width * (1 - GAP), 3),
            round(height, 2),
        )


def _y(number: int, top: int) -> float:
    return round(HEAD + HEIGHT * (1 - number / top), 2)


def _levels(most: int) -> list[int]:
    """Round numbers from 0 up to at least ``most``: two to five steps of 1, 2 or 5 tens."""
    step = 1
    while step * 4 < most:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    steps = max(2, -(-most // step))
    return [step * n for n in range(steps + 1)]


def _short(level: int) -> str:
    """As it fits beside the plot: ``2,000``, ``20k``, ``1.5M``."""
    if level >= 1_000_000:
        return f"{level / 1_000_000:g}M"
    return f"{level / 1000:g}k" if level >= 10_000 else f"{level:,}"


def _times() -> Iterator[Tick]:
    for back in (60, 45, 30, 15, 0):
        label = {60: "60 min ago", 0: "now"}.get(back, f"{back}")
        yield Tick((MINUTES - back) / MINUTES * 100, label)
