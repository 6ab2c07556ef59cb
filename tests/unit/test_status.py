"""What an application is told about an e-mail."""

from __future__ import annotations

from datetime import UTC, datetime

from bson import ObjectId

from mailqueue.lifecycle.outcomes import Status
from mailqueue.producer.status import status_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NEW = {
    "_id": ObjectId("65f0a1b2c3d4e5f6a7b8c9d0"),
    "status": "queued",
    "created_at": NOW,
    "message_id": "<m@example.com>",
    "unknowns": 0,
    "attempts": [],
}


def test_a_new_email_has_no_end_yet() -> None:
    seen = status_of(NEW)
    assert (seen.id, seen.status) == ("65f0a1b2c3d4e5f6a7b8c9d0", Status.QUEUED)
    assert (seen.reason, seen.sent_at, seen.vendor, seen.due_at) == (None, None, None, None)
    assert (seen.refused, seen.attempts, seen.simulated) == ((), (), False)


def test_a_sent_email_shows_its_ledger() -> None:
    lines = [
        {"vendor": "first", "started_at": NOW, "ended_at": NOW, "outcome": "unavailable"}
        | {"code": "503", "detail": "down"},
        {"vendor": "second", "started_at": NOW, "ended_at": None, "outcome": None},
    ]
    end = {"status": "sent", "sent_at": NOW, "vendor": "second", "vendor_message_id": "x"}
    seen = status_of({**NEW, **end, "attempts": lines, "refused": ["a@b"], "simulated": True})
    assert (seen.vendor, seen.vendor_message_id, seen.sent_at) == ("second", "x", NOW)
    assert [(a.vendor, a.outcome, a.code, a.detail) for a in seen.attempts] == [
        ("first", "unavailable", "503", "down"),
        ("second", None, "", ""),
    ]
    assert (seen.refused, seen.simulated) == (("a@b",), True)
