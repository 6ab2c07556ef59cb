"""Brevo's side of the contract."""

from __future__ import annotations

import json
import mimetypes
from base64 import b64decode
from email.header import decode_header, make_header
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from mailqueue.lifecycle.outcomes import Outcome
from tests.contract.case import Carried, Case, Person, Row, closed, problems
from tests.vendor_servers import Received, Reply

KEY = "xkeysib-secret-of-the-account"
MESSAGE_ID = "<201798300811.5787683@relay.example.com>"
_PLAN = {"filename": "plan.pdf", "content": b"%PDF\r\n--\x00\xff"}
_NOTE = {"filename": "Übersicht.txt", "content": "ä".encode()}


def _person(entry: dict[str, str]) -> Person:
    return str(make_header(decode_header(entry.get("name", "")))), entry["email"]


def _file(entry: dict[str, str]) -> tuple[str, str, bytes]:
    """Brevo takes the type from the name."""
    kind, _ = mimetypes.guess_type(entry["name"])
    return entry["name"], str(kind), b64decode(entry["content"])


def _parse(request: Received) -> Carried:
    payload = request.json
    headers = dict(payload["headers"])
    metadata = json.loads(headers.pop("X-Mailin-custom"))
    key = headers.pop("idempotencyKey")
    assert str(UUID(key)) == key
    return Carried(
        sender=_person(payload["sender"]),
        to=list(map(_person, payload["to"])),
        cc=list(map(_person, payload.get("cc", []))),
        bcc=list(map(_person, payload.get("bcc", []))),
        reply_to=[_person(payload["replyTo"])] if "replyTo" in payload else [],
        subject=payload["subject"],
        text=payload.get("textContent"),
        html=payload.get("htmlContent"),
        headers=headers,
        attachments=list(map(_file, payload.get("attachment", []))),
        inline=[],
        tags=payload.get("tags", []),
        email_id=metadata.pop("mailqueue_id"),
        metadata=metadata,
    )


def _violations(specs: Path, request: Received) -> list[str]:
    return problems(_schema(specs / "brevo" / "swagger_definition_v3.yml"), request)


@cache
def _schema(file: Path) -> Any:
    """Of this one request; to parse all of the file takes seconds."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Leaves timestamps alone."""

    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    Loader.yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if not tag.endswith(":timestamp")]
        for first, rules in resolvers.items()
    }
    text = file.read_text("utf-8")
    schemas = text[text.index("\n    sendSmtpEmail:\n") :]
    end = schemas.index("\n    ", 1 + len("\n    sendSmtpEmail:"))
    while schemas[end + 5] == " ":
        end = schemas.index("\n    ", end + 1)
    document = yaml.load(schemas[:end], Loader=Loader)["sendSmtpEmail"]
    return closed(document, {})


def _json(status: int, body: dict[str, Any], **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"Content-Type": "application/json", **named}, json.dumps(body).encode())


def _error(status: int, code: str, message: str, **headers: str) -> Reply:
    return _json(status, {"code": code, "message": message}, **headers)


CASE = Case(
    type="brevo",
    keys={"api_key": KEY},
    secret=KEY,
    path="/v3/smtp/email",
    accepted=_json(201, {"messageId": MESSAGE_ID}),
    message_id=MESSAGE_ID,
    parse=_parse,
    authorized=lambda request: request.headers["api-key"] == KEY,
    sandboxed=lambda r: r.json["headers"].get("X-Sib-Sandbox") == "drop",
    narrowed={
        "reply_to": ["Desk <desk@example.org>"],
        "attachments": [_PLAN, _NOTE],
    },
    own_message_id=False,
    labels=("tags",),
    exposed=("tags", "metadata"),
    violations=_violations,
    extra=({"params": {"a": "b"}}, lambda r: r.json.get("params") == {"a": "b"}),
    rows=(
        Row(
            reply=_json(202, {"messageId": MESSAGE_ID}),
            outcome=Outcome.ACCEPTED,
            message_id=MESSAGE_ID,
        ),
        Row(reply=_json(201, {}), outcome=Outcome.UNKNOWN),
        Row(reply=_json(201, {"messageId": 7}), outcome=Outcome.UNKNOWN),
        *(
            Row(reply=_error(400, code, "No."), outcome=Outcome.UNSUITABLE, detail=f"{code}: No.")
            for code in ("invalid_parameter", "missing_parameter", "out_of_range", "bad_request")
        ),
        Row(
            reply=_error(400, "invalid_parameter", "valid sender email required"),
            outcome=Outcome.UNSUITABLE,
            detail="valid sender",
        ),
        Row(
            reply=_error(400, "duplicate_parameter", "idempotencyKey was used"),
            outcome=Outcome.ACCEPTED,
            detail="duplicate_parameter",
        ),
        Row(
            reply=_error(401, "unauthorized", "Key not found"),
            outcome=Outcome.MISCONFIGURED,
            detail="Key not found",
        ),
        Row(
            reply=_error(402, "not_enough_credits", "No credits"),
            outcome=Outcome.MISCONFIGURED,
            detail="not_enough_credits",
        ),
        *(
            Row(reply=_error(403, code, "No."), outcome=Outcome.MISCONFIGURED, detail=code)
            for code in ("permission_denied", "account_under_validation")
        ),
        *(
            Row(reply=_error(400, code, "No."), outcome=Outcome.MISCONFIGURED, detail=code)
            for code in ("not_enough_credits", "permission_denied", "account_under_validation")
        ),
        Row(
            reply=_error(409, "duplicate_request", "In flight"),
            outcome=Outcome.UNKNOWN,
            detail="duplicate_request",
        ),
        Row(reply=_error(409, "other", "No."), outcome=Outcome.UNSUITABLE, detail="other"),
        Row(
            reply=_error(422, "unprocessable_entity", "No."),
            outcome=Outcome.UNSUITABLE,
            detail="unprocessable",
        ),
        Row(
            reply=_error(429, "too_many_requests", "Slow", x_sib_ratelimit_reset="42"),
            outcome=Outcome.THROTTLED,
            retry_after=42.0,
            detail="Slow",
        ),
        Row(reply=_error(429, "too_many_requests", "Slow"), outcome=Outcome.THROTTLED),
        Row(reply=_json(400, {"code": ["x"], "message": 7}), outcome=Outcome.UNSUITABLE),
    ),
)
