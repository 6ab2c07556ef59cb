"""SendGrid's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.vendor_servers import Received, Reply

KEY = "SG.secret-of-the-account"


def _person(entry: dict[str, str]) -> Person:
    return entry.get("name", ""), entry["email"]


def _parse(request: Received) -> Carried:
    payload = request.json
    (people,) = payload["personalizations"]
    bodies = {part["type"]: part["value"] for part in payload["content"]}
    files = [
        (
            entry.get("content_id", entry["filename"]),
            entry["type"],
            b64decode(entry["content"]),
            entry["disposition"],
        )
        for entry in payload.get("attachments", [])
    ]
    headers = dict(payload["headers"])
    metadata = dict(payload["custom_args"])
    return Carried(
        sender=_person(payload["from"]),
        to=[_person(entry) for entry in people["to"]],
        cc=[_person(entry) for entry in people.get("cc", [])],
        bcc=[_person(entry) for entry in people.get("bcc", [])],
        reply_to=[_person(entry) for entry in payload.get("reply_to_list", [])],
        subject=payload["subject"],
        text=bodies.get("text/plain"),
        html=bodies.get("text/html"),
        message_id=headers.pop("Message-ID"),
        headers=headers,
        attachments=[file[:3] for file in files if file[3] == "attachment"],
        inline=[file[:3] for file in files if file[3] == "inline"],
        tags=payload.get("categories", []),
        email_id=metadata.pop("mailqueue_id"),
        metadata=metadata,
    )


def _violations(specs: Path, request: Received) -> list[str]:
    document = specification(specs / "sendgrid" / "tsg_mail_v3.json")
    body = document["components"]["requestBodies"]["PostMailSend"]
    schema = closed(body["content"]["application/json"]["schema"], document)
    schema["properties"]["custom_args"] = {"type": "object"}  # typed wrongly there
    return problems(schema, request)


def _error(status: int, message: str, field: str | None = None, **headers: str) -> Reply:
    body: Any = {"errors": [{"message": message, "field": field, "help": None}]}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"Content-Type": "application/json", **named}, json.dumps(body).encode())


_DATE = "Mon, 20 Dec 2021 20:31:21 GMT"
_RESET = "1640032401"  # 120 s later

CASE = Case(
    type="sendgrid",
    keys={"api_key": KEY},
    secret=KEY,
    path="/v3/mail/send",
    accepted=Reply(202, {"X-Message-Id": "14c5d75ce93"}),
    message_id="14c5d75ce93",
    told_by_status=True,
    parse=_parse,
    authorized=lambda request: request.headers["authorization"] == f"Bearer {KEY}",
    sandboxed=lambda r: r.json.get("mail_settings") == {"sandbox_mode": {"enable": True}},
    violations=_violations,
    extra=({"asm": {"group_id": 7}}, lambda r: r.json.get("asm") == {"group_id": 7}),
    rows=(
        Row(reply=Reply(200), outcome=Outcome.ACCEPTED, sandbox=True),
        Row(reply=Reply(200), outcome=Outcome.UNKNOWN),
        Row(
            reply=_error(400, "Does not contain a valid address.", "personalizations.0.to.0.email"),
            outcome=Outcome.UNSUITABLE,
            detail="valid address",
        ),
        Row(
            reply=_error(400, "The subject is required.", "subject"),
            outcome=Outcome.UNSUITABLE,
            detail="subject is required",
        ),
        Row(reply=_error(400, "Bad Request"), outcome=Outcome.UNSUITABLE, detail="Bad Request"),
        Row(
            reply=_error(401, "Maximum credits exceeded"),
            outcome=Outcome.MISCONFIGURED,
            detail="credits",
        ),
        Row(
            reply=_error(401, "The provided authorization grant is invalid, expired, or revoked"),
            outcome=Outcome.MISCONFIGURED,
            detail="authorization grant",
        ),
        Row(
            reply=_error(
                403, "The from address does not match a verified Sender Identity.", "from"
            ),
            outcome=Outcome.UNSUITABLE,
            detail="Sender Identity",
        ),
        Row(
            reply=_error(403, "access forbidden"),
            outcome=Outcome.MISCONFIGURED,
            detail="access forbidden",
        ),
        Row(
            reply=_error(403, "Too many bad requests. Temporary block"),
            outcome=Outcome.UNAVAILABLE,
            detail="Temporary block",
        ),
        Row(
            reply=_error(413, "content too large"),
            outcome=Outcome.UNSUITABLE,
            detail="too large",
        ),
        Row(
            reply=_error(429, "too many requests", Date=_DATE, X_RateLimit_Reset=_RESET),
            outcome=Outcome.THROTTLED,
            retry_after=120.0,
        ),
        Row(
            reply=_error(429, "too many requests", X_RateLimit_Reset="soon"),
            outcome=Outcome.THROTTLED,
            detail="too many requests",
        ),
        Row(
            reply=_error(451, "regional attribute not allowed"),
            outcome=Outcome.MISCONFIGURED,
            detail="regional",
        ),
        Row(reply=Reply(400, {}, b'{"errors": "odd"}'), outcome=Outcome.UNSUITABLE),
        Row(reply=Reply(400, {}, b'{"errors": [7]}'), outcome=Outcome.UNSUITABLE),
    ),
)
