"""What a user's MongoDB URI says about durability, which is ignored, and about TLS. Pure.

Decides: which options are dropped. A URI is often shared with other services, so an option that
would weaken "stored means durable" is not an error: mailqueue goes its own way, and says so.

========================  =======================================================================
``w`` ``journal``         a write counts when a majority has it in the journal
``wtimeoutMS``            it may last as long as ``mongodb.timeout``
``retryWrites``           the driver repeats a write once when the primary changes
``readConcernLevel``      where it matters, only what a majority has is believed
``readPreference`` …      the primary is asked
========================  =======================================================================
"""

from __future__ import annotations

from urllib.parse import unquote_plus

# Options in lower case, each with the value that does no harm. With another value the option is
# dropped. None: every value is dropped.
_DURABILITY: dict[str, str | None] = {
    "w": "majority",
    "journal": "true",
    "j": "true",
    "fsync": None,
    "wtimeoutms": None,
    "wtimeout": None,
    "retrywrites": "true",
    "readconcernlevel": "majority",
    "readpreference": "primary",
    "readpreferencetags": None,
    "maxstalenessseconds": None,
}


def weak_options(uri: str) -> list[str]:
    """The names of the options that ask for less than mailqueue promises, as they are spelled."""
    return [name for name, value in _options(uri) if not _is_harmless(name, value)]


def without_weak_options(uri: str) -> str:
    """The same URI without them."""
    address, mark, _ = uri.partition("?")
    harmless = [pair for pair in _pairs(uri) if _is_harmless(*_split(pair))]
    return address + (mark + "&".join(harmless) if harmless else "")


def hosts(uri: str) -> list[str]:
    """The hosts that it names, without their ports; a socket in a folder is on none."""
    authority = uri.partition("://")[2].partition("?")[0].partition("/")[0].rpartition("@")[2]
    return [_host(host) for host in authority.split(",") if not unquote_plus(host).startswith("/")]


def _host(address: str) -> str:
    inside, bracket, _ = address.removeprefix("[").partition("]")
    return inside if bracket else address.partition(":")[0]


def files(uri: str) -> list[str]:
    """The names of the options that lead to files, as they are spelled."""
    return [name for name, _ in _options(uri) if name.lower().endswith("file")]


def weak_tls(uri: str) -> str | None:
    """Why a stranger on the way could read or answer, as far as the URI tells; else None."""
    options = {name.lower(): value.lower() for name, value in _options(uri)}
    default = str(uri.startswith("mongodb+srv://")).lower()
    if options.get("tls", options.get("ssl", default)) != "true":
        return "without TLS"
    for name in ("tlsInsecure", "tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames"):
        if options.get(name.lower()) == "true":
            return f"with {name}"
    return None


def _is_harmless(name: str, value: str) -> bool:
    allowed = _DURABILITY.get(name.lower(), value)
    return allowed is not None and value.lower() == allowed.lower()


def _options(uri: str) -> list[tuple[str, str]]:
    return [_split(pair) for pair in _pairs(uri)]


def _pairs(uri: str) -> list[str]:
    """Options are separated by ``&``, or by ``;`` as in the old form."""
    query = uri.partition("?")[2]
    return [pair for pair in query.replace(";", "&").split("&") if pair]


def _split(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    return unquote_plus(name), unquote_plus(value)
