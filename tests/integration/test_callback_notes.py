"""The callbacks that the writes of an e-mail note: which, once each, and none where nobody asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from bson import ObjectId

from mailqueue.config import Callbacks, Config
from mailqueue.lifecycle.outcomes import Decision, Outcome, SendResult, Status
from mailqueue.store import callbacks, deliveries, document
from mailqueue.store.callbacks import Settlement
from mailqueue.store.document import SIMULATED
from mailqueue.store.interventions import Verb
from mailqueue.store.store import Store
from mailqueue.store.transitions import Change, Claim, Lease
from tests.every_write import situations, writes
from tests.stage import letter

YES = SendResult(outcome=Outcome.ACCEPTED, code="202", message_id="at-the-vendor")
NO = SendResult(outcome=Outcome.REJECTED, code="550")
URL = "https://hooks.example.com/mail"
ALL = Callbacks(url=URL)


class Desk:
    """One e-mail in the store, and the steps that workers take at it."""

    def __init__(self, store: Store) -> None:
        self.store, self.id, self.token = store, ObjectId(), 0

    def stored(self, callback_url: str | None = URL) -> None:
        made = document.new(
            letter(1),
            email_id=self.id,
            message_id=f"<{self.id}@example.com>",
            content_hash="",
            priority=65_536,
            now=self.store.now(),
            env=SIMULATED,
            callback_url=callback_url,
        )
        self.store.insert([made])

    def settled(self, status: Status, result: SendResult | None, times: int = 1) -> None:
        """Claimed, and settled so, with the same write ``times`` times."""
        lease = Lease(owner="me", nonce=(nonce := ObjectId()), seconds=60)
        self.store.write([], [Claim(id=self.id, token=self.token, vendor="ses")], lease=lease)
        self.token += 1
        reason = "rejected" if status is Status.FAILED else None
        change = Change(
            id=self.id,
            token=self.token,
            nonce=nonce,
            result=result,
            vendor="ses",
            decision=Decision(status=status, priority=512, reason=reason),
            has_callback="callback_url" in self.now,
        )
        for _ in range(times):
            self.store.write([change])

    def told(self, word: str) -> None:
        guard = deliveries.delivery_filter([self.id], "ses")
        update = deliveries.delivery_update(0, word, self.store.noting)
        self.store.bulk.write([(guard, update)], self.store.timeout)

    @property
    def now(self) -> dict[str, Any]:
        found = self.store.emails.find_one({"_id": self.id})
        assert found is not None
        return found

    @property
    def noted(self) -> list[str]:
        return [entry["type"] for entry in self.now.get("callbacks", [])]


@pytest.fixture
def desk(config: Config) -> Iterator[Desk]:
    store = Store(config.mongodb, env=SIMULATED)
    yield Desk(store)
    store.close()


@pytest.mark.parametrize(
    "status, result",
    [
        (Status.SENT, YES),
        (Status.FAILED, NO),
        (Status.UNCERTAIN, SendResult(outcome=Outcome.UNKNOWN)),
    ],
)
def test_an_end_is_noted_once_however_often_it_is_written(
    status: Status, result: SendResult, desk: Desk
) -> None:
    desk.stored()
    desk.settled(status, result, times=3)
    (entry,) = desk.now["callbacks"]
    assert (entry["type"], entry["state"]) == (f"email.{status}", "due")
    assert entry["id"] == f"msg_{desk.id}_{status}_0"
    assert entry["due_at"] == entry["at"] == desk.now["updated_at"]


def test_an_email_that_is_tried_again_is_nothing_to_tell(desk: Desk) -> None:
    desk.stored()
    desk.settled(Status.QUEUED, SendResult(outcome=Outcome.UNAVAILABLE, code="503"))
    assert "callbacks" not in desk.now


def test_what_nobody_asked_for_is_not_noted_and_not_computed(desk: Desk) -> None:
    desk.stored(callback_url=None)
    desk.settled(Status.SENT, YES)
    desk.told("delivered")
    assert "callbacks" not in desk.now
    change = Change(id=desk.id, token=1, decision=Decision(status=Status.SENT, priority=1))
    ((_, update),) = desk.store._change_writes([change])
    assert "callbacks" not in str(update)


def test_a_url_for_all_has_the_ends_of_all_noted(desk: Desk, config: Config) -> None:
    desk.store = Store(config.mongodb, env=SIMULATED, callbacks=ALL)
    desk.stored(callback_url=None)
    desk.settled(Status.SENT, YES)
    assert desk.noted == ["email.sent"]
    desk.store.close()


def test_types_that_are_not_configured_are_not_noted(desk: Desk, config: Config) -> None:
    only_failed = replace(ALL, types=("email.failed", "email.bounced"))
    desk.store = Store(config.mongodb, env=SIMULATED, callbacks=only_failed)
    desk.stored()
    desk.settled(Status.SENT, YES)
    desk.told("delivered")
    assert "callbacks" not in desk.now
    desk.told("bounced_hard")
    assert desk.noted == ["email.bounced"]
    desk.store.close()


def test_an_email_that_fails_twice_has_two_callbacks_with_two_ids(desk: Desk) -> None:
    desk.stored()
    desk.settled(Status.FAILED, NO)
    assert desk.store.intervene([desk.id], Verb.RETRY, ObjectId())
    assert desk.noted == ["email.failed"]
    desk.settled(Status.FAILED, NO)
    assert desk.noted == ["email.failed"] * 2
    assert len({entry["id"] for entry in desk.now["callbacks"]}) == 2


def test_a_late_yes_of_a_failed_email_is_told_too_and_an_extra_copy_is_not(desk: Desk) -> None:
    desk.stored()
    desk.settled(Status.FAILED, NO)
    for _ in range(2):
        desk.store.record_late_yes(desk.id, 1, "ses", YES, 5)
    assert desk.noted == ["email.failed", "email.sent"]


def test_an_extra_copy_of_one_that_was_sent_is_not_told(desk: Desk) -> None:
    desk.stored()
    desk.settled(Status.QUEUED, SendResult(outcome=Outcome.UNKNOWN))
    desk.settled(Status.SENT, YES)
    desk.store.record_late_yes(desk.id, 1, "ses", YES, 5)
    assert desk.now["attempts"][0]["extra_copy"] is True
    assert desk.noted == ["email.sent"]


@pytest.mark.parametrize(
    "verb, noted", [(Verb.MARK_SENT, ["email.failed", "email.sent"]), (Verb.CANCEL, [])]
)
def test_what_a_person_ends_is_noted_as_any_end(verb: Verb, noted: list[str], desk: Desk) -> None:
    desk.stored()
    if verb is Verb.MARK_SENT:
        desk.settled(Status.FAILED, NO)
    desk.store.intervene([desk.id], verb, ObjectId())
    assert desk.noted == (noted or ["email.cancelled"])


def test_an_application_that_cancels_hears_of_it(desk: Desk) -> None:
    desk.stored()
    assert desk.store.cancel(desk.id)
    assert desk.noted == ["email.cancelled"]


def test_all_recipients_suppressed_is_a_failure_and_told_as_suppressed_too(desk: Desk) -> None:
    desk.stored()
    decision = Decision(status=Status.FAILED, priority=512, reason="suppressed")
    change = Change(id=desk.id, token=0, decision=decision, sending=False, has_callback=True)
    desk.store.write([change])
    assert desk.noted == ["email.failed", "email.suppressed"]


def test_each_step_of_a_recipient_is_told_once_and_none_that_comes_too_late(desk: Desk) -> None:
    desk.stored()
    desk.settled(Status.SENT, YES)
    for word in ("delivered", "deferred", "delivered", "opened", "opened", "bounced_hard", "sent"):
        desk.told(word)
    assert desk.noted[1:] == ["email.delivered", "email.opened", "email.bounced"]
    assert {entry.get("recipient") for entry in desk.now["callbacks"][1:]} == {0}


def test_an_email_that_failed_here_and_at_the_vendor_has_two_callbacks(desk: Desk) -> None:
    desk.stored()
    desk.settled(Status.FAILED, NO)
    desk.told("failed")
    assert desk.noted == ["email.failed", "email.failed"]
    assert len({entry["id"] for entry in desk.now["callbacks"]}) == 2


def test_no_write_depends_on_the_list_of_callbacks_being_whole(desk: Desk) -> None:
    """Whatever stands there, an update does what it does without."""
    emails = desk.store.emails
    for before in situations(ObjectId()):
        for damage in ("text", {"id": 1}, [None, "x", {"id": None}, {}]):
            for guard, update in writes(before):
                emails.replace_one({"_id": before["_id"]}, before | {"callbacks": damage}, True)
                emails.update_many(guard, update)


def test_a_claim_takes_one_callback_that_is_due_and_only_its_nonce_settles_it(desk: Desk) -> None:
    desk.stored()
    desk.settled(Status.FAILED, NO)
    desk.store.record_late_yes(desk.id, 1, "ses", YES, 5)
    nonces = [ObjectId() for _ in range(3)]
    for nonce in nonces:
        write = callbacks.claim_write([desk.id], SIMULATED, nonce, 60)
        desk.store.bulk.write([write], 5)
    first, second = desk.now["callbacks"]
    assert [first["nonce"], second["nonce"]] == nonces[:2]
    stale = Settlement(desk.id, first["id"], first["token"], nonces[1], "delivered", "200")
    own = replace(stale, nonce=nonces[0])
    for settlement, state in ((stale, "due"), (own, "delivered"), (own, "delivered")):
        desk.store.bulk.write([callbacks.settle_write(settlement)], 5)
        assert desk.now["callbacks"][0]["state"] == state
    assert not {"due_at", "nonce"} & desk.now["callbacks"][0].keys()
    assert desk.now["callbacks"][1] == second


def test_a_callback_is_put_off_until_its_time_is_over_and_a_person_can_retry_it(
    desk: Desk,
) -> None:
    desk.stored()
    desk.settled(Status.SENT, YES)
    for expires_after, state in ((1e6, "due"), (0, "failed")):
        nonce = ObjectId()
        desk.store.emails.update_one(
            {"_id": desk.id}, [{"$set": {"callbacks": {"due_at": "$$NOW"}}}]
        )
        desk.store.bulk.write([callbacks.claim_write([desk.id], SIMULATED, nonce, 60)], 5)
        (entry,) = desk.now["callbacks"]
        settlement = Settlement(
            desk.id, entry["id"], entry["token"], nonce, "due", "500", 5, expires_after
        )
        desk.store.bulk.write([callbacks.settle_write(settlement)], 5)
        (entry,) = desk.now["callbacks"]
        assert (entry["state"], entry["code"]) == (state, "500")
    assert "due_at" not in entry
    desk.store.bulk.write([callbacks.retry_write([desk.id], ["failed"])], 5)
    (again,) = desk.now["callbacks"]
    assert (again["state"], again["tries"], again["id"]) == ("due", 0, entry["id"])


def test_an_email_with_a_callback_that_is_due_is_not_pruned(desk: Desk) -> None:
    desk.stored()
    desk.settled(Status.SENT, YES)
    assert desk.store.delete([desk.id], Status.SENT) == 0
    (entry,) = desk.now["callbacks"]
    nonce = ObjectId()
    desk.store.bulk.write([callbacks.claim_write([desk.id], SIMULATED, nonce, 60)], 5)
    settlement = Settlement(desk.id, entry["id"], 1, nonce, "delivered", "200")
    desk.store.bulk.write([callbacks.settle_write(settlement)], 5)
    assert desk.store.delete([desk.id], Status.SENT) == 1
