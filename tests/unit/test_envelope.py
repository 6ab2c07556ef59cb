"""What an envelope says that the headers do not, and what is left of it."""

from __future__ import annotations

import pickle
from email.message import EmailMessage
from typing import Any

import pytest
from bson import ObjectId

from mailqueue.errors import InvalidEmail, Unreadable
from mailqueue.lifecycle.outcomes import Status
from mailqueue.message import Address, Email, Envelope, mime
from mailqueue.message.envelope import NULL_SENDER
from mailqueue.message.message import content_hash, size
from mailqueue.store.document import Stored
from tests.for_each import for_each
from tests.unit.test_damaged import NOW, sound

MAIL: dict[str, Any] = {
    "from": "Ann <ann@example.com>",
    "to": ["Bob <bob@example.org>", "carl@example.org"],
    "text": "Hello",
}
VERP = "bounce+4711@example.com"


def email(**changes: Any) -> Email:
    return Email.from_mapping(MAIL | changes)


def enveloped(*recipients: Any, **changes: Any) -> Email:
    return email(envelope={"recipients": list(recipients)}, **changes)


def refused(**changes: Any) -> InvalidEmail:
    with pytest.raises(InvalidEmail) as caught:
        email(**changes)
    return caught.value


def addresses(people: Any) -> list[str]:
    return [person.address for person in people]


# --- who is sent to


def test_only_the_recipients_of_the_envelope_are_sent_to() -> None:
    listed = enveloped("eve@example.net", "Carl <carl@example.org>", bcc=["dora@example.org"])
    assert addresses(listed.recipients) == ["carl@example.org", "eve@example.net"]
    assert addresses(listed.to) == ["bob@example.org", "carl@example.org"]
    assert addresses(listed.display_only) == ["bob@example.org"]
    assert listed.bcc == ()
    assert listed.entries == 2
    fields = {name: addresses(people) for name, people in listed.unique_recipients().items()}
    assert fields == {"to": ["carl@example.org"], "bcc": ["eve@example.net"]}


def test_who_is_shown_stays_in_the_headers_and_the_envelope_is_nowhere_in_the_message() -> None:
    plain, listed = email(), enveloped("eve@example.net")
    assert mime.mime(listed, message_id="<1@x.org>") == mime.mime(plain, message_id="<1@x.org>")
    assert b"eve" not in mime.mime(listed, message_id="<1@x.org>")


def test_an_envelope_that_names_everyone_shown_is_the_same_as_a_bcc() -> None:
    people = ["carl@example.org", "bob@EXAMPLE.org", "dora@example.org", "eve@example.net"]
    listed = enveloped(*people)
    assert listed == email(bcc=["dora@example.org", "eve@example.net"])
    assert (listed.envelope, listed.display_only) == (None, ())
    assert enveloped("dora@example.org", to=None) == email(to=None, bcc="dora@example.org")
    assert enveloped("dora@example.org", to=None, bcc="eve@example.net").recipients == (
        Address("", "dora@example.org"),
    )


def test_an_envelope_that_says_what_the_headers_say_leaves_nothing_behind() -> None:
    plain = email(cc=["Dora <dora@bücher.example>"], bcc=["Eve <eve@example.net>"])
    people = ["eve@EXAMPLE.NET", "carl@example.org", "bob@example.org"]
    same = email(
        cc=["Dora <dora@bücher.example>"],
        bcc=["Eve <eve@example.net>"],
        envelope={"from": "ann@EXAMPLE.com", "recipients": [*people, "dora@xn--bcher-kva.example"]},
    )
    assert same == plain
    assert same.to_mapping() == plain.to_mapping()
    assert content_hash(same.to_mapping()) == content_hash(plain.to_mapping())


@for_each("nothing", [None, {}, {"from": None, "recipients": None}, Envelope()])
def test_an_empty_envelope_is_none(nothing: Any) -> None:
    assert email(envelope=nothing) == email()


def test_a_recipient_counts_once_and_a_local_part_keeps_its_case() -> None:
    listed = enveloped("eve@example.net", "eve@EXAMPLE.net", "Eve@example.net", "BOB@example.org")
    assert addresses(listed.recipients) == [
        *("eve@example.net", "Eve@example.net", "BOB@example.org"),
    ]
    assert "bob@example.org" not in addresses(listed.recipients)
    once = listed.unique_recipients(ignore_case=True)
    assert {name: addresses(people) for name, people in once.items()} == {
        "to": ["bob@example.org"],
        "bcc": ["eve@example.net"],
    }
    assert addresses(listed.display_only) == ["carl@example.org"]


# --- the bounce address


def test_a_bounce_address_is_kept_without_its_name_and_only_if_it_is_not_the_from() -> None:
    assert email(envelope={"from": f"Bounces <{VERP}>"}).bounce_address == Address("", VERP)
    assert email(envelope={"from": "Other <ann@example.com>"}).envelope is None
    assert email().bounce_address is None


@for_each("null", ["", "<>", NULL_SENDER])
def test_the_null_sender_is_kept(null: Any) -> None:
    silent = email(envelope={"from": null})
    assert silent.envelope == Envelope(from_=NULL_SENDER)
    assert silent.to_mapping()["envelope"] == {"from": ""}
    assert Email.from_document(silent.to_mapping()) == silent
    assert content_hash(silent.to_mapping()) != content_hash(email().to_mapping())


# --- what is stored of it


def test_the_document_gives_an_equal_email_and_so_does_the_mapping_given_again() -> None:
    whole = email(envelope={"from": VERP, "recipients": ["eve@bücher.example"]})
    mapping = whole.to_mapping()
    assert mapping["envelope"] == {"from": VERP, "recipients": ["eve@bücher.example"]}
    assert Email.from_document(mapping) == whole == Email.from_mapping(mapping)
    assert content_hash(mapping) == content_hash(Email.from_mapping(mapping).to_mapping())
    assert pickle.loads(pickle.dumps(whole)) == whole
    assert size(mapping) > size(email().to_mapping())
    built = Email(
        from_="Ann <ann@example.com>",
        to=["Bob <bob@example.org>", "carl@example.org"],
        text="Hello",
        envelope=Envelope(Address("", VERP), (Address("Eve", "eve@bücher.example"),)),
    )
    assert built == whole


def test_a_message_comes_with_the_envelope_that_it_was_handed_in_with() -> None:
    message = EmailMessage()
    message["From"], message["To"] = "ann@example.com", "list@example.org"
    message.set_content("Hello")
    listed = Email.from_message(message, envelope={"from": VERP, "recipients": ["eve@example.net"]})
    assert addresses(listed.recipients) == ["eve@example.net"]
    del message["To"]
    hidden = Email.from_message(message, envelope={"recipients": ["eve@example.net"]})
    assert addresses(hidden.bcc) == ["eve@example.net"]


def test_it_is_private() -> None:
    whole = email(envelope={"from": VERP, "recipients": ["eve@example.net"]})
    assert "eve" not in repr(whole) + repr(whole.envelope)
    assert {VERP, "eve@example.net"} <= {person.address for person in whole.people}


@for_each(
    "envelope",
    [
        {"recipients": []},
        {"recipients": [1]},
        {"recipients": "eve@example.net"},
        {"from": 1},
        {"from": None, "recipients": ["eve@example.net"]},
        {"to": ["eve@example.net"]},
        {},
        "eve@example.net",
        None,
    ],
)
def test_a_damaged_envelope_never_means_the_recipients_of_the_headers(envelope: Any) -> None:
    document = sound(Status.QUEUED) | {"_id": ObjectId(), "email": MAIL | {"envelope": envelope}}
    with pytest.raises(Unreadable):
        _ = Stored(document, NOW).email


# --- what is refused


@for_each(
    "envelope, field",
    [
        ("eve@example.net", "envelope"),
        (["eve@example.net"], "envelope"),
        ({"to": ["eve@example.net"]}, "envelope"),
        ({"recipients": []}, "envelope.recipients"),
        ({"recipients": [""]}, "envelope.recipients[0]"),
        ({"recipients": ["eve@example.net", "<>"]}, "envelope.recipients[1]"),
        ({"recipients": "no address"}, "envelope.recipients"),
        ({"recipients": 7}, "envelope.recipients"),
        ({"recipients": ["x@example.org"] * 1001}, "envelope.recipients"),
        ({"recipients": ["a@x.org\r\nRCPT TO:<b@x.org>"]}, "envelope.recipients[0]"),
        (Envelope(recipients=7), "envelope.recipients"),  # type: ignore[arg-type]  # on purpose
        ({"from": "no address"}, "envelope.from"),
        ({"from": 7}, "envelope.from"),
        ({"from": ["a@x.org"]}, "envelope.from"),
        ({"from": "a@x.org, b@x.org"}, "envelope.from"),
        ({"from": "a@x.org> SIZE=1\r\nRCPT TO:<b@x.org"}, "envelope.from"),
    ],
)
def test_what_is_wrong_is_named_and_not_quoted(envelope: Any, field: str) -> None:
    error = refused(envelope=envelope)
    assert error.field == field
    assert not any(word in str(error) for word in ("eve@", "x.org", "no address"))


def test_nobody_to_send_to_is_refused_though_there_is_a_bounce_address() -> None:
    assert refused(to=[], envelope={"from": VERP}).field == "to"
    assert refused(to=["x@x.org"] * 1001, envelope={"recipients": ["a@x.org"]}).field == "to"


def test_a_bcc_that_the_envelope_makes_counts_among_the_recipients() -> None:
    people = [f"p{n}@example.org" for n in range(1000)]
    assert len(enveloped(*people, to=people[0]).bcc) == 999
    assert refused(to=people[:1] * 1000, envelope={"recipients": people}).field == "to"
