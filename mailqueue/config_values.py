"""What the values of a configuration may be, and which keys each type of vendor has.

Decides: the checks that a value must pass beyond its type, how problems are collected, and
VENDOR_TYPES: one row per type of vendor with the place of its class and its own keys. Adding a
vendor is one row here.
Promises: a check says what is wrong in words, or None, and never quotes the value: it may be a
secret or an address.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailqueue.errors import ConfigError

Check = Callable[[Any], str | None]

_TYPES: Mapping[type, tuple[str, type | tuple[type, ...]]] = {
    str: ("a string", str),
    int: ("an integer", int),
    float: ("a number", (int, float)),
    bool: ("true or false", bool),
    tuple: ("a list of strings", (list, tuple)),
    dict: ("an object", Mapping),
}

# What a value must be, beyond its type: a function that says what is wrong, or None.


def fit(_: Any) -> None:
    return None


def between(low: float, high: float) -> Check:
    """From low to high, both included; NaN and infinity are outside of every range."""
    words = f"must be between {low:,} and {high:,}"
    return lambda value: None if low <= value <= high else words


def seconds(longest: int) -> Check:
    words = f"must be more than 0 and at most {longest:,} seconds"
    return lambda value: None if 0 < value <= longest else words


def one_of(*values: str) -> Check:
    words = f"must be one of {', '.join(values)}"
    return lambda value: None if value in values else words


def pattern(pattern: str, words: str) -> Check:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: None if compiled.fullmatch(value) else words


uri = pattern(r"mongodb(\+srv)?://[^/?]+.*", "must be mongodb://host or mongodb+srv://host")
tube = pattern(
    r"[A-Za-z0-9+/;.$_()][A-Za-z0-9+/;.$_()-]{0,199}",
    "must have 1 to 200 letters, digits or any of -+/;.$_() and not begin with -",
)
vendor_name = pattern(r"[A-Za-z0-9_.-]{1,64}", "must have 1 to 64 letters, digits or any of _.-")
sender = pattern(
    r"[^<>@\s,]+@[^<>@\s,]+|[^<>]*<[^<>@\s,]+@[^<>@\s,]+>", "must be one address: Ann <ann@x.org>"
)

path = pattern(r".+", "must be the path of a file")
helo = pattern(
    r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[A-Za-z0-9:.]+\]",
    "must be a host name or an address in brackets",
)
region = pattern(r"[a-z0-9]+(-[a-z0-9]+)+", "must be the name of a region, as eu-west-1")


def database(name: str) -> str | None:
    if name in {"admin", "config", "local"}:
        return "must not be one of MongoDB's own databases"
    if re.search(r'[/\\. "$*<>:|?]', name) or not 0 < len(name.encode()) < 64:
        return 'must have 1 to 63 bytes and none of /\\. "$*<>:|?'
    return None


def collection(name: str) -> str | None:
    # 180: with the longest database name and ".vendors" it stays within MongoDB's 255 bytes.
    dots = name.startswith((".", "system.")) or name.endswith(".") or ".." in name
    if dots or "$" in name or not 0 < len(name.encode()) <= 180:
        return 'must have 1 to 180 bytes, no "$", no empty part between dots, no leading "system."'
    return None


def host(host: str) -> str | None:
    name = re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", host)
    return None if name or _ip(host) else "must be a host name or an IP address"


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    address = _ip(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def host_and_port(authority: str) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port`` or ``[::1]:port``.

    The port is 0 when there is none; the host is empty when it is none of these.
    """
    match = re.fullmatch(r"(?:\[([^\]]*:[^\]]*)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", authority)
    if not match or host(match[1] or match[2]) or not 0 < int(match[3] or 1) < 65536:
        return "", 0
    return match[1] or match[2], int(match[3] or 0)


def server(address: str) -> str | None:
    return None if host_and_port(address)[1] else 'must be "host:port"'


def servers(addresses: Sequence[Any]) -> str | None:
    if not all(isinstance(address, str) for address in addresses):
        return "must be a list of strings"
    once = len(set(addresses)) == len(addresses)
    return None if once and addresses else "must name at least one server, and none twice"


def base_url(url: str) -> str | None:
    scheme, _, authority = url.partition("://")
    name, _ = host_and_port(authority)
    if scheme not in {"http", "https"} or not name:
        return "must be https://host[:port], without a path or anything more"
    if scheme == "http" and not is_loopback(name):
        return "must be https: plain http is for loopback hosts only"
    return None


def vendor_type(name: str) -> str | None:
    if name in VENDOR_TYPES or re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", name):
        return None
    known = ", ".join(sorted(VENDOR_TYPES))
    hint = did_you_mean(name, VENDOR_TYPES)
    return f'unknown vendor type{hint} (known: {known}, or "module:Class")'


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f', did you mean "{close[0]}"?' if close else ""


@dataclass(frozen=True, slots=True)
class Key:
    """One key as data. Absent is the same as None: the default, which may depend on other keys."""

    type: type
    meaning: str
    check: Check = fit
    default: Any = None
    required: bool = False
    secret: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with this value, or None. It never quotes the value."""
        if value is None and self.required:
            return "required key is missing"
        if value is None and self.default is None:
            return None
        fits = isinstance(value, bool) == (self.type is bool)
        if not fits or not isinstance(value, _TYPES[self.type][1]):
            return f"must be {_TYPES[self.type][0]}"
        if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
            return "must not contain control characters"
        return self.check(value)


@dataclass(frozen=True, slots=True)
class VendorType:
    """Where a vendor's class is (``module:Class``), its own keys, and a rule over all of them.

    ``needs_base_url``: the vendor has no address of its own.
    """

    path: str
    keys: Mapping[str, Key]
    rule: Callable[[Mapping[str, Any]], tuple[str, str] | None] = fit
    needs_base_url: bool = False

    def complete(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The own keys with their defaults; a default may look at the keys before it."""
        values = dict(own)
        for name, key in self.keys.items():
            if values.get(name) is None:
                values[name] = key.default(values) if callable(key.default) else key.default
        return values

    def problems(self, own: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What is wrong with completed own keys: key and problem."""
        # "" is a value that was not needed when the file was read (secrets=False).
        given = [(name, key) for name, key in self.keys.items() if own[name] != ""]
        checked = ((name, key.problem(own[name])) for name, key in given)
        found = [(name, problem) for name, problem in checked if problem]
        broken = None if found else self.rule(own)
        return [broken] if broken else found


_TLS_PORTS = {"starttls": 587, "implicit": 465, "none": 25}


def _smtp_port(keys: Mapping[str, Any]) -> int:
    """587 with `starttls`, 465 with `implicit`, 25 with `none`"""
    return _TLS_PORTS.get(str(keys["tls"]), 587)


def _smtp(keys: Mapping[str, Any]) -> tuple[str, str] | None:
    if (keys["username"] is None) != (keys["password"] is None):
        return "password", "username and password belong together"
    exposed = keys["tls"] == "none" and keys["password"] is not None
    if exposed and keys["host"] and not is_loopback(keys["host"]):
        return "tls", "a password is sent without TLS to a loopback host only"
    if keys["client_key"] is not None and keys["client_cert"] is None:
        return "client_key", "goes with client_cert"
    return None


def _ses(keys: Mapping[str, Any]) -> tuple[str, str] | None:
    if (keys["access_key_id"] is None) != (keys["secret_access_key"] is None):
        return "secret_access_key", "access_key_id and secret_access_key belong together"
    if keys["session_token"] is not None and keys["access_key_id"] is None:
        return "session_token", "goes with access_key_id and secret_access_key"
    return None


def _base64(key: str) -> str | None:
    try:
        return None if base64.b64decode(key, validate=True) else "must not be empty"
    except ValueError:
        return "must be base64, as the portal shows it"


_API_KEY = Key(str, "the account's API key", required=True, secret=True)

VENDOR_TYPES: Mapping[str, VendorType] = {
    "azure": VendorType(
        "mailqueue.vendors.azure:Azure",
        {"access_key": Key(str, "the resource's key", _base64, required=True, secret=True)},
        needs_base_url=True,
    ),
    "brevo": VendorType("mailqueue.vendors.brevo:Brevo", {"api_key": _API_KEY}),
    "mailersend": VendorType("mailqueue.vendors.mailersend:MailerSend", {"api_key": _API_KEY}),
    "mailgun": VendorType(
        "mailqueue.vendors.mailgun:Mailgun",
        {"api_key": _API_KEY, "domain": Key(str, "the sending domain", host, required=True)},
    ),
    "mailjet": VendorType(
        "mailqueue.vendors.mailjet:Mailjet",
        {
            "api_key": _API_KEY,
            "secret_key": Key(str, "the API key's secret", required=True, secret=True),
        },
    ),
    "mailtrap": VendorType("mailqueue.vendors.mailtrap:Mailtrap", {"api_key": _API_KEY}),
    "mandrill": VendorType("mailqueue.vendors.mandrill:Mandrill", {"api_key": _API_KEY}),
    "postmark": VendorType(
        "mailqueue.vendors.postmark:Postmark",
        {
            "api_key": Key(str, "the server's API token", required=True, secret=True),
            "message_stream": Key(str, "the message stream's id"),
        },
    ),
    "resend": VendorType("mailqueue.vendors.resend:Resend", {"api_key": _API_KEY}),
    "scaleway": VendorType(
        "mailqueue.vendors.scaleway:Scaleway",
        {
            "secret_key": Key(str, "the API key's secret", required=True, secret=True),
            "project_id": Key(str, "the Project's id", required=True),
            "region": Key(str, "the region of the API", host, "fr-par"),
        },
    ),
    "sendgrid": VendorType("mailqueue.vendors.sendgrid:SendGrid", {"api_key": _API_KEY}),
    "ses": VendorType(
        "mailqueue.vendors.ses:Ses",
        {
            "region": Key(str, "the AWS region", region, required=True),
            "access_key_id": Key(
                str, "absent: the environment's, else what botocore finds", secret=True
            ),
            "secret_access_key": Key(str, "goes with `access_key_id`", secret=True),
            "session_token": Key(str, "goes with keys that are lent", secret=True),
        },
        _ses,
    ),
    "smtp2go": VendorType("mailqueue.vendors.smtp2go:Smtp2Go", {"api_key": _API_KEY}),
    "smtp": VendorType(
        "mailqueue.vendors.smtp:Smtp",
        {
            "host": Key(str, "the server's host name or IP address", host, required=True),
            "tls": Key(str, "`starttls`, `implicit` or `none`", one_of(*_TLS_PORTS), "starttls"),
            "port": Key(int, "the server's port", between(1, 65535), _smtp_port),
            "username": Key(str, "login; goes with `password`"),
            "password": Key(str, "login; goes with `username`", secret=True),
            "helo": Key(
                str, "our name in EHLO; none: the host's full name, else its address", helo
            ),
            "client_cert": Key(str, "a PEM certificate to show the server", path),
            "client_key": Key(str, "its key, where that is in a file of its own", path),
            "connections": Key(
                int, "the most at a time, per process; none: as many as it takes", between(1, 1000)
            ),
        },
        _smtp,
    ),
    "sparkpost": VendorType("mailqueue.vendors.sparkpost:SparkPost", {"api_key": _API_KEY}),
}


class Problems(dict[str, str]):
    """What is wrong, by path; of several findings about one key the first stands."""

    def found(self, path: str, problem: str | None) -> None:
        if problem:
            self.setdefault(path, problem)

    def unknown(self, given: Iterable[Any], known: Iterable[str]) -> None:
        for name in map(str, given):
            if name not in known:
                self.found(name, "unknown key" + did_you_mean(name, known))

    def settle(self) -> None:
        if self:
            raise ConfigError([f"{path}: {problem}" for path, problem in self.items()])
