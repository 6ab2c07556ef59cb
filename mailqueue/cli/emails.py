"""The verbs for single e-mails: list, show, retry, mark-sent, cancel.

Decides: what a person is told about them. What may be changed and how is in ``interventions``.

Promises: each verb returns an ``Answer`` and prints nothing. Without ``--content`` an answer holds
no address, subject, body or idempotency key, and not what a vendor said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import ObjectId

from mailqueue.cli.context import FOUND, MANY, OK, Answer, Context, Usage
from mailqueue.cli.table import age, fields, printable, table
from mailqueue.queue.tube import Announcement
from mailqueue.store import ids, interventions
from mailqueue.store.document import Stored
from mailqueue.store.interventions import Verb

# Looking ------------------------------------------------------------------------------------------

_LISTED = ("id", "status", "reason", "vendor", "attempts", "unknowns", "created_at", "due_at")


def listed(desk: Context) -> Answer:
    """The e-mails that match, oldest first."""
    options = desk.options
    found = [s for page in desk.pages(desk.selection(), options.limit + 1) for s in page]
    shown = found[: options.limit]
    rows = [_row(stored) for stored in shown]
    if not rows:
        return Answer({"emails": [], "more": False}, ["no e-mail matches"])
    more = len(found) > len(shown)
    said = [f"there are more than these {len(shown)}: --limit N"] if more else []
    head = ("ID", "STATUS", "REASON", "VENDOR", "ATTEMPTS", "UNKNOWNS", "AGE", "DUE IN", "ENV")
    cells = [
        (
            *(row[name] for name in _LISTED[:6]),
            _span(stored.now, row["created_at"]),
            _span(row["due_at"], stored.now),
            row["env"],
        )
        for stored, row in zip(shown, rows, strict=True)
    ]
    return Answer({"emails": rows, "more": more}, table(head, cells), said=said)


def _span(end: Any, start: Any) -> str:
    """How long from ``start`` to ``end``; nothing where that is not so, or one is no time."""
    if not (isinstance(end, datetime) and isinstance(start, datetime) and end > start):
        return ""
    return age((end - start).total_seconds())


def _row(stored: Stored) -> dict[str, Any]:
    kept = stored.document
    lines = _rows(kept.get("attempts"))
    last = lines[-1] if lines else {}
    return {
        "id": str(stored.id),
        "status": kept.get("status"),
        "reason": kept.get("reason"),
        "vendor": kept.get("vendor") or last.get("vendor"),
        "attempts": last.get("n", 0),
        "unknowns": kept.get("unknowns"),
        "created_at": kept.get("created_at"),
        "due_at": kept.get("due_at"),
        "env": kept.get("env"),
    }


def _rows(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; what is damaged is for ``audit`` to say."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def show(desk: Context) -> Answer:
    """The whole record of one e-mail with its ledger; its content only where it was asked for."""
    email_id, content = desk.options.id, desk.options.content
    if content:
        stored = desk.store.read([email_id]).get(email_id)
    else:
        stored = next(iter(desk.store.find({"_id": email_id}, 1)), None)
    if stored is None:
        return Answer(None, [], FOUND, [f"{email_id}: there is no such e-mail"])
    kept = {name: value for name, value in stored.document.items() if name != "now"}
    kept = {"id": str(kept.pop("_id")), **kept}
    if not content:
        kept = _without_content(kept)
    return Answer(kept, _shown(kept))


def _without_content(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Recipients are counted instead; an application may have put anything into its key.

    What a vendor said may quote what we do not recognise.
    """
    hidden = ("email", "idempotency_key", "pending", "refused", "detail")
    lists = {n: kept[n] for n in ("pending", "refused") if isinstance(kept.get(n), list)}
    counts = {f"{n}_recipients": kept.get(f"{n}_count", len(v)) for n, v in lists.items() if v}
    shown = {name: value for name, value in kept.items() if name not in hidden} | counts
    if "attempts" in kept:
        shown["attempts"] = [_without_content(line) for line in _rows(kept["attempts"])]
    if isinstance(late := kept.get("late_accept"), Mapping):
        shown["late_accept"] = _without_content(late)
    return shown


def _shown(kept: Mapping[str, Any]) -> list[str]:
    inside = ("lease", "round", "pin", "announced", "late_accept")
    apart = ("attempts", "interventions", "email", *inside)
    record = {name: value for name, value in kept.items() if name not in apart}
    objects = {name: kept[name] for name in inside if isinstance(kept.get(name), dict)}
    inner = {f"{name}.{part}": v for name, parts in objects.items() for part, v in parts.items()}
    lines = fields(record | inner)
    for title in ("attempts", "interventions"):
        if rows := _rows(kept.get(title)):
            lines += ["", *_table_of(rows)]
    email = kept.get("email")
    return [*lines, "", *_content(email)] if isinstance(email, Mapping) else lines


def _table_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whatever these rows have, one column for each name that has a value somewhere."""
    given = (n for row in rows for n, value in row.items() if value not in (None, "", []))
    names = [name for name in dict.fromkeys(given) if name != "nonce"]
    return table([n.upper() for n in names], [[row.get(name) for name in names] for row in rows])


def _content(email: Mapping[str, Any]) -> list[str]:
    files = [
        f"{a.get('filename')} ({a.get('content_type')}, {_size(a.get('content'))} bytes)"
        for a in _rows(email.get("attachments"))
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


def intervene(desk: Context) -> Answer:
    """Retry, mark as sent or cancel: e-mails by id, or by what they have in common."""
    options = desk.options
    verb = Verb(options.verb)
    match = _chosen(desk, verb)
    allowed = {"$and": [match, interventions.guard(verb)]}
    if not options.dry_run and not options.ids:
        number = min(desk.store.count(allowed, MANY), options.limit or MANY)
        if number > 1 and not _confirmed(desk, verb, number):
            return Answer(None, [], FOUND, ["nothing was changed"])
    changed: list[Stored] = []
    announced = 0
    for page in desk.pages(allowed, options.limit):
        done = page if options.dry_run else _change(desk, verb, page)
        changed += done
        if verb is Verb.RETRY and not options.dry_run:
            what = [Announcement(stored.id, stored.job_priority) for stored in done]
            announced += len(desk.announcer.announce(what))
    return _changed(desk, verb, changed, announced)


def _chosen(desk: Context, verb: Verb) -> dict[str, Any]:
    match = desk.selection()
    if bool(match) == bool(desk.options.ids):
        raise Usage(f"{verb}: name e-mails by id, or by --status, --reason, --vendor, --older-than")
    if desk.options.status and desk.options.status not in verb.statuses:
        raise Usage(f"{verb} takes e-mails that are {' or '.join(verb.statuses)}")
    return match or {"_id": {"$in": desk.options.ids}}


def _confirmed(desk: Context, verb: Verb, number: int) -> bool:
    """More than one e-mail at a time needs a person's yes."""
    if desk.options.yes:
        return True
    if desk.confirm is None:
        raise Usage(f"{verb}: this would change {number} e-mails: say --yes, or first --dry-run")
    return desk.confirm(f"{verb} {number} e-mails?")


def _change(desk: Context, verb: Verb, page: Sequence[Stored]) -> list[Stored]:
    done = desk.store.intervene([stored.id for stored in page], verb, ids.new())
    return [stored for stored in page if stored.id in done]


def _changed(desk: Context, verb: Verb, changed: Sequence[Stored], announced: int) -> Answer:
    options = desk.options
    kept_back = _refused(desk, verb, {stored.id for stored in changed})
    unsure = _unsure(changed) if verb is Verb.CANCEL else []
    said = [f"{email_id}: {why}" for email_id, why in kept_back.items()]
    said += [f"{email_id}: a copy may have left: uncertain, not cancelled" for email_id in unsure]
    if not changed and not kept_back:
        said.append(f"{verb}: no such e-mail is {' or '.join(verb.statuses)}")
    if verb is Verb.RETRY and not options.dry_run and announced < len(changed):
        said.append("beanstalkd was not reached: the sweeper will announce what was not")
    data = {
        "verb": verb.value,
        "dry_run": options.dry_run,
        "changed": [str(stored.id) for stored in changed],
        "uncertain": unsure,
        "unchanged": kept_back,
    }
    would = "would be " if options.dry_run else ""
    rows = [(str(s.id), s.document.get("status"), s.document.get("reason")) for s in changed]
    lines = [f"{len(changed)} {would}changed ({verb})", *table(("ID", "WAS", "REASON"), rows)]
    failed = bool(kept_back or unsure) or not changed
    return Answer(data, lines if changed else [], FOUND if failed else OK, said)


def _unsure(changed: Sequence[Stored]) -> list[str]:
    """Those that a cancel leaves uncertain."""
    return [
        str(s.id)
        for s in changed
        if s.document.get("unknowns") != 0 or s.document.get("pin") is not None
    ]


def _refused(desk: Context, verb: Verb, changed: set[ObjectId]) -> dict[str, str]:
    """The e-mails asked for by id that were not changed, and why."""
    left = [email_id for email_id in desk.options.ids if email_id not in changed]
    found = {s.id: s for s in desk.store.find({"_id": {"$in": left}}, len(left))} if left else {}
    return {str(one): interventions.refusal(verb, found.get(one)) for one in left}
