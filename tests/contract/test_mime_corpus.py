"""Awkward e-mails read back from what SMTP and SES get, with the standard library's own parser.

``test_mime`` has the pieces one by one; here are whole messages, through the vendors that send them
as MIME: the bytes of SMTP's DATA, and those in the request to SES.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest

from mailqueue.config import VendorConfig
from mailqueue.message import Address, Attachment, Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.ses import Ses
from mailqueue.vendors.smtp import Smtp

EMAIL_ID = "65f0a1b2c3d4e5f6a7b8c9d0"
LOGO = Attachment("logo.png", b"\x89PNG", "image/png", "logo@example")
INNER = (
    b"Subject: inner\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"
)
MEGABYTE = bytes(range(256)) * 4096

CORPUS: dict[str, dict[str, Any]] = {
    "an emoji subject": {"subject": "🎉 Grüße 👩‍👩‍👧‍👦" * 12},
    "a right-to-left subject": {"subject": "שלום עולם 123 مرحبا \u202eabc\u202c"},
    "a subject that looks encoded": {"subject": "=?utf-8?q?caf=C3=A9?= =?x?="},
    "a subject of one long word": {"subject": "x" * 2000},
    "names with everything": {
        "from": Address('Änn, "the" \\Sender', "ann@example.org"),
        "to": [Address("שלום", "a@example.org"), Address("b@evil.org", "b@example.org")],
        "cc": ["Dörte <doerte@example.org>"],
        "reply_to": [Address("Desk; open", "desk@example.org"), "other@example.org"],
    },
    "long non-ASCII file names": {
        "attachments": [
            Attachment("ü" * 196 + ".pdf", b"%PDF", "application/pdf"),
            Attachment("日本語🎉" * 50, b"1", "application/octet-stream"),
            Attachment('q"uo\\te; x=y.txt', b"2", "text/plain"),
        ]
    },
    "lines of 998 octets": {
        "text": f"{'x' * 998}\n{'é' * 499}\n.\n{'.' * 998}\nFrom\n",
        "html": ".",
    },
    "an empty text": {"text": ""},
    "an empty text beside html": {"text": "", "html": "<p>Ä"},
    "html alone": {"text": None, "html": "<p>Ä =3D\t \n</p>\n"},
    "nested multipart": {
        "html": '<img src="cid:logo@example">',
        "attachments": [
            LOGO,
            Attachment("inner.eml", INNER, "message/rfc822"),
            Attachment("b.txt", "ä\r\n--=_\n".encode("latin-1"), "text/plain; charset=latin1"),
        ],
    },
    "all kinds of line ends": {"text": "a\r\nb\nc\rd\n\re\r\r\n\nf", "html": "<p>\r\n.\r..\n"},
    "IDN domains": {"from": "a@bücher.example", "to": ["b@例え.テスト", "c@straße.example"]},
    "mailboxes that are not ASCII": {"from": "änn@bücher.example", "to": ["Bob <例@例え.example>"]},
    "an attachment of 1 MB": {"attachments": [Attachment("big.bin", MEGABYTE, "a/b")]},
    "attachments of nothing": {"attachments": [Attachment("a", b"", "a/b"), LOGO]},
}


OWN = {"Message-ID": "<own@x.org>"}


def attempt() -> Attempt:
    deadline = time.monotonic() + 60
    return Attempt(email_id=EMAIL_ID, message_id=f"<{EMAIL_ID}@x.org>", deadline=deadline)


def by_smtp(email: Email, given: Attempt | None = None) -> bytes:
    config = VendorConfig(name="smtp", type="smtp", keys={"host": "127.0.0.1"})
    return Smtp(config)._envelope(email, given or attempt()).message


def by_ses(email: Email, given: Attempt | None = None) -> bytes:
    keys = {"region": "eu-west-1", "access_key_id": "AKID", "secret_access_key": "secret"}
    body = (
        Ses(VendorConfig(name="ses", type="ses", keys=keys)).build(email, given or attempt()).body
    )
    return b64decode(json.loads(body)["Content"]["Raw"]["Data"])


@pytest.mark.parametrize("octets_of", [by_smtp, by_ses], ids=["smtp", "ses"])
@pytest.mark.parametrize("name", CORPUS)
def test_what_goes_out_as_mime_reads_back_as_the_very_same(
    name: str, octets_of: Callable[[Email], bytes]
) -> None:
    given = {"from": "ann@example.org", "to": ["bob@example.org"], "subject": "S", "text": "T\n"}
    email = Email.from_mapping({**given, **CORPUS[name]})
    octets = octets_of(email)
    lines = octets.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    message = message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert message["Subject"] == email.subject
    for field in ("from_", "to", "cc", "reply_to"):
        assert shown(message, field.strip("_").replace("_", "-")) == expected(email, field)
    assert (body(message, "plain"), body(message, "html")) == (lf(email.text), lf(email.html))
    assert files(message) == [(f.filename, f.content_id, f.content) for f in email.attachments]


@pytest.mark.parametrize("octets_of", [by_smtp, by_ses], ids=["smtp", "ses"])
def test_date_and_message_id_are_those_of_the_attempt(
    octets_of: Callable[[Email, Attempt], bytes],
) -> None:
    email = Email(from_="ann@example.org", to="bob@example.org", text="", headers=OWN)
    scheduled = replace(attempt(), message_id="<own@x.org>", date=datetime(2036, 1, 2, tzinfo=UTC))
    head = octets_of(email, scheduled).partition(b"\r\n\r\n")[0]
    assert head.count(b"Message-ID:") == 1
    assert b"\r\nMessage-ID: <own@x.org>\r\n" in head
    assert b"\r\nDate: Wed, 02 Jan 2036 00:00:00 +0000\r\n" in head


def expected(email: Email, field: str) -> list[tuple[str, str]]:
    people = [email.from_] if field == "from_" else getattr(email, field)
    return [(person.name, person.ascii) for person in people]


def shown(message: EmailMessage, header: str) -> list[tuple[str, str]]:
    """Names and addresses; the parser leaves UTF-8 in a mailbox (RFC 6532) as octets."""
    addresses = message[header].addresses if message[header] else ()
    octets = ((a.display_name, a.addr_spec.encode("utf-8", "surrogateescape")) for a in addresses)
    return [(name, address.decode()) for name, address in octets]


def lf(text: str | None) -> str | None:
    """Line ends of all kinds become the one that MIME knows."""
    return None if text is None else text.replace("\r\n", "\n").replace("\r", "\n")


def body(message: EmailMessage, kind: str) -> str | None:
    part = message.get_body((kind,))
    return None if part is None else lf(part.get_content(errors="strict"))


def files(message: EmailMessage) -> list[tuple[str, str | None, bytes]]:
    """Attached and inline files, in the order of the e-mail."""
    found = []
    for part in message.walk():
        name = part.get_filename()
        if name is None:
            continue
        content_id = str(part["Content-ID"])[1:-1] if part["Content-ID"] else None
        content = part.get_payload(decode=True)
        if part.get_content_type() == "message/rfc822":
            content = part.get_content().as_bytes(policy=policy.SMTP)
        assert isinstance(content, bytes)
        found.append((name, content_id, content))
    return found
