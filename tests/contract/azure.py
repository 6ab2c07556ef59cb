"""Azure's side of the contract. The signature is compared with the SDK's."""

from __future__ import annotations

import json
import uuid
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from tests.azure_hmac import sdks_headers
from tests.contract.case import Carried, Case, Person, Row, closed, problems, specification
from tests.vendor_servers import Received, Reply

KEY = b64encode(b"secret of the resource").decode()
_PATH = "/emails:send?api-version=2025-09-01"


def _person(entry: dict[str, str]) -> Person:
    return entry.get("displayName", ""), entry["address"]


def _file(entry: dict[str, str]) -> tuple[str, str, bytes]:
    name = entry.get("contentId", entry["name"])
    return name, entry["contentType"], b64decode(entry["contentInBase64"], validate=True)


def _parse(request: Received) -> Carried:
    payload = request.json
    people, headers = payload["recipients"], dict(payload["headers"])
    files = payload.get("attachments", [])
    assert uuid.UUID(request.headers["operation-id"]).version == 8
    return Carried(
        sender=("", payload["senderAddress"]),
        to=[_person(entry) for entry in people["to"]],
        cc=[_person(entry) for entry in people.get("cc", [])],
        bcc=[_person(entry) for entry in people.get("bcc", [])],
        reply_to=[_person(entry) for entry in payload.get("replyTo", [])],
        subject=payload["content"]["subject"],
        text=payload["content"].get("plainText"),
        html=payload["content"].get("html"),
        email_id=headers.pop("X-Mailqueue-Id"),
        tags=json.loads(headers.pop("X-Mailqueue-Tags", "[]")),
        metadata=json.loads(headers.pop("X-Mailqueue-Metadata", "{}")),
        headers=headers,
        attachments=[_file(entry) for entry in files if "contentId" not in entry],
        inline=[_file(entry) for entry in files if "contentId" in entry],
    )


def _authorized(request: Received) -> bool:
    sent = request.headers
    url = f"https://{sent['host']}{request.path}"
    body, date = request.body.decode(), sent["x-ms-date"]
    expected = sdks_headers(request.method, url, body, access_key=KEY, date=date)
    names = ("authorization", "x-ms-date", "x-ms-content-sha256")
    return all(sent[name] == expected[name] for name in names)


def _violations(specs: Path, request: Received) -> list[str]:
    name = "CommunicationServicesEmail.transcribed.json"
    document = specification(specs / "azure" / name)
    schema = closed(document["definitions"]["EmailMessage"], document)
    attachment = schema["properties"]["attachments"]["items"]["properties"]
    attachment["contentId"] = {"type": "string"}  # of the newer version that is asked for
    return problems(schema, request)


def _taken(status: str) -> Reply:
    body = json.dumps({"id": _ID, "status": status, "error": None})
    headers = {"Content-Type": "application/json", "Operation-Location": "/x", "retry-after": "30"}
    return Reply(202, headers, body.encode())


def _error(status: int, code: str, message: str, **headers: str) -> Reply:
    body: Any = {"error": {"code": code, "message": message}}
    sent = {"Content-Type": "application/json", "x-ms-error-code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {**sent, **named}, json.dumps(body).encode())


_ID = "8540c0de-899f-5cce-acb5-3ec493af3800"

CASE = Case(
    type="azure",
    keys={"access_key": KEY},
    secret=KEY,
    path=_PATH,
    accepted=_taken("Running"),
    message_id=_ID,
    parse=_parse,
    authorized=_authorized,
    dated=frozenset({"authorization", "x-ms-date"}),
    own_message_id=False,
    labels=(),
    exposed=("tags", "metadata"),
    sender_names=False,
    sandboxed=None,
    violations=_violations,
    extra=(
        {"userEngagementTrackingDisabled": True},
        lambda r: r.json.get("userEngagementTrackingDisabled") is True,
    ),
    rows=(
        Row(reply=_taken("NotStarted"), outcome=Outcome.ACCEPTED, message_id=_ID, retry_after=None),
        Row(reply=_taken("Succeeded"), outcome=Outcome.ACCEPTED, message_id=_ID),
        Row(reply=Reply(202, {}, b'{"id": 7, "status": "Running"}'), outcome=Outcome.UNKNOWN),
        Row(reply=Reply(202, {}, b'{"id": "x", "status": "Failed"}'), outcome=Outcome.UNKNOWN),
        Row(reply=Reply(202, {}, b'{"id": "x", "status": "Canceled"}'), outcome=Outcome.UNKNOWN),
        Row(reply=Reply(202, {}, b'{"id": "x"}'), outcome=Outcome.UNKNOWN),
        Row(
            reply=_error(400, "InvalidAddress", "Invalid format for address."),
            outcome=Outcome.UNSUITABLE,
            detail="InvalidAddress: Invalid format",
        ),
        Row(
            reply=_error(401, "Denied", "Denied by the resource provider."),
            outcome=Outcome.MISCONFIGURED,
            detail="Denied",
        ),
        Row(
            reply=_error(403, "Forbidden", "The resource is disabled."),
            outcome=Outcome.MISCONFIGURED,
            detail="disabled",
        ),
        Row(
            reply=_error(429, "TooManyRequests", "Per-minute limit.", retry_after="30"),
            outcome=Outcome.THROTTLED,
            retry_after=30.0,
            detail="Per-minute",
        ),
        Row(
            reply=_error(429, "TooManyRequests", "Per-hour limit."),
            outcome=Outcome.THROTTLED,
            detail="Per-hour",
        ),
        *(
            Row(
                reply=_error(status, "DomainNotLinked", "The sender domain has not been linked."),
                outcome=Outcome.UNSUITABLE,
                detail="DomainNotLinked",
            )
            for status in (403, 404)
        ),
        Row(reply=_error(404, "NotFound", "No."), outcome=Outcome.MISCONFIGURED, detail="NotFound"),
        Row(reply=_error(503, "DomainNotLinked", "No."), outcome=Outcome.UNAVAILABLE),
        Row(reply=Reply(400, {}, b'{"error": {"code": 7}}'), outcome=Outcome.UNSUITABLE),
        Row(reply=Reply(400, {}, b'{"error": "odd"}'), outcome=Outcome.UNSUITABLE),
    ),
)
