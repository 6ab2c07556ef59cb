"""The way through a proxy, where the environment names one: ``HTTPS_PROXY`` and ``NO_PROXY``.

Decides: which vendors are reached through a proxy: those with an https address. The variables are
read as by most programs (``ALL_PROXY`` too, and in lower case). The proxy opens a tunnel (CONNECT)
and TLS goes through it, so it sees the vendor's name, but no key and no e-mail. SMTP servers, AWS's
endpoints for credentials and loopback hosts are reached directly.

Promises: a proxy that cannot be used is an error, it is never bypassed; no repr shows its login.
"""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from requests.utils import get_environ_proxies, select_proxy

from mailqueue.config.checks import is_loopback
from mailqueue.vendors.wire.response import BadResponse, Incoming, ResponseReader


class ProxyRefused(OSError):
    """The proxy opens no tunnel. ``code``: ``proxy``, or with its status, as in ``proxy-407``."""

    def __init__(self, code: str = "proxy") -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy's address, and its login as in ``Proxy-Authorization``."""

    host: str
    port: int
    login: str = field(default="", repr=False)

    def tunnel(self, sock: socket.socket, host: str, port: int) -> None:
        """Open a tunnel to this host. After that ``sock`` leads there. Raises ProxyRefused."""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        lines += [f"Proxy-Authorization: {self.login}"] if self.login else []
        incoming = Incoming(sock.recv)
        try:
            sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
            status = ResponseReader(incoming).final().status
        except (OSError, BadResponse):
            raise ProxyRefused from None
        if not 200 <= status < 300 or incoming:
            raise ProxyRefused(f"proxy-{status}")


def proxy_for(url: str) -> Proxy | None:
    """The proxy that the environment names for this URL. Raises ValueError if it is malformed."""
    if not url.startswith("https:") or is_loopback(urlsplit(url).hostname or ""):
        return None
    address = select_proxy(url, get_environ_proxies(url))
    if not address:
        return None
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname, parts.port or 80
        login = ":".join(unquote(word or "") for word in (parts.username, parts.password))
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.scheme != "http" or not re.fullmatch(r"[\w.:-]+", host, re.ASCII):
        raise ValueError("HTTPS_PROXY must be http://[user:password@]host:port; or set NO_PROXY")
    basic = b64encode(login.encode()).decode("ascii")
    return Proxy(host, port, f"Basic {basic}" if parts.username else "")
