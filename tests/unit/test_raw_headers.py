"""The header fields of a stdlib message are read from their text: all of it, or refused."""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes, policy
from email.header import Header
from email.message import EmailMessage, Message
from email.mime.text import MIMEText
from email.utils import formataddr
from typing import Any

import pytest

from mailqueue.errors import InvalidEmail
from mailqueue.message import Email
from tests.for_each import for_each

Maker = Callable[[str, str], Any]


def built(name: str, value: str) -> Message[Any, Any]:
    return _with(EmailMessage(), name, value.replace("\n", ""))


def legacy(name: str, value: str) -> Message[Any, Any]:
    return _with(MIMEText("Hello", "plain", "utf-8"), name, value)


def parsed(name: str, value: str) -> Message[Any, Any]:
    head = "".join(f"{n}: {v}\r\n" for n, v in _fields(name, value).items())
    return message_from_bytes(f"{head}\r\nHello".encode(), policy=policy.default)


def _fields(name: str, value: str) -> dict[str, str]:
    return {"From": "ann@example.com", "To": "bob@example.org", name: value}


def _with(message: Any, name: str, value: str) -> Message[Any, Any]:
    for field, text in _fields(name, value).items():
        message[field] = text
    if isinstance(message, EmailMessage):
        message.set_content("Hello")
    return message  # type: ignore[no-any-return]  # as it came


ALL = for_each("made", [built, legacy, parsed])
LONG = "Bundesministerium für Ernährung, Landwirtschaft und Verbraucherschutz Öffentlichkeitsarbeit"


@ALL
@for_each("value,people", [
    ("a@x.org, B <b@y.org>", ["a@x.org", "B <b@y.org>"]),
    ("a@x.org; B <b@y.org>", ["a@x.org", "B <b@y.org>"]),
    ("a@x.org;", ["a@x.org"]),
    ("Zoë Ünal <zoe@x.org>", ["Zoë Ünal <zoe@x.org>"]),
    ("ann@bücher.example", ["ann@bücher.example"]),
    ('Zoë "Q" Ünal <z@x.org>', ["Zoë Q Ünal <z@x.org>"]),
    ("support@x.org <real@y.org>", ['"support@x.org" <real@y.org>']),
    ('"a, (b)" <a@x.org>', ['"a, (b)" <a@x.org>']),
    ("Team: a@x.org, B <b@y.org>;, c@x.org", ["a@x.org", "B <b@y.org>", "c@x.org"]),
    ("Ann (at (the) desk) <a@x.org>, b@x.org (Bob)", ["Ann <a@x.org>", "b@x.org"]),
    ("Pete(A nice \\) chap) <pete(his account)@silly.test(host)>", ["Pete <pete@silly.test>"]),
    ("Ann(c)Lee <a@x.org>, Dr. @ Work <b@x.org>", ["Ann Lee <a@x.org>", '"Dr. @ Work" <b@x.org>']),
    ('"ann@x.org via Q" <q@x.org>', ['"ann@x.org via Q" <q@x.org>']),
    ('"john doe"@x.org', ['"john doe"@x.org']),
    ("=?utf-8?q?Doe=2C_J=C3=B6rg?= <j@x.org>", ['"Doe, Jörg" <j@x.org>']),
    ("=?utf-8?q?Zo?= =?utf-8?q?=C3=AB?= <z@x.org>", ["Zoë <z@x.org>"]),
    ('"=?utf-8?q?Zo=C3=AB?=" <z@x.org>', ["Zoë <z@x.org>"]),
    (formataddr((Header(LONG, "utf-8").encode(), "z@x.org")), [f'"{LONG}" <z@x.org>']),
])  # fmt: skip
def test_everybody_who_is_named_is_a_recipient(made: Maker, value: str, people: list[str]) -> None:
    assert list(map(str, Email.of(made("Cc", value)).cc)) == people


@ALL
@for_each("value", [
    *("A <a@x.org> B <b@y.org>", "a@x.org b@y.org", "ann@exam ple.com", "Ann <ann@exam ple.com>"),
    *("a@x.org Bob <b@y.org>", "Bob a@x.org <b@y.org>", "ann@exam(c)ple.com", "an(c)n@x.org"),
    *("Doe, Ann <a@x.org>", "<@r.org:a@x.org>", "root", "a@[127.0.0.1]", "Ann <>", "a@x.org,b"),
])  # fmt: skip
def test_what_could_reach_a_stranger_is_refused_by_its_field(made: Maker, value: str) -> None:
    with pytest.raises(InvalidEmail) as caught:
        Email.of(made("Cc", value))
    assert caught.value.field.startswith("cc")
    assert "x.org" not in str(caught.value)


@for_each("value", ["Team: a@x.org", '"Ann <a@x.org>', "(Ann <a@x.org>", "a:b:c@x"])
def test_what_has_no_end_is_refused(value: str) -> None:
    with pytest.raises(InvalidEmail) as caught:
        Email.of(parsed("To", value))
    assert caught.value.field.startswith("to")


@ALL
@for_each("value", ["a@x.org (Ann, b@x.org", "a@x.org (A (B), b@x.org", 'a@x.org, "b'])
def test_nobody_is_lost_in_what_has_no_end(made: Maker, value: str) -> None:
    with pytest.raises(InvalidEmail):
        Email.of(made("Cc", value))


@ALL
def test_nobody_may_be_named_in_to(made: Maker) -> None:
    message = made("To", "undisclosed-recipients:;")
    message["Bcc"] = "c@x.org"
    whole = Email.of(message)
    assert (whole.to, str(whole.bcc[0])) == ((), "c@x.org")


@ALL
def test_headers_of_other_kinds_are_read_too(made: Maker) -> None:
    encoded = "=?utf-8?b?R3LDvMOf?= =?utf-8?q?e_=F0=9F=8E=89?="
    assert Email.of(made("Subject", encoded)).subject == "Grüße 🎉"
    assert Email.of(made("Subject", "Grüße")).subject == "Grüße"
    assert Email.of(made("X-Note", encoded)).headers == {"X-Note": "Grüße 🎉"}
    assert Email.of(made("Sender", "Zoë (me) <z@x.org>")).headers == {"Sender": "Zoë <z@x.org>"}
    assert Email.of(made("Message-ID", "<a.1@x.org>")).message_id == "<a.1@x.org>"
    long = " ".join(f"<{'x' * 90}{n}@x.org>" for n in range(5))
    assert Email.of(made("References", long)).headers == {"References": long}


def test_headers_of_parts_that_the_library_would_read_for_hours_are_refused() -> None:
    for length in (10_000, 1_000_000):
        message = legacy("X-A", "a")
        del message["Content-Type"]
        message["Content-Type"] = "text/plain" + "; a=b" * (length // 5)
        with pytest.raises(InvalidEmail, match="too long"):
            Email.of(message)


@for_each("value", [None, b"bytes", ["a@example.com"]])
@for_each("name", ["Subject", "To", "X-Own"])
def test_what_is_no_text_is_refused_though_older_messages_keep_it(name: str, value: object) -> None:
    made = MIMEText("Hello")
    made["From"] = made["Cc"] = "ann@example.com"
    made[name] = value  # type: ignore[assignment]  # the library does not look
    with pytest.raises(InvalidEmail, match=f"must be a string, not {type(value).__name__}"):
        Email.of(made)
