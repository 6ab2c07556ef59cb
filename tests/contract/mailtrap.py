"""Mailtrap's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Address
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.vendor_servers import Received, Reply

KEY = "mt-secret-of-the-account"
ID = "0c7fd939-02cf-11ed-88c2-0a58a9feac02"


def _person(entry: dict[str, str]) -> Person:
    return entry.get("name", ""), entry["email"]


def _parse(request: Received) -> Carried:
    payload = request.json
    files = [
        (
            entry.get("content_id", entry["filename"]),
            entry["type"],
            b64decode(entry["content"]),
            entry["disposition"],
        )
        for entry in payload.get("attachments", [])
    ]
    headers = dict(payload.get("headers", {}))
    reply_to = [Address.parse(a) for a in headers.pop("Reply-To", "").split(", ") if a]
    metadata = dict(payload["custom_variables"])
    return Carried(
        sender=_person(payload["from"]),
        to=[_person(entry) for entry in payload.get("to", [])],
        cc=[_person(entry) for entry in payload.get("cc", [])],
        bcc=[_person(entry) for entry in payload.get("bcc", [])],
        reply_to=[(a.name, a.address) for a in reply_to],
        subject=payload["subject"],
        text=payload.get("text"),
        html=payload.get("html"),
        headers=headers,
        attachments=[file[:3] for file in files if file[3] == "attachment"],
        inline=[file[:3] for file in files if file[3] == "inline"],
        tags=[payload["category"]] if "category" in payload else [],
        email_id=metadata.pop("mailqueue_id"),
        metadata=metadata,
    )


def _violations(specs: Path, request: Received) -> list[str]:
    document = specification(specs / "mailtrap" / "email-sending-transactional.openapi.yml")
    kind = "EmailWithTextAndHtml" if "html" in request.json else "EmailWithText"
    schema = closed({"$ref": f"#/components/schemas/{kind}"}, document)
    return problems(schema, request)


def _json(status: int, **body: Any) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _error(status: int, *errors: Any) -> Reply:
    return _json(status, success=False, errors=errors)


CASE = Case(
    type="mailtrap",
    keys={"api_key": KEY},
    secret=KEY,
    path="/api/send",
    accepted=_json(200, success=True, message_ids=[ID, "other"]),
    message_id=ID,
    own_message_id=False,
    parse=_parse,
    authorized=lambda request: request.headers["api-token"] == KEY,
    sandboxed=lambda request: request.path == "/api/send/42",
    sandbox_options={"inbox_id": 42},
    violations=_violations,
    extra=({"category": "c"}, lambda r: r.json.get("category") == "c"),
    rows=(
        Row(
            reply=_json(200, success=True, message_ids=[ID]),
            outcome=Outcome.ACCEPTED,
            message_id=ID,
            sandbox=True,
        ),
        Row(reply=_json(200, success=True), outcome=Outcome.UNKNOWN),
        Row(reply=_json(200, success=True, message_ids=[]), outcome=Outcome.UNKNOWN),
        Row(reply=_json(200, success=False, message_ids=[ID]), outcome=Outcome.UNKNOWN),
        Row(
            reply=_json(200, success=True, message_ids=[ID], errors=["odd"]),
            outcome=Outcome.UNKNOWN,
            detail="odd",
        ),
        Row(
            reply=_error(400, "'subject' is required", "must specify either text or html body"),
            outcome=Outcome.UNSUITABLE,
            detail="is required, must specify",
        ),
        Row(
            reply=_error(401, "Unauthorized"),
            outcome=Outcome.MISCONFIGURED,
            detail="Unauthorized",
        ),
        Row(reply=_error(403, "Forbidden"), outcome=Outcome.MISCONFIGURED, detail="Forbidden"),
        Row(
            reply=_error(429, "Too many requests"),
            outcome=Outcome.THROTTLED,
            detail="Too many requests",
        ),
        Row(
            reply=_error(500, "Internal server error"),
            outcome=Outcome.UNAVAILABLE,
            detail="Internal server error",
        ),
        Row(reply=_json(400, errors="odd"), outcome=Outcome.UNSUITABLE),
        Row(reply=_error(400, 7, None), outcome=Outcome.UNSUITABLE),
    ),
)
