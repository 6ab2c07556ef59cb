"""Mailjet's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.vendor_servers import Received, Reply

SECRET = "mailjet-secret-of-the-account"


def _person(entry: dict[str, str]) -> Person:
    return entry.get("Name", ""), entry["Email"]


def _file(entry: dict[str, str]) -> tuple[str, str, bytes]:
    name = entry.get("ContentID") or entry["Filename"]
    return name, entry["ContentType"], b64decode(entry["Base64Content"])


def _parse(request: Received) -> Carried:
    (message,) = request.json["Messages"]
    metadata = json.loads(message["EventPayload"])
    assert metadata.pop("mailqueue_id") == message["CustomID"]
    return Carried(
        sender=_person(message["From"]),
        to=list(map(_person, message["To"])),
        cc=list(map(_person, message.get("Cc", []))),
        bcc=list(map(_person, message.get("Bcc", []))),
        reply_to=[_person(message["ReplyTo"])] if "ReplyTo" in message else [],
        subject=message["Subject"],
        text=message.get("TextPart"),
        html=message.get("HTMLPart"),
        headers=message.get("Headers", {}),
        attachments=list(map(_file, message.get("Attachments", []))),
        inline=list(map(_file, message.get("InlinedAttachments", []))),
        tags=[message["CustomCampaign"]] if "CustomCampaign" in message else [],
        email_id=message["CustomID"],
        metadata=metadata,
    )


def _violations(specs: Path, request: Received) -> list[str]:
    file = specs / "mailjet" / "send-v3.1.derived.schema.json"
    schema = closed(specification(file), {})
    return problems(schema, request)


def _json(status: int, body: dict[str, Any]) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _sent(status: int = 200, number: Any = 70650219165027410) -> Reply:
    to = {"Email": "bob@example.net", "MessageUUID": "u", "MessageID": number, "MessageHref": "h"}
    return _json(status, {"Messages": [{"Status": "success", "To": [to], "Cc": [], "Bcc": []}]})


def _refused(status: int, code: str, message: str = "No.", own: int = 400) -> Reply:
    error = {"ErrorIdentifier": "i", "ErrorCode": code, "StatusCode": own, "ErrorMessage": message}
    return _json(status, {"Messages": [{"Status": "error", "Errors": [error]}]})


def _global(status: int, code: str, message: str = "No.") -> Reply:
    error = {"ErrorIdentifier": "i", "ErrorCode": code, "StatusCode": status}
    return _json(status, {**error, "ErrorMessage": message})


def _login() -> str:
    return "Basic " + b64encode(f"key-of-the-account:{SECRET}".encode()).decode()


CASE = Case(
    type="mailjet",
    keys={"api_key": "key-of-the-account", "secret_key": SECRET},
    secret=SECRET,
    path="/v3.1/send",
    accepted=_sent(),
    message_id="70650219165027410",
    parse=_parse,
    authorized=lambda request: request.headers["authorization"] == _login(),
    sandboxed=lambda r: r.json.get("SandboxMode") is True,
    narrowed={"reply_to": ["Desk <desk@example.org>"]},
    own_message_id=False,
    violations=_violations,
    extra=(
        {"TrackOpens": "disabled", "Globals": {"Priority": 2}},
        lambda r: (
            r.json["Messages"][0].get("TrackOpens") == "disabled"
            and r.json.get("Globals") == {"Priority": 2}
        ),
    ),
    rows=(
        Row(
            reply=_sent(400),
            outcome=Outcome.ACCEPTED,
            message_id="70650219165027410",
        ),
        Row(
            reply=_json(200, {"Messages": [{"Status": "success", "To": [{"Email": "x"}]}]}),
            outcome=Outcome.ACCEPTED,
            sandbox=True,
        ),
        Row(reply=_json(200, {"Messages": []}), outcome=Outcome.UNKNOWN),
        Row(reply=_json(200, {"Messages": ["success"]}), outcome=Outcome.UNKNOWN),
        Row(reply=_refused(200, "mj-0013"), outcome=Outcome.UNSUITABLE, detail="mj-0013: No."),
        *(
            Row(reply=_refused(400, code), outcome=Outcome.UNSUITABLE, detail=f"{code}: No.")
            for code in (
                *("mj-0003", "mj-0005", "mj-0006", "mj-0007", "mj-0008", "mj-0011", "mj-0012"),
                *("mj-0013", "send-0003", "send-0004", "send-0011", "send-0015"),
            )
        ),
        *(
            Row(reply=_refused(http, code, own=403), outcome=Outcome.UNSUITABLE, detail=code)
            for code in ("send-0006", "send-0007", "send-0008")
            for http in (400, 403)
        ),
        *(
            Row(reply=_refused(http, code, own=401), outcome=Outcome.MISCONFIGURED, detail=code)
            for code in ("mj-0001", "mj-0015")
            for http in (400, 401)
        ),
        Row(reply=_refused(400, "mj-0099", own=500), outcome=Outcome.UNAVAILABLE, detail="mj-0099"),
        Row(
            reply=_global(401, "mj-0001", "API key is suspended"),
            outcome=Outcome.MISCONFIGURED,
            detail="suspended",
        ),
        Row(
            reply=_global(400, "mj-0001", "API key is suspended"),
            outcome=Outcome.MISCONFIGURED,
            detail="suspended",
        ),
        Row(
            reply=_global(401, "mj-0015", "API key authentication failure"),
            outcome=Outcome.MISCONFIGURED,
            detail="authentication",
        ),
        Row(
            reply=_global(400, "mj-0002", "Malformed JSON"),
            outcome=Outcome.UNSUITABLE,
            detail="Malformed JSON",
        ),
        Row(
            reply=Reply(429, {"Content-Type": "text/html"}, b"Rate limit exceeded"),
            outcome=Outcome.THROTTLED,
        ),
        Row(
            reply=_json(500, {"ErrorIdentifier": "i", "ErrorMessage": "Oops", "StatusCode": 500}),
            outcome=Outcome.UNAVAILABLE,
            detail="Oops",
        ),
        Row(
            reply=_json(400, {"Messages": [{"Status": "error", "Errors": "odd"}]}),
            outcome=Outcome.UNSUITABLE,
        ),
    ),
)
