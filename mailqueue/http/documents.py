"""The description of the service: ``openapi.json``, and Swagger UI to read it.

Decides: where the pages come from. The description is a file of this package, the pages' scripts
and styles are files of the package swagger-ui-bundle; nothing is loaded from elsewhere, and the
Content-Security-Policy sees to it.

Assumes: the Swagger UI of that bundle knows OpenAPI 3.0 and not 3.1, so the pages get the same
description in the words of 3.0: there a value that may be null is ``nullable``.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mailqueue.errors import MissingExtra
from mailqueue.http.calls import Call, Headers, Reply
from mailqueue.http.errors import not_found

_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mailqueue</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = b"""SwaggerUIBundle({url: "docs/openapi.json", dom_id: "#swagger-ui", validatorUrl: null});
"""
_TYPES = {
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    b" connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE: Headers = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


async def openapi(_: Call) -> Reply:
    """``GET /openapi.json``."""
    return Reply(200, description())


async def page(_: Call) -> Reply:
    """``GET /docs``."""
    return Reply(200, _PAGE, b"text/html; charset=utf-8", _SAFE)


async def asset(call: Call) -> Reply:
    """``GET /docs/{name}``: what the page consists of."""
    name = call.scope["path_params"]["name"]
    if name == "openapi.json":
        return Reply(200, _in_words_of_3_0())
    if name == "start.js":
        return Reply(200, _START, _TYPES["swagger-ui-bundle.js"], _SAFE)
    if name not in _TYPES:
        raise not_found("There is no such file.")
    return Reply(200, (_bundle() / name).read_bytes(), _TYPES[name], _SAFE)


def description() -> bytes:
    """The file ``openapi.json``."""
    return _description()


@cache
def _description() -> bytes:
    return resources.files("mailqueue.http").joinpath("openapi.json").read_bytes()


@cache
def _in_words_of_3_0() -> bytes:
    return json.dumps({**_nullable(json.loads(description())), "openapi": "3.0.3"}).encode()


def _nullable(value: Any) -> Any:
    if isinstance(value, list):
        return [_nullable(each) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {name: _nullable(each) for name, each in value.items()}
    match changed.get("type"):
        case [str() as kind, "null"]:
            changed |= {"type": kind, "nullable": True}
    return changed


def _bundle() -> Path:
    try:
        from swagger_ui_bundle import swagger_ui_path
    except ImportError:
        raise MissingExtra("http", "swagger-ui-bundle", "/docs shows Swagger UI") from None
    return Path(swagger_ui_path)
