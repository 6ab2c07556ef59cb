"""No vendor's answer, however odd its JSON, makes an adapter stumble."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mailqueue.message import Email
from mailqueue.record import SendResult
from mailqueue.vendors.base import discreet
from mailqueue.vendors.http import Answer, HttpVendor
from mailqueue.vendors.transport import RawAnswer
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
    for reply in (case.accepted, *(row.reply for row in case.rows)):
        try:
            document = json.loads(reply.body)
        except ValueError:
            continue
        for odd in _twisted(document):
            yield Reply(reply.status, reply.headers, json.dumps(odd).encode())


@pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])
def test_an_answer_with_any_part_missing_or_of_another_kind_is_still_a_result(
    case: Case, vendor: Vendors, plain: Email
) -> None:
    made = vendor(case.type, keys=case.keys, base_url="http://127.0.0.1:1")
    assert isinstance(made, HttpVendor)
    for reply in _replies(case):
        answer = Answer(RawAnswer(reply.status, reply.headers, reply.body))
        result = discreet(made.parse(answer, plain), plain, made.secrets)
        assert isinstance(result, SendResult)
        assert isinstance(result.message_id, str | None)
