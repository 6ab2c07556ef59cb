"""The section ``vendors[].rate``: how many e-mails a vendor gets, and how fast.

Decides: which limits there are. ``per_second``, ``per_minute``, ``per_hour`` and ``gap`` spread
e-mails evenly; ``per_day`` and ``per_month`` are budgets, which end with the day and the month of
``zone``.

Promises: a limit that cannot be kept is a problem that names its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any, Literal
from zoneinfo import ZoneInfo

from mailqueue.config import checks
from mailqueue.config.keys import Problems
from mailqueue.config.section import Section, key

_MOST = 10**9
_DAY = 86_400
PACES = {"per_second": 1.0, "per_minute": 60.0, "per_hour": 3600.0}  # seconds
BUDGETS = ("per_day", "per_month")


def _rate(value: float) -> str | None:
    """Slower than one a day would be a budget."""
    return None if 1 / _DAY <= value <= _MOST else f"must be more than 0 and at most {_MOST:,}"


def _zone(name: str) -> str | None:
    try:
        time_zone(name)
    except (KeyError, ValueError, OSError):
        return "must be a time zone that this host knows, for example Europe/Berlin"
    return None


def time_zone(name: str) -> tzinfo:
    """The zone of this name. UTC needs no data on the host."""
    return UTC if name == "UTC" else ZoneInfo(name)


@dataclass(frozen=True, slots=True)
class Rate(Section):
    """What a vendor permits, over all processes together. None: no such limit."""

    per_second: float | None = key(float, None, "e-mails a second, spread evenly", _rate)
    per_minute: float | None = key(float, None, "e-mails a minute, spread evenly", _rate)
    per_hour: float | None = key(float, None, "e-mails an hour, spread evenly", _rate)
    per_day: int | None = key(
        int, None, "budget of a day: when it is used up, the vendor gets nothing until midnight",
        checks.between(1, _MOST),
    )  # fmt: skip
    per_month: int | None = key(int, None, "budget of a calendar month", checks.between(1, _MOST))
    gap: float | None = key(float, None, "shortest time between two e-mails", checks.seconds(_DAY))
    burst: int = key(
        int,
        1,
        "e-mails that may go at once after a pause, as far as `gap` and faster rates allow",
        checks.between(1, _MOST),
    )
    count: Literal["messages", "recipients"] = key(
        str,
        "messages",
        "what counts: `messages`, or each of their `recipients`",
        checks.one_of("messages", "recipients"),
    )
    zone: str = key(str, "UTC", "time zone in which days and months end", _zone)

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        names = (*PACES, *BUDGETS, "gap")
        if all(attributes.get(name) is None for name in names):
            problems.add("", f"needs one of {', '.join(names)}")
        if attributes.get("burst", 1) != 1 and all(attributes.get(name) is None for name in PACES):
            problems.add("burst", f"needs one of {', '.join(PACES)}")

    @property
    def by_recipients(self) -> bool:
        """Whether each recipient counts."""
        return self.count == "recipients"
