"""Whatever is to be sent and whatever is answered, a vendor gives a result; and what it posts is
what its specification knows.

Many of the vendors take only some e-mails, so each is given the e-mail without what it is passed
over for: that way every example says something about every vendor.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mailqueue.config import VendorConfig
from mailqueue.errors import InvalidEmail
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.message.headers import header_problem
from mailqueue.vendors import load
from mailqueue.vendors.answers import sanitize
from mailqueue.vendors.base import Attempt, Vendor
from mailqueue.vendors.http import HttpVendor, Request
from mailqueue.vendors.smtp import Smtp
from mailqueue.vendors.wire import failures
from mailqueue.vendors.wire.transport import NoResponse, RawResponse
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import EMAIL_ID, MESSAGE_ID
from tests.contract.test_odd_answers import ODD
from tests.emails import emails, json_objects, texts
from tests.vendor_servers import HOST, Received, Reply, ScriptedSmtp, Wire, polite

bounded = settings(
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
BY_TYPE = {case.type: case for case in CASES}
each_vendor = pytest.mark.parametrize("type_", BY_TYPE)  # a case would fill the page on a failure


class Double:
    """A transport that keeps the request and has the answer, or no answer, at once."""

    def __init__(self, answer: RawResponse | NoResponse) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    def post(self, request: Request, deadline: float, timeout: float) -> RawResponse:
        self.requests.append(request)
        for name, value in request.headers.items():
            assert (name + value).isascii()
            assert (name + value).isprintable()
        if isinstance(self.answer, NoResponse):
            raise self.answer
        return self.answer

    def get(self, request: Request, deadline: float, timeout: float) -> RawResponse:
        return self.post(request, deadline, timeout)

    def close(self) -> None:
        """Nothing is open."""


def attempt() -> Attempt:
    return Attempt(email_id=EMAIL_ID, message_id=MESSAGE_ID, deadline=time.monotonic() + 5)


def vendor(case: Case, answer: RawResponse | NoResponse) -> tuple[HttpVendor, Double]:
    config = VendorConfig(name="first", type=case.type, keys=case.keys, base_url=f"http://{HOST}:1")
    made = load(config, simulated=False)
    assert isinstance(made, HttpVendor)
    double = Double(answer)
    made.transport = double  # type: ignore[assignment]  # as much of it as a vendor uses
    return made, double


# --- what is sent

PEOPLE = {"from": "ann@example.org", "to": ["bob@example.net"], "cc": [], "bcc": [], "reply_to": []}
TEXTS = {"subject": "A plain subject", "text": "A plain text.", "html": "<p>A plain text.</p>"}
EXTRAS: dict[str, Any] = {"headers": {}, "metadata": {}, "tags": []}
PLAIN: tuple[dict[str, Any], ...] = (  # what an e-mail has instead of what a vendor does not take
    {"envelope": None},
    *({name: []} for name in ("reply_to", "attachments")),
    *({name: nothing} for name, nothing in EXTRAS.items()),
    *({name: text} for name, text in TEXTS.items()),
    {"to": ["bob@example.net"]},
    *(PEOPLE, TEXTS, EXTRAS, {**PEOPLE, **TEXTS, **EXTRAS}),
)


def carried(vendor: Vendor, email: Email) -> Email:
    """The e-mail without what this vendor would be passed over for."""
    while (reason := vendor.can_carry(email)) is not None:
        simpler = (Email.from_mapping({**email.to_mapping(), **plain}) for plain in PLAIN)
        email = next(found for found in simpler if vendor.can_carry(found) != reason)
    return email


@each_vendor
@given(email=emails())
@settings(bounded, max_examples=15)
def test_the_request_for_any_email_keeps_to_the_vendors_specification(
    type_: str, email: Email
) -> None:
    specs = os.environ.get("MAILQUEUE_VENDOR_SPECS")
    if not specs:
        pytest.skip("MAILQUEUE_VENDOR_SPECS names no folder")
    case = BY_TYPE[type_]
    accepted = RawResponse(case.accepted.status, case.accepted.headers, case.accepted.body)
    made, double = vendor(case, accepted)
    assert made.send(carried(made, email), attempt()).outcome is Outcome.ACCEPTED
    (request,) = double.requests
    headers = {name.lower(): value for name, value in request.headers.items()}
    received = Received("POST", request.path, headers, request.body, 1)
    assert case.violations(Path(specs), received) == []


# --- what is asked for


def _names(request: Request) -> list[str]:
    """What an option may replace: the fields of a request, and those that a vendor looks at."""
    try:
        payload = json.loads(request.body)
    except ValueError:
        payload = {}
    inner = (part for part in payload.values() if isinstance(part, dict))
    return sorted({*payload, *(name for part in inner for name in part), *LOOKED_AT})


LOOKED_AT = ("mail_settings", "EmailTags", "send_at", "inbox_id", "Globals", "Messages", "h:To")


@each_vendor
def test_no_option_however_odd_makes_a_vendor_raise(type_: str, rich: Email) -> None:
    case = BY_TYPE[type_]
    for reply in (case.accepted, Reply(200), Reply(400)):
        made, double = vendor(case, RawResponse(reply.status, reply.headers, reply.body))
        check(made.send(rich, attempt()), rich)
        for name in _names(double.requests[0]):
            for odd in ODD:
                email = with_options(rich, {name: odd})
                check(made.send(email, attempt()), email)


# --- what is answered


def _words(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, dict):
        yield from (word for item in value.items() for part in item for word in _words(part))
    elif isinstance(value, list):
        yield from (word for part in value for word in _words(part))
    elif isinstance(value, str):
        yield value


def _known(case: Case) -> list[str]:
    """The words that the vendor's answers are made of, and those of its options."""
    found = {*_words(list(case.extra)[:1]), "mail_settings", "EmailTags", "send_at", "Globals"}
    for reply in (case.accepted, *(row.reply for row in case.rows)):
        if reply.body.startswith((b"{", b"[")):
            found.update(_words(json.loads(reply.body)))
    return sorted(word for word in found if header_problem(word) is None)


STATUSES = (200, 201, 202, 204, 301, 400, 401, 403, 404, 406, 408, 409, 413, 420, 422, 429, 451)
HEADERS = ("Content-Type", "Retry-After", "Date", "X-Message-Id", "X-RateLimit-Reset")
MORE_HEADERS = ("x-sib-ratelimit-reset", "ratelimit-reset", "x-amzn-ErrorType")
VALUES = ("application/json", "text/html", "120", "9" * 40, "٣", "Mon, 20 Dec 2021 20:33:21 X")


@st.composite
def answers(draw: st.DrawFn, type_: str) -> RawResponse | NoResponse:
    """Any status with any headers and body; or none of it."""
    case = BY_TYPE[type_]
    words = st.sampled_from(_known(case)) | st.text(max_size=5)
    name, value = st.sampled_from(HEADERS + MORE_HEADERS), st.sampled_from(VALUES) | words
    body = json_objects(words).map(json.dumps).map(str.encode)
    body |= st.binary(max_size=20) | st.just(b"<html>") | st.just(b"[" * 100_000)
    body |= st.sampled_from([case.accepted.body, *(row.reply.body for row in case.rows)])
    status = st.sampled_from((200, 202, 400)) | st.sampled_from(STATUSES) | st.integers(200, 999)
    cut = st.sampled_from(["", "", failures.CONNECTION_LOST])
    answer = st.builds(RawResponse, status, st.dictionaries(name, value, max_size=2), body, cut)
    lost = st.builds(
        NoResponse, st.sampled_from([failures.DNS, failures.TLS]), written=st.booleans()
    )
    found: RawResponse | NoResponse = draw(st.one_of(*[answer] * 9, lost))
    return found


def check(result: object, email: Email) -> None:
    """Whatever the vendor said, the result can be stored, logged and acted upon."""
    assert isinstance(result, SendResult)
    assert result.message_id is None or isinstance(result.message_id, str)
    assert result.retry_after is None or 0 <= result.retry_after < float("inf")
    detail = sanitize(result, email).detail
    assert len(detail) <= 200
    assert detail.isprintable()
    everyone = {person.address for person in email.recipients}
    assert everyone.issuperset((*result.refused, *result.pending))


@each_vendor
@given(data=st.data(), email=emails())
@settings(bounded, max_examples=15)
def test_nothing_that_is_sent_or_answered_makes_a_vendor_raise(
    type_: str, data: st.DataObject, email: Email
) -> None:
    """Also what it could not carry, and with any options."""
    case = BY_TYPE[type_]
    made, _ = vendor(case, data.draw(answers(type_)))
    words = st.sampled_from(_known(case)) | texts()
    email = with_options(email, data.draw(st.just({}) | json_objects(words)))
    check(made.send(email, attempt()), email)
    if made.lookup is not None:
        found = made.lookup(email, attempt())
        assert found is None or found.outcome is Outcome.ACCEPTED


def with_options(email: Email, options: dict[str, Any]) -> Email:
    """With these options, if an e-mail may have them."""
    with suppress(InvalidEmail):
        return Email.from_mapping({**email.to_mapping(), "vendor_options": {"first": options}})
    return email


# --- SMTP

REPLY = st.builds(
    "{} {}".format,
    st.sampled_from([250, 220, 354, 421, 450, 451, 454, 530, 535, 550, 552, 554]),
    st.sampled_from(["2.0.0 Ok", "4.7.1 Later", "5.7.1 No: credits exceeded", ""]) | texts(),
).map(str.encode)
LINES = st.lists(REPLY | st.binary(max_size=8), min_size=1, max_size=3).map(b"\r\n".join)
ANY_REPLY = REPLY | st.binary(max_size=8) | LINES | st.just(b"250-" + b"x" * 70_000)
YES = re.compile(rb"(?=(2\d\d))(?:\1-[^\n]*\n)*\1(?: [^\n]*|\r)?\n")
STEPS = ("GREETING", "EHLO", "HELO", "AUTH", "MAIL", "RCPT", "DATA", "MESSAGE", "RSET", "QUIT")
OFFERS = ("SIZE 1000000", "SIZE 10", "SMTPUTF8", "8BITMIME", "AUTH PLAIN LOGIN CRAM-MD5")


@given(
    email=emails(),
    odd=st.dictionaries(st.sampled_from(STEPS), st.none() | ANY_REPLY, max_size=2),
    offers=st.lists(st.sampled_from(OFFERS), unique=True),
    login=st.booleans(),
)
@settings(bounded, max_examples=60)
def test_nothing_that_is_sent_or_replied_makes_the_smtp_vendor_raise(
    email: Email, odd: dict[str, bytes | None], offers: list[str], login: bool
) -> None:
    """Nor call accepted what was not: the reply to the final dot is judged here once more."""

    def answer(wire: Wire, line: str) -> bytes | None:
        step = line.partition(" ")[0] or "GREETING"
        if step in odd:
            reply = odd[step]
            return None if reply is None else reply + b"\r\n"
        if step == "EHLO":
            return "\r\n".join(["250-me", *(f"250-{o}" for o in offers), "250 HELP", ""]).encode()
        return b"235 ok\r\n" if step == "AUTH" else polite(wire, line)

    with ScriptedSmtp(answer) as server:
        keys = {"host": HOST, "port": server.port, "tls": "none"}
        keys |= {"username": "zoë", "password": "pässword"} if login else {}
        made = Smtp(VendorConfig(name="first", type="smtp", keys=keys, timeout=0.1))
        for _ in range(2):  # the second one over the same connection, if there still is one
            before = server.lines.count("MESSAGE")
            result = made.send(email, attempt())
            check(result, email)
            if result.outcome is Outcome.ACCEPTED:
                reply = odd.get("MESSAGE", b"250 2.0.0 Ok")
                assert reply is not None
                assert YES.match(reply + b"\r\n")
                assert server.lines.count("MESSAGE") > before
        made.close()
