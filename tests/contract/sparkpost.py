"""SparkPost's side of the contract."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.contract.postmark import _people
from tests.vendor_servers import Received, Reply

KEY = "sparkpost-secret-of-the-account"
MESSAGE_ID = "11668787484950529"


def _file(entry: dict[str, str]) -> tuple[str, str, bytes]:
    return entry["name"], entry["type"], b64decode(entry["data"])


def _parse(request: Received) -> Carried:
    payload = request.json
    content = payload["content"]
    headers = dict(content.get("headers", {}))
    to = {entry["address"]["header_to"] for entry in payload["recipients"]}
    sent = [entry["address"]["email"] for entry in payload["recipients"]]
    assert len(sent) == len({address.lower() for address in sent})
    fields: dict[str, list[Person]] = {"to": _people(*to), "cc": _people(headers.pop("CC", ""))}
    shown = {address.lower() for field in fields.values() for _, address in field}
    metadata = dict(payload["metadata"])
    assert payload["options"]["perform_substitutions"] is False
    return Carried(
        sender=(content["from"].get("name", ""), content["from"]["email"]),
        to=fields["to"],
        cc=fields["cc"],
        bcc=[("", address) for address in sent if address.lower() not in shown],
        reply_to=_people(content.get("reply_to", "")),
        subject=content["subject"],
        text=content.get("text"),
        html=content.get("html"),
        headers=headers,
        attachments=list(map(_file, content.get("attachments", []))),
        inline=list(map(_file, content.get("inline_images", []))),
        tags=[payload["campaign_id"]] if "campaign_id" in payload else [],
        email_id=metadata.pop("mailqueue_id"),
        metadata=metadata,
    )


def _violations(specs: Path, request: Received) -> list[str]:
    file = specs / "sparkpost" / "transmission-inline.derived.schema.json"
    schema = closed(specification(file), {})
    return problems(schema, request)


def _json(status: int, body: Any) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _results(accepted: Any, rejected: int, *errors: dict[str, str]) -> Reply:
    results: dict[str, Any] = {
        "total_rejected_recipients": rejected,
        "total_accepted_recipients": accepted,
        "id": MESSAGE_ID,
    }
    if not errors:
        return _json(200, {"results": results})
    said = {"message": "transmission created, but with validation errors", "code": "2000"}
    return _json(200, {"errors": [said], "results": {**results, "rcpt_to_errors": errors}})


def _error(status: int, code: str, message: str, description: str = "") -> Reply:
    error = {"code": code, "message": message, "description": description}
    return _json(status, {"errors": [{name: value for name, value in error.items() if value}]})


def _suppressed() -> Reply:
    said = {"message": "Message generation rejected", "code": "1902"}
    results = {"total_accepted_recipients": 0, "total_rejected_recipients": 1, "id": MESSAGE_ID}
    return _json(400, {"errors": [said], "results": results})


_TWO = {"to": ["Bob@example.net", "ann@example.net"]}
_UNNAMED = {"message": "required field is missing", "code": "1400"}
_NAMED = {"message": "recipient address suppressed", "description": "bob@example.net"}

CASE = Case(
    type="sparkpost",
    keys={"api_key": KEY},
    secret=KEY,
    path="/api/v1/transmissions",
    accepted=_results(1, 0),
    message_id=MESSAGE_ID,
    parse=_parse,
    authorized=lambda request: request.headers["authorization"] == KEY,
    sandboxed=None,
    narrowed={"headers": {"X-Campaign": "spring"}},
    own_message_id=False,
    violations=_violations,
    extra=(
        {"options": {"transactional": True}},
        lambda r: r.json["options"] == {"perform_substitutions": False, "transactional": True},
    ),
    rows=(
        Row(
            reply=_results(1, 1, _UNNAMED),
            outcome=Outcome.ACCEPTED,
            message_id=MESSAGE_ID,
            email=_TWO,
            detail="2000: transmission created, but with validation errors",
        ),
        Row(
            reply=_results(1, 1, _NAMED),
            outcome=Outcome.ACCEPTED,
            message_id=MESSAGE_ID,
            email=_TWO,
            refused=["Bob@example.net"],
        ),
        Row(
            reply=_results(0, 2, _NAMED),
            outcome=Outcome.REJECTED,
            email=_TWO,
            refused=["Bob@example.net", "ann@example.net"],
        ),
        *(
            Row(reply=_results(accepted, 0), outcome=Outcome.UNKNOWN)
            for accepted in (None, True, False, -1, "1")
        ),
        Row(
            reply=_suppressed(),
            outcome=Outcome.REJECTED,
            refused=["bob@example.net"],
            detail="1902: Message generation rejected",
        ),
        Row(reply=_error(500, "1502", "Failed"), outcome=Outcome.UNAVAILABLE, detail="1502"),
        Row(reply=_error(400, "1502", "Failed"), outcome=Outcome.UNAVAILABLE, detail="1502"),
        Row(reply=_error(400, "1910", "Not there"), outcome=Outcome.MISCONFIGURED, detail="1910"),
        Row(reply=_error(400, "7000", "Blacklisted"), outcome=Outcome.UNSUITABLE, detail="7000"),
        Row(reply=_error(503, "1900", "Not there"), outcome=Outcome.UNAVAILABLE, detail="1900"),
        Row(
            reply=_json(200, {"results": {"total_accepted_recipients": 1}}),
            outcome=Outcome.UNKNOWN,
        ),
        Row(reply=_json(200, {"results": [MESSAGE_ID]}), outcome=Outcome.UNKNOWN),
        Row(
            reply=_error(400, "7001", "Invalid domain", "Unconfigured or unverified"),
            outcome=Outcome.UNSUITABLE,
            detail="7001: Invalid domain: Unconfigured",
        ),
        *(
            Row(
                reply=_error(status, "1400", "required field is missing"),
                outcome=Outcome.UNSUITABLE,
                detail="1400: required field",
            )
            for status in (400, 422)
        ),
        Row(
            reply=_json(401, {"errors": [{"message": "Unauthorized."}]}),
            outcome=Outcome.MISCONFIGURED,
            detail="Unauthorized.",
        ),
        Row(
            reply=_json(403, {"errors": [{"message": "Forbidden."}]}),
            outcome=Outcome.MISCONFIGURED,
            detail="Forbidden.",
        ),
        Row(
            reply=_error(420, "2101", "Exceed Sending Limit (hourly)"),
            outcome=Outcome.MISCONFIGURED,
            detail="2101: Exceed Sending Limit",
        ),
        Row(reply=_json(413, {"errors": [7]}), outcome=Outcome.UNSUITABLE),
        Row(
            reply=_json(429, {"errors": [{"message": "Too many requests"}]}),
            outcome=Outcome.THROTTLED,
            detail="Too many",
        ),
        Row(
            reply=_json(500, {"errors": [{"message": "Internal error"}]}),
            outcome=Outcome.UNAVAILABLE,
            detail="Internal",
        ),
    ),
)
