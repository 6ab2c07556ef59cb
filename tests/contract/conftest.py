"""Vendors and servers that are closed after each test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
import trustme

from mailqueue.config import VendorConfig
from mailqueue.message import Address, Email
from mailqueue.vendors import load
from mailqueue.vendors.base import Attempt, Vendor

EMAIL_ID = "65f0a1b2c3d4e5f6a7b8c9d0"
MESSAGE_ID = "<65f0a1b2c3d4e5f6a7b8c9d0@mailqueue.example.org>"

DATE = datetime(2024, 3, 12, 18, 40, 50, tzinfo=UTC)

Attempts = Callable[..., Attempt]
Vendors = Callable[..., Any]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that nobody trusts but who is told to."""
    return trustme.CA()


@pytest.fixture
def attempt() -> Attempts:
    """Attempts that end soon: ``attempt(0.3)`` at the latest after 0.3 s."""

    def make(seconds: float = 5.0, **fields: Any) -> Attempt:
        given = {"email_id": EMAIL_ID, "message_id": MESSAGE_ID, "date": DATE, **fields}
        return Attempt(deadline=time.monotonic() + seconds, **given)

    return make


@pytest.fixture
def vendor() -> Iterator[Vendors]:
    """Vendors as the product makes them; closed after the test."""
    with ExitStack() as stack:

        def make(type_: str, **fields: Any) -> Vendor:
            config = VendorConfig(name=fields.pop("name", "first"), type=type_, **fields)
            made = load(config, simulated=False)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def plain() -> Email:
    """An e-mail that every vendor can carry."""
    return Email(
        from_="Ann Sender <ann@example.org>",
        to=["Bob Receiver <bob@example.net>"],
        subject="Your private subject",
        text="A private text.",
    )


@pytest.fixture
def rich() -> Email:
    """An e-mail with everything that an e-mail can have."""
    return Email(
        from_=Address('Änn, "the" Sender', "ann@bücher.example"),
        to=["Bob <bob@example.net>", "carol@example.net"],
        cc=[Address("Dörte; Ö", "doerte@example.net"), "Bob again <BOB@example.net>"],
        bcc=["eve@example.net", "carol@example.net"],
        reply_to=["Desk <desk@example.org>", "other@example.org"],
        subject="Grüße 🎉 =?not?a?word",
        text="Hello\r\n.\r\n..dots and ünicode\n",
        html='<p>Hello <img src="cid:logo@example"></p>',
        headers={"X-Campaign": "spring", "List-Unsubscribe": "<https://example.org/u?a=1>"},
        attachments=[
            {
                "filename": "plan.pdf",
                "content": b"%PDF\r\n--\x00\xff",
                "content_type": "application/pdf",
            },
            {"filename": "Übersicht.txt", "content": "ä".encode(), "content_type": "text/plain"},
            {
                "filename": "logo.png",
                "content": b"\x89PNG",
                "content_type": "image/png",
                "content_id": "logo@example",
            },
        ],
        tags=["welcome", "spring", "welcome"],
        metadata={"user": "42", "näme": "wert"},
    )
