"""The configuration: frozen dataclasses, from a JSON file, a mapping or keyword arguments.

Decides: every section and key with its type, default, range and meaning (data on the fields, from
which docs/configuration.md is made), and the clocks that follow from a deadline and a timeout.
Assumes: a mapping is what a file would hold, so its strings take ``${NAME}`` (config_file), while a
section that is an object already is taken as it is.
Promises: a Config that exists is valid; all that is wrong is reported in one ConfigError, once per
key, with the key's path and never its value; no repr shows a vendor's keys, an address or MongoDB's
URI. It connects to nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, TypedDict, Unpack

from mailqueue.config import checks, dicts
from mailqueue.config import file as config_file
from mailqueue.config.keys import Key, Problems
from mailqueue.config.vendor_types import VENDOR_TYPES, vendor_type
from mailqueue.logs import event

READABLE_BY_ALL = "config.readable_by_all"  # log event: a file with secrets in it

_log = logging.getLogger(__name__)
_HOUR, _DAY, _MIB = 3600, 86400, 2**20
_FOR_EVER = 10**9  # seconds; still a date that every server can hold


def is_production(environ: Mapping[str, str] = os.environ) -> bool:
    """True where vendors are really called; everywhere else they are simulated."""
    return environ.get("MAILQUEUE_ENV") == "production"


def keys_of(section: type[_Section]) -> Mapping[str, Key]:
    """The keys of a section, as a file names them."""
    return {_name(f): f.metadata["key"] for f in _fields(section) if f.metadata}


def _fields(section: type[_Section]) -> tuple[dataclasses.Field[Any], ...]:
    return fields(section)  # type: ignore[arg-type]  # every section is a dataclass


def _attributes(section: type[_Section], mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of the section's keys, by the names of its attributes."""
    keyed = [attribute for attribute in _fields(section) if attribute.metadata]
    return {f.name: mapping[_name(f)] for f in keyed if _name(f) in mapping}


def _name(attribute: dataclasses.Field[Any]) -> str:
    return attribute.name.rstrip("_")  # ``from`` is a word of Python


def _key(
    type_: type, default: Any, meaning: str, check: checks.Check = checks.anything, **more: Any
) -> Any:
    """A field with a default; without one (``...``) the key is required."""
    if default is ...:
        key = Key(type_, meaning, check, required=True)
        return field(metadata={"key": key}, **more)
    key = Key(type_, meaning, check, default)
    return field(default_factory=lambda: copy.copy(default), metadata={"key": key}, **more)


class _Section:
    """A section is checked when it is made, whoever makes it."""

    __slots__ = ()

    derived: ClassVar[Mapping[str, str]] = {}  # names that are no keys, and why

    def __post_init__(self) -> None:
        problems = Problems()
        self._check({f.name: getattr(self, f.name) for f in _fields(type(self))}, problems)
        problems.settle()

    @classmethod
    def from_mapping(cls, mapping: Mapping[Any, Any], problems: Problems) -> Self | None:
        """The section as a file holds it; None: something is wrong with it."""
        for name in mapping:
            problems.add(str(name), cls.derived.get(name))
        problems.unknown(mapping, keys_of(cls))
        return cls._checked(_attributes(cls, mapping), problems)

    @classmethod
    def _checked(cls, attributes: Mapping[str, Any], problems: Problems) -> Self | None:
        cls._check(attributes, problems)
        return None if problems else cls(**attributes)

    @classmethod
    def _check(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        for attribute in _fields(cls):
            for key in attribute.metadata.values():
                value = attributes.get(attribute.name, key.default)
                problems.add(_name(attribute), key.problem(value))
        cls._check_further(attributes, problems)

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        """Add the problems that no single key shows."""


_SHORT, _LONG = checks.seconds(_DAY), checks.seconds(_FOR_EVER)
_DAYS, _ON_UNKNOWN = checks.between(0, 36_500), checks.one_of("resend", "park")


@dataclass(frozen=True, slots=True)
class MongoDB(_Section):
    """Where e-mails are stored. The URI may hold a password: not shown."""

    uri: str = _key(
        str,
        "mongodb://127.0.0.1:27017",
        "of a replica set; one node is enough",
        checks.uri,
        repr=False,
    )
    database: str = _key(str, "mailqueue", "the database", checks.database)
    collection: str = _key(
        str, "emails", "the collection; beside it `.vendors` and `.leases`", checks.collection
    )
    timeout: float = _key(float, 10, "the longest that a call may take", checks.seconds(_HOUR))


@dataclass(frozen=True, slots=True)
class Beanstalkd(_Section):
    """Where e-mails are announced."""

    servers: tuple[str, ...] = _key(tuple, ("127.0.0.1:11300",), 'each "host:port"', checks.servers)
    tube: str = _key(str, "mailqueue", "the tube's name", checks.tube)

    def __post_init__(self) -> None:
        _Section.__post_init__(self)
        object.__setattr__(self, "servers", tuple(self.servers))

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        servers = () if "servers" in problems else attributes.get("servers", ())
        for i, address in enumerate(servers):
            problems.add(f"servers[{i}]", checks.server(address))

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each server, for ``socket.create_connection``."""
        return tuple(checks.host_and_port(address) for address in self.servers)


@dataclass(frozen=True, slots=True)
class VendorConfig(_Section):
    """One vendor. ``keys`` holds its type's own keys, defaults filled in (absent ones as None)."""

    name: str = _key(str, ..., "unique; kept in every ledger line", checks.vendor_name)
    type: str = _key(str, ..., "a type below, or `module:Class` of your own", vendor_type)
    weight: int = _key(int, 1, "its share of the rotation", checks.between(1, 1000))
    from_: str | None = _key(str, None, "replaces the From of e-mails", checks.sender, repr=False)
    base_url: str | None = _key(
        str,
        None,
        "scheme, host and port of the API, if not the vendor's usual ones",
        checks.base_url,
    )
    ca_file: str | None = _key(
        str, None, "certificate authorities to trust (PEM) instead of the public ones", checks.path
    )
    timeout: float = _key(float, 30, "to connect, and for each read", _SHORT)
    options: Mapping[str, Any] = _key(
        dict, {}, "passed on to the vendor's class", repr=False, hash=False
    )
    sandbox: bool = _key(
        bool, False, "the vendor only checks e-mails; refused if it has no sandbox"
    )
    keys: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        _Section.__post_init__(self)
        row = VENDOR_TYPES.get(self.type)
        object.__setattr__(self, "keys", row.complete(self.keys) if row else dict(self.keys))
        object.__setattr__(self, "options", copy.deepcopy(self.options))

    @classmethod
    def from_mapping(cls, mapping: Mapping[Any, Any], problems: Problems) -> Self | None:
        """A key that not every vendor has is one of the type's own."""
        own = {name: value for name, value in mapping.items() if name not in keys_of(cls)}
        return cls._checked({**_attributes(cls, mapping), "keys": own}, problems)

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        own = attributes.get("keys", {})
        if row := VENDOR_TYPES.get(str(attributes.get("type"))):
            problems.unknown(own, [*keys_of(VendorConfig), *row.keys])
            row.check(row.complete(own), problems)


@dataclass(frozen=True, slots=True)
class Failover(_Section):
    """How long a failing vendor is left alone."""

    unavailable_for: float = _key(float, 600, "how long a failed vendor is left alone", _LONG)
    max_wait: float = _key(float, 3600, "the longest Retry-After that is obeyed", _LONG)


@dataclass(frozen=True, slots=True)
class Retry(_Section):
    """When an e-mail is tried again, and when no more."""

    max_attempts: int = _key(
        int, 25, "attempts that count against the e-mail; outages do not", checks.between(1, 10_000)
    )
    give_up_after: float = _key(
        float, 3 * _DAY, "counted from when it first came to a consumer", _LONG
    )
    base: float = _key(float, 30, "the first back-off", _LONG)
    cap: float = _key(float, 3600, "the longest back-off", _LONG)


@dataclass(frozen=True, slots=True)
class Delivery(_Section):
    """One attempt: its deadline, and what follows when its outcome is not known.

    Three more clocks follow from the deadline and from ``mongodb.timeout``. A claim is one call to
    MongoDB, then the attempt runs to its deadline, then its result is stored: all of this must be
    over while the lease holds, and beanstalkd must not hand out the job before the lease ends.
    With a timeout of 10 s and a deadline of 60 s it takes 10 + 60 + 20 = 90 s at most: the lease
    is 120 s, the time to run 180 s. The largest values give a lease of 20 hours: ``audit`` calls a
    lease of more than a day an error.
    """

    derived: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("record", "settle_timeout", "lease", "ttr"),
        "follows from delivery.deadline and mongodb.timeout: remove it",
    )

    on_unknown: Literal["resend", "park"] = _key(
        str, "resend", "`resend` once, or `park`", _ON_UNKNOWN
    )
    deadline: float = _key(
        float,
        60,
        "the longest that an attempt may take, its claim included",
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
class ConsumerConfig(_Section):
    """The consumer process."""

    concurrency: int = _key(int, 16, "e-mails sent at a time, per process", checks.between(1, 1000))
    sweep_every: float = _key(float, 15, "between two rounds of the sweeper", _SHORT)
    max_memory: int = _key(
        int, 256 * _MIB, "bytes of e-mails in flight, copies included", checks.between(_MIB, 2**40)
    )
    one_core: bool = _key(bool, True, "the command keeps to one core at a time (Linux)")


@dataclass(frozen=True, slots=True)
class Retention(_Section):
    """How long e-mails are kept after their end, in days (uncertain ones: for ever)."""

    sent_days: float = _key(float, 30, "days, then a sent e-mail is pruned", _DAYS)
    failed_days: float = _key(float, 90, "the same for failed and cancelled ones", _DAYS)


@dataclass(frozen=True, slots=True)
class Limits(_Section):
    """What is accepted: more than the default does not fit a MongoDB document."""

    max_size: int = _key(
        int, 15 * _MIB, "bytes, attachments included", checks.between(1, 15 * _MIB)
    )


SECTIONS: Mapping[str, type[_Section]] = {
    "mongodb": MongoDB,
    "beanstalkd": Beanstalkd,
    "vendors": VendorConfig,
    "failover": Failover,
    "retry": Retry,
    "delivery": Delivery,
    "consumer": ConsumerConfig,
    "retention": Retention,
    "limits": Limits,
}


class Sections(TypedDict, total=False):
    """What ``Config(...)`` takes: each section as an object or as a mapping."""

    mongodb: MongoDB | dicts.MongoDBDict
    beanstalkd: Beanstalkd | dicts.BeanstalkdDict
    vendors: Sequence[VendorConfig | dicts.VendorDict]
    failover: Failover | dicts.FailoverDict
    retry: Retry | dicts.RetryDict
    delivery: Delivery | dicts.DeliveryDict
    consumer: ConsumerConfig | dicts.ConsumerDict
    retention: Retention | dicts.RetentionDict
    limits: Limits | dicts.LimitsDict


@dataclass(frozen=True, slots=True, init=False)
class Config:
    """The whole configuration; each section may be given as an object or as a mapping.

    Raises ``ConfigError``, which names every problem.
    """

    mongodb: MongoDB
    beanstalkd: Beanstalkd
    vendors: tuple[VendorConfig, ...]
    failover: Failover
    retry: Retry
    delivery: Delivery
    consumer: ConsumerConfig
    retention: Retention
    limits: Limits

    def __init__(self, **sections: Unpack[Sections]) -> None:
        for name, value in _build(sections, secrets=True, environ=os.environ).items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_mapping(
        cls,
        mapping: Mapping[str, Any],
        *,
        secrets: bool = True,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """What a file holds. ``secrets=False``: what is not set in a vendor's entry stays empty.

        That is for those who call no vendor: a producer, and a consumer outside production.
        """
        return cls(**_build(mapping, secrets, environ))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        secrets: bool = True,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """The JSON file at ``path``, else at $MAILQUEUE_CONFIG, else ./config.json."""
        file = config_file.place(path, environ)
        mapping = config_file.read(file)
        config = cls.from_mapping(mapping, secrets=secrets, environ=environ)
        secret = config_file.spells_out_secrets(mapping, keys_of(VendorConfig))
        if secret and file.stat().st_mode & 0o004:
            event(_log, logging.WARNING, READABLE_BY_ALL, file=str(file))
        return config

    def replace(self, **sections: Unpack[Sections]) -> Self:
        """A copy with these sections instead, validated again."""
        return dataclasses.replace(self, **sections)  # type: ignore[arg-type]  # mappings as well


def _build(mapping: Mapping[str, Any], secrets: bool, environ: Mapping[str, str]) -> dict[str, Any]:
    """All sections, by name, or every problem at once."""
    problems = Problems()
    problems.unknown(mapping, SECTIONS)
    values = config_file.Environment(environ, problems, secrets).resolve(mapping)
    sections: dict[str, Any] = {"vendors": _vendors(values.get("vendors", []), secrets, problems)}
    for name, section in SECTIONS.items():
        if name not in sections:
            sections[name] = _section(section, values.get(name, {}), problems.under(name))
    problems.settle()
    sections["delivery"] = sections["delivery"].with_timeout_of(sections["mongodb"])
    return sections


def _section(section: type[_Section], value: Any, problems: Problems) -> _Section | None:
    """The section itself, or made from a mapping; None: something is wrong with it."""
    if isinstance(value, section):
        return value
    if isinstance(value, Mapping):
        return section.from_mapping(value, problems)
    problems.add("", "must be an object")
    return None


def _vendors(entries: Any, secrets: bool, problems: Problems) -> tuple[_Section | None, ...]:
    if not isinstance(entries, list):
        problems.add("vendors", "must be a list")
        return ()
    vendors, places = [], dict[str, str]()
    for i, entry in enumerate(entries):
        place = f"vendors[{i}]"
        here = problems.under(place)
        name = entry.get("name") if isinstance(entry, Mapping) else getattr(entry, "name", None)
        if name and (first := places.setdefault(str(name), place)) != place:
            here.add("name", f"duplicate name: {first} has it too")
        if secrets and isinstance(entry, Mapping):
            _check_needed(entry, here)
        vendors.append(_section(VendorConfig, entry if secrets else _without_empty(entry), here))
    return tuple(vendors)


def _without_empty(entry: Any) -> Any:
    """The entry without empty values of the keys that every vendor has."""
    if not isinstance(entry, Mapping):
        return entry
    shared = keys_of(VendorConfig)
    return {name: value for name, value in entry.items() if value != "" or name not in shared}


def _check_needed(entry: Mapping[str, Any], problems: Problems) -> None:
    """To call a vendor takes its own keys, and a base_url where it has no usual one."""
    row = VENDOR_TYPES.get(str(entry.get("type")))
    for name in row.keys if row else ():
        problems.add(name, "must not be empty" if entry.get(name) == "" else None)
    if row and row.needs_base_url and entry.get("base_url") is None:
        problems.add("base_url", "required key is missing")
