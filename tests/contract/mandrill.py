"""Mandrill's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Address
from tests.contract.case import Carried, Case, Row, closed, problems, specification
from tests.vendor_servers import Received, Reply

KEY = "md-secret-of-the-account"
BOB, EVE = "bob@example.net", "eve@example.net"
ID = "111111111111111111111111"


def _parse(request: Received) -> Carried:
    message = request.json["message"]
    assert message["preserve_recipients"] is True
    to, cc, bcc = (
        [(p.get("name", ""), p["email"]) for p in message["to"] if p["type"] == kind]
        for kind in ("to", "cc", "bcc")
    )
    headers = dict(message.get("headers", {}))
    reply_to = [Address.parse(a) for a in headers.pop("Reply-To", "").split(", ") if a]
    metadata = dict(message["metadata"])
    files = {
        field: [(f["name"], f["type"], b64decode(f["content"])) for f in message.get(field, [])]
        for field in ("attachments", "images")
    }
    return Carried(
        sender=(message["from_name"], message["from_email"]),
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=[(a.name, a.address) for a in reply_to],
        subject=message["subject"],
        text=message.get("text"),
        html=message.get("html"),
        headers=headers,
        attachments=files["attachments"],
        inline=files["images"],
        tags=message.get("tags", []),
        email_id=metadata.pop("mailqueue_id"),
        metadata=metadata,
    )


def _violations(specs: Path, request: Received) -> list[str]:
    document = specification(specs / "mandrill" / "transactional.openapi.json")
    name = "MessagesSendRawRequest" if request.path.endswith("raw") else "MessagesSendRequest"
    schema = closed({"$ref": f"#/components/schemas/{name}"}, document)
    return problems(schema, request)


def _json(status: int, body: Any) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _error(status: int, name: str, message: str, code: int = -1) -> Reply:
    return _json(status, {"status": "error", "code": code, "name": name, "message": message})


def _each(*entries: dict[str, Any]) -> Reply:
    return _json(200, [{"email": BOB, "_id": ID, **entry} for entry in entries])


def _rejected(reason: str | None, email: str = BOB) -> dict[str, Any]:
    return {"email": email, "status": "rejected", "reject_reason": reason}


def _of_each_status() -> list[Row]:
    sent = [
        Row(reply=_each({"status": status}), outcome=Outcome.ACCEPTED, message_id=ID, detail=status)
        for status in ("sent", "queued", "scheduled")
    ]
    quota_held = [
        Row(
            reply=_each({"status": "queued", "queued_reason": reason}),
            outcome=Outcome.ACCEPTED,
            message_id=ID,
            detail=reason,
            quota_held=reason not in {"attachments", "multiple-recipients", "sending-backlogged"},
        )
        for reason in (
            *("sending-suspended", "account-suspended", "sending-paused"),
            *("monthly-limit-reached", "hourly-quota-exhausted", "free-trial-sends-exhausted"),
            *("attachments", "multiple-recipients", "sending-backlogged"),
        )
    ]
    rejected = [
        Row(reply=_each(_rejected(reason)), outcome=outcome, detail=f"rejected {reason}")
        for reason, outcome in {
            **dict.fromkeys(["hard-bounce", "soft-bounce", "spam"], Outcome.REJECTED),
            **dict.fromkeys(["unsub", "custom", "rule", "invalid"], Outcome.REJECTED),
            "unsigned": Outcome.UNSUITABLE,
            "invalid-sender": Outcome.UNSUITABLE,
            "test-mode-limit": Outcome.MISCONFIGURED,
            "not-yet-heard-of": Outcome.UNSUITABLE,
        }.items()
    ]
    return [*sent, *quota_held, *rejected]


def _of_several() -> list[Row]:
    both: dict[str, Any] = {"email": {"cc": [EVE]}}
    sent = {"status": "sent"}
    return [
        Row(
            reply=_each(sent, {"email": "Eve@Example.net", "status": "invalid"}),
            outcome=Outcome.ACCEPTED,
            message_id=ID,
            refused=[EVE],
            **both,
        ),
        Row(
            reply=_each(_rejected("spam"), {"email": EVE, "_id": "2", "status": "sent"}),
            outcome=Outcome.ACCEPTED,
            message_id="2",
            detail="rejected spam, sent",
            refused=[BOB],
            **both,
        ),
        Row(
            reply=_each(sent, _rejected("unsigned", EVE)),
            outcome=Outcome.ACCEPTED,
            message_id=ID,
            pending=[EVE],
            **both,
        ),
        Row(
            reply=_each(_rejected("spam"), _rejected("unsigned", EVE)),
            outcome=Outcome.UNSUITABLE,
            **both,
        ),
        Row(
            reply=_each(_rejected("spam"), {"email": EVE, "status": "new"}),
            outcome=Outcome.UNKNOWN,
            **both,
        ),
    ]


CASE = Case(
    type="mandrill",
    keys={"api_key": KEY},
    secret=KEY,
    path="/api/1.4/messages/send",
    accepted=_each({"status": "sent"}),
    message_id=ID,
    own_message_id=False,
    parse=_parse,
    authorized=lambda request: bool(request.json["key"] == KEY),
    sandboxed=None,
    violations=_violations,
    extra=(
        {"message": {"subaccount": "x"}, "ip_pool": "y"},
        lambda r: (r.json["message"].get("subaccount"), r.json.get("ip_pool")) == ("x", "y"),
    ),
    rows=(
        *_of_each_status(),
        *_of_several(),
        Row(reply=_each({"status": "invalid"}), outcome=Outcome.REJECTED, detail="invalid"),
        Row(reply=_each({"status": "sent", "_id": None}), outcome=Outcome.ACCEPTED),
        Row(reply=_json(200, []), outcome=Outcome.UNKNOWN),
        Row(reply=_json(200, [7, None]), outcome=Outcome.UNKNOWN),
        Row(reply=_each({}), outcome=Outcome.UNKNOWN),
        Row(
            reply=_error(200, "Invalid_Key", "Invalid API key"),
            outcome=Outcome.MISCONFIGURED,
            detail="Invalid_Key",
        ),
        Row(
            reply=_error(401, "Invalid_Key", "Invalid API key"),
            outcome=Outcome.MISCONFIGURED,
            detail="Invalid_Key",
        ),
        Row(
            reply=_error(500, "Invalid_Key", "Invalid API key"),
            outcome=Outcome.MISCONFIGURED,
            detail="Invalid API key",
        ),
        Row(
            reply=_error(402, "PaymentRequired", "Requires a positive balance", 10),
            outcome=Outcome.MISCONFIGURED,
            detail="PaymentRequired",
        ),
        Row(
            reply=_error(402, "PaymentRequired", "Requires a positive balance", 10),
            options={"send_at": "2030-01-01 00:00:00"},
            outcome=Outcome.UNSUITABLE,
            detail="positive balance",
        ),
        Row(
            reply=_error(422, "ValidationError", "Not a valid address", -2),
            outcome=Outcome.UNSUITABLE,
            detail="ValidationError",
        ),
        Row(
            reply=_error(500, "ValidationError", "Not a valid address", -2),
            outcome=Outcome.UNSUITABLE,
            detail="ValidationError",
        ),
        Row(
            reply=_error(404, "Unknown_Subaccount", "No subaccount exists with the id", 12),
            outcome=Outcome.MISCONFIGURED,
            detail="Unknown_Subaccount",
        ),
        Row(
            reply=_error(429, "RequestLimitExceeded", "Too Many Requests", 429),
            outcome=Outcome.THROTTLED,
            detail="RequestLimitExceeded",
        ),
        Row(
            reply=_error(500, "RequestLimitExceeded", "Too Many Requests", 429),
            outcome=Outcome.THROTTLED,
            detail="RequestLimitExceeded",
        ),
        Row(
            reply=_error(500, "GeneralError", "An unknown error occurred", -100),
            outcome=Outcome.UNAVAILABLE,
            detail="GeneralError",
        ),
        Row(
            reply=_error(503, "ServiceUnavailable", "Service Temporarily Unavailable", -2),
            outcome=Outcome.UNAVAILABLE,
            detail="ServiceUnavailable",
        ),
        Row(reply=_json(400, {"name": {}, "message": 7}), outcome=Outcome.UNSUITABLE),
    ),
)
