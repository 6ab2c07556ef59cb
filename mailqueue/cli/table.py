"""What a person reads on a terminal: aligned tables, ages, and text that cannot play tricks. Pure.

Promises: no control character of a stored text reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines with aligned columns; numbers stand to the right, what is not known is empty."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    numeric = [bool(rows) and all(_number(row[i]) for row in rows) for i in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [list(head), *cells]
    ]


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def fields(values: Mapping[str, Any]) -> list[str]:
    """One line per field, without those of no value."""
    shown = {name: plain(value) for name, value in values.items() if value not in (None, "", [])}
    width = max(map(len, shown), default=0)
    return [f"{name.ljust(width)}  {value}" for name, value in shown.items()]


def plain(value: Any) -> str:
    """One line of printable text."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return printable(str(value))


def printable(text: str) -> str:
    """The text, with a question mark for whatever could move a cursor or hide something."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text)


def age(seconds: float) -> str:
    """About how long: ``12s``, ``5m``, ``3h``, ``4d``."""
    for unit, length in _UNITS:
        if abs(seconds) >= length:
            return f"{int(seconds / length)}{unit}"
    return f"{int(seconds)}s"
