"""Who may call: API keys with scopes and senders; without keys this host only."""

from __future__ import annotations

import asyncio
import hmac
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.http import app
from mailqueue.http.auth import Callers
from mailqueue.http.errors import Problem
from tests.conftest import Document
from tests.http_service import HttpService, Key

EMAIL = {"from": "ann@example.com", "to": "bob@example.org", "subject": "Hi", "text": "Hello"}
CALLS = [
    ("POST", "/emails", EMAIL, "send"),
    ("POST", "/emails/batch", [EMAIL], "send"),
    ("GET", "/emails", None, "read"),
    ("GET", "/emails/65f1c0ffee65f1c0ffee65f1", None, "read"),
    ("PATCH", "/emails/65f1c0ffee65f1c0ffee65f1", {}, "operate"),
    ("POST", "/emails/65f1c0ffee65f1c0ffee65f1/cancel", None, "operate"),
]


@pytest.mark.parametrize("method, path, body, scope", CALLS)
@pytest.mark.parametrize(
    "header, name",
    [
        (None, "missing_api_key"),
        ("", "missing_api_key"),
        ("Basic YTpi", "missing_api_key"),
        ("Bearer", "invalid_api_key"),
        ("Bearer mq_wrong", "invalid_api_key"),
        ("Bearer \u00fc", "invalid_api_key"),
    ],
)
def test_who_shows_no_key_of_ours_gets_nothing(
    service: HttpService,
    emails: Collection[Document],
    method: str,
    path: str,
    body: object,
    scope: str,
    header: str | None,
    name: str,
) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = service.ask(method, path, body, headers=headers)
    assert (answer.status, answer.json["name"]) == (401, name)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert emails.count_documents({}) == 0


def test_the_digest_of_a_key_is_no_key(service: HttpService, key: Key) -> None:
    answer = service.ask("GET", "/emails", secret=key.entry["sha256"])
    assert answer.status == 401


@pytest.mark.parametrize("own_scope", ["send", "read", "operate"])
def test_a_key_is_for_the_calls_of_its_scope_only(
    settings: Document, tmp_path: Path, own_scope: str
) -> None:
    limited = Key.new("limited", own_scope)
    settings["http"] = {"keys": [limited.entry]}
    with HttpService(settings, tmp_path / "http") as service:
        for method, path, body, scope in CALLS:
            answer = service.ask(method, path, body, secret=limited.secret)
            if scope == own_scope:
                assert answer.status not in {401, 403}
            else:
                assert (answer.status, answer.json["name"]) == (403, "restricted_api_key")
        service.terminate()
        service.wait()
    refused = [line for line in service.log.splitlines() if "status=403" in line]
    assert refused
    assert all(" key=limited " in line for line in refused)


def test_a_key_with_senders_sends_from_these_and_sees_only_their_e_mails(
    settings: Document, key: Key, tmp_path: Path
) -> None:
    own = Key.new("own", senders=("*@example.com",))
    settings["http"]["keys"].append(own.entry)
    foreign = EMAIL | {"from": "Ann <ann@other.example>"}
    raw = {"Content-Type": "message/rfc822"}
    with HttpService(settings, tmp_path / "http") as service:

        def ask(method: str, path: str, body: object = None, **more: Any) -> Any:
            return service.ask(method, path, body, secret=own.secret, **more)

        mine = ask("POST", "/emails", EMAIL).json["id"]
        for body, pointer, path in [
            (foreign, "/from", "/emails"),
            ([EMAIL, foreign], "/1/from", "/emails/batch"),
            (EMAIL | {"headers": {"Sender": "ann@other.example"}}, "/headers/Sender", "/emails"),
        ]:
            answer = ask("POST", path, body)
            assert (answer.status, answer.json["name"]) == (403, "restricted_api_key")
            assert answer.pointers == [pointer]
        message = b"From: ann@other.example\r\nTo: bob@example.org\r\n\r\nHi"
        assert ask("POST", "/emails", message, headers=raw).status == 403
        assert (
            ask(
                "POST", "/emails", message.replace(b"other.example", b"example.com"), headers=raw
            ).status
            == 201
        )
        bad = ask("POST", "/emails/batch", [EMAIL, EMAIL | {"to": "nobody"}])
        assert (bad.status, bad.pointers) == (422, ["/1/to"])

        theirs = service.ask("POST", "/emails", foreign, secret=key.secret).json["id"]
        listed = ask("GET", "/emails").json["data"]
        assert theirs not in [email["id"] for email in listed]
        assert mine in [email["id"] for email in listed]
        assert ask("GET", f"/emails/{theirs}").status == 404
        assert ask("POST", f"/emails/{theirs}/cancel").status == 404
        assert ask("POST", f"/emails/{mine}/cancel").status == 200


def test_a_key_with_senders_finds_its_e_mails_among_many_of_others(
    settings: Document, key: Key, tmp_path: Path
) -> None:
    own = Key.new("own", senders=("*@example.com",))
    settings["http"]["keys"].append(own.entry)
    foreign = [EMAIL | {"from": "ann@other.example"}] * 100
    with HttpService(settings, tmp_path / "http") as service:

        def page(query: str) -> tuple[list[str], bool]:
            answer = service.ask("GET", f"/emails?{query}", secret=own.secret).json
            return [email["id"] for email in answer["data"]], answer["has_more"]

        mine = []
        for number in range(3):
            mine.append(service.ask("POST", "/emails", EMAIL, secret=own.secret).json["id"])
            for _ in range(number):
                service.ask("POST", "/emails/batch", foreign, secret=key.secret)
        first, second, third = mine
        assert page("limit=1") == ([third], True)
        assert page(f"limit=1&after={third}") == ([second], True)
        assert page(f"limit=5&after={third}") == ([second, first], False)
        assert page(f"after={first}") == ([], False)
        assert page(f"limit=1&before={first}") == ([second], True)
        assert page(f"before={first}") == ([third, second], False)
        assert page(f"before={third}") == ([], False)


def test_a_secret_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key of the configuration is, whichever is shown."""
    compared: list[tuple[Any, Any]] = []
    real = hmac.compare_digest

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    made = [Key.new(name) for name in "abc"]
    config = Config.from_mapping({"http": {"keys": [key.entry for key in made]}})
    callers = Callers(config.http.keys)
    for secret in (made[0].secret, made[2].secret):
        header = {b"authorization": f"Bearer {secret}".encode()}
        assert callers.find(header, None).name
    with pytest.raises(Problem):
        callers.find({b"authorization": b"Bearer mq_wrong"}, None)
    assert len(compared) == 9


# Without keys ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyless_settings(shared_settings: Document) -> Document:
    return shared_settings | {"http": {}}


@pytest.fixture(scope="module")
def keyless(
    keyless_settings: Document, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpService]:
    with HttpService(keyless_settings, tmp_path_factory.mktemp("keyless")) as service:
        yield service


def test_without_keys_this_host_is_served_and_the_service_says_so(keyless: HttpService) -> None:
    assert keyless.first_line == f"mailqueue http: listening on http://127.0.0.1:{keyless.port}\n"
    assert "no API key is configured: only this host is served" in keyless.log
    sent = keyless.ask("POST", "/emails", EMAIL)
    assert sent.status == 201
    assert keyless.ask("POST", f"/emails/{sent.json['id']}/cancel").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "mail.example.com"},
        {"Host": "192.0.2.1:8080"},
        {"Host": ""},
        {"Host": "127.0.0.1.example.com"},
        {"Host": "[::1"},
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"Via": "1.1 varnish"},
        {"Forwarded": "for=127.0.0.1"},
    ],
)
def test_without_keys_what_a_proxy_or_a_web_page_passes_on_is_refused(
    keyless: HttpService, headers: dict[str, str]
) -> None:
    answer = keyless.ask("POST", "/emails", EMAIL, headers=headers)
    assert (answer.status, answer.json["name"]) == (401, "missing_api_key")


@pytest.mark.parametrize("host", ["localhost:80", "[::1]:8080", "127.9.9.9"])
def test_without_keys_all_names_of_this_host_are_good(keyless: HttpService, host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert keyless.ask("POST", "/emails", EMAIL, headers=headers).status == 201


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_keys_no_other_address_is_listened_at(
    settings: Document, tmp_path: Path, host: str
) -> None:
    settings["http"] = {}
    with pytest.raises(AssertionError, match=r"http\.keys: without an API key only a loopback"):
        HttpService(settings, tmp_path / "http", "--host", host).__enter__()


def test_with_a_key_all_addresses_may_be_listened_at(settings: Document, tmp_path: Path) -> None:
    with HttpService(settings, tmp_path / "http", "--host", "0.0.0.0") as service:
        assert service.ask("GET", "/readyz").status == 200
        assert service.ask("GET", "/emails").status == 401


def test_in_a_server_of_ones_own_strangers_get_nothing_either(config_mapping: Document) -> None:
    config = Config.from_mapping(config_mapping)

    async def status(client: str) -> int:
        transport = httpx.ASGITransport(app(config), client=(client, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as browser:
            return (await browser.post("/emails", json={})).status_code

    assert asyncio.run(status("192.0.2.1")) == 401
    assert asyncio.run(status("127.0.0.1")) == 422


def test_a_port_that_is_in_use_ends_with_2_and_says_which(
    keyless: HttpService, keyless_settings: Document, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(keyless_settings))
    command = [sys.executable, "-m", "mailqueue", "http", "--config", str(config)]
    ended = subprocess.run(
        [*command, "--port", str(keyless.port)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert f"cannot listen on port {keyless.port}" in ended.stderr
