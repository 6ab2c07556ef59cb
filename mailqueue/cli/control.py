"""The verbs that stop what consumers do, and let it go on: hold, release; drain, undrain.

Decides: what a person reads about it, and who they are. What a hold is, is decided in
``store.control``.

Promises: each verb returns a ``Report`` and prints nothing. It is known to all consumers within two
seconds of its end.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from mailqueue.cli.context import COUNT_SECONDS, EXIT_FOUND, Context, Report, UsageError
from mailqueue.cli.progress import Progress
from mailqueue.cli.table import table
from mailqueue.monitoring.words import age, count
from mailqueue.operations import announce
from mailqueue.store.control import DRAIN, Control, ControlStore
from mailqueue.store.document import Stored

_UNANNOUNCED = "the queue was not reached: a consumer's sweeper announces the e-mails later"


def hold(context: Context) -> Report:
    """Let e-mails wait; without a choice, show what is held."""
    control = _chosen(context)
    if control is None:
        return _list(context)
    return begin(context, control)


def begin(context: Context, control: Control) -> Report:
    """Hold or drain."""
    controls = ControlStore(context.store)
    if context.options.dry_run:
        begun = control.id not in controls.read().active
    else:
        begun = controls.begin(control)  # first, since to count a long queue may take too long
    number = controls.count_concerned(control)
    data = {**_row(control), "begun": begun, "emails": number, "dry_run": context.options.dry_run}
    del data["since"]
    if not begun:
        return Report(data, [], EXIT_FOUND, [f"{describe(control)} already"])
    lines = [describe(control, "would be" if context.options.dry_run else "is")]
    # Those of a vendor are not known before their turn.
    if control.kind not in ("vendor", DRAIN) and number is not None:
        lines[0] += f": {count(number, 'e-mail')} queued"
    return Report(data, lines)


def release(context: Context) -> Report:
    """Let e-mails go on that a hold keeps."""
    control = _chosen(context)
    if control is None:
        raise UsageError("release: name what is held: --all, --tag, --priority or --vendor")
    return end(context, control)


def end(context: Context, control: Control) -> Report:
    """End a hold or a drain, and announce what waited for that."""
    controls, dry_run = ControlStore(context.store), context.options.dry_run
    # One whose end was interrupted left its e-mails waiting: they are looked for again.
    if control.id not in controls.read().active and (
        dry_run or not controls.count(control.hold, 1)
    ):
        return Report(None, [], EXIT_FOUND, [describe(control, "is not")])
    number = controls.count_waiting(control)
    unannounced = 0
    if not dry_run:
        moved = None if control.kind == "all" else number  # under ``all`` they stay as they are
        with Progress("undrain" if control.kind == DRAIN else "release", moved) as progress:
            unannounced = controls.release(control, partial(_announce, context, progress))
    data = {"control": control.id, "ended": not dry_run, "emails": number, "dry_run": dry_run}
    would = "would go on" if dry_run else ("goes on" if number in (1, None) else "go on")
    emails = "what waited" if number is None else count(number, "e-mail")
    lines = [f"{control.subject}: {emails} {would}"]
    return Report(data, lines, notes=[_UNANNOUNCED] if unannounced else [])


def _announce(context: Context, progress: Progress, page: Sequence[Stored]) -> int:
    """Put their jobs; returns how many could not be put."""
    unannounced = announce(context.announcer, page)
    progress.advance(len(page))
    return unannounced


def _chosen(context: Context) -> Control | None:
    """The control that the options name."""
    options = context.options
    reason = getattr(options, "reason", None) or ""
    if options.all:
        return Control("all", by=operator(), reason=reason)
    for kind in ("tag", "priority", "vendor"):
        if name := getattr(options, kind):
            _check(context, kind, name)
            return Control(kind, name, by=operator(), reason=reason)
    return None


def _check(context: Context, kind: str, name: str) -> None:
    """A hold of a vendor that there is not would hold nothing."""
    names = [vendor.name for vendor in context.config.vendors]
    if context.options.verb == "hold" and kind == "vendor" and name not in names:
        raise UsageError(f"hold: no such vendor is configured (configured: {', '.join(names)})")


def operator() -> str:
    """Who this is, for those who read it later."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"


def describe(control: Control, would: str = "is") -> str:
    """In words: ``vendor ses is drained``."""
    return f"{control.subject} {would} {control.state}"


# Looking ------------------------------------------------------------------------------------------


def rows(context: Context, active: Mapping[str, Control]) -> list[dict[str, Any]]:
    """All that is held or drained, and how many e-mails wait for it.

    ``due``: those that no consumer has seen since; None: that was not found out.
    """
    controls = ControlStore(context.store)
    each_hold = {control.hold: control for control in active.values()}
    numbers = {name: controls.count_waiting(control) for name, control in each_hold.items()}
    return [
        {
            **_row(each),
            "waiting": numbers[each.hold],
            "due": controls.count_due(each, COUNT_SECONDS),
        }
        for each in active.values()
    ]


def _row(control: Control) -> dict[str, Any]:
    names = {"control": control.id, "kind": control.kind, "name": control.name}
    return {**names, "since": control.at, "by": control.by, "reason": control.reason}


def facts(control: Control | None) -> dict[str, Any] | None:
    """Since when, by whom and why; None: there is none."""
    if control is None:
        return None
    return {"since": control.at, "by": control.by, "reason": control.reason}


def _list(context: Context) -> Report:
    documents = ControlStore(context.store).documents()
    active = ControlStore(context.store).read().active
    shown = rows(context, active)
    history = [
        {"control": str(document["_id"]), **{n: entry.get(n) for n in _HISTORY}}
        for document in documents
        for entry in _entries(document)
    ]
    data = {"held": shown, "history": history}
    if not shown:
        return Report(data, ["nothing is held"])
    head = ("HELD", "SINCE", "E-MAILS", "DUE", "BY", "REASON")
    cells = [
        (row["control"], span(row["since"]), row["waiting"], row["due"], row["by"], row["reason"])
        for row in shown
    ]
    return Report(data, table(head, cells, context.width))


_HISTORY = ("verb", "at", "by", "reason")


def _entries(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    entries = document.get("history")
    return [each for each in entries if isinstance(each, Mapping)] if entries else []


def span(since: datetime | None) -> str | None:
    """How long ago."""
    return None if since is None else f"{age((datetime.now(UTC) - since).total_seconds())} ago"
