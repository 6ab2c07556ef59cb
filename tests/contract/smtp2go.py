"""SMTP2GO's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Address
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.vendor_servers import Received, Reply

KEY = "api-SECRETOFTHEACCOUNT"
BOB, EVE = "bob@example.net", "eve@example.net"
ID = "1u0SwL-B9zBpi9ffUq-JAB2"


def _person(text: str) -> Person:
    address = Address.parse(text)
    return address.name, address.address


def _files(payload: dict[str, Any], field: str) -> list[tuple[str, str, bytes]]:
    files = payload.get(field, [])
    return [(f["filename"], f["mimetype"], b64decode(f["fileblob"])) for f in files]


def _parse(request: Received) -> Carried:
    payload = request.json
    headers = {entry["header"]: entry["value"] for entry in payload["custom_headers"]}
    return Carried(
        sender=_person(payload["sender"]),
        to=list(map(_person, payload["to"])),
        cc=list(map(_person, payload.get("cc", []))),
        bcc=list(map(_person, payload.get("bcc", []))),
        reply_to=[_person(a) for a in headers.pop("Reply-To", "").split(", ") if a],
        subject=payload["subject"],
        text=payload.get("text_body"),
        html=payload.get("html_body"),
        attachments=_files(payload, "attachments"),
        inline=_files(payload, "inlines"),
        email_id=headers.pop("X-Mailqueue-Id"),
        tags=json.loads(headers.pop("X-Mailqueue-Tags", "[]")),
        metadata=json.loads(headers.pop("X-Mailqueue-Metadata", "{}")),
        headers=headers,
    )


def _violations(specs: Path, request: Received) -> list[str]:
    document = specification(specs / "smtp2go" / "smtp2go-openapi-original.yml")
    body = document["paths"]["/email/send"]["post"]["requestBody"]
    schema = closed(body["content"]["application/json"]["schema"], document)
    return problems(schema, request)


def _json(status: int, body: Any) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _data(status: int, **data: Any) -> Reply:
    return _json(status, {"request_id": "aa253464-0bd0", "data": data})


def _error(status: int, word: str, error: str = "It was refused") -> Reply:
    return _data(status, error_code=f"E_ApiResponseCodes.{word}", error=error)


def _result(succeeded: int, *failures: str, email_id: str = ID) -> Reply:
    failed = 0 if succeeded else 1
    return _data(
        200, succeeded=succeeded, failed=failed, failures=list(failures), email_id=email_id
    )


CASE = Case(
    type="smtp2go",
    keys={"api_key": KEY},
    secret=KEY,
    path="/v3/email/send",
    accepted=_result(1),
    message_id=ID,
    own_message_id=False,
    labels=(),
    exposed=("tags", "metadata"),
    parse=_parse,
    authorized=lambda request: request.headers["x-smtp2go-api-key"] == KEY,
    sandboxed=None,
    violations=_violations,
    extra=(
        {"schedule": "2025-09-10 13:15:00 +1200"},
        lambda r: r.json.get("schedule") == "2025-09-10 13:15:00 +1200",
    ),
    rows=(
        Row(
            reply=_data(200, email_id=ID),
            options={"fastaccept": True},
            outcome=Outcome.ACCEPTED,
            message_id=ID,
        ),
        Row(reply=_data(200, schedule_id="s1"), outcome=Outcome.ACCEPTED, message_id="s1"),
        Row(
            reply=_result(1, "550 No such user <EVE@example.net>"),
            email={"cc": [EVE]},
            outcome=Outcome.ACCEPTED,
            message_id=ID,
            detail="550 No such user",
            refused=[EVE],
        ),
        Row(
            reply=_result(0, "Verification failed for <ann@example.org>\nUnrouteable address"),
            outcome=Outcome.UNSUITABLE,
            detail="Unrouteable address",
        ),
        Row(reply=_result(0, email_id=""), outcome=Outcome.UNSUITABLE),
        Row(reply=_data(200, succeeded=0, failed=0, email_id=ID), outcome=Outcome.UNKNOWN),
        Row(reply=_result(1, email_id=""), outcome=Outcome.UNKNOWN, detail="without an id"),
        Row(reply=_data(200), outcome=Outcome.UNKNOWN),
        Row(reply=_json(200, {"data": [7]}), outcome=Outcome.UNKNOWN),
        Row(
            reply=_error(200, "ENDPOINT_PERMISSION_DENIED"),
            outcome=Outcome.MISCONFIGURED,
            detail="ENDPOINT_PERMISSION_DENIED",
        ),
        Row(reply=_error(200, "SOMETHING_ELSE"), outcome=Outcome.UNKNOWN),
        Row(
            reply=_data(
                400,
                error_code="E_ApiResponseCodes.NON_VALIDATING_IN_PAYLOAD",
                error="An attribute in the payload is invalid",
                field_validation_errors={"fieldname": "to", "message": "is required"},
            ),
            outcome=Outcome.UNSUITABLE,
            detail="NON_VALIDATING_IN_PAYLOAD An attribute",
        ),
        Row(
            reply=_error(400, "ENDPOINT_PERMISSION_DENIED"),
            outcome=Outcome.MISCONFIGURED,
            detail="ENDPOINT_PERMISSION_DENIED",
        ),
        Row(
            reply=_json(
                400, {"error_code": "E_ApiResponseCodes.ENDPOINT_PERMISSION_DENIED", "error": "No"}
            ),
            outcome=Outcome.MISCONFIGURED,
            detail="ENDPOINT_PERMISSION_DENIED No",
        ),
        Row(reply=_error(400, "API_EXCEPTION"), outcome=Outcome.UNKNOWN, detail="API_EXCEPTION It"),
        Row(reply=_error(400, "SOMETHING_ELSE"), outcome=Outcome.UNSUITABLE),
        Row(reply=_data(400, error_code=7, error=None), outcome=Outcome.UNSUITABLE),
        Row(reply=_error(401, "UNAUTHORIZED"), outcome=Outcome.MISCONFIGURED),
        Row(reply=_error(402, "REQUEST_FAILED"), outcome=Outcome.MISCONFIGURED),
        Row(reply=_error(403, "FORBIDDEN"), outcome=Outcome.MISCONFIGURED, detail="FORBIDDEN"),
        Row(reply=_error(429, "RATE_LIMIT"), outcome=Outcome.THROTTLED, detail="RATE_LIMIT"),
    ),
)
