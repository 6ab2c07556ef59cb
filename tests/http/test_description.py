"""openapi.json and docs/http.md against the service; Swagger UI in a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mailqueue.http import application, documents, errors

REPO = Path(__file__).parents[2]
PAGE = (REPO / "docs/http.md").read_text("utf-8")
DESCRIPTION: dict[str, Any] = json.loads(documents.description())
METHODS = {"GET", "POST", "PATCH"}


def table() -> dict[str, Any]:
    return dict(application._table(None, None))  # type: ignore[arg-type]  # only its keys are read


def rows(name: str) -> list[list[str]]:
    (found,) = re.findall(rf"<!-- {name} table -->\n(.*?)<!-- /", PAGE, re.DOTALL)
    return [row.split("|")[1:-1] for row in found.splitlines()[2:]]


def test_the_calls_of_the_page_are_those_of_the_service_with_their_scopes() -> None:
    page = {
        (code, scope.strip(" `"))
        for call, scope, _ in rows("call")
        for code in re.findall("`(.+)`", call)
    }
    assert page == {
        (f"{method} {path}", scope or "")
        for path, handlers in table().items()
        for method, (_, scope) in handlers.items()
    }


def test_the_names_of_errors_on_the_page_are_those_of_the_service() -> None:
    names = [name for row in rows("status") for name in re.findall("`([a-z_]+)`", row[1])]
    assert set(names) == errors.TITLES.keys()
