"""Each vendor sends to whom the envelope names and to nobody else, or is not asked to."""

from __future__ import annotations

import os
import time
from base64 import b64decode
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailqueue.config import VendorConfig
from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import ConfigError, InvalidEmail
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Address, Email
from mailqueue.vendors import limits, load
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor
from mailqueue.vendors.smtp import Smtp
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import EMAIL_ID, MESSAGE_ID, Attempts, Vendors
from tests.contract.test_fuzz import bounded
from tests.vendor_servers import HOST, HttpServer, Received, ScriptedSmtp, SmtpServer, Wire, polite

BY_TYPE = {case.type: case for case in CASES}
ABLE = {type_ for type_, row in VENDOR_TYPES.items() if row.capacity.envelope_recipients}
each_able_vendor = pytest.mark.parametrize("type_", sorted(ABLE - {"smtp"}))
VERP = "bounce+4711@example.org"
LONG: dict[str, Any] = {
    "from": "Ann <ann@example.org>",
    "subject": "A long enough subject",
    "text": "A long enough text",
    "html": "<p>A long enough text</p>",
}


def email(**fields: Any) -> Email:
    return Email.from_mapping({**LONG, **fields})


NAMED = {"recipients": ["eve@example.net", "carol@bücher.example", "bob@example.net"]}
LISTED = email(
    to=["The list <list@example.net>", "Bob <bob@example.net>"],
    cc=["desk@example.net", "Carol <carol@bücher.example>"],
    envelope=NAMED,
    headers={"X-Campaign": "spring"},
    attachments=[{"filename": "plan.pdf", "content": b"%PDF"}],
    tags=["welcome", "one, two"],
    metadata={"user": "42", "näme": "wert"},
)


# --- how a request is read back


def _text(part: EmailMessage) -> str:
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return octets.decode()


def _mime(request: Received) -> EmailMessage:
    """The message in it, of those that take one."""
    if request.path.endswith("messages.mime"):
        (part,) = (part for name, part in request.form if name == "message")
        (message,) = part.iter_parts() if part.is_multipart() else (part,)
        assert isinstance(message, EmailMessage)
        return message
    payload = request.json
    octets = (
        payload["raw_message"].encode()
        if "raw_message" in payload
        else b64decode(payload["Content"]["Raw"]["Data"])
    )
    message = message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def _shown(request: Received) -> list[tuple[str, str]]:
    """Names and addresses in To and Cc, as recipients see them."""
    if "recipients" in (payload := {} if request.path.endswith("mime") else request.json):
        (to,) = {entry["address"]["header_to"] for entry in payload["recipients"]}
        texts = f"{to}, {payload['content']['headers']['CC']}".split(", ")
        return [(person.name, person.address) for person in map(Address.parse, texts)]
    message = _mime(request)
    assert message["Bcc"] is None
    people = [*message["To"].addresses, *message["Cc"].addresses]
    return [(person.display_name, person.addr_spec) for person in people]


def sent_to(case: Case, request: Received) -> list[str]:
    """Everyone whom a request has sent to, as often as it names them."""
    match case.type:
        case "ses":
            return [at for people in request.json["Destination"].values() for at in people]
        case "sparkpost":
            return [entry["address"]["email"] for entry in request.json["recipients"]]
        case "mailgun" if request.path.endswith(".mime"):
            return [_text(part) for name, part in request.form if name in ("to", "cc", "bcc")]
        case "mandrill" if request.path.endswith("-raw"):
            to: list[str] = request.json["to"]
            return to
    found = case.parse(request)
    return [at for people in (found.to, found.cc, found.bcc) for _, at in people]


# --- the recipients


@each_able_vendor
def test_the_envelope_is_sent_to_and_the_headers_are_shown(
    type_: str, vendor: Vendors, attempt: Attempts
) -> None:
    case = BY_TYPE[type_]
    with HttpServer(case.accepted) as server:
        made = vendor(type_, base_url=server.url, keys=case.keys)
        assert made.can_carry(LISTED) is None
        result = made.send(LISTED, attempt())
    (request,) = server.requests
    assert (result.outcome, result.message_id) == (Outcome.ACCEPTED, case.message_id)
    assert sorted(sent_to(case, request)) == [
        *("bob@example.net", "carol@xn--bcher-kva.example", "eve@example.net"),
    ]
    assert _shown(request) == [
        *(("The list", "list@example.net"), ("Bob", "bob@example.net")),
        *(("", "desk@example.net"), ("Carol", "carol@xn--bcher-kva.example")),
    ]
    assert case.authorized(request)
    specs = os.environ.get("MAILQUEUE_VENDOR_SPECS")
    if specs:
        assert case.violations(Path(specs), request) == []


@pytest.mark.parametrize("type_", ["mailgun", "mandrill"])
def test_a_message_as_it_stands_has_its_labels_and_its_id_all_the_same(
    type_: str, vendor: Vendors, attempt: Attempts
) -> None:
    case = BY_TYPE[type_]
    with HttpServer(case.accepted) as server:
        vendor(type_, base_url=server.url, keys=case.keys).send(LISTED, attempt())
    (request,) = server.requests
    message = _mime(request)
    assert message["Message-ID"] == MESSAGE_ID
    assert message["X-Campaign"] == "spring"
    body, (file,) = message.get_body(("plain",)), message.iter_attachments()
    assert body is not None
    assert (body.get_content().strip(), file.get_content()) == (LISTED.text, b"%PDF")
    if type_ == "mailgun":
        fields = [(name, _text(part)) for name, part in request.form if name[1] == ":"]
        assert fields == [
            *(("o:tag", "welcome"), ("o:tag", "one, two")),
            *(("v:user", "42"), ("v:näme", "wert"), ("v:mailqueue_id", EMAIL_ID)),
        ]
    else:
        assert message["X-MC-PreserveRecipients"] == "true"
        assert message["X-MC-Tags"] == "welcome"  # a comma would end it
        assert message["X-MC-Metadata"] == (
            f'{{"user": "42", "n\\u00e4me": "wert", "mailqueue_id": "{EMAIL_ID}"}}'
        )


def test_mandrill_is_not_asked_with_options_that_a_message_as_it_stands_cannot_have(
    vendor: Vendors,
) -> None:
    keys = BY_TYPE["mandrill"].keys
    options = {"message": {"subaccount": "x"}}
    own = Email.from_mapping({**LISTED.to_mapping(), "headers": {"X-MC-Track": "opens"}})
    assert vendor("mandrill", keys=keys, options=options).can_carry(LISTED) is not None
    assert vendor("mandrill", keys=keys).can_carry(own) is not None
    assert vendor("mandrill", keys=keys, options=options).can_carry(email(to="b@x.org")) is None


POOL = [
    *("ann@example.net", "Ann@example.net", "bob@EXAMPLE.net", "bob@example.net"),
    *("carol@bücher.example", "carol@xn--bcher-kva.example", "dora@x.example", "eve@example.net"),
]
some = st.lists(st.sampled_from(POOL), max_size=4)


@st.composite
def enveloped(draw: st.DrawFn) -> tuple[Email, list[Address]]:
    """An e-mail, and who is to get it."""
    people = {name: draw(some) for name in ("to", "cc", "bcc")}
    named = draw(st.lists(st.sampled_from(POOL), min_size=1, max_size=5))
    return email(**people, envelope={"recipients": named}), list(map(Address.parse, named))


@pytest.mark.parametrize("type_", sorted(BY_TYPE))
@given(example=enveloped())
@settings(bounded, max_examples=60)
def test_whatever_the_headers_say_a_request_names_exactly_the_envelope(
    type_: str, example: tuple[Email, list[Address]]
) -> None:
    """Each mailbox once; the case of a local part is nothing to the API of a vendor."""
    whole, named = example
    case = BY_TYPE[type_]
    config = VendorConfig(name="first", type=type_, keys=case.keys, base_url=f"http://{HOST}:1")
    made = load(config, simulated=False)
    assert isinstance(made, HttpVendor)
    if made.can_carry(whole) is not None:
        assert type_ not in ABLE or not whole.to
        return
    deadline = time.monotonic() + 5
    attempt = Attempt(email_id=EMAIL_ID, message_id=MESSAGE_ID, deadline=deadline)
    request = made.build(Email.from_document(whole.to_mapping()), attempt)
    headers = {name.lower(): value for name, value in request.headers.items()}
    received = Received("POST", request.path, headers, request.body, 1)
    told = sorted(address.lower() for address in _sent_to(case, received, whole))
    assert told == sorted({person.identity.lower() for person in named})


def _sent_to(case: Case, request: Received, whole: Email) -> list[str]:
    if case.type == "sparkpost" and whole.to:  # whom it shows is told apart
        (to,) = {entry["address"]["header_to"] for entry in request.json["recipients"]}
        shown = {Address.parse(text).identity.lower() for text in to.split(", ")}
        assert shown == {person.identity.lower() for person in whole.to}
    return sent_to(case, request)


def test_smtp_names_exactly_the_envelope_on_the_wire() -> None:
    lines: list[str] = []

    def answer(wire: Wire, line: str) -> bytes | None:
        lines.append(line)
        return polite(wire, line)

    with ScriptedSmtp(answer) as server:
        keys = {"host": HOST, "port": server.port, "tls": "none"}
        made = load(VendorConfig(name="first", type="smtp", keys=keys), simulated=False)
        assert isinstance(made, Smtp)

        @given(example=enveloped())
        @settings(bounded, max_examples=40)
        def names_the_envelope(example: tuple[Email, list[Address]]) -> None:
            whole, named = example
            lines.clear()
            deadline = time.monotonic() + 30
            attempt = Attempt(email_id=EMAIL_ID, message_id=MESSAGE_ID, deadline=deadline)
            assert made.send(whole, attempt).outcome is Outcome.ACCEPTED
            told = [
                line.partition("<")[2].partition(">")[0] for line in lines if line[:4] == "RCPT"
            ]
            assert sorted(told) == sorted({person.identity for person in named})

        names_the_envelope()
        made.close()


# --- the bounce address


@pytest.mark.parametrize(
    "bounces, wire",
    [(VERP, VERP), ("", ""), ("b@bücher.example", "b@xn--bcher-kva.example")],
)
def test_smtp_names_the_bounce_address_and_shows_the_from(
    bounces: str, wire: str, vendor: Vendors, attempt: Attempts
) -> None:
    whole = email(to="bob@example.net", envelope={"from": bounces})
    lines: list[str] = []

    def answer(connection: Wire, line: str) -> bytes | None:
        lines.append(line)
        return polite(connection, line)

    with ScriptedSmtp(answer) as scripted, SmtpServer() as server:
        for port in (scripted.port, server.port):
            keys = {"host": HOST, "port": port, "tls": "none"}
            made = vendor("smtp", keys=keys, from_="Desk <desk@example.com>")
            assert made.send(whole, attempt()).outcome is Outcome.ACCEPTED
    (mail,) = [line for line in lines if line.lower().startswith("mail")]
    assert mail.lower().startswith(f"mail from:<{wire}> ")
    (letter,) = server.letters
    assert letter.sender.strip("<>") == wire  # it has its brackets only if it is empty
    assert letter.recipients == ["bob@example.net"]
    assert str(letter.message["From"]) == "Desk <desk@example.com>"
    assert letter.message["Return-Path"] is None


def test_a_bounce_address_outside_ascii_needs_a_server_that_knows_such(
    vendor: Vendors, attempt: Attempts
) -> None:
    whole = email(to="bob@example.net", envelope={"from": "dörte@example.org"})
    assert limits.can_carry("ses", whole) == "non-ASCII mailbox"
    with SmtpServer() as able, SmtpServer(smtputf8=False) as unable:
        results = [
            vendor("smtp", keys={"host": HOST, "port": server.port, "tls": "none"}).send(
                whole, attempt()
            )
            for server in (able, unable)
        ]
    assert [result.code for result in results] == ["smtp-250", "smtputf8"]
    assert [letter.sender for letter in able.letters] == ["dörte@example.org"]
    assert unable.letters == []


def test_a_server_gets_both_and_the_rest_of_the_recipients_under_the_same_sender(
    vendor: Vendors, attempt: Attempts
) -> None:
    whole = Email.from_mapping({**LISTED.to_mapping(), "envelope": {"from": VERP, **NAMED}})
    with SmtpServer() as server:
        server.handler.most = 2
        made = vendor("smtp", keys={"host": HOST, "port": server.port, "tls": "none"})
        first = made.send(whole, attempt())
        server.handler.most = 9
        made.send(whole, attempt(recipients=first.pending))
    assert first.pending == ("eve@example.net",)
    told = [(letter.sender, letter.recipients) for letter in server.letters]
    assert told == [
        (VERP, ["bob@example.net", "carol@xn--bcher-kva.example"]),
        (VERP, ["eve@example.net"]),
    ]
    assert {str(letter.message["To"]) for letter in server.letters} == {
        "The list <list@example.net>, Bob <bob@example.net>"
    }


def test_ses_forwards_bounces_to_the_bounce_address(vendor: Vendors, attempt: Attempts) -> None:
    case = BY_TYPE["ses"]
    whole = email(to="bob@example.net", envelope={"from": "b@bücher.example"})
    with HttpServer(case.accepted) as server:
        made = vendor("ses", base_url=server.url, keys=case.keys)
        made.send(whole, attempt())
        made.send(email(to="bob@example.net"), attempt())
    told = [r.json.get("FeedbackForwardingEmailAddress") for r in server.requests]
    assert told == ["b@xn--bcher-kva.example", None]
    specs = os.environ.get("MAILQUEUE_VENDOR_SPECS")
    if specs:
        assert case.violations(Path(specs), server.requests[0]) == []


def test_sparkpost_has_a_bounce_address_where_the_plan_does(
    vendor: Vendors, attempt: Attempts
) -> None:
    case, whole = BY_TYPE["sparkpost"], email(to="bob@example.net", envelope={"from": VERP})
    silent = email(to="bob@example.net", envelope={"from": ""})
    options = {"own_return_path": True}
    assert limits.can_carry("sparkpost", whole) == "envelope with a bounce address"
    assert limits.can_carry("sendgrid", whole, options) == "envelope with a bounce address"
    assert limits.can_carry("sparkpost", silent, options) == "envelope with the null sender"
    with HttpServer(case.accepted) as server:
        made = vendor("sparkpost", base_url=server.url, keys=case.keys, options=options)
        assert made.can_carry(whole) is None
        made.send(whole, attempt())
        made.send(email(to="bob@example.net"), attempt())
    first, second = server.requests
    assert (first.json["return_path"], "return_path" in second.json) == (VERP, False)
    assert "own_return_path" not in first.json
    specs = os.environ.get("MAILQUEUE_VENDOR_SPECS")
    if specs:
        assert case.violations(Path(specs), first) == []
    with pytest.raises(ConfigError, match="own_return_path: must be true or false"):
        vendor("sparkpost", keys=case.keys, options={"own_return_path": "yes"})


# --- who cannot


Fields = dict[str, Any]
SHOWN: Fields = {"to": "list@example.net", "envelope": {"recipients": ["bob@example.net"]}}
BOUNCES: Fields = {"to": "bob@example.net", "envelope": {"from": VERP}}
SILENT: Fields = {"to": "bob@example.net", "envelope": {"from": ""}}


@pytest.mark.parametrize(
    "fields, able",
    [
        (SHOWN, {"mailgun", "mandrill", "ses", "smtp", "sparkpost"}),
        (BOUNCES, {"ses", "smtp"}),
        (SILENT, {"smtp"}),
        ({**SHOWN, "envelope": {**SHOWN["envelope"], "from": VERP}}, {"ses", "smtp"}),
    ],
)
def test_who_cannot_carry_an_envelope_is_passed_over(fields: Fields, able: set[str]) -> None:
    types = (*VENDOR_TYPES, "my_package:MyVendor")
    reasons = {type_: limits.can_carry(type_, email(**fields)) for type_ in types}
    assert {type_ for type_, reason in reasons.items() if reason is None} == able
    assert all(str(reason).startswith("envelope") for reason in reasons.values() if reason)


def test_everyone_can_carry_an_envelope_that_is_the_same_as_a_bcc() -> None:
    people = ["bob@example.net", "eve@example.net"]
    hidden = email(to="bob@example.net", envelope={"recipients": people})
    assert {limits.can_carry(type_, hidden) for type_ in (*VENDOR_TYPES, "m:MyVendor")} == {None}


def test_the_recipients_of_the_envelope_count_against_a_vendors_limit_and_those_shown_do_not() -> (
    None
):
    many = [f"r{n}@example.org" for n in range(51)]
    few: Fields = {"to": many, "envelope": {"recipients": many[:50]}}
    assert limits.can_carry("ses", email(**few)) is None
    named: Fields = {"to": "list@example.net", "envelope": {"recipients": many}}
    assert limits.can_carry("ses", email(**named)) == "more than 50 recipients"


def test_an_address_of_the_envelope_is_looked_at_like_any_other() -> None:
    eai: Fields = {"to": "list@example.net", "envelope": {"recipients": ["dörte@example.net"]}}
    assert limits.can_carry("mailgun", email(**eai)) == "non-ASCII mailbox"
    assert limits.can_carry("smtp", email(**eai)) is None


def test_an_envelope_that_nobody_can_carry_is_named() -> None:
    vendors = [VendorConfig(name=n, type=n, keys=BY_TYPE[n].keys) for n in ("sendgrid", "mailgun")]
    field, problem = limits.nobody_carries(vendors, email(**BOUNCES)) or ("", "")
    assert field == "envelope"
    assert problem == (
        "no vendor can carry it (sendgrid: envelope with a bounce address; "
        "mailgun: envelope with a bounce address)"
    )
    assert limits.nobody_carries(vendors, email(**SHOWN)) is None
    assert limits.nobody_carries(vendors[:1], email(**SHOWN)) is not None
    assert str(InvalidEmail(field, problem)).startswith("envelope: ")


def test_a_header_that_the_envelope_could_inject_is_refused(
    vendor: Vendors, attempt: Attempts
) -> None:
    """The document may have been changed by hand."""
    mapping = {**LISTED.to_mapping(), "envelope": {"recipients": ["a@x.org>\r\nRCPT TO:<b@x.org"]}}
    made = vendor("smtp", keys={"host": HOST, "port": 1, "tls": "none"})
    result = made.send(Email.from_document(mapping), attempt())
    assert (result.outcome, result.code) == (Outcome.REJECTED, "header_injection")
