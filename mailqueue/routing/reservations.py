"""The limits of vendors in MongoDB: send times and budgets, shared by all processes.

Decides: how ``pace``'s rules become updates. Each limited vendor has a document of its own beside
its health, in ``<collection>.vendors``; who reads the health reads it too.

Assumes: a reservation whose reply is lost is lost: that wastes at most a second of times.

Promises: one call for many send times. All times are the server's. Raises ``StoreUnavailable``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import inf
from typing import Any

from pymongo import ReturnDocument, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from mailqueue.routing.pace import AHEAD, LOW, SPENT, Grant, Pace, State, Window
from mailqueue.routing.pace import LONGEST_WINDOW as LONGEST
from mailqueue.store.mongo import readable
from mailqueue.store.store import Store

Document = dict[str, Any]
Expression = Any
_NOW = {"$divide": [{"$toLong": "$$NOW"}, 1000]}


def document_id(vendor: str) -> str:
    """The ``_id`` of the vendor's limits; a vendor's name has no colon."""
    return f"rate:{vendor}"


class Reservations:
    """The limits' documents, in the collection of the vendors' health."""

    def __init__(self, store: Store, collection: Collection[Document]) -> None:
        self._store = store
        self._collection = collection = readable(collection)
        # A time that is lost with the server's last moments costs a second of e-mails that go too
        # early. That is not worth the journal's flush, for which every e-mail would wait.
        self._quick = collection.with_options(write_concern=WriteConcern(w=1))

    # Reserve: tat → tat + n times
    #
    # Rule: the times begin at ``tat``, or now; they are given only as far as they are not more than
    # a second ahead, do not go beyond the end of a budget's window, and fit into what it has left.
    # Of ten a second, with a budget of 1,000 a day, three:
    #
    #   before  {tat: 12:00:00.2, day: {until: 24:00, used: 996, level: 80}}
    #   after   {tat: 12:00:00.5, day: {until: 24:00, used: 999, level: 80},
    #            grant: {units: 3, start: 12:00:00.2, at: NOW, …}}

    def reserve(
        self, vendor: str, pace: Pace, need: int, want: int, lead: float, now: float, *, debt: bool
    ) -> Document:
        """Reserve, as ``Pace.reserve``; returns the document, with what was reserved in it.

        ``now`` is the server's time as far as it is known, to tell the days apart.
        """
        update = reserve_update(pace, need, want, lead, now, debt=debt)
        return self._update(vendor, update, pace)

    # Give back: unused units
    #
    # Rule: the times of the last reservation are free again if nobody has reserved after it. What
    # they count in a budget is taken off it, as long as its window lasts.
    #
    #   before  {tat: 12:00:00.5, day: {until: 24:00, used: 999}}
    #   after   {tat: 12:00:00.3, day: {until: 24:00, used: 997}}

    def give_back(
        self,
        vendor: str,
        pace: Pace,
        units: int,
        times: int,
        tat: float,
        ends: Mapping[str, datetime],
    ) -> Document:
        """Give unused units back, as ``Pace.give_back``; returns the document."""
        last = {"$eq": ["$tat", tat]}
        back = {"$subtract": ["$tat", times * pace.interval]}
        fields: dict[str, Expression] = {"tat": {"$cond": [last, back, _or_zero("$tat")]}}
        for name, end in ends.items():
            same = {"$eq": [f"${name}.until", end]}
            less = {"$max": [0, {"$subtract": [f"${name}.used", units]}]}
            fields[f"{name}.used"] = {"$cond": [same, less, _or_zero(f"${name}.used")]}
        return self._update(vendor, [{"$set": fields}, {"$set": {"grant": {"at": _NOW}}}], pace)

    def _update(self, vendor: str, update: list[Document], pace: Pace) -> Document:
        collection = self._collection if pace.budgets else self._quick
        with self._store.operation():
            while True:
                try:
                    document = collection.find_one_and_update(
                        {"_id": document_id(vendor)},
                        update,
                        upsert=True,
                        return_document=ReturnDocument.AFTER,
                    )
                    return document or {}
                except DuplicateKeyError:  # two processes make the document: this one is late
                    continue


def reserve_update(
    pace: Pace, need: int, want: int, lead: float, now: float, *, debt: bool = False
) -> list[Document]:
    """``Pace.reserve`` as one update, judged by the server's clock."""
    # A stage sees what the stages before it have set: each works out one more value of ``grant``.
    ends = pace.ends(now)
    windows = {name: _current(name, end) for name, end in ends.items()}
    last = [{"$add": ["$grant.at", AHEAD]}, *(_seconds(f"$grant.{n}.until") for n in windows)]
    rest = [{"$subtract": [pace.budgets[name], f"$grant.{name}.used"]} for name in windows]
    fitting: Expression = need if debt else _fitting(pace, need, want)
    granted: Expression = {"$gt": ["$grant.units", 0]}
    return [
        {"$set": {"grant": {"at": _NOW, **windows}}},
        {
            "$set": {
                "grant.peak": {"$max": [{"$add": ["$grant.at", lead]}, _sane("$peak_tat", pace)]}
            }
        },
        {"$set": {"grant.start": {"$max": [_sane("$tat", pace), "$grant.peak"]}}},
        {"$set": {"grant.last": {"$min": last}}},
        {"$set": {"grant.units": {"$min": [fitting, *rest]}}},
        {"$set": {"grant.units": {"$cond": [_may(need, ends), "$grant.units", 0]}}},
        {
            "$set": {
                name: {"$cond": [granted, value, _unchanged(name)]} for name, value in _after(pace)
            }
        },
    ]


def _fitting(pace: Pace, need: int, want: int) -> Expression:
    """As ``Pace._fitting``."""
    to_peak = {"$subtract": ["$grant.last", "$grant.peak"]}
    to_start = {"$add": [{"$subtract": ["$grant.last", "$grant.start"]}, pace.tolerance]}
    rooms = ((to_peak, pace.peak), (to_start, pace.interval))
    most = [{"$add": [{"$floor": {"$divide": [room, each]}}, 1]} for room, each in rooms if each]
    late = {"$lt": [{"$min": [to_peak, to_start]}, 0]}
    return {"$cond": [late, 0, {"$max": [need, {"$min": [want, *most]}]}]}


def _may(need: int, ends: Mapping[str, datetime]) -> Expression:
    """Whether enough fits, and the windows that this process named are the present ones."""
    open_ = [{"$gt": [f"$grant.{name}.until", "$$NOW"]} for name in ends]
    return {"$and": [{"$gte": ["$grant.units", need]}, *open_]}


def _after(pace: Pace) -> list[tuple[str, Expression]]:
    """The fields after a reservation, as ``Pace.reserve`` returns them."""
    units = "$grant.units"
    before = {"$subtract": [units, 1]}
    last = {
        "$max": [
            {"$add": ["$grant.peak", {"$multiply": [before, pace.peak]}]},
            {
                "$add": [
                    {"$subtract": ["$grant.start", pace.tolerance]},
                    {"$multiply": [before, pace.interval]},
                ]
            },
        ]
    }
    fields: list[tuple[str, Expression]] = [
        ("tat", {"$add": ["$grant.start", {"$multiply": [units, pace.interval]}]})
    ]
    if pace.peak:
        fields.append(("peak_tat", {"$add": [last, pace.peak]}))
    for name, most in pace.budgets.items():
        used = {"$add": [f"$grant.{name}.used", units]}
        share = {"$multiply": [used, 100]}
        per_cent = {
            "$switch": {
                "branches": [
                    {"case": {"$gte": [share, t * most]}, "then": t} for t in (SPENT, LOW)
                ],
                "default": 0,
            }
        }
        window = {
            "until": f"$grant.{name}.until",
            "used": used,
            "level": {"$max": [f"$grant.{name}.level", per_cent]},
        }
        fields.append((name, window))
    return fields


def _current(name: str, end: datetime) -> Expression:
    """As ``pace._current``: the stored window to its own end, then a new one."""
    until = f"${name}.until"
    latest = {"$add": ["$$NOW", round(LONGEST[name].total_seconds() * 1000)]}
    # A value that is no time is damage: it compares as none.
    is_open = {
        "$and": [
            {"$eq": [{"$type": until}, "date"]},
            {"$gt": [until, "$$NOW"]},
            {"$lte": [until, latest]},
            _is_sound(f"${name}.used"),
        ]
    }
    stored = {"until": until, "used": f"${name}.used", "level": _or_zero(f"${name}.level")}
    return {"$cond": [is_open, stored, {"until": end, "used": 0, "level": 0}]}


def _sane(field: str, pace: Pace) -> Expression:
    """As ``Pace._sane``."""
    latest = {"$add": ["$grant.at", pace.farthest]}
    sane = {"$and": [{"$isNumber": field}, {"$lte": [field, latest]}]}
    return {"$cond": [sane, field, 0.0]}


def _seconds(date: Expression) -> Expression:
    return {"$divide": [{"$toLong": date}, 1000]}


def _or_zero(field: str) -> Expression:
    return {"$cond": [_is_sound(field), field, 0]}


def _is_sound(field: str) -> Expression:
    return {"$and": [{"$isNumber": field}, {"$gte": [field, 0]}, {"$lt": [field, inf]}]}


def _unchanged(name: str) -> Expression:
    return {"$ifNull": [f"${name}", "$$REMOVE"]}


# Reading ------------------------------------------------------------------------------------------


def state_of(document: Mapping[str, Any]) -> State:
    """The state that a document holds; what is damaged in it counts as not there."""
    windows = {
        name: Window(until, int(_number(entry.get("used"))), int(_number(entry.get("level"))))
        for name in LONGEST
        if isinstance(entry := document.get(name), Mapping)
        and isinstance(until := entry.get("until"), datetime)
    }
    tat, peak_tat = (_number(document.get(name)) for name in ("tat", "peak_tat"))
    return State(tat, peak_tat, windows)


def grant_of(document: Mapping[str, Any]) -> Grant:
    """What the reservation that returned this document got."""
    grant = document["grant"]
    return Grant(int(grant["units"]), grant["start"], grant["peak"], grant["at"])


def level_before(document: Mapping[str, Any], name: str) -> int:
    """The per cent of the budget of which it was said before this reservation."""
    return int(_number(document["grant"][name]["level"]))


class Usage:
    """What people are shown of a vendor's limits."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._state = State()

    def learn(self, document: Mapping[str, Any]) -> None:
        """The document of the vendor's limits."""
        self._state = state_of(document)

    def shown(self, now: float) -> Document:
        """The seconds until the next e-mail may go, and the budgets by the names of their keys."""
        windows = self._pace.windows(self._state, now)
        budgets = {
            f"per_{name}": {
                "used": window.used,
                "limit": self._pace.budgets[name],
                "until": window.until,
            }
            for name, window in windows.items()
        }
        wait = self._pace.next_time(self._state, now) - now
        return {"wait": round(wait, 3), "budgets": budgets}


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return 0.0
    return float(value) if 0 <= value < inf else 0.0
