"""What each part of a stdlib message becomes, as mail programs and applications build them."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.mime.text import MIMEText
from typing import Any

import pytest

from mailqueue.errors import InvalidEmail
from mailqueue.message import Alternative, Email
from mailqueue.message.mime import mime
from tests.for_each import for_each

ICS = "BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR\n"
HEAD = b"From: ann@example.com\r\nTo: bob@example.org\r\nSubject: S\r\nMIME-Version: 1.0\r\n"
POLICIES = [{}, {"policy": policy.default}, {"policy": policy.SMTP}]

Tree = str | tuple[Any, ...]


def leaf(kind: str, content: str = "", **headers: str) -> Message:
    """``text/plain; charset=utf-8`` and the like, with 8-bit content."""
    part = MIMENonMultipart("x", "y")
    del part["Content-Type"]
    part["Content-Type"] = kind
    for name, value in headers.items():
        part[name.replace("_", "-")] = value
    part.set_payload(content or kind.partition(";")[0])
    return part


def tree(kind: str, *parts: Message, start: str | None = None) -> Message:
    made = MIMEMultipart(kind)
    if start is not None:
        made.set_param("start", start)
    for part in parts:
        made.attach(part)
    return made


def read(top: Message, **how: Any) -> Email:
    """As it is, and parsed again: it means the same."""
    for name, value in (("From", "ann@example.com"), ("To", "bob@example.org"), ("Subject", "S")):
        top[name] = value
    parsed = [Email.of(message_from_bytes(top.as_bytes(), **each)) for each in POLICIES]
    made = Email.of(top)
    assert all(each.to_mapping() == made.to_mapping() for each in parsed)
    return made


def names(whole: Email) -> list[str]:
    return [file.filename for file in whole.attachments]


def forms(whole: Email) -> tuple[str | None, str | None, list[str]]:
    return whole.text, whole.html, [form.content_type for form in whole.alternatives]


def written(whole: Email) -> Tree:
    octets = mime(whole, message_id="<1@example.com>")

    def shape(part: Any) -> Tree:
        if part.get_content_maintype() == "multipart":
            return (part.get_content_subtype(), *map(shape, part.get_payload()))
        return str(part.get_content_type())

    return shape(message_from_bytes(octets, policy=policy.default))


PLAIN, HTML = "text/plain", "text/html"
PDF = "application/pdf"


def attached(kind: str, name: str) -> Message:
    return leaf(kind, "x", Content_Disposition=f'attachment; filename="{name}"')


# --- mail programs and applications


def test_an_invitation_stays_an_alternative_with_its_method() -> None:
    """As Outlook and Gmail send it: the file is there a second time."""
    calendar = leaf("text/calendar; charset=utf-8; method=REQUEST", ICS)
    body = tree("alternative", leaf(PLAIN), leaf(HTML), calendar)
    whole = read(tree("mixed", body, attached("application/ics", "invite.ics")))
    assert forms(whole) == (PLAIN, HTML, ['text/calendar; charset="utf-8"; method="REQUEST"'])
    assert names(whole) == ["invite.ics"]
    forms_in_order = ("alternative", PLAIN, HTML, "text/calendar")
    assert written(whole) == ("mixed", forms_in_order, "application/ics")


def test_amp_and_markdown_come_before_html_which_is_shown_where_they_are_not_known() -> None:
    others = [leaf("text/x-amp-html"), leaf("text/markdown; variant=GFM")]
    whole = read(tree("alternative", leaf(PLAIN), *others, leaf(HTML)))
    kinds = ("text/x-amp-html", "text/markdown")
    assert written(whole) == ("alternative", PLAIN, *kinds, HTML)


def test_apple_mail_puts_files_among_the_html() -> None:
    rich = tree("mixed", leaf(HTML, "<p>1"), attached(PDF, "a.pdf"), leaf(HTML, "<p>2"))
    whole = read(tree("alternative", leaf(PLAIN, "1 2"), rich))
    assert (whole.text, whole.html) == ("1 2", "<p>1")
    assert [file.content for file in whole.attachments] == [b"x", b"<p>2"]


def test_thunderbird_nests_html_and_its_images() -> None:
    image = leaf("image/png", "png", Content_ID="<i@x>", Content_Disposition="inline")
    body = tree("alternative", leaf(PLAIN), tree("related", leaf(HTML), image))
    whole = read(tree("mixed", body, attached(PDF, "a.pdf")))
    assert [file.content_id for file in whole.attachments] == ["i@x", None]
    assert written(whole) == (
        "mixed",
        ("alternative", PLAIN, ("related", HTML, "image/png")),
        PDF,
    )


def test_the_root_of_related_parts_is_the_one_that_is_named() -> None:
    image = leaf("image/png", "png", Content_ID="<i@x>")
    page = leaf(HTML, "<img src=cid:i@x>", Content_ID="<root@x>")
    whole = read(tree("related", image, page, start="<root@x>"))
    assert whole.html == "<img src=cid:i@x>"
    assert [file.content_id for file in whole.attachments] == ["i@x"]


@for_each(
    "parts, text, html, files",
    [
        ([leaf(HTML), leaf(PLAIN)], None, HTML, 1),
        ([leaf(PLAIN), leaf(HTML)], PLAIN, None, 1),
        ([leaf(PLAIN, "notice"), tree("alternative", leaf(PLAIN), leaf(HTML))], PLAIN, HTML, 1),
        ([tree("alternative", leaf(PLAIN), leaf(HTML)), leaf(PLAIN, "footer")], PLAIN, HTML, 1),
        ([tree("mixed", leaf(PLAIN), attached(PDF, "a")), leaf(PLAIN, "footer")], PLAIN, None, 2),
        ([leaf("image/png"), leaf(PLAIN)], PLAIN, None, 1),
        ([attached(PLAIN, "a.txt"), attached(HTML, "a.html")], "", None, 2),
    ],
)
def test_independent_parts_stay_independent(
    parts: list[Message], text: str | None, html: str | None, files: int
) -> None:
    """None becomes another form of its neighbour, of which a reader shows one only (RFC 2046)."""
    whole = read(tree("mixed", *parts))
    assert (whole.text, whole.html, len(whole.attachments)) == (text, html, files)


def test_files_keep_their_order() -> None:
    parts = [attached(PDF, "1.pdf"), leaf(PLAIN), attached("image/png", "2.png"), leaf(HTML)]
    assert names(read(tree("mixed", *parts))) == ["1.pdf", "2.png", "attachment.html"]


@for_each("kind", [PDF, "image/png", "message/rfc822"])
def test_a_message_may_be_a_file_and_nothing_else(kind: str) -> None:
    part = leaf(kind, "x" if kind != "message/rfc822" else "Subject: x\r\n\r\nx")
    octets = HEAD + part.as_bytes().replace(b"\n", b"\r\n")
    whole = Email.of(message_from_bytes(octets, policy=policy.default))
    assert (whole.text, whole.html) == ("", None)
    assert [file.content_type for file in whole.attachments] == [kind]


def test_another_form_alone_has_an_empty_text_beside_it() -> None:
    whole = read(leaf("text/calendar; method=CANCEL", ICS))
    assert forms(whole) == ("", None, ['text/calendar; method="CANCEL"'])


@for_each("kind, words", [("signed", "signed"), ("encrypted", "encrypted"), ("report", "a report")])
def test_what_is_nothing_when_it_is_taken_apart_is_refused(kind: str, words: str) -> None:
    inside = tree(kind, leaf(PLAIN), leaf("message/disposition-notification", "A: b\r\n\r\n"))
    for top in (inside, tree("mixed", leaf(PLAIN), inside)):
        with pytest.raises(InvalidEmail, match=words) as caught:
            read(top)
        assert caught.value.field == "email"


@for_each("kind", ["application/pkcs7-mime", "application/x-pkcs7-mime"])
def test_a_message_that_is_signed_or_encrypted_as_a_whole_is_refused(kind: str) -> None:
    """S/MIME in one part: as a file of another message it would be none."""
    with pytest.raises(InvalidEmail, match="signed or encrypted"):
        read(leaf(f"{kind}; smime-type=enveloped-data; name=smime.p7m"))
    kept = read(tree("mixed", leaf(PLAIN), leaf(f"{kind}; name=smime.p7m")))
    assert names(kept) == ["smime.p7m"]


# --- texts


def flowed(text: str, more: str = "") -> str | None:
    return read(leaf(f"text/plain; charset=us-ascii; format=flowed{more}", text)).text


def test_soft_line_breaks_are_taken_out_of_a_flowed_text() -> None:
    assert flowed("one \ntwo \nthree\nfour\n") == "one two three\nfour\n"


def test_with_delsp_the_space_before_a_soft_break_goes_with_it() -> None:
    assert flowed("https://x.org/a-long \n-path\n", "; DelSp=Yes") == "https://x.org/a-long-path\n"


def test_quotes_stuffing_and_signatures_keep_their_meaning() -> None:
    text = "> a \n> b\n>> c \n> d\n > no quote\n From x\n-- \nAnn\n"
    assert flowed(text) == "> a b\n>> c \n> d\n> no quote\nFrom x\n-- \nAnn\n"


def test_a_text_that_is_not_flowed_keeps_its_line_ends() -> None:
    assert read(leaf("text/plain", "one \ntwo\n")).text == "one \ntwo\n"


# --- names of files


@for_each(
    "disposition, name",
    [
        ("attachment; filename=\"R.pdf\"; filename*=utf-8''R%C3%A9.pdf", "Ré.pdf"),
        ("attachment; filename*=utf-8''R%C3%A9.pdf; filename=\"R.pdf\"", "Ré.pdf"),
        ("attachment; filename*0*=utf-8'de'%C3%A4; filename*1=\"-b\"; filename*2*=%2Ec", "ä-b.c"),
        ('attachment; filename*1="b.txt"; filename*0="a-"', "a-b.txt"),
        ("attachment; filename=my report.pdf", "my report.pdf"),
        ('attachment; filename="=?utf-8?q?=C3=A4=2Epdf?="', "ä.pdf"),
        ("attachment; filename==?utf-8?q?=C3=A4=2Epdf?=", "ä.pdf"),
        ('attachment; filename="a;b\\"c.pdf"', 'a;b"c.pdf'),
        ("attachment; filename*=iso-8859-1''%E4.pdf", "ä.pdf"),
        ("attachment", "named.pdf"),
        ("attachment; filename=", "named.pdf"),
    ],
)
def test_a_file_has_the_name_that_its_writer_meant(disposition: str, name: str) -> None:
    part = leaf('application/pdf; name="named.pdf"', "x", Content_Disposition=disposition)
    assert names(read(tree("mixed", leaf(PLAIN), part))) == [name]


def test_a_name_that_cannot_be_decoded_is_refused() -> None:
    part = leaf(PDF, "x", Content_Disposition="attachment; filename*=no-such''%E4.pdf")
    with pytest.raises(InvalidEmail, match="has a filename that cannot be decoded by its charset"):
        read(tree("mixed", leaf(PLAIN), part))


# --- attached messages

INNER = (
    b"DKIM-Signature: v=1; h=from:to; b=Zm9v\r\n"
    b"From: Eve   <eve@example.net>\r\nTo: ann@example.com\r\n"
    b"Subject: =?UTF-8?Q?Caf=C3=A9?= and more words, so that it has more than 78 characters\r\n"
    b"References: <" + b"0123456789" * 9 + b"@mail.example.net>\r\n\r\nFrom me\r\n"
)


@for_each("how", POLICIES)
def test_an_attached_message_stays_as_it_was_signed(how: Any) -> None:
    parsed = message_from_bytes(INNER, **how)
    made = EmailMessage()
    made["From"], made["To"] = "ann@example.com", "bob@example.org"
    made.set_content("see\n")
    made.add_attachment(parsed, filename="x.eml")
    legacy = tree("mixed", leaf(PLAIN))
    wrapper = MIMEBase("message", "rfc822")
    wrapper.attach(parsed)
    legacy.attach(wrapper)
    legacy["From"], legacy["To"] = "ann@example.com", "bob@example.org"
    assert [file.content for file in Email.of(made).attachments] == [INNER]
    assert [file.content for file in Email.of(legacy).attachments] == [INNER]


class DjangoMessage(MIMEBase):
    """As ``django.core.mail`` makes them: its ``as_bytes()`` takes no policy."""

    def as_bytes(self, unixfrom: bool = False, linesep: str = "\n") -> bytes:  # type: ignore[override]  # theirs
        return super().as_bytes(unixfrom)


def test_a_message_of_another_class_can_be_attached() -> None:
    inner = DjangoMessage("text", "plain")
    inner["From"] = "eve@example.net"
    inner.set_payload("From me\r\n")
    wrapper = DjangoMessage("message", "rfc822")
    wrapper.attach(inner)
    [file] = read(tree("mixed", leaf(PLAIN), wrapper)).attachments
    assert file.content.endswith(b"\r\nFrom: eve@example.net\r\n\r\nFrom me\r\n")


# --- what nobody builds, but strangers do


def test_parts_in_parts_without_end_are_refused() -> None:
    part: Message = leaf(PLAIN)
    for _ in range(60):
        part = tree("mixed", part)
    with pytest.raises(InvalidEmail, match="nested too deeply"):
        read(part)


# --- alternatives in a mapping

MINIMAL = {"from": "Ann <ann@example.com>", "to": ["bob@example.org"], "text": "Hello"}


def test_alternatives_are_given_as_text_or_bytes() -> None:
    forms = [
        {"content": "# Ä", "content_type": "text/markdown"},
        {"content": b"BEGIN:VCALENDAR", "content_type": "text/calendar; method=REQUEST"},
        Alternative(b"x", "text/x-amp-html"),
    ]
    whole = Email.from_mapping({**MINIMAL, "alternatives": forms})
    assert [form.content_type for form in whole.alternatives] == [
        "text/markdown; charset=utf-8",
        "text/calendar; method=REQUEST",
        "text/x-amp-html",
    ]
    assert Email.from_document(whole.to_mapping()) == whole
    assert Email.from_mapping(whole.to_mapping()) == whole
    assert "Ä" not in repr(whole.alternatives)


@for_each(
    "given, field",
    [
        ("text", "alternatives"),
        ([{"content": "x"}], "alternatives[0]"),
        ([{"content": "x", "content_type": "text/html"}], "alternatives[0].content_type"),
        ([{"content": "x", "content_type": "text/plain; x=y"}], "alternatives[0].content_type"),
        ([{"content": "x", "content_type": "text/plain ;x=y"}], "alternatives[0].content_type"),
        ([{"content": b"x", "content_type": "image/png"}], "alternatives[0].content_type"),
        ([{"content": b"x", "content_type": "text/a\r\nb"}], "alternatives[0].content_type"),
        (
            [{"content": "x", "content_type": "text/a; charset=latin-1"}],
            "alternatives[0].content_type",
        ),
        ([{"content": 1, "content_type": "text/a"}], "alternatives[0].content"),
        ([{"content": "\ud800", "content_type": "text/a"}], "alternatives[0].content"),
        ([{"content": "x", "content_type": "text/a"}] * 11, "alternatives"),
    ],
)
def test_an_alternative_that_cannot_be_one_is_refused(given: object, field: str) -> None:
    with pytest.raises(InvalidEmail) as caught:
        Email.from_mapping({**MINIMAL, "alternatives": given})
    assert caught.value.field == field


def test_a_legacy_text_of_django_is_one() -> None:
    """``EmailMultiAlternatives.message()`` gives old classes under the SMTP policy."""
    body = tree(
        "alternative", MIMEText("Grüße", "plain", "utf-8"), MIMEText("<p>", "html", "utf-8")
    )
    assert forms(read(body)) == ("Grüße", "<p>", [])
