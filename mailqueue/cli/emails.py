"""The verbs for single e-mails: list, show, retry, mark-sent, cancel.

Decides: what a person reads about them. What may be changed is decided in
``operations`` and ``store.interventions``.

Promises: each verb returns a ``Report`` and prints nothing. Without ``--content`` it holds no
address, subject, body or idempotency key, and no text of a vendor's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from mailqueue.cli.callbacks import rows_of
from mailqueue.cli.context import EXIT_FOUND, EXIT_OK, UNLIMITED, Context, Report, UsageError
from mailqueue.cli.control import operator
from mailqueue.cli.progress import Progress
from mailqueue.cli.table import fields, printable, table
from mailqueue.events import EventStore
from mailqueue.lifecycle.outcomes import PRIORITIES, Status
from mailqueue.monitoring.words import age, count, is_word
from mailqueue.operations import Changes, Operation
from mailqueue.store import paging
from mailqueue.store.document import PRODUCTION, Stored
from mailqueue.store.interventions import Verb

# Looking ------------------------------------------------------------------------------------------

_HEAD = ("ID", "STATUS", "REASON", "VENDOR", "TRIES", "AGE", "DUE", "ENV")


def select(context: Context) -> Report:
    """The e-mails that match, oldest first, or the newest."""
    limit, newest = context.options.limit, context.options.newest
    # One more than are shown, so that the report can say that there are more.
    if newest:
        matching = _newest(context, limit + 1)
    else:
        matching = [e for page in context.pages(context.selection(), limit + 1) for e in page]
    shown, more = matching[:limit], len(matching) > limit
    data = {"emails": [_summary(stored) for stored in shown], "more": more}
    lines = table(_HEAD, [_cells(stored) for stored in shown]) if shown else ["no e-mail matches"]
    which = "newest" if newest else "oldest"
    notes = [f"only the {which} {limit} are shown; see more with --limit N"] if more else []
    return Report(data, lines, notes=notes)


def _newest(context: Context, limit: int) -> list[Stored]:
    """The last to be stored; of e-mails of a status that is an end, the last to end."""
    store, match, status = context.store, context.selection(), context.options.status
    if status is not None and Status(status).final:
        return store.page_ended(limit, match=match)
    return store.page(limit, match=match, steps=paging.SUMMARY)


def _summary(stored: Stored) -> dict[str, Any]:
    document = stored.document
    attempts = _objects(document.get("attempts"))
    last = attempts[-1] if attempts else {}
    return {
        "id": str(stored.id),
        "status": document.get("status"),
        "reason": document.get("reason"),
        "vendor": document.get("vendor") or last.get("vendor"),
        "attempts": last.get("n", 0),
        "unknowns": document.get("unknowns"),
        "created_at": document.get("created_at"),
        "due_at": None if stored.is_held else document.get("due_at"),
        "hold": document.get("hold"),
        "env": document.get("env"),
    }


def _cells(stored: Stored) -> tuple[Any, ...]:
    """The summary in the 80 columns of a terminal; ``env`` only if it is not production."""
    summary = _summary(stored)
    return (
        *(summary[name] for name in ("id", "status", "reason", "vendor", "attempts")),
        _span(summary["created_at"], stored.now),
        "held" if stored.is_held else _span(stored.now, summary["due_at"]),
        None if summary["env"] == PRODUCTION else summary["env"],
    )


def _span(start: Any, end: Any) -> str:
    """How long from ``start`` to ``end``; empty if it is not positive, or one is no time."""
    if not (isinstance(end, datetime) and isinstance(start, datetime) and end > start):
        return ""
    return age((end - start).total_seconds())


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; anything else is damage, which ``audit`` reports."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def show(context: Context) -> Report:
    """The document of one e-mail with its ledger; its content only where it was asked for."""
    email_id, content = context.options.id, context.options.content
    if content:
        stored = context.store.read([email_id]).get(email_id)
    else:
        # This one leaves the content in MongoDB.
        stored = next(iter(context.store.find({"_id": email_id}, 1)), None)
    if stored is None:
        return Report(None, [], EXIT_FOUND, [f"{email_id}: there is no such e-mail"])
    document = {name: value for name, value in stored.document.items() if name != "now"}
    document = {"id": str(document.pop("_id")), **document}
    if not content:
        document = _without_content(document)
    store = EventStore(context.config, context.store)
    events = [_event(each, content=content) for each in store.of_email(email_id)]
    tally = store.tally(email_id) if events else {}
    lines = _document_lines(document, context.width)
    if events:
        counts = [{"events": name, **each} for name, each in tally.items()]
        lines += ["", *_rows_table(events, context.width), "", *_rows_table(counts, context.width)]
    return Report({**document, "events": events, "event_counts": tally}, lines)


def _event(event: Mapping[str, Any], *, content: bool) -> dict[str, Any]:
    """What a vendor told; whom it concerns, and its own words, are content."""
    names = ("at", "vendor", "type", "code", *(("recipient", "detail") if content else ()))
    row = {name: event.get(name) for name in names}
    if not (content or is_word(str(row["code"]))):
        row["code"] = None
    return {"event": row.pop("type"), **row}


_RECIPIENTS = ("pending", "refused", "suppressed")  # lists of addresses


def _without_content(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with recipients counted instead of named.

    An idempotency key may be anything, also an address, and so may a vendor's text quote one.
    """
    hidden = ("email", "recipients", "idempotency_key", "callback_url", *_RECIPIENTS, "detail")
    lists = {n: document[n] for n in _RECIPIENTS if isinstance(document.get(n), list)}
    counts = {f"{n}_recipients": document.get(f"{n}_count", len(v)) for n, v in lists.items() if v}
    shown = {name: value for name, value in document.items() if name not in hidden} | counts
    if "attempts" in document:
        shown["attempts"] = [_without_content(line) for line in _objects(document["attempts"])]
    if isinstance(late := document.get("late_accept"), Mapping):
        shown["late_accept"] = _without_content(late)
    return shown


# For a person ``show`` begins with what is asked for most, and leaves out what only the machine
# compares: --json has everything.
_FIRST = ("id", "status", "reason", "vendor", "vendor_message_id", "message_id", "env", "priority")
_NESTED = ("lease", "round", "pin", "announced", "late_accept", "delivery", "delivery_marks")
_MACHINES_ONLY = ("nonce", "content_hash", "overdue_at", "clock_from", "token", "answered")
_PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}


def _document_lines(document: Mapping[str, Any], width: int | None) -> list[str]:
    apart = ("attempts", "interventions", "callbacks", "email", *_NESTED, *_MACHINES_ONLY)
    plain = {name: document[name] for name in _FIRST if name in document}
    plain |= {name: value for name, value in document.items() if name not in apart}
    if isinstance(priority := document.get("priority"), int):
        plain["priority"] = _PRIORITY_NAMES.get(priority, priority)
    objects = {name: document[name] for name in _NESTED if isinstance(document.get(name), dict)}
    inner = {
        f"{name}.{part}": value
        for name, parts in objects.items()
        for part, value in parts.items()
        if part not in _MACHINES_ONLY
    }
    lines = fields(plain | inner)
    attempts = [_attempt(line) for line in _objects(document.get("attempts"))]
    callbacks = list(rows_of(document))
    for rows in (attempts, _objects(document.get("interventions")), callbacks):
        if rows:
            lines += ["", *_rows_table(rows, width)]
    email = document.get("email")
    return [*lines, "", *_content(email)] if isinstance(email, Mapping) else lines


def _attempt(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the ledger for a person: how long it took, and flags only where they are set."""
    start, end = line.get("started_at"), line.get("ended_at")
    took = None
    if isinstance(start, datetime) and isinstance(end, datetime):
        took = f"{(end - start).total_seconds():.2f} s"
    row = {"n": line.get("n"), "vendor": line.get("vendor"), "started": start, "took": took}
    times = ("started_at", "ended_at")
    return row | {n: value for n, value in line.items() if n not in times and value is not False}


def _rows_table(rows: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    """Whatever these rows have, a column for each name."""
    names = dict.fromkeys(name for row in rows for name in row if name not in _MACHINES_ONLY)
    head = [name.replace("_", " ").upper() for name in names]
    return table(head, [[row.get(name) for name in names] for row in rows], width)


def _content(email: Mapping[str, Any]) -> list[str]:
    files = [
        f"{a.get('filename')} ({a.get('content_type')}, {_size(a.get('content'))} bytes)"
        for a in _objects(email.get("attachments"))
    ]
    bodies = [name for name in ("text", "html") if email.get(name)]
    head = {n: v for n, v in email.items() if n not in ("text", "html", "attachments")}
    lines = fields(head | {"attachments": files})
    for name in bodies:
        lines += ["", f"{name}:", *map(printable, str(email[name]).splitlines())]
    return lines


def _size(content: Any) -> int | str:
    return len(content) if isinstance(content, bytes) else "?"


# Changing -----------------------------------------------------------------------------------------


def intervene(context: Context) -> Report:
    """Retry, mark as sent or cancel: e-mails by id, or by what they have in common."""
    options = context.options
    verb = Verb(options.verb)
    operation = Operation(context.store, verb, _selection(context, verb), by=operator())
    count_all = partial(operation.count, UNLIMITED)
    number: int | None = len(options.ids) or None
    if not (options.dry_run or options.ids or options.yes):
        # Whoever names ids has counted them. A filter may match more than was thought.
        number = min(count_all(), options.limit or UNLIMITED)
        if number > 1 and not _is_confirmed(context, verb, number):
            return Report(None, [], EXIT_FOUND, ["nothing was changed"])
    total = number or partial(context.count_in_time, count_all, options.limit)
    with Progress(verb, total) as progress:
        if options.dry_run:
            changes = operation.preview(options.limit, progress.advance)
        else:
            changes = operation.run(context.announcer, options.limit, progress.advance)
    return _report(context, changes, operation.refusals(options.ids, changes))


def _selection(context: Context, verb: Verb) -> dict[str, Any]:
    match, options = context.selection(), context.options
    if bool(match) == bool(options.ids):
        filters = "--status, --reason, --vendor, --to, --tag, --older-than"
        raise UsageError(f"{verb}: name e-mails either by ids or by filters ({filters})")
    if options.status and options.status not in verb.statuses:
        raise UsageError(f"{verb} needs e-mails that are {' or '.join(verb.statuses)}")
    return match or {"_id": {"$in": options.ids}}


def _is_confirmed(context: Context, verb: Verb, number: int) -> bool:
    """More than one e-mail at a time needs a person's yes."""
    if context.confirm is None:
        raise UsageError(
            f"{verb} would change {number:,} e-mails: add --yes, or try --dry-run first"
        )
    return context.confirm(f"{verb} {number:,} e-mails?")


def _report(context: Context, changes: Changes, unchanged: Mapping[str, str]) -> Report:
    dry_run, changed, uncertain = context.options.dry_run, changes.ids, changes.uncertain
    verb = changes.verb
    notes = [f"{email_id}: {reason}" for email_id, reason in unchanged.items()]
    notes += [
        f"{email_id}: a copy may have left: uncertain, not cancelled" for email_id in uncertain
    ]
    if not changed and not unchanged:
        notes.append(f"{verb}: no matching e-mail is {' or '.join(verb.statuses)}")
    if not changes.announced:
        notes.append("the queue was not reached: a consumer's sweeper announces the e-mails later")
    data = {
        "verb": verb.value,
        "dry_run": dry_run,
        "changed": [str(email_id) for email_id in changed],
        "uncertain": uncertain,
        "unchanged": unchanged,
    }
    would = "would be " if dry_run else ""
    lines = [f"{verb}: {count(len(changed), 'e-mail')} {would}changed"]
    lines += table(("ID", "WAS", "REASON", "BECOMES"), changes.rows)
    if (more := len(changed) - len(changes.rows)) > 0:
        lines.append(f"and {more:,} more: --json names all")
    # A script sees by the code that something is left to look at.
    all_done = changed and not unchanged and not uncertain
    return Report(data, lines if changed else [], EXIT_OK if all_done else EXIT_FOUND, notes)
