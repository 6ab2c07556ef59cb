"""Who is let in, what each may do, and that no other site does it in their name."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest
from pymongo.collection import Collection

from mailqueue.cli import main
from mailqueue.config import Config
from mailqueue.dashboard import backend, endpoint
from mailqueue.dashboard.application import TABLE
from mailqueue.dashboard.backend import PATIENCE
from mailqueue.dashboard.endpoint import HEADERS
from mailqueue.errors import ConfigError, MissingExtra, StoreUnavailable
from mailqueue.http import app, server
from mailqueue.store.store import Store
from tests.conftest import Document
from tests.dashboard.conftest import BASE, OWN, Client
from tests.dashboard.stored import failed, store
from tests.http_service import Key

PROXY = {"proxy_header": "X-Forwarded-User", "proxies": ["10.1.0.0/16"]}
POSTS = sorted(path.replace("{", "").replace("}", "") for path, v in TABLE.items() if "POST" in v)
GETS = sorted(path.replace("{", "").replace("}", "") for path, v in TABLE.items() if "GET" in v)
ACT = {"verb": "retry", "which": "all", "status": "failed"}
COUNTED = {"at": "2026-01-01T00:00:00+00:00", "nonce": "1" * 24, "number": "1"}


@pytest.fixture
def settings(shared_settings: Document, emails: Collection[Document]) -> Document:
    return {**shared_settings, "http": {}}


def ask(
    settings: Document,
    http: Mapping[str, Any],
    method: str = "GET",
    place: str = "/emails",
    address: str = "127.0.0.1",
    **headers: str,
) -> int:
    """The status of one request to a dashboard with these settings of ``http``."""
    config = Config.from_mapping({**settings, "http": http})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(Client(config, address)) as client:
        return client.ask(method, place, headers=named).status_code


def basic(secret: str, user: str = "anybody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


# Without authentication ---------------------------------------------------------------------------


def test_without_keys_everybody_on_this_host_is_let_in(settings: Document) -> None:
    assert ask(settings, {}) == 200
    assert ask(settings, {}, address="::1", host="localhost:8080") == 200


@pytest.mark.parametrize(
    "address, headers",
    [
        ("192.0.2.1", {}),
        ("127.0.0.1", {"host": "rebound.example:8080"}),  # a name that was made to lead here
        ("127.0.0.1", {"host": "127.0.0.1.nip.example"}),
        ("127.0.0.1", {"host": ""}),
        ("127.0.0.1", {"origin": "http://evil.example"}),
        ("127.0.0.1", {"x_forwarded_for": "192.0.2.1"}),  # a proxy that nobody configured
    ],
)
def test_without_keys_nobody_else_is(
    settings: Document, address: str, headers: dict[str, str]
) -> None:
    assert ask(settings, {}, address=address, **headers) == 403


def test_under_a_name_that_was_configured_they_are(settings: Document) -> None:
    http = {"dashboard": {"hosts": ["Mail.example"]}}
    assert ask(settings, http, host="mail.example:8080", origin="http://mail.example:8080") == 200
    assert ask(settings, http, host="localhost:8080") == 200
    assert ask(settings, http, host="other.example") == 403
    key = Key.new("ann")
    login = basic(key.secret)
    http |= {"keys": [key.entry]}  # type: ignore[dict-item]  # another kind of value
    assert ask(settings, http, host="mail.example", authorization=login) == 200
    assert ask(settings, http, host="other.example", authorization=login) == 403
    with pytest.raises(ConfigError, match=r"hosts: entry 1 must be a host name"):
        Config.from_mapping({"http": {"dashboard": {"hosts": ["a:80"]}}})


def test_without_keys_it_refuses_to_listen_for_others(
    settings: Document, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"vendors": [{"name": "a", "type": "smtp", "host": "127.0.0.1"}]}')
    arguments = ["http", "--dashboard", "--host", "0.0.0.0", "--port", "0"]
    assert main(["--config", str(file), *arguments]) == 2
    assert "http.keys" in capsys.readouterr().err


def test_with_a_proxy_it_listens_for_others_and_without_the_dashboard_not() -> None:
    config = Config.from_mapping({"http": {"dashboard": PROXY}})
    server._check_exposure(config, "0.0.0.0", dashboard=True)
    with pytest.raises(ConfigError, match=r"http\.keys"):
        server._check_exposure(config, "0.0.0.0", dashboard=False)


# API keys -----------------------------------------------------------------------------------------


def test_a_browser_is_asked_for_a_key(settings: Document) -> None:
    config = Config.from_mapping({**settings, "http": {"keys": [Key.new("ann").entry]}})
    with closing(Client(config)) as client:
        answer = client.get("/emails")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="mailqueue", charset="UTF-8"'
    assert "API key" in answer.text


def test_a_key_is_the_password_of_any_user(settings: Document) -> None:
    key = Key.new("ann", "read")
    http = {"keys": [key.entry]}
    for user in ("ann", "", "x"):
        header = basic(key.secret, user)
        assert ask(settings, http, address="192.0.2.1", authorization=header) == 200


@pytest.mark.parametrize(
    "header",
    [
        *("Basic", "Basic !!!", "Basic " + base64.b64encode(b"\xff\xfe:x").decode()),
        *(basic("mq_wrong"), "Bearer mq_wrong", "Basic " + base64.b64encode(b"nocolon").decode()),
    ],
)
def test_anything_else_is_not(settings: Document, header: str) -> None:
    assert ask(settings, {"keys": [Key.new("ann").entry]}, authorization=header) == 401


def test_a_key_may_do_what_its_scope_says(settings: Document) -> None:
    keys = {name: Key.new(name, name) for name in ("send", "read", "operate")}
    both = Key.new("both", "read", "operate")
    http = {"keys": [key.entry for key in (*keys.values(), both)]}

    def statuses(key: Key) -> tuple[int, int]:
        header = basic(key.secret)
        see = ask(settings, http, authorization=header)
        return see, ask(settings, http, "POST", "/act", authorization=header)

    assert statuses(keys["send"]) == (403, 403)
    assert statuses(keys["read"]) == (200, 403)
    assert statuses(keys["operate"]) == (403, 403)  # who may not look has nothing to act on
    assert statuses(both) == (200, 400)  # the form is empty


def test_a_key_that_is_bound_to_senders_does_not_see_the_e_mails_of_others(
    settings: Document,
) -> None:
    key = Key.new("shop", "read", senders=("*@example.com",))
    assert ask(settings, {"keys": [key.entry]}, authorization=basic(key.secret)) == 403


# A proxy ------------------------------------------------------------------------------------------


def test_a_proxy_names_the_user(settings: Document) -> None:
    http = {"dashboard": PROXY}
    for address in ("10.1.2.3", "::ffff:10.1.2.3"):
        assert ask(settings, http, address=address, x_forwarded_user="ann") == 200
        assert ask(settings, http, address=address) == 403  # it has not logged in


def test_nobody_else_does(settings: Document) -> None:
    for address in ("10.2.0.1", "127.0.0.1", "not an address"):
        http: Document = {"dashboard": PROXY}
        assert ask(settings, http, address=address, x_forwarded_user="ann") == 403
        http["keys"] = [Key.new("bob").entry]
        assert ask(settings, http, address=address, x_forwarded_user="ann") == 401


def test_a_proxys_header_needs_the_proxys_address() -> None:
    for half in ({"proxy_header": "X-User"}, {"proxies": ["10.0.0.1"]}):
        with pytest.raises(ConfigError, match=r"http\.dashboard\.prox"):
            Config.from_mapping({"http": {"dashboard": half}})
    with pytest.raises(ConfigError, match=r"proxies: entry 2 must be an IP address"):
        Config.from_mapping({"http": {"dashboard": {**PROXY, "proxies": ["10.0.0.1", "x"]}}})


# Read-only ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", POSTS)
def test_where_it_is_read_only_nothing_can_be_changed(settings: Document, place: str) -> None:
    key = Key.new("ann", "read", "operate")
    header = basic(key.secret)
    for http in ({}, {"keys": [key.entry]}):
        for read_only in (False, True):
            given = {**http, "dashboard": {"read_only": read_only}}
            status = ask(settings, given, "POST", place, authorization=header)
            assert (status == 403) == read_only


def test_where_it_is_read_only_no_button_is_shown(
    settings: Document, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, failed())
    config = Config.from_mapping({**settings, "http": {"dashboard": {"read_only": True}}})
    with closing(Client(config)) as client:
        assert 'name="verb"' not in client.get("/failed").text
        assert 'type="checkbox"' not in client.get("/failed").text
        assert client.get(f"/confirm?verb=retry&id={email_id}").status_code == 403
        answer = client.post("/act", {**ACT, "number": "1"})
    assert answer.status_code == 403
    assert emails.count_documents({"status": "failed"}) == 1


# Other sites --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", POSTS)
@pytest.mark.parametrize(
    "headers, is_own",
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, True),  # a sandboxed form is not one
        ({"Origin": BASE}, True),
        ({"Referer": f"{BASE}/dashboard/failed"}, False),  # of any request that tells no more
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": BASE}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "null", "Referer": BASE}, False),
        ({"Origin": "null", "Host": ""}, False),
        ({"Origin": "http://127.0.0.1:8081"}, False),
        ({"Referer": "http://evil.example/127.0.0.1:8080"}, False),
        ({"Referer": "http://127.0.0.1:8080@evil.example/"}, False),
        ({}, False),
    ],
)
def test_no_other_site_changes_anything(
    settings: Document, place: str, headers: dict[str, str], is_own: bool
) -> None:
    key = Key.new("ann", "read", "operate")
    config = Config.from_mapping({**settings, "http": {"keys": [key.entry]}})
    with closing(Client(config, headers={"Authorization": basic(key.secret)})) as client:
        answer = client.post(place, {}, headers=headers)
    assert (answer.status_code != 403) == is_own


@pytest.mark.parametrize("place", [*GETS, "/nothing", "/emails/nothing"])
def test_every_answer_keeps_others_out_of_the_page(client: Client, place: str) -> None:
    answer = client.get(place)
    assert answer.headers["content-security-policy"].startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
    assert "script" not in answer.text


def test_an_address_that_is_not_there_is_said_to_be_so_only_to_those_who_are_let_in(
    client: Client, settings: Document
) -> None:
    assert client.get("/nothing/at/all").status_code == 404
    assert ask(settings, {}, place="/nothing", address="192.0.2.1") == 403


def test_a_method_that_an_address_does_not_have_is_refused(client: Client) -> None:
    answer = client.ask("DELETE", "/emails")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert client.ask("HEAD", "/emails").status_code == 200


def test_a_form_has_bounds(client: Client) -> None:
    assert client.post("/act", {"id": "x" * 70_000}).status_code == 413
    assert client.post("/act", {"a": ["x"] * 3000}).status_code == 400


def test_where_too_many_wait_one_more_is_told_to_come_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "MAX_WAITING", -endpoint.THREADS)
    answer = client.get("/emails")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "Too many pages" in answer.text


# Without MongoDB, without the dashboard -----------------------------------------------------------


def test_where_mongodb_is_away_the_page_says_so(shared_settings: Document) -> None:
    mongodb = {**shared_settings["mongodb"], "uri": "mongodb://127.0.0.1:9/"}
    assert PATIENCE < 2
    with closing(Client(Config.from_mapping({**shared_settings, "mongodb": mongodb}))) as client:
        answer = client.get("/emails")
    assert answer.status_code == 503
    assert "MongoDB does not answer" in answer.text
    assert "mailqueue doctor" in answer.text


def test_while_mongodb_is_away_pages_do_not_wait_for_it_one_after_the_other(
    shared_settings: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look(store: Store, seconds: float) -> None:
        looks.append(seconds)
        raise StoreUnavailable("MongoDB: NetworkTimeout")

    monkeypatch.setattr(Store, "check_reachable", look)
    monkeypatch.setattr(backend, "PAUSE", 600)
    with closing(Client(Config.from_mapping(shared_settings))) as client:
        assert [client.get("/failed").status_code for _ in range(3)] == [503, 503, 503]
        answer = client.post("/act", {"verb": "retry", "id": "0" * 24, **COUNTED})
    assert looks == [PATIENCE]
    assert (answer.status_code, "Nobody knows how much" in answer.text) == (503, True)


def test_as_a_part_of_another_application_its_links_stay_below_its_address(
    config: Config, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, failed())
    with closing(Client(config, under="/mail")) as client:
        page = client.get("//mail/dashboard/failed").text
        assert f'href="/mail/dashboard/emails/{email_id}"' in page
        assert re.findall(r'(?:href|action)="(?!/mail/dashboard/|#content|data:)[^"]*"', page) == []
        assert client.get("//mail/").headers["location"] == "/mail/dashboard/"


def test_without_it_nothing_of_it_is_served_or_imported(config: Config) -> None:
    paths = [getattr(route, "path", "") for route in app(config).routes]
    assert "/" not in paths
    assert "/dashboard" not in paths
    code = (
        "import sys; from mailqueue.config import Config; from mailqueue.http import app;"
        " app(Config()); assert not {'jinja2', 'mailqueue.dashboard'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_missing_is_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match=r"mailqueue\[web\]"):
        app(config, dashboard=True)


def test_other_keys_count_from_the_reload_on(settings: Document) -> None:
    old, new = Key.new("old"), Key.new("new")
    config = Config.from_mapping({**settings, "http": {"keys": [old.entry]}})
    with closing(Client(config, headers={**OWN, "Authorization": basic(new.secret)})) as client:
        assert client.get("/emails").status_code == 401
        client.app.reload(Config.from_mapping({**settings, "http": {"keys": [new.entry]}}))
        assert client.get("/emails").status_code == 200
