"""Octets that are not taken for a message, and those that are."""

from __future__ import annotations

import sys

import pytest

from mailqueue.errors import InvalidEmail
from mailqueue.message import Email, parsing
from mailqueue.message.parsing import parse
from tests.for_each import for_each

HEAD = "From: ann@example.com\r\nTo: bob@example.org\r\n"
DEEP = 300  # calls within each other, as the interpreter allows in these tests
NESTED = 'Content-Type: multipart/mixed; boundary="{0}"\r\n\r\n--{0}\r\n'


def problem(text: str) -> str:
    """What is wrong with it, wherever that is found."""
    with pytest.raises(InvalidEmail) as error:
        Email.from_message(parse(text.encode()))
    return str(error.value)


@for_each(
    "text",
    [
        f"{HEAD}Subject: Hi\rBcc: eve@example.net\r\n\r\nHello",
        f"{HEAD}Subject: Hi\rBcc: eve@example.net",
        f"Subject: Hi\rBcc: eve@example.net\r\n{HEAD}\r\nHello",
        f"{HEAD}\rBcc: eve@example.net\r\n\r\n".replace("\r\n\r", "\r\n \r"),
        f"{HEAD}Subject: Hi\r\r\nBcc: eve@example.net\r\n\r\nHello",
    ],
)
def test_a_bare_cr_makes_no_header_field(text: str) -> None:
    assert problem(text).startswith("headers: have a bare CR")


@for_each("end", ["\n", "\r\n"])
def test_lines_end_in_cr_lf_or_lf_and_a_body_may_have_a_bare_cr(end: str) -> None:
    """Programs that are called by cron overwrite a line so, to show how far they are."""
    email = Email.from_message(parse(f"{HEAD}\r\n10%\r20%\r\n".replace("\r\n", end).encode()))
    assert email.text is not None
    assert email.text.split() == ["10%", "20%"]
    assert email.bcc == ()


@for_each(
    "text",
    [
        HEAD + "".join(NESTED.format(n) for n in range(DEEP)) + "Hello\r\n",
        HEAD + "Content-Type: message/rfc822\r\n\r\n" * DEEP + "Hello\r\n",
    ],
)
def test_parts_within_each_other_have_an_end(text: str) -> None:
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(DEEP)
    try:
        assert "nested too deeply" in problem(text)
    finally:
        sys.setrecursionlimit(usual)


def test_parts_fields_and_lines_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "MAX_ITEMS", 100)
    monkeypatch.setattr(parsing, "MAX_LINES", 300)
    parts = HEAD + NESTED.format("x")  # a message, three fields and a part
    parse((parts + "\r\n--x\r\n" * 95).encode())
    assert problem(parts + "\r\n--x\r\n" * 96).startswith(
        "email: has more than 100 parts and header fields"
    )
    parse((HEAD + "a: b\r\n" * 97 + "\r\nHi").encode())
    assert problem(HEAD + "a: b\r\n" * 98 + "\r\nHi").startswith("email: has more than 100 ")
    parse((HEAD + "\r\n" * 298).encode())
    assert problem(HEAD + "\r\n" * 299).startswith("email: has more than 300 lines")


def test_the_work_of_comparing_lines_with_boundaries_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = HEAD + "".join(NESTED.format(n) for n in range(20)) + "Hello\r\n" * 1000
    monkeypatch.setattr(parsing, "MAX_COMPARISONS", 30_000)
    assert Email.from_message(parse(text.encode())).text is not None
    monkeypatch.setattr(parsing, "MAX_COMPARISONS", 20_000)
    assert problem(text).startswith("email: has too many parts for its length")


@for_each("charset", ["punycode", "IDNA", "unicode_escape", "raw-unicode-escape"])
def test_a_codec_of_python_is_no_charset(charset: str) -> None:
    """The first two take the square of the length."""
    text = f"{HEAD}Content-Type: text/plain; charset={charset}\r\n\r\n{'a-' + '9' * 10}"
    assert problem(text).startswith("text: cannot be decoded by its charset")
    assert problem(f"{HEAD}Subject: =?{charset}?q?a-99?=\r\n\r\nHi").startswith("subject: cannot")
    file = f"Content-Type: text/plain; name*={charset}''a-99\r\nContent-Disposition: attachment"
    assert problem(f"{HEAD}{file}\r\n\r\nHi").startswith("attachments: has a name")
