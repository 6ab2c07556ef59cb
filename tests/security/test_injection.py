"""No value that could add a header gets in by any way, nor out if it was written into MongoDB."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.consumer import Consumer
from mailqueue.errors import InvalidEmail
from mailqueue.message import Address, Attachment, Email
from mailqueue.producer import Producer
from tests.stage import Stage

EVIL = "evil@example.net"
Change = Callable[[str], dict[str, Any]]


def _words(octets: bytes) -> list[str]:
    """RFC 2047 forms of these octets, well-formed and those that only a lenient reader takes."""
    quoted = "".join(f"={octet:02X}" for octet in octets)
    packed = b64encode(octets).decode()
    return [
        f"=?utf-8?q?a{quoted}Bcc:_{EVIL}?=",
        f"=?UTF-8?Q?{quoted.lower()}?=",
        f"=?us-ascii*en?q?{quoted}?=",
        f"=?utf-8?b?{packed}?=",
        f"=?utf-8?B?{packed.rstrip('=')}",
        f"Hello =?iso-8859-1?q?caf=E9{quoted}?= there",
        f"=?no-such-charset?q?{quoted}?=",
        f"=?utf-8?q?ok?= =?utf-8?q?{quoted}?=",
        f"=?utf-8?q?=3D=3Futf-8=3Fq=3F{quoted.replace('=', '=3D')}=3F=3D?=",
    ]


RAW = [f"a\r\nBcc: {EVIL}", f"a\nBcc: {EVIL}", f"a\rBcc: {EVIL}", "a\0b", "a\r\n b", "\n", "a\r\n"]
ENCODED = [w for octets in (b"\r\n", b"\n", b"\r", b"\0", b"\r\n\r\n") for w in _words(octets)]
ENCODED += ["=?utf-7?q?+AA0ACg-?=", "=?utf-16?b?DQAKAA==?=", "=?unicode_escape?q?=5Cr=5Cn?="]
CORPUS = [*RAW, *ENCODED]

FIELDS: dict[str, Change] = {
    "from": lambda v: {"from": Address(v, "ann@example.com")},
    "to[1]": lambda v: {"to": ["bob@example.org", Address(v, "eve@example.org")]},
    "to[0]": lambda v: {"to": [Address("Bob", f"bob@example.org{v}")]},
    "cc[0]": lambda v: {"cc": [f'"{v}" <carl@example.org>']},
    "bcc": lambda v: {"bcc": f"{v} <dora@example.org>"},
    "reply_to": lambda v: {"reply_to": Address(v, "help@example.com")},
    "subject": lambda v: {"subject": v},
    "headers.X-Tag": lambda v: {"headers": {"X-Tag": v}},
    "headers[0]": lambda v: {"headers": {f"X-{v}": "a"}},
    "tags[0]": lambda v: {"tags": [v]},
    "metadata.order": lambda v: {"metadata": {"order": v}},
    "metadata[0]": lambda v: {"metadata": {v: "7"}},
    "vendor_options[0]": lambda v: {"vendor_options": {v: {}}},
    "attachments[0].filename": lambda v: {"attachments": [Attachment(v, b"")]},
    "attachments[0].content_type": lambda v: {"attachments": [Attachment("a", b"", f"a/b{v}")]},
    "attachments[0].content_id": lambda v: {"attachments": [Attachment("a", b"", "a/b", v)]},
}
MESSAGE_FIELDS = {
    "from": ("From", "{} <ann@example.com>"),
    "to": ("To", "bob@example.org, {} <eve@example.org>"),
    "cc": ("Cc", "{} <carl@example.org>"),
    "bcc": ("Bcc", '"{}" <dora@example.org>'),
    "reply_to": ("Reply-To", "{} <help@example.com>"),
    "subject": ("Subject", "{}"),
    "headers.X-Tag": ("X-Tag", "{}"),
}


@pytest.fixture
def refused(config: Config, emails: Collection[dict[str, Any]]) -> Any:
    """Has the product refuse what ``send()`` is given; at the end nothing may be stored."""
    with Producer(config) as producer:

        def refuse(given: Any, *fields: str) -> None:
            with pytest.raises(InvalidEmail) as caught:
                producer.send(given)
            assert caught.value.field.startswith(fields)
            assert "example" not in f"{caught.value!s}{caught.value!r}"

        yield refuse
    assert emails.count_documents({}) == 0


def mapping(**changes: Any) -> dict[str, Any]:
    minimal = {"from": "ann@example.com", "to": ["bob@example.org"], "text": "Hello"}
    return minimal | changes


@pytest.mark.parametrize("field", FIELDS)
def test_a_mapping_that_could_inject_a_header_is_refused_and_nothing_is_stored(
    field: str, refused: Callable[[Any, str], None]
) -> None:
    for value in CORPUS:
        refused(mapping(**FIELDS[field](value)), field)


@pytest.mark.parametrize("field", FIELDS)
def test_an_email_that_could_inject_a_header_cannot_be_made(field: str) -> None:
    for value in CORPUS:
        given = mapping(**FIELDS[field](value))
        with pytest.raises(InvalidEmail) as caught:
            Email(from_=given.pop("from"), **given)
        assert caught.value.field == field


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_a_stdlib_message_that_could_inject_a_header_is_refused_and_nothing_is_stored(
    field: str, refused: Callable[[Any, str], None]
) -> None:
    """Raw values are put past the library's own setter, as a parser or an older policy would."""
    name, form = MESSAGE_FIELDS[field]
    for value in CORPUS:
        if not re.search(r"[\r\n\0](?![ \t\n])|=\?", form.format(value)):
            continue  # lawful folding, here
        message = EmailMessage()
        present = {"From": "ann@example.com", "To": "bob@example.org", name: form.format(value)}
        message._headers = list(present.items())  # type: ignore[attr-defined]  # see above
        message.set_content("Hello")
        refused(message, field)


@pytest.mark.parametrize("value", ENCODED)
def test_a_file_name_in_a_stdlib_message_cannot_inject_a_header(
    value: str, refused: Callable[..., None]
) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "ann@example.com", "bob@example.org"
    message.set_content("Hello")
    message.add_attachment(b"x", maintype="a", subtype="b", filename=value)
    refused(message, "attachments[0].filename", "headers.Content-Disposition")


# --- what was written into MongoDB by another hand

TAMPERED: dict[str, Any] = {
    "email.subject": f"Hi\r\nBcc: {EVIL}",
    "email.from": f"Ann\r\nBcc: {EVIL} <ann@example.com>",
    "email.to": [f"bob@example.org\r\nBcc: {EVIL}"],
    "email.cc": [f"=?utf-8?q?=0D=0ABcc:_{EVIL}?= <carl@example.org>"],
    "email.bcc": ["dora@example.org\r\nRCPT TO:<evil@example.net>"],
    "email.reply_to": ["Help\0 <help@example.com>"],
    "email.headers": {"X-Tag": f"a\nBcc: {EVIL}"},
    "email.tags": [f"a\r\nBcc: {EVIL}"],
    "email.metadata": {f"a\r\nBcc: {EVIL}": "7"},
    "email.attachments": [{"filename": "a\r\nb", "content": b"x", "content_type": "a/b"}],
    "message_id": f"<1@example.com>\r\nBcc: {EVIL}",
}
HEADER_NAME = {"email.headers": {f"X-Tag: a\r\nBcc: {EVIL}\r\nX": "a"}}


@pytest.mark.parametrize("kind", ["http", "smtp"])
def test_a_document_that_was_tampered_with_is_rejected_and_no_connection_is_opened(
    kind: str, stage: Stage
) -> None:
    vendor = stage.vendor("only") if kind == "http" else None
    server = stage.smtp("only") if kind == "smtp" else None
    changes = [{path: value} for path, value in TAMPERED.items()] + [HEADER_NAME]
    ids = stage.send(len(changes))
    for email_id, change in zip(ids, changes, strict=True):
        stage.emails.update_one({"_id": ObjectId(email_id)}, {"$set": change})
    assert Consumer(stage.config, burst=True).run() == 0
    for email_id in ids:
        status = stage.status(email_id)
        assert (status.status, status.reason) == ("failed", "rejected")
        assert [line.code for line in status.attempts] == ["header_injection"]
        assert EVIL not in repr(status.attempts)
    assert vendor is None or vendor.connections == 0
    assert server is None or server.handler.steps == []
