"""One post: to no address that is not public, and within bounds whatever the receiver does."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from mailqueue.callbacks import poster
from mailqueue.callbacks.addresses import is_public
from mailqueue.callbacks.poster import Poster
from mailqueue.vendors.wire import failures
from tests.vendor_servers import HttpServer, Received, Reply, Wire

SECONDS = 5.0


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "1.1.1.1", "8.8.8.8", "2606:2800:220:1::1", "2a00:1450:4001::1"]
)
def test_an_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.1.2.3", "169.254.169.254"),
        *("172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.168.1.1", "198.18.0.1"),
        *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
        *("255.255.255.255", "192.88.99.1"),
        *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1"),
        *("64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::"),
        *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1"),
        *("ff02::1", "2606:2800:220:1::1%1", "localhost", "", "1.2.3", "0x7f.1"),
    ],
)
def test_an_address_of_this_host_or_its_network_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.fixture
def allowing() -> Iterator[Poster]:
    """For receivers on loopback."""
    made = Poster(lambda host, _: host == "127.0.0.1")
    yield made
    made.close()


@pytest.fixture
def strict() -> Iterator[Poster]:
    made = Poster(lambda *_: False)
    yield made
    made.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """A name's answers, one look-up after the other; the last one stays."""
    answers: dict[str, list[list[str]]] = {}

    def look_up(host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
        found = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return answers


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.0.1", "100.100.0.1"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_leads_to_an_address_that_is_not_public_is_not_connected_to(
    address: str, scheme: str, strict: Poster, names: dict[str, list[list[str]]]
) -> None:
    names["hooks.example.com"] = [[address]]
    answer = strict.post(f"{scheme}://hooks.example.com/", b"{}", {}, SECONDS)
    assert answer.code == poster.NOT_PUBLIC


def test_an_address_in_the_url_itself_is_checked_too(strict: Poster) -> None:
    with HttpServer(Reply(200)) as server:
        for host in ("127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]"):
            url = f"http://{host}:{server.port}/"
            assert strict.post(url, b"{}", {}, SECONDS).code in (poster.NOT_PUBLIC, failures.DNS)
        assert server.connections == 0


def test_a_name_that_leads_elsewhere_at_the_second_look_up_is_looked_up_once(
    strict: Poster, names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebinding: public when it is checked, and this host when it is connected to."""
    tried: list[Any] = []

    def connect(_: socket.socket, place: Any) -> None:
        tried.append(place)
        raise ConnectionRefusedError

    with HttpServer(Reply(200)) as server:
        names["hooks.example.com"] = [["93.184.216.34"], ["127.0.0.1"]]
        monkeypatch.setattr(socket.socket, "connect", connect)
        url = f"http://hooks.example.com:{server.port}/"
        assert strict.post(url, b"{}", {}, SECONDS).code == failures.CONNECT_REFUSED
        assert strict.post(url, b"{}", {}, SECONDS).code == poster.NOT_PUBLIC
        assert server.connections == 0
    assert tried == [("93.184.216.34", server.port)]


def test_of_several_addresses_only_public_ones_are_connected_to(
    strict: Poster, names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def connect(_: socket.socket, place: Any) -> None:
        tried.append(place[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    names["hooks.example.com"] = [["127.0.0.1", "1.1.1.1", "10.0.0.1", "8.8.8.8"]]
    strict.post("https://hooks.example.com/", b"{}", {}, SECONDS)
    assert tried == ["1.1.1.1", "8.8.8.8"]


@pytest.mark.parametrize("status", [200, 204, 299, 301, 302, 307, 308, 404, 410, 429, 500])
def test_the_status_is_the_answer_and_no_redirect_is_followed(
    status: int, allowing: Poster
) -> None:
    with HttpServer(Reply(200)) as elsewhere:
        reply = Reply(status, {"Location": elsewhere.url, "Set-Cookie": "a=b"})
        with HttpServer(reply) as server:
            for _ in range(2):
                assert allowing.post(server.url, b"{}", {"X": "1"}, SECONDS).code == str(status)
            assert all("cookie" not in request.headers for request in server.requests)
        assert elsewhere.connections == 0


def test_a_connection_is_kept_and_one_that_was_closed_meanwhile_costs_nothing(
    allowing: Poster,
) -> None:
    with HttpServer(Reply(200, body=b"thanks")) as server:
        for _ in range(3):
            assert allowing.post(server.url, b"{}", {}, SECONDS).code == "200"
        assert server.connections == 1
        server.hang_up()
        assert allowing.post(server.url, b"{}", {}, SECONDS).code == "200"


def _hang(wire: Wire, _: Received) -> None:
    wire.stopped.wait()


def _drip(wire: Wire, _: Received) -> None:
    wire.drip(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000)


def _interim(wire: Wire, _: Received) -> None:
    wire.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000)


def test_a_trusted_certificate_is_good_for_its_own_host(
    allowing: Poster,
    untrusted: Any,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with HttpServer(Reply(200), tls=untrusted) as server:
        assert allowing.post(server.url, b"{}", {}, SECONDS).code == "200"


@pytest.mark.parametrize("behaviour", [_hang, _drip, _interim])
def test_a_receiver_that_hangs_or_drips_is_left_at_the_deadline(
    behaviour: Any, allowing: Poster
) -> None:
    with HttpServer(behaviour) as server:
        began = time.monotonic()
        assert allowing.post(server.url, b"{}", {}, 0.5).code == failures.DEADLINE
        assert time.monotonic() - began >= 0.5


def test_a_status_counts_though_its_body_never_ends(allowing: Poster) -> None:
    def endless(wire: Wire, _: Received) -> None:
        head = b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n"
        with contextlib.suppress(OSError):
            wire.sock.sendall(head)
            while not wire.stopped.is_set():
                wire.sock.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

    def slow(wire: Wire, _: Received) -> None:
        wire.drip(b"HTTP/1.1 500 No\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999)

    for behaviour in (endless, slow):
        with HttpServer(behaviour) as server:
            assert allowing.post(server.url, b"{}", {}, 1.0).code == "500"


def test_what_is_no_answer_is_a_word(allowing: Poster) -> None:
    def reset(wire: Wire, _: Received) -> None:
        wire.reset()

    def nonsense(wire: Wire, _: Received) -> None:
        wire.sock.sendall(b"220 mail.example.com ESMTP\r\n")
        wire.reset()

    for behaviour in (reset, nonsense):
        with HttpServer(behaviour) as server:
            code = allowing.post(server.url, b"{}", {}, SECONDS).code
            assert code in (failures.CONNECTION_LOST, failures.BAD_ANSWER)
    assert allowing.post(server.url, b"{}", {}, SECONDS).code == failures.CONNECT_REFUSED


def test_retry_after_is_read(allowing: Poster) -> None:
    with HttpServer(Reply(429, {"Retry-After": "90"})) as server:
        assert allowing.post(server.url, b"{}", {}, SECONDS).retry_after == 90
        server.behaviour = Reply(429, {"Retry-After": "Fri, 27 Nov 2026 10:00:00 GMT"})
        assert allowing.post(server.url, b"{}", {}, SECONDS).retry_after == 0


def test_a_certificate_that_is_not_trusted_ends_it(allowing: Poster, untrusted: Any) -> None:
    with HttpServer(Reply(200), tls=untrusted) as server:
        assert allowing.post(server.url, b"{}", {}, SECONDS).code == failures.TLS
        assert server.requests == []


def test_no_proxy_of_the_environment_is_asked(
    allowing: Poster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpServer(Reply(200)) as proxy, HttpServer(Reply(204)) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert allowing.post(server.url, b"{}", {}, SECONDS).code == "204"
        assert proxy.connections == 0
