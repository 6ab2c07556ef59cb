"""From what is handed in to the documents that are stored: all of a call's, or none."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from enum import Enum
from typing import Any

import pytest

from mailqueue.config import Config
from mailqueue.errors import InvalidEmail
from mailqueue.message import Email, EmailDict
from mailqueue.message.message import content_hash, size
from mailqueue.producer.submission import (
    LATEST,
    Refused,
    SendOptions,
    Submission,
    merge_keys,
    prepare,
    read_all,
)
from mailqueue.store.document import PRODUCTION
from tests.for_each import for_each

MAIL: EmailDict = {
    "from": "ann@example.com",
    "to": ["bob@example.org"],
    "subject": "Hello",
    "text": "Hello Bob",
}
MAX_SIZE = 1000
CONFIG = Config.from_mapping(
    {
        "vendors": [{"name": "a", "type": "resend", "api_key": "x"}],
        "limits": {"max_size": MAX_SIZE},
    }
)
MORE_THAN_A_STEP = 201


def mail_of(number: int) -> EmailDict:
    """An e-mail of so many bytes in MongoDB."""
    empty = size(Email.from_mapping(MAIL | {"text": ""}).to_mapping())
    return MAIL | {"text": "x" * (number - empty)}


def submission(mail: EmailDict, options: SendOptions | None = None) -> Submission:
    return Submission.of(mail, options or SendOptions(), None)


def first_error(mails: list[EmailDict]) -> InvalidEmail:
    """Of e-mails one of which is refused."""
    try:
        (refused,) = prepared(*read_all(mails, SendOptions(), None)).values()
    except InvalidEmail as error:
        return error
    return refused.error


def prepared(*submissions: Submission) -> dict[Submission, Refused]:
    return prepare(submissions, CONFIG, PRODUCTION)


def test_the_size_limit_is_kept_to_the_byte() -> None:
    fits, too_large = submission(mail_of(MAX_SIZE)), submission(mail_of(MAX_SIZE + 1))
    refusals = prepared(fits, too_large)
    assert list(refusals) == [too_large]
    error = refusals[too_large].error
    assert str(error) == "email: 1001 bytes are more than limits.max_size (1000)"
    assert (error.field, error.index) == ("email", None)
    assert fits.document
    assert not too_large.document


def test_of_emails_prepared_together_each_gets_its_document_or_its_refusal() -> None:
    nobody_takes = MAIL | {"subject": ""}
    mails = [MAIL, mail_of(MAX_SIZE + 1), nobody_takes, MAIL]
    first, large, unsuitable, last = submissions = [submission(mail) for mail in mails]
    refusals = prepared(*submissions)
    assert list(refusals) == [large, unsuitable]
    assert [first.document["_id"], last.document["_id"]] == [first.id, last.id]
    assert first.document["content_hash"] == content_hash(first.email.to_mapping())
    assert refusals[large].error.problem.startswith("1001 bytes")
    assert "no subject" in refusals[unsuitable].error.problem


def test_a_document_is_made_once_so_that_a_repeated_write_stores_the_same() -> None:
    one = submission(MAIL)
    prepared(one)
    document = one.document
    assert prepared(one) == {}
    assert one.document is document


@for_each("bad", [{"to": []}, mail_of(MAX_SIZE + 1)])
def test_the_position_of_a_refused_email_is_told_however_many_there_are(bad: EmailDict) -> None:
    mails = [*[MAIL] * MORE_THAN_A_STEP, MAIL | bad]
    assert first_error(mails).index == MORE_THAN_A_STEP


def test_many_emails_keep_their_order() -> None:
    mails = [MAIL | {"subject": str(n)} for n in range(MORE_THAN_A_STEP)]
    submissions = read_all(mails, SendOptions(), None)
    prepared(*submissions)
    subjects = [each.document["email"]["subject"] for each in submissions]
    assert subjects == [mail["subject"] for mail in mails]


def test_the_same_key_twice_is_the_first_email_and_with_other_content_names_the_second() -> None:
    mails = [MAIL, MAIL, MAIL, MAIL | {"text": "Other"}]
    submissions = read_all(mails, SendOptions(), ["a", None, "a", "a"])
    prepared(*submissions)
    first, without, *_ = submissions
    assert merge_keys(submissions[:3]) == [first, without, first]
    with pytest.raises(InvalidEmail, match="was given to two e-mails") as caught:
        merge_keys(submissions)
    assert (caught.value.field, caught.value.index) == ("idempotency_key", 3)


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


@for_each("field", ["send_at", "expires_at"])
@for_each("value", NO_TIMES)
def test_what_is_no_moment_is_refused_at_the_door(field: str, value: Any) -> None:
    with pytest.raises(InvalidEmail) as caught:
        SendOptions(**{field: value})
    assert (caught.value.field, caught.value.index) == (field, None)


@for_each(
    "value", [LATEST - timedelta(milliseconds=1), datetime(9999, 12, 30, tzinfo=WEST), DAY.min]
)
def test_a_moment_near_the_ends_of_time_makes_a_document(value: datetime) -> None:
    at = value if value.tzinfo else value.replace(tzinfo=UTC)
    one = submission(MAIL, SendOptions(send_at=at))
    prepared(one)
    assert one.document["due_at"] == at.astimezone(UTC)
    assert one.document["overdue_at"] > one.document["due_at"]


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
    urgent = SendOptions(Urgency.HIGH)  # type: ignore[arg-type]  # an application may
    assert urgent.priority == "high"
    assert type(urgent.priority) is str
    for wrong in (Loud(), ["high"], None, 2048, "High"):
        with pytest.raises(InvalidEmail, match="priority"):
            SendOptions(wrong)  # type: ignore[arg-type]  # on purpose


def test_a_number_in_metadata_has_an_end() -> None:
    assert Email.of(MAIL | {"metadata": {"n": 2**64}}).metadata == {"n": str(2**64)}
    with pytest.raises(InvalidEmail, match=r"metadata\.n: is too large a number"):
        Email.of(MAIL | {"metadata": {"n": 10**5000}})


def test_an_own_message_id_is_the_one_of_the_document() -> None:
    own = MAIL | {"headers": {"Message-Id": "<app.1@example.net>", "X-A": "1"}}
    first, second = submission(own), submission(MAIL)
    prepared(first, second)
    assert first.document["message_id"] == "<app.1@example.net>"
    assert second.document["message_id"] == f"<{second.id}@example.com>"
    assert Email.from_document(first.document["email"]).headers == {"X-A": "1"}
