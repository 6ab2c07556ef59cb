"""From what is handed in to the documents that are stored: all of a call's, or none."""

from __future__ import annotations

from typing import Any

import pytest

from mailqueue.config import Config
from mailqueue.document import PRODUCTION
from mailqueue.errors import InvalidEmail
from mailqueue.intake import PAGE, Intake, Terms
from mailqueue.message import Email

MAIL: dict[str, Any] = {
    "from": "ann@example.com",
    "to": ["bob@example.org"],
    "subject": "Hello",
    "text": "Hello Bob",
}
MOST = 1000


@pytest.fixture
def intake() -> Intake:
    vendors = [{"name": "a", "type": "resend", "api_key": "x"}]
    return Intake(
        Config.from_mapping({"vendors": vendors, "limits": {"max_size": MOST}}), PRODUCTION
    )


def mail_of(size: int) -> dict[str, Any]:
    """An e-mail of so many bytes in MongoDB."""
    return MAIL | {"text": "x" * (size - Email.from_mapping(MAIL | {"text": ""}).size())}


def test_the_size_limit_is_kept_to_the_byte(intake: Intake) -> None:
    fits, too_large = mail_of(MOST), mail_of(MOST + 1)
    assert intake.document(intake.read(fits, Terms(), None))
    with pytest.raises(InvalidEmail, match=r"1001 bytes .* limits\.max_size \(1000\)") as caught:
        intake.document(intake.read(too_large, Terms(), None))
    assert (caught.value.field, caught.value.index) == ("email", None)


def test_of_emails_made_together_each_gets_its_document_or_its_refusal(intake: Intake) -> None:
    nobody_takes = MAIL | {"subject": ""}
    given = [MAIL, mail_of(MOST + 1), nobody_takes, MAIL]
    drafts = [intake.read(one, Terms(), None) for one in given]
    first, large, uncarried, last = intake.documents(drafts)
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert [first["_id"], last["_id"]] == [drafts[0].id, drafts[3].id]
    assert first["content_hash"] == drafts[0].email.content_hash()
    assert isinstance(large, InvalidEmail)
    assert large.problem.startswith("1001 bytes")
    assert isinstance(uncarried, InvalidEmail)
    assert "no subject" in uncarried.problem


@pytest.mark.parametrize("bad", [{"to": []}, mail_of(MOST + 1)])
def test_the_position_of_a_refused_email_is_told_on_whatever_page(
    intake: Intake, bad: dict[str, Any]
) -> None:
    with pytest.raises(InvalidEmail) as caught:
        intake.all_good(intake.read_all([*[MAIL] * PAGE, MAIL, MAIL | bad], Terms(), None))
    assert caught.value.index == PAGE + 1


def test_many_emails_keep_their_order_over_pages(intake: Intake) -> None:
    subjects = [str(n) for n in range(2 * PAGE + 1)]
    drafts = intake.read_all([MAIL | {"subject": s} for s in subjects], Terms(), None)
    assert [made["email"]["subject"] for made in intake.all_good(drafts)] == subjects
