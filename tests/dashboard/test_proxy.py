"""Behind a real nginx with the example's configuration: it logs users in, and names them."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from pymongo.collection import Collection

from mailqueue.devserver.process import dies_with_parent
from tests.conftest import Document
from tests.dashboard.stored import failed, store
from tests.http_service import HttpService
from tests.waiting import wait_until

EXAMPLE = Path(__file__).parents[2] / "examples/nginx_dashboard.conf"
FRAME = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
events {{}}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    {example}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def proxied(
    shared_settings: Document, emails: Collection[Document], tmp_path: Path
) -> Iterator[HttpService]:
    """A dashboard that trusts a proxy on this host."""
    dashboard: Document = {"proxy_header": "X-Forwarded-User", "proxies": ["127.0.0.1"]}
    dashboard |= {"hosts": ["mail.example.com"]}
    settings = {**shared_settings, "http": {"dashboard": dashboard}}
    with HttpService(settings, tmp_path / "http", "--dashboard") as running:
        yield running


@pytest.fixture
def nginx(proxied: HttpService, tmp_path: Path) -> Iterator[int]:
    """Its port. TLS is left out of the example, and its files are here."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        message = "nginx is not there (tests/run.sh gets it)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    port, example = free_port(), EXAMPLE.read_text()
    lines = [line for line in example.splitlines() if not line.strip().startswith("ssl_")]
    example = "\n".join(lines).replace("443 ssl", f"127.0.0.1:{port}")
    example = example.replace("http://127.0.0.1:8080", proxied.url)
    example = example.replace("/etc/nginx", str(tmp_path)).replace("/var/log/nginx", str(tmp_path))
    (tmp_path / "operators").write_text("ann:{PLAIN}secret\n")
    config = tmp_path / "nginx.conf"
    config.write_text(FRAME.format(folder=tmp_path, example=example))
    command = [*dies_with_parent(), program, "-p", str(tmp_path), "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: _listens(port) or process.poll() is not None)
            assert process.poll() is None, process.communicate()[1]
            yield port
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named |= {"Host": f"mail.example.com:{port}"}
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body or None, named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_users_whom_nginx_lets_in_see_and_act_under_their_names(
    nginx: int, proxied: HttpService, emails: Collection[Document], tmp_path: Path
) -> None:
    (email_id,) = store(emails, failed())
    login = "Basic " + base64.b64encode(b"ann:secret").decode()
    assert ask(nginx, "GET", "/dashboard/emails")[0] == 401
    assert ask(nginx, "GET", "/dashboard/emails", X_Forwarded_User="bob")[0] == 401
    status, page = ask(
        nginx, "GET", "/dashboard/emails", Authorization=login, X_Forwarded_User="bob"
    )
    assert (status, "ann" in page, "bob" in page) == (200, True, False)
    form = f"verb=retry&id={email_id}&number=1&nonce={email_id}&at=2999-01-01T00:00:00%2B00:00"
    foreign = {"Authorization": login, "Origin": "https://evil.example"}
    assert ask(nginx, "POST", "/dashboard/act", form, **foreign)[0] == 403
    own = {"Authorization": login, "Origin": f"https://mail.example.com:{nginx}"}
    assert ask(nginx, "POST", "/dashboard/act", form, **own)[0] == 303
    (document,) = emails.find()
    assert document["interventions"][0]["by"] == "ann"
    assert ask(nginx, "GET", "/emails", Authorization=login)[0] == 404  # the API is not shown
    assert ask(nginx, "GET", "/dashboard/emails?to=x@example.org", Authorization=login)[0] == 200
    assert "x@example.org" not in (tmp_path / "dashboard.log").read_text()


def test_who_goes_around_nginx_is_not_let_in(proxied: HttpService) -> None:
    user = {"X-Forwarded-User": "ann", "Host": "rebound.example"}  # a page with a name of its own
    assert proxied.ask("GET", "/dashboard/emails", headers=user).status == 403
    assert proxied.ask("GET", "/dashboard/emails").status == 403
