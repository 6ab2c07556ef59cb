"""The configuration: frozen dataclasses, from a JSON file, a mapping or keyword arguments.

Decides: every section and key with its type, default, range and meaning. They are data on the
fields, from which docs/configuration.md is made. Also the clocks that follow from the deadline of
an attempt and the timeout of MongoDB.

Assumes: a mapping is what a file would hold, so ``${NAME}`` is replaced in its strings (``file``).
A section that is an object already is used as it is.

Promises: a Config that exists is valid. Every problem is reported in one ConfigError, once per key,
with the key's path and never its value. No repr shows a vendor's keys, an address or MongoDB's URI.
Nothing is connected to.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, TypedDict, Unpack

from mailqueue.config import checks, dicts
from mailqueue.config import file as config_file
from mailqueue.config.callbacks import Callbacks
from mailqueue.config.keys import Problems
from mailqueue.config.queue import LONGEST_TTR, Beanstalkd, QueueSettings, Sqs, queue_of
from mailqueue.config.rates import Rate
from mailqueue.config.routes import Route
from mailqueue.config.section import Section, key, keys_of, section_list, section_of
from mailqueue.config.services import Http, Smtp, Staging, Suppression
from mailqueue.config.vendor_types import VENDOR_TYPES, vendor_type
from mailqueue.logs import event

READABLE_BY_ALL = "config.exposed"  # log event: a file with secrets in it

_log = logging.getLogger(__name__)
_HOUR, _DAY, _MIB = 3600, 86400, 2**20
_FOR_EVER = 10**9  # seconds, about 30 years; every server can hold such a date


def is_production(environ: Mapping[str, str] | None = None) -> bool:
    """True if vendors are really called (MAILQUEUE_ENV=production); else they are simulated."""
    return (os.environ if environ is None else environ).get("MAILQUEUE_ENV") == "production"


_SHORT, _LONG = checks.seconds(_DAY), checks.seconds(_FOR_EVER)
_DAYS, _ON_UNKNOWN = checks.between(0, 36_500), checks.one_of("resend", "park")


@dataclass(frozen=True, slots=True)
class MongoDB(Section):
    """Where e-mails are stored. The URI may hold a password: not shown."""

    uri: str = key(
        str,
        "mongodb://127.0.0.1:27017",
        "URI of a replica set; one node is enough",
        checks.uri,
        repr=False,
    )
    database: str = key(str, "mailqueue", "name of the database", checks.database)
    collection: str = key(
        str,
        "emails",
        "name of the collection; its name and `.vendors`, `.leases`, `.stats`, … name more",
        checks.collection,
    )
    timeout: float = key(float, 10, "longest time for one call", checks.seconds(_HOUR))


@dataclass(frozen=True, slots=True)
class VendorConfig(Section):
    """One vendor. ``keys`` holds its type's own keys, defaults filled in (absent ones as None)."""

    name: str = key(str, ..., "unique; recorded with every attempt", checks.vendor_name)
    type: str = key(str, ..., "a type below, or `module:Class` of your own", vendor_type)
    weight: int = key(
        int, 1, "share of the rotation, relative to other vendors", checks.between(1, 1000)
    )
    from_: str | None = key(
        str, None, "replaces the From of every e-mail", checks.sender, repr=False
    )
    base_url: str | None = key(
        str,
        None,
        "scheme, host and port of the API, instead of the vendor's usual ones",
        checks.base_url,
    )
    ca_file: str | None = key(
        str, None, "PEM file of the authorities to trust, instead of the public ones", checks.path
    )
    timeout: float = key(float, 30, "longest time to connect, and for each read", _SHORT)
    options: Mapping[str, Any] = key(
        dict, {}, "passed on to the vendor's class", repr=False, hash=False
    )
    sandbox: bool = key(bool, False, "the vendor only checks e-mails; refused if it has no sandbox")
    rate: Rate | None = key(  # noqa: RUF009  # ``key`` makes a field, no value
        object, None, "how many e-mails all processes together may give it, and how fast"
    )
    events: Mapping[str, Any] | None = key(
        dict,
        None,
        "how the vendor's events are verified; without it they are not received",
        repr=False,
        hash=False,
    )
    keys: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        row = VENDOR_TYPES.get(self.type)
        object.__setattr__(self, "keys", row.complete(self.keys) if row else dict(self.keys))
        object.__setattr__(self, "options", copy.deepcopy(self.options))
        if isinstance(self.rate, Mapping):  # it has been checked
            object.__setattr__(self, "rate", Rate(**self.rate))

    @classmethod
    def from_mapping(cls, mapping: Mapping[Any, Any], problems: Problems) -> Self | None:
        """A key that not every vendor has belongs to the type."""
        own = {name: value for name, value in mapping.items() if name not in keys_of(cls)}
        return cls._from_attributes({**cls._attributes(mapping), "keys": own}, problems)

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        own = attributes.get("keys", {})
        if row := VENDOR_TYPES.get(str(attributes.get("type"))):
            problems.add_unknown(own, [*keys_of(VendorConfig), *row.keys])
            row.check(row.complete(own), problems)
        if attributes.get("rate") is not None:
            section_of(Rate, attributes["rate"], problems.under("rate"))
        events = attributes.get("events")
        if isinstance(events, Mapping):
            if row is None or row.events is None:
                problems.add("events", "events of this type of vendor are not read: remove it")
            else:
                row.events.check(events, problems.under("events"))


@dataclass(frozen=True, slots=True)
class Failover(Section):
    """How long a failing vendor stays unavailable."""

    unavailable_for: float = key(
        float, 600, "how long a vendor stays unavailable after a failure", _LONG
    )
    max_wait: float = key(float, 3600, "longest `Retry-After` that is obeyed", _LONG)


@dataclass(frozen=True, slots=True)
class Retry(Section):
    """When an e-mail is tried again, and when it is given up."""

    max_attempts: int = key(
        int, 25, "attempts that count against the e-mail; outages do not", checks.between(1, 10_000)
    )
    give_up_after: float = key(
        float, 3 * _DAY, "time since a consumer first read the e-mail, then it fails", _LONG
    )
    base: float = key(float, 30, "first back-off", _LONG)
    cap: float = key(float, 3600, "longest back-off", _LONG)


@dataclass(frozen=True, slots=True)
class Delivery(Section):
    """One attempt: its deadline, and what follows when its outcome is not known.

    Three more clocks follow from the deadline and from ``mongodb.timeout``. A claim is one call to
    MongoDB, then the attempt runs to its deadline, then its result is stored: all of this must be
    over while the lease holds, and beanstalkd must not hand out the job before the lease ends.
    With a timeout of 10 s and a deadline of 60 s it takes 10 + 60 + 20 = 90 s at most: the lease
    is 120 s, the time to run 180 s. The largest values give a lease of 20 hours: ``audit`` calls a
    lease of more than a day an error.
    """

    derived: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("record", "settle_timeout", "lease", "margin", "ttr"),
        "follows from delivery.deadline and mongodb.timeout: remove it",
    )

    on_unknown: Literal["resend", "park"] = key(
        str,
        "resend",
        "after an unknown outcome: `resend` once, or `park` for an operator",
        _ON_UNKNOWN,
    )
    deadline: float = key(
        float,
        60,
        "longest time for one attempt, its claim included",
        checks.seconds(_HOUR * 12),
    )
    mongodb_timeout: float = field(
        default_factory=lambda: MongoDB().timeout, init=False, repr=False, compare=False
    )

    @property
    def settle_timeout(self) -> float:
        """Seconds to store a result: a call that fails at its timeout, and another one."""
        return 2 * self.mongodb_timeout

    @property
    def lease(self) -> float:
        """Seconds that a claim holds: a third longer than its attempt can last."""
        return self._longest * 4 / 3

    @property
    def margin(self) -> float:
        """Seconds by which the clocks of two hosts of MongoDB may differ."""
        return self.lease - self._longest

    @property
    def ttr(self) -> int:
        """Whole seconds: beanstalkd's time to run, after which it hands out the job again."""
        return math.ceil(self._longest * 2)

    @property
    def _longest(self) -> float:
        """From before the claim until the result is stored."""
        return self.mongodb_timeout + self.deadline + self.settle_timeout

    def with_timeout_of(self, mongodb: MongoDB) -> Self:
        """A copy whose clocks follow from the timeout of this ``mongodb``."""
        delivery = dataclasses.replace(self)
        object.__setattr__(delivery, "mongodb_timeout", mongodb.timeout)
        return delivery


@dataclass(frozen=True, slots=True)
class ConsumerConfig(Section):
    """The consumer process."""

    concurrency: int = key(int, 16, "e-mails sent at a time, per process", checks.between(1, 1000))
    sweep_every: float = key(float, 15, "time between two rounds of the sweeper", _SHORT)
    max_memory: int = key(
        int, 256 * _MIB, "bytes of e-mails in memory, copies included", checks.between(_MIB, 2**40)
    )
    one_core: bool = key(bool, True, "the command uses one core at a time (Linux)")


@dataclass(frozen=True, slots=True)
class Retention(Section):
    """How long e-mails are kept after their end, in days (uncertain ones: for ever)."""

    content: Literal["kept", "until_sent"] = key(
        str,
        "kept",
        "bodies and files of a sent e-mail: `kept`, or only `until_sent`",
        checks.one_of("kept", "until_sent"),
    )
    content_days: float | None = key(
        float, None, "days, then an e-mail that has ended loses its bodies and files", _DAYS
    )
    searchable: bool = key(
        bool, False, "indexes by recipient and by tag, for `mailqueue list --to` and `--tag`"
    )

    sent_days: float = key(float, 30, "days, then a sent e-mail is pruned", _DAYS)
    failed_days: float = key(float, 90, "days, then a failed or cancelled e-mail is pruned", _DAYS)


@dataclass(frozen=True, slots=True)
class Limits(Section):
    """What is accepted: more than the default does not fit a MongoDB document."""

    max_size: int = key(int, 15 * _MIB, "bytes, attachments included", checks.between(1, 15 * _MIB))


SECTIONS: Mapping[str, type[Section]] = {
    "mongodb": MongoDB,
    "beanstalkd": Beanstalkd,
    "vendors": VendorConfig,
    "routes": Route,
    "failover": Failover,
    "retry": Retry,
    "delivery": Delivery,
    "consumer": ConsumerConfig,
    "retention": Retention,
    "limits": Limits,
    "http": Http,
    "smtp": Smtp,
    "suppression": Suppression,
    "callbacks": Callbacks,
    "staging": Staging,
}
OPTIONAL = frozenset({"suppression", "staging"})
"""The sections that are None, and what they are about is off, unless they are there."""


class Sections(TypedDict, total=False):
    """What ``Config(...)`` takes: each section as an object or as a mapping."""

    mongodb: MongoDB | dicts.MongoDBDict
    beanstalkd: Beanstalkd | dicts.BeanstalkdDict
    vendors: Sequence[VendorConfig | dicts.VendorDict]
    routes: Sequence[Route | dicts.RouteDict]
    failover: Failover | dicts.FailoverDict
    retry: Retry | dicts.RetryDict
    delivery: Delivery | dicts.DeliveryDict
    consumer: ConsumerConfig | dicts.ConsumerDict
    retention: Retention | dicts.RetentionDict
    limits: Limits | dicts.LimitsDict
    http: Http | dicts.HttpDict
    smtp: Smtp | dicts.SmtpDict
    suppression: Suppression | dicts.SuppressionDict | None
    callbacks: Callbacks | dicts.CallbacksDict
    staging: Staging | dicts.StagingDict | None
    queue: QueueSettings | dicts.QueueDict | None


@dataclass(frozen=True, slots=True, init=False)
class Config:
    """The whole configuration, frozen: ``Config(retry={"base": 5})``, ``Config.load("c.json")``.

    Each section may be given as an object or as a mapping; a section or key that is left out has
    its default. docs/configuration.md has all of them, with units and ranges. Raises
    ``ConfigError``, which names every problem and quotes no value.
    """

    mongodb: MongoDB
    beanstalkd: Beanstalkd
    vendors: tuple[VendorConfig, ...]
    routes: tuple[Route, ...]
    failover: Failover
    retry: Retry
    delivery: Delivery
    consumer: ConsumerConfig
    retention: Retention
    limits: Limits
    http: Http
    smtp: Smtp
    suppression: Suppression | None
    callbacks: Callbacks
    staging: Staging | None
    queue: QueueSettings | None

    def __init__(self, **sections: Unpack[Sections]) -> None:
        for name, value in _build(sections, secrets=True, environ=None).items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_mapping(
        cls,
        mapping: Mapping[str, Any],
        *,
        secrets: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """From a mapping that holds what a file would hold. Raises ``ConfigError``.

        ``${NAME}`` in a string becomes the variable of ``environ``; None: of the process.
        ``secrets=False``: the variables of vendors' entries may be missing, for processes that call
        no vendor (a producer, a consumer outside production).
        """
        return cls(**_build(mapping, secrets, environ))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        secrets: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """The JSON file at ``path``, else at $MAILQUEUE_CONFIG, else ./config.json.

        ``secrets`` and ``environ`` as in ``from_mapping``. Raises ``ConfigError``. Logs a warning,
        ``config.exposed``, if all users of the host can read a file that holds a secret.
        """
        # No default os.environ: ``help(Config)`` would print it, with all secrets in it.
        environ = os.environ if environ is None else environ
        file = config_file.place(path, environ)
        mapping = config_file.read(file)
        config = cls.from_mapping(mapping, secrets=secrets, environ=environ)
        secret = config_file.spells_out_secrets(mapping, keys_of(VendorConfig))
        if secret and file.stat().st_mode & 0o004:
            event(_log, logging.WARNING, READABLE_BY_ALL, file=str(file))
        return config

    @property
    def broker(self) -> QueueSettings:
        """The queue that is used: ``queue``, else ``beanstalkd``."""
        return self.beanstalkd if self.queue is None else self.queue

    def replace(self, **sections: Unpack[Sections]) -> Self:
        """A copy with these sections instead, validated again."""
        return dataclasses.replace(self, **sections)  # type: ignore[arg-type]  # mappings as well


def _build(
    mapping: Mapping[str, Any], secrets: bool, environ: Mapping[str, str] | None
) -> dict[str, Any]:
    """All sections by name. Raises ``ConfigError`` with every problem."""
    problems = Problems()
    problems.add_unknown(mapping, [*SECTIONS, "queue"])
    variables = os.environ if environ is None else environ
    values = config_file.Environment(variables, problems, secrets).resolve(mapping)
    vendors = values.get("vendors", [])
    sections: dict[str, Any] = {"vendors": _vendors(vendors, secrets, problems)}
    sections["routes"] = _routes(values.get("routes", []), vendors, problems)
    for name, section in SECTIONS.items():
        if name in OPTIONAL and values.get(name) is None:
            sections[name] = None
        elif name not in sections:
            sections[name] = section_of(section, values.get(name, {}), problems.under(name))
    sections["queue"] = queue_of(values.get("queue"), problems.under("queue"))
    problems.raise_all()
    # Last, since both sections must be valid: the lease follows from the time of MongoDB's calls.
    sections["delivery"] = sections["delivery"].with_timeout_of(sections["mongodb"])
    if isinstance(sections["queue"], Sqs) and sections["delivery"].ttr > LONGEST_TTR:
        problems.add("delivery.deadline", "must be less with SQS, which reserves for 12 h at most")
    if sections["staging"] is not None:
        _check_options(sections["vendors"], problems)
    problems.raise_all()
    return sections


def _check_options(vendors: Sequence[VendorConfig], problems: Problems) -> None:
    """Options that are laid over every request must add nobody to its recipients."""
    for i, vendor in enumerate(vendors):
        for name, value in vendor.options.items():
            if checks.may_address(name, value):
                problem = "may name recipients, as long as there is a section staging: remove it"
                problems.add(f"vendors[{i}].options.{name}", problem)


def _vendors(entries: Any, secrets: bool, problems: Problems) -> tuple[Section | None, ...]:
    if not isinstance(entries, list):
        problems.add("vendors", "must be a list")
        return ()
    for i, entry in enumerate(entries if secrets else ()):
        if isinstance(entry, Mapping):
            _check_required(entry, problems.under(f"vendors[{i}]"))
    entries = entries if secrets else [_without_empty(entry) for entry in entries]
    return section_list("vendors", VendorConfig, entries, problems)


def _name_of(vendor: Any) -> str | None:
    """The name of an entry of ``vendors``, whatever else is wrong; None: it is not valid."""
    name = vendor.get("name") if isinstance(vendor, Mapping) else getattr(vendor, "name", None)
    return name if isinstance(name, str) and checks.vendor_name(name) is None else None


def _routes(entries: Any, vendors: Any, problems: Problems) -> tuple[Section | None, ...]:
    if not isinstance(entries, list | tuple):
        problems.add("routes", "must be a list")
        return ()
    routes = section_list("routes", Route, entries, problems)
    names = [_name_of(entry) for entry in vendors] if isinstance(vendors, list) else [None]
    for i, route in enumerate(routes if None not in names else ()):
        if isinstance(route, Route) and not set(route.vendors) <= set(names):
            configured = ", ".join(filter(None, names)) or "none"
            problem = f"names a vendor that is not configured (configured: {configured})"
            problems.add(f"routes[{i}].vendors", problem)
    return routes


def _without_empty(entry: Any) -> Any:
    """The entry without empty values of the keys that every vendor has.

    They come from variables that this process does not have, and need not have.
    """
    if not isinstance(entry, Mapping):
        return entry
    shared = keys_of(VendorConfig)
    return {name: value for name, value in entry.items() if value != "" or name not in shared}


def _check_required(entry: Mapping[str, Any], problems: Problems) -> None:
    """Calling a vendor needs its own keys, and a base_url if it has no usual one."""
    row = VENDOR_TYPES.get(str(entry.get("type")))
    for name in row.keys if row else ():
        problems.add(name, "must not be empty" if entry.get(name) == "" else None)
    if row and row.needs_base_url and entry.get("base_url") is None:
        problems.add("base_url", "required key is missing")
