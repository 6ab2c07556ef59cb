"""Whatever is stored, or stands in an address, is text in the page."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest
from pymongo.collection import Collection

from tests.conftest import Document
from tests.dashboard.conftest import Client
from tests.dashboard.stored import CONTENT, email, store, tried

CORPUS = [
    "<script>xss()</script>",
    "</script><script>xss()</script>",
    "<img src=x onerror=xss()>",
    '"><svg onload=xss()>',
    "' onmouseover='xss()' x='",
    '" autofocus onfocus="xss()" x="',
    "javascript:xss()//",
    "</title></textarea></style></iframe><b>xss",
    "{{ 7 * 7 }}{% include 'layout.html' %}",
    "<!--<script>xss()//-->",
    "\u2028\u202exss&lt;b&gt;",
]


class Elements(HTMLParser):
    """The elements of a page, and what a browser would take for code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.code: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            leads = name in ("href", "src", "action") and "javascript:" in (value or "")
            if name.startswith("on") or leads:
                self.code.append(f"{tag} {name}={value}")


def check(page: str) -> None:
    elements = Elements(page)
    assert elements.code == []
    assert elements.tags.isdisjoint({"script", "svg", "img", "b", "style", "textarea"})
    assert "49" not in page.partition("{{ 7")[2][:20]


@pytest.mark.parametrize("text", CORPUS)
def test_what_is_stored_is_text(client: Client, emails: Collection[Document], text: str) -> None:
    plain = text.replace("\u2028", "")
    content: dict[str, Any] = {
        **CONTENT,
        "subject": plain,
        "text": text,
        "headers": {"X-Odd": plain},
        "metadata": {"odd": plain},
    }
    stored = email(
        content=content,
        status="failed",
        reason="rejected",
        request_id=text,
        vendor_message_id=text,
        idempotency_key=text,
        callback_url=text,
        interventions=[{"verb": "retry", "was": "failed", "by": text, "n": 1, "reason": text}],
        **tried(text, "rejected", text, 1, detail=text, refused=[text]),
    )
    stored["email"] |= {"tags": [text], "from": text, "to": [text]}
    stored["email"]["attachments"] = [{"filename": text, "content_type": text, "content": b""}]
    (email_id,) = store(emails, stored)
    for place in ("/emails", "/failed", f"/emails/{email_id}", f"/emails/{email_id}/content"):
        page = client.get(place)
        assert page.status_code == 200
        assert "xss" in page.text or "7 * 7" in page.text
        check(page.text)


@pytest.mark.parametrize("text", CORPUS)
def test_what_stands_in_an_address_is_text(
    client: Client, emails: Collection[Document], text: str
) -> None:
    store(emails, email())
    odd = quote(text)
    for place in (
        f"/emails?tag={odd}&to={odd}&vendor={odd}&status={odd}&reason={odd}&age={odd}&mode={odd}",
        f"/failed?tag={odd}",
        f"/confirm?verb=retry&which=all&status=failed&tag={odd}&vendor={odd}",
        f"/confirm?verb={odd}",
        f"/result?verb=retry&changed={odd}&tag={odd}&unchanged={odd}",
        f"/emails/{odd}",
        f"/{odd}",
    ):
        page = client.get(place)
        assert page.status_code in (200, 400, 404)
        check(page.text)
