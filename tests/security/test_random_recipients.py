"""Whoever the recipients are: which of them are suppressed, and an e-mail without some of them."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailqueue.message import Address, Email
from mailqueue.store.suppressions import entry_of, is_suppressed, keys_of
from tests.emails import emails as any_emails
from tests.emails import people

bounded = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # also where the machine is busy
)


@settings(bounded, max_examples=50)
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


@settings(bounded, max_examples=50)
@given(people())
def test_a_domain_does_not_stand_for_those_below_or_beside_it(person: Address) -> None:
    domain = person.address.rpartition("@")[2]
    below = Address.parse(f"ann@mail.{domain}")
    assert not is_suppressed(below, {entry_of(f"@{domain}")})
    assert not is_suppressed(person, {entry_of(f"@mail.{domain}"), entry_of(f"@x{domain}")})


@bounded
@given(any_emails())
def test_the_keys_of_a_stored_email_are_those_of_everybody_who_is_sent_to(email: Email) -> None:
    keys = keys_of([{"email": email.to_mapping()}])
    assert {entry_of(person.address) for person in email.recipients} <= keys


@bounded
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
