"""The section ``queue``: which queue announces e-mails, and the keys of each type.

Decides: what each type needs. Without the section the queue is beanstalkd, by the section
``beanstalkd``.

Promises: a queue that cannot be used is a problem that names the key. No repr shows a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from mailqueue.config import checks
from mailqueue.config.keys import Key, Problems
from mailqueue.config.section import Section, key, keys_of, section_of

LONGEST_TTR = 43_200  # seconds for which SQS hides a message
_TUBE = "name of the tube: begins all names of ours there"


@dataclass(frozen=True, slots=True)
class Beanstalkd(Section):
    """Where e-mails are announced."""

    servers: tuple[str, ...] = key(tuple, ("127.0.0.1:11300",), 'each "host:port"', checks.servers)
    tube: str = key(str, "mailqueue", "name of the tube", checks.tube)

    def __post_init__(self) -> None:
        Section.__post_init__(self)
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

    @property
    def place(self) -> str:
        """What consumers wait at, for people."""
        return f"beanstalkd, tube {self.tube} of {', '.join(sorted(self.servers))}"


@dataclass(frozen=True, slots=True)
class Redis(Section):
    """A Redis server, or what speaks its protocol."""

    url: str = key(
        str,
        "redis://127.0.0.1:6379/0",
        "`redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://…` (TLS) or `unix://PATH[?db=N]`",
        checks.redis_url,
        repr=False,
    )
    tube: str = key(str, "mailqueue", _TUBE, checks.tube)
    timeout: float = key(float, 5.0, "seconds until the server counts as away", checks.seconds(60))

    @property
    def server(self) -> str:
        """The server for people, without the password."""
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            return parts.path
        host = parts.netloc.rpartition("@")[2] or "localhost"
        return host + parts.path.rstrip("/")

    @property
    def host(self) -> str:
        """The host of the server; empty for a socket of this host."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_open(self) -> bool:
        """Whether a network between could read what is said."""
        return urlsplit(self.url).scheme == "redis"

    @property
    def place(self) -> str:
        """What consumers wait at, for people; without the password."""
        return f"redis, tube {self.tube} of {self.server}"


@dataclass(frozen=True, slots=True)
class Sqs(Section):
    """Two queues of Amazon SQS: one for ``high``, one for all else. boto3 finds the credentials."""

    region: str = key(str, ..., "region of the queues", checks.region)
    urgent: str = key(str, ..., "URL of the queue of `high` e-mails", checks.queue_url)
    normal: str = key(str, ..., "URL of the queue of all others", checks.queue_url)
    callbacks: str | None = key(
        str, None, "URL of a queue that wakes the responder; without it, it polls", checks.queue_url
    )
    intake: str | None = key(
        str, None, "URL of the queue of other programs' events", checks.queue_url
    )
    endpoint_url: str | None = key(
        str, None, "scheme, host and port of the service, if not the usual ones", checks.base_url
    )

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        names: dict[Any, str] = {}
        for name in ("urgent", "normal", "callbacks", "intake"):
            url = attributes.get(name)
            if url is not None and (first := names.setdefault(str(url), name)) != name:
                problems.add(name, f"must be a queue of its own: {first} has it too")

    @property
    def place(self) -> str:
        """What consumers wait at, for people."""
        return f"sqs, {self.urgent} and {self.normal}"


@dataclass(frozen=True, slots=True)
class MongoDBQueue(Section):
    """No queue: consumers ask MongoDB what is due."""

    change_stream: bool = key(bool, False, "whether MongoDB wakes idle consumers (replica sets)")

    @property
    def place(self) -> str:
        """What consumers wait at, for people."""
        return "mongodb"


@dataclass(frozen=True, slots=True)
class Memory(Section):
    """In the memory of one process, for tests and development."""

    tube: str = key(str, "mailqueue", _TUBE, checks.tube)

    @property
    def place(self) -> str:
        """What consumers wait at, for people."""
        return f"memory, tube {self.tube}"


QueueSettings: TypeAlias = Beanstalkd | Redis | Sqs | MongoDBQueue | Memory

QUEUE_TYPES: Mapping[str, type[Section]] = {
    "beanstalkd": Beanstalkd,
    "redis": Redis,
    "sqs": Sqs,
    "mongodb": MongoDBQueue,
    "memory": Memory,
}


_ALL_KEYS = {name for section in QUEUE_TYPES.values() for name in keys_of(section)}

TYPE = Key(str, "one of " + ", ".join(f"`{name}`" for name in QUEUE_TYPES), required=True)


def queue_of(value: Any, problems: Problems) -> Any:
    """The queue's section, made from a mapping if it is one; None: there is none, or it is bad."""
    if value is None or isinstance(value, tuple(QUEUE_TYPES.values())):
        return value
    if not isinstance(value, Mapping):
        problems.add("", "must be an object")
        return None
    own = {name: setting for name, setting in value.items() if name != "type"}
    type_ = value.get("type")
    if not isinstance(type_, str) or type_ not in QUEUE_TYPES:
        choice = f"must be one of {', '.join(QUEUE_TYPES)}"
        problems.add("type", "required key is missing" if type_ is None else choice)
        return None
    others = _ALL_KEYS - keys_of(QUEUE_TYPES[type_]).keys()
    for name in filter(others.__contains__, own):
        problems.add(str(name), f"not a key of type {type_}")
    return section_of(QUEUE_TYPES[type_], own, problems)
