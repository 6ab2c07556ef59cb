"""What a configuration and the environment may not do to credentials."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailqueue.config import Config
from mailqueue.config.config import READABLE_BY_ALL
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Email
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import Attempts, Vendors
from tests.logged import event
from tests.security.conftest import Certificates
from tests.vendor_servers import HOST, HttpServer, Reply, close

Opened = Callable[[Any], Any]

each_vendor = pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])


@pytest.mark.parametrize("mode,said", [(0o644, [READABLE_BY_ALL]), (0o604, [READABLE_BY_ALL])])
def test_a_file_with_secrets_that_everybody_can_read_is_warned_of(
    mode: int, said: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _warnings(mode, tmp_path, caplog) == said


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_file_that_not_everybody_can_read_is_no_reason_for_a_warning(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _warnings(mode, tmp_path, caplog) == []


def _warnings(mode: int, folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    file = folder / "config.json"
    vendor = {"name": "first", "type": "sendgrid", "api_key": "SG.planted"}
    file.write_text(json.dumps({"vendors": [vendor]}))
    file.chmod(mode)
    with caplog.at_level(logging.DEBUG):
        Config.load(file)
    assert "planted" not in caplog.text
    return [event(r) for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://10.0.0.1",
        "http://[2001:db8::1]:80",
        "http://2130706433",
        "HTTP://api.example.com",
        "http://127.0.0.1@api.example.com",
    ],
)
def test_plain_http_to_another_host_is_refused(url: str) -> None:
    vendor = {"name": "first", "type": "sendgrid", "api_key": "SG.planted", "base_url": url}
    with pytest.raises(ConfigError, match=r"vendors\[0\]\.base_url") as caught:
        Config.from_mapping({"vendors": [vendor]})
    assert "planted" not in str(caught.value)
    assert "example" not in str(caught.value)


@each_vendor
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    case: Case, status: int, opened: Opened, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    elsewhere = opened(HttpServer(case.accepted))
    moved = opened(HttpServer(Reply(status, {"Location": f"{elsewhere.url}{case.path}"})))
    sender = vendor(case.type, base_url=moved.url, keys=case.keys)
    assert sender.send(plain, attempt()).outcome is Outcome.MISCONFIGURED
    sender.close()
    assert len(moved.requests) == 1
    assert elsewhere.connections == 0


@each_vendor
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_neither_netrc_nor_proxies_of_the_environment_are_used(
    case: Case,
    scheme: str,
    opened: Opened,
    vendor: Vendors,
    attempt: Attempts,
    plain: Email,
    certificate: Certificates,
    trusted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = opened(HttpServer(close))
    tls = certificate("good") if scheme == "https" else None
    server = opened(HttpServer(case.accepted, tls=tls))
    (tmp_path / ".netrc").write_text(f"machine {HOST} login other password other\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv(name.lower(), proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    sender = vendor(case.type, base_url=server.url, keys=case.keys)
    sender.transport.ca_file = trusted
    result = sender.send(plain, attempt())
    sender.close()
    assert result.outcome is Outcome.ACCEPTED
    assert case.authorized(server.requests[0])
    assert proxy.connections == 0
