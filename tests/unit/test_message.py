"""What is a legal e-mail, what is refused and how, and what is stored of it."""

from __future__ import annotations

import inspect
import pickle
from collections import UserString
from dataclasses import replace
from email.utils import formataddr
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints
from unittest.mock import Mock

import bson
import pytest

from mailqueue.errors import InvalidEmail
from mailqueue.message import Address, Attachment, Email, EmailDict
from mailqueue.message.fields import READERS
from mailqueue.message.headers import header_problem
from mailqueue.message.message import content_hash, size
from tests.for_each import for_each

MINIMAL: dict[str, Any] = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "text": "Hello",
}


def email(**changes: Any) -> Email:
    return Email.from_mapping(MINIMAL | changes)


def refused(**changes: Any) -> InvalidEmail:
    with pytest.raises(InvalidEmail) as caught:
        email(**changes)
    return caught.value


FULL = {
    "from": '"Doe, Ann" <ann@example.com>',
    "to": ["Jürgen <j@bücher.example>", "bob@example.org"],
    "cc": ["carl@example.org"],
    "bcc": ["dora@example.org"],
    "reply_to": ["help@example.com"],
    "subject": "Grüße 🎉",
    "headers": {"X-Tag": "a", "List-Unsubscribe": "<https://example.com/u>"},
    "metadata": {"order": "7"},
    "vendor_options": {"sendgrid": {"asm": {"group_id": 1, "list": [1.5, None, True, "x"]}}},
    "tags": ["welcome"],
    "attachments": [
        {
            "filename": "a.png",
            "content": b"\x89PNG",
            "content_type": "image/png",
            "content_id": "logo",
        }
    ],
    "text": "",
    "html": "<p>",
}


def test_the_mapping_comes_back_as_it_was_given() -> None:
    assert Email.from_mapping(FULL).to_mapping() == FULL
    assert email().to_mapping() == {**MINIMAL}


@for_each("mapping", [FULL, MINIMAL])
def test_a_document_gives_an_equal_email_without_validation(mapping: dict[str, Any]) -> None:
    whole = Email.from_mapping(mapping)
    assert Email.from_document(whole.to_mapping()) == whole
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_an_email_can_be_built_by_keywords_and_changed_by_replace() -> None:
    built = Email(from_="Ann <ann@example.com>", to="bob@example.org", text="Hello")
    assert built == email() == Email.of(built)
    assert replace(built, from_=Address("", "x@example.com")).from_.address == "x@example.com"


def test_every_key_of_the_mapping_is_a_named_parameter_of_the_same_type() -> None:
    keys, hints = get_type_hints(EmailDict), get_type_hints(Email.__init__)
    parameters = {name.rstrip("_"): hints[name] for name in inspect.signature(Email).parameters}
    assert parameters.pop("message_id") == str | None  # in a mapping it is one of the headers
    assert parameters == keys
    assert keys.keys() == READERS.keys()


@for_each(
    "key, hint",
    [("sbject", ', did you mean "subject"?'), ("from_", ', did you mean "from"?'), ("colour", "")],
)
def test_an_unknown_key_is_named_with_the_one_that_was_probably_meant(key: str, hint: str) -> None:
    error = refused(**{key: "a@x.org"})
    assert (error.field, error.problem) == (key, f"unknown key{hint}")


def test_representations_show_no_personal_data() -> None:
    whole = Email.from_mapping(FULL)
    shown = repr(whole) + repr(whole.to) + repr(whole.attachments)
    assert not any(word in shown for word in ("ann", "example", "Grü", 'png"', "a.png", "Doe"))
    assert repr(Attachment("x", b"12")) == "Attachment(no type, 2 bytes)"


def test_recipients_are_unique_by_mailbox_and_in_order() -> None:
    many = email(to=["A <a@x.org>", "b@x.org"], cc="B <b@X.org>", bcc=["c@x.org", "a@x.org"])
    assert [r.address for r in many.recipients] == ["a@x.org", "b@x.org", "c@x.org"]
    assert len(many.to) == 2
    assert len(many.bcc) == 2


@for_each(
    "changes,field",
    [
        ({"from": None}, "from"),
        ({"from": 7}, "from"),
        ({"from": ["a@x.org", "b@x.org"]}, "from"),
        ({"to": []}, "to"),
        ({"to": None}, "to"),
        ({"to": {"a@x.org": "Ann"}}, "to"),
        ({"to": ["a@x.org", 7]}, "to[1]"),
        ({"to": ["a@x.org"] * 1001}, "to"),
        ({"cc": ["a@x.org"] * 1000}, "to"),
        ({"text": None}, "text"),
        ({"text": b"bytes"}, "text"),
        ({"html": "\ud800"}, "html"),
        ({"subject": 7}, "subject"),
        ({"subject": "a\udc80"}, "subject"),
        ({"headers": ["X-A: b"]}, "headers"),
        ({"headers": {"X-A": 7}}, "headers.X-A"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers.x-a"),
        ({"headers": {"ann@x.org: secret": "1"}}, "headers[0]"),
        ({"headers": {"Ünder": "1"}}, "headers[0]"),
        ({"headers": {"": "1"}}, "headers[0]"),
        ({"headers": {7: "1"}}, "headers[0]"),
        ({"tags": ["ok", ""]}, "tags[1]"),
        ({"tags": ["ok", 3]}, "tags[1]"),
        ({"tags": {"a", "b"}}, "tags"),
        ({"tags": ["t"] * 1001}, "tags"),
        ({"reply_to": ["a@x.org"] * 1001}, "reply_to"),
        ({"headers": {f"X-{n}": "" for n in range(1001)}}, "headers"),
        ({"headers": {"$ref": "x", "$id": "y"}}, "headers[0]"),
        ({"metadata": {str(n): "" for n in range(1001)}}, "metadata"),
        ({"metadata": {"$ref": "x"}}, "metadata[0]"),
        ({"metadata": {"a": "x", "$id": "y"}}, "metadata[1]"),
        ({"metadata": {"n": 10**5000}}, "metadata.n"),
        ({"metadata": {"n": -(10**5000)}}, "metadata.n"),
        ({"vendor_options": {"ses": {"a": [{"$ref": "x"}]}}}, "vendor_options.ses.a[0][0]"),
        ({"vendor_options": {"$ref": {}}}, "vendor_options[0]"),
        ({"attachments": [Attachment("a", b"")] * 1001}, "attachments"),
        ({"from": ("Ann", 7)}, "from"),
        ({"from": ("Ann", "ann@x.org", "?")}, "from"),
        ({"to": [("Ann", "a@x.org, b@x.org")]}, "to[0]"),
        ({"to": [["Ann", "a@x.org"]]}, "to[0]"),
        ({"to": (7, "a@x.org")}, "to[0]"),
        ({"metadata": {"k": None}}, "metadata.k"),
        ({"metadata": {"k": ["x"]}}, "metadata.k"),
        ({"vendor_options": {"ses": 1}}, "vendor_options.ses"),
        ({"vendor_options": {"ses": {"a": [b"x"]}}}, "vendor_options.ses.a[0]"),
        ({"vendor_options": {"ses": {"a": 2**63}}}, "vendor_options.ses.a"),
        ({"vendor_options": {"ses": {"a": float("nan")}}}, "vendor_options.ses.a"),
        ({"vendor_options": {"ses": {"a": -float("inf")}}}, "vendor_options.ses.a"),
        ({"vendor_options": {"ses": {"a": "\ud800"}}}, "vendor_options.ses.a"),
        ({"attachments": "file"}, "attachments"),
        ({"attachments": [b"file"]}, "attachments[0]"),
        ({"attachments": [{"path": "/etc/passwd"}]}, "attachments[0]"),
        ({"attachments": [{"filename": "a"}]}, "attachments[0].content"),
        ({"attachments": [{"content": "text"}]}, "attachments[0].content"),
        ({"attachments": [{"content": b"", "filename": 7}]}, "attachments[0].filename"),
        ({"unknown": 1}, "unknown"),
        ({"ann@x.org": 1}, "email"),
        ({"from_": "a@x.org"}, "from_"),
        ({7: 1}, "email"),
    ],
)
def test_a_refusal_names_the_field(changes: dict[Any, Any], field: str) -> None:
    with pytest.raises(InvalidEmail) as caught:
        Email.from_mapping(MINIMAL | changes)
    assert caught.value.field == field
    assert "@" not in str(caught.value)


@for_each("kind", [
    *("", "x", "multipart/mixed", "text/plain; x", "a/b;\u00e9=1", "a/b;\u00a0c=1", "a/b;\x0bc=1"),
    *("a/b;\u2003c=1", "te\u017ft/plain", "a/b; c=\u212a"),
])  # fmt: skip
def test_content_types_follow_the_syntax(kind: str) -> None:
    file = {"content": b"", "content_type": kind or "t" * 256 + "/x"}
    assert refused(attachments=[file]).field == "attachments[0].content_type"


@for_each("content_id", ["a b", "é", "a<b", "x" * 251])
def test_content_ids_are_printable_ascii(content_id: str) -> None:
    file = Attachment("a.png", b"", "image/png", content_id)
    assert refused(attachments=[file]).field == "attachments[0].content_id"


def test_options_that_unfold_to_too_many_values_are_refused() -> None:
    shared: dict[str, Any] = {}
    for _ in range(30):
        shared = {"a": shared, "b": shared}
    assert "too many" in refused(vendor_options={"ses": shared}).problem


def test_options_that_are_nested_too_deeply_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"a": deep}
    assert "nested too deeply" in refused(vendor_options={"ses": deep}).problem


@for_each(
    "name",
    [
        "From",
        "To",
        "Cc",
        "Bcc",
        "Reply-To",
        "Subject",
        "Date",
        "Return-Path",
        "Received",
        "DKIM-Signature",
        "MIME-Version",
        "Content-Type",
        "content-language",
        "Resent-To",
        "X-Mailqueue-Id",
    ],
)
def test_reserved_headers_are_refused(name: str) -> None:
    assert refused(headers={name: "x"}).field == f"headers.{name}"


INJECTIONS = [
    "a\r\nBcc: i@x.org",
    "a\nb",
    "a\rb",
    "a\0b",
    "A =?utf-8?q?=0D=0ABcc:_i@x.org?=",
    "=?UTF-8*en?Q?=0a?=",
    "=?utf-8?b?DQpCY2M6IGlAeC5vcmc=?=",
    "=?utf-8?b?DQpCY2M6IGlAeC5vcmc?=",
    "=?utf-8?B?D Q\tp=C?=",
    "=?x=?utf-8?q?=0D=0A?=",
    "=?utf-8?q?=?utf-8?q?=0D=0A?=",
    "=?no-such?q?=00?=",
    "=?utf-7?q?+AA0ACg-?=",
    "=?unicode_escape?q?=5Cr=5Cn?=",
    "=?utf-8?q?=3D=3Futf-8=3Fq=3F=3D0A=3F=3D?=",
    "=?utf-8?q?a" + "=?utf-8?q?a" * 201,
    "=?utf-8?q?a?=" + "a" * 20_001,
    "=?utf-8?q?a" * 200,
    "=?utf-8?b?a" * 200,
    "=?utf-8?b?a=?utf-8?q?b" * 100,
    "".join(f"=?c{n}?q?{'a' * 80}" for n in range(200)),
    "=?utf-8?b?DQ?pC?=",
    "=?utf-8?q?=?=0ABcc:x?q?",
]


@for_each("value", INJECTIONS)
def test_no_line_break_gets_into_a_header(value: str) -> None:
    named = Address(value, "a@x.org")
    changes: dict[str, dict[str, Any]] = {
        "from": {"from": f"{value} <a@x.org>"},
        "to": {"to": Address("", f"{value}@x.org")},
        "cc[1]": {"cc": ["a@x.org", named]},
        "bcc": {"bcc": named},
        "reply_to": {"reply_to": f'"{value}" <a@x.org>'},
        "subject": {"subject": value},
        "headers.X-A": {"headers": {"X-A": value}},
        "tags[0]": {"tags": [value]},
        "metadata.k": {"metadata": {"k": value}},
        "attachments[0].filename": {"attachments": [Attachment(value, b"")]},
        "attachments[0].content_type": {"attachments": [Attachment("a", b"", value)]},
        "attachments[0].content_id": {"attachments": [Attachment("a", b"", "a/b", value)]},
    }
    for field, given in changes.items():
        error = refused(**given)
        assert error.field == field
        assert "i@x.org" not in str(error)


@for_each("key", ["headers", "metadata", "vendor_options"])
def test_no_line_break_gets_into_a_key(key: str) -> None:
    assert refused(**{key: {"X\r\nBcc": "x"}}).field == f"{key}[0]"


@for_each(
    "value",
    [
        *("1 =? 2", "=?utf-8?q?caf=C3=A9?=", "=?x", "=?idna?b?====?="),
        " ".join(["=?utf-8?q?caf=C3=A9_caf=C3=A9?="] * 199),
        " ".join(["=?iso-8859-1?q?caf=E9?=", "=?iso-8859-2?b?Y2Fm6Q==?="] * 90),
    ],
)
def test_harmless_encoded_words_are_text(value: str) -> None:
    assert header_problem(value) is None
    assert email(subject=value).subject == value


@for_each(
    "text,name,address",
    [
        ("a@x.org", "", "a@x.org"),
        (" <a@x.org> ", "", "a@x.org"),
        ("Ann <a@x.org>", "Ann", "a@x.org"),
        ("Ann B. (Sales)  C <a@x.org>", "Ann B. (Sales) C", "a@x.org"),
        ('"Doe, \\"Ann\\" \\\\" <a@x.org>', 'Doe, "Ann" \\', "a@x.org"),
        ("a@x.org <a@x.org>", "a@x.org", "a@x.org"),
        ("Jürgen 🎉 <jürgen@bücher.example>", "Jürgen 🎉", "jürgen@bücher.example"),
        (formataddr(("Jürgen, Dr.", "j@x.org")), "Jürgen, Dr.", "j@x.org"),
        ("=?no-such?q?x?= <j@x.org>", "=?no-such?q?x?=", "j@x.org"),
        ("o'neil+tag@localhost", "", "o'neil+tag@localhost"),
        (f"{'a' * 64}@x.org", "", f"{'a' * 64}@x.org"),
        ('Zoë "Q" Ünal <z@x.org>', "Zoë Q Ünal", "z@x.org"),
        ('"Ann" Bee <a@x.org>', "Ann Bee", "a@x.org"),
        ('Ann "The <@>, Boss" \t B. <a@x.org>', "Ann The <@>, Boss B.", "a@x.org"),
        ('=?utf-8?q?Z=C3?= =?utf-8?q?=AB?= "=?x" <a@x.org>', "Zë =?x", "a@x.org"),
        ('"john doe"@x.org', "", '"john doe"@x.org'),
        ('Jo <"john doe"@x.org>', "Jo", '"john doe"@x.org'),
        ('"jo"@x.org', "", "jo@x.org"),
        ('"a@b, \\"c\\""@x.org', "", '"a@b, \\"c\\""@x.org'),
        ("ann..b.@docomo.example", "", '"ann..b."@docomo.example'),
        ('"ann."@docomo.example', "", '"ann."@docomo.example'),
        (("Doe, Ann", "a@x.org"), "Doe, Ann", "a@x.org"),
        ((None, '"a b"@x.org'), "", '"a b"@x.org'),
    ],
)
def test_an_address_is_read_and_survives_its_canonical_form(
    text: str | tuple[str, str], name: str, address: str
) -> None:
    parsed = Address.parse(text)
    assert parsed == Address(name, address)
    assert Address.from_canonical(str(parsed)) == parsed == Address.parse(str(parsed))
    assert Address.parse(parsed) == parsed


@for_each(
    "text",
    [
        *("", "ann", "@x.org", "a@", "a@@x.org", "a b@x.org", ".a@x.org", '""@x.org', '"a"b@x.org'),
        *("a@x.org, b@x.org", "a@x.org, B <b@x.org>", "A <a@x.org>, B <b@x.org>", "<<a@x.org>"),
        *("a@x..org", "a@-x.org", "a@x-.org", "a@x_y.org", "a@x.org.", "a@[127.0.0.1]", "A <>"),
        *(
            '"a\u202eb"@x.org',
            '"a<b"@x.org',
            "a@x.org (Ann)",
            "G: a@x.org;",
            "a\u202eb@x.org",
            "a@\u200b.org",
        ),
        *("a" * 65 + "@x.org", "a@" + "b" * 64 + ".org", "a@" + ".".join(["b" * 60] * 5)),
        *("é" * 33 + "@x.org", '"unclosed <a@x.org>', "a@x.org\n"),
    ],
)
def test_bad_addresses_are_refused_without_being_quoted(text: str) -> None:
    error = refused(to=["ok@x.org", text])
    assert error.field == "to[1]"
    assert "@x" not in str(error)


@for_each("given,people", [
    (("Ann", "a@x.org"), ["Ann <a@x.org>"]),
    (("", "a@x.org"), ["a@x.org"]),
    (("a@x.org", "b@x.org"), ["a@x.org", "b@x.org"]),
    ([("Ann", "a@x.org"), "b@x.org", Address("C", "c@x.org")],
     ["Ann <a@x.org>", "b@x.org", "C <c@x.org>"]),
    ([("ann@x.org", "a@x.org")], ['"ann@x.org" <a@x.org>']),
])  # fmt: skip
def test_a_person_may_be_a_pair_of_name_and_address(given: Any, people: list[str]) -> None:
    assert list(map(str, email(to=given).to)) == people
    assert str(email(**{"from": ("Ann", "a@x.org")}).from_) == "Ann <a@x.org>"


@for_each("field", ["to", "cc", "bcc", "reply_to"])
def test_a_pair_may_stand_wherever_an_address_may(field: str) -> None:
    people = [("Doe, Ann", "ann@x.org"), "b@x.org", ("", "c@x.org")]
    made = email(**{"to": "z@x.org", field: people})
    assert list(map(str, getattr(made, field))) == ['"Doe, Ann" <ann@x.org>', "b@x.org", "c@x.org"]
    assert Email.from_document(made.to_mapping()) == made
    with pytest.raises(InvalidEmail) as caught:
        email(**{"to": "z@x.org", field: [("Ann", "a@x.org"), ("Ann", "a@x.org", "x")]})
    assert caught.value.field == f"{field}[1]"


@for_each("several", ["a@x.org, b@x.org", "A <a@x.org>;B <b@x.org>",
                                     '"A, A" <a@x.org>, "B" <b@x.org>'])  # fmt: skip
def test_several_addresses_in_one_text_are_told_apart_from_a_bad_one(several: str) -> None:
    for to in (several, [several]):
        assert refused(to=to).problem == "contains several addresses: pass a list"
    assert refused(**{"from": several}).problem == "contains several addresses: give one"
    for bad in ("a b@x.org", "Doe, Ann <a@x.org>", "a@x.org b@x.org", '"a@x, b@x"@x,y'):
        assert "several" not in refused(to=bad).problem


def test_an_address_knows_its_form_for_the_wire() -> None:
    idn = Address.parse("j@Bücher.example")
    assert (idn.ascii, idn.is_ascii_mailbox) == ("j@xn--bcher-kva.example", True)
    eai = Address.parse("jürgen@bücher.example")
    assert (eai.ascii, eai.is_ascii_mailbox) == ("jürgen@xn--bcher-kva.example", False)
    assert Address.parse("a@x.org").ascii == "a@x.org"


def test_metadata_values_become_text() -> None:
    given = {"s": "x", "i": 7, "f": 1.5, "t": True, "n": False}
    assert email(metadata=given).metadata == {
        "s": "x", "i": "7", "f": "1.5", "t": "true", "n": "false",
    }  # fmt: skip


@for_each(
    "file,name,kind",
    [
        (Attachment("", b"", "image/png"), "attachment.png", "image/png"),
        (Attachment("", b"", "x/y; a=b"), "attachment.bin", "x/y; a=b"),
        (Attachment("", b"", "message/rfc822"), "attachment.eml", "message/rfc822"),
        ({"content": bytearray(b"")}, "attachment.bin", "application/octet-stream"),
        ({"content": memoryview(b""), "filename": "a.pdf"}, "a.pdf", "application/pdf"),
        ({"content": b"", "filename": " a.tar.gz"}, "a.tar.gz", "application/gzip"),
        ({"content": b"", "content_type": "text/calendar"}, "attachment.ics", "text/calendar"),
    ],
)
def test_a_missing_file_name_or_type_is_filled_in(file: Any, name: str, kind: str) -> None:
    (made,) = email(attachments=[file]).attachments
    assert (made.filename, made.content_type, type(made.content)) == (name, kind, bytes)


class Derived(str):
    """A text that says something else when it is asked."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self[:]}!"


class Kind(str, Enum):  # noqa: UP042  # how most programs have it
    """As applications name their tags."""

    WELCOME = "welcome"


class Lazy:
    """A translation that is looked up when it is used: no str, but with its methods."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text  # type: ignore[no-any-return]  # one test gives it a number

    def __getattr__(self, name: str) -> Any:
        return getattr(str(self), name)


def test_what_stands_for_a_text_is_taken_by_what_it_says_and_kept_as_a_str() -> None:
    lazy = Lazy("Grüße")
    whole = email(
        subject=lazy,
        text=Derived("Hi"),
        html=lazy,
        to=Lazy("Zoë <z@x.org>"),
        tags=[Kind.WELCOME, lazy],
        headers={"X-A": UserString("u")},
        metadata={"k": lazy},
        vendor_options={"ses": {"a": lazy}},
        attachments=[{"filename": lazy, "content": b""}],
    )
    assert (whole.subject, whole.text, whole.html, whole.tags) == (
        *("Grüße", "Hi!", "Grüße"),
        ("welcome", "Grüße"),
    )
    assert str(whole.to[0]) == "Zoë <z@x.org>"
    kept = [whole.subject, whole.text, *whole.tags, whole.headers["X-A"], whole.metadata["k"]]
    kept += [whole.vendor_options["ses"]["a"], whole.attachments[0].filename]
    assert {type(text) for text in kept} == {str}


@for_each("kind", ["plain", "bytes", "mock", "path", "list", "number", "broken"])
def test_what_is_no_text_is_not_turned_into_one(kind: str) -> None:
    others = {"bytes": b"b", "mock": Mock(), "path": Path("a"), "list": ["a"], "number": 7}
    other = others.get(kind, Lazy(7) if kind == "broken" else object())
    assert refused(subject=other).field == "subject"
    assert refused(html=other).field == "html"
    assert refused(**{"from": other}).field == "from"


def test_an_own_message_id_is_kept_and_is_no_part_of_the_content() -> None:
    given = {"X-A": "1", "message-id": " app.4711@x.org "}
    whole = email(headers=given)
    assert (whole.message_id, whole.headers) == ("<app.4711@x.org>", {"X-A": "1"})
    assert whole.to_mapping()["headers"] == {"X-A": "1", "Message-ID": "<app.4711@x.org>"}
    assert (
        Email.from_document(whole.to_mapping()) == whole == Email.from_mapping(whole.to_mapping())
    )
    assert replace(whole).message_id == whole.message_id
    assert hash_of(whole) == hash_of(email(headers={"X-A": "1"}))
    assert hash_of(email(headers={"Message-ID": "<a@b>"})) == hash_of(email())
    assert email().message_id is None


@for_each("bad", ["", "a", "<a>", "<a@>", "<@b>", "<a@b@c>", "<a b@c>", "<ä@b>",
                                 "<a@b> <c@d>", "<" + "a" * 500 + "@b>"])  # fmt: skip
def test_a_message_id_that_is_none_is_refused(bad: str) -> None:
    assert refused(headers={"Message-ID": bad}).field == "headers.Message-ID"


def test_brackets_around_a_content_id_are_taken_off() -> None:
    (made,) = email(attachments=[Attachment("a", b"", "a/b", "<logo>")]).attachments
    assert made.content_id == "logo"


def hash_of(email: Email) -> str:
    return content_hash(email.to_mapping())


def test_the_size_is_that_of_the_stored_document() -> None:
    whole = email(text="x" * 1000)
    assert 1000 < size(whole.to_mapping()) < 1200
    assert size(whole.to_mapping()) == len(bson.encode(whole.to_mapping()))


def test_the_hash_depends_on_the_content_and_not_on_the_order_of_headers() -> None:
    one = email(headers={"X-A": "1", "X-B": "2"}, attachments=[Attachment("a", b"1")])
    other = email(headers={"X-B": "2", "X-A": "1"}, attachments=[Attachment("a", b"1")])
    assert hash_of(one) == hash_of(other)
    assert hash_of(one) != hash_of(replace(one, attachments=(Attachment("a", b"2"),)))
    assert hash_of(email(text="")) != hash_of(email(text=None, html=""))


def test_the_hash_is_the_same_in_every_process_and_release() -> None:
    expected = "fa2a96aeb1042ed440a02124740758e342328eaf07662a407e73be13be502b52"
    assert hash_of(email()) == expected


def test_only_emails_mappings_and_messages_are_taken() -> None:
    with pytest.raises(InvalidEmail, match="not list"):
        Email.of([])  # type: ignore[arg-type]  # what a caller may hand in


def test_an_attachment_is_read_from_a_path_at_once(tmp_path: Path) -> None:
    path = tmp_path / "invoice.pdf"
    path.write_bytes(b"%PDF")
    file = Attachment.from_path(path)
    path.write_bytes(b"changed")
    (sent,) = email(attachments=[file]).attachments
    assert sent == Attachment("invoice.pdf", b"%PDF", "application/pdf")
    options = {"filename": "a.bin", "content_type": "application/x-own", "content_id": "a@x"}
    assert Attachment.from_path(str(path), **options) == Attachment(
        "a.bin", b"changed", "application/x-own", "a@x"
    )


@pytest.mark.parametrize("name", ["secret-missing.pdf", ".", "nul\0"])
def test_a_file_that_cannot_be_read_is_refused_without_its_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidEmail) as caught:
        Attachment.from_path(tmp_path / name)
    assert caught.value.field == "attachments.path"
    assert str(tmp_path) not in str(caught.value)
    assert "secret" not in str(caught.value)
