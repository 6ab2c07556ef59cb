"""Who asks, and whether a page of ours led here.

Decides: a user is let in by a proxy that names him in ``http.dashboard.proxy_header``, or shows an
API key as the password of HTTP Basic, with any user name. A key that is bound to senders is not for
here, where all e-mails are shown. If neither is configured, everybody on this host is let in, and
nobody else. With ``http.dashboard.hosts`` only those names of this host are answered, so that no
page whose own name was made to lead here (DNS rebinding) speaks to a proxy's neighbour.

A request is our own if the browser says that it comes from this origin or from the user's hand
(``Sec-Fetch-Site``). Browsers leave that header out where a connection is neither encrypted nor
local; then ``Origin`` has to name the host that was asked, or ``Referer`` where nothing is changed.
What changes something, and what shows an e-mail's content, is done for our own requests only.

Promises: how long a look-up takes tells nothing of a secret.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from mailqueue.config import Config
from mailqueue.dashboard.pages import Refusal, User
from mailqueue.service.direct import host_of, is_direct, is_own_name
from mailqueue.service.keys import KeyRing

Headers = Mapping[bytes, bytes]
Client = tuple[str, int] | None

MAX_NAME = 128  # characters of a user's name
_CHALLENGE = ("www-authenticate", 'Basic realm="mailqueue", charset="UTF-8"')
_OWN = frozenset({b"same-origin", b"none"})


class Access:
    """Who is let in by a configuration."""

    def __init__(self, config: Config) -> None:
        self.replace(config)

    def replace(self, config: Config) -> None:
        """Another configuration, from the next request on."""
        dashboard = config.http.dashboard
        self._ring = KeyRing(config.http.keys)
        self._header = (dashboard.proxy_header or "").lower().encode()
        self._proxies = tuple(map(ip_network, dashboard.proxies))
        self._read_only = dashboard.read_only
        self._hosts = frozenset(map(str.lower, dashboard.hosts))

    def find(self, headers: Headers, client: Client) -> User:
        """Who asks. Raises ``Refusal``."""
        if self._hosts and not is_own_name(host_of(b"//" + headers.get(b"host", b"")), self._hosts):
            text = "This is not served under the name that was asked for: see http.dashboard.hosts."
            raise Refusal(403, "Not allowed", text)
        user = self._by_proxy(headers, client) or self._by_key(headers, client)
        if not user.may_see:
            text = f"The API key {user.name} may not look: it lacks the scope read."
            raise Refusal(403, "Not allowed", text)
        return user

    def _by_proxy(self, headers: Headers, client: Client) -> User | None:
        name = headers.get(self._header, b"") if self._header else b""
        if not name or not self._is_proxy(client):
            return None
        text = name.decode("utf-8", "replace").strip()[:MAX_NAME]
        return User(text, may_act=not self._read_only) if text else None

    def _is_proxy(self, client: Client) -> bool:
        if client is None:  # a Unix socket: nobody's address
            return False
        try:
            address = ip_address(client[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._proxies)

    def _by_key(self, headers: Headers, client: Client) -> User:
        if not self._ring:
            if not self._header and is_direct(headers, client, self._hosts):
                return User("", may_act=not self._read_only)
            raise self._stranger()
        secret = _password(headers.get(b"authorization", b""))
        key = None if secret is None else self._ring.find(secret)
        if key is None:
            text = "Log in with any user name, and an API key as the password."
            raise Refusal(401, "Who are you?", text, headers=[_CHALLENGE])
        if key.senders:
            text = f"The API key {key.name} is for the e-mails of its senders; here all are shown."
            raise Refusal(403, "Not allowed", text)
        may_act = key.may("operate") and not self._read_only
        return User(key.name, may_see=key.may("read"), may_act=may_act)

    def _stranger(self) -> Refusal:
        if self._header:
            text = "This request did not come through the proxy that logs users in."
        else:
            text = (
                "No API key is configured, so only requests from this host itself are served, under"
                " a name of its own: localhost or 127.0.0.1."
            )
        return Refusal(403, "Not allowed", text)


def _password(authorization: bytes) -> str | None:
    """What HTTP Basic has behind the colon; None: it is something else."""
    kind, _, credentials = authorization.partition(b" ")
    if kind.lower() != b"basic":
        return None
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return text.partition(":")[2]


def is_own(headers: Headers, *, changes: bool) -> bool:
    """Whether a page of this origin, or the user's own hand, sent the request.

    ``changes``: it changes something. Of any other, which has no ``Origin``, ``Referer`` may tell.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site in _OWN
    origin = headers.get(b"origin")
    if origin is None and not changes:
        origin = headers.get(b"referer")
    host = headers.get(b"host", b"").lower()
    return origin is not None and host != b"" and _host_of(origin) == host


def _host_of(url: bytes) -> bytes:
    try:
        return urlsplit(url.decode("latin-1")).netloc.rpartition("@")[2].lower().encode("latin-1")
    except ValueError:
        return b""
