"""Any legal e-mail, for Hypothesis.

``emails()`` makes every field as odd as ``send()`` takes it: names and subjects in all scripts with
quotes and half-encoded words, mailboxes and domains that are not ASCII, the same address several
times, files without content, headers that some vendors keep for themselves.
"""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

from mailqueue.message import Address, Attachment, Email
from mailqueue.message.fields import RESERVED
from mailqueue.message.headers import header_problem

Strategy = st.SearchStrategy

WORDS = st.sampled_from(
    [
        *("Hello", 'Ann, "the" Sender', "Grüße 🎉", "שלום עולם", "{{name}}", "{% if %}", "100% <"),
        *("=?not?a?word", "=?utf-8?q?caf=C3=A9?=", "a\tb", "\x01\x7f", "é" * 40, "x" * 300),
    ]
)
DOMAINS = ("example.org", "EXAMPLE.net", "bücher.example", "例え.example", "x.y-z.example")
CONTENT_TYPES = (
    *("text/plain", "text/csv; charset=latin1", 'text/plain; charset="utf-8"', "application/pdf"),
    *("image/png", "IMAGE/JPEG", "message/rfc822", "application/octet-stream", "x/y; a=b; c=d"),
)
FILENAMES = ("a.txt", "plan.pdf", "Übersicht; 1.txt", "logo.png", 'q"uo\\te.csv', "noextension")
HEADERS = (
    *("X-Campaign", "List-Unsubscribe", "Auto-Submitted", "In-Reply-To", "X-Mailer", "List-Id"),
    *("X-SG-ID", "X-Mailin-Custom", "X-MJ-CustomID", "X-Mc-Tags", "Return-Receipt-To"),
)
_ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")
_LOCAL = string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~" + "öé例"


def texts(**limits: Any) -> Strategy[str]:
    """Text that may stand in a header."""
    written = WORDS | st.text(_ANY, **{"max_size": 30, **limits})
    return written.filter(lambda text: header_problem(text) is None)


def keys() -> Strategy[str]:
    """Names in metadata."""
    return texts().filter(lambda text: not text.startswith("$"))


def people() -> Strategy[Address]:
    """Mailboxes; few enough that one may be there twice, also in another case."""
    often = st.sampled_from(["ann", "Ann", "bob", "desk+tag", '"john doe"', "dots.."])
    local = often | st.text(_LOCAL, min_size=1, max_size=12)
    written = st.builds("{}@{}".format, local, st.sampled_from(DOMAINS))
    return st.builds(Address, st.just("") | texts(), written).map(Address.parse)


def files() -> Strategy[Attachment]:
    """Attachments and inline files."""
    return st.builds(
        Attachment,
        st.sampled_from(FILENAMES) | texts(),
        st.binary(max_size=40),
        st.sampled_from(CONTENT_TYPES),
        st.none() | st.sampled_from(["logo@example", "a;b", "1"]),
    )


def headers() -> Strategy[dict[str, str]]:
    """Headers of the e-mail's own, known and unheard of."""
    letters = st.text(string.ascii_letters + string.digits + "-_!.", min_size=1, max_size=20)
    unheard = letters.filter(lambda n: n.lower() not in RESERVED).map("X-".__add__)
    names = st.lists(st.sampled_from(HEADERS) | unheard, max_size=3, unique_by=str.lower)
    return names.flatmap(lambda found: st.fixed_dictionaries({n: _value(n) for n in found}))


def _value(name: str) -> Strategy[str]:
    """What this header may hold."""
    words = st.sampled_from(["", "<a@x.org> <b@x.org>", "auto-replied", "<https://x.org/?a=?b>"])
    people_ = st.sampled_from(["Zoë, Ann <a@x.org>", "a@x.org; B <b@bücher.example>"])
    ids = st.sampled_from(["Zoë's list <zoe.x.org>", "<zoe.x.org>", "My list, too <l.x.org>"])
    return {
        "List-Unsubscribe": words,
        "Auto-Submitted": words,
        "In-Reply-To": words,
        "List-Id": ids,
        "Return-Receipt-To": people_.map(lambda value: value.replace("Zoë,", "Zoë")),
    }.get(name, texts())


def json_values(words: Strategy[str]) -> Strategy[Any]:
    """Whatever JSON can hold; its texts and keys are ``words``."""
    numbers = st.integers(-(2**63), 2**63 - 1) | st.floats()
    leaves = st.none() | st.booleans() | numbers | words
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(_keys(words), inner, max_size=3)
        ),
        max_leaves=6,
    )


def _keys(words: Strategy[str]) -> Strategy[str]:
    """A name that begins with a dollar sign is refused."""
    return words.filter(lambda word: not word.startswith("$"))


def json_objects(words: Strategy[str]) -> Strategy[dict[str, Any]]:
    """A JSON object, such as a vendor's options."""
    return st.dictionaries(_keys(words), json_values(words), max_size=3)


def envelopes() -> Strategy[dict[str, Any]]:
    """Others, or some of those who are shown; each address here is one of few."""
    recipients = st.none() | st.lists(people(), min_size=1, max_size=3)
    return st.fixed_dictionaries({"from": st.none() | st.just("") | people()}).flatmap(
        lambda some: recipients.map(lambda given: {**some, "recipients": given})
    )


@st.composite
def emails(draw: st.DrawFn) -> Email:
    """Any legal e-mail without options for vendors."""
    fields: dict[str, Any] = {"from": draw(people())}
    some = st.lists(people(), max_size=3)
    fields |= {name: draw(some) for name in ("to", "cc", "bcc", "reply_to")}
    if not (fields["to"] or fields["cc"] or fields["bcc"]):
        fields["to"] = [draw(people())]
    fields["envelope"] = draw(st.none() | envelopes())
    bodies = st.none() | st.sampled_from(["", "Hello\r\n.\r\nünicode\n"]) | texts()
    fields |= {"text": draw(bodies), "html": draw(bodies | st.just('<img src="cid:logo@example">'))}
    if fields["text"] is fields["html"] is None:
        fields["text"] = draw(texts())
    fields |= {"subject": draw(texts()), "headers": draw(headers())}
    fields["attachments"] = draw(st.lists(files(), max_size=2))
    fields["tags"] = draw(st.lists(texts(min_size=1), max_size=3))
    fields["metadata"] = draw(st.dictionaries(keys(), texts(), max_size=3))
    return Email.from_mapping(fields)
