"""The checks that a value of the configuration must pass beyond its type.

Decides: what each kind of value may be: a number's range, a name of MongoDB's, a host, an address.
Promises: a check returns what is wrong, or None. It never quotes the value, which may be a secret
or an address.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Check = Callable[[Any], str | None]


def anything(_: Any) -> None:
    """No further check."""


def between(low: float, high: float) -> Check:
    """From low to high, both included. NaN and infinity are outside every range."""
    problem = f"must be between {low:,} and {high:,}"
    return lambda value: None if low <= value <= high else problem


def seconds(longest: int) -> Check:
    problem = f"must be more than 0 and at most {longest:,} seconds"
    return lambda value: None if 0 < value <= longest else problem


def one_of(*values: str) -> Check:
    problem = f"must be one of {', '.join(values)}"
    return lambda value: None if value in values else problem


def pattern(regex: str, problem: str) -> Check:
    compiled = re.compile(regex, re.ASCII)
    return lambda value: None if compiled.fullmatch(value) else problem


uri = pattern(r"mongodb(\+srv)?://[^/?]+.*", "must be mongodb://host or mongodb+srv://host")
tube = pattern(
    r"[A-Za-z0-9+/;.$_()][A-Za-z0-9+/;.$_()-]{0,189}",
    "must have 1 to 190 letters, digits or any of -+/;.$_() and not begin with -",
)
vendor_name = pattern(r"[A-Za-z0-9_.-]{1,64}", "must have 1 to 64 letters, digits or any of _.-")
sender = pattern(
    r"[^<>@\s,]+@[^<>@\s,]+|[^<>]*<[^<>@\s,]+@[^<>@\s,]+>",
    "must be one address, for example Ann <ann@x.org>",
)

sha256 = pattern(r"[0-9a-f]{64}", "must be 64 hexadecimal digits, as `mailqueue key new` prints it")
_SENDERS = pattern(
    r"(\*?|[^<>@\s,]+)@[^<>@\s,]+",
    "must be one address, or *@ and a domain, for example *@example.org",
)

path = pattern(r".+", "must be the path of a file")
helo = pattern(
    r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[A-Za-z0-9:.]+\]",
    "must be a host name or an address in brackets",
)
region = pattern(r"[a-z0-9]+(-[a-z0-9]+)+", "must be a region name, for example eu-west-1")
configuration_set = pattern(r"[A-Za-z0-9_-]{1,64}", "must have 1 to 64 letters, digits, _ or -")

_REDIS_TLS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_REDIS_URL = "must be a URL: in a password, % / ? # are written %25 %2F %3F %23"


def strings(values: Sequence[Any]) -> str | None:
    return None if all(isinstance(value, str) for value in values) else "must be a list of strings"


_ATOM = r"[A-Za-z0-9!#$%&'+/=?^_`{|}~-]+"
_LOCAL = re.compile(rf"(?=.{{1,64}}$){_ATOM}(\.{_ATOM})*")
_DOMAIN = re.compile(r"(?=.{1,180}$)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")


def mailbox(text: str) -> str | None:
    local, at, domain = text.rpartition("@")
    fits = at and _LOCAL.fullmatch(local) and _is_domain(domain)
    return None if fits else "must be one address, for example ann@example.org"


def _is_domain(name: str) -> bool:
    import idna

    try:
        return _DOMAIN.fullmatch(idna.encode(name, uts46=True).decode()) is not None
    except UnicodeError:
        return False


def allowed(values: Sequence[Any]) -> str | None:
    """Addresses, and domains."""
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values):
        return "must be a list of strings"
    for n, text in enumerate(texts, 1):
        if mailbox(text) and not (text.startswith("@") and _is_domain(text[1:])):
            return f"entry {n} must be an address, or @ and a domain, for example @example.org"
    return None


_ADDRESSING = re.compile(
    "to|b?cc|.*recipients?.*|personali[sz]ations?|.*destinations?|messageversions|messages"
    "|.*address(es)?|.*lists?(id)?"
)


def may_address(name: str, value: Any) -> bool:
    """Whether an option of a vendor may name somebody who then gets the e-mail."""
    if _ADDRESSING.fullmatch(re.sub("[^a-z]", "", name.lower())):
        return True
    if isinstance(value, Mapping):
        return any(may_address(str(key), each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return any(may_address("", each) for each in value)
    return isinstance(value, str) and "@" in value


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


def is_here(host: str) -> bool:
    """Whether it names this host, or an address that is not on the internet."""
    address = _ip(host)
    return host.lower() == "localhost" if address is None else not address.is_global


def host_and_port(authority: str) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port`` or ``[::1]:port``.

    The port is 0 when there is none; the host is empty when it is none of these.
    """
    # An IPv6 address in brackets, or a name or an IPv4 address; then perhaps a port.
    match = re.fullmatch(r"(?:\[([^\]]*:[^\]]*)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", authority)
    if not match or host(match[1] or match[2]) or not 0 < int(match[3] or 1) < 65536:
        return "", 0
    return match[1] or match[2], int(match[3] or 0)


def server(address: str) -> str | None:
    return None if host_and_port(address)[1] else 'must be "host:port"'


def servers(addresses: Sequence[Any]) -> str | None:
    if not all(isinstance(address, str) for address in addresses):
        return "must be a list of strings"
    distinct = len(set(addresses)) == len(addresses)
    return None if distinct and addresses else "must list at least one server, each once"


def several_of(*values: str) -> Check:
    problem = f"must list one or more of {', '.join(values)}"
    return lambda chosen: None if chosen and all(value in values for value in chosen) else problem


def senders(patterns: Sequence[Any]) -> str | None:
    if not all(isinstance(each, str) for each in patterns):
        return "must be a list of strings"
    return next(filter(None, map(_SENDERS, patterns)), None)


def base_url(url: str) -> str | None:
    scheme, _, authority = url.partition("://")
    name, _ = host_and_port(authority)
    if scheme not in {"http", "https"} or not name:
        return "must be https://host[:port] and nothing after it"
    if scheme == "http" and not is_loopback(name):
        return "must be https: plain http is allowed for loopback hosts only"
    return None


def redis_url(url: str) -> str | None:
    """The forms that redis-py reads; an option that it would pass on unread is refused."""
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        port = parts.port
    except ValueError:
        return _REDIS_URL
    if parts.fragment:
        return _REDIS_URL
    if parts.scheme not in {"redis", "rediss", "unix"}:
        return "must be redis://host, rediss://host or unix:///path"
    if parts.scheme == "unix":
        if parts.hostname or not parts.path.startswith("/"):
            return "must be unix:// and an absolute path"
    elif (
        host(parts.hostname or "") or port == 0 or not re.fullmatch(r"/?\d*", parts.path, re.ASCII)
    ):
        return "must have a host, and after it at most a port and the number of a database"
    names = {"unix": {"db"}, "redis": set[str]()}.get(parts.scheme, _REDIS_TLS)
    if not options.keys() <= names or not options.get("db", "0").isdecimal():
        return f"may have only these options: {', '.join(sorted(names)) or 'none'}"
    return None


def queue_url(url: str) -> str | None:
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    if path.endswith(".fifo"):
        return "must be a standard queue: a FIFO queue knows no delay of a single message"
    if base_url(f"{scheme}://{authority}") or not re.fullmatch(r"[A-Za-z0-9/_-]+", path):
        return "must be the URL of a queue: https://host/account/name (http for loopback hosts)"
    return None


def base64_key(key: str) -> str | None:
    try:
        return None if base64.b64decode(key, validate=True) else "must not be empty"
    except ValueError:
        return "must be base64, as the portal shows it"
