"""What Postmark, Resend, Brevo, Mailjet and SparkPost cannot take, and what they can."""

from __future__ import annotations

from typing import Any

import pytest

from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.message import Address, Email
from mailqueue.vendors import limits

MIB = 2**20


def _email(**fields: Any) -> Email:
    given = {"from": "a@example.org", "to": ["b@example.org"], "subject": "s", "text": "t"}
    return Email.from_mapping({**given, **fields})


def _many(count: int) -> list[str]:
    return [f"r{n}@example.org" for n in range(count)]


def _file(name: str = "a.txt", kind: str = "text/plain", **more: Any) -> dict[str, Any]:
    files = [{"filename": name, "content": b"x", "content_type": kind, **more}]
    return {"html": "<p>", "attachments": files}


EAI = {"to": ["dörte@example.org"], "html": "<p>"}
TEMPLATE = "text that looks like a template"
RESERVED = "reserved header"
CONTRADICTS = "attachment whose name contradicts its type"
NOT_UTF8 = "attachment of text that is not UTF-8"
EXTENSION = "attachment extension not accepted"
NOT_ASCII = "non-ASCII headers"

NOT_CARRIED = [
    *(
        (type_, {"to": [], "bcc": ["b@x.org"]}, "no To recipient")
        for type_ in VENDOR_TYPES
        if type_ in {"brevo", "mailjet", "resend"}
    ),
    *((type_, EAI, "non-ASCII mailbox") for type_ in ("brevo", "postmark", "resend", "sparkpost")),
    *((type_, {"text": ""}, "empty body") for type_ in ("brevo", "mailjet", "postmark")),
    *((type_, {"subject": ""}, "no subject") for type_ in ("brevo", "resend", "sparkpost")),
    *(
        (type_, {"html": "<p>", "reply_to": _many(2)}, "more than 1 reply-to")
        for type_ in ("brevo", "mailjet")
    ),
    ("postmark", {"to": _many(30), "cc": ["c@x.org"], "bcc": _many(50)}, "more than 50 recipients"),
    ("postmark", {"html": "x" * 6 * MIB}, "body larger than 5 MiB"),
    ("postmark", {"html": "x" * 11 * MIB}, "larger than 10 MiB"),
    ("resend", {"to": _many(51)}, "more than 50 to recipients"),
    ("resend", _file("data.txt", "text/csv"), CONTRADICTS),
    ("resend", _file("plan.pdf", "application/octet-stream"), CONTRADICTS),
    ("brevo", {}, "text only"),
    ("brevo", {"html": "<p>", "to": _many(100)}, "more than 99 recipients"),
    (
        "brevo",
        {"html": "<p>", "from": Address("x" * 71, "a@x.org")},
        "display name longer than 70",
    ),
    (
        "brevo",  # with punctuation it goes as encoded words
        {"html": "<p>", "from": Address("Jörg, Müller " * 3, "a@x.org")},
        "display name longer than 70",
    ),
    ("brevo", {"html": "<p>{{ params.name }}"}, TEMPLATE),
    ("brevo", {"html": "<p>", "text": "{% if %}"}, TEMPLATE),
    ("brevo", {"html": "<p>", "subject": "{{contact}}"}, TEMPLATE),
    ("brevo", _file(content_id="c"), "inline attachment"),
    ("brevo", _file("a.exe"), EXTENSION),
    ("brevo", _file("README"), EXTENSION),
    ("brevo", _file("pdf"), EXTENSION),
    ("brevo", _file(kind="text/plain; charset=iso-8859-1"), NOT_UTF8),
    ("brevo", {"html": "<p>", "headers": {"X-A": "ä"}}, NOT_ASCII),
    ("brevo", {"html": "<p>", "headers": {"X-A": "=?utf-8?b?w6Q=?="}}, NOT_ASCII),
    ("brevo", {"html": "<p>", "headers": {"IdempotencyKey": "x"}}, RESERVED),
    ("mailjet", {"cc": _many(51)}, "more than 50 cc recipients"),
    ("mailjet", {"bcc": _many(51)}, "more than 50 bcc recipients"),
    ("mailjet", {"subject": "x" * 256}, "subject longer than 255"),
    ("mailjet", {"text": "x" * 16 * MIB}, "larger than 15 MiB"),
    ("mailjet", {"headers": {"X-Mailer": "m"}}, RESERVED),
    ("mailjet", {"headers": {"List-ID": "<l>"}}, RESERVED),
    ("mailjet", {"attachments": [{"filename": "a", "content": b""}]}, "empty attachment"),
    ("mailjet", _file(kind='text/csv; header=present; charset="Latin1"'), NOT_UTF8),
    ("sparkpost", {"subject": "Use {{name}}"}, TEMPLATE),
    ("sparkpost", {"headers": {"X-A": "{{x}}"}}, TEMPLATE),
    ("sparkpost", {"cc": [Address("{{x}}", "c@x.org")]}, TEMPLATE),
    ("sparkpost", {"reply_to": ["{{x}}@x.org"]}, TEMPLATE),
    ("sparkpost", {"headers": {"List-Unsubscribe": "<https://x.org>"}}, RESERVED),
    (
        "sparkpost",
        {"from": Address("ä" * 128, "a@x.org")},
        "sender name longer than 255 bytes",
    ),
    ("sparkpost", {"text": "x" * 21 * MIB}, "larger than 20 MiB"),
    ("sendgrid", {"to": '"a@b"@x.org'}, "mailbox with punctuation in quotes"),
    ("postmark", {"reply_to": 'A <"a, b"@x.org>'}, "mailbox with punctuation in quotes"),
]


@pytest.mark.parametrize("type_,fields,reason", NOT_CARRIED)
def test_what_a_vendor_cannot_take_is_known_before_a_call(
    type_: str, fields: dict[str, Any], reason: str
) -> None:
    assert limits.can_carry(type_, _email(**fields)) == reason


CARRIED = [
    *((type_, {"to": [], "cc": ["b@x.org"]}) for type_ in ("postmark", "sparkpost")),
    *((type_, {"to": [], "bcc": ["b@x.org"]}) for type_ in ("postmark", "sparkpost")),
    ("postmark", {"to": _many(50), "subject": "", "metadata": {"x" * 20: "1"}}),
    ("postmark", _file("a.bin", "image/png", content_id="c")),
    ("resend", {"to": _many(50), "cc": _many(60), "tags": _many(20)}),
    ("resend", _file("notes.txt", "Text/Plain; charset=latin1")),
    ("resend", _file("dump.unheardof", "application/pdf")),
    ("brevo", {"html": "<p>", "to": _many(99), "from": Address("x" * 70, "a@x.org")}),
    ("brevo", {"html": "<p>", "from": Address("Jörg Müller " * 5, "a@x.org")}),
    ("brevo", {"html": "<p>{ a }", "text": "", "tags": _many(20)}),
    ("brevo", _file("Übersicht.PDF", "application/pdf")),
    ("brevo", _file(kind='text/plain; charset="UTF-8"')),
    ("mailjet", EAI),
    ("sendgrid", {"to": ['"john doe"@x.org', "ann..@x.org"]}),
    ("smtp", {"to": '"a@b, c"@x.org'}),
    ("ses", {"from": '"a@b, c"@x.org'}),
    ("mailjet", {"to": _many(50), "cc": _many(50), "bcc": _many(50), "subject": ""}),
    ("mailjet", _file("a.bin", "application/pdf; charset=odd", content_id="c")),
    ("sparkpost", {"text": "Hello {{name}}", "html": "<p>{{#if x}}"}),
    ("sparkpost", {"reply_to": _many(3), "headers": {"X-A": "{x}"}}),
]


@pytest.mark.parametrize("type_,fields", CARRIED)
def test_what_a_vendor_can_take(type_: str, fields: dict[str, Any]) -> None:
    assert limits.can_carry(type_, _email(**fields)) is None
