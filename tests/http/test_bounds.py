"""Clients that are slow, many or hostile, and servers that are away: others are served."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import TEST_PREFIX, Document
from tests.http_service import JSON, HttpService, Key
from tests.servers import BreakableServers
from tests.waiting import wait_until

LISTEN = "0A"  # a socket's state in /proc/net/tcp

MIB = 2**20
EMAIL = {"from": "ann@example.com", "to": "bob@example.org", "subject": "Hi", "text": "Hello"}


def head(key: Key, length: int | None, path: str = "/emails") -> bytes:
    """The beginning of a POST with a body of this length; None: in chunks."""
    body = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key.secret}\r\n"
        f"Content-Type: {JSON}\r\n{body}\r\n\r\n"
    ).encode()


@contextmanager
def connection(service: HttpService, octets: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall(octets)
        yield client


def answer(client: socket.socket) -> tuple[int, bytes]:
    """The status and the rest, up to the end of the connection; 0: it was cut without a word."""
    octets = b""
    try:
        while part := client.recv(65_536):
            octets += part
    except ConnectionResetError:
        pass
    return (int(octets.split()[1]) if octets else 0), octets


def is_served(service: HttpService, key: Key) -> bool:
    return service.ask("POST", "/emails", EMAIL, secret=key.secret).status == 201


@pytest.fixture
def hurried(settings: Document, tmp_path: Path) -> Iterator[HttpService]:
    """A service that waits for its clients for a second only."""
    settings["http"] |= {"timeout": 1}
    with HttpService(settings, tmp_path / "http") as service:
        yield service


# Slow clients ------------------------------------------------------------------------------------


def test_who_sends_nothing_or_a_byte_now_and_then_is_cut(hurried: HttpService, key: Key) -> None:
    beginnings = {
        "nothing": b"",
        "half a line": b"POST /ema",
        "half a head": head(key, 10)[:-2],
        "no body": head(key, 10_000),
        "half a body": head(key, 10_000) + b"{",
        "half a chunk": head(key, None) + b"1000\r\n{",
    }
    with ExitStack() as stack:
        clients = {
            name: stack.enter_context(connection(hurried, octets))
            for name, octets in beginnings.items()
        }
        dripping = threading.Event()

        def drip() -> None:
            """A byte each 50 ms keeps nobody connected."""
            while not dripping.wait(0.05):
                for client in clients.values():
                    try:
                        client.send(b"x")
                    except OSError:
                        continue

        threading.Thread(target=drip, daemon=True).start()
        assert is_served(hurried, key)
        said = {name: answer(client) for name, client in clients.items()}
        dripping.set()
    assert said["half a body"][0] == 408
    assert b'"name": "request_timeout"' in said["half a body"][1]
    assert {status for status, _ in said.values()} <= {0, 400, 408}
    wait_until(lambda: "clients.cut slow=" in hurried.log)


def test_who_uploads_slowly_but_steadily_is_not_cut(hurried: HttpService, key: Key) -> None:
    """Each 16 KiB are worth a second."""
    body = json.dumps(EMAIL | {"text": "x" * (2 * MIB)}).encode()
    with connection(hurried, head(key, len(body))) as client:
        for start in range(0, len(body), MIB):
            client.sendall(body[start : start + MIB])
            time.sleep(1.3)  # longer than the timeout; nothing depends on how much longer
        assert client.recv(12) == b"HTTP/1.1 201"


def test_who_does_not_read_answers_is_cut_and_they_take_bounded_memory(
    settings: Document, key: Key, tmp_path: Path
) -> None:
    settings["http"] |= {"timeout": 1, "max_memory": 40 * MIB}
    with HttpService(settings, tmp_path / "http") as service, ExitStack() as stack:
        large = EMAIL | {"text": "x" * (8 * MIB)}
        sent = service.ask("POST", "/emails", large, secret=key.secret)
        path = f"/emails/{sent.json['id']}"
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key.secret}\r\n\r\n"
        for _ in range(20):
            stack.enter_context(connection(service, request.encode()))
        wait_until(lambda: service.log.count("status=429") >= 15)
        assert is_served(service, key)
        assert service.resident < 400 * MIB
        wait_until(lambda: "clients.cut slow=" in service.log, timeout=30)


# Large bodies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_200_mb_is_refused_and_takes_no_memory(
    service: HttpService, key: Key, chunked: bool
) -> None:
    before = service.resident
    part = b"x" * MIB
    framed = b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
    with connection(service, head(key, None if chunked else 200 * MIB)) as client:
        sender = threading.Thread(target=_send, args=(client, framed, 200), daemon=True)
        sender.start()
        octets = client.recv(65_536)
        assert int(octets.split()[1]) == 413
        assert is_served(service, key)
        assert service.resident - before < 100 * MIB
        client.shutdown(socket.SHUT_RDWR)
        sender.join()


def _send(client: socket.socket, octets: bytes, times: int) -> None:
    try:
        for _ in range(times):
            client.sendall(octets)
    except OSError:
        return


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(
    service: HttpService, key: Key
) -> None:
    with connection(service, head(key, 30 * MIB)) as client:
        assert int(client.recv(65_536).split()[1]) == 413


def test_more_bytes_at_a_time_than_there_is_memory_for_are_refused(
    settings: Document, key: Key, tmp_path: Path
) -> None:
    settings["http"] |= {"max_memory": 20 * MIB}
    with HttpService(settings, tmp_path / "http") as service:
        with connection(service, head(key, 15 * MIB)) as first:
            first.sendall(b"{")
            wait_until(lambda: _status(service, head(key, 15 * MIB)) == 429)
            assert is_served(service, key)
            assert _status(service, head(key, None) + b"400000\r\n" + b" " * 0x400000) == 0
        wait_until(lambda: _status(service, head(key, 15 * MIB)) == 0)


def _status(service: HttpService, octets: bytes) -> int:
    """What is answered to half a request within half a second; 0: nothing, it is waited for."""
    with connection(service, octets) as client:
        client.settimeout(0.5)
        try:
            return int(client.recv(65_536).split()[1])
        except TimeoutError:
            return 0


def test_a_head_without_an_end_is_refused(service: HttpService, key: Key) -> None:
    with connection(service, b"GET / HTTP/1.1\r\n") as client:
        sender = threading.Thread(target=_send, args=(client, b"X-A: b\r\n" * 1000, 1000))
        sender.start()
        assert answer(client)[0] in {0, 431}
        sender.join()
    assert is_served(service, key)


@pytest.mark.parametrize("with_key", [False, True])
@pytest.mark.parametrize(
    "begin, more",
    [(b"0\r\n", b"a:b\r\n" * 20_000), (b"0\r\na:", b"b" * 100_000), (b"1;a=", b"b" * 100_000)],
    ids=["trailers", "a trailer", "an extension"],
)
def test_what_stands_beside_a_body_in_chunks_has_an_end_and_takes_no_memory(
    service: HttpService, key: Key, begin: bytes, more: bytes, with_key: bool
) -> None:
    before = service.resident
    octets = head(key, None) if with_key else head(key, None).replace(key.secret.encode(), b"")
    with connection(service, octets + begin) as client:
        sender = threading.Thread(target=_send, args=(client, more, 2000), daemon=True)
        sender.start()
        assert answer(client)[0] in {0, 401, 431}
        sender.join(30)
        assert not sender.is_alive()
    assert service.resident - before < 50 * MIB
    assert is_served(service, key)


def test_two_idempotency_keys_are_none(service: HttpService, key: Key) -> None:
    """A proxy and an application that take different ones would store an e-mail twice."""
    body = json.dumps(EMAIL).encode()
    request = head(key, len(body)).replace(b"Host:", b"Idempotency-Key: a\r\n" * 2 + b"Host:")
    with connection(service, request + body) as client:
        assert client.recv(12) == b"HTTP/1.1 400"


def test_trailers_are_no_headers(service: HttpService, key: Key) -> None:
    body = json.dumps(EMAIL).encode()
    chunks = b"%x\r\n%b\r\n0\r\nAuthorization: Bearer x\r\n\r\n" % (len(body), body)
    with connection(service, head(key, None) + chunks) as client:
        assert client.recv(12) == b"HTTP/1.1 201"


@pytest.mark.parametrize("octets", [b"\0" * 100, b"GET\r\n\r\n", b"{}\r\n\r\n", b"\x16\x03\x01"])
def test_what_is_no_http_is_malformed(service: HttpService, octets: bytes) -> None:
    with connection(service, octets) as client:
        status, said = answer(client)
    assert status == 400
    assert b'"name": "validation_error"' in said


# Many clients ------------------------------------------------------------------------------------


def test_10_000_connections_take_little_memory_and_the_newest_is_served(
    service: HttpService, key: Key
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    before = service.resident
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for number in range(min(10_000, hard - 1000)):
            client = stack.enter_context(connection(service, b"POST /em" if number % 2 else b""))
            client.settimeout(1)
        assert is_served(service, key)
        assert service.resident - before < 150 * MIB
    wait_until(lambda: "crowded=" in service.log)
    assert is_served(service, key)


def test_a_connection_with_a_request_is_not_the_one_that_goes(
    settings: Document, key: Key, tmp_path: Path
) -> None:
    settings["http"] |= {"connections": 10}
    body = json.dumps(EMAIL).encode()
    with HttpService(settings, tmp_path / "http") as service, ExitStack() as stack:
        busy = stack.enter_context(connection(service, head(key, len(body)) + body[:5]))
        wait_until(lambda: is_served(service, key))
        for _ in range(30):
            stack.enter_context(connection(service))
        assert is_served(service, key)
        busy.sendall(body[5:])
        assert busy.recv(12) == b"HTTP/1.1 201"


def test_requests_on_one_connection_are_answered_in_order(service: HttpService, key: Key) -> None:
    bodies = [json.dumps(EMAIL | {"to": to}).encode() for to in ("a@x.org", "nobody", "b@x.org")]
    requests = b"".join(head(key, len(body)) + body for body in bodies)
    with connection(service, requests) as client:
        client.settimeout(60)
        octets = b""
        while octets.count(b"HTTP/1.1") < 3 or not octets.endswith(b"}"):
            octets += client.recv(65_536)
    statuses = [part.split()[0] for part in octets.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"201", b"422", b"201"]


def test_who_calls_is_asked_before_the_rest_of_a_body_is_waited_for(
    service: HttpService, key: Key
) -> None:
    """A caller who is not known holds no memory, whatever the body is said to have."""
    request = head(key, 1000).replace(key.secret.encode(), b"mq_wrong") + b"x" * 999
    with connection(service, request) as client:
        client.settimeout(60)
        assert client.recv(12) == b"HTTP/1.1 401"


def test_a_body_in_pieces_is_read_as_a_whole(service: HttpService, key: Key) -> None:
    body = json.dumps(EMAIL).encode()
    octets = 2 * (head(key, len(body)) + body)
    for size in (50, len(octets) // 2 + 50, len(octets) - 1):
        with connection(service) as client:
            client.settimeout(60)
            for start in range(0, len(octets), size):
                client.sendall(octets[start : start + size])
            answers = b""
            while answers.count(b'{"id"') < 2:
                part = client.recv(65_536)
                assert part, answers
                answers += part
        assert answers.count(b"HTTP/1.1 201") == 2


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n\r\n"


@pytest.mark.parametrize("size", [None, 100, 7])
def test_who_asks_for_another_protocol_is_answered_in_this_one(
    service: HttpService, key: Key, size: int | None
) -> None:
    """Java's HttpClient asks for h2c with each request, also when it has a body."""
    body = json.dumps(EMAIL).encode()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    heads = [head(key, len(body))[:-2] + UPGRADE, head(key, None)[:-2] + UPGRADE]
    octets = heads[0] + body + heads[1] + chunked + heads[0] + body
    with connection(service) as client:
        for start in range(0, len(octets), size or len(octets)):
            client.sendall(octets[start : start + (size or len(octets))])
        client.settimeout(60)
        answers = b""
        while answers.count(b'{"id"') < 3 or not answers.endswith(b"}"):
            part = client.recv(65_536)
            assert part, answers
            answers += part
    assert answers.count(b"HTTP/1.1 201") == answers.count(b"HTTP/1.1 ") == 3


def test_it_is_no_proxy(service: HttpService) -> None:
    request = b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"
    with connection(service, request) as client:
        assert answer(client)[0] == 400


# Servers that are away ---------------------------------------------------------------------------


@pytest.fixture
def fragile(servers_to_break: BreakableServers, key: Key, tmp_path: Path) -> Iterator[HttpService]:
    settings: Document = servers_to_break.config | {"http": {"keys": [key.entry]}}
    settings["mongodb"] |= {"collection": TEST_PREFIX + "emails", "timeout": 6}
    with HttpService(settings, tmp_path / "http") as service:
        yield service


def test_while_mongodb_is_away_the_answer_is_503_at_once_and_then_201_again(
    fragile: HttpService, servers_to_break: BreakableServers, key: Key
) -> None:
    assert is_served(fragile, key)
    servers_to_break.mongod.pause()
    first = fragile.ask("POST", "/emails", EMAIL, secret=key.secret)
    assert (first.status, first.json["name"]) == (503, "service_unavailable")
    for method, path, body in [
        ("POST", "/emails", EMAIL),
        ("POST", "/emails/batch", [EMAIL]),
        ("GET", "/emails", None),
        ("GET", "/readyz", None),
    ]:
        begin = time.monotonic()
        said = fragile.ask(method, path, body, secret=key.secret)
        assert said.status == 503
        assert int(said.headers["Retry-After"]) > 0
        assert time.monotonic() - begin < 5  # one that waited for MongoDB would take 6
    assert fragile.ask("GET", "/healthz").status == 200
    servers_to_break.mongod.resume()
    wait_until(lambda: is_served(fragile, key), timeout=30)
    wait_until(lambda: fragile.ask("GET", "/readyz").status == 200)


# The end -----------------------------------------------------------------------------------------


def test_at_sigterm_what_is_under_way_is_answered_and_the_process_ends_with_0(
    settings: Document, key: Key, tmp_path: Path
) -> None:
    body = json.dumps(EMAIL).encode()
    with HttpService(settings, tmp_path / "http") as service:
        idle = socket.create_connection(("127.0.0.1", service.port))
        with connection(service, head(key, len(body)) + body[:-1]) as client:
            assert is_served(service, key)
            service.terminate()
            assert idle.recv(10) == b""  # it goes at once
            client.sendall(body[-1:])
            status, _ = answer(client)
            assert status == 201
        idle.close()
        assert service.wait() == 0


def test_processes_that_share_a_port_divide_the_clients_and_are_stopped_one_by_one(
    settings: Document, key: Key, tmp_path: Path
) -> None:
    settings["http"]["share_port"] = True
    with HttpService(settings, tmp_path / "first") as first:
        port = ("--port", str(first.port))
        with HttpService(settings, tmp_path / "second", *port) as second:
            assert second.url == first.url
            clients = [socket.create_connection(("127.0.0.1", first.port)) for _ in range(64)]
            wait_until(lambda: _connections(first) + _connections(second) == len(clients))
            assert _connections(first)
            assert _connections(second)
            for client in clients:
                client.close()
            first.terminate()
            assert first.wait() == 0
            assert is_served(second, key)


def _connections(service: HttpService) -> int:
    """Connections that the process has accepted."""
    ends = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    port = f":{service.port:04X}"
    sockets = {f"socket:[{end[9]}]" for end in ends if end[1].endswith(port) and end[3] != LISTEN}
    files = Path(f"/proc/{service.pid}/fd").iterdir()
    return sum(str(file.readlink()) in sockets for file in files)


# Small values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["[]", "{}", '{"a":0}', '"ab"', "1.5", "999", '"\\""'])
def test_values_that_take_many_times_their_octets_have_a_number(
    service: HttpService, key: Key, value: str
) -> None:
    before = service.resident
    body = b'{"to":[' + b",".join([value.encode()] * (8 * MIB // len(value))) + b"]}"
    with ThreadPoolExecutor(6) as pool:
        statuses = pool.map(
            lambda _: service.ask("POST", "/emails", body, secret=key.secret).status, range(6)
        )
        assert set(statuses) == {413}
    assert service.resident - before < 150 * MIB


def test_a_large_file_as_a_list_of_its_bytes_and_a_large_page_are_taken(
    service: HttpService, key: Key
) -> None:
    page = '<p class="a">{}[],:\\</p>\n' * 30_000
    files = [{"filename": "a.bin", "content": [255] * 1_000_000}]
    answer = service.ask(
        "POST", "/emails", EMAIL | {"html": page, "attachments": files}, secret=key.secret
    )
    assert answer.status == 201
