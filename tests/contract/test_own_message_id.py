"""An application's own Message-ID goes out as that of the attempt, and in no other place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailqueue.message import Email
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import Attempts, Vendors

OWN = "<order-4711@app.example>"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.type)
def test_a_request_is_the_same_whoever_made_the_message_id(
    case: Case, vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    made = vendor(case.type, base_url="http://127.0.0.1:1", keys=case.keys)
    plain = replace(plain, html="<p>Hello</p>")
    own = replace(plain, message_id=OWN)
    assert made.can_carry(own) is None
    bodies = {made.build(e, attempt(message_id=OWN)).body for e in (own, plain)}
    assert len(bodies) == 1
