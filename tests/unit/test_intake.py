"""From what is handed in to the documents that are stored: all of a call's, or none."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from enum import Enum
from typing import Any

import pytest

from mailqueue.config import Config
from mailqueue.errors import InvalidEmail
from mailqueue.message import Email, EmailDict
from mailqueue.producer.submission import LATEST, PAGE, Intake, SendOptions
from mailqueue.store.document import PRODUCTION

MAIL: EmailDict = {
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


def mail_of(size: int) -> EmailDict:
    """An e-mail of so many bytes in MongoDB."""
    return MAIL | {"text": "x" * (size - Email.from_mapping(MAIL | {"text": ""}).size())}


def test_the_size_limit_is_kept_to_the_byte(intake: Intake) -> None:
    fits, too_large = mail_of(MOST), mail_of(MOST + 1)
    assert intake.document(intake.read(fits, SendOptions(), None))
    with pytest.raises(InvalidEmail, match=r"1001 bytes .* limits\.max_size \(1000\)") as caught:
        intake.document(intake.read(too_large, SendOptions(), None))
    assert (caught.value.field, caught.value.index) == ("email", None)


def test_of_emails_made_together_each_gets_its_document_or_its_refusal(intake: Intake) -> None:
    nobody_takes = MAIL | {"subject": ""}
    given = [MAIL, mail_of(MOST + 1), nobody_takes, MAIL]
    drafts = [intake.read(one, SendOptions(), None) for one in given]
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
    intake: Intake, bad: EmailDict
) -> None:
    with pytest.raises(InvalidEmail) as caught:
        intake.all_good(intake.read_all([*[MAIL] * PAGE, MAIL, MAIL | bad], SendOptions(), None))
    assert caught.value.index == PAGE + 1


def test_many_emails_keep_their_order_over_pages(intake: Intake) -> None:
    subjects = [str(n) for n in range(2 * PAGE + 1)]
    drafts = intake.read_all([MAIL | {"subject": s} for s in subjects], SendOptions(), None)
    assert [made["email"]["subject"] for made in intake.all_good(drafts)] == subjects


# The schedule -----------------------------------------------------------------------------------


class Offset(tzinfo):
    """A time zone of somebody's own."""

    def __init__(self, offset: Any) -> None:
        self.offset = offset

    def utcoffset(self, when: datetime | None) -> Any:
        if isinstance(self.offset, Exception):
            raise self.offset
        return self.offset

    def dst(self, when: datetime | None) -> None: ...

    def tzname(self, when: datetime | None) -> None: ...


DAY = datetime(2030, 1, 1)  # noqa: DTZ001  # a zone is added
WEST, EAST = timezone(timedelta(hours=-5)), timezone(timedelta(hours=5))
NO_TIMES: list[Any] = [
    *("2030-01-01", "", b"2030", True, 0, 1893456000.0, float("nan"), [], object()),
    *(DAY, date(2030, 1, 1), time(12, tzinfo=UTC), timedelta(days=1)),
    *(DAY.replace(tzinfo=Offset(offset)) for offset in (None, "+01:00", timedelta(days=2))),
    *(DAY.replace(tzinfo=Offset(error)) for error in (KeyError("x"), RuntimeError("x"))),
    DAY.replace(tzinfo=tzinfo()),  # type: ignore[abstract]  # on purpose
    *(datetime.max.replace(tzinfo=zone) for zone in (UTC, WEST, EAST)),
    datetime.min.replace(tzinfo=EAST),
    LATEST,
]


@pytest.mark.parametrize("field", ["send_at", "expires_at"])
@pytest.mark.parametrize("value", NO_TIMES, ids=lambda value: type(value).__name__)
def test_what_is_no_moment_is_refused_at_the_door(field: str, value: Any) -> None:
    with pytest.raises(InvalidEmail) as caught:
        SendOptions(**{field: value})
    assert (caught.value.field, caught.value.index) == (field, None)


@pytest.mark.parametrize(
    "value", [LATEST - timedelta(milliseconds=1), datetime(9999, 12, 30, tzinfo=WEST), DAY.min]
)
def test_a_moment_near_the_ends_of_time_makes_a_document(intake: Intake, value: datetime) -> None:
    at = value if value.tzinfo else value.replace(tzinfo=UTC)
    made = intake.document(intake.read(MAIL, SendOptions(send_at=at), None))
    assert made["due_at"] == at.astimezone(UTC)
    assert made["overdue_at"] > made["due_at"]


class Moment(datetime):
    """As several libraries have one."""


def test_a_moment_is_kept_in_utc_as_mongodb_keeps_it() -> None:
    terms = SendOptions(send_at=Moment(2030, 1, 1, 12, 0, 0, 123456, WEST))
    assert type(terms.send_at) is datetime
    assert terms.send_at == datetime(2030, 1, 1, 17, 0, 0, 123000, UTC)
    assert terms.send_at.tzinfo is UTC


def test_an_expiry_in_the_same_millisecond_is_not_later() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidEmail, match="expires_at: must be later"):
        SendOptions(send_at=at, expires_at=at + timedelta(microseconds=999))


class Urgency(str, Enum):  # noqa: UP042  # its str() is not its value
    """As an application may write it down."""

    HIGH = "high"


class Loud:
    def __str__(self) -> str:
        return "high"


def test_a_priority_is_text() -> None:
    assert SendOptions(Urgency.HIGH).priority == "high"
    assert type(SendOptions(Urgency.HIGH).priority) is str
    for wrong in (Loud(), ["high"], None, 2048, "High"):
        with pytest.raises(InvalidEmail, match="priority"):
            SendOptions(wrong)  # type: ignore[arg-type]  # on purpose


def test_a_number_in_metadata_has_an_end(intake: Intake) -> None:
    kept = intake.read(MAIL | {"metadata": {"n": 2**64}}, SendOptions(), None)
    assert kept.email.metadata == {"n": str(2**64)}
    with pytest.raises(InvalidEmail, match=r"metadata\.n: is too large a number"):
        intake.read(MAIL | {"metadata": {"n": 10**5000}}, SendOptions(), None)


def test_an_own_message_id_is_the_one_of_the_document(intake: Intake) -> None:
    own = MAIL | {"headers": {"Message-Id": "<app.1@example.net>", "X-A": "1"}}
    first, second = intake.documents([intake.read(one, SendOptions(), None) for one in (own, MAIL)])
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["message_id"] == "<app.1@example.net>"
    assert second["message_id"] == f"<{second['_id']}@example.com>"
    assert Email.from_document(first["email"]).headers == {"X-A": "1"}
