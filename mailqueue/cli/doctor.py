"""What is wrong with an installation, and what to do about it.

Decides: what is looked at, and how bad each finding is: ``FAIL`` keeps e-mails from being sent or
waits for a person, ``WARN`` weakens what is promised or will surprise somebody.

Assumes: a configuration that could be read.

Promises: nothing is changed, but that a new vendor gets its (open) health document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import packages_distributions
from pathlib import Path

from mailqueue import vendors
from mailqueue.cli.context import MANY
from mailqueue.cli.table import age
from mailqueue.config import Config, VendorConfig, is_production
from mailqueue.config import file as config_file
from mailqueue.config.checks import is_loopback
from mailqueue.config.section import keys_of
from mailqueue.consumer import sweeper
from mailqueue.errors import ConfigError, QueueUnavailable, StoreUnavailable
from mailqueue.lifecycle.outcomes import Status
from mailqueue.queue import tube
from mailqueue.routing.health import VendorHealth
from mailqueue.store import uri as mongo_uri
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.store import Store

SKEW = 5.0
DAY = timedelta(days=1)
# So many failed within a day are too many, or so large a part of all that ended, if it is a few.
FAILED, FAILED_PART, FAILED_FEW = 50, 0.02, 5


class Level(StrEnum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``todo``: what a person can do about it."""

    level: Level
    what: str
    said: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined."""

    config: Config
    file: Path
    environ: Mapping[str, str]
    store: Store


def examine(patient: Patient) -> list[Finding]:
    """Look at everything; what cannot be looked at without MongoDB is left out when it is away."""
    findings = [f for check in _OUTSIDE_MONGODB for f in check(patient)]
    try:
        return findings + [f for check in _IN_MONGODB for f in check(patient)]
    except StoreUnavailable as error:
        todo = "start it, or correct mongodb.uri; producers raise StoreUnavailable meanwhile"
        return [*findings, Finding(Level.FAIL, "mongodb", f"not reached ({error})", todo)]


def _mode(patient: Patient) -> Iterator[Finding]:
    if is_production(patient.environ):
        yield Finding(Level.OK, "mode", "production")
    else:
        todo = "set MAILQUEUE_ENV=production where e-mails are to leave"
        yield Finding(Level.WARN, "mode", "simulation: nothing leaves", todo)


def _installed(_: Patient) -> Iterator[Finding]:
    """Other packages may bring an import name ``mailqueue``, and overwrite files of this one."""
    names = sorted(set(packages_distributions().get("mailqueue", ())))
    if len(names) > 1:
        said = f"{' and '.join(names)} both install the import name mailqueue"
        yield Finding(Level.FAIL, "package", said, "uninstall the other one, then reinstall this")


def _vendors(patient: Patient) -> Iterator[Finding]:
    """Whether every vendor's secrets are there; a consumer does not start without in production."""
    if not patient.config.vendors:
        yield Finding(Level.FAIL, "vendors", "none configured", "name at least one in the file")
    level = Level.FAIL if is_production(patient.environ) else Level.WARN
    try:
        whole = Config.load(patient.file, secrets=True, environ=patient.environ)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding(level, "secrets", problem, "a consumer in production needs it")
        return
    if whole.vendors:
        yield Finding(Level.OK, "secrets", f"there, of {len(whole.vendors)} vendors")
    for vendor in whole.vendors:
        yield from _vendor(vendor)


def _vendor(config: VendorConfig) -> Iterator[Finding]:
    """Whether it can be made, as a consumer makes it, and whether others can listen."""
    try:
        vendors.load(config, simulated=False).close()
    except ConfigError as error:
        for problem in error.problems:
            yield Finding(Level.FAIL, "vendors", problem, "no consumer in production starts so")
    if config.keys.get("tls") == "none" and not is_loopback(config.keys["host"]):
        todo = "others on the way can read e-mails and login: use starttls or implicit"
        yield Finding(Level.WARN, "vendors", f"{config.name} is reached without TLS", todo)


def _file(patient: Patient) -> Iterator[Finding]:
    spelled = config_file.spells_out_secrets(config_file.read(patient.file), keys_of(VendorConfig))
    if spelled and patient.file.stat().st_mode & 0o004:
        todo = "chmod o-r, or name environment variables as ${NAME} instead"
        yield Finding(Level.WARN, "config", "holds secrets and can be read by all", todo)
    else:
        yield Finding(Level.OK, "config", str(patient.file))


# beanstalkd ---------------------------------------------------------------------------------------


def _beanstalkd(patient: Patient) -> Iterator[Finding]:
    for server in patient.config.beanstalkd.servers:
        try:
            connection = tube.Connection(server, patient.config.beanstalkd.tube)
            try:
                numbers, jobs = connection.server(), connection.stats()
                paused = connection.tube().get("pause-time-left", 0)
            finally:
                connection.close()
        except QueueUnavailable as error:
            todo = "start it; e-mails are stored meanwhile and announced later, but none is sent"
            yield Finding(Level.FAIL, f"beanstalkd {server}", f"not reached ({error})", todo)
            continue
        yield Finding(Level.OK, f"beanstalkd {server}", f"reached, {jobs['ready']} jobs ready")
        yield from _weak(f"beanstalkd {server}", numbers, jobs)
        if paused:
            todo = "somebody paused it with a beanstalkd client: pause-tube it for 0 s"
            said = f"the tube is paused for {age(float(paused))}: no consumer gets a job"
            yield Finding(Level.WARN, f"beanstalkd {server}", said, todo)


def _weak(
    what: str, numbers: Mapping[str, int | str], jobs: Mapping[str, int]
) -> Iterator[Finding]:
    if numbers.get("binlog-current-index") == 0:
        todo = "start it with -b DIR; until then the sweeper announces anew after a restart"
        yield Finding(Level.WARN, what, "has no binlog", todo)
    if numbers.get("draining") in ("true", True):
        yield Finding(Level.WARN, what, "is draining: it takes no jobs", "restart it")
    if jobs["buried"]:
        todo = "look at them with a beanstalkd client; they are foreign or unreadable"
        yield Finding(Level.WARN, what, f"{jobs['buried']} jobs are buried", todo)


# MongoDB and what is in it ------------------------------------------------------------------------


def _mongodb(patient: Patient) -> Iterator[Finding]:
    with patient.store.reached():
        hello = patient.store.client.admin.command("hello")
    yield Finding(Level.OK, "mongodb", "reached")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        todo = "make it a replica set, also of one node: it alone has transactions and safe retries"
        yield Finding(Level.WARN, "mongodb", "is a standalone server", todo)
    uri = patient.config.mongodb.uri
    if weak := mongo_uri.weak_options(uri):
        todo = "leave them out: mailqueue writes to a majority's journal whatever they say"
        yield Finding(Level.WARN, "mongodb", f"{', '.join(weak)} in the URI: ignored", todo)
    yield from on_the_way(uri)


def on_the_way(uri: str) -> Iterator[Finding]:
    """Whether others on the way to MongoDB can listen."""
    elsewhere = not all(map(is_loopback, mongo_uri.hosts(uri)))
    if elsewhere and (problem := mongo_uri.unverified(uri)):
        todo = "others on the way can read and change e-mails: use tls=true and a CA file"
        yield Finding(Level.WARN, "mongodb", f"on another host {problem}", todo)


def _clock(patient: Patient) -> Iterator[Finding]:
    before = datetime.now(UTC)
    server = patient.store.now()
    after = datetime.now(UTC)
    ahead = (server - (before + (after - before) / 2)).total_seconds()
    if abs(ahead) - (after - before).total_seconds() / 2 > SKEW:
        said = f"MongoDB's is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
        yield Finding(Level.WARN, "clock", said, "have both hosts synchronise their clocks")
    else:
        yield Finding(Level.OK, "clock", "MongoDB's agrees with this host's")


def _indexes(patient: Patient) -> Iterator[Finding]:
    missing = patient.store.missing_indexes()
    todo = "start a consumer: it creates what is missing, or says why the server refuses to"
    for name in missing:
        yield Finding(Level.FAIL, "indexes", f"none on {name.replace(' ', ', ')}", todo)
    if not missing:
        yield Finding(Level.OK, "indexes", "there")


def _health(patient: Patient) -> Iterator[Finding]:
    board = VendorHealth(patient.store, [vendor.name for vendor in patient.config.vendors])
    unavailable = [health for health in board.read().values() if not health.available]
    todo = "see `mailqueue vendors`; it is available again when a probe succeeds"
    for health in unavailable:
        since = age(board.now() - (health.since or board.now()))
        level = Level.FAIL if len(unavailable) == len(board.read()) else Level.WARN
        said = f"{health.name} unavailable for {since}: {health.reason}"
        yield Finding(level, "vendors", said, todo)
    if patient.config.vendors and not unavailable:
        yield Finding(Level.OK, "vendors", "all available")


def _uncertain(patient: Patient) -> Iterator[Finding]:
    match = {"status": Status.UNCERTAIN.value}
    todo = "ask the vendors whether they have them, then `mailqueue retry` or `mark-sent`"
    if uncertain := patient.store.count(match, MANY):
        said = f"{uncertain} uncertain, for a person to decide"
        yield Finding(Level.FAIL, "e-mails", said, todo)
    else:
        yield Finding(Level.OK, "e-mails", "none uncertain")
    old = {**match, "updated_at": {"$lt": patient.store.now() - DAY}}
    if waiting := patient.store.count(old, MANY):
        said = f"{waiting} uncertain for more than a day"
        yield Finding(Level.WARN, "e-mails", said, todo)


def _failed(patient: Patient) -> Iterator[Finding]:
    """Many that failed within a day are no accident of single e-mails."""
    lately = {"env": patient.store.env, "updated_at": {"$gte": patient.store.now() - DAY}}
    failed = patient.store.count({**lately, "status": Status.FAILED.value}, MANY)
    sent = patient.store.count({**lately, "status": Status.SENT.value}, MANY)
    if failed > FAILED or (failed >= FAILED_FEW and failed > FAILED_PART * (failed + sent)):
        todo = "see `mailqueue list --status failed` for the reasons, then `mailqueue retry`"
        said = f"{failed} failed within a day, {sent} were sent"
        yield Finding(Level.FAIL, "e-mails", said, todo)


def _consumers(patient: Patient) -> Iterator[Finding]:
    """Every consumer sweeps, one at a time by a lease: without it, there is none."""
    now = patient.store.now()
    due = {"status": Status.QUEUED.value, "due_at": {"$not": {"$gt": now}}}
    waiting = patient.store.count({**due, "env": patient.store.env}, MANY)
    if waiting and not sweeper.is_leased(patient.store):
        todo = "start one: python -m mailqueue.consumer, with the same MAILQUEUE_ENV"
        said = f"{waiting} e-mails are due and no consumer of this kind is running"
        yield Finding(Level.FAIL, "consumers", said, todo)


def _other_kind(patient: Patient) -> Iterator[Finding]:
    other = SIMULATED if is_production(patient.environ) else PRODUCTION
    match = {"status": Status.QUEUED.value, "env": other}
    if n := patient.store.count(match, MANY):
        todo = f"only a consumer of that kind sends them ({other}): set MAILQUEUE_ENV accordingly"
        yield Finding(Level.WARN, "e-mails", f"{n} queued are of the other kind", todo)


_OUTSIDE_MONGODB: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    _mode,
    _installed,
    _vendors,
    _file,
    _beanstalkd,
)
_IN_MONGODB: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    _mongodb,
    _clock,
    _indexes,
    _health,
    _uncertain,
    _failed,
    _consumers,
    _other_kind,
)
