"""Headers with a grammar of their own: addresses, identifiers and URLs stay what they are."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mailqueue.errors import InvalidEmail
from mailqueue.message import Email
from mailqueue.message.mime import mime
from mailqueue.vendors.payloads import encoded_headers
from tests.for_each import for_each

MINIMAL: dict[str, Any] = {"from": "ann@example.com", "to": ["bob@example.org"], "text": "Hello"}


def email(**headers: str) -> Email:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Email.from_mapping(MINIMAL | {"headers": named})


def on_the_wire(name: str, value: str) -> str:
    """As a reader that knows folding, and no encoded words, sees it."""
    octets = mime(email(**{name: value}), message_id="<1@example.com>")
    head = octets.partition(b"\r\n\r\n")[0]
    assert max(map(len, head.split(b"\r\n"))) <= 998
    lines = re.sub(rb"\r\n(?=[ \t])", b"", head).decode("ascii").split("\r\n")
    (line,) = [x for x in lines if x.startswith(f"{name}:")]
    return line.partition(":")[2].removeprefix(" ")


def refused(name: str, value: str) -> InvalidEmail:
    with pytest.raises(InvalidEmail) as caught:
        email(**{name: value})
    assert caught.value.field == f"headers.{name}"
    return caught.value


@for_each("name,value,wire", [
    ("Sender", "list@example.com", "list@example.com"),
    ("Sender", "Zoë <z@bücher.example>", "=?utf-8?b?Wm/Dqw==?= <z@xn--bcher-kva.example>"),
    ("Sender", '"Desk, The" <z@x.org>', '"Desk, The" <z@x.org>'),
    ("Errors-To", "a@x.org; Bé <b@x.org>", "a@x.org, =?utf-8?b?QsOp?= <b@x.org>"),
    ("Disposition-Notification-To", "=?utf-8?q?Zo=C3=AB?= <z@x.org>",
     "=?utf-8?b?Wm/Dqw==?= <z@x.org>"),
    ("Return-Receipt-To", '"a, b"@x.org', '"a, b"@x.org'),
    ("List-Id", "Zoë's list <zoe.x.org>", "=?utf-8?b?Wm/DqydzIGxpc3Q=?= <zoe.x.org>"),
    ("List-Id", "My list, too <l.x.org>", "My list, too <l.x.org>"),
    ("List-Id", "=?utf-8?q?Zo=C3=AB?= <l.x.org>", "=?utf-8?q?Zo=C3=AB?= <l.x.org>"),
    ("List-Unsubscribe", " <https://x.org/?a=?b> ", "<https://x.org/?a=?b>"),
    ("Precedence", "bulk", "bulk"),
    ("Feedback-ID", "", ""),
    ("X-Free", "Zoë", "=?utf-8?b?Wm/Dqw==?="),
])  # fmt: skip
def test_only_names_and_free_text_are_encoded(name: str, value: str, wire: str) -> None:
    assert on_the_wire(name, value) == wire
    whole = email(**{name: value})
    assert encoded_headers(whole)[name] == wire
    assert Email.from_mapping(whole.to_mapping()) == whole


@for_each("name,value", [
    ("Sender", "a@x.org, b@x.org"), ("Sender", ""), ("Sender", "nobody"),
    ("Sender", "jürgen@x.org"), ("Errors-To", "a@x.org, broken"), ("Errors-To", " , "),
    ("List-Id", "Zoë"), ("List-Id", "Zoë <a b>"), ("List-Id", "Zoë <a"), ("List-Id", "Zoë <ä>"),
    ("List-Unsubscribe", "<https://x.org/ä>"), ("In-Reply-To", "<ä@x.org>"), ("Feedback-ID", "ä:x"),
    ("List-Unsubscribe", "<https://x.org/" + "a" * 990 + ">"),
    ("References", "<a@x.org>\x0b<b@x.org>"),
])  # fmt: skip
def test_what_would_have_to_be_encoded_there_is_refused(name: str, value: str) -> None:
    assert "x.org" not in str(refused(name, value))


@for_each("length", [76, 500, 900, 904, 960, 997])
@for_each("before", ["", "<mailto:u@x.org?subject=unsubscribe>, "])
def test_one_long_word_stays_plain_while_it_fits_into_a_line(length: int, before: str) -> None:
    url = "<https://x.org/" + "a" * (length - 16) + ">"
    assert len(url) == length
    assert on_the_wire("List-Unsubscribe", before + url) == before + url
    assert on_the_wire("X-Free", before + url) == before + url


def test_free_text_with_a_longer_word_is_encoded() -> None:
    assert on_the_wire("X-Free", "a" * 998).startswith("=?utf-8?b?")
