"""Damaged documents without a server: what is read of them, and what is shown of them."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from mailqueue.cli import emails
from mailqueue.cli.table import table
from mailqueue.consumer.planner import set_aside
from mailqueue.errors import Unreadable
from mailqueue.lifecycle.outcomes import Snapshot, Status
from mailqueue.producer.status import EmailStatus, status_of
from mailqueue.store import audit, document
from mailqueue.store.document import SIMULATED, Stored
from mailqueue.store.interventions import Verb, refusal
from tests.damage import Document, damaged
from tests.for_each import for_each

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LINE = {
    "n": 1,
    "token": 1,
    "vendor": "first",
    "key": None,
    "probe": False,
    "started_at": NOW,
    "ended_at": NOW,
    "outcome": "unknown",
    "code": "timeout",
    "detail": "x",
    "message_id": "m",
    "answered": False,
    "refused": ["a@example.org"],
    "pending": [],
}
FILE = {"filename": "a.txt", "content": b"a", "content_type": "text/plain", "content_id": "c"}
MAIL = {
    "from": "ann@example.com",
    "to": ["bob@example.org"],
    "cc": ["cc@example.org"],
    "subject": "Hi",
    "text": "Hello",
    "html": "<p>Hello</p>",
    "headers": {"X-A": "b"},
    "tags": ["t"],
    "metadata": {"m": "v"},
    "vendor_options": {"first": {"o": 1}},
    "attachments": [FILE],
    "alternatives": [{"content": b"BEGIN:VCALENDAR", "content_type": "text/calendar"}],
}


def sound(status: Status) -> Document:
    """One with whatever a document may have."""
    email_id = ObjectId()
    made = document.new(
        MAIL,
        email_id=email_id,
        message_id="<m@example.com>",
        env=SIMULATED,
        content_hash="h",
        priority=65_536,
        now=NOW,
    )
    until = NOW + timedelta(seconds=60)
    entry = {"n": 1, "verb": "retry", "was": "uncertain", "token": 1, "at": NOW, "nonce": email_id}
    return made | {
        "status": status.value,
        "reason": "unknown",
        "lease": {"token": 1, "owner": "o", "nonce": email_id, "until": until},
        "attempts": [LINE],
        "round": {"n": 1, "tried": ["a"], "refused": ["b"]},
        "pin": {"vendor": "first", "key": "k", "until": until, "repeats": 0},
        "pending": ["bob@example.org"],
        "refused": ["cc@example.org"],
        "due_at": NOW,
        "expires_at": until,
        "late_accept": {"vendor": "v", "message_id": "m", "refused": [], "token": 1, "at": NOW},
        "announced": {"at": NOW, "n": 1},
        "interventions": [entry],
        "vendor": "first",
        "vendor_message_id": "m",
        "sent_at": NOW,
        "simulated": True,
        "now": NOW,
    }


LESS_IS_SHOWN = ("email", "attempts", "late_accept", "pending", "refused", "idempotency_key")
SENDING = list(damaged(sound(Status.SENDING), few=True))
ALL = [*damaged(sound(Status.QUEUED), few=True), *SENDING]
READ: list[Callable[[Stored], Any]] = [
    lambda stored: stored.env,
    lambda stored: stored.status,
    lambda stored: stored.token,
    lambda stored: stored.due_in,
    lambda stored: stored.expires_in,
    lambda stored: stored.leased_for,
    lambda stored: stored.email,
    lambda stored: stored.line_to_look_up,
    lambda stored: stored.key_age("first", "k"),
    lambda stored: stored.snapshot(),
    lambda stored: stored.open_line,
]


@for_each("number", range(len(READ)))
def test_what_is_asked_of_a_damaged_document_is_unreadable_or_right(number: int) -> None:
    for _, damage in ALL:
        with contextlib.suppress(Unreadable):
            READ[number](Stored(damage, NOW))


@for_each(
    "form", [{"content": 5, "content_type": "text/x"}, {"content": b"", "content_type": 7}, 1, {}]
)
def test_an_email_with_a_damaged_alternative_is_unreadable(form: object) -> None:
    """Else every vendor fails when it is asked whether it can carry it, again and again."""
    email = MAIL | {"alternatives": [form]}
    with pytest.raises(Unreadable):
        _ = Stored(sound(Status.QUEUED) | {"email": email}, NOW).email


def test_what_a_decision_is_told_of_a_document_has_its_types() -> None:
    for said, damage in ALL:
        try:
            record: Snapshot = Stored(damage, NOW).snapshot()
        except Unreadable:
            continue
        hash(record)
        for name in ("priority", "counted", "unknowns"):
            assert type(getattr(record, name)) is int, said
        for people in (record.pending or (), record.refused, record.round.tried):
            assert all(type(person) is str for person in people), said


def test_every_damaged_document_has_a_job_and_an_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "mailqueue")  # it takes its time
    for said, damage in ALL:
        stored = Stored(damage, NOW)
        assert 0 <= stored.job_priority < 1 << 32, said
        assert set_aside(stored, Unreadable()).id == stored.id


def test_an_application_is_shown_every_damaged_document() -> None:
    for said, damage in ALL:
        seen = status_of(damage)
        assert isinstance(seen, EmailStatus)
        assert isinstance(seen.status, Status), said
        assert isinstance(seen.created_at, datetime), said
        known = damage.get("status") in list(Status)
        assert known or (seen.status, seen.reason) == (Status.UNCERTAIN, "unreadable"), said


def test_a_person_is_shown_every_damaged_document_and_that_it_is_illegal() -> None:
    for said, damage in SENDING:
        stored = Stored(damage, NOW)
        table([""] * 8, [emails._cells(stored)])
        # The field that is damaged; no other one has a part in its lines.
        field = re.split(r"\W", said)[0]
        alone = {name: value for name, value in damage.items() if name in ("_id", field)}
        emails._document_lines(alone, 80)
        if field in LESS_IS_SHOWN:
            emails._document_lines(emails._without_content(alone), None)
        assert refusal(Verb.RETRY, stored), said
        audit.problems(stored)
    broken = [said for said, damage in ALL if said.startswith(("lease is", "attempts is"))]
    legal = [
        said for said, damage in ALL if said in broken and not audit.problems(Stored(damage, NOW))
    ]
    assert not legal
