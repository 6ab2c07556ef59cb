"""Through a proxy where the environment names one, with TLS from end to end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.http import HttpVendor
from mailqueue.vendors.wire.proxy import Proxy, proxy_for
from tests.contract import sendgrid
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HOST, HttpServer, Wire, hang

CASE = sendgrid.CASE


class ConnectProxy:
    """Answers CONNECT with ``answer``, then passes bytes on; ``heads`` are the requests it saw."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Established\r\n\r\n") -> None:
        self.answer = answer
        self.heads: list[str] = []

    def __call__(self, wire: Wire) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += wire.sock.recv(1)
        self.heads.append(head.decode())
        place = head.split()[1].decode()
        wire.sock.sendall(self.answer)
        if b" 200 " in self.answer:
            _, _, port = place.rpartition(":")
            with socket.create_connection((HOST, int(port))) as onward:
                back = threading.Thread(target=_pass_on, args=(onward, wire.sock))
                back.start()
                _pass_on(wire.sock, onward)
                back.join(5)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while octets := source.recv(65536):
            sink.sendall(octets)
        sink.shutdown(socket.SHUT_WR)


Serve = Callable[..., HttpServer]
Make = Callable[[str], HttpVendor]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(HttpServer(*args, **kwargs))


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.vendor.test").configure_cert(context)
    return context


@pytest.fixture
def make(vendor: Vendors, authority: trustme.CA, tmp_path: Path) -> Make:
    """A vendor whose host name only the proxy knows."""
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))

    def make(url: str, name: str = "api.vendor.test") -> HttpVendor:
        url = url.replace(HOST, name)
        made = vendor("sendgrid", base_url=url, keys=CASE.keys, ca_file=str(trusted))
        assert isinstance(made, HttpVendor)
        return made

    return make


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


def test_https_goes_through_the_proxy_which_learns_the_host_and_nothing_else(
    serve: Serve,
    make: Make,
    tls: ssl.SSLContext,
    environment: pytest.MonkeyPatch,
    plain: Email,
    attempt: Attempts,
) -> None:
    server, proxy = serve(CASE.accepted, tls=tls), ConnectProxy()
    through = serve(hang, on_connect=proxy)
    environment.setenv("HTTPS_PROXY", f"http://user:p%40ss@{HOST}:{through.port}")
    made = make(server.url)
    assert [made.send(plain, attempt()).outcome for _ in range(2)] == [Outcome.ACCEPTED] * 2
    place = f"api.vendor.test:{server.port}"
    login = "Proxy-Authorization: Basic dXNlcjpwQHNz"
    assert proxy.heads == [f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{login}\r\n\r\n"]
    assert CASE.authorized(server.requests[0])
    assert "proxy-authorization" not in server.requests[0].headers
    assert "dXNl" not in repr(proxy_for(server.url))


def test_no_proxy_names_what_is_reached_without_one(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("https_proxy", "http://proxy.test:3128")
    environment.setenv("no_proxy", "example.org,.vendor.test,10.0.0.0/8")
    gone = ("https://api.vendor.test", "https://example.org:8443", "https://10.1.2.3")
    assert [proxy_for(url) for url in gone] == [None] * 3
    assert proxy_for("https://api.vendor.example") == Proxy("proxy.test", 3128)


def test_loopback_needs_no_proxy(
    serve: Serve,
    vendor: Vendors,
    environment: pytest.MonkeyPatch,
    plain: Email,
    attempt: Attempts,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        environment.setenv(name, f"http://{HOST}:1")
    assert proxy_for(f"https://{HOST}:8443") is proxy_for("https://localhost") is None
    made = vendor("sendgrid", base_url=serve(CASE.accepted).url, keys=CASE.keys)
    assert made.send(plain, attempt()).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    "answer,code",
    [
        (b"HTTP/1.1 407 Authentication Required\r\nContent-Length: 0\r\n\r\n", "proxy-407"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "proxy-302"),
        (b"HTTP/1.1 200 Established\r\n\r\nmore", "proxy-200"),
        (b"SSH-2.0-OpenSSH\r\n", "proxy"),
        (b"HTTP/1.1 200 Est", "proxy"),
    ],
)
def test_a_proxy_that_makes_no_way_leaves_the_email_surely_unsent(
    answer: bytes,
    code: str,
    serve: Serve,
    make: Make,
    tls: ssl.SSLContext,
    environment: pytest.MonkeyPatch,
    plain: Email,
    attempt: Attempts,
) -> None:
    def refuse(wire: Wire) -> None:
        wire.sock.recv(65536)
        wire.sock.sendall(answer)
        wire.sock.shutdown(socket.SHUT_RDWR)

    server, through = serve(CASE.accepted, tls=tls), serve(hang, on_connect=refuse)
    environment.setenv("HTTPS_PROXY", f"{HOST}:{through.port}")
    result = make(server.url).send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code=code, answered=False)
    assert server.connections == 0


def test_a_proxy_that_is_not_there_is_told_from_a_vendor_that_is_not(
    make: Make, environment: pytest.MonkeyPatch, plain: Email, attempt: Attempts
) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    environment.setenv("ALL_PROXY", f"http://{HOST}:{port}")
    result = make(f"https://{HOST}:1").send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code="proxy", answered=False)


def test_a_certificate_is_verified_behind_a_proxy_too(
    serve: Serve,
    make: Any,
    tls: ssl.SSLContext,
    environment: pytest.MonkeyPatch,
    plain: Email,
    attempt: Attempts,
) -> None:
    server, through = serve(CASE.accepted, tls=tls), serve(hang, on_connect=ConnectProxy())
    environment.setenv("HTTPS_PROXY", f"http://{HOST}:{through.port}")
    assert make(server.url, "other.vendor.test").send(plain, attempt()).code == "tls"
    assert server.requests == []


@pytest.mark.parametrize(
    "value",
    ["socks5://127.0.0.1:1080", "https://127.0.0.1:1", "http://", "http://h:99999", "http://a b"],
)
def test_a_proxy_of_another_kind_is_refused_by_name_and_not_passed_by(
    value: str, make: Make, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigError, match=r"vendors\.first: HTTPS_PROXY must be http://") as told:
        make("https://api.vendor.test")
    assert "1080" not in str(told.value)
