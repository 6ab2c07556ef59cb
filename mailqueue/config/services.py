"""The sections of the services through which e-mails come in (HTTP, SMTP), and of what follows.

Decides: their keys, as ``config`` does for the others, and what an API key may be.
Promises: no repr shows a digest or an address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Literal

from mailqueue.config import checks
from mailqueue.config.keys import Problems
from mailqueue.config.section import Section, key, section_list, section_of

SCOPES = ("send", "read", "operate")  # what a key may be for


def _networks(values: Sequence[Any]) -> str | None:
    for n, value in enumerate(values, 1):
        try:
            ip_network(value)
        except ValueError:
            return f"entry {n} must be an IP address or a network, for example 10.0.0.0/8"
    return None


def _host_names(values: Sequence[Any]) -> str | None:
    for n, value in enumerate(values, 1):
        if not isinstance(value, str) or checks.host(value):
            return f"entry {n} must be a host name or an IP address, without a port"
    return None


_HOST, _PORT = "address to listen at", checks.between(0, 65_535)


@dataclass(frozen=True, slots=True)
class ApiKeyConfig(Section):
    """Who may use the service, and for what. Of the secret there is only the digest."""

    name: str = key(str, ..., "unique; says who it was", checks.vendor_name)
    sha256: str = key(
        str, ..., "SHA-256 of the secret: `mailqueue key new`", checks.sha256, repr=False
    )
    scope: tuple[str, ...] = key(
        tuple,
        ("send", "read"),
        "`send`: new e-mails; `read`: look at them; `operate`: change them",
        checks.several_of(*SCOPES),
    )
    from_: tuple[str, ...] = key(
        tuple,
        (),
        "senders that it may use: addresses, or `*@example.org`; none: all",
        checks.senders,
        repr=False,
    )

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        object.__setattr__(self, "scope", tuple(self.scope))
        object.__setattr__(self, "from_", tuple(self.from_))


_HEADER = checks.pattern(
    r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", "must be the name of a header, as X-Forwarded-User"
)


@dataclass(frozen=True, slots=True)
class Dashboard(Section):
    """The web pages for operators: `mailqueue http --dashboard`."""

    read_only: bool = key(bool, False, "nobody can change anything on its pages")
    proxy_header: str | None = key(
        str, None, "header in which a proxy names the user that it has let in", _HEADER
    )
    proxies: tuple[str, ...] = key(
        tuple, (), "addresses or networks of those proxies; from others it is not read", _networks
    )
    hosts: tuple[str, ...] = key(
        tuple,
        (),
        "names that it is asked for by, beside this host's own; none: any, if users log in",
        _host_names,
    )

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        object.__setattr__(self, "proxies", tuple(self.proxies))
        object.__setattr__(self, "hosts", tuple(self.hosts))

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        if (attributes.get("proxy_header") is None) == bool(attributes.get("proxies")):
            name = "proxies" if attributes.get("proxy_header") else "proxy_header"
            problems.add(name, "required key is missing: proxies and proxy_header go together")


@dataclass(frozen=True, slots=True)
class Http(Section):
    """The HTTP service. Its keys are also the passwords of the SMTP service."""

    host: str = key(str, "127.0.0.1", _HOST, checks.host)
    port: int = key(int, 8080, "its port; 0: any", _PORT)
    keys: tuple[ApiKeyConfig, ...] = key(list, (), "who may use it; none: all, from this host only")
    timeout: float = key(
        float,
        20,
        "longest time to send a request or to read an answer, and one more for each 16 KiB",
        checks.seconds(3600),
    )
    requests: int = key(int, 1000, "requests at a time, per process", checks.between(1, 100_000))
    connections: int = key(
        int, 10_000, "connections at a time, per process", checks.between(1, 1_000_000)
    )
    max_memory: int = key(
        int, 128 * 2**20, "bytes of requests in memory", checks.between(2**20, 2**40)
    )
    share_port: bool = key(
        bool, False, "further processes of this user may have the same port (Linux)"
    )
    dashboard: Dashboard = key(object, {}, "the web pages of `mailqueue http --dashboard`")  # noqa: RUF009  # ``key`` makes a field, no value

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        dashboard = section_of(Dashboard, self.dashboard, Problems())
        object.__setattr__(self, "dashboard", dashboard)
        keys = (section_of(ApiKeyConfig, entry, Problems()) for entry in self.keys)
        object.__setattr__(self, "keys", tuple(keys))

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        entries = () if "keys" in problems else attributes.get("keys", ())
        section_list("keys", ApiKeyConfig, entries, problems)
        section_of(Dashboard, attributes.get("dashboard", {}), problems.under("dashboard"))


@dataclass(frozen=True, slots=True)
class Smtp(Section):
    """The SMTP service."""

    host: str = key(str, "127.0.0.1", _HOST, checks.host)
    port: int = key(int, 2525, "its port; 0: any", _PORT)
    tls: Literal["starttls", "implicit", "none"] = key(
        str,
        "starttls",
        "`starttls`, where there is a certificate; `implicit` or `none`",
        checks.one_of("starttls", "implicit", "none"),
    )
    certificate: str | None = key(str, None, "PEM file of its certificate", checks.path)
    key_: str | None = key(str, None, "PEM file of the private key, if it is separate", checks.path)
    connections: int = key(int, 1000, "most connections at a time", checks.between(1, 100_000))
    max_memory: int = key(
        int, 64 * 2**20, "bytes of messages that are being received", checks.between(1, 2**40)
    )
    timeout: float = key(
        float, 300, "longest time for a command, and for 64 KiB of a message", checks.seconds(3600)
    )

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        if attributes.get("certificate") is None:
            if attributes.get("tls") == "implicit":
                problems.add("certificate", "required key is missing: tls is implicit")
            if attributes.get("key_") is not None:
                problems.add("certificate", "required key is missing: key belongs to it")


SUPPRESSION_REASONS = ("bounced", "complained", "unsubscribed", "manual")


@dataclass(frozen=True, slots=True)
class Suppression(Section):
    """Who gets no e-mail any more. Without this section there is no such list."""

    apply: tuple[str, ...] = key(
        tuple,
        ("bounced", "complained"),
        "reasons that stop e-mails, also `unsubscribed`; `manual` always does",
        checks.several_of(*SUPPRESSION_REASONS),
    )
    vendor_lists: bool = key(
        bool, False, "also enter who is refused only because a vendor's own list has them"
    )

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        object.__setattr__(self, "apply", tuple(self.apply))


@dataclass(frozen=True, slots=True)
class Staging(Section):
    """Who may get e-mail, where production is only rehearsed. Without this section: everybody."""

    redirect_to: str | None = key(
        str, None, "who gets what is for anybody else; none: nobody", checks.mailbox, repr=False
    )
    allow: tuple[str, ...] = key(
        tuple,
        (),
        "addresses and domains (`@example.org`) that get theirs",
        checks.allowed,
        repr=False,
    )

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        object.__setattr__(self, "allow", tuple(self.allow))

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        if attributes.get("redirect_to") is None and not attributes.get("allow"):
            problems.add("redirect_to", "required key is missing, where allow is empty")
