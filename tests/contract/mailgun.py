"""Mailgun's side of the contract."""

from __future__ import annotations

import json
from base64 import b64encode
from email.message import EmailMessage
from pathlib import Path

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Address
from tests.contract.case import Carried, Case, Person, Row, specification
from tests.vendor_servers import Received, Reply

KEY = "key-secret-of-the-account"
_OWN = {"h:reply-to", "h:message-id", "v:mailqueue_id"}


def _text(part: EmailMessage) -> str:
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return octets.decode()


def _person(part: EmailMessage) -> Person:
    address = Address.parse(_text(part))
    return address.name, address.address


def _file(part: EmailMessage) -> tuple[str, str, bytes]:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    name = part.get_param("filename", header="content-disposition")
    return str(name), part["Content-Type"], content


def _prefixed(request: Received, prefix: str) -> dict[str, str]:
    return {
        name[2:]: _text(part)
        for name, part in request.form
        if name.startswith(prefix) and name.lower() not in _OWN
    }


def _parse(request: Received) -> Carried:
    def each(name: str) -> list[EmailMessage]:
        return [part for field, part in request.form if field == name]

    def one(name: str) -> str | None:
        return next(iter(map(_text, each(name))), None)

    reply_to = one("h:Reply-To")
    split = [Address.parse(p) for p in reply_to.split(", ")] if reply_to else []
    return Carried(
        sender=_person(each("from")[0]),
        to=list(map(_person, each("to"))),
        cc=list(map(_person, each("cc"))),
        bcc=list(map(_person, each("bcc"))),
        reply_to=[(a.name, a.address) for a in split],
        subject=one("subject") or "",
        text=one("text"),
        html=one("html"),
        headers=_prefixed(request, "h:"),
        attachments=list(map(_file, each("attachment"))),
        inline=list(map(_file, each("inline"))),
        tags=list(map(_text, each("o:tag"))),
        metadata=_prefixed(request, "v:"),
        email_id=one("v:mailqueue_id") or "",
        message_id=one("h:Message-Id"),
    )


def _violations(specs: Path, request: Received) -> list[str]:
    # The loader leaves every value as text.
    document = specification(specs / "mailgun" / "openapi.yaml", loader="CBaseLoader")
    resource = request.path.rpartition("/")[2].replace(".", "-")  # messages, or messages.mime
    body = f"POST-v3-domain_name-{resource}-multipart-form-data-RequestBody"
    schema = document["components"]["schemas"][body]
    form = request.form
    names = [name for name, _ in form]
    problems = [f"missing: {name}" for name in set(schema["required"]) - {*names}]
    for name, part in form:
        known = schema["properties"].get(name)
        if known is None and name[:2] not in {"h:", "v:"}:
            problems.append(f"unknown: {name}")
        elif known and "enum" in known and _text(part) not in known["enum"]:
            problems.append(f"not in the enum of {name}")
    single = {n for n, s in schema["properties"].items() if s["type"] != "array"}
    problems += [f"twice: {n}" for n in single if names.count(n) > 1]
    return problems


def _json(status: int, **body: str) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _throttled(words: str) -> Reply:
    message = "Domain mg.example.org is not allowed to send: recipient limit exceeded, try again "
    reply = _json(429, message=message + words)
    return Reply(429, {**reply.headers, "Date": "Mon, 20 Dec 2021 20:31:21 GMT"}, reply.body)


_ID = "<20211220203121.1.ABC@mg.example.org>"
_NOT_ALLOWED = "Domain mg.example.org is not allowed to send: "

CASE = Case(
    type="mailgun",
    keys={"api_key": KEY, "domain": "mg.example.org"},
    secret=KEY,
    path="/v3/mg.example.org/messages",
    accepted=_json(200, id=_ID, message="Queued. Thank you."),
    message_id=_ID,
    parse=_parse,
    authorized=lambda request: (
        request.headers["authorization"] == "Basic " + b64encode(f"api:{KEY}".encode()).decode()
    ),
    sandboxed=lambda r: [_text(p) for n, p in r.form if n == "o:testmode"] == ["yes"],
    violations=_violations,
    extra=(
        {"o:tracking": "no", "o:tag": ["one", "two"]},
        lambda r: (
            [(n, _text(p)) for n, p in r.form if n.startswith("o:")]
            == [("o:tracking", "no"), ("o:tag", "one"), ("o:tag", "two")]
        ),
    ),
    rows=(
        Row(
            reply=Reply(200, {"Content-Type": "text/plain"}, b"Mailgun Magnificent API"),
            outcome=Outcome.MISCONFIGURED,
        ),
        Row(reply=_json(200, message="Queued. Thank you."), outcome=Outcome.UNKNOWN),
        Row(reply=_json(200, id=_ID, message="Something else"), outcome=Outcome.UNKNOWN),
        Row(reply=Reply(200, {}, b'{"id": 7, "message": ["Queued"]}'), outcome=Outcome.UNKNOWN),
        Row(
            reply=_json(400, message="'to' parameter is not a valid address. please check"),
            outcome=Outcome.UNSUITABLE,
            detail="not a valid address",
        ),
        Row(
            reply=_json(400, message="Need at least one of 'text' or 'html' parameters specified"),
            outcome=Outcome.UNSUITABLE,
            detail="Need at least one",
        ),
        Row(
            reply=_json(400, message="Too many recipients, max is 1000"),
            outcome=Outcome.UNSUITABLE,
            detail="Too many recipients",
        ),
        Row(
            reply=_json(400, message=_NOT_ALLOWED + "The domain is unverified."),
            outcome=Outcome.MISCONFIGURED,
            detail="unverified",
        ),
        Row(
            reply=_json(
                400, message=_NOT_ALLOWED + "add the address to authorized recipients first"
            ),
            outcome=Outcome.UNSUITABLE,
            detail="authorized recipients",
        ),
        Row(
            reply=Reply(401, {"Content-Type": "text/plain"}, b"Forbidden"),
            outcome=Outcome.MISCONFIGURED,
        ),
        Row(
            reply=_json(402, message="parameters were valid but request failed"),
            outcome=Outcome.MISCONFIGURED,
            detail="request failed",
        ),
        Row(
            reply=_json(403, message="You are not allowed to send large batches yet"),
            outcome=Outcome.MISCONFIGURED,
            detail="large batches",
        ),
        Row(
            reply=_json(404, message="Domain not found: mg.example.org"),
            outcome=Outcome.UNSUITABLE,
            detail="Domain not found",
        ),
        Row(reply=_json(404, message="Not found"), outcome=Outcome.MISCONFIGURED),
        Row(
            reply=_json(413, message="request size exceeds 52.4MiB limit"),
            outcome=Outcome.UNSUITABLE,
            detail="52.4MiB",
        ),
        Row(
            reply=_throttled("after 120 seconds"),
            outcome=Outcome.THROTTLED,
            retry_after=120.0,
            detail="after 120 seconds",
        ),
        Row(
            reply=_throttled("after Mon, 20 Dec 2021 20:33:21 UTC"),
            outcome=Outcome.THROTTLED,
            retry_after=120.0,
            detail="20:33:21",
        ),
        Row(reply=_throttled("later"), outcome=Outcome.THROTTLED, detail="later"),
        Row(
            reply=_json(500, message="Internal Server Error"),
            outcome=Outcome.UNAVAILABLE,
            detail="Internal",
        ),
    ),
)
