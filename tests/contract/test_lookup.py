"""Vendors that can be asked for an e-mail: found is a late yes, not found proves nothing."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.store.ids import to_uuid
from tests.contract import azure, mailgun, mailjet, postmark
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import DATE, EMAIL_ID, Attempts, Vendors
from tests.vendor_servers import (
    HOST,
    Behaviour,
    HttpServer,
    Reply,
    close,
    cut_body,
    drip_headers,
    hang,
    reset,
    say,
)

POSTMARK_ID = "0ac29aee-e1cd-480d-b08d-4f48548ff48d"
MAILGUN_ID = "20130503182626.18666.16540@mg.example.org"
MAILJET_ID = 70650219165027410
AZURE_ID = str(to_uuid(EMAIL_ID))

ABLE = (azure.CASE, mailgun.CASE, mailjet.CASE, postmark.CASE)
asked = pytest.mark.parametrize("case", ABLE, ids=[case.type for case in ABLE])


def _json(body: Any, status: int = 200) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _event(email_id: str, message_id: Any = MAILGUN_ID) -> dict[str, Any]:
    message = {"headers": {"message-id": message_id, "to": "bob@example.net"}}
    variables = {"user": "42", "mailqueue_id": email_id}
    return {"event": "accepted", "user-variables": variables, "message": message}


FOUND: Mapping[str, Any] = {
    "postmark": {"TotalCount": 1, "Messages": [{"MessageID": POSTMARK_ID, "Status": "Sent"}]},
    "mailgun": {"items": [_event("other"), _event(EMAIL_ID)], "paging": {}},
    "mailjet": {"Count": 1, "Data": [{"ID": MAILJET_ID, "Status": "sent"}], "Total": 1},
    "azure": {"id": AZURE_ID, "status": "Succeeded", "error": None},
}
IDS = {
    "postmark": POSTMARK_ID,
    "mailgun": f"<{MAILGUN_ID}>",
    "mailjet": str(MAILJET_ID),
    "azure": AZURE_ID,
}


@pytest.fixture
def serve() -> Iterator[Any]:
    with ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(HttpServer(behaviour))


def _ask(
    case: Case, url: str, email: Email, vendor: Vendors, attempt: Attempts, **fields: Any
) -> SendResult | None:
    seconds = fields.pop("seconds", 5.0)
    made = vendor(case.type, **{"base_url": url, "keys": case.keys, **fields})
    found: SendResult | None = made.lookup(email, attempt(seconds))
    return found


def test_only_these_vendors_can_be_asked(vendor: Vendors) -> None:
    url = "https://api.example.org"
    made = {case.type: vendor(case.type, keys=case.keys, base_url=url) for case in CASES}
    able = {type_ for type_, one in made.items() if one.lookup is not None}
    assert able == {case.type for case in ABLE}


@asked
def test_what_is_found_is_accepted_with_the_vendors_id(
    case: Case, serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    server = serve(_json(FOUND[case.type]))
    found = _ask(case, server.url, plain, vendor, attempt)
    assert found == SendResult(outcome=Outcome.ACCEPTED, code="found", message_id=IDS[case.type])
    (request,) = server.requests
    assert (request.method, request.body) == ("GET", b"")
    assert "content-length" not in request.headers
    assert case.authorized(request)


def test_postmark_is_asked_for_our_id_in_the_metadata_of_its_message_stream(
    serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    server = serve(_json(FOUND["postmark"]))
    own = Email.from_mapping(
        {**plain.to_mapping(), "vendor_options": {"first": {"MessageStream": "news"}}}
    )
    keys = {**postmark.CASE.keys, "message_stream": "mails"}
    for email, given in ((plain, postmark.CASE.keys), (plain, keys), (own, keys)):
        _ask(postmark.CASE, server.url, email, vendor, attempt, keys=given)
    paths = [urlsplit(request.path) for request in server.requests]
    assert {path.path for path in paths} == {"/messages/outbound"}
    search = {"count": "1", "offset": "0", "metadata_mailqueue_id": EMAIL_ID}
    streams = [{}, {"messagestream": "mails"}, {"messagestream": "news"}]
    assert [dict(parse_qsl(path.query)) for path in paths] == [search | s for s in streams]


def test_the_message_stream_of_the_configuration_is_that_of_the_email(
    serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    server = serve(postmark.CASE.accepted)
    keys = {**postmark.CASE.keys, "message_stream": "mails"}
    vendor("postmark", base_url=server.url, keys=keys).send(plain, attempt())
    assert server.requests[0].json["MessageStream"] == "mails"


def test_mailgun_is_asked_what_it_accepted_for_the_first_recipient_since_the_email_was_made(
    serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    server = serve(_json(FOUND["mailgun"]))
    _ask(mailgun.CASE, server.url, plain, vendor, attempt)
    path = urlsplit(server.requests[0].path)
    assert path.path == "/v3/mg.example.org/events"
    assert dict(parse_qsl(path.query)) == {
        "event": "accepted",
        "recipient": "bob@example.net",
        "begin": str(int(DATE.timestamp()) - 300),
        "ascending": "yes",
        "limit": "300",
    }
    login = b64encode(f"api:{mailgun.KEY}".encode()).decode()
    assert server.requests[0].headers["authorization"] == f"Basic {login}"


def test_azure_is_asked_for_the_operation_whose_id_is_ours_with_a_signature(
    serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    server = serve(_json(FOUND["azure"]))
    _ask(azure.CASE, server.url, plain, vendor, attempt)
    (request,) = server.requests
    assert request.path == f"/emails/operations/{AZURE_ID}?api-version=2025-09-01"
    server.behaviour = azure.CASE.accepted
    vendor("azure", base_url=server.url, keys=azure.CASE.keys).send(plain, attempt())
    assert server.requests[-1].headers["operation-id"] == AZURE_ID


@pytest.mark.parametrize("status", ["NotStarted", "Running"])
def test_an_operation_that_azure_has_not_finished_is_one_that_it_has(
    status: str, serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    server = serve(_json({"id": AZURE_ID, "status": status}))
    assert _ask(azure.CASE, server.url, plain, vendor, attempt) is not None


def test_mailjet_is_asked_for_our_id_as_its_custom_id(
    serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    server = serve(_json(FOUND["mailjet"]))
    _ask(mailjet.CASE, server.url, plain, vendor, attempt)
    path = urlsplit(server.requests[0].path)
    assert path.path == "/v3/REST/message"
    assert dict(parse_qsl(path.query)) == {"CustomID": EMAIL_ID, "Limit": "1"}


ODD = [
    {},
    {"Messages": [], "items": []},
    {"Messages": ["x"], "items": ["x"]},
    {"Messages": [{"MessageID": 7}], "items": [_event(EMAIL_ID, 7)]},
    {"Messages": {"MessageID": "x"}, "items": {"user-variables": {}}},
    {"Messages": "x", "items": [{"user-variables": {"mailqueue_id": EMAIL_ID}}]},
    {"items": [{"user-variables": {"mailqueue_id": EMAIL_ID}, "message": {"headers": []}}]},
    {"items": [{"user-variables": []}, _event("other")]},
    [FOUND],
    {"Data": [{"ID": MAILJET_ID, "CustomID": "other"}], "id": "other", "status": "Succeeded"},
    {"Data": [{"ID": True}], "id": AZURE_ID, "status": "Failed"},
    {"Data": [{"ID": ""}], "id": AZURE_ID, "status": "Canceled"},
    {"Data": [{}], "id": AZURE_ID, "status": ["Succeeded"]},
    {"Data": {"ID": MAILJET_ID}, "id": [AZURE_ID], "status": "Succeeded"},
]


@asked
@pytest.mark.parametrize("body", ODD)
def test_what_is_not_found_or_not_understood_proves_nothing(
    case: Case, body: Any, serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    assert _ask(case, serve(_json(body)).url, plain, vendor, attempt) is None


@asked
@pytest.mark.parametrize("status", [201, 302, 401, 404, 422, 429, 500, 503])
def test_a_vendor_that_does_not_answer_with_200_proves_nothing(
    case: Case, status: int, serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    server = serve(_json(FOUND[case.type], status))
    assert _ask(case, server.url, plain, vendor, attempt) is None


BROKEN = [
    pytest.param(lambda _: reset, id="reset"),
    pytest.param(lambda _: close, id="close"),
    pytest.param(lambda _: hang, id="hang"),
    pytest.param(lambda _: say(b"SSH-2.0\r\n"), id="no-http"),
    pytest.param(cut_body, id="cut"),
    pytest.param(drip_headers, id="drip"),
]


@asked
@pytest.mark.parametrize("broken", BROKEN)
def test_a_question_without_an_answer_ends_at_its_deadline_and_proves_nothing(
    case: Case, broken: Any, serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    behaviour: Behaviour = broken(_json(FOUND[case.type]))
    url = serve(behaviour).url
    assert _ask(case, url, plain, vendor, attempt, seconds=0.3) is None


@asked
def test_a_vendor_that_is_away_proves_nothing(
    case: Case, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    assert _ask(case, f"http://{HOST}:1", plain, vendor, attempt) is None


@asked
def test_after_a_question_the_next_email_goes_over_the_same_connection(
    case: Case, serve: Any, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    server = serve(_json(FOUND[case.type]))
    made = vendor(case.type, base_url=server.url, keys=case.keys)
    assert made.lookup(plain, attempt()) is not None
    server.behaviour = case.accepted
    assert made.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert [request.connection for request in server.requests] == [1, 1]
