"""Whatever is handed in is refused as ``InvalidEmail``, or kept and written as it was meant."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses
from typing import Any

import bson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailqueue.errors import InvalidEmail
from mailqueue.message import Address, Attachment, Email
from mailqueue.message.addresses import mailbox, split_list
from mailqueue.message.fields import READERS
from mailqueue.message.headers import header_problem, try_decode_words
from mailqueue.message.message import content_hash
from mailqueue.message.mime import mime
from tests.emails import emails

bounded = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
MINIMAL: dict[str, Any] = {"from": "ann@example.com", "to": ["bob@example.org"], "text": "Hello"}

ODD = st.text(st.characters(), max_size=12)  # lone surrogates and NUL among them
PIECES = st.sampled_from([
    *("a", "b", "@", "x.org", "@x.org", "<", ">", "<a@x.org>", '"', "\\", ",", ";", ":", " "),
    *("\t", "(", ")", "=?", "?=", "=?utf-8?q?", "=?utf-8?b?", "=?latin-1*en?Q?", "=0D", "=C3=A4"),
    *("DQo=", "w6Q=", "_", "=", ".", "..", "é", "例", "\r\n ", "\n", "\0", "\u2028", "\xa0", "["),
])  # fmt: skip
TEXTS = st.lists(PIECES | ODD, max_size=10).map("".join)
LEAVES = (
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=5), TEXTS),
    *(st.builds(Address, TEXTS, TEXTS), st.builds(Attachment, TEXTS, st.binary(max_size=5), TEXTS)),
    *(st.tuples(TEXTS, TEXTS), st.just(10**1000), st.just(object())),
)
ANYTHING = st.recursive(
    st.one_of(*LEAVES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@bounded
@given(st.dictionaries(st.sampled_from(list(READERS)) | TEXTS, ANYTHING, max_size=4))
def test_any_mapping_is_read_or_refused(mapping: dict[str, Any]) -> None:
    for whole in (mapping, MINIMAL | mapping):
        try:
            email = Email.from_mapping(whole)
        except InvalidEmail:
            continue
        holds(email)


@settings(bounded, max_examples=25)
@given(emails())
def test_any_legal_email_comes_back_from_where_it_is_kept(email: Email) -> None:
    holds(email)


def holds(email: Email) -> None:
    """It survives its mapping and its document, and says the same on the wire."""
    mapping = email.to_mapping()
    stored = bson.decode(bson.encode(mapping))
    for again in (Email.from_mapping(mapping), Email.from_document(stored)):
        assert again.to_mapping() == mapping
        assert content_hash(again.to_mapping()) == content_hash(email.to_mapping())
    octets = mime(email, message_id="<1@example.com>")
    lines = octets.split(b"\r\n")
    assert all(len(line) <= 998 and not {10, 13} & set(line) for line in lines)
    message = message_from_bytes(octets, policy=policy.default)
    assert message["Subject"] == email.subject
    head = octets.partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").replace(b"\r\n\t", b"\t")
    for name, people in (("To", email.to), ("Cc", email.cc), ("Reply-To", email.reply_to)):
        found = [x for x in head.split(b"\r\n") if x.startswith(f"{name}: ".encode())]
        told = getaddresses([x.decode().partition(": ")[2] for x in found])
        shown = [] if told == [("", "")] else [address for _, address in told]
        if people:
            assert shown == [person.ascii for person in people]


@bounded
@given(TEXTS)
def test_any_text_is_one_address_or_refused(text: str) -> None:
    try:
        address = Address.parse(text)
    except InvalidEmail:
        return
    assert Address.parse(str(address)) == address == Address.from_canonical(str(address))
    wire = mailbox(address.name, address.ascii)
    assert [a.addr_spec.encode("utf-8", "surrogateescape").decode() for a in shown(wire)] == [
        address.ascii
    ]
    assert split_list(wire) == [wire]


def shown(wire: str) -> Any:
    octets = b"To: " + wire.encode() + b"\r\n\r\n"
    return message_from_bytes(octets, policy=policy.default)["To"].addresses


@bounded
@given(TEXTS)
def test_what_is_called_safe_hides_no_line_break_from_the_standard_library(text: str) -> None:
    if header_problem(text) is not None:
        return
    readings = [try_decode_words(text)]
    for read in (_by_header, built):
        try:
            readings.append(read(text))
        except Exception:  # noqa: BLE001  # it fails in many ways
            continue
    assert not any(char in reading for reading in readings for char in "\r\n\0")


def _by_header(text: str) -> str:
    return str(make_header(decode_header(text)))


def built(text: str) -> str:
    message = EmailMessage()
    message["Subject"] = text
    return str(message["Subject"])


HEADS = st.lists(
    st.tuples(
        st.sampled_from(
            ["From", "To", "Cc", "Subject", "Sender", "X-A", "List-Id", "Content-Type"]
        ),
        TEXTS,
    ),
    max_size=5,
)


@pytest.mark.parametrize("how", [policy.compat32, policy.default], ids=["legacy", "modern"])
@bounded
@given(HEADS, st.binary(max_size=40))
def test_any_octets_as_a_message_are_read_or_refused(
    how: Any, head: list[tuple[str, str]], body: bytes
) -> None:
    lines = [f"{name}: {value}".encode("utf-8", "surrogatepass") for name, value in head]
    octets = b"From: a@x.org\r\n" + b"\r\n".join([*lines, b"", body])
    try:
        email = Email.of(message_from_bytes(octets, policy=how))
    except InvalidEmail:
        return
    assert Email.from_document(email.to_mapping()) == email
