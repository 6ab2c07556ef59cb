"""MailerSend's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.vendor_servers import Received, Reply

KEY = "mlsn.secret-of-the-account"
BOB, EVE = "bob@example.net", "eve@example.net"
TYPES = {"pdf": "application/pdf", "txt": "text/plain", "png": "image/png"}
_ID = "mailqueue_id:"


def _person(entry: dict[str, str]) -> Person:
    return entry.get("name", ""), entry["email"]


def _parse(request: Received) -> Carried:
    payload = request.json
    files = [
        (
            entry.get("id", entry["filename"]),
            TYPES[entry["filename"].rpartition(".")[2]],  # as MailerSend does
            b64decode(entry["content"]),
            entry["disposition"],
        )
        for entry in payload.get("attachments", [])
    ]
    (email_id,) = (tag for tag in payload["tags"] if tag.startswith(_ID))
    return Carried(
        sender=_person(payload["from"]),
        to=[_person(entry) for entry in payload["to"]],
        cc=[_person(entry) for entry in payload.get("cc", [])],
        bcc=[_person(entry) for entry in payload.get("bcc", [])],
        reply_to=[_person(payload["reply_to"])] if "reply_to" in payload else [],
        subject=payload["subject"],
        text=payload.get("text"),
        html=payload.get("html"),
        attachments=[file[:3] for file in files if file[3] == "attachment"],
        inline=[file[:3] for file in files if file[3] == "inline"],
        tags=[tag for tag in payload["tags"] if tag != email_id],
        email_id=email_id.removeprefix(_ID),
    )


def _violations(specs: Path, request: Received) -> list[str]:
    name = "email-request.derived.schema.json"
    document = specification(specs / "mailersend" / name)
    schema = closed(document, document)
    return problems(schema, request)


def _json(status: int, body: Any, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"Content-Type": "application/json", **named}, json.dumps(body).encode())


def _warned(*warnings: Any, **headers: str) -> Reply:
    return _json(202, {"message": "There are some warnings.", "warnings": warnings}, **headers)


def _suppressed(kind: str, *emails: str) -> dict[str, Any]:
    recipients = [{"email": email, "name": "", "reason": ["hard_bounced"]} for email in emails]
    return {"type": kind, "warning": "Some are suppressed.", "recipients": recipients}


def _error(status: int, text: str, **headers: str) -> Reply:
    body = {"message": "The given data was invalid.", "errors": {"from.email": [text, "more"]}}
    return _json(status, body, **headers)


_MORE = "MS42208 MS42209 MS42211 MS42213 MS42215 MS42218 MS42216 MS42202 MS42210 MS42205 MS42206"

CASE = Case(
    type="mailersend",
    keys={"api_key": KEY},
    secret=KEY,
    path="/v1/email",
    accepted=Reply(202, {"Content-Type": "text/html; charset=UTF-8", "X-Message-Id": "5e42957d"}),
    message_id="5e42957d",
    told_by_status=True,
    own_message_id=False,
    labels=("tags",),
    exposed=("tags", "metadata"),
    exposed_options={"custom_headers": True},
    narrowed={"headers": {}, "reply_to": ["Desk <desk@example.org>"]},
    parse=_parse,
    authorized=lambda request: request.headers["authorization"] == f"Bearer {KEY}",
    sandboxed=None,
    violations=_violations,
    extra=(
        {"settings": {"track_opens": False}},
        lambda r: r.json.get("settings") == {"track_opens": False},
    ),
    rows=(
        Row(
            reply=_warned(_suppressed("SOME_SUPPRESSED", "Eve@Example.net"), X_Message_Id="5e4"),
            email={"cc": [EVE]},
            outcome=Outcome.ACCEPTED,
            message_id="5e4",
            detail="SOME_SUPPRESSED",
            refused=[EVE],
        ),
        Row(
            reply=_warned({"type": "SOME_SUPPRESSED", "recipients": [7]}, X_Message_Id="5e4"),
            outcome=Outcome.ACCEPTED,
            message_id="5e4",
        ),
        Row(
            reply=_warned(_suppressed("ALL_SUPPRESSED", BOB)),
            outcome=Outcome.REJECTED,
            detail="suppressed",
        ),
        Row(
            reply=_warned({"type": "SOMETHING_ELSE"}, X_Message_Id="5e4"),
            outcome=Outcome.UNKNOWN,
            detail="warning",
        ),
        Row(
            reply=_warned(_suppressed("ALL_SUPPRESSED", BOB), {"type": "SOMETHING_ELSE"}),
            outcome=Outcome.UNKNOWN,
        ),
        Row(reply=_warned("odd", X_Message_Id="5e4"), outcome=Outcome.UNKNOWN, detail="warning"),
        Row(reply=_json(202, {"warnings": 7}, X_Message_Id="5e4"), outcome=Outcome.UNKNOWN),
        Row(reply=_error(202, "odd", X_Message_Id="5e4"), outcome=Outcome.UNKNOWN),
        Row(reply=_warned(_suppressed("SOME_SUPPRESSED", BOB)), outcome=Outcome.UNKNOWN),
        Row(reply=Reply(202), outcome=Outcome.UNKNOWN, detail="without an id"),
        Row(
            reply=_json(401, {"message": "Unauthenticated."}),
            outcome=Outcome.MISCONFIGURED,
            detail="Unauthenticated",
        ),
        *(
            Row(
                reply=_json(403, {"message": f"This action is not allowed. #MS4030{n}"}),
                outcome=Outcome.MISCONFIGURED,
                detail=f"MS4030{n}",
            )
            for n in range(1, 6)
        ),
        *(
            Row(
                reply=_error(422, f"You have reached the limit. #{code}"),
                outcome=Outcome.MISCONFIGURED,
                detail=code,
            )
            for code in ("MS42204", "MS42222", "MS42225")
        ),
        Row(
            reply=_error(422, "The from.email domain must be verified in your account. #MS42207"),
            outcome=Outcome.UNSUITABLE,
            detail="must be verified",
        ),
        *(
            Row(reply=_error(422, f"It is invalid. #{code}"), outcome=Outcome.UNSUITABLE)
            for code in _MORE.split()
        ),
        Row(
            reply=_error(429, "Too many requests. #MS42903", Retry_After="59"),
            outcome=Outcome.THROTTLED,
            retry_after=59.0,
            detail="MS42903",
        ),
        Row(
            reply=_json(429, {"message": "Daily API quota limit was reached. #MS42901"}),
            outcome=Outcome.MISCONFIGURED,
            detail="MS42901",
        ),
        Row(reply=_json(422, {"errors": {"to": "odd"}, "message": 7}), outcome=Outcome.UNSUITABLE),
    ),
)
