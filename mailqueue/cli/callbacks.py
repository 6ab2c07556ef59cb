"""The verb for callbacks: which are due or have failed, and trying them again.

Decides: what a person reads about them: the event, what came of the last post, and when it is
posted next. No URL, which may hold a secret: of that only the host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from mailqueue.cli.context import (
    EXIT_FOUND,
    EXIT_OK,
    UNLIMITED,
    Context,
    Report,
    UsageError,
)
from mailqueue.cli.progress import Progress
from mailqueue.cli.table import table
from mailqueue.monitoring.words import count
from mailqueue.store import callbacks as writes
from mailqueue.store.callbacks import FAILED, GONE
from mailqueue.store.document import Stored

_HEAD = ("ID", "TYPE", "STATE", "HOST", "CODE", "TRIES", "AT", "NEXT")


def callbacks(context: Context) -> Report:
    """What ``mailqueue callbacks ACTION`` does."""
    return _list(context) if context.options.action == "list" else _retry(context)


def rows_of(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The callbacks of an e-mail; anything else in the list is damage."""
    entries = document.get("callbacks")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping):
            names = ("id", "type", "state", "code", "tries", "at", "due_at", "ended_at")
            yield {name: entry.get(name) for name in names}


def _list(context: Context) -> Report:
    options = context.options
    rows: list[dict[str, Any]] = []
    for page in context.pages({"callbacks.state": options.state}, None):
        rows += [row for stored in page for row in _rows(context, stored, options.state)]
        if len(rows) > options.limit:
            break
    shown, more = rows[: options.limit], len(rows) > options.limit
    cells = [[*(row[name.lower()] for name in _HEAD[:-1]), row["due_at"]] for row in shown]
    lines = table(_HEAD, cells, context.width) if shown else [f"no callback is {options.state}"]
    notes = [f"only {options.limit} are shown; see more with --limit N"] if more else []
    return Report({"callbacks": shown, "more": more}, lines, notes=notes)


def _rows(context: Context, stored: Stored, state: str) -> Iterator[dict[str, Any]]:
    own = stored.document.get("callback_url")
    url = own if isinstance(own, str) else context.config.callbacks.url or ""
    for row in rows_of(stored.document):
        if row["state"] == state:
            more = {"callback": row["id"], "id": str(stored.id), "host": urlsplit(url).hostname}
            yield row | more


def _retry(context: Context) -> Report:
    """Have callbacks posted again at once: of e-mails by id, or all that are in a state."""
    options = context.options
    if not options.ids and not options.state:
        raise UsageError("callbacks retry: name e-mails by ids, or callbacks by --state")
    states = [options.state] if options.state else [FAILED, GONE]
    state = " or ".join(states)
    match: dict[str, Any] = {"callbacks.state": {"$in": states}}
    if options.ids:
        match["_id"] = {"$in": options.ids}
    counts: Counter[str] = Counter()
    count_all = partial(context.store.count, match, UNLIMITED)
    number: int | None = None
    if not (options.ids or options.dry_run or options.yes):
        number = count_all()
        _confirm(context, number, state)
    total = partial(context.count_in_time, count_all) if number is None else number
    with Progress("callbacks retry", total) as progress:
        for page in context.pages(match, None):
            for stored in page:
                rows = rows_of(stored.document)
                counts[str(stored.id)] = sum(row["state"] in states for row in rows)
            if not options.dry_run:
                write = writes.retry_write([stored.id for stored in page], states)
                context.store.bulk.write([write], context.store.timeout)
            progress.advance(len(page))
    missing = [str(each) for each in options.ids if str(each) not in counts]
    would = "would be " if options.dry_run else ""
    line = f"{count(counts.total(), 'callback')} {would}posted again"
    notes = [f"{each}: has no callback that is {state}" for each in missing]
    if not counts and not missing:
        notes.append(f"no callback is {state}")
    data = {"dry_run": options.dry_run, "retried": dict(counts), "unchanged": missing}
    code = EXIT_OK if counts and not missing else EXIT_FOUND
    return Report(data, [line] if counts else [], code, notes)


def _confirm(context: Context, number: int, state: str) -> None:
    """More than one e-mail at a time needs a person's yes."""
    if number <= 1:
        return
    what = f"callbacks of {number} e-mails that are {state}"
    if context.confirm is None:
        raise UsageError(f"retry would post {what} again: add --yes, or try --dry-run first")
    if not context.confirm(f"post {what} again?"):
        raise UsageError("nothing was changed")
