"""No vendor's answer, however odd its JSON, makes an adapter stumble."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.answers import sanitize
from mailqueue.vendors.http import HttpVendor, Response
from mailqueue.vendors.wire.transport import RawResponse
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import Vendors
from tests.vendor_servers import Reply

ODD: tuple[Any, ...] = (None, True, 7, 1e400, "", "x", [], [[]], [None], {}, {"a": [{}]})


def _twisted(value: Any) -> Iterator[Any]:
    """The value with each of its parts, one after the other, replaced by something odd."""
    yield from ODD
    if isinstance(value, dict):
        for key, part in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: odd} for odd in _twisted(part))
    elif isinstance(value, list):
        for n, part in enumerate(value):
            yield from ([*value[:n], odd, *value[n + 1 :]] for odd in _twisted(part))


def _replies(case: Case) -> Iterator[Reply]:
    """Each once: rows of a status have many of them in common."""
    replies = {}
    for reply in (case.accepted, *(row.reply for row in case.rows)):
        try:
            document = json.loads(reply.body)
        except ValueError:
            continue
        for odd in _twisted(document):
            odd_reply = Reply(reply.status, reply.headers, json.dumps(odd).encode())
            replies[repr(odd_reply)] = odd_reply
    yield from replies.values()


@pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])
def test_an_answer_with_any_part_missing_or_of_another_kind_is_still_a_result(
    case: Case, vendor: Vendors, plain: Email
) -> None:
    made = vendor(case.type, keys=case.keys, base_url="http://127.0.0.1:1")
    assert isinstance(made, HttpVendor)
    for reply in _replies(case):
        answer = Response(RawResponse(reply.status, reply.headers, reply.body))
        result = sanitize(made.parse(answer, plain), plain, made)
        assert isinstance(result, SendResult)
        assert isinstance(result.message_id, str | None)


# What an acceptance stands on. Of each: where it is in the answer.
VITAL: dict[str, tuple[tuple[str | int, ...], ...]] = {
    "azure": (("id",), ("status",)),
    "brevo": (("messageId",),),
    "mailgun": (("id",), ("message",)),
    "mailjet": (("Messages",), ("Messages", 0), ("Messages", 0, "Status")),
    "mailtrap": (("success",), ("message_ids",), ("message_ids", 0)),
    "mandrill": ((0,), (0, "status")),
    "postmark": (("MessageID",),),
    "resend": (("id",),),
    "scaleway": (("emails",), ("emails", 0), ("emails", 0, "id")),
    "ses": (("MessageId",),),
    "smtp2go": (("data",), ("data", "succeeded"), ("data", "email_id")),
    "sparkpost": (("results",), ("results", "id"), ("results", "total_accepted_recipients")),
}
NOTHING: tuple[Any, ...] = (None, False, 1e400, -1.5, "", [], [[]], [None], {}, {"a": [{}]})
DEEP = "[" * 600 + "]" * 600


def test_smtp2gos_yes_stands_under_data_and_beside_no_error(vendor: Vendors, plain: Email) -> None:
    (case,) = (case for case in CASES if case.type == "smtp2go")
    made = vendor(case.type, keys=case.keys, base_url="http://127.0.0.1:1")
    data = json.loads(case.accepted.body)["data"]
    for odd in (data, {"data": data, "error_code": {"a": 1}}, {"data": {**data, "error_code": 7}}):
        body = json.dumps(odd).encode()
        assert _outcome(made, 200, case.accepted.headers, body, plain) is Outcome.UNKNOWN


def _put(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copy


def _outcome(made: HttpVendor, status: int, headers: Any, body: bytes, email: Email) -> Outcome:
    return made.parse(Response(RawResponse(status, headers, body)), email).outcome


@pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])
def test_a_yes_without_what_it_stands_on_is_none(case: Case, vendor: Vendors, plain: Email) -> None:
    made, reply = vendor(case.type, keys=case.keys, base_url="http://127.0.0.1:1"), case.accepted
    if case.told_by_status:
        return
    document = json.loads(reply.body) if reply.body else {}
    bodies = [json.dumps(odd) for odd in (*NOTHING, True, 7, "x")]
    for path in VITAL.get(case.type, ()):
        odd = (*NOTHING, "@") if path[-1] == "success" else (*NOTHING, True, "@")
        bodies += [json.dumps(_put(document, path, value)) for value in odd]
    for body in bodies:
        text = body.replace('"@"', DEEP).encode()
        headers = {} if case.type == "mailersend" else reply.headers
        outcome = _outcome(made, reply.status, headers, text, plain)
        assert outcome is not Outcome.ACCEPTED, body


@pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])
def test_an_answer_that_is_nested_too_deeply_anywhere_is_still_a_result(
    case: Case, vendor: Vendors, plain: Email
) -> None:
    made = vendor(case.type, keys=case.keys, base_url="http://127.0.0.1:1")
    for reply in (case.accepted, *(row.reply for row in case.rows)):
        if not reply.body.startswith((b"{", b"[")):
            continue
        for odd in _deepened(json.loads(reply.body)):
            body = json.dumps(odd).replace('"@"', DEEP).encode()
            answer = Response(RawResponse(reply.status, reply.headers, body))
            assert isinstance(sanitize(made.parse(answer, plain), plain, made), SendResult)


def _deepened(value: Any) -> Iterator[Any]:
    """The value with each of its parts, one after the other, nested without reason."""
    yield "@"
    if isinstance(value, dict):
        for key, part in value.items():
            yield from ({**value, key: odd} for odd in _deepened(part))
    elif isinstance(value, list):
        for n, part in enumerate(value):
            yield from ([*value[:n], odd, *value[n + 1 :]] for odd in _deepened(part))
            yield [*value, "@"]
