"""Two workers at one e-mail, step by step: what each guard of the store keeps from happening."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import Decision, Outcome, SendResult, Status
from mailqueue.store import document
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.store import Store
from mailqueue.store.transitions import Change, Claim, Lease
from tests.stage import letter

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = 10.0
YES = SendResult(outcome=Outcome.ACCEPTED, code="202", message_id="at-the-vendor")
NO = SendResult(outcome=Outcome.REJECTED, code="550")
DOWN = SendResult(outcome=Outcome.UNAVAILABLE, code="503")
EXPIRED = SendResult(outcome=Outcome.UNKNOWN, code="lease_expired", answered=False, our_fault=True)
QUEUED = Decision(status=Status.QUEUED, priority=512)
FAILED = Decision(status=Status.FAILED, priority=512, reason="rejected")


class Desk:
    """One e-mail in the store, and the steps that workers take at it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.id = ObjectId()

    def stored(self, **options: Any) -> None:
        made = document.new(
            letter(1),
            email_id=self.id,
            message_id=f"<{self.id}@example.com>",
            content_hash="",
            priority=65_536,
            now=NOW,
            **{"env": PRODUCTION, **options},
        )
        self.store.insert([made])

    def claim(self, token: int, nonce: ObjectId, lease: float = 60) -> bool:
        intent = Claim(id=self.id, token=token, vendor="first", key="its key")
        taken = Lease(owner="me", nonce=nonce, seconds=lease)
        _, won = self.store.write([], [intent], lease=taken)
        return self.id in won

    def change(self, token: int, result: SendResult, decision: Decision, **options: Any) -> bool:
        change = Change(id=self.id, token=token, result=result, decision=decision, **options)
        written, _ = self.store.write([change], seconds=SECONDS)
        return self.id in written

    def claimed_and_lost(self, nonce: ObjectId) -> None:
        """One worker's lease ran out, and another has the e-mail."""
        self.stored()
        assert self.claim(0, nonce, lease=-1)
        assert self.change(1, EXPIRED, QUEUED, expired=True)
        assert self.claim(1, ObjectId())

    @property
    def now(self) -> dict[str, Any]:
        found = self.store.emails.find_one({"_id": self.id})
        assert found is not None
        return found


@pytest.fixture
def desk(config: Config) -> Iterator[Desk]:
    store = Store(config.mongodb, env=PRODUCTION)
    yield Desk(store)
    store.close()


def test_the_claim_writes_the_intent_down(desk: Desk) -> None:
    desk.stored()
    assert desk.claim(0, ObjectId())
    (line,) = desk.now["attempts"]
    assert (line["token"], line["vendor"], line["key"]) == (1, "first", "its key")
    assert line["outcome"] is None


def test_of_two_claims_of_one_email_one_is_won(desk: Desk) -> None:
    desk.stored()
    assert [desk.claim(0, ObjectId()), desk.claim(0, ObjectId())] == [True, False]
    assert len(desk.now["attempts"]) == 1


def test_a_claim_of_what_was_read_before_others_tried_is_not_won(desk: Desk) -> None:
    """Else a token would be used twice, and a vendor be asked that has refused since."""
    desk.claimed_and_lost(ObjectId())
    assert desk.change(2, DOWN, QUEUED)
    assert not desk.claim(0, ObjectId())
    assert desk.now["lease"]["token"] == 2


def test_a_claim_whose_reply_was_lost_is_known_by_its_nonce(desk: Desk) -> None:
    desk.stored()
    nonce = ObjectId()
    assert [desk.claim(0, nonce), desk.claim(0, nonce)] == [True, True]
    assert len(desk.now["attempts"]) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"env": SIMULATED},
        {"send_at": datetime.now(UTC) + timedelta(days=1)},
        {"expires_at": datetime.now(UTC) - timedelta(days=1)},
    ],
    ids=["other environment", "not due", "expired"],
)
def test_what_must_not_be_sent_now_cannot_be_claimed(options: Any, desk: Desk) -> None:
    desk.stored(**options)
    assert not desk.claim(0, ObjectId())
    assert desk.now["status"] == "queued"


def test_who_lost_its_lease_settles_nothing(desk: Desk) -> None:
    nonce = ObjectId()
    desk.claimed_and_lost(nonce)
    assert not desk.change(1, NO, FAILED, nonce=nonce)
    assert desk.now["status"] == "sending"
    assert desk.now["lease"]["token"] == 2


def test_a_decision_about_an_email_that_was_claimed_since_changes_nothing(desk: Desk) -> None:
    nonce = ObjectId()
    desk.claimed_and_lost(nonce)
    assert desk.change(2, DOWN, QUEUED)
    assert not desk.change(1, NO, FAILED, sending=False)
    assert desk.now["status"] == "queued"


def test_a_lease_that_holds_is_not_rescued(desk: Desk) -> None:
    desk.stored()
    assert desk.claim(0, ObjectId())
    assert not desk.change(1, EXPIRED, QUEUED, expired=True)
    assert desk.now["status"] == "sending"


def test_a_yes_that_came_late_wins_over_what_the_next_worker_settles(desk: Desk) -> None:
    desk.claimed_and_lost(ObjectId())
    desk.store.record_late_yes(desk.id, 1, "first", YES, SECONDS)
    assert desk.now["status"] == "sending"
    assert desk.change(2, DOWN, QUEUED)
    assert desk.now["status"] == "sent"
    assert [line["outcome"] for line in desk.now["attempts"]] == ["accepted", "unavailable"]


LATER = datetime(2100, 1, 1, tzinfo=UTC)


def test_what_a_worker_decides_about_an_email_at_its_old_time_is_not_written(desk: Desk) -> None:
    """Nobody could be asked, so it would wait a minute: less than until its new time."""
    desk.stored()
    assert desk.store.reschedule(desk.id, LATER)
    a_minute = Decision(status=Status.QUEUED, priority=512, delay=60)
    assert not desk.change(0, DOWN, a_minute, sending=False)
    assert desk.now["due_at"] == LATER


def test_an_email_that_was_rescheduled_is_claimed_by_nobody_who_read_it_before(desk: Desk) -> None:
    desk.stored()
    assert desk.store.reschedule(desk.id, NOW)
    assert not desk.claim(0, ObjectId())
    assert desk.claim(1, ObjectId())


def test_an_email_that_is_being_sent_is_not_rescheduled(desk: Desk) -> None:
    desk.stored()
    assert desk.claim(0, ObjectId())
    assert not desk.store.reschedule(desk.id, LATER)
    assert desk.now["due_at"] is None


def test_an_email_that_was_tried_is_not_rescheduled(desk: Desk) -> None:
    desk.claimed_and_lost(ObjectId())
    assert desk.change(2, DOWN, QUEUED)
    assert not desk.store.reschedule(desk.id, LATER)


def test_an_email_is_not_rescheduled_beyond_its_expiry(desk: Desk) -> None:
    desk.stored(expires_at=datetime(2099, 1, 1, tzinfo=UTC))
    assert not desk.store.reschedule(desk.id, LATER)
    assert not desk.store.reschedule(desk.id, datetime(2099, 1, 1, tzinfo=UTC))
    assert desk.store.reschedule(desk.id, datetime(2098, 1, 1, tzinfo=UTC))


def test_an_email_whose_token_is_damaged_is_not_rescheduled(desk: Desk) -> None:
    desk.stored()
    desk.store.emails.update_one({"_id": desk.id}, {"$set": {"lease.token": "one"}})
    assert not desk.store.reschedule(desk.id, LATER)
