"""openapi.json and docs/http.md against the service; Swagger UI in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mailqueue.config import Config
from mailqueue.http import application, documents, errors
from mailqueue.http.events import Events
from mailqueue.http.wire import KEYS
from tests.http_service import HttpService, Key

REPO = Path(__file__).parents[2]
PAGE = (REPO / "docs/http.md").read_text("utf-8")
DESCRIPTION: dict[str, Any] = json.loads(documents.description())
METHODS = {"GET", "POST", "PATCH"}


def table() -> dict[str, Any]:
    """Every address with its handlers; only their names are read."""
    nobody: Any = None
    return dict(application._table(nobody, Events(Config(), nobody), nobody))


def rows(name: str) -> list[list[str]]:
    (found,) = re.findall(rf"<!-- {name} table -->\n(.*?)<!-- /", PAGE, re.DOTALL)
    return [row.split("|")[1:-1] for row in found.splitlines()[2:]]


def test_the_calls_of_the_page_are_those_of_the_service_with_their_scopes() -> None:
    page = {
        (code, scope.strip(" `"))
        for call, scope, _ in rows("call")
        for code in re.findall("`([^`]+)`", call)
    }
    assert page == {
        (f"{method} {path}", scope or "")
        for path, handlers in table().items()
        for method, (_, scope) in handlers.items()
    }


def test_the_names_of_errors_on_the_page_are_those_of_the_service() -> None:
    names = [name for row in rows("status") for name in re.findall("`([a-z_]+)`", row[1])]
    assert set(names) == errors.TITLES.keys()


# The description ---------------------------------------------------------------------------------


def described() -> dict[str, dict[str, Any]]:
    return {
        path: {method.upper(): operation for method, operation in operations.items()}
        for path, operations in DESCRIPTION["paths"].items()
    }


def test_the_description_has_every_route_with_its_methods_and_who_may_call_it() -> None:
    routes = {path: handlers for path, handlers in table().items() if path != "/docs/{name}"}
    assert {path: set(operations) for path, operations in described().items()} == {
        path: set(handlers) for path, handlers in routes.items()
    }
    for path, handlers in routes.items():
        for method, (_, scope) in handlers.items():
            operation = described()[path][method]
            assert (operation.get("security") == []) == (scope is None)
            assert scope is None or f"`{scope}`" in operation["description"]


def test_the_description_has_every_key_of_an_e_mail() -> None:
    schema = DESCRIPTION["components"]["schemas"]["SendEmail"]
    assert schema["properties"].keys() == set(KEYS)
    assert schema["additionalProperties"] is False


def test_the_description_has_every_parameter() -> None:
    """Those of a path are in its name; the others are looked for in the code."""
    code = (REPO / "mailqueue/http/emails.py").read_text("utf-8")
    parameters = [
        (path, parameter)
        for path, operations in described().items()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
    ]
    for path, parameter in parameters:
        name = parameter["name"]
        place = f"{{{name}}}" in path if parameter["in"] == "path" else name.lower() in code
        assert place, name
    read = set(re.findall(r'headers\.get\(b"([a-z-]+)"', code)) - {"content-encoding"}
    (query,) = re.findall(r"for name in \((.*?)\)\)", code)
    names = {parameter["name"].lower() for _, parameter in parameters}
    assert names == read | set(re.findall(r'"(\w+)"', query)) | {"id", "vendor"}


def test_no_name_of_an_error_is_missing_in_the_description() -> None:
    statuses = {
        status
        for operations in described().values()
        for operation in operations.values()
        for status in operation["responses"]
    }
    page = {status for row in rows("status") for status in re.findall(r"\d+", row[0])}
    # These are answers to no call of the table.
    assert page - {"405", "408", "431", "500"} == statuses - {"200", "201"}


def test_schemathesis_finds_no_answer_that_the_description_does_not_allow(
    own: HttpService, key: Key, tmp_path: Path
) -> None:
    """Values that only ``send()`` can judge (addresses, say) are the one check left out."""
    command = [
        *(str(Path(sys.executable).parent / "st"), "run", f"{own.url}/openapi.json"),
        *("--url", own.url, "--header", f"Authorization: Bearer {key.secret}"),
        *("--exclude-checks", "positive_data_acceptance", "--max-examples", "25"),
        *("--generation-deterministic", "--continue-on-failure", "--warnings", "off"),
        "--no-color",
    ]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.http.schemathesis_hooks",
            "PYTHONPATH": str(REPO),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    answered = re.findall(r"request.answered method=(\w+) path=(\S+) status=(\d+)", own.log)
    assert {("POST", "/emails", "201"), ("POST", "/emails/batch", "201")} <= set(answered)
    assert {("POST", "/emails/{id}/cancel", "200"), ("GET", "/emails/{id}", "200")} <= set(answered)
    assert len(answered) > 300
    assert "request.failed" not in own.log


def test_the_description_is_served_as_it_is_in_the_package(service: HttpService) -> None:
    answer = service.ask("GET", "/openapi.json")
    assert (answer.status, answer.body) == (200, documents.description())


# Swagger UI --------------------------------------------------------------------------------------


def test_the_pages_come_from_here_and_nothing_else_may_be_loaded(service: HttpService) -> None:
    page = service.ask("GET", "/docs")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"https?:", policy + page.body.decode())
    for name in re.findall(r'(?:src|href)="docs/([^"]+)"', page.body.decode()):
        asset = service.ask("GET", f"/docs/{name}")
        assert asset.status == 200
        assert asset.headers["X-Content-Type-Options"] == "nosniff"
    for name in ("..%2fhttp%2fserver.py", "swagger-ui.js", "index.html"):
        assert service.ask("GET", f"/docs/{name}").status == 404


def test_the_pages_get_the_description_in_words_that_they_know(service: HttpService) -> None:
    shown = service.ask("GET", "/docs/openapi.json").json
    assert shown["openapi"].startswith("3.0")
    assert shown["paths"].keys() == DESCRIPTION["paths"].keys()
    kinds = re.findall(r'"type": (\[[^\]]*\])', json.dumps(shown))
    assert [kind for kind in kinds if "null" in kind] == []


def test_a_browser_shows_every_call(service: HttpService, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or ""
    if not chromium:
        missing = "chromium is not installed"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    ended = subprocess.run(
        [
            *(
                chromium,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ),
            *(f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--v=0"),
            *("--virtual-time-budget=20000", "--dump-dom", f"{service.url}/docs"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    page = ended.stdout
    assert "Unable to render" not in page
    for operations in described().values():
        for operation in operations.values():
            assert operation["summary"] in page, ended.stderr
    assert "Content Security Policy" not in ended.stderr
