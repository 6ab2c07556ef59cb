"""The way through a proxy, where the environment names one: ``HTTPS_PROXY`` and ``NO_PROXY``.

Decides: which vendors are reached through a proxy. Those with an https address, as every program
reads these variables (``ALL_PROXY`` too, and in lower case); a proxy is asked by CONNECT for a way
to the vendor, and TLS goes through it: it sees the vendor's name, no key and no e-mail. SMTP, the
role endpoints of AWS and loopback hosts (plain http is for these only) go without.

Promises: a proxy that cannot be used is refused by name, never passed by; no repr shows its login.
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
    """There is no way through the proxy; ``code`` says why: ``proxy``, or with its status."""

    def __init__(self, code: str = "proxy") -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is, and its login as ``Proxy-Authorization`` has it."""

    host: str
    port: int
    login: str = field(default="", repr=False)

    def tunnel(self, sock: socket.socket, host: str, port: int) -> None:
        """Ask for a way to this vendor; from here on ``sock`` leads to it. Raises ProxyRefused."""
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
    """The proxy that the environment names for this address. Raises ValueError if of no use."""
    if not url.startswith("https:") or is_loopback(urlsplit(url).hostname or ""):
        return None
    given = select_proxy(url, get_environ_proxies(url))
    if not given:
        return None
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        host, port = parts.hostname, parts.port or 80
        login = ":".join(unquote(word or "") for word in (parts.username, parts.password))
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.scheme != "http" or not re.fullmatch(r"[\w.:-]+", host, re.ASCII):
        raise ValueError("HTTPS_PROXY must be http://[user:password@]host:port; or set NO_PROXY")
    basic = b64encode(login.encode()).decode("ascii")
    return Proxy(host, port, f"Basic {basic}" if parts.username else "")
