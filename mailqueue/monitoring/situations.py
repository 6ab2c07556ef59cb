"""What is wrong with the state of an installation. Pure.

Decides: which situations there are, from what on each counts, and how bad it is. What does not
stand in an ``Overview`` (files, packages, indexes, settings of servers) is looked at by ``doctor``.

Assumes: all e-mails are of the overview's kind (``env``).

Promises: nothing of an e-mail, and no vendor's words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from mailqueue import __version__
from mailqueue.config import Config, Sqs
from mailqueue.lifecycle.outcomes import Outcome, Status
from mailqueue.monitoring.controls import end_of
from mailqueue.monitoring.finding import Finding, Level, Slug
from mailqueue.monitoring.overview import ENDED, Overview, VendorState
from mailqueue.monitoring.words import age, count, span
from mailqueue.routing.pace import LOW
from mailqueue.store.callbacks import FAILED
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.stats import ALIVE, Heartbeat

HOUR, DAY = 3600.0, 86_400.0
OVERDUE = {"high": 60.0}  # seconds by class: what is due for longer waits for something
OVERDUE_OTHERS = 300.0
FAILED_MANY, FAILED_SHARE = 50, 0.02  # within a day; more than either is too much
UNAVAILABLE_LONG = HOUR
FORGOTTEN = DAY  # a hold that is older may be forgotten
NAMED = 3  # consumers in one finding

Findings = Iterator[Finding]


def situations(overview: Overview, config: Config) -> Findings:
    """All that is wrong; nothing where all is well."""
    for situation in _SITUATIONS:
        yield from situation(overview, config)


def _setting(overview: Overview) -> str:
    return f"{'with' if overview.env == PRODUCTION else 'without'} MAILQUEUE_ENV=production"


def _no_consumer(overview: Overview, config: Config) -> Findings:
    if overview.consumers:
        return
    waits = [oldest.seconds for oldest in overview.oldest_due.values() if oldest is not None]
    todo = f"start one {_setting(overview)}: python -m mailqueue.consumer"
    # Not "none runs": one that may not write its heartbeat sends all the same.
    level, text = Level.FAIL, f"none gave a sign of life for {span(ALIVE)}"
    if waits:
        text += f", and e-mails are due, the oldest for {age(max(waits))}"
    elif not overview.knows_oldest_due:
        text += ", and whether e-mails are due was not found out in time"
    else:
        level, text = Level.WARN, f"{text}: if none runs, what is stored from now on waits"
    if isinstance(config.broker, Sqs):  # on AWS Lambda there is a consumer only now and then
        level, text = Level.WARN, f"{text}; all is well if AWS Lambda sends them"
    yield Finding(level, "consumers", text, todo, Slug.NO_CONSUMER)


def _oldest_due(overview: Overview, _: Config) -> Findings:
    late = [
        f"{name} for {age(oldest.seconds)}"
        for name, oldest in overview.oldest_due.items()
        if oldest is not None and oldest.seconds > OVERDUE.get(name, OVERDUE_OTHERS)
    ]
    if late:
        todo = "mend what else is found here; if nothing is, run more consumers"
        text = f"due for too long, the oldest of class {', '.join(late)}"
        yield Finding(Level.FAIL, "e-mails", text, todo, Slug.OLDEST_DUE)


# Vendors ------------------------------------------------------------------------------------------


def _all_vendors(overview: Overview, _: Config) -> Findings:
    """An e-mail leaves as long as there is one vendor to send it to."""
    problems = [_problem(vendor) for vendor in overview.vendors]
    if problems and all(problems) and not overview.controls.everything:  # ``_held`` tells that
        reasons = ", ".join(
            f"{vendor.name} is {problem}"
            for vendor, problem in zip(overview.vendors, problems, strict=True)
        )
        todo = "mailqueue vendors says why; mend one of them, or add another"
        text = f"no vendor to send through: {reasons}"
        yield Finding(Level.FAIL, "vendors", text, todo, Slug.ALL_VENDORS_UNAVAILABLE)


def _problem(vendor: VendorState) -> str:
    """Why it gets no e-mail; empty if it does."""
    if vendor.drained:
        return "drained"
    if vendor.held:
        return "held"
    if not vendor.available:
        return "unavailable"
    spent = any(budget.used >= budget.limit for budget in vendor.budgets.values())
    return "at the end of its budget" if spent else ""


def _unavailable(overview: Overview, _: Config) -> Findings:
    for vendor in overview.vendors:
        if vendor.available:
            continue
        seconds = _seconds(overview, vendor.since)
        level = Level.FAIL if seconds >= UNAVAILABLE_LONG else Level.WARN
        reason = vendor.reason or "no reason is stored"
        outcome = reason.partition(" ")[0]
        reason = reason.removeprefix(f"{Outcome.UNAVAILABLE} ")  # that it is so is said already
        text = f"{vendor.name} unavailable for {age(seconds)}: {reason}"
        todo = _CURES.get(outcome, _CURE).format(name=vendor.name)
        yield Finding(level, "vendors", text, todo, Slug.VENDOR_UNAVAILABLE)


_CURE = "it is tried by itself: see its status page; after mending: mailqueue vendors enable {name}"
_CURES: Mapping[str, str] = {
    Outcome.MISCONFIGURED: "mend its key, account or quota, then: mailqueue vendors enable {name}",
    Outcome.THROTTLED: "it is tried by itself; give it a rate, so that it is not asked too often",
}


def _budgets(overview: Overview, _: Config) -> Findings:
    for vendor in overview.vendors:
        for window, budget in vendor.budgets.items():
            if 100 * budget.used < LOW * budget.limit:
                continue
            used = f"{budget.used:,} of its {budget.limit:,} per {window}"
            ends = age((budget.until - overview.at).total_seconds())
            text = f"{vendor.name} has used {used}; a new {window} begins in {ends}"
            others = len(overview.vendors) > 1
            then = "the others get its e-mails then" if others else "e-mails wait then"
            todo = f"{then}; raise its rate if the contract has more"
            yield Finding(Level.WARN, "vendors", text, todo, Slug.BUDGET)


def _held(overview: Overview, _: Config) -> Findings:
    """What an operator stopped, and may have forgotten."""
    for control in overview.controls.active.values():
        seconds = _seconds(overview, control.at)
        who = control.by or "a person"
        text = f"{control.subject} has been {control.state} for {age(seconds)}, by {who}"
        level = Level.WARN
        if control.kind == "all":
            level, text = Level.FAIL, f"{text}: no e-mail is sent"
        if seconds > FORGOTTEN:
            text += "; forgotten?"
        todo = f"to end it: {end_of(control).command}"
        yield Finding(level, "control", text, todo, Slug.HELD)


def _seconds(overview: Overview, since: datetime | None) -> float:
    return 0.0 if since is None else max(0.0, (overview.at - since).total_seconds())


# E-mails that ended -------------------------------------------------------------------------------


def _many_failed(overview: Overview, _: Config) -> Findings:
    """Many failures within a day have a common cause."""
    failed = overview.failed
    if failed > FAILED_MANY or failed > FAILED_SHARE * overview.ended:
        sent = overview.ended - failed
        text = f"{_at_least(failed)} failed and {_at_least(sent)} were sent within a day"
        todo = "mailqueue list --status failed shows why; mend the cause, then mailqueue retry"
        yield Finding(Level.FAIL, "e-mails", text, todo, Slug.MANY_FAILED)


def _at_least(number: int) -> str:
    """It was not counted further than ``ENDED``."""
    return f"{number:,}{' or more' if number >= ENDED else ''}"


def _uncertain(overview: Overview, _: Config) -> Findings:
    """Nothing else ends them: neither a consumer nor the sweeper touches them."""
    if number := overview.emails.get(Status.UNCERTAIN, 0):
        oldest = overview.uncertain_oldest
        wait = f", the oldest for {age(oldest.seconds)}" if oldest else ""
        text = f"{number:,} uncertain{wait}: a person must decide"
        todo = "mailqueue list --status uncertain; ask the vendors, then mark-sent or retry each"
        yield Finding(Level.FAIL, "e-mails", text, todo, Slug.UNCERTAIN)


def _other_mode(overview: Overview, _: Config) -> Findings:
    if overview.other_env:
        other, word = (SIMULATED, "without") if overview.env == PRODUCTION else (PRODUCTION, "with")
        text = f"{count(overview.other_env, 'e-mail')} queued in the other mode ({other})"
        todo = f"only a consumer {word} MAILQUEUE_ENV=production takes them"
        yield Finding(Level.WARN, "e-mails", text, todo, Slug.OTHER_MODE)


def _callbacks(overview: Overview, config: Config) -> Findings:
    oldest = overview.callback_oldest
    text = ""
    if oldest is not None and oldest.seconds > OVERDUE_OTHERS:
        nobody = "no responder has ever run here, and a" if not overview.callbacks else "the oldest"
        text = f"{nobody} callback has been due for {age(oldest.seconds)}"
    elif config.callbacks.url is not None and not overview.callbacks:
        text = "no responder has ever run here, and callbacks.url is set"
    if text:
        todo = f"start one {_setting(overview)}: mailqueue responder"
        yield Finding(Level.WARN, "callbacks", text, todo, Slug.CALLBACKS_DUE)
    if number := overview.callbacks.get(FAILED, 0):
        text = f"callbacks of {count(number, 'e-mail')} failed: an application was not told"
        todo = "mend the receiver, then: mailqueue callbacks retry --state failed"
        yield Finding(Level.WARN, "callbacks", text, todo, Slug.CALLBACKS_FAILED)


# Around them --------------------------------------------------------------------------------------


def _queue_unavailable(overview: Overview, config: Config) -> Findings:
    if overview.queue is None:
        text = f"{config.broker.place}: not reached ({overview.queue_error})"
        todo = "start it; until then e-mails are stored, and sent when it is back"
        yield Finding(Level.FAIL, "queue", text, todo, Slug.QUEUE_UNAVAILABLE)


def _buried_jobs(overview: Overview, config: Config) -> Findings:
    if buried := (overview.queue or {}).get("buried", 0):
        text = f"{config.broker.place}: {count(buried, 'buried job')}"
        todo = "they are another program's, or their e-mail is damaged: see mailqueue audit"
        yield Finding(Level.WARN, "queue", text, todo, Slug.BURIED_JOBS)


def _consumers_differ(overview: Overview, config: Config) -> Findings:
    """Consumers that do not do what this installation and this configuration would do."""
    own = tuple(sorted(vendor.name for vendor in config.vendors))
    versions, vendors = defaultdict(list), defaultdict(list)
    for each in overview.consumers:
        if each.version != __version__:
            versions[each.version].append(each)
        if tuple(sorted(each.vendors)) != own:
            vendors[tuple(sorted(each.vendors))].append(each)
    for version, some in versions.items():
        text = f"version {version} runs on {_hosts(some)}; this is {__version__}"
        todo = "upgrade what is older: docs/operating.md has the order"
        yield Finding(Level.WARN, "consumers", text, todo, Slug.CONSUMER_DIFFERS)
    for names, some in vendors.items():
        text = f"those on {_hosts(some)} send through {_names(names)}; this configuration has"
        todo = "systemctl reload them, or look here with their configuration"
        yield Finding(Level.WARN, "consumers", f"{text} {_names(own)}", todo, Slug.CONSUMER_DIFFERS)


def _hosts(consumers: Sequence[Heartbeat]) -> str:
    hosts = sorted({each.host for each in consumers})
    more = f" and {len(hosts) - NAMED} more" if len(hosts) > NAMED else ""
    return ", ".join(hosts[:NAMED]) + more


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "no vendor"


# What stops all e-mails before what follows from that, then what concerns some of them, then what
# will surprise somebody.
_SITUATIONS: tuple[Callable[[Overview, Config], Findings], ...] = (
    _no_consumer,
    _all_vendors,
    _queue_unavailable,
    _oldest_due,
    _unavailable,
    _many_failed,
    _uncertain,
    _buried_jobs,
    _held,
    _budgets,
    _consumers_differ,
    _callbacks,
    _other_mode,
)
