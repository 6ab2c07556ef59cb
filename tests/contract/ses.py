"""Amazon SES's side of the contract. The signature is compared with botocore's."""

from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64decode
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.vendors.ses import SIMULATOR
from tests.contract.case import Carried, Case, Person, Row, specification
from tests.sigv4 import botocores_authorization
from tests.vendor_servers import Received, Reply

KEY, SECRET, TOKEN = "AKIDEXAMPLE", "secret/of+the-account", "token-of-the-session=="
REGION = "eu-west-1"
_PATH = "/v2/email/outbound-emails"
_OWN = {"from", "to", "cc", "reply-to", "subject", "date", "message-id", "x-mailqueue-id"}


def _people(message: EmailMessage, name: str) -> list[Person]:
    addresses = message[name].addresses if message[name] else ()
    return [(a.display_name, a.addr_spec) for a in addresses]


def word(text: str) -> str:
    if not text.startswith("b64-"):
        return text
    packed = text.removeprefix("b64-")
    return urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()


def _file(part: EmailMessage) -> tuple[str, str, bytes]:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    name = (part["Content-ID"] or "").strip("<>") or part.get_filename() or ""
    return name, part.get_content_type(), content


def _body(message: EmailMessage, kind: str) -> str | None:
    part = message.get_body((kind,))
    return None if part is None else str(part.get_content()).replace("\r\n", "\n")


def _message(request: Received) -> EmailMessage:
    octets = b64decode(request.json["Content"]["Raw"]["Data"], validate=True)
    message = message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert octets.isascii()
    assert b"\nBcc:" not in octets
    return message


def _parse(request: Received) -> Carried:
    message, tags = _message(request), {t["Name"]: t["Value"] for t in request.json["EmailTags"]}
    files = [p for p in message.walk() if p.get_content_disposition() in {"attachment", "inline"}]
    assert message["X-Mailqueue-Id"] == tags["mailqueue_id"]
    labels = [name for name in tags if name.startswith("tag-")]
    metadata = {n: v for n, v in tags.items() if n not in {*labels, "mailqueue_id"}}
    destination = request.json["Destination"]
    return Carried(
        sender=_people(message, "From")[0],
        to=_people(message, "To"),
        cc=_people(message, "Cc"),
        bcc=[("", address) for address in destination.get("BccAddresses", [])],
        reply_to=_people(message, "Reply-To"),
        subject=message["Subject"],
        text=_body(message, "plain"),
        html=_body(message, "html"),
        headers={
            name: str(value)
            for name, value in message.items()
            if name.lower() not in _OWN and not name.lower().startswith(("content-", "mime-"))
        },
        attachments=[_file(p) for p in files if p.get_content_disposition() == "attachment"],
        inline=[_file(p) for p in files if p.get_content_disposition() == "inline"],
        tags=[word(tags[name]) for name in labels],
        metadata={word(name): word(value) for name, value in metadata.items()},
        email_id=tags["mailqueue_id"],
        message_id=message["Message-ID"],
    )


def _authorized(request: Received) -> bool:
    """botocore, given what was signed, signs the same."""
    headers = request.headers
    names = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert names == ["content-type", "host", "x-amz-date", "x-amz-security-token"]
    expected = botocores_authorization(
        f"https://{headers['host']}{request.path}",
        {"content-type": headers["content-type"]},
        request.body,
        keys=(KEY, SECRET, TOKEN),
        scope=(REGION, "ses"),
        now=datetime.strptime(headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z"),
    )
    return headers["authorization"] == expected and headers["x-amz-security-token"] == TOKEN


def _violations(specs: Path, request: Received) -> list[str]:
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    service = specification(specs / "ses" / "service-2.json")
    shape = ServiceModel(service).operation_model("SendEmail").input_shape
    report = ParamValidator().validate(request.json, shape)
    return [report.generate_report()] if report.has_errors() else []


def _error(status: int, kind: str, message: str = "") -> Reply:
    headers = {"Content-Type": "application/json", "x-amzn-ErrorType": kind}
    return Reply(status, headers, json.dumps({"message": message} if message else {}).encode())


def _row(status: int, kind: str, message: str, outcome: Outcome, **more: Any) -> Row:
    return Row(reply=_error(status, kind, message), outcome=outcome, detail=message, **more)


_ID = "0102018f2a-9b1c-000000"
_NOT_VERIFIED = "Email address is not verified. The identities failed the check in EU-WEST-1"
_SIGNATURE = "The request signature we calculated does not match the signature you provided."
_UNSUITABLE, _MISCONFIGURED = Outcome.UNSUITABLE, Outcome.MISCONFIGURED

CASE = Case(
    type="ses",
    keys={
        "region": REGION,
        "access_key_id": KEY,
        "secret_access_key": SECRET,
        "session_token": TOKEN,
    },
    secret=SECRET,
    path=_PATH,
    accepted=Reply(
        200, {"Content-Type": "application/json"}, b'{"MessageId": "%b"}' % _ID.encode()
    ),
    message_id=_ID,
    parse=_parse,
    authorized=_authorized,
    dated=frozenset({"authorization", "x-amz-date"}),
    narrowed={"text": "Hello\n.\n..dots and ünicode\n"},  # MIME has one kind of line end
    sandboxed=lambda r: r.json["Destination"] == {"ToAddresses": [SIMULATOR]},
    violations=_violations,
    extra=(
        {"ConfigurationSetName": "main", "EmailTags": [{"Name": "team", "Value": "blue"}]},
        lambda r: (
            r.json.get("ConfigurationSetName") == "main"
            and {"Name": "team", "Value": "blue"} in r.json["EmailTags"]
        ),
    ),
    rows=(
        Row(reply=Reply(200, {}, b"{}"), outcome=Outcome.UNKNOWN),
        Row(reply=Reply(200, {}, b'{"MessageId": ""}'), outcome=Outcome.UNKNOWN),
        Row(reply=Reply(200, {}, b'{"MessageId": 7}'), outcome=Outcome.UNKNOWN),
        _row(403, "MessageRejected", _NOT_VERIFIED, _UNSUITABLE),
        _row(400, "MessageRejected:http://internal.amazon.com/coral/", _NOT_VERIFIED, _UNSUITABLE),
        _row(400, "MessageRejected", "Illegal content", _UNSUITABLE),
        _row(400, "MessageRejected", "Sending paused for this account. See inbox", _MISCONFIGURED),
        _row(400, "BadRequestException", "Missing final '@domain'", _UNSUITABLE),
        _row(400, "MailFromDomainNotVerifiedException", "MAIL FROM not verified", _UNSUITABLE),
        _row(400, "AccountSuspendedException", "Account is suspended", _MISCONFIGURED),
        _row(400, "SendingPausedException", "Sending is paused", _MISCONFIGURED),
        _row(400, "LimitExceededException", "Too many instances", _MISCONFIGURED),
        _row(404, "NotFoundException", "Configuration set does not exist", _MISCONFIGURED),
        _row(400, "ThrottlingException", "Maximum sending rate exceeded.", Outcome.THROTTLED),
        _row(400, "ThrottlingException", "Daily message quota exceeded.", _MISCONFIGURED),
        _row(429, "TooManyRequestsException", "Too many requests", Outcome.THROTTLED),
        _row(403, "AccessDeniedException", "User is not authorized", _MISCONFIGURED),
        _row(403, "ExpiredTokenException", "The token is expired", _MISCONFIGURED),
        _row(400, "IncompleteSignature", "The signature is incomplete", _MISCONFIGURED),
        _row(403, "UnrecognizedClientException", "The token is invalid", _MISCONFIGURED),
        _row(403, "OptInRequired", "A subscription is needed", _MISCONFIGURED),
        _row(400, "RequestExpired", "More than 15 minutes ago", _MISCONFIGURED),
        _row(413, "RequestEntityTooLargeException", "Too large", _UNSUITABLE),
        _row(500, "InternalFailure", "Unknown error", Outcome.UNAVAILABLE),
        _row(503, "ServiceUnavailable", "Try later", Outcome.UNAVAILABLE),
        Row(
            reply=_error(403, "InvalidSignatureException", f"{_SIGNATURE}\n\n'POST\n{TOKEN}'"),
            outcome=_MISCONFIGURED,
            detail=_SIGNATURE,
        ),
        Row(
            reply=Reply(400, {}, b'{"__type": "com.amazonaws.sesv2#SendingPausedException"}'),
            outcome=_MISCONFIGURED,
            detail="SendingPausedException",
        ),
        Row(reply=Reply(400, {}, b'{"message": 7, "__type": []}'), outcome=_UNSUITABLE),
    ),
)
