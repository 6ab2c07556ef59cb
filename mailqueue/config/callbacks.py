"""The section of callbacks, and what their URLs may be.

Decides: a callback goes over https to a host on the internet. ``callbacks.allow`` names the hosts,
with or without a port, to which it may also go over plain http, and at an address of this network.

Promises: no I/O: to which address a name leads is looked at when it is connected to. No problem
quotes a URL, which may hold a secret; no repr shows one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mailqueue.config import checks
from mailqueue.config.keys import Problems
from mailqueue.config.section import Section, key

TYPES = (
    *("email.sent", "email.failed", "email.uncertain", "email.cancelled"),
    *("email.delivered", "email.delivery_delayed", "email.bounced", "email.complained"),
    *("email.opened", "email.clicked", "email.suppressed"),
)
MAX_URL = 2048  # characters
SHORTEST_SECRET = 16  # bytes
_URL = re.compile(r"[\x21-\x7e]+")


def _types(types: Sequence[Any]) -> str | None:
    return checks.several_of(*TYPES)(types)


def _hosts(hosts: Sequence[Any]) -> str | None:
    fits = all(isinstance(each, str) and checks.host_and_port(each)[0] for each in hosts)
    return None if fits else 'must be a list of hosts: "hooks.internal" or "127.0.0.1:8000"'


def _secrets(secrets: Sequence[Any]) -> str | None:
    try:
        fits = all(len(secret_bytes(each)) >= SHORTEST_SECRET for each in secrets if each != "")
    except (ValueError, AttributeError):
        fits = False
    problem = f"must be a list of secrets: whsec_ and {SHORTEST_SECRET} bytes or more in base64"
    return None if fits else problem


def secret_bytes(secret: str) -> bytes:
    """The bytes of a secret, as the specification of Standard Webhooks writes it."""
    return base64.b64decode(secret.removeprefix("whsec_"), validate=True)


@dataclass(frozen=True, slots=True)
class Callbacks(Section):
    """Callbacks to the application: what becomes of its e-mails (`mailqueue responder`)."""

    url: str | None = key(
        str, None, "where those of e-mails go that have no `callback_url`", repr=False
    )
    types: tuple[str, ...] = key(tuple, TYPES, "what is told of", _types)
    secrets: tuple[str, ...] = key(
        tuple,
        (),
        "each `whsec_` and base64; all sign, so that one can be changed",
        _secrets,
        repr=False,
    )
    allow: tuple[str, ...] = key(
        tuple, (), "hosts that need neither https nor a public address", _hosts
    )
    concurrency: int = key(
        int, 64, "callbacks posted at a time, per process", checks.between(1, 1000)
    )
    timeout: float = key(float, 15, "longest time for one post", checks.seconds(600))

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        for name in ("types", "secrets", "allow"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        url = attributes.get("url")
        if url is not None and not problems:
            problems.add("url", url_problem(url, attributes.get("allow", ())))

    def allows(self, host: str, port: int) -> bool:
        """Whether ``allow`` names this host, in lower case, or this port of it."""
        return _is_among(host, port, self.allow)


def url_problem(url: str, allow: Collection[str]) -> str | None:
    """What is wrong with the URL of a callback, or None."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "must be a URL"
    if not _URL.fullmatch(url) or len(url) > MAX_URL:
        return f"must be a URL of 1 to {MAX_URL} ASCII characters, without spaces"
    if parts.scheme not in ("http", "https") or checks.host(host) or port == 0:
        return "must be https://host[:port][/path]"
    if parts.username is not None or parts.password is not None:
        return "must not have a user or a password"
    if parts.fragment:
        return "must not have a fragment (#)"
    if _is_among(host, port or (443 if parts.scheme == "https" else 80), allow):
        return None
    if parts.scheme == "http":
        return "must be https: plain http is for hosts in callbacks.allow"
    if checks.is_here(host):
        return "must be a host on the internet: others are for callbacks.allow"
    return None


def _is_among(host: str, port: int, allow: Collection[str]) -> bool:
    places = map(checks.host_and_port, allow)
    return any(name.lower() == host and own_port in (0, port) for name, own_port in places)
