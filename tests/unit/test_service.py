"""The frame of a server process, and the keys of those who call it."""

from __future__ import annotations

import json
import resource
import socket
from hashlib import sha256
from pathlib import Path

import pytest

from mailqueue import cli
from mailqueue.config import ApiKeyConfig, Config
from mailqueue.errors import ConfigError
from mailqueue.service import is_loopback, listen, room_for, url
from mailqueue.service.keys import ApiKey, KeyRing, digest_of, new_secret
from tests.for_each import for_each


@for_each("host", ["127.0.0.1", "::1"])
def test_port_0_is_any_and_the_url_has_the_real_one(host: str) -> None:
    with listen(host, 0) as listener:
        place = url("http", listener)
        assert place == f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        socket.create_connection(listener.getsockname()[:2]).close()


def test_a_port_that_is_in_use_is_a_problem_of_the_configuration() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            ConfigError,
            match=rf"^cannot listen on port {port} of 127.0.0.1: Address already in use$",
        ):
            listen("127.0.0.1", port)


def test_a_port_is_shared_only_where_all_say_so() -> None:
    with listen("127.0.0.1", 0, shared=True) as listener:
        port = listener.getsockname()[1]
        with listen("127.0.0.1", port, shared=True) as other:
            assert other.getsockname() == listener.getsockname()
        with pytest.raises(ConfigError, match="Address already in use"):
            listen("127.0.0.1", port)


def test_an_address_of_another_host_is_one_too() -> None:
    with pytest.raises(ConfigError, match=r"^cannot listen on port 0 of 192\.0\.2\.1: "):
        listen("192.0.2.1", 0)


def test_only_addresses_of_this_host_alone_are_loopback() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(
        map(is_loopback, ["0.0.0.0", "::", "192.0.2.1", "mail.example.org"])
    )  # nothing is bound


@pytest.mark.parametrize(
    "files, connections", [(100_000, 1000), (400, 300), (50, 1), (resource.RLIM_INFINITY, 1000)]
)
def test_there_are_no_more_connections_than_files(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert room_for(1000) == connections


# Keys ---------------------------------------------------------------------------------------------


def key(*senders: str) -> ApiKey:
    return ApiKey("shop", digest_of("mq_x"), frozenset({"send"}), senders)


def test_a_ring_finds_the_key_of_a_secret_and_of_no_other() -> None:
    secrets = [new_secret() for _ in range(3)]
    ring = KeyRing([ApiKeyConfig(f"k{i}", digest_of(each)) for i, each in enumerate(secrets)])
    assert [found.name for each in secrets if (found := ring.find(each))] == ["k0", "k1", "k2"]
    for wrong in ("", secrets[0][:-1], secrets[0] + " ", digest_of(secrets[0]), "\udc80\xfc"):
        assert ring.find(wrong) is None
    assert ring
    assert not KeyRing([])


def test_a_secret_has_32_random_bytes_and_its_digest_is_of_all_its_letters() -> None:
    secret = new_secret()
    assert len(secret) == len("mq_") + 43
    assert digest_of(secret) == sha256(secret.encode()).hexdigest()


def test_a_key_is_for_its_scopes_only_and_does_not_show_its_digest() -> None:
    assert (key().may("send"), key().may("read"), key().may("operate")) == (True, False, False)
    assert repr(key("ann@example.org")) == "ApiKey('shop')"


@for_each(
    "sender, address, may",
    [
        ("*@example.org", "ann@example.org", True),
        ("*@example.org", "Ann@EXAMPLE.org", True),
        ("@example.org", "ann@example.org", True),
        ("*@example.org", "ann@mail.example.org", False),
        ("*@example.org", "ann@badexample.org", False),
        ("*@example.org", "ann@example.org.evil.com", False),
        ("*@example.org", '"ann@example.org"@evil.com', False),
        ("*@b\xfccher.example", "ann@xn--bcher-kva.example", True),
        ("*@xn--bcher-kva.example", "ann@B\xdcCHER.example", True),
        ("ann@example.org", "ann@example.org", True),
        ("ann@example.org", "Ann@Example.org", True),
        ("ann@example.org", "joann@example.org", False),
        ("ann@example.org", "*@example.org", False),
        ("ann@example.org", "*ann@example.org", False),
        ("*ann@example.org", "*ann@example.org", True),
        ("*ann@example.org", "ann@example.org", False),
        ("sue@example.org", "\u017fue@example.org", False),  # a long s
        ("kim@example.org", "\u212aim@example.org", False),  # the sign for Kelvin
        ("strasse@example.org", "stra\xdfe@example.org", False),
        ("*@example.org", "no address", False),
        ("*@example.org", "", False),
    ],
)
def test_a_key_may_send_from_its_own_addresses_and_domains(
    sender: str, address: str, may: bool
) -> None:
    assert key("x@other.example", sender).may_send_from(address) is may
    assert key().may_send_from(address)


def test_the_command_line_makes_a_key_that_the_configuration_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And needs no configuration for it."""
    monkeypatch.chdir(tmp_path)
    options = ["--scope", "send,operate", "--from", "*@example.com", "--from", "ann@example.org"]
    assert cli.main(["key", "new", "shop", *options]) == 0
    secret, entry = capsys.readouterr().out.splitlines()
    config = Config.from_mapping({"http": {"keys": [json.loads(entry)]}})
    found = KeyRing(config.http.keys).find(secret)
    assert found
    assert found.scopes == {"send", "operate"}
    assert found.senders == ("*@example.com", "ann@example.org")


def test_a_key_is_for_sending_and_reading_unless_something_else_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["key", "new", "shop", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["entry"].keys() == {"name", "sha256", "scope"}
    assert data["entry"]["scope"] == ["send", "read"]
    assert digest_of(data["secret"]) == data["entry"]["sha256"]


@pytest.mark.parametrize(
    "arguments",
    [("shop", "--scope", "sned"), ("shop", "--from", "ann"), ("a b",), (), ("shop", "--scope", "")],
)
def test_a_key_that_the_configuration_would_refuse_is_not_made(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["key", "new", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
