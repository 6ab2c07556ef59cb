"""What is kept of a vendor's words has nothing in it that is private, however it is written."""

from __future__ import annotations

import html
import quopri
from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Email
from mailqueue.vendors import redaction
from mailqueue.vendors.answers import sanitize
from mailqueue.vendors.redaction import LENGTH, TOO_LONG, redacted
from tests.for_each import for_each

SECRETS = ("planted-user", "p/l@nted+key=4711")
TEXT = """Dear Bob,

your order of two green lamps
was sent on Monday. Naïve café owners like it.

482913
Kind regards
"""
HTML = (
    "<html><body><p>The <b>blue</b> whale&nbsp;sings &amp; dances</p><td>771204</td></body></html>"
)


def email(**fields: Any) -> Email:
    given: dict[str, Any] = {
        "from": "Ann Sender <ann@example.org>",
        "to": [Address("Bob Receiver", "bob.receiver@example.net")],
        "subject": "About the lamps you wanted",
        "text": TEXT,
        "html": HTML,
        "metadata": {"order": "M-17"},
    }
    return Email.from_mapping({**given, **fields})


def told(said: str, **fields: Any) -> str:
    return redacted(said, email(**fields), SECRETS)


# --- bodies


@for_each(
    "said",
    [
        "your order of two green lamps",
        "of two green",
        "of TWO   green",
        "of\r\ntwo\tgreen",
        "of. two, (green)",
        "o\u200bf two gr\u00adeen",
        "green lamps was sent",
        "Nai\u0308ve cafe\u0301 owners",
        "blue whale sings",
        "blue</b> whale&nbsp;sings",
        "whale sings &amp; dances",
        "b blue b",
        "the lamps you",
    ],
)
def test_three_words_in_a_row_of_a_text_are_never_quoted(said: str) -> None:
    assert told(f"spam: {said} [x7]") in {"spam: * [x7]", "spam: *) [x7]", "spam: (*) [x7]"}


@for_each("said", ["482913", "771204", "Dear Bob", "kind REGARDS", "M-17"])
def test_a_line_of_one_or_two_words_is_never_quoted(said: str) -> None:
    assert told(f"spam: {said} [x7]") == "spam: * [x7]"


def test_words_that_the_email_has_too_are_kept_where_they_are_no_quotation() -> None:
    said = "550 5.7.1 two lamps of Monday: message was refused, code 77120"
    assert told(said) == said


def test_texts_without_blanks_between_words_are_not_quoted_either() -> None:
    text = "こんにちは、ご注文の品は明日届きます。\n認証\n"
    assert told("spam: ご注文の品は (77)", text=text) == "spam: * (77)"
    assert told("spam: 認証 (77)", text=text) == "spam: * (77)"
    assert told("spam: 明朝 (77)", text=text) == "spam: 明朝 (77)"


OTHERS: list[dict[str, Any]] = [
    {
        "alternatives": [
            {"content": "SUMMARY:Talk of a merger\r\n", "content_type": "text/calendar"}
        ]
    },
    {"alternatives": [{"content": "<p>a <b>talk of a merger", "content_type": "text/x-amp-html"}]},
    {"attachments": [{"filename": "a.txt", "content": b"the talk of a merger"}]},
    {
        "attachments": [
            {
                "content_type": 'text/plain; charset="utf-16"',
                "content": "talk of a merger".encode("utf-16"),
            }
        ]
    },
    {
        "attachments": [
            {"content_type": "text/plain; charset=none", "content": b"talk of a merger \xff"}
        ]
    },
]


@for_each("fields", OTHERS)
def test_other_forms_of_the_text_and_text_files_are_not_quoted_either(
    fields: dict[str, Any],
) -> None:
    assert told("spam: talk of a merger [x7]", **fields) == "spam: * [x7]"


# --- secrets, and what is packed

LOGIN = f"\0{SECRETS[0]}\0{SECRETS[1]}".encode()


@for_each(
    "packed",
    [
        *SECRETS,
        html.escape(SECRETS[1]),
        quote(SECRETS[1], safe=""),
        quote(SECRETS[1], safe="").lower(),
        quote_plus(SECRETS[1]),
        quopri.encodestring(SECRETS[1].encode(), quotetabs=True).decode(),
        b64encode(LOGIN).decode(),
        b64encode(LOGIN).decode().rstrip("="),
        urlsafe_b64encode(LOGIN).decode(),
        *(b64encode(secret.encode()).decode() for secret in SECRETS),
        *(b64encode(b"x" * n + SECRETS[0].encode() + b"y").decode() for n in range(3)),
        "AUTH" + b64encode(LOGIN).decode(),
        "a" + b64encode(LOGIN).decode(),
        b64encode(":".join(SECRETS).encode()).decode(),
        b64encode(b"bob.receiver@example.net").decode(),
        "bob.receiver%40example.net",
        "bob.receiver=40example.net",
        b64encode(b"of two green lamps").decode(),
        "of%20two%20green",
        b64encode(b"Bob Receiver").decode(),
    ],
)
def test_a_secret_is_not_kept_in_whatever_form(packed: str) -> None:
    detail = told(f"535 5.7.8 bad login {packed} (x7)")
    assert detail.startswith("535 5.7.8 bad login ")
    assert detail.endswith("* (x7)")
    left = detail.removeprefix("535 5.7.8 bad login ").removesuffix(" (x7)")
    assert not set(left) - set("*=&#; +")


def test_ids_and_words_are_no_secrets_though_they_can_be_read_as_base64() -> None:
    said = "queued as 4F7C81234AB id 65f0a1b2c3d4e5f6a7b8c9d0 undeliverable Zm9vYmFyYmF6 100%25"
    assert told(said) == said


# --- its form


def test_what_was_cut_off_leaves_no_beginning_of_something_private() -> None:
    for before in range(880, 1010, 7):
        detail = told("bob.receiver@example.net " * 35 + "x" * (before % 7) + SECRETS[1] * 9)
        assert "p/l" not in detail
    for before in range(150, 260):
        detail = told("x" * before + " " + SECRETS[1])
        assert len(detail) <= LENGTH
        assert "p/l" not in detail


def test_an_email_too_long_to_be_compared_leaves_nothing_of_what_was_said() -> None:
    assert told("two words", text="many words " * 100_000) == TOO_LONG


def test_a_yes_stays_a_yes_whatever_goes_wrong_with_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(redaction, "_private_mask", broken)
    result = SendResult(outcome=Outcome.ACCEPTED, detail="queued", message_id="7")
    assert sanitize(result, email()) == replace(result, detail="")


BIG = 50_000


PARTS = [
    "a",
    "a ",
    "<",
    "&",
    "&amp;",
    "%41",
    "=41",
    "@",
    "a@",
    "\n",
    "é",
    "語",
    "QUJD",
    "x=",
    "<a>",
]


@for_each("part", PARTS)
def test_hostile_megabytes_are_worked_off_in_their_time(part: str) -> None:
    """Would any step of it be more than linear, these would take minutes."""
    many = part * (BIG // len(part))
    for fields in ({}, {"text": many, "html": many}):
        assert len(told(many, **fields)) <= LENGTH
    assert told(many, metadata={f"m{n}": "a" * n for n in range(1, 500)}) is not None


def test_an_address_of_the_envelope_is_hidden_like_any_other() -> None:
    envelope = {"from": "verp+4711@example.org", "recipients": ["hidden.reader@example.net"]}
    text = "no hidden.reader here, hidden.reader@example.net, by verp+4711 in aGlkZGVuLnJlYWRlcg=="
    assert told(text, envelope=envelope) == "no * here, *, by * in *"
