"""The verbs for the whole: vendors, stats, sweep, audit.

Decides: what a person reads about it. What is legal is decided in ``store.audit``, and
what a round does in ``consumer.sweeper``.

Promises: each verb returns a ``Report`` and prints nothing; it holds nothing of an e-mail but its
id and status.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from mailqueue.cli import control
from mailqueue.cli.context import (
    EXIT_FOUND,
    EXIT_NOT_REACHED,
    EXIT_OK,
    UNLIMITED,
    Context,
    Report,
    UsageError,
)
from mailqueue.cli.progress import Progress
from mailqueue.cli.table import fields, table
from mailqueue.config import Config
from mailqueue.consumer import build_sweeper
from mailqueue.errors import QueueUnavailable
from mailqueue.lifecycle.outcomes import Status
from mailqueue.monitoring.overview import VendorState, look_at_queue, oldest_due, vendor_states
from mailqueue.monitoring.words import age
from mailqueue.queue import events_depth, refuse_memory
from mailqueue.routing.health import VendorHealth
from mailqueue.store import audit
from mailqueue.store.control import Control
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.stats import Stats
from mailqueue.store.store import Store


def vendors(context: Context) -> Report:
    """Every vendor's state, why and since when; or one is changed by hand."""
    match context.options.action:
        case ["enable", name]:
            return _enable(context, name)
        case ["drain" | "undrain" as verb, name]:
            return _drain(context, verb, name)
        case [_, *_]:
            raise UsageError("vendors takes nothing, or: enable, drain or undrain NAME")
    # Also from a shell without MAILQUEUE_ENV: nobody asks about those of a simulation.
    states, _ = vendor_states(context.config, context.store, PRODUCTION)
    if not states:
        return Report({"vendors": []}, ["no vendors configured"])
    data, now = {"vendors": [_vendor(state) for state in states]}, context.store.now().timestamp()
    head: tuple[str, ...] = ("VENDOR", "STATE", "REASON", "SINCE", "UNTIL", "PROBE", "CLOSED")
    if any(row["rate"] for row in data["vendors"]):
        head = (*head, "WAIT", "BUDGETS")
    rows = [(*_state(row, now), *_limits(row["rate"], now))[: len(head)] for row in data["vendors"]]
    return Report(data, table(head, rows, context.width))


def _drain(context: Context, verb: str, name: str) -> Report:
    drain = Control("drain", name, by=control.operator(), reason=context.options.reason or "")
    names = [vendor.name for vendor in context.config.vendors]
    if verb == "undrain":  # also one that the configuration has no more
        return control.end(context, drain)
    if name not in names:
        return _no_such_vendor(name, names)
    return control.begin(context, drain)


def _no_such_vendor(name: str, names: Iterable[str]) -> Report:
    configured = ", ".join(names) or "none"
    note = f"{name}: no such vendor is configured (configured: {configured})"
    return Report(None, [], EXIT_FOUND, [note])


def _vendor(state: VendorState) -> dict[str, Any]:
    probe = "under way" if state.probing else None
    if probe is None and (wait := state.probe_wait) is not None:
        probe = f"in {age(wait)}" if wait > 0 else "with the next e-mail"
    return {
        "vendor": state.name,
        "state": "available" if state.available else "unavailable",
        "reason": state.reason,
        "since": state.since,
        "until": state.until,
        "probe": probe,
        "drained": control.facts(state.drained),
        "held": control.facts(state.held),
        "rate": None
        if state.rate_wait is None
        else {"wait": state.rate_wait, "budgets": _budgets(state)},
    }


def _budgets(state: VendorState) -> dict[str, Any]:
    return {f"per_{name}": asdict(budget) for name, budget in state.budgets.items()}


def _state(row: Mapping[str, Any], now: float) -> tuple[Any, ...]:
    """The row for a person, with spans instead of times."""
    since, until = row["since"], row["until"]
    return (
        *(row["vendor"], row["state"], row["reason"]),
        since and f"{age(now - since.timestamp())} ago",
        until and (f"in {age(until.timestamp() - now)}" if until.timestamp() > now else "over"),
        row["probe"],
        ", ".join(
            f"{word} by {facts['by']} {control.span(facts['since'])}: {facts['reason']}".rstrip(
                ": "
            )
            for word in ("drained", "held")
            if (facts := row[word])
        ),
    )


def _limits(rate: Mapping[str, Any] | None, now: float) -> tuple[str | None, str | None]:
    """The next send time of a limited vendor, and what is used of its budgets."""
    if rate is None:
        return None, None
    return age(rate["wait"]) if rate["wait"] else None, _budget_text(rate["budgets"], now)


def _budget_text(budgets: Mapping[str, Any], now: float) -> str:
    return "; ".join(
        f"{b['used']:,} of {b['limit']:,} {name}, ends in {age(b['until'].timestamp() - now)}"
        for name, b in budgets.items()
    )


def _enable(context: Context, name: str) -> Report:
    health = VendorHealth(context.store, [vendor.name for vendor in context.config.vendors])
    dry_run, states = context.options.dry_run, health.refresh()
    if name not in states:
        return _no_such_vendor(name, states)
    enabled = not states[name].available if dry_run else health.enable(name)
    data = {"vendor": name, "enabled": enabled, "dry_run": dry_run}
    if not enabled:
        return Report(data, [], EXIT_FOUND, [f"{name} is available already"])
    return Report(data, [f"{name} would be available" if dry_run else f"{name} is available now"])


# Numbers ------------------------------------------------------------------------------------------


def stats(context: Context) -> Report:
    """How many e-mails there are in each status, how long the oldest waits, the jobs."""
    rows = [_counts(context, status) for status in Status]
    oldest = _oldest_due(context.store)
    states, controls = vendor_states(context.config, context.store, PRODUCTION)
    # MongoDB's numbers are worth showing also without the queue. The exit code tells a script.
    jobs, events, notes = _jobs(context)
    head = ("STATUS", "E-MAILS", "SIMULATED", "UNKNOWN")
    lines = table(head, [list(row.values()) for row in rows])
    waits = f"{oldest['id']}, for {age(oldest['seconds'])}" if oldest else "none"
    shown: dict[str, Any] = {"oldest e-mail due": waits, "queue": context.config.broker.place}
    shown["jobs on the queue"] = "not reached" if notes else _depth(jobs)
    if events and any(events.values()):  # else nobody may use it
        shown["events for mailqueue intake"] = _depth(events)
    if closed := control.rows(context, controls.active):
        shown["held or drained"] = [f"{row['control']} ({_waits(row)})" for row in closed]
    budgets = {state.name: used for state in states if (used := _budgets(state))}
    now = context.store.now().timestamp()
    shown |= {f"budget of {name}": _budget_text(used, now) for name, used in budgets.items()}
    lines += ["", *fields(shown)]
    data: dict[str, Any] = {"queue": context.config.broker.place, "tube": jobs, "intake": events}
    data |= {"emails": rows, "oldest_due": oldest, "held": closed, "budgets": budgets}
    return Report(data, lines, EXIT_NOT_REACHED if notes else EXIT_OK, notes)


def _jobs(context: Context) -> tuple[Mapping[str, int] | None, Mapping[str, int] | None, list[str]]:
    """Jobs and events by state, and why they are not known."""
    jobs, error = look_at_queue(context.config)
    if error:
        return None, None, [error]
    try:
        return jobs or None, events_depth(context.config, store=context.store), []
    except QueueUnavailable as unavailable:
        return jobs, None, [str(unavailable)]


def _waits(row: Mapping[str, Any]) -> str:
    return f"{row['waiting']} wait" + (f", {row['due']} more are due" if row["due"] else "")


def _depth(jobs: Mapping[str, int] | None) -> str:
    if jobs is None:
        return "none: consumers look for what is due"
    return ", ".join(f"{n} {s}" for s, n in jobs.items())


def _counts(context: Context, status: Status) -> dict[str, Any]:
    match = {"status": status.value}
    return {
        "status": status.value,
        "emails": context.store.count(match, UNLIMITED),
        "simulated": context.store.count({**match, "env": SIMULATED}, UNLIMITED),
        "unknowns": context.store.count({**match, "unknowns": {"$gt": 0}}, UNLIMITED),
    }


def _oldest_due(store: Store) -> dict[str, Any] | None:
    """The e-mail of either mode that has been due for the longest time."""
    each = (o for env in (PRODUCTION, SIMULATED) for o in oldest_due(store, env).values() if o)
    oldest = max(each, key=lambda each: each.seconds, default=None)
    if oldest is None:
        return None
    return {"id": str(oldest.id), "seconds": round(oldest.seconds, 1)}


# Health of the whole ------------------------------------------------------------------------------


def health(context: Context) -> Report:
    """Whether a consumer on this host gave a sign of life of late."""
    options, host = context.options, socket.gethostname()
    beats = Stats(context.store, context.store.env).consumers(options.max_age)
    mine = [beat for beat in beats if options.anywhere or beat.host == host]
    newest = max(mine, key=lambda beat: beat.at, default=None)
    data = {"alive": newest is not None, "consumers": [asdict(beat) for beat in mine]}
    if newest is None:
        where = "" if options.anywhere else f" on {host}"
        note = f"no {context.store.env} consumer{where} gave a sign of life within "
        return Report(data, [], EXIT_FOUND, [note + age(options.max_age)])
    seconds = (context.store.now() - newest.at).total_seconds()
    return Report(data, [f"{newest.owner} gave a sign of life {age(max(0.0, seconds))} ago"])


def sweep(context: Context) -> Report:
    """One round of the sweeper now, as a consumer would do it."""
    config, dry_run = context.config, context.options.dry_run
    refuse_memory(config)
    if context.production:  # a round plans e-mails for vendors, which then need their secrets
        config = Config.load(context.file, secrets=True, environ=context.environ)
    with build_sweeper(config) as sweeper:
        if dry_run:
            counts = sweeper.preview()
        else:
            with Progress("sweep", None) as progress:
                sweeper.advance = progress.advance
                counts = sweeper.run_once()
    if not counts:
        return Report(None, [], EXIT_FOUND, ["skipped: another process holds the sweeper lease"])
    data = {"dry_run": dry_run, **counts}
    lines = table([name.upper() for name in counts], [list(counts.values())])
    code, notes = EXIT_OK, []
    if "announced" not in counts:
        code, notes = EXIT_NOT_REACHED, ["the queue was not reached: nothing was announced"]
    # Easily forgotten in a shell, and otherwise the round looks like a success.
    if not context.production and _waits_in_production(config):
        note = "only simulated e-mails were swept: for the others set MAILQUEUE_ENV=production"
        code, notes = EXIT_FOUND, [note, *notes]
    return Report(data, lines, code, notes)


def _waits_in_production(config: Config) -> bool:
    """Whether a sweep in production would have something to look at."""
    store = Store(config.mongodb, env=PRODUCTION, callbacks=config.callbacks)
    try:
        return store.has_work()
    finally:
        store.close()


def check(context: Context) -> Report:
    """Whether every e-mail is in a legal state."""
    with Progress("audit", context.store.estimate) as progress:
        result = audit.walk(context.store, context.options.grace, advance=progress.advance)
    # A damaged document may have any text as its status.
    statuses = [*Status, *(status for status in result.emails if status not in list(Status))]
    rows = [[s, result.emails[s], result.illegal[s]] for s in statuses]
    rows.append(["total", result.emails.total(), result.illegal.total()])
    lines = table(("STATUS", "E-MAILS", "ILLEGAL"), rows)
    findings = [
        {"id": email_id, "status": status, "problems": problems}
        for email_id, status, problems in result.findings
    ]
    if findings:
        rows = [[f["id"], f["status"], problem] for f in findings for problem in f["problems"]]
        lines += ["", *table(("ID", "STATUS", "PROBLEM"), rows, context.width)]
    data = {
        "legal": not result.illegal,
        "emails": dict(result.emails),
        "illegal": dict(result.illegal),
        "findings": findings,
    }
    more = result.illegal.total() - len(findings)
    notes = [f"{more} more are illegal"] if more else []
    return Report(data, lines, EXIT_FOUND if result.illegal else EXIT_OK, notes)
