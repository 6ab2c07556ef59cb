"""Text for a terminal: tables and lists of fields. Pure.

Promises: no control character of a stored text reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any

GAP = "  "
NARROWEST = 20  # characters of a column that is folded
_NOTHING: tuple[Any, ...] = (None, "", [])


def table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None = None
) -> list[str]:
    """Lines with aligned columns, numbers to the right.

    A column without any value is left out. If the lines are longer than ``width``, the last column
    is folded; if there is no room for that either, each row becomes a list of fields.
    """
    shown = [i for i in range(len(head)) if not rows or any(row[i] not in _NOTHING for row in rows)]
    if not shown:
        return []
    cells = [[head[i] for i in shown], *([plain(row[i]) for i in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = max(widths[-1], 1)
    if width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        room = width - sum(widths[:-1]) - len(GAP) * (len(widths) - 1)
        if room < NARROWEST:
            return _records(head, rows)
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in shown]
    lines = []
    for *front, last in cells:
        for n, part in enumerate(_fold(last, room)):
            line = [*(front if n == 0 else [""] * len(front)), part]
            justified = zip(line, widths, numeric, strict=True)
            lines.append(
                GAP.join(c.rjust(w) if right else c.ljust(w) for c, w, right in justified).rstrip()
            )
    return lines


def _fold(text: str, room: int) -> list[str]:
    # Whole words: an id in two pieces could not be copied.
    return wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]


def _records(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Each row as a list of fields, with an empty line between two."""
    blocks = [["", *fields(dict(zip(head, row, strict=True)))] for row in rows]
    return [line for block in blocks for line in block][1:]


def _is_number(value: Any) -> bool:
    # To Python, True is a number.
    return isinstance(value, int | float) and not isinstance(value, bool)


def fields(values: Mapping[str, Any]) -> list[str]:
    """One line for each field that has a value."""
    shown = {name: plain(value) for name, value in values.items() if value not in _NOTHING}
    width = max(map(len, shown), default=0)
    return [f"{name.ljust(width)}{GAP}{value}" for name, value in shown.items()]


def plain(value: Any) -> str:
    """The value as one line of printable text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, Mapping):
        value = [f"{name}={plain(inner)}" for name, inner in value.items()]
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return printable(str(value))


def printable(text: str) -> str:
    """The text, with a question mark for whatever could move a cursor or hide something."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text)
