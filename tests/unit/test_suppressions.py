"""Which spellings are one entry of the suppression list, and an e-mail without some recipients."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import InvalidEmail
from mailqueue.message import Address, Email
from mailqueue.store.suppressions import entry_of, is_suppressed, keys_of
from mailqueue.vendors import limits
from tests.emails import emails as any_emails
from tests.emails import people

ANN = "ann@example.net"
BOB = "bob@example.net"
LONG = "long enough for each vendor"


@pytest.mark.parametrize(
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


@pytest.mark.parametrize(
    "text",
    ["", "@", "ann", "@ann@example.net", "@x <ann@example.net>", "a@b, c@d", "@a b", "@-x.y"],
)
def test_what_is_neither_an_address_nor_a_domain_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(InvalidEmail) as error:
        entry_of(text)
    assert not text or text not in str(error.value)


@given(people())
def test_the_normal_form_is_the_same_for_each_spelling_and_for_itself(person: Address) -> None:
    entry = entry_of(person.address)
    assert entry_of(entry) == entry
    domain = entry[entry.rfind("@") :]
    assert domain.isascii()
    assert entry_of(domain) == domain
    for spelling in (person, Address("", person.address.upper()), Address("", person.ascii)):
        if spelling.address.lower() == person.address.lower():  # not "ß", which is "SS"
            assert is_suppressed(Address.parse(spelling.address), {entry})
    assert is_suppressed(person, {domain})


@given(people())
def test_a_domain_does_not_stand_for_those_below_or_beside_it(person: Address) -> None:
    domain = person.address.rpartition("@")[2]
    below = Address.parse(f"ann@mail.{domain}")
    assert not is_suppressed(below, {entry_of(f"@{domain}")})
    assert not is_suppressed(person, {entry_of(f"@mail.{domain}"), entry_of(f"@x{domain}")})


@settings(max_examples=20)
@given(any_emails())
def test_the_keys_of_a_stored_email_are_those_of_everybody_who_is_sent_to(email: Email) -> None:
    keys = keys_of([{"email": email.to_mapping()}])
    assert {entry_of(person.address) for person in email.recipients} <= keys


@settings(max_examples=20)
@given(any_emails(), st.data())
def test_an_email_without_some_recipients_is_an_email_to_the_others(
    email: Email, data: st.DataObject
) -> None:
    recipients = [person.address for person in email.recipients]
    some = data.draw(st.lists(st.sampled_from(recipients), unique=True, max_size=len(recipients)))
    rest = [person for person in email.recipients if person.address not in some]
    left_out = {Address("", address).identity for address in some}
    if not [person for person in rest if person.identity not in left_out]:
        return
    narrowed = email.without(some)
    assert {person.identity for person in narrowed.recipients} == {p.identity for p in rest}
    shown = (*narrowed.to, *narrowed.cc)
    assert not left_out & {person.identity for person in shown}
    assert (narrowed.subject, narrowed.text, narrowed.html) == (
        email.subject,
        email.text,
        email.html,
    )
    bcc = {person.identity for person in email.bcc}
    shown_anew = {person.identity for person in shown} - {
        p.identity for p in (*email.to, *email.cc)
    }
    assert len(shown_anew & bcc) <= 1
    assert not shown_anew or len(narrowed.recipients) == 1


@pytest.mark.parametrize("damage", [None, "text", {}, {"to": "x"}, {"to": [1], "envelope": []}])
def test_a_damaged_document_has_no_keys(damage: object) -> None:
    assert keys_of([{"email": damage}, {}]) == set()


# To whom the others can be sent -------------------------------------------------------------------


@pytest.mark.parametrize("type_", VENDOR_TYPES)
@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
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
