"""Resend's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Address
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.contract.conftest import EMAIL_ID
from tests.contract.ses import word
from tests.vendor_servers import Received, Reply

KEY = "re_secret-of-the-account"
MESSAGE_ID = "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"


def _person(text: str) -> Person:
    address = Address.parse(text)
    return address.name, address.address


def _parse(request: Received) -> Carried:
    payload = request.json
    headers = dict(payload["headers"])
    files = [
        (a.get("content_id"), a["filename"], a["content_type"], b64decode(a["content"]))
        for a in payload.get("attachments", [])
    ]
    labels = {tag["name"]: tag["value"] for tag in payload["tags"]}
    assert labels.pop("mailqueue_id") == headers["X-Mailqueue-Id"]
    tags = [name for name in labels if name.startswith("tag-")]
    return Carried(
        sender=_person(payload["from"]),
        to=list(map(_person, payload["to"])),
        cc=list(map(_person, payload.get("cc", []))),
        bcc=list(map(_person, payload.get("bcc", []))),
        reply_to=list(map(_person, payload.get("reply_to", []))),
        subject=payload["subject"],
        text=payload.get("text"),
        html=payload.get("html"),
        attachments=[file[1:] for file in files if not file[0]],
        inline=[(cid, kind, data) for cid, _, kind, data in files if cid],
        email_id=headers.pop("X-Mailqueue-Id"),
        tags=[word(labels[name]) for name in tags],
        metadata={word(n): word(v) for n, v in labels.items() if n not in tags},
        headers=headers,
    )


def _authorized(request: Received) -> bool:
    key = request.headers["idempotency-key"]
    return request.headers["authorization"] == f"Bearer {KEY}" and key == EMAIL_ID


def _violations(specs: Path, request: Received) -> list[str]:
    document = specification(specs / "resend" / "resend.json")
    schema = closed(document["components"]["schemas"]["SendEmailRequest"], document)
    return problems(schema, request)


def _json(status: int, body: dict[str, Any], **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"Content-Type": "application/json", **named}, json.dumps(body).encode())


def _error(status: int, name: str, message: str, **headers: str) -> Reply:
    return _json(status, {"statusCode": status, "name": name, "message": message}, **headers)


CASE = Case(
    type="resend",
    keys={"api_key": KEY},
    secret=KEY,
    path="/emails",
    accepted=_json(200, {"id": MESSAGE_ID}),
    message_id=MESSAGE_ID,
    parse=_parse,
    authorized=_authorized,
    sandboxed=None,
    own_message_id=False,
    violations=_violations,
    extra=({"topic_id": "t-1"}, lambda r: r.json.get("topic_id") == "t-1"),
    rows=(
        Row(reply=_json(200, {"object": "email"}), outcome=Outcome.UNKNOWN),
        Row(reply=_json(200, {"id": 7}), outcome=Outcome.UNKNOWN),
        Row(
            reply=_error(400, "validation_error", "The `to` field is invalid"),
            outcome=Outcome.UNSUITABLE,
            detail="validation_error: The `to`",
        ),
        Row(
            reply=_error(400, "validation_error", "API key is invalid"),
            outcome=Outcome.MISCONFIGURED,
            detail="API key is invalid",
        ),
        Row(
            reply=_error(400, "invalid_idempotency_key", "The key must be between 1-256 chars"),
            outcome=Outcome.UNSUITABLE,
            detail="invalid_idempotency_key",
        ),
        Row(
            reply=_error(401, "missing_api_key", "Missing API key"),
            outcome=Outcome.MISCONFIGURED,
            detail="missing_api_key",
        ),
        Row(
            reply=_error(401, "restricted_api_key", "This API key may only send"),
            outcome=Outcome.MISCONFIGURED,
            detail="restricted_api_key",
        ),
        Row(
            reply=_error(403, "validation_error", "The domain is not verified"),
            outcome=Outcome.UNSUITABLE,
            detail="not verified",
        ),
        Row(
            reply=_error(403, "validation_error", "You can only send testing emails to your own"),
            outcome=Outcome.UNSUITABLE,
            detail="only send testing",
        ),
        Row(
            reply=_error(403, "invalid_api_key", "API key is invalid"),
            outcome=Outcome.MISCONFIGURED,
            detail="invalid_api_key",
        ),
        Row(
            reply=_error(409, "concurrent_idempotent_requests", "Same key, still in progress"),
            outcome=Outcome.UNKNOWN,
            detail="concurrent_idempotent_requests",
        ),
        Row(
            reply=_error(409, "invalid_idempotent_request", "Same key, different payload"),
            outcome=Outcome.UNSUITABLE,
            detail="invalid_idempotent_request",
        ),
        *(
            Row(reply=_error(422, name, "No."), outcome=Outcome.UNSUITABLE, detail=name)
            for name in ("missing_required_field", "invalid_attachment", "validation_error")
        ),
        Row(
            reply=_error(429, "rate_limit_exceeded", "Slow down", retry_after="2"),
            outcome=Outcome.THROTTLED,
            retry_after=2.0,
            detail="rate_limit_exceeded",
        ),
        Row(
            reply=_error(429, "rate_limit_exceeded", "Slow down", ratelimit_reset="1"),
            outcome=Outcome.THROTTLED,
            retry_after=1.0,
        ),
        *(
            Row(reply=_error(429, name, "Quota"), outcome=Outcome.MISCONFIGURED, detail=name)
            for name in ("daily_quota_exceeded", "monthly_quota_exceeded")
        ),
        *(
            Row(reply=_error(500, name, "Oops"), outcome=Outcome.UNAVAILABLE, detail=name)
            for name in ("application_error", "internal_server_error")
        ),
        Row(reply=_json(403, {"name": 7, "message": ["x"]}), outcome=Outcome.MISCONFIGURED),
    ),
)
