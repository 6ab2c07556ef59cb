"""Which spellings are one entry of the suppression list, and an e-mail without some recipients."""

from __future__ import annotations

import pytest

from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import InvalidEmail
from mailqueue.message import Email
from mailqueue.store.suppressions import entry_of, keys_of
from mailqueue.vendors import limits
from tests.for_each import for_each

ANN = "ann@example.net"
BOB = "bob@example.net"
LONG = "long enough for each vendor"


@for_each(
    "text, entry",
    [
        ("Ann@Example.NET", ANN),
        (" Ann <ann@example.net> ", ANN),
        ("ann@BÜCHER.example", "ann@xn--bcher-kva.example"),
        ("@Example.NET", "@example.net"),
        ("@bücher.example", "@xn--bcher-kva.example"),
        ("Zoë@example.net", "zoë@example.net"),
        ("Zoe\u0308@example.net", "zoë@example.net"),
        ('"ann"@example.net', ANN),
        ('"@ x"@example.net', '"@ x"@example.net'),
    ],
)
def test_one_mailbox_has_one_entry_however_it_is_spelt(text: str, entry: str) -> None:
    assert entry_of(text) == entry


@for_each(
    "text",
    ["", "@", "ann", "@ann@example.net", "@x <ann@example.net>", "a@b, c@d", "@a b", "@-x.y"],
)
def test_what_is_neither_an_address_nor_a_domain_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(InvalidEmail) as error:
        entry_of(text)
    assert not text or text not in str(error.value)


@for_each("damage", [None, "text", {}, {"to": "x"}, {"to": [1], "envelope": []}])
def test_a_damaged_document_has_no_keys(damage: object) -> None:
    assert keys_of([{"email": damage}, {}]) == set()


# To whom the others can be sent -------------------------------------------------------------------


@for_each("type_", VENDOR_TYPES)
@for_each("field", ["to", "cc", "bcc"])
def test_any_vendor_can_carry_what_goes_on_to_the_only_recipient_left(
    type_: str, field: str
) -> None:
    email = Email.from_mapping(
        {"from": "a@example.com", "subject": LONG, "text": LONG, "html": LONG}
        | {"to": [ANN], **({"to": [ANN, BOB]} if field == "to" else {field: [BOB]})}
    )
    rest = email.without([ANN])
    assert limits.can_carry(type_, rest) is None
    assert [person.address for person in rest.recipients] == [BOB]


def test_several_who_may_not_see_each_other_stay_unseen() -> None:
    email = Email(from_="a@example.com", to=ANN, bcc=[BOB, "carol@example.net"], text="")
    rest = email.without([ANN])
    assert (rest.to, rest.cc, len(rest.bcc)) == ((), (), 2)


def test_who_is_only_shown_stays_in_the_headers() -> None:
    envelope = {"recipients": [BOB, "carol@example.net"]}
    email = Email.from_mapping(
        {"from": "a@example.com", "to": [ANN, BOB], "text": "", "envelope": envelope}
    )
    rest = email.without([BOB])
    assert [person.address for person in rest.to] == [ANN]
    assert [person.address for person in rest.recipients] == ["carol@example.net"]
