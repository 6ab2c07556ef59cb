"""Whether a request comes from this host itself, and was meant for it. Pure.

Decides: where nobody shows who he is, the connection must come from a loopback address, and the
request must be meant for one. So no web page in this host's browser gets in (not even one whose
name was made to lead here), nor who comes by a proxy that shows itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from mailqueue.config.checks import is_loopback

_FORWARDED = frozenset(  # by which a proxy says that it is one
    {b"forwarded", b"via", b"x-real-ip"}
    | {b"x-forwarded-" + what for what in (b"for", b"host", b"port", b"proto", b"server")}
)


def is_direct(
    headers: Mapping[bytes, bytes], client: tuple[str, int] | None, names: Collection[str] = ()
) -> bool:
    """Whether it is so. ``client``: None for a Unix socket. ``names``: others of this host's."""
    origin = headers.get(b"origin")
    return (
        (client is None or _is_own(client[0]))
        and is_own_name(host_of(b"//" + headers.get(b"host", b"")), names)
        and (origin is None or is_own_name(host_of(origin), names))
        and headers.keys().isdisjoint(_FORWARDED)
    )


def is_own_name(host: str, names: Collection[str] = ()) -> bool:
    """Whether it is a name of this host: a loopback address, ``localhost``, or one of ``names``."""
    return _is_own(host) or host in names


_is_own = lru_cache(maxsize=1000)(is_loopback)


@lru_cache(maxsize=1000)
def host_of(url: bytes) -> str:
    """The host of a URL in lower case, without its port; empty if there is none."""
    try:
        return urlsplit(url.decode("latin-1")).hostname or ""
    except ValueError:
        return ""
