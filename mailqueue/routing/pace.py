"""When the next e-mail may go to a vendor: send times that are reserved, and budgets. Pure.

Decides: how many send times a reservation gets, which ones, and what is left of the vendor's
budgets. The rule is the generic cell rate algorithm of ATM networks. ``tat`` is the theoretical
arrival time: the next e-mail may go then, or ``tolerance`` earlier. Each unit moves it by
``interval``. A second one, ``peak_tat``, has no tolerance: it keeps ``gap``, and the faster of two
rates, also within a burst.

::

    first = max(tat - tolerance, peak_tat, NOW + lead)     at most a second ahead
    tat   = max(tat, first) + n * interval

A budget is a window that ends with the day, or the month, of the vendor's zone. What is used in it
counts up to its end, then the next write begins a new one.

Assumes: times are seconds on the database server's clock. ``reserve_update`` is the same rule as
one update of MongoDB's (``reservations``); a test holds the two together.

Promises: nobody reserves beyond the end of a window. A time that no reservation can have made (the
clock was set back, the rate was changed) counts as over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from mailqueue.config.rates import PACES, Rate, time_zone

AHEAD = 1.0  # seconds for which times are reserved ahead, at most
MOST_RECIPIENTS = 1000  # of an e-mail
LOW, SPENT = 80, 100  # per cent of a budget at which something is said
LONGEST_WINDOW = {"day": timedelta(hours=26), "month": timedelta(days=32)}


@dataclass(frozen=True, slots=True)
class Window:
    """What is ``used`` of a budget until its end; ``level``: the per cent of which it was said."""

    until: datetime
    used: int = 0
    level: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """A vendor's document: the shared state of its limits."""

    tat: float = 0.0
    peak_tat: float = 0.0
    windows: Mapping[str, Window] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """``units`` reserved; ``start`` and ``peak`` are where their times begin. ``at``: when."""

    units: int
    start: float
    peak: float
    at: float


@dataclass(slots=True, eq=False)
class Promise:
    """So many ``units`` of the vendor's next send times are spoken for.

    ``claiming``: its e-mail is being claimed (since ``claim_at``), or waits for its time.
    ``sent_at``: the time that it got. ``over``: nothing is spoken for any more.
    """

    vendor: str
    units: int
    pool: object = field(default=None, repr=False)  # who gave it
    claiming: bool = False
    claim_at: float | None = None
    sent_at: float | None = None
    over: bool = False


NO_LIMIT = Promise("", 0, over=True)


@dataclass(frozen=True, slots=True)
class Pace:
    """The limits of one vendor, as numbers. An ``interval`` of 0: only budgets."""

    interval: float = 0.0
    tolerance: float = 0.0
    peak: float = 0.0
    budgets: Mapping[str, int] = field(default_factory=dict)  # by "day" and "month"
    by_recipients: bool = False
    zone: str = "UTC"

    @classmethod
    def of(cls, rate: Rate) -> Pace:
        """From the configuration."""
        values = {name: getattr(rate, name) for name in PACES}
        slow, *faster = sorted(
            (PACES[name] / value for name, value in values.items() if value), reverse=True
        ) or [0.0]
        peak = max(rate.gap or 0.0, *faster[:1], 0.0)
        budgets = {"day": rate.per_day, "month": rate.per_month}
        return cls(
            interval=max(slow, peak),
            tolerance=(rate.burst - 1) * slow,
            peak=peak,
            budgets={name: most for name, most in budgets.items() if most is not None},
            by_recipients=rate.by_recipients,
            zone=rate.zone,
        )

    @property
    def most(self) -> float:
        """The units that one e-mail may have; with more it never fits into the budgets."""
        return min(self.budgets.values(), default=math.inf)

    @property
    def farthest(self) -> float:
        """Seconds that ``tat`` can be ahead of the clock."""
        return (
            2 * AHEAD
            + self.tolerance
            + self.interval * (2 + (MOST_RECIPIENTS if self.by_recipients else 0))
        )

    def ends(self, now: float) -> dict[str, datetime]:
        """When the present windows of the budgets end."""
        return {name: window_end(name, now, self.zone) for name in self.budgets}

    def windows(self, state: State, now: float) -> dict[str, Window]:
        """The present windows: those of the state, as far as they are not over."""
        ends = self.ends(now)
        return {name: _current(name, state.windows.get(name), ends[name], now) for name in ends}

    def times(self, grant: Grant) -> Iterator[float]:
        """The send times of a grant, one for each unit."""
        return (self._time(grant, k) for k in range(grant.units))

    def _time(self, grant: Grant, k: int) -> float:
        late = grant.start - self.tolerance + k * self.interval
        return max(grant.peak + k * self.peak, late)

    def next_time(self, state: State, now: float) -> float:
        """When the next e-mail may go, as this state says; a used-up budget's end counts."""
        tat, peak_tat = (self._sane(at, now) for at in (state.tat, state.peak_tat))
        ends = (window.until.timestamp() for _, window in self.spent(state, now))
        return max(now, tat - self.tolerance, peak_tat, *ends)

    def _sane(self, at: float, now: float) -> float:
        return at if at <= now + self.farthest else 0.0

    def spent(self, state: State, now: float, units: int = 1) -> Iterator[tuple[str, Window]]:
        """The windows in which so many units do not fit any more."""
        for name, most in self.budgets.items():
            window = state.windows.get(name)
            if window is not None and _is_open(name, window, now) and window.used + units > most:
                yield name, window

    def rest(self, state: State, now: float) -> float:
        """The units that all budgets have left."""
        windows = self.windows(state, now)
        return min((self.budgets[name] - w.used for name, w in windows.items()), default=math.inf)

    # Reserve -----------------------------------------------------------------------------------

    def reserve(
        self, state: State, need: int, want: int, lead: float, now: float, *, debt: bool = False
    ) -> tuple[State, Grant]:
        """The state after a reservation of ``want`` units, or fewer, but no fewer than ``need``.

        Nothing, where the first could not go within a second. ``lead``: the first is so far ahead
        that its e-mail can be claimed by then. ``debt``: the rest of an e-mail of many recipients,
        whose first unit is reserved already; it goes together with that one.
        """
        peak = max(now + lead, self._sane(state.peak_tat, now))
        start = max(self._sane(state.tat, now), peak)
        windows = self.windows(state, now)
        last = min([now + AHEAD, *(window.until.timestamp() for window in windows.values())])
        units = need if debt else self._fitting(start, peak, last, need, want)
        units = min([units, *(self.budgets[name] - w.used for name, w in windows.items())])
        if units < need:
            return state, Grant(0, start, peak, now)
        grant = Grant(units, start, peak, now)
        times = self._time(grant, units - 1)
        used = {name: self._use(name, window, units) for name, window in windows.items()}
        peak_tat = times + self.peak if self.peak else state.peak_tat
        return State(start + units * self.interval, peak_tat, used), grant

    def _fitting(self, start: float, peak: float, last: float, need: int, want: int) -> int:
        """The units whose times are not after ``last``; ``need`` of them if the first is not."""
        rooms = ((last - peak, self.peak), (last - start + self.tolerance, self.interval))
        if min(room for room, _ in rooms) < 0:
            return 0
        fitting = min((math.floor(room / each) + 1 for room, each in rooms if each), default=want)
        return max(need, min(want, fitting))

    def _use(self, name: str, window: Window, units: int) -> Window:
        used = window.used + units
        share = 100 * used
        per_cent = next((t for t in (SPENT, LOW) if share >= t * self.budgets[name]), 0)
        return replace(window, used=used, level=max(window.level, per_cent))

    def give_back(
        self, state: State, units: int, times: int, tat: float, ends: Mapping[str, datetime]
    ) -> State:
        """The state without ``units`` that were not used.

        The last ``times`` come back only while nobody has reserved after them (``tat`` is theirs);
        what they used of a budget, while its window (``ends``) lasts.
        """
        back = state.tat - times * self.interval if state.tat == tat else state.tat
        windows = {
            name: replace(window, used=max(0, window.used - units))
            if ends.get(name) == window.until
            else window
            for name, window in state.windows.items()
        }
        return replace(state, tat=back, windows=windows)


def window_end(name: str, now: float, zone: str) -> datetime:
    """The end of the day or the month of the zone, in UTC."""
    local = datetime.fromtimestamp(now, time_zone(zone))
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if name == "month":
        day = day.replace(day=28) + timedelta(days=4)
        day = day.replace(day=1)
    else:
        day += timedelta(days=1)  # of the calendar, also when it has 23 or 25 hours
    return day.astimezone(UTC)


def _is_open(name: str, window: Window, now: float) -> bool:
    """Whether the window is the present one: not over, and not farther off than any can be."""
    rest = window.until.timestamp() - now
    return 0 < rest <= LONGEST_WINDOW[name].total_seconds()


def _current(name: str, window: Window | None, end: datetime, now: float) -> Window:
    # A window is kept to its own end, also when the zone was changed: what is used stays used.
    if window is not None and _is_open(name, window, now):
        return window
    return Window(end)
