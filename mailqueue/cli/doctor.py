"""What is wrong with an installation, and what to do about it.

Decides: what is looked at, and how bad each finding is. The queue is looked at by ``queues``.

Assumes: a configuration that could be read.

Promises: nothing is changed, except that a new vendor gets its health document (available).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import packages_distributions

from mailqueue import vendors
from mailqueue.cli import queues
from mailqueue.cli.context import UNLIMITED, Context
from mailqueue.cli.control import describe, span
from mailqueue.config import Config, MongoDBQueue, Sqs, VendorConfig
from mailqueue.config import file as config_file
from mailqueue.config.checks import is_loopback
from mailqueue.config.section import keys_of
from mailqueue.consumer import sweeper
from mailqueue.errors import ConfigError, MissingExtra, StoreUnavailable
from mailqueue.lifecycle.outcomes import Status
from mailqueue.monitoring.finding import Finding, Level
from mailqueue.monitoring.words import age, count
from mailqueue.routing.health import VendorHealth
from mailqueue.store import clocks
from mailqueue.store import uri as mongo_uri
from mailqueue.store.control import DRAIN, Controls
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.vendors.events import load as load_events

SKEW = 5.0  # seconds between the clocks of two hosts
DAY = timedelta(days=1)
# Too many failed within a day: more than 50, or 5 and more that are over 2 % of all that ended.
FAILED_MANY, FAILED_FEW, FAILED_SHARE = 50, 5, 0.02


def examine(context: Context) -> list[Finding]:
    """Look at everything; without MongoDB, at everything outside it."""
    findings = [f for check in _OUTSIDE_MONGODB for f in check(context)]
    try:
        return findings + [f for check in _IN_MONGODB for f in check(context)]
    except StoreUnavailable as error:
        todo = "start it, or correct mongodb.uri; until then send() raises StoreUnavailable"
        return [*findings, Finding(Level.FAIL, "mongodb", f"not reached ({error})", todo)]


def _mode(context: Context) -> Iterator[Finding]:
    if context.production:
        yield Finding(Level.OK, "mode", "production")
    else:
        todo = "set MAILQUEUE_ENV=production where e-mails are to leave"
        yield Finding(Level.WARN, "mode", "simulation: nothing leaves", todo)


def _staging(context: Context) -> Iterator[Finding]:
    if (staging := context.config.staging) is not None:
        todo = "remove the section staging where e-mails are to reach everybody"
        fate = "cancelled" if staging.redirect_to is None else "redirected"
        yield Finding(Level.WARN, "staging", f"on: what is for others is {fate}", todo)


def _package(_: Context) -> Iterator[Finding]:
    """Another package of the same import name may have overwritten files of this one."""
    names = sorted(set(packages_distributions().get("mailqueue", ())))
    if len(names) > 1:
        text = f"{' and '.join(names)} both install the import name mailqueue"
        yield Finding(Level.FAIL, "package", text, "uninstall the other one, then reinstall this")


def _vendors(context: Context) -> Iterator[Finding]:
    """Whether every vendor's secrets are set: in production a consumer needs them to start.

    Those of its events are for ``mailqueue http``, which may run elsewhere.
    """
    if not context.config.vendors:
        yield Finding(Level.FAIL, "vendors", "none configured", "add one to the configuration file")
    for vendor in context.config.vendors:
        try:
            load_events(vendor)
        except (ConfigError, MissingExtra) as error:
            todo = "only mailqueue http needs it, and does not start without it"
            yield Finding(Level.WARN, "events", str(error), todo)
    level = Level.FAIL if context.production else Level.WARN
    try:
        whole = Config.load(context.file, secrets=True, environ=context.environ)
    except ConfigError as error:
        for problem in error.problems:
            todo = "set it for the consumers: in production they do not start without it"
            yield Finding(level, "secrets", problem, todo)
        return
    if whole.vendors:
        number = len(whole.vendors)
        text = f"set for all {number} vendors" if number > 1 else "set"
        yield Finding(Level.OK, "secrets", text)
    for vendor in whole.vendors:
        yield from _vendor(vendor)


def _vendor(config: VendorConfig) -> Iterator[Finding]:
    """Whether a consumer can make it, and whether its connection is encrypted."""
    try:
        vendors.load(config, simulated=False).close()
    except ConfigError as error:
        for problem in error.problems:
            todo = "correct it: in production no consumer starts until then"
            yield Finding(Level.FAIL, "vendors", problem, todo)
    if config.keys.get("tls") == "none" and not is_loopback(config.keys["host"]):
        todo = 'the network can read e-mails and the login: set "tls" to "starttls" or "implicit"'
        yield Finding(Level.WARN, "vendors", f"{config.name} is reached without TLS", todo)


def _file(context: Context) -> Iterator[Finding]:
    spelled = config_file.spells_out_secrets(config_file.read(context.file), keys_of(VendorConfig))
    if spelled and context.file.stat().st_mode & 0o004:
        todo = f"chmod o-r {context.file}, or write ${{NAME}} there and set that variable"
        yield Finding(Level.WARN, "config", "holds secrets and can be read by all", todo)
    else:
        yield Finding(Level.OK, "config", str(context.file))


# MongoDB and what is in it ------------------------------------------------------------------------


def _mongodb(context: Context) -> Iterator[Finding]:
    with context.store.operation():
        hello = context.store.client.admin.command("hello")
    yield Finding(Level.OK, "mongodb", "reached")
    # A member of a replica set names the set; the router of a cluster says "isdbgrid".
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        todo = "make it a replica set (of one node): transactions and safe retries need it"
        yield Finding(Level.WARN, "mongodb", "is a standalone server", todo)
    uri = context.config.mongodb.uri
    if weak := mongo_uri.weak_options(uri):
        todo = "remove them: every write is journaled by a majority, whatever the URI asks for"
        yield Finding(Level.WARN, "mongodb", f"{', '.join(weak)} in the URI: ignored", todo)
    yield from on_the_way(uri)


def on_the_way(uri: str) -> Iterator[Finding]:
    """Whether the way to MongoDB on another host is encrypted and verified."""
    elsewhere = not all(map(is_loopback, mongo_uri.hosts(uri)))
    if elsewhere and (problem := mongo_uri.weak_tls(uri)):
        todo = "the network can read and change e-mails: use tls=true and a CA file"
        yield Finding(Level.WARN, "mongodb", f"on another host {problem}", todo)


def _clock(context: Context) -> Iterator[Finding]:
    before = datetime.now(UTC)
    server = context.store.now()
    after = datetime.now(UTC)
    # The server looked at its clock somewhere between. Half of the span is the margin.
    ahead = (server - (before + (after - before) / 2)).total_seconds()
    if abs(ahead) - (after - before).total_seconds() / 2 > SKEW:
        direction = "ahead of" if ahead > 0 else "behind"
        text = f"MongoDB's clock is {abs(ahead):.0f} s {direction} this host's"
        yield Finding(Level.WARN, "clock", text, "synchronise the clocks of both hosts (NTP)")
    else:
        yield Finding(Level.OK, "clock", "MongoDB's clock agrees with this host's")
    apart = clocks.spread(context.store, context.config.mongodb)
    margin = context.config.delivery.margin
    if apart > min(SKEW, margin):
        level = Level.FAIL if apart > margin else Level.WARN
        text = f"the clocks of MongoDB's hosts are {apart:.0f} s apart; leases bear {margin:.0f} s"
        yield Finding(level, "clock", text, "synchronise the clocks of all its hosts (NTP)")


LONG = 60.0  # seconds, for a look at all e-mails


def _indexes(context: Context) -> Iterator[Finding]:
    alone = isinstance(context.config.broker, MongoDBQueue)
    if missing := context.store.missing_indexes(reservations=alone):
        todo = "start a consumer: it creates them, or says why the server refuses to"
        names = ", ".join(f"({name.replace(' ', ', ')})" for name in missing)
        yield Finding(Level.FAIL, "indexes", f"missing: {names}", todo)
    else:
        yield Finding(Level.OK, "indexes", "present")
    try:
        with context.store.operation(seconds=LONG):
            is_unused = context.store.keys.has_unused_index()
    except StoreUnavailable:  # so many e-mails; the checks that follow say if it is away
        text = f"idempotency_key: whether an e-mail needs it was not found out in {LONG:.0f} s"
        yield Finding(Level.WARN, "indexes", text, "run doctor again when MongoDB has less to do")
        return
    if is_unused:
        text = "idempotency_key: an index of an older version, which no e-mail needs any more"
        todo = (
            "once no producer of an older version runs, drop it: "
            f"db.{context.config.mongodb.collection}.dropIndex({{idempotency_key: 1}}); "
            "without it keys cost no index, and the collection can be sharded"
        )
        yield Finding(Level.WARN, "indexes", text, todo)


def _health(context: Context) -> Iterator[Finding]:
    health = VendorHealth(context.store, [vendor.name for vendor in context.config.vendors])
    states, now = health.refresh(), health.now()
    yield from _controls(health.controls, list(states))
    unavailable = [state for state in states.values() if not state.available]
    # As long as one is available, e-mails leave.
    level = Level.FAIL if len(unavailable) == len(states) else Level.WARN
    for state in unavailable:
        todo = f"wait for a probe, or: mailqueue vendors enable {state.name}"
        text = f"{state.name} unavailable for {age(now - (state.since or now))}: {state.reason}"
        yield Finding(level, "vendors", text, todo)
    if states and not unavailable:
        yield Finding(Level.OK, "vendors", "all available")


def _controls(controls: Controls, vendors: list[str]) -> Iterator[Finding]:
    """What an operator stopped, and may have forgotten."""
    if controls.everything or (vendors and controls.closed.issuperset(vendors)):
        word = "everything is held" if controls.everything else "every vendor is drained or held"
        todo = "mailqueue hold shows who did it and why; then release, or vendors undrain"
        yield Finding(Level.FAIL, "control", f"{word}: no e-mail is sent", todo)
        return
    for each in controls.active.values():
        text = f"{describe(each)}, by {each.by} {span(each.at)}"
        verb = "vendors undrain" if each.kind == DRAIN else f"release --{each.kind}"
        yield Finding(Level.WARN, "control", text, f"to end it: mailqueue {verb} {each.name}")


def _uncertain(context: Context) -> Iterator[Finding]:
    match = {"status": Status.UNCERTAIN.value}
    # Nothing else ends them: neither a consumer nor the sweeper touches them.
    todo = "ask the vendors, then mailqueue mark-sent or retry"
    if uncertain := context.store.count(match, UNLIMITED):
        text = f"{uncertain} uncertain: a person must decide"
        yield Finding(Level.FAIL, "e-mails", text, todo)
    else:
        yield Finding(Level.OK, "e-mails", "none uncertain")
    old = {**match, "updated_at": {"$lt": context.store.now() - DAY}}
    if waiting := context.store.count(old, UNLIMITED):
        text = f"{waiting} uncertain for more than a day"
        yield Finding(Level.WARN, "e-mails", text, todo)


def _failures(context: Context) -> Iterator[Finding]:
    """Many failures within a day have a common cause."""
    lately = {"env": context.store.env, "updated_at": {"$gte": context.store.now() - DAY}}
    failed = context.store.count({**lately, "status": Status.FAILED.value}, UNLIMITED)
    sent = context.store.count({**lately, "status": Status.SENT.value}, UNLIMITED)
    share = FAILED_SHARE * (failed + sent)
    if failed > FAILED_MANY or (failed >= FAILED_FEW and failed > share):
        todo = "mailqueue list --status failed shows the reasons; then mailqueue retry"
        text = f"{failed} failed and {sent} were sent within a day"
        yield Finding(Level.FAIL, "e-mails", text, todo)


def _consumers(context: Context) -> Iterator[Finding]:
    """Consumers sweep in turn and always one of them holds the lease: if none does, none runs."""
    now = context.store.now()
    due = {"status": Status.QUEUED.value, "due_at": {"$not": {"$gt": now}}}
    waiting = context.store.count({**due, "env": context.store.env}, UNLIMITED)
    queue = sweeper.active_queue(context.store)
    if waiting and queue is None:
        setting = "with" if context.production else "without"
        todo = f"start one: python -m mailqueue.consumer, {setting} MAILQUEUE_ENV=production"
        text = f"none runs in this mode, and {count(waiting, 'due e-mail')} cannot be sent"
        level = Level.FAIL
        if isinstance(context.config.broker, Sqs):  # AWS Lambda sweeps for a moment each minute
            level, text = Level.WARN, text + ", unless on AWS Lambda"
        yield Finding(level, "consumers", text, todo)

    elif queue and queue != (own := context.config.broker.place):
        yield _other_queue(own, queue)


def _other_queue(own: str, queue: str) -> Finding:
    """What is announced where nobody waits comes all the same, by the sweeper, but late."""
    text = f"this configuration announces on {own}; consumers wait at {queue}"
    if queue == MongoDBQueue().place:
        todo = "correct one configuration: e-mails are sent, but their jobs are never taken"
        return Finding(Level.FAIL, "queue", text, todo)
    if own.partition(",")[0] == queue.partition(",")[0]:
        todo = "if these are two names of one place, all is well; else correct one configuration"
        return Finding(Level.WARN, "queue", text, todo)
    todo = "correct one configuration: until then e-mails wait for a round of the sweeper"
    return Finding(Level.FAIL, "queue", text, todo)


def _other_kind(context: Context) -> Iterator[Finding]:
    other, setting = (SIMULATED, "without") if context.production else (PRODUCTION, "with")
    if number := context.store.count({"status": Status.QUEUED.value, "env": other}, UNLIMITED):
        todo = f"only a consumer {setting} MAILQUEUE_ENV=production takes them"
        text = f"{number} queued in the other mode ({other})"
        yield Finding(Level.WARN, "e-mails", text, todo)


_OUTSIDE_MONGODB: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    _mode,
    _staging,
    _package,
    _vendors,
    _file,
    queues.examine,
)


def _routes(context: Context) -> Iterator[Finding]:
    """E-mails whose vendors were all removed from the configuration."""
    names = [vendor.name for vendor in context.config.vendors]
    stranded = {"status": Status.QUEUED.value, "route": {"$exists": True, "$nin": names}}
    if number := context.store.count(stranded, UNLIMITED):
        todo = "configure one of them again (mailqueue show: route), or cancel the e-mails"
        text = f"{count(number, 'queued e-mail')} may go only to vendors that are not configured"
        yield Finding(Level.FAIL, "routes", text, todo)


_IN_MONGODB: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    _mongodb,
    _clock,
    _indexes,
    queues.examine_mongodb,
    _health,
    _routes,
    _uncertain,
    _failures,
    _consumers,
    _other_kind,
)
