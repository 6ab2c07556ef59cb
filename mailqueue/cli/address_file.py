"""A file of the suppression list: CSV, or one address a line.

Decides: which columns there are, and what may stand in them. With a first line that names its
columns, only those known here are read; without one, each line is an address.

Promises: a problem names its line and quotes nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mailqueue.config import checks
from mailqueue.config.services import SUPPRESSION_REASONS
from mailqueue.errors import InvalidEmail
from mailqueue.store.suppressions import MANUAL, Report, entry_of

COLUMNS = ("address", "reason", "source", "at", "until")
_ADDRESS = ("address", "email")
_MOST_PROBLEMS = 20


class Unusable(Exception):
    """The file cannot be read; ``problems`` has one for each line, up to a few."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = len(problems) - _MOST_PROBLEMS
        self.problems = [*problems[:_MOST_PROBLEMS], *([f"{more} more lines"] if more > 0 else [])]
        super().__init__("\n".join(self.problems))


def read(lines: Iterable[bytes], reason: str | None = None) -> list[Report]:
    """What a file enters. ``reason``: instead of what the file says. Raises ``Unusable``."""
    reports: list[Report] = []
    problems: list[str] = []
    rows = csv.reader(_decode(lines), strict=True)
    names: Sequence[str] = ()
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = _names(row)
                if names is not _ONLY:
                    continue
            try:
                reports.append(_report(dict(zip(names, row, strict=False)), len(row), reason))
            except ValueError as error:
                problems.append(f"line {rows.line_num}: {error}")
    except (csv.Error, UnicodeError):
        problems.append(f"line {rows.line_num + 1}: is no line of a CSV file in UTF-8")
    if problems:
        raise Unusable(problems)
    return reports


def _decode(lines: Iterable[bytes]) -> Iterator[str]:
    for n, line in enumerate(lines):
        yield line.decode("utf-8-sig" if n == 0 else "utf-8")


_ONLY = ("address",)


def _names(row: Sequence[str]) -> Sequence[str]:
    """The columns that the first line names; ``_ONLY``: it is none, and an address itself."""
    names = [cell.strip().lower() for cell in row]
    names = ["address" if name in _ADDRESS else name for name in names]
    return names if "address" in names else _ONLY


def _report(cells: Mapping[str, str], width: int, reason: str | None) -> Report:
    """One line. Raises ``ValueError`` with the problem."""
    if len(cells) == 1 and width > 1:
        raise ValueError(f"several columns: name them in the first line ({','.join(COLUMNS)})")
    cell = {name: cells.get(name, "").strip() for name in COLUMNS}
    reason = reason or cell["reason"] or MANUAL
    if reason not in SUPPRESSION_REASONS:
        raise ValueError(f"reason must be one of {', '.join(SUPPRESSION_REASONS)}")
    source = cell["source"] or MANUAL
    if problem := checks.vendor_name(source):
        raise ValueError(f"source {problem}")
    try:
        entry = entry_of(cell["address"])
    except InvalidEmail as error:
        raise ValueError(str(error)) from None
    at = time_of(cell["at"], "at") or datetime.now(UTC)
    return Report(entry, reason, source, at, time_of(cell["until"], "until"))


def time_of(text: str, name: str) -> datetime | None:
    """A date, or a date and time; without a zone it is UTC. None: there is none."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} must be a date such as 2027-01-31") from None


def lines_of(document: Mapping[str, Any]) -> Iterator[list[str]]:
    """The lines of an entry, as ``read`` takes them."""
    for row in rows_of(document):
        yield [_cell(value) for value in row]


def rows_of(document: Mapping[str, Any]) -> Iterator[list[Any]]:
    """The values of an entry: a row for each report."""
    others = document.get("others")
    for report in (document, *(others if isinstance(others, list) else ())):
        if isinstance(report, Mapping):
            yield [document["_id"], *(report.get(name) for name in COLUMNS[1:])]


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else str(value)
