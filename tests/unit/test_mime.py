"""What goes over the wire reads back as it was meant; what comes as a stdlib message is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import Header, decode_header, make_header
from email.message import EmailMessage, Message
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import getaddresses
from smtplib import SMTP
from typing import Any

import pytest

from mailqueue.errors import InvalidEmail
from mailqueue.message import Address, Attachment, Email
from mailqueue.message.mime import boundary, mime, write
from tests.for_each import for_each

DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MINIMAL = {"from": "Ann <ann@example.com>", "to": ["bob@example.org"], "text": "Hello"}


def email(**changes: Any) -> Email:
    return Email.from_mapping(MINIMAL | changes)


def wire(whole: Email, **more: Any) -> bytes:
    octets = mime(whole, message_id="<1@example.com>", date=DATE, **more)
    lines = octets.split(b"\r\n")
    assert all(len(line) <= 998 and not {10, 13} & set(line) for line in lines)
    return octets


def parsed(whole: Email, **more: Any) -> EmailMessage:
    octets = wire(whole, **more)
    assert octets.isascii()
    return message_from_bytes(octets, policy=policy.default)


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    content: str = part.get_content(errors="strict")
    return content.replace("\r\n", "\n")


def test_a_plain_email_is_as_plain_on_the_wire() -> None:
    assert wire(email(subject="Hi", bcc="secret@example.org"), email_id="65") == (
        b"From: Ann <ann@example.com>\r\nTo: bob@example.org\r\nSubject: Hi\r\n"
        b"Message-ID: <1@example.com>\r\nDate: Fri, 02 Jan 2026 03:04:05 +0000\r\n"
        b"X-Mailqueue-Id: 65\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\nHello"
    )


def test_equal_input_gives_equal_bytes_and_boundaries_follow_the_message_id() -> None:
    whole = email(html="<p>Hello", attachments=[Attachment("a", b"1")])
    assert wire(whole) == wire(Email.from_document(whole.to_mapping()))
    other = mime(whole, message_id="2@example.com", date=DATE)
    assert b"Message-ID: <2@example.com>\r\n" in other
    assert message_from_bytes(other).get_boundary() != parsed(whole).get_boundary()


def test_without_a_visible_recipient_or_date_the_headers_stay_legal() -> None:
    octets = mime(email(to=[], bcc="b@x.org"), message_id="<1@x>")
    assert b"To: undisclosed-recipients:;\r\n" in octets
    assert b"Date" not in octets
    assert b"b@x.org" not in octets
    assert parsed(email(to=[], cc="c@x.org"))["To"] is None


def test_a_vendor_may_replace_the_sender() -> None:
    message = parsed(email(), sender=Address("Other", "o@example.com"))
    assert str(message["From"]) == "Other <o@example.com>"


def display_name(octets: bytes) -> str:
    """The name in To by the older parser: the newer puts spaces between long encoded words."""
    lines = octets.replace(b"\r\n ", b" ").decode().split("\r\n")
    (line,) = [line for line in lines if line.startswith("To: ")]
    name, _ = getaddresses([line.removeprefix("To: ")])[0]
    return str(make_header(decode_header(name))) if "=?utf-8?b?" in name else name


AWKWARD = [
    "",
    "Hi",
    " leading, trailing and  double   spaces ",
    "tab\there",
    "🎉" * 80,
    "שלום עולם مرحبا بالعالم",
    "x" * 2000,
    "word " * 300 + "end",
    "=?utf-8?q?caf=C3=A9?=",
    "form\x0cfeed \x85 \u2028 lines",
    'quotes " and \\ backslash; semi, comma <a> (b) %20',
    "e\u0301" * 40,
]


@for_each("value", AWKWARD)
def test_awkward_subjects_headers_names_and_file_names_read_back(value: str) -> None:
    person = Address(value, "b@bücher.example")
    whole = email(
        subject=value,
        headers={"X-Note": value},
        to=[person, "c@x.org"],
        attachments=[Attachment(value, b"1", "application/pdf")],
    )
    message = parsed(whole)
    assert (message["Subject"], message["X-Note"]) == (value, value)
    first, second = message["To"].addresses
    assert first.addr_spec == "b@xn--bcher-kva.example"
    assert display_name(wire(whole)) == whole.to[0].name
    assert second.addr_spec == "c@x.org"
    (file,) = message.iter_attachments()
    assert file.get_filename() == whole.attachments[0].filename
    again = Email.from_message(message)
    assert (again.subject, again.headers) == (value, {"X-Note": value})
    assert again.attachments == whole.attachments


@for_each("name", ["ä" * 200, "🎉" * 200 + ".pdf", "a" * 200, "日本 語.pdf"])
def test_long_file_names_read_back(name: str) -> None:
    (file,) = parsed(email(attachments=[Attachment(name, b"1", "a/b")])).iter_attachments()
    assert file.get_filename() == name


@for_each(
    "text",
    [
        *("", "Hello", "Hello\n", "\n", ".\n..\n.x", "From me\n", "trailing \t \nspace ", "=3D=\n"),
        *("x" * 5000, "é" * 5000, "mostly ascii é " * 50, "🎉", "a\0b", "--=_mixed\n"),
    ],
)
def test_bodies_read_back(text: str) -> None:
    message = parsed(email(text=text, html=f"<p>{text}"))
    assert body(message, "plain") == text
    assert body(message, "html") == f"<p>{text}"
    assert Email.from_message(message).text == text.replace("\n", "\r\n")


def test_line_ends_of_all_kinds_become_one_kind() -> None:
    assert body(parsed(email(text="a\r\nb\nc\rd\n\re")), "plain") == "a\nb\nc\nd\n\ne"


def test_the_parts_are_nested_as_mail_programs_expect() -> None:
    files = [Attachment("l.png", b"1", "image/png", "logo"), Attachment("a.pdf", b"2", "a/pdf")]
    message = parsed(email(html='<img src="cid:logo">', attachments=files))
    kinds = [part.get_content_type().partition("/")[2] for part in message.walk()]
    assert kinds == ["mixed", "alternative", "plain", "related", "html", "png", "pdf"]
    inline = [part for part in message.walk() if part["Content-ID"]]
    assert [str(part["Content-ID"]) for part in inline] == ["<logo>"]
    assert Email.from_message(message).attachments == tuple(files)


@for_each("changes", [
    {"to": [f"Jörg Müller {n} <j{n}@example.org>" for n in range(146)]},
    {"subject": "Ж" * 2201},
    {"subject": "= ?" * 10_000},
    {"headers": {"X-Note": "ü" * 2201}},
    {"reply_to": [f"Zoë {n} <z{n}@example.org>" for n in range(250)]},
])  # fmt: skip
def test_what_was_taken_can_be_written_however_many_encoded_words_it_needs(changes: Any) -> None:
    whole = email(**changes)
    assert Email.from_message(parsed(whole)) == replace(whole, message_id="<1@example.com>")


def test_nobody_who_writes_a_part_can_know_the_boundary() -> None:
    """It depends on all that it separates, not on the Message-ID alone."""
    one, other = (email(html=html).to_mapping() for html in ("<p>a", "<p>b"))
    assert parsed(Email.from_mapping(one)).get_boundary() != (
        parsed(Email.from_mapping(other)).get_boundary()
    )
    assert boundary("", [b"ab", b"c"]) != boundary("", [b"a", b"bc"])


def test_a_boundary_is_in_none_of_its_parts() -> None:
    class Known(bytes):
        """Stands for a part whose author did know it."""

        asked = 0

        def __contains__(self, _: object) -> bool:
            self.asked += 1
            return self.asked < 3

    part = Known(b"x")
    assert boundary("", [part]) != boundary("", [b"x"])
    assert part.asked == 3


def test_equal_files_inline_and_attached_are_each_sent() -> None:
    file = Attachment("l.png", b"1", "image/png", "logo")
    twice = email(html="<p>", text=None, attachments=[file, file, replace(file, content_id=None)])
    assert Email.from_message(parsed(twice)).attachments == twice.attachments
    without_html = email(attachments=[file])
    assert parsed(without_html).get_content_type() == "multipart/mixed"
    assert Email.from_message(parsed(without_html)).attachments == (file,)


NESTED = b"Subject: inner\r\n\r\nbody\r\n"


def test_an_attached_message_stays_a_message_where_it_is_7_bit() -> None:
    message = parsed(email(attachments=[Attachment("", NESTED, "message/rfc822")]))
    (part,) = message.iter_attachments()
    assert part.get_filename() == "attachment.eml"
    assert part.get_content()["Subject"] == "inner"
    assert Email.from_message(message).attachments == (
        Attachment("attachment.eml", NESTED, "message/rfc822"),
    )


@for_each("content", [b"\r\n\xff", b"a\0", b"x" * 999])
def test_an_attached_message_that_is_not_7_bit_arrives_as_a_file(content: bytes) -> None:
    whole = email(attachments=[Attachment("a.eml", content, "message/rfc822")])
    (part,) = parsed(whole).iter_attachments()
    assert part.get_content_type() == "application/octet-stream"
    assert part.get_content() == content


def test_a_guessed_boundary_in_an_attached_message_does_no_harm() -> None:
    boundary = parsed(email(attachments=[Attachment("a", b"")])).get_boundary()
    evil = NESTED + f"--{boundary}\r\n\r\nforged\r\n".encode()
    message = parsed(email(attachments=[Attachment("a", evil, "message/rfc822")]))
    assert message.get_boundary() != boundary
    assert len(list(message.iter_attachments())) == 1


def test_a_mailbox_that_is_not_ascii_goes_out_as_utf_8() -> None:
    octets = wire(email(to="Jürgen <jürgen@bücher.example>"))
    assert "<jürgen@xn--bcher-kva.example>".encode() in octets


def test_megabytes_stay_quick_and_whole() -> None:
    content = bytes(range(256)) * 8_192
    octets = mime(email(attachments=[Attachment("big", content)]), message_id="<1@x>")
    assert len(octets) < len(content) * 1.4
    assert len(octets) > len(content) * 4 // 3


def test_smtplib_leaves_the_bytes_as_they_are_but_for_the_dots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[bytes] = []
    client = SMTP()
    monkeypatch.setattr(client, "putcmd", lambda *_: None)
    monkeypatch.setattr(client, "getreply", lambda: (354, b""))
    monkeypatch.setattr(client, "send", sent.append)
    octets = wire(email(text=".\n..\nlast", subject="." * 300, html="."))
    client.data(octets)
    assert sent[0].removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.") == octets


@for_each(
    "part",
    [
        {"subject": "a\r\nBcc: i@x.org"},
        {"subject": "=?utf-8?q?=0D=0ABcc:_i@x.org?="},
        {"headers": {"X-A": "a\nb"}},
        {"headers": {"X\r\nBcc": "a"}},
        {"from": "A\nB <a@x.org>"},
        {"to": ["=?utf-8?q?=0D=0A?= <a@x.org>"]},
        {"to": ["a@x.org\r\nBcc: i@x.org"]},
        {"attachments": [{"filename": "a\nb", "content": b""}]},
        {"attachments": [{"filename": "a", "content": b"", "content_type": "a/b\r\nX: y"}]},
        {"attachments": [{"filename": "a", "content": b"", "content_id": "a\r\nX"}]},
    ],
)
def test_a_document_that_was_tampered_with_is_refused_before_the_wire(part: Any) -> None:
    whole = Email.from_document(MINIMAL | part)
    with pytest.raises(InvalidEmail) as caught:
        mime(whole, message_id="<1@x>", date=DATE)
    assert "i@x.org" not in str(caught.value)
    with pytest.raises(InvalidEmail):
        write([("Message-ID", "<1@x>\r\nBcc: i@x.org")], "", None, (), seed="")


# --- from a stdlib message


def built(**headers: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Ann <ann@example.com>"
    message["To"] = "bob@example.org"
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content("Hello\n")
    return message


def refused(message: Message[Any, Any]) -> InvalidEmail:
    with pytest.raises(InvalidEmail) as caught:
        Email.of(message)
    return caught.value


def test_a_stdlib_message_is_taken_with_all_it_holds() -> None:
    message = built(
        Cc='"Doe, Jürgen" <j@x.org>, Group: a@x.org, b@x.org;',
        Bcc="d@x.org",
        Reply_To="h@x.org",
        Subject="Grüße 🎉",
        X_Tag="a",
        In_Reply_To="<0@x.org>",
        Date="Fri, 02 Jan 2026 03:04:05 +0000",
        Message_ID="<app@x.org>",
    )
    message.add_alternative('<img src="cid:a%40b">', subtype="html")
    html = message.get_body(("html",))
    assert isinstance(html, EmailMessage)
    html.add_related(b"png", "image", "png", cid="<a@b>", filename="l.png")
    message.add_attachment(b"%PDF", "application", "pdf", filename="Ä.pdf")
    message.add_attachment("a;b\n", subtype="csv", charset="utf-8", params={"header": 'a"b'})
    message.add_attachment(message_from_bytes(NESTED, policy=policy.default))
    whole = Email.of(message)
    assert [str(a) for a in whole.cc] == ['"Doe, Jürgen" <j@x.org>', "a@x.org", "b@x.org"]
    assert (str(whole.bcc[0]), str(whole.reply_to[0])) == ("d@x.org", "h@x.org")
    assert (whole.subject, whole.text) == ("Grüße 🎉", "Hello\n")
    assert whole.headers == {"X-Tag": "a", "In-Reply-To": "<0@x.org>"}
    assert whole.message_id == "<app@x.org>"
    image, pdf, csv, inner = whole.attachments
    assert image == Attachment("l.png", b"png", "image/png", "a@b")
    assert pdf == Attachment("Ä.pdf", b"%PDF", "application/pdf")
    assert csv.content == b"a;b\n"
    assert csv.content_type == 'text/csv; charset="utf-8"; header="a\\"b"'
    assert inner == Attachment("attachment.eml", NESTED, "message/rfc822")


@for_each("disposition,html,kept", [
    ("inline", "<p>", "a"), ("attachment", "<p>", None), ("attachment", "cid:a", "a"),
])  # fmt: skip
def test_an_attachment_is_inline_if_it_says_so_or_is_shown(
    disposition: str, html: str, kept: str | None
) -> None:
    message = built()
    message.add_alternative(html, subtype="html")
    message.add_attachment(b"1", "image", "png", cid="<a>", disposition=disposition)
    assert Email.of(message).attachments[0].content_id == kept


def test_legacy_messages_are_taken_too() -> None:
    message = MIMEMultipart("mixed")
    subject: Any = Header("Grüße", "utf-8")
    message["Subject"] = subject
    message["From"], message["To"] = "ann@example.com", "bob@example.org"
    message["X-Folded"] = "a\r\n b"
    message.attach(MIMEText("Hallö", "plain", "iso-8859-1"))
    message.attach(MIMEImage(b"png", "png"))
    whole = Email.of(message)
    assert (whole.subject, whole.text, whole.headers) == ("Grüße", "Hallö", {"X-Folded": "a b"})
    assert whole.attachments == (Attachment("attachment.png", b"png", "image/png"),)


def raw(head: bytes, content: bytes = b"Hello", **how: Any) -> Any:
    octets = b"From: a@x.org\r\nTo: b@x.org\r\n" + head + b"\r\n" + content
    return message_from_bytes(octets, **how)


@for_each("how", [{}, {"policy": policy.default}])
def test_parsed_messages_are_decoded(how: Any) -> None:
    head = "Subject: Grüße\r\nTo: Ü <c@x.org>\r\nX-A: long\r\n folded\r\n".encode()
    whole = Email.of(raw(head + b"Content-Type: text/plain; charset=latin-1\r\n", b"\xe9", **how))
    assert (whole.subject, whole.text, whole.headers) == ("Grüße", "é", {"X-A": "long folded"})
    assert whole.to == (Address("", "b@x.org"), Address("Ü", "c@x.org"))


MULTIPART = b"Content-Type: multipart/mixed; boundary=b\r\n"


@for_each(
    "head,content,field",
    [
        (b"Subject: \xff\r\n", b"", "subject"),
        (b"Subject: =?utf-8?q?=FF?=\r\n", b"", "subject"),
        (b"Subject: =?no-such?q?a?=\r\n", b"", "subject"),
        (b"Subject: =?utf-8?q?=0D=0ABcc:_i@x.org?=\r\n", b"", "subject"),
        (b"X-A: =?utf-8?q?=0D=0ABcc:_i@x.org?=\r\n", b"", "headers.X-A"),
        (b"Cc: =?utf-8?q?=0D=0ABcc:_i@x.org?= <c@x.org>\r\n", b"", "cc"),
        (b"Cc: c@x.org, broken\r\n", b"", "cc[1]"),
        (b"From: c@x.org\r\n", b"", "from"),
        (b"Return-Path: c@x.org\r\n", b"", "headers.Return-Path"),
        (b"Message-ID: broken\r\n", b"", "headers.Message-ID"),
        (b"X-A: 1\r\nX-A: 2\r\n", b"", "headers.X-A"),
        (b"Subject: 1\r\nSubject: 2\r\n", b"", "subject"),
        (b"X-A: a\0b\r\n", b"", "headers.X-A"),
        (b"Content-Type: text/plain; charset=utf-8\r\n", b"\xff", "text"),
        (b"Content-Type: text/html; charset=no-such\r\n", b"a", "html"),
        (b"Content-Type: text/plain\r\n", b"\xc3\xa9", "text"),
        (b"Content-Transfer-Encoding: x-odd\r\n", b"a", "text"),
        (b"Content-Transfer-Encoding: base64\r\n", b"a!b", "text"),
        (MULTIPART, b"no boundary", "email"),
        (MULTIPART.replace(b"mixed", b"signed"), b"--b\r\n\r\nHi\r\n--b--", "email"),
        (
            MULTIPART,
            (
                b"--b\r\n\r\nHi\r\n--b\r\n"
                b"Content-Disposition: attachment; filename*=utf-8''a%0D%0Ab\r\n\r\n1"
            ),
            "attachments[0].filename",
        ),
    ],
)
@for_each("how", [{}, {"policy": policy.default}])
def test_what_cannot_be_kept_whole_is_refused(
    head: bytes, content: bytes, field: str, how: Any
) -> None:
    error = refused(raw(head, content, **how))
    assert error.field == field
    assert "x.org" not in str(error)


def test_the_injection_that_python_misses_is_refused() -> None:
    error = refused(built(Subject="A =?utf-8?q?=0D=0ABcc:_i@x.org?="))
    assert error.field == "subject"


@for_each("name,value", [("Subject", "a\nBcc: i@x.org"), ("X-A", "a\r\n\r\nbody"),
                                        ("X\nBcc", "a"), ("X-A", "a\rb")])  # fmt: skip
def test_line_breaks_in_a_legacy_message_are_refused(name: str, value: str) -> None:
    message = MIMEText("Hello")
    message["From"], message["To"] = "ann@example.com", "bob@example.org"
    message[name] = value
    assert refused(message).field in {"subject", "headers.X-A", "headers"}


def test_a_message_that_cannot_be_written_is_refused() -> None:
    legacy = MIMEText("Hello")
    legacy.set_payload("日本")
    assert refused(legacy).field == "text"
    modern = built()
    modern.set_payload("日本")
    assert refused(modern).field == "text"
