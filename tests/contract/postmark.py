"""Postmark's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Address
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.vendor_servers import Received, Reply

KEY = "postmark-secret-of-the-account"
MESSAGE_ID = "b7bc2f4a-e38e-4336-af7d-e6c392c2f817"


def _people(field: str) -> list[Person]:
    """Mailboxes at commas; a name with a comma is quoted."""
    found, rest = [], field
    while rest:
        at = rest.index("@")
        end = rest.find(", ", at)
        one, rest = (rest, "") if end < 0 else (rest[:end], rest[end + 2 :])
        address = Address.parse(one)
        found.append((address.name, address.address))
    return found


def _parse(request: Received) -> Carried:
    payload = request.json
    files = [
        (a.get("ContentID"), a["Name"], a["ContentType"], b64decode(a["Content"]))
        for a in payload.get("Attachments", [])
    ]
    metadata = dict(payload["Metadata"])
    return Carried(
        sender=_people(payload["From"])[0],
        to=_people(payload.get("To", "")),
        cc=_people(payload.get("Cc", "")),
        bcc=_people(payload.get("Bcc", "")),
        reply_to=_people(payload.get("ReplyTo", "")),
        subject=payload["Subject"],
        text=payload.get("TextBody"),
        html=payload.get("HtmlBody"),
        headers={header["Name"]: header["Value"] for header in payload.get("Headers", [])},
        attachments=[file[1:] for file in files if not file[0]],
        inline=[(cid.removeprefix("cid:"), kind, data) for cid, _, kind, data in files if cid],
        tags=[payload["Tag"]] if "Tag" in payload else [],
        email_id=metadata.pop("mailqueue_id"),
        metadata=metadata,
    )


def _violations(specs: Path, request: Received) -> list[str]:
    file = specs / "postmark" / "python-sdk-email.derived.schema.json"
    document = specification(file)["Email"]
    schema = closed({k: v for k, v in document.items() if k != "$defs"}, document)
    schema["required"] = [name for name in schema["required"] if name != "To"]  # it takes cc alone
    return problems(schema, request)


def _json(status: int, body: dict[str, Any]) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _sent(message: str = "OK", **more: Any) -> Reply:
    body = {"To": "bob@example.net", "SubmittedAt": "2014-02-17T07:25:01Z", **more}
    return _json(200, {**body, "MessageID": MESSAGE_ID, "Message": message})


def _error(status: int, code: int, message: str) -> Reply:
    return _json(status, {"ErrorCode": code, "Message": message})


_INACTIVE = (
    "inactive addresses: {}. Inactive recipients are ones that have generated a hard bounce or a "
    "spam complaint."
)
_OK_BUT = "Message OK, but will not deliver to these " + _INACTIVE
_NO = "You tried to send to a recipient that has been marked as inactive.\n Found " + _INACTIVE
_TWO = {"to": ["Bob@example.net", "ann@example.net"]}

CASE = Case(
    type="postmark",
    keys={"api_key": KEY, "message_stream": None},
    secret=KEY,
    path="/email",
    accepted=_sent(ErrorCode=0),
    message_id=MESSAGE_ID,
    parse=_parse,
    authorized=lambda request: request.headers["x-postmark-server-token"] == KEY,
    sandboxed=lambda r: r.headers["x-postmark-server-token"] == "POSTMARK_API_TEST",
    own_message_id=False,
    violations=_violations,
    extra=(
        {"TrackLinks": "None", "MessageStream": "other"},
        lambda r: (r.json.get("TrackLinks"), r.json.get("MessageStream")) == ("None", "other"),
    ),
    rows=(
        Row(
            reply=_sent("Message accepted, but delivery may be delayed."),
            outcome=Outcome.ACCEPTED,
            message_id=MESSAGE_ID,
        ),
        Row(
            reply=_sent(_OK_BUT.format("bob@example.net"), ErrorCode=0),
            outcome=Outcome.ACCEPTED,
            message_id=MESSAGE_ID,
            email=_TWO,
            refused=["Bob@example.net"],
        ),
        Row(reply=_json(200, {"ErrorCode": 0, "Message": "OK"}), outcome=Outcome.UNKNOWN),
        Row(reply=_json(200, {"MessageID": 7}), outcome=Outcome.UNKNOWN),
        *(
            Row(reply=_sent(ErrorCode=odd), outcome=Outcome.UNKNOWN)
            for odd in tuple[Any, ...]((None, "", "0", [], False))
        ),
        Row(
            reply=_error(200, 300, "Invalid 'To' address"),
            outcome=Outcome.UNSUITABLE,
            detail="300: Invalid 'To'",
        ),
        Row(
            reply=_error(401, 10, "No Account or Server API tokens were supplied"),
            outcome=Outcome.MISCONFIGURED,
            detail="10: No Account",
        ),
        Row(
            reply=_error(422, 300, "Invalid 'To' address: 'bob'."),
            outcome=Outcome.UNSUITABLE,
            detail="Invalid 'To'",
        ),
        Row(
            reply=_error(422, 300, "Invalid 'From' address: 'x'."),
            outcome=Outcome.UNSUITABLE,
            detail="Invalid 'From'",
        ),
        Row(
            reply=_error(422, 11, "Several errors"),
            outcome=Outcome.UNSUITABLE,
            detail="11: Several",
        ),
        *(
            Row(reply=_error(422, code, text), outcome=Outcome.UNSUITABLE, detail=f"{code}: {text}")
            for code, text in (
                (400, "Sender signature not found"),
                (401, "Sender signature not confirmed"),
                (402, "Invalid JSON"),
                (403, "Incompatible JSON"),
                (409, "JSON required"),
                (410, "Too many batch messages"),
                (411, "Forbidden attachment type"),
            )
        ),
        *(
            Row(
                reply=_error(422, code, text),
                outcome=Outcome.MISCONFIGURED,
                detail=f"{code}: {text}",
            )
            for code, text in (
                (405, "Not allowed to send, you ran out of credits"),
                (412, "Account is pending"),
                (413, "Account may not send"),
                (1235, "The message stream does not exist"),
                (1236, "The message stream is not for sending"),
            )
        ),
        Row(
            reply=_error(422, 406, _NO.format("bob@example.net")),
            outcome=Outcome.REJECTED,
            refused=["bob@example.net"],
            detail="406",
        ),
        Row(
            reply=_error(422, 406, _NO.format("bob@example.net, ann@example.net")),
            outcome=Outcome.REJECTED,
            email=_TWO,
            refused=["Bob@example.net", "ann@example.net"],
            detail="406: You tried to send",
        ),
        Row(
            reply=_error(422, 406, _NO.format("bob@example.net")),
            outcome=Outcome.UNSUITABLE,
            email=_TWO,
            detail="406: You tried",
        ),
        Row(
            reply=_error(503, 100, "Maintenance"),
            outcome=Outcome.UNAVAILABLE,
            detail="100: Maintenance",
        ),
        Row(
            reply=_error(422, 100, "Maintenance"),
            outcome=Outcome.UNAVAILABLE,
            detail="100: Maintenance",
        ),
        Row(
            reply=Reply(403, {"Content-Type": "text/html"}, b"<html>Forbidden</html>"),
            outcome=Outcome.UNAVAILABLE,
            detail="HTML",
        ),
        Row(reply=_error(413, 0, "Payload too large"), outcome=Outcome.UNSUITABLE),
        Row(reply=_error(429, 429, "Too many requests"), outcome=Outcome.THROTTLED),
        Row(
            reply=_error(500, 500, "Internal server error"),
            outcome=Outcome.UNAVAILABLE,
            detail="Internal",
        ),
        Row(reply=_json(422, {"ErrorCode": ["405"], "Message": 7}), outcome=Outcome.UNSUITABLE),
    ),
)
