"""The guards of the transitions, and that no text of anybody's is taken for an expression.

What MongoDB makes of them is in ``tests/integration/test_store.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bson import ObjectId

from mailqueue.lifecycle.outcomes import Decision, Outcome, Pin, Round, SendResult, Status
from mailqueue.store.transitions import (
    Change,
    Claim,
    Lease,
    change_filter,
    change_update,
    claim_filter,
    claim_update,
    late_yes_filter,
    late_yes_update,
    look_up_filter,
    look_up_update,
)
from tests.for_each import for_each

ID, NONCE = ObjectId(), ObjectId()
TEXT = "$text"  # of others: to MongoDB it would be the name of a field
YES = SendResult(outcome=Outcome.ACCEPTED, code=TEXT, detail=TEXT, message_id=TEXT, refused=(TEXT,))
CLAIM = Claim(id=ID, token=3, vendor=TEXT, key=TEXT)
LEASE = Lease(owner=TEXT, nonce=NONCE, seconds=120.0)


def decided(status: Status, **more: Any) -> Decision:
    return Decision(status=status, priority=512, **more)


def change(status: Status = Status.QUEUED, **more: Any) -> Change:
    decision = decided(status, pending=(TEXT,), refused=(TEXT,), **more.pop("decision", {}))
    return Change(id=ID, token=3, decision=decision, vendor=TEXT, **more)


def test_a_claim_is_guarded_by_status_environment_and_the_token_that_was_seen() -> None:
    guard = claim_filter(CLAIM, "production")
    assert guard.items() >= {"_id": ID, "env": "production", "status": "queued"}.items()
    assert guard["lease.token"] == 3


def test_a_claim_raises_the_token() -> None:
    ((step,),) = [claim_update(CLAIM, LEASE)]
    held = step["$set"]["lease"]
    assert (held["token"], held["nonce"]) == (4, NONCE)
    assert held["until"] == {"$add": ["$$NOW", 120_000]}


def test_a_settlement_is_guarded_by_the_token_and_the_nonce_of_the_claim() -> None:
    assert change_filter(change(nonce=NONCE)) == {
        "_id": ID,
        "status": "sending",
        "lease.token": 3,
        "lease.nonce": NONCE,
    }


def test_a_change_of_a_queued_email_is_guarded_by_the_newest_token() -> None:
    guard = change_filter(change(sending=False))
    assert guard == {"_id": ID, "status": "queued", "lease.token": 3}


def test_a_rescue_demands_that_the_servers_clock_is_past_the_lease() -> None:
    guard = change_filter(change(expired=True))
    assert guard["$expr"] == {"$lt": ["$lease.until", "$$NOW"]}


def test_a_change_of_a_queued_email_touches_no_ledger_line() -> None:
    (step, _) = change_update([change(sending=False)], simulated=False)
    assert "attempts" not in step["$set"]


def test_only_a_change_that_is_no_yes_can_be_overruled_by_a_late_one() -> None:
    assert len(change_update([change(Status.SENT, result=YES)], simulated=False)) == 1
    assert len(change_update([change(Status.FAILED)], simulated=False)) == 2


@for_each("simulated", [True, False])
def test_what_was_simulated_says_so(simulated: bool) -> None:
    sent = change_update([change(Status.SENT, result=YES)], simulated=simulated)
    late = late_yes_update(3, TEXT, YES, simulated)
    rescued = change_update([change(Status.FAILED)], simulated=simulated)
    assert [("simulated" in step["$set"]) for step in (sent[0], late[0], rescued[1])] == (
        [simulated] * 3
    )


def test_a_delay_and_a_pin_become_times_of_the_server() -> None:
    pin = Pin(vendor="v", key="k", remaining=-1.0, repeats=2)
    (step, _) = change_update([change(decision={"delay": 1.5, "pin": pin})], simulated=False)
    assert step["$set"]["due_at"] == {"$add": ["$$NOW", 1500]}
    assert step["$set"]["pin"]["until"] == {"$add": ["$$NOW", 0]}
    (step, _) = change_update([change()], simulated=False)
    assert (step["$set"]["due_at"], step["$set"]["pin"]) == (None, None)


def test_a_claim_of_which_nothing_was_sent_is_noted_as_such() -> None:
    (step, _) = change_update([change()], simulated=False)
    assert "not_started" in list(strings(step["$set"]["attempts"]))


def test_a_late_yes_has_no_guard_but_that_it_is_not_yet_written() -> None:
    line = {"token": 3, "outcome": {"$ne": "accepted"}}
    assert late_yes_filter(ID, 3) == {"_id": ID, "attempts": {"$elemMatch": line}}


def test_an_answer_of_not_found_is_noted_once_while_the_email_waits() -> None:
    guard = look_up_filter(ID, 3)
    assert guard["status"] == "queued"
    assert guard["attempts"] == {"$elemMatch": {"token": 3, "looked_up": {"$ne": True}}}
    assert "attempts" in look_up_update(3)[0]["$set"]


@for_each(
    "pipeline",
    [
        claim_update(CLAIM, LEASE),
        change_update([change(Status.SENT, result=YES)], simulated=True),
        change_update([change(Status.FAILED, result=YES)], simulated=True),
        change_update([change(decision={"round": Round(n=1, tried=("a",))})], simulated=False),
        late_yes_update(3, TEXT, YES, simulated=False),
    ],
)
def test_text_of_others_is_never_an_expression(pipeline: list[dict[str, Any]]) -> None:
    assert TEXT not in list(strings(pipeline))


def strings(value: object) -> Iterator[str]:
    """All strings that MongoDB would evaluate."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, dict) and "$literal" not in value:
        for each in value.values():
            yield from strings(each)
