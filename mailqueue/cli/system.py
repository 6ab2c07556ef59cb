"""The verbs for the whole: vendors, stats, doctor, sweep, audit.

Decides: what a person is told about it. What is legal is decided in ``audit``, what is amiss in
``doctor``, what a round does in ``sweeper``.

Promises: as ``casework``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from mailqueue.cli import doctor
from mailqueue.cli.context import FOUND, MANY, NOT_REACHED, OK, Answer, Context, Usage
from mailqueue.cli.doctor import Level, Patient
from mailqueue.cli.table import age, fields, table
from mailqueue.config import Config, is_production
from mailqueue.consumer import build_sweeper
from mailqueue.errors import QueueUnavailable
from mailqueue.lifecycle.outcomes import Status
from mailqueue.queue import tube
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.rotation import Health, probe_wait
from mailqueue.store import audit
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.store import Store


def vendors(desk: Context) -> Answer:
    """Every vendor's state, why and since when; ``enable NAME`` makes one available by hand."""
    board = VendorHealth(desk.store, [vendor.name for vendor in desk.config.vendors])
    match desk.options.enable:
        case ["enable", name]:
            return _enable(desk, board, name)
        case [_, *_]:
            raise Usage("vendors takes nothing, or: enable NAME")
    known = board.read()
    rows = [_vendor(health, board.now(), known) for health in known.values()]
    head = ("VENDOR", "STATE", "REASON", "SINCE", "UNTIL", "PROBE")
    cells = [[row[name] for name in row] for row in rows]
    return Answer({"vendors": rows}, table(head, cells) if rows else ["no vendors configured"])


def _vendor(health: Health, now: float, known: Mapping[str, Health]) -> dict[str, Any]:
    probe = None
    if health.probe_until is not None and health.probe_until > now:
        probe = "under way"
    elif not health.available:
        wait = probe_wait(health, now, alone=not any(h.available for h in known.values()))
        probe = f"in {age(wait)}" if wait > 0 else "due: with the next e-mail"
    return {
        "vendor": health.name,
        "state": "available" if health.available else "unavailable",
        "reason": health.reason,
        "since": _time(health.since),
        "until": _time(health.unavailable_until),
        "probe": probe,
    }


def _time(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _enable(desk: Context, board: VendorHealth, name: str) -> Answer:
    dry_run = desk.options.dry_run
    if name not in board.read():
        return Answer(None, [], FOUND, [f"{name}: no such vendor is configured"])
    unavailable = not board.read()[name].available
    enabled = unavailable if dry_run else board.enable(name)
    data = {"vendor": name, "enabled": enabled, "dry_run": dry_run}
    if not enabled:
        return Answer(data, [], FOUND, [f"{name}: is available"])
    return Answer(data, [f"{name} {'would be ' if dry_run else ''}enabled"])


# Numbers ------------------------------------------------------------------------------------------


def stats(desk: Context) -> Answer:
    """How many e-mails stand where, how long the oldest waits, and what is on the tube."""
    rows = [_count(desk, status) for status in Status]
    oldest = _oldest(desk)
    jobs: Mapping[str, int] | None = None
    said: list[str] = []
    try:
        jobs = tube.depth(desk.config.beanstalkd)
    except QueueUnavailable as error:
        said = [str(error)]
    head = ("STATUS", "E-MAILS", "SIMULATED", "UNKNOWNS")
    lines = table(head, [list(row.values()) for row in rows])
    waits = f"{oldest['id']} for {age(oldest['seconds'])}" if oldest else "none"
    depth = "not reached" if jobs is None else ", ".join(f"{n} {s}" for s, n in jobs.items())
    lines += ["", *fields({"oldest due": waits, "jobs on the tube": depth})]
    data = {"emails": rows, "oldest_due": oldest, "tube": jobs}
    return Answer(data, lines, OK if jobs is not None else NOT_REACHED, said)


def _count(desk: Context, status: Status) -> dict[str, Any]:
    match = {"status": status.value}
    return {
        "status": status.value,
        "emails": desk.store.count(match, MANY),
        "simulated": desk.store.count({**match, "env": SIMULATED}, MANY),
        "unknowns": desk.store.count({**match, "unknowns": {"$gt": 0}}, MANY),
    }


def _oldest(desk: Context) -> dict[str, Any] | None:
    """The e-mail that is due for the longest time; one without ``due_at`` since its last change.

    Of those without, the oldest is looked at.
    """
    queued = {"status": Status.QUEUED.value}
    dated = desk.store.find({**queued, "due_at": {"$lte": desk.store.now()}}, 1, "due_at")
    at_once = desk.store.find({**queued, "due_at": None}, 1, "_id")
    waits: list[dict[str, Any]] = [
        {"id": str(s.id), "seconds": round((s.now - since).total_seconds(), 1)}
        for s in (*dated, *at_once)
        for since in [s.document.get("due_at") or s.document.get("updated_at")]
        if isinstance(since, datetime)
    ]
    return max(waits, key=lambda wait: wait["seconds"], default=None)


# Health of the whole ------------------------------------------------------------------------------


def examine(desk: Context) -> Answer:
    """What is amiss with the installation, and what to do about it."""
    findings = doctor.examine(Patient(desk.config, desk.file, desk.environ, desk.store))
    failed = any(finding.level is Level.FAIL for finding in findings)
    rows = [(finding.level, finding.what, finding.said) for finding in findings]
    lines = table(("", "WHAT", "FOUND"), rows)
    for n, finding in reversed(list(enumerate(findings, 1))):
        if finding.todo:
            lines.insert(n + 1, f"      -> {finding.todo}")
    data = {"ok": not failed, "findings": [asdict(finding) for finding in findings]}
    return Answer(data, lines, FOUND if failed else OK)


def sweep(desk: Context) -> Answer:
    """One round of the sweeper now, as a consumer would do it."""
    config = desk.config
    if is_production(desk.environ):
        config = Config.load(desk.file, secrets=True, environ=desk.environ)
    with build_sweeper(config) as sweeper:
        done = sweeper.preview() if desk.options.dry_run else sweeper.run_once()
    if not done:
        return Answer(None, [], FOUND, ["another process sweeps: nothing was done"])
    said = [] if "announced" in done else ["beanstalkd was not reached: nothing was announced"]
    if not is_production(desk.environ) and _waits_in_production(config):
        said = ["production's e-mails were left alone: set MAILQUEUE_ENV=production", *said]
        return Answer({"dry_run": desk.options.dry_run, **done}, [], FOUND, said)
    data = {"dry_run": desk.options.dry_run, **done}
    lines = table([name.upper() for name in done], [list(done.values())])
    return Answer(data, lines, NOT_REACHED if said else OK, said)


def _waits_in_production(config: Config) -> bool:
    """Whether a sweep of the other kind would have something to look at."""
    store = Store(config.mongodb, env=PRODUCTION)
    try:
        return store.has_work()
    finally:
        store.close()


def check(desk: Context) -> Answer:
    """Whether every e-mail is in a legal state."""
    found = audit.walk(desk.store, desk.options.grace)
    rows = [[s, found.emails[s], found.illegal[s]] for s in [*Status, *_others(found)]]
    rows.append(["total", found.emails.total(), found.illegal.total()])
    lines = table(("STATUS", "E-MAILS", "ILLEGAL"), rows)
    listed = [
        {"id": email_id, "status": status, "problems": problems}
        for email_id, status, problems in found.findings
    ]
    if listed:
        rows = [[f["id"], f["status"], problem] for f in listed for problem in f["problems"]]
        lines += ["", *table(("ID", "STATUS", "PROBLEM"), rows)]
    data = {
        "legal": not found.illegal,
        "emails": dict(found.emails),
        "illegal": dict(found.illegal),
        "findings": listed,
    }
    more = found.illegal.total() - len(listed)
    said = [f"{more} more are illegal"] if more else []
    return Answer(data, lines, FOUND if found.illegal else OK, said)


def _others(found: audit.Audit) -> list[str]:
    """What stands there as a status and is none."""
    return [status for status in found.emails if status not in list(Status)]
