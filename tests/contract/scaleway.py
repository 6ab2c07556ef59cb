"""Scaleway's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Address
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.vendor_servers import Received, Reply

KEY = "scw-secret-of-the-account"
BOB, EVE = "bob@example.net", "eve@example.net"
ID = "0a2b5c1d-1111-4222-8333-444455556666"


def _person(entry: dict[str, str]) -> Person:
    return entry.get("name", ""), entry["email"]


def _parse(request: Received) -> Carried:
    payload = request.json
    assert payload["project_id"] == "6170692e"
    headers = {entry["key"]: entry["value"] for entry in payload["additional_headers"]}
    reply_to = [Address.parse(a) for a in headers.pop("Reply-To", "").split(", ") if a]
    files = payload.get("attachments", [])
    return Carried(
        sender=_person(payload["from"]),
        to=[_person(entry) for entry in payload.get("to", [])],
        cc=[_person(entry) for entry in payload.get("cc", [])],
        bcc=[_person(entry) for entry in payload.get("bcc", [])],
        reply_to=[(a.name, a.address) for a in reply_to],
        subject=payload["subject"],
        text=payload.get("text"),
        html=payload.get("html"),
        attachments=[(f["name"], f["type"], b64decode(f["content"])) for f in files],
        inline=[],
        email_id=headers.pop("X-Mailqueue-Id"),
        tags=json.loads(headers.pop("X-Mailqueue-Tags", "[]")),
        metadata=json.loads(headers.pop("X-Mailqueue-Metadata", "{}")),
        headers=headers,
    )


def _violations(specs: Path, request: Received) -> list[str]:
    name = "scaleway-transactional-email-openapi.yml"
    document = specification(specs / "scaleway" / name)
    path = "/transactional-email/v1alpha1/regions/{region}/emails"
    body = document["paths"][path]["post"]["requestBody"]
    schema = closed(body["content"]["application/json"]["schema"], document)
    return problems(schema, request)


def _json(status: int, body: Any) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _emails(*statuses: str, **fields: Any) -> Reply:
    people = zip((BOB, EVE), statuses, strict=False)
    entries = [{"id": f"{ID}-{p}", "mail_rcpt": p, "status": s, **fields} for p, s in people]
    return _json(200, {"emails": entries})


CASE = Case(
    type="scaleway",
    keys={"secret_key": KEY, "project_id": "6170692e"},
    secret=KEY,
    path="/transactional-email/v1alpha1/regions/fr-par/emails",
    accepted=_emails("new"),
    message_id=f"{ID}-{BOB}",
    own_message_id=False,
    labels=(),
    exposed=("tags", "metadata"),
    narrowed={
        "attachments": [
            {"filename": "plan.pdf", "content": b"%PDF\r\n", "content_type": "application/pdf"},
            {"filename": "Übersicht.txt", "content": "ä".encode(), "content_type": "text/plain"},
        ]
    },
    parse=_parse,
    authorized=lambda request: request.headers["x-auth-token"] == KEY,
    sandboxed=None,
    violations=_violations,
    extra=(
        {"send_before": "2030-01-01T00:00:00Z"},
        lambda r: r.json.get("send_before") == "2030-01-01T00:00:00Z",
    ),
    rows=(
        Row(
            reply=_emails("sending"),
            outcome=Outcome.ACCEPTED,
            message_id=f"{ID}-{BOB}",
        ),
        Row(
            reply=_emails("failed", "sending"),
            email={"cc": [EVE]},
            outcome=Outcome.ACCEPTED,
            message_id=f"{ID}-{EVE}",
            pending=[BOB],
        ),
        Row(
            reply=_emails("failed", "canceled"),
            email={"cc": [EVE]},
            outcome=Outcome.UNSUITABLE,
            detail="failed at once",
        ),
        Row(reply=_emails("new", id=7), outcome=Outcome.UNKNOWN, detail="without an id"),
        Row(reply=_json(200, {"emails": []}), outcome=Outcome.UNKNOWN),
        Row(reply=_json(200, {"emails": "odd"}), outcome=Outcome.UNKNOWN),
        Row(
            reply=_json(400, {"message": "Invalid email from address"}),
            outcome=Outcome.UNSUITABLE,
            detail="Invalid email from address",
        ),
        Row(
            reply=_json(400, {"message": "minimum length is 10"}),
            outcome=Outcome.UNSUITABLE,
            detail="minimum length",
        ),
        Row(
            reply=_json(401, {"message": "authentication is denied", "type": "denied"}),
            outcome=Outcome.MISCONFIGURED,
            detail="authentication is denied",
        ),
        Row(reply=_json(403, {"message": 7}), outcome=Outcome.MISCONFIGURED),
        Row(reply=_json(429, {"message": "quota"}), outcome=Outcome.THROTTLED, detail="quota"),
    ),
)
