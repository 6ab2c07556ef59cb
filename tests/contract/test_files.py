"""Files with a type that has parameters: what each vendor is told of it."""

from __future__ import annotations

import pytest

from mailqueue.message import Attachment, Email
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HttpServer

INVITE = 'text/calendar; method=REQUEST; charset="utf-8"'
FILE = Attachment("invite.ics", b"BEGIN", INVITE)

BARE = {"sendgrid", "mailjet"}  # the one refuses parameters, the other adds its own
BY_NAME = {"brevo", "mailersend"}
PASSED_ON = [case for case in CASES if case.type not in BARE | BY_NAME | {"ses"}]  # ses: as SMTP


def _told(case: Case, vendor: Vendors, attempt: Attempts) -> str:
    email = Email(
        from_="Ann <ann@example.org>",
        to=["bob@example.net"],
        subject="An invitation",
        text="Please come and see.",
        html="<p>Please come and see.</p>",
        attachments=[FILE],
    )
    with HttpServer(case.accepted) as server:
        made = vendor(case.type, base_url=server.url, keys=case.keys)
        assert made.can_carry(email) is None
        made.send(email, attempt())
    ((_, kind, content),) = case.parse(server.requests[0]).attachments
    assert content == b"BEGIN"
    return kind


@pytest.mark.parametrize("type_", sorted(BARE))
def test_a_vendor_that_refuses_parameters_is_told_the_bare_type(
    type_: str, vendor: Vendors, attempt: Attempts
) -> None:
    (case,) = (case for case in CASES if case.type == type_)
    assert _told(case, vendor, attempt) == "text/calendar"


@pytest.mark.parametrize("case", PASSED_ON, ids=[case.type for case in PASSED_ON])
def test_the_others_are_told_the_whole_type(case: Case, vendor: Vendors, attempt: Attempts) -> None:
    assert _told(case, vendor, attempt).replace('"', "") == INVITE.replace('"', "")
