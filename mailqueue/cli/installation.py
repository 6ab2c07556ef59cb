"""What is wrong with an installation, and what to do about it.

Decides: what is looked at beside the state of the whole (``monitoring.situations``), and how bad
each finding is. The queue is looked at by ``queues``.

Assumes: a configuration that could be read.

Promises: nothing is changed. Writes that match nothing are tried, to find out the user's rights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import packages_distributions
from operator import attrgetter

from mailqueue import vendors
from mailqueue.cli import queues
from mailqueue.cli.context import UNLIMITED, Context
from mailqueue.config import MongoDBQueue, VendorConfig
from mailqueue.config import file as config_file
from mailqueue.config.checks import is_loopback
from mailqueue.config.section import keys_of
from mailqueue.consumer import sweeper
from mailqueue.errors import ConfigError, MissingExtra, StoreUnavailable
from mailqueue.lifecycle.outcomes import Status
from mailqueue.monitoring.finding import Finding, Level, Slug
from mailqueue.monitoring.overview import Overview
from mailqueue.monitoring.situations import situations
from mailqueue.monitoring.words import count
from mailqueue.store import clocks, rights
from mailqueue.store import uri as mongo_uri
from mailqueue.store.document import PRODUCTION
from mailqueue.store.store import Store
from mailqueue.vendors.events import load as load_events

DISTRIBUTION = "mailqueue"
SKEW = 5.0  # seconds between the clocks of two hosts
# Of these a closer look has more to say than an overview.
CLOSER = frozenset({Slug.QUEUE_UNAVAILABLE, Slug.BURIED_JOBS})
# These are the same in production and in a simulation.
SHARED = CLOSER | {Slug.HELD, Slug.OTHER_MODE}
_EASY = "none is uncertain"


def examine(context: Context) -> list[Finding]:
    """Look at everything, the worst first; without MongoDB, at everything outside it."""
    outside = [f for check in _OUTSIDE_MONGODB for f in check(context)]
    inside: list[Finding] = []
    try:
        for check in _IN_MONGODB:
            inside += check(context)
        # Who looked closer at something has named the server, say: that is not said twice.
        named = {finding.slug for finding in (*outside, *inside)} & CLOSER
        findings = [f for f in _state(context) if f.slug not in named] + inside + outside
    except StoreUnavailable as error:
        todo = "start it, or correct mongodb.uri; until then send() raises StoreUnavailable"
        text = f"not reached ({error})"
        away = Finding(Level.FAIL, "mongodb", text, todo, Slug.MONGODB_UNAVAILABLE)
        # To a user without rights it answers nothing else.
        refused = [finding for finding in inside if finding.slug is Slug.MONGODB_RIGHTS]
        findings = [*(refused or [away]), *outside]
    return sorted(findings, key=attrgetter("place"))


def _state(context: Context) -> Iterator[Finding]:
    """What is wrong with the whole, or that all is well."""
    overviews = _overviews(context)
    findings: list[Finding] = []
    for overview in overviews:
        prefix = _prefix(context, overview)
        slugs = {finding.slug for finding in findings} & SHARED
        findings += [
            finding if finding.slug in SHARED else replace(finding, text=prefix + finding.text)
            for finding in situations(overview, context.config)
            if finding.slug not in slugs
        ]
    yield from findings
    topics = {finding.check for finding in findings}
    easy = _EASY + (", none has waited for long" if overviews[0].knows_oldest_due else "")
    texts = {"consumers": f"{len(overviews[0].consumers)} alive", "e-mails": easy}
    texts |= {"vendors": "all available"} if overviews[0].vendors else {}
    for check in [each for each in texts if each not in topics]:
        yield Finding(Level.OK, check, _prefix(context, overviews[0]) + texts[check])


def _prefix(context: Context, overview: Overview) -> str:
    return "" if overview.env == context.store.env else "in production: "


def _overviews(context: Context) -> list[Overview]:
    """Production is looked at from a shell without MAILQUEUE_ENV, too: it is easily forgotten.

    Then nothing is said of a simulation that nobody uses.
    """
    own = Overview.read(context.config, context.store)
    if context.production:
        return [own]
    store = Store(
        context.config.mongodb,
        env=PRODUCTION,
        client=context.store.client,
        callbacks=context.config.callbacks,
    )
    production = Overview.read(context.config, store)
    return [each for each in (production, own) if _is_used(each)] or [own]


def _is_used(overview: Overview) -> bool:
    is_in_trouble = not all(vendor.available for vendor in overview.vendors)
    return bool(overview.consumers) or any(overview.emails.values()) or is_in_trouble


def _mode(context: Context) -> Iterator[Finding]:
    if context.production:
        yield Finding(Level.OK, "mode", "production")
    else:
        todo = "set MAILQUEUE_ENV=production where e-mails are to leave"
        yield Finding(Level.WARN, "mode", "simulation: nothing leaves", todo, Slug.SIMULATION)


def _staging(context: Context) -> Iterator[Finding]:
    if (staging := context.config.staging) is not None:
        todo = "remove the section staging where e-mails are to reach everybody"
        fate = "cancelled" if staging.redirect_to is None else "redirected"
        text = f"on: what is for others is {fate}"
        yield Finding(Level.WARN, "staging", text, todo, Slug.STAGING)


def _package(_: Context) -> Iterator[Finding]:
    """Another package of the same import name may have overwritten files of this one."""
    # Of an installation that can be edited (pip install -e) it is not known what it claims.
    names = sorted({DISTRIBUTION, *packages_distributions().get("mailqueue", ())})
    if len(names) > 1:
        text = f"{' and '.join(names)} both install the import name mailqueue"
        todo = "uninstall the other one, then reinstall this"
        yield Finding(Level.FAIL, "package", text, todo, Slug.TWO_PACKAGES)


def _vendors(context: Context) -> Iterator[Finding]:
    """Whether every vendor can be made: in production a consumer needs them all to start."""
    names = [vendor.name for vendor in context.config.vendors]
    if not names:
        todo = "add one to the configuration file"
        yield Finding(Level.FAIL, "vendors", "none configured", todo, Slug.VENDOR_NOT_MADE)
    problems = [finding for name in names for finding in _secrets(context, name)]
    yield from problems
    if names and not problems:
        text = f"set for all {len(names)} vendors" if len(names) > 1 else "set"
        yield Finding(Level.OK, "secrets", text)
    for vendor in context.config.vendors:
        yield from _events(vendor)


def _secrets(context: Context, name: str) -> Iterator[Finding]:
    try:
        config = context.vendor(name, secrets=True)
    except ConfigError as error:
        level = Level.FAIL if context.production else Level.WARN
        for problem in error.problems:
            todo = "set it for the consumers: in production they do not start without it"
            yield Finding(level, "secrets", problem, todo, Slug.SECRETS)
    else:
        yield from _vendor(config)


def _vendor(config: VendorConfig) -> Iterator[Finding]:
    """Whether a consumer can make it, and whether its connection is encrypted."""
    try:
        vendors.load(config, simulated=False).close()
    except ConfigError as error:
        for problem in error.problems:
            todo = "correct it: in production no consumer starts until then"
            yield Finding(Level.FAIL, "vendors", problem, todo, Slug.VENDOR_NOT_MADE)
    if config.keys.get("tls") == "none" and not is_loopback(config.keys["host"]):
        todo = 'the network can read e-mails and the login: set "tls" to "starttls" or "implicit"'
        text = f"{config.name} is reached without TLS"
        yield Finding(Level.WARN, "vendors", text, todo, Slug.CONFIGURATION)


def _events(config: VendorConfig) -> Iterator[Finding]:
    """The secrets of its events are for ``mailqueue http``, which may run elsewhere."""
    try:
        load_events(config)
    except (ConfigError, MissingExtra) as error:
        todo = "only mailqueue http needs it, and does not start without it"
        yield Finding(Level.WARN, "events", str(error), todo, Slug.SECRETS)


def _file(context: Context) -> Iterator[Finding]:
    spelled = config_file.spells_out_secrets(config_file.read(context.file), keys_of(VendorConfig))
    if spelled and context.file.stat().st_mode & 0o004:
        todo = f"chmod o-r {context.file}, or write ${{NAME}} there and set that variable"
        text = "holds secrets and can be read by all"
        yield Finding(Level.WARN, "config", text, todo, Slug.CONFIGURATION)
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
        text = "is a standalone server"
        yield Finding(Level.WARN, "mongodb", text, todo, Slug.MONGODB_SETTINGS)
    uri = context.config.mongodb.uri
    if weak := mongo_uri.weak_options(uri):
        todo = "remove them: every write is journaled by a majority, whatever the URI asks for"
        text = f"{', '.join(weak)} in the URI: ignored"
        yield Finding(Level.WARN, "mongodb", text, todo, Slug.MONGODB_SETTINGS)
    yield from on_the_way(uri)


def on_the_way(uri: str) -> Iterator[Finding]:
    """Whether the way to MongoDB on another host is encrypted and verified."""
    elsewhere = not all(map(is_loopback, mongo_uri.hosts(uri)))
    if elsewhere and (problem := mongo_uri.weak_tls(uri)):
        todo = "the network can read and change e-mails: use tls=true and a CA file"
        text = f"on another host {problem}"
        yield Finding(Level.WARN, "mongodb", text, todo, Slug.MONGODB_SETTINGS)


def _rights(context: Context) -> Iterator[Finding]:
    """Whether the user of the URI may write: to some operators one is given that may only read."""
    todo = "give it the role readWrite on the database, or look with the configuration of consumers"
    levels = {Level.FAIL: rights.ESSENTIAL, Level.WARN: rights.FURTHER}
    for level, needed in levels.items():
        missing = rights.find_missing(context.store, needed)
        if missing:
            names = ", ".join(f"{name} ({' and '.join(each)})" for name, each in missing.items())
            text = f"its user may not write to {names}"
            yield Finding(level, "mongodb", text, todo, Slug.MONGODB_RIGHTS)


def _clock(context: Context) -> Iterator[Finding]:
    before = datetime.now(UTC)
    server = context.store.now()
    after = datetime.now(UTC)
    # The server looked at its clock somewhere between. Half of the span is the margin.
    ahead = (server - (before + (after - before) / 2)).total_seconds()
    if abs(ahead) - (after - before).total_seconds() / 2 > SKEW:
        direction = "ahead of" if ahead > 0 else "behind"
        text = f"MongoDB's clock is {abs(ahead):.0f} s {direction} this host's"
        todo = "synchronise the clocks of both hosts (NTP)"
        yield Finding(Level.FAIL, "clock", text, todo, Slug.CLOCKS)
    else:
        yield Finding(Level.OK, "clock", "MongoDB's clock agrees with this host's")
    apart = clocks.spread(context.store, context.config.mongodb)
    margin = context.config.delivery.margin
    if apart > min(SKEW, margin):
        text = f"the clocks of MongoDB's hosts are {apart:.0f} s apart; leases bear {margin:.0f} s"
        todo = "synchronise the clocks of all its hosts (NTP)"
        yield Finding(Level.FAIL, "clock", text, todo, Slug.CLOCKS)


LONG = 60.0  # seconds, for a look at all e-mails


def _indexes(context: Context) -> Iterator[Finding]:
    alone = isinstance(context.config.broker, MongoDBQueue)
    if missing := context.store.missing_indexes(reservations=alone):
        todo = "start a consumer: it creates them, or says why the server refuses to"
        names = ", ".join(f"({name.replace(' ', ', ')})" for name in missing)
        yield Finding(Level.FAIL, "indexes", f"missing: {names}", todo, Slug.INDEXES)
    else:
        yield Finding(Level.OK, "indexes", "present")
    try:
        with context.store.operation(seconds=LONG):
            is_unused = context.store.keys.has_unused_index()
    except StoreUnavailable:  # so many e-mails; the checks that follow say if it is away
        text = f"idempotency_key: whether an e-mail needs it was not found out in {LONG:.0f} s"
        todo = "run doctor again when MongoDB has less to do"
        yield Finding(Level.WARN, "indexes", text, todo, Slug.INDEXES)
        return
    if is_unused:
        text = "idempotency_key: an index of an older version, which no e-mail needs any more"
        todo = (
            "once no producer of an older version runs, drop it: "
            f"db.{context.config.mongodb.collection}.dropIndex({{idempotency_key: 1}}); "
            "without it keys cost no index, and the collection can be sharded"
        )
        yield Finding(Level.WARN, "indexes", text, todo, Slug.INDEXES)


def _consumers(context: Context) -> Iterator[Finding]:
    """Whether consumers wait where this configuration announces."""
    queue = sweeper.active_queue(context.store)
    if queue and queue != (own := context.config.broker.place):
        yield _other_queue(own, queue)


def _other_queue(own: str, queue: str) -> Finding:
    """What is announced where nobody waits comes all the same, by the sweeper, but late."""
    text = f"this configuration announces on {own}; consumers wait at {queue}"
    if queue == MongoDBQueue().place:
        todo = "correct one configuration: e-mails are sent, but their jobs are never taken"
        return Finding(Level.FAIL, "queue", text, todo, Slug.OTHER_QUEUE)
    if own.partition(",")[0] == queue.partition(",")[0]:
        todo = "if these are two names of one place, all is well; else correct one configuration"
        return Finding(Level.WARN, "queue", text, todo, Slug.OTHER_QUEUE)
    todo = "correct one configuration: until then e-mails wait for a round of the sweeper"
    return Finding(Level.FAIL, "queue", text, todo, Slug.OTHER_QUEUE)


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
        yield Finding(Level.FAIL, "routes", text, todo, Slug.ROUTES)


_IN_MONGODB: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    _mongodb,
    _rights,
    _clock,
    _indexes,
    queues.examine_mongodb,
    _routes,
    _consumers,
)
