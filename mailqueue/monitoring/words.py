"""Numbers, spans and times as a person reads them; which words of others are shown. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

_WORD = re.compile(r"[\w.:/#-]{1,64}")
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))
_LONG_UNITS = (("days", 172_800, 86_400), ("h", 7200, 3600), ("min", 120, 60))


def age(seconds: float) -> str:
    """About how long: ``12s``, ``5m``, ``3h``, ``4d``."""
    for unit, length in _UNITS:
        if abs(seconds) >= length:
            return f"{int(seconds / length)}{unit}"
    return f"{int(seconds)}s"


def span(seconds: float) -> str:
    """About how long, in a sentence: ``40 s``, ``5 min``, ``3 h``, ``4 days``."""
    for unit, least, length in _LONG_UNITS:
        if seconds >= least:
            return f"{int(seconds / length)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than a second"


def clock(at: datetime, now: datetime) -> str:
    """A time in a sentence; the date only where it is another day than ``now``."""
    at, now = at.astimezone(UTC), now.astimezone(UTC)
    form = "%H:%M:%S UTC" if at.date() == now.date() else "%Y-%m-%d %H:%M:%S UTC"
    return at.strftime(form)


def is_word(code: str) -> bool:
    """Whether a vendor's code is one, and no sentence or address: of some vendors it may be."""
    return _WORD.fullmatch(code) is not None


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 e-mail``, ``2,000 e-mails``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *front, end = names
    return f"{', '.join(front)} {last} {end}" if front else end
