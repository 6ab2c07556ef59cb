"""Vendors that de-duplicate by a key: the same key and the same bytes for an e-mail, always."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Email
from mailqueue.vendors.http import HttpVendor
from tests.contract import brevo, resend
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import EMAIL_ID, Attempts, Vendors
from tests.vendor_servers import HttpServer, Received, Reply, close

OTHER_ID = "65f0a1b2c3d4e5f6a7b8c9d1"
Key = Callable[[Received], str]


def _resend(request: Received) -> str:
    return request.headers["idempotency-key"]


def _brevo(request: Received) -> str:
    return str(request.json["headers"]["idempotencyKey"])


keyed = pytest.mark.parametrize(
    "case,key",
    [pytest.param(resend.CASE, _resend, id="resend"), pytest.param(brevo.CASE, _brevo, id="brevo")],
)


def _class(case: Case, vendor: Vendors) -> HttpVendor:
    made = vendor(case.type, keys=case.keys, base_url="https://api.example.org")
    assert isinstance(made, HttpVendor)
    return made


def test_only_vendors_that_document_it_have_keys(vendor: Vendors) -> None:
    lives = {case.type: _class(case, vendor).key_life for case in CASES}
    assert {type_: life for type_, life in lives.items() if life is not None} == {
        "resend": 86_400.0,
        "brevo": 900.0,
    }


@keyed
def test_every_attempt_at_an_email_makes_the_same_request_under_the_same_key(
    case: Case, key: Key, vendor: Vendors, attempt: Attempts, rich: Email
) -> None:
    with HttpServer(case.accepted) as server:
        for email in (rich, Email.from_document(rich.to_mapping())):
            made = vendor(case.type, base_url=server.url, keys=case.keys)
            made.send(email, attempt(5.0, key=EMAIL_ID))
            made.send(email, attempt(9.0, key=EMAIL_ID))
    assert len({(r.body, tuple(sorted(r.headers.items()))) for r in server.requests}) == 1
    assert len({key(request) for request in server.requests}) == 1


@keyed
def test_another_email_has_another_key(
    case: Case, key: Key, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    with HttpServer(case.accepted) as server:
        made = vendor(case.type, base_url=server.url, keys=case.keys)
        for email_id in (EMAIL_ID, OTHER_ID):
            made.send(plain, attempt(email_id=email_id, key=email_id))
    first, second = map(key, server.requests)
    assert first != second


def test_the_key_at_brevo_is_a_uuid_that_is_made_of_ours_and_never_changes(
    vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    with HttpServer(brevo.CASE.accepted) as server:
        made = vendor("brevo", base_url=server.url, keys=brevo.CASE.keys)
        made.send(plain, attempt(key=EMAIL_ID))
        made.send(plain, attempt())
    first, second = map(_brevo, server.requests)
    assert first == second == "6f959529-5985-5ff8-a708-fff004987918"
    assert UUID(first).version == 5


@keyed
def test_after_a_lost_answer_the_repeat_counts_as_accepted(
    case: Case, key: Key, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    duplicate = Reply(400, {}, b'{"code": "duplicate_parameter", "message": "used"}')
    replay = case.accepted if case.type == "resend" else duplicate
    with HttpServer(close) as server:
        made = vendor(case.type, base_url=server.url, keys=case.keys)
        lost = made.send(plain, attempt(key=EMAIL_ID))
        server.behaviour = replay
        again = made.send(plain, attempt(key=EMAIL_ID))
    assert (lost.outcome, again.outcome) == (Outcome.UNKNOWN, Outcome.ACCEPTED)
    assert server.requests[0].body == server.requests[1].body
    assert key(server.requests[0]) == key(server.requests[1])


@keyed
def test_a_first_request_that_is_still_running_is_not_the_vendors_fault(
    case: Case, key: Key, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    body = b'{"name": "concurrent_idempotent_requests", "code": "duplicate_request"}'
    with HttpServer(Reply(409, {}, body)) as server:
        result = vendor(case.type, base_url=server.url, keys=case.keys).send(plain, attempt())
    assert (result.outcome, result.our_fault, result.answered) == (Outcome.UNKNOWN, True, True)


def test_a_changed_option_of_the_vendor_changes_the_request_but_not_its_key(
    vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    """Resend refuses that (409); the first attempt stays what it was."""
    options: Any = ({}, {"topic_id": "t"})
    with HttpServer(resend.CASE.accepted) as server:
        for given in options:
            made = vendor("resend", base_url=server.url, keys=resend.CASE.keys, options=given)
            made.send(plain, attempt(key=EMAIL_ID))
    assert server.requests[0].body != server.requests[1].body
    assert _resend(server.requests[0]) == _resend(server.requests[1])
