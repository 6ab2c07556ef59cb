"""The verb for the suppression list: add, remove, list, import, export.

Decides: what a person reads about it. What an entry is, is decided in ``store.suppressions``.

Promises: nothing is written if any of the addresses is no address. Only ``list`` and ``export``
name addresses.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mailqueue.cli import address_file
from mailqueue.cli.context import EXIT_FOUND, EXIT_OK, Context, Report, UsageError
from mailqueue.cli.progress import Progress
from mailqueue.cli.table import table
from mailqueue.errors import InvalidEmail
from mailqueue.monitoring.words import count
from mailqueue.store.suppressions import Report as Entry
from mailqueue.store.suppressions import Suppressions, entry_of, hash_of

_HEAD = tuple(name.upper() for name in address_file.COLUMNS)
_STANDARD = "-"  # standard input or output
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def suppress(context: Context) -> Report:
    """What ``mailqueue suppress ACTION`` does."""
    return _ACTIONS[context.options.action](context, Suppressions(context.store))


def _add(context: Context, suppressions: Suppressions) -> Report:
    options = context.options
    entries = _entries(options.addresses)
    if not options.dry_run:
        suppressions.add([Entry(each, options.reason, until=options.until) for each in entries])
    data = {"dry_run": options.dry_run, "added": len(entries)}
    would = "would be " if options.dry_run else ""
    line = f"{_count(len(entries))} {would}added as {options.reason}"
    return Report(data, [line], notes=_notes(context, options.reason))


def _remove(context: Context, suppressions: Suppressions) -> Report:
    dry_run, entries = context.options.dry_run, _entries(context.options.addresses)
    there = {document["_id"] for document in suppressions.documents(entries)}
    if not dry_run:
        there = suppressions.remove(entries)
    data = {"dry_run": dry_run, "removed": len(there)}
    lines = [f"{_count(len(there))} {'would be ' if dry_run else ''}removed"] if there else []
    return _with_missing(Report(data, lines), entries, [[each] for each in entries], there)


def _list(context: Context, suppressions: Suppressions) -> Report:
    """The entries, or those that concern these addresses: their domains' too."""
    options = context.options
    entries = _entries(options.addresses)
    concerned = [[each, each[each.rfind("@") :]] for each in entries]
    keys = {key for keys in concerned for key in keys}
    limit = options.limit
    documents = list(suppressions.documents(keys, reason=options.reason, limit=limit + 1))
    shown, more = documents[:limit], len(documents) > limit
    rows = [row for document in shown for row in address_file.rows_of(document)]
    data = {"suppressed": [_data(document) for document in shown], "more": more}
    lines = table(_HEAD, rows, context.width) if rows else []
    notes = [f"only {limit} are shown; see more with --limit N, all with export"] if more else []
    notes += _notes(context, "manual")
    if not rows and not entries:
        lines = ["the list is empty"]
    report = Report(data, lines, notes=notes)
    return _with_missing(report, entries, concerned, {d["_id"] for d in documents})


def _import(context: Context, suppressions: Suppressions) -> Report:
    options = context.options
    try:
        with _opened(options.file) as file, _reading(file) as progress:
            entries = address_file.read(_advancing(file, progress), options.reason)
    except OSError as error:
        raise UsageError(f"{options.file}: {error.strerror}") from None
    except address_file.Unusable as error:
        raise UsageError(f"nothing was imported:\n{error}") from None
    if not options.dry_run:
        with Progress("suppress import", len(entries)) as progress:
            suppressions.add(entries, progress.advance)
    data = {"dry_run": options.dry_run, "imported": len(entries)}
    would = "would be " if options.dry_run else ""
    reasons = {entry.reason for entry in entries}
    notes = [note for reason in sorted(reasons) for note in _notes(context, reason)]
    return Report(
        data, [f"{_count(len(entries))} {would}imported"], notes=list(dict.fromkeys(notes))
    )


def _export(context: Context, suppressions: Suppressions) -> Report:
    file = context.options.file
    if context.options.json:
        return Report({"suppressed": [_data(d) for d in suppressions.documents()]}, [])
    if file == _STANDARD:
        text = io.StringIO()
        _write(text, suppressions)
        return Report(None, text.getvalue().split("\n")[:-1])
    try:
        # For this user only: it is full of addresses.
        descriptor = os.open(file, _NEW_FILE, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            number = _write(stream, suppressions)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    return Report(None, [f"{_count(number)} exported"])


def _write(stream: io.TextIOBase, suppressions: Suppressions) -> int:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(address_file.COLUMNS)
    number = 0
    with Progress("suppress export", suppressions.count) as progress:
        for document in suppressions.documents():
            writer.writerows(address_file.lines_of(document))
            number += 1
            progress.advance(1)
    return number


def _reading(file: BinaryIO) -> Progress:
    """Whoever types the lines sees how far it is."""
    return Progress("reading", 0 if file.isatty() else None)


def _advancing(file: BinaryIO, progress: Progress) -> Iterator[bytes]:
    for line in file:
        yield line
        progress.advance(1)


_ACTIONS: Mapping[str, Callable[[Context, Suppressions], Report]] = {
    "add": _add,
    "remove": _remove,
    "list": _list,
    "import": _import,
    "export": _export,
}


def _opened(file: str) -> BinaryIO:
    return sys.stdin.buffer if file == _STANDARD else Path(file).open("rb")


def _entries(addresses: Sequence[str]) -> list[str]:
    """Their normal forms, each once. Raises ``UsageError``, which names the place of one."""
    problems, entries = [], dict[str, None]()
    for n, text in enumerate(addresses, 1):
        try:
            entries[entry_of(text, f"address {n}")] = None
        except InvalidEmail as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))
    return list(entries)


def _with_missing(
    report: Report, entries: Sequence[str], keys: Sequence[Sequence[str]], there: set[str]
) -> Report:
    """With a note for each address that is not there, by its place."""
    # Of a person who is forgotten there is a hash.
    names = [[name for each in own for name in (each, hash_of(each))] for own in keys]
    missing = [n for n, own in enumerate(names, 1) if there.isdisjoint(own)]
    notes = [f"address {n} is not on the list" for n in missing] if len(entries) > 1 else []
    if missing and not notes:
        notes = ["the address is not on the list"]
    code = EXIT_FOUND if missing else EXIT_OK
    return Report(report.data, report.lines, code, [*report.notes, *notes])


def _notes(context: Context, reason: str) -> list[str]:
    """That an entry stops nobody, if that is so."""
    settings = context.config.suppression
    if settings is None:
        return ["no consumer asks the list: the configuration has no section suppression"]
    if reason != "manual" and reason not in settings.apply:
        return [f"{reason} stops no e-mail: it is not in suppression.apply"]
    return []


def _data(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"address": document["_id"], **{n: v for n, v in document.items() if n != "_id"}}


def _count(number: int) -> str:
    return count(number, "address", "addresses")
