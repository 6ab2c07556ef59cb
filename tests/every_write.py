"""Every write that the product can make to an e-mail, and documents to make them to.

Which decisions there are is found by asking ``decide`` about every outcome in every situation.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from typing import Any

from bson import ObjectId

from mailqueue.lifecycle.decide import Decider, end, fallback, requeue_unsent
from mailqueue.lifecycle.outcomes import (
    NORMAL,
    Case,
    CurrentAttempt,
    Decision,
    Outcome,
    Pin,
    Policy,
    Reason,
    Round,
    SendResult,
    Snapshot,
    Status,
)
from mailqueue.message import Address
from mailqueue.store import (
    callbacks,
    content,
    deliveries,
    document,
    forgetting,
    holds,
    interventions,
    search,
)
from mailqueue.store.callbacks import Noting, Settlement
from mailqueue.store.document import CLOCK_TOKEN, SIMULATED, Stored
from mailqueue.store.forgetting import Person
from mailqueue.store.interventions import Verb
from mailqueue.store.merging import change_writes, claim_writes
from mailqueue.store.transitions import (
    Change,
    Claim,
    Lease,
    Write,
    late_yes_filter,
    late_yes_update,
    look_up_filter,
    look_up_update,
)

Document = dict[str, Any]

TOKEN = 3
OF_KEY = CLOCK_TOKEN + TOKEN
PEOPLE = tuple(f"reader{n}@example.org" for n in range(6))
PIN = Pin(vendor="a", key="k", remaining=600)
YES = SendResult(outcome=Outcome.ACCEPTED, message_id="id")
NONCE = ObjectId()
NOTING = Noting(drops_content=True)
SENT = Decision(status=Status.SENT, priority=NORMAL)


@cache
def decisions(*, sending: bool) -> frozenset[Status]:
    """The statuses that can follow an attempt, or that nobody could be asked."""
    emails = [
        Snapshot(
            priority=NORMAL,
            age=age,
            expires_in=expires_in,
            counted=counted,
            unknowns=unknowns,
            round=Round(refused=refused),
            pin=pinned,
            pending=pending,
        )
        for age, expires_in, counted, unknowns, refused, pinned, pending in product(
            *((0.0, 1e9), (None, 0.0), (0, 25), (0, 1), ((), ("a", "b"))),
            *((None, PIN), (None, PEOPLE)),
        )
    ]
    results = [
        SendResult(outcome=outcome, pending=pending, our_fault=our_fault)
        for outcome, pending, our_fault in product(Outcome, ((), PEOPLE), (False, True))
    ]
    policies = [Policy(), Policy(resend_unknown=False)]
    waits = {"a": 0.0, "b": 0.0}
    found: set[Status] = set()
    attempt = CurrentAttempt(vendor="a") if sending else None
    for email, policy in product(emails, policies):
        decider, case = (
            Decider(policy, lambda: 0.5),
            Case(email=email, attempt=attempt, waits=waits),
        )
        found |= {decider.decide(case, r).status for r in (results if sending else [None])}
        if sending:
            found |= {fallback(email, result).status for result in results}
            found.add(requeue_unsent(email).status)
        else:
            found.add(end(email, Reason.EXPIRED).status)
    return frozenset(found)


def writes(before: Document) -> Iterator[Write]:
    """Every write that can change the status of this e-mail."""
    own = _own(before)
    email_id, token, incarnation = own.values()
    lease = Lease(owner="", nonce=(nonce := ObjectId()), seconds=9)
    yield from claim_writes([Claim(**own, vendor="a")], SIMULATED, lease)
    for sending in (True, False):
        for status in decisions(sending=sending):
            decision = Decision(status=status, priority=NORMAL)
            result = YES if status is Status.SENT else None
            change = Change(
                **own, decision=decision, sending=sending, result=result, has_callback=True
            )
            yield from change_writes([change], NOTING, simulated=True)
    late_yes = late_yes_update(token, "a", YES, simulated=True)
    yield late_yes_filter(email_id, token, incarnation), NOTING.with_end(late_yes)
    yield look_up_filter(email_id, token, incarnation), look_up_update(token)
    yield from event_writes(before)
    decision = Decision(status=Status.QUEUED, priority=NORMAL)
    hold = Change(**own, decision=decision, sending=False, hold="tag:news")
    yield from change_writes([hold], NOTING, simulated=True)
    yield holds.put_back_filter([email_id]), holds.put_back_update()
    later = datetime.now(UTC) + timedelta(hours=1)
    reschedule = interventions.reschedule_filter(email_id, later)
    yield reschedule, interventions.reschedule_update(later)
    for verb in Verb:
        guard = {"_id": email_id, **interventions.guard(verb)}
        yield guard, NOTING.with_end(interventions.update(verb, nonce, "ann@ops"))


def callback_writes(email_id: ObjectId) -> Iterator[Write]:
    """What a responder changes, and a person."""
    yield callbacks.claim_write([email_id], SIMULATED, ObjectId(), 60)
    for state in callbacks.STATES:
        yield callbacks.settle_write(
            Settlement(email_id, "msg_claimed", TOKEN, NONCE, state, "200", 5, 1e9)
        )
    yield callbacks.retry_write([email_id], ["failed"])


def event_writes(before: Document) -> Iterator[Write]:
    """How vendors' events settle what is unknown."""
    own = _own(before)
    email_id, token, incarnation = own.values()
    yield deliveries.open_attempt_write(email_id, token, "id", incarnation=incarnation)
    guard, yes = deliveries.unknown_attempt_write(
        email_id, token, "a", "id", simulated=True, incarnation=incarnation
    )
    yield guard, NOTING.with_end(yes)
    unknown = SendResult(outcome=Outcome.UNKNOWN)
    decision = Decision(status=Status.QUEUED, priority=NORMAL)
    yield from change_writes(
        [Change(**own, decision=decision, result=unknown)],
        NOTING,
        simulated=True,
    )


def full_writes(before: Document) -> Iterator[Write]:
    """Writes that fill in what is not always there, and change no status."""
    own, email_id = _own(before), before["_id"]
    lease = Lease(owner="", nonce=ObjectId(), seconds=9)
    claim = Claim(**own, vendor="a", suppressed=PEOPLE, unavailable=("b",), redirected=True)
    yield from claim_writes([claim], SIMULATED, lease)
    suspect = SendResult(
        outcome=Outcome.DEFERRED, refused=PEOPLE, pending=PEOPLE, content_suspect=True
    )
    decision = Decision(
        status=Status.QUEUED, priority=NORMAL, pin=PIN, pending=PEOPLE, refused=PEOPLE
    )
    change = Change(**own, decision=decision, result=suspect)
    for short in (False, True):
        yield from change_writes([change], NOTING, simulated=True, short=short)
    yield content.drop_write([email_id], Status.SENDING, {"updated_at": {"$lt": datetime.now(UTC)}})
    guard, forget = forgetting.email_write(before, Person([Address.parse("b@example.org")]))
    yield guard, [{"$set": forget["$set"] | dict.fromkeys(forget["$currentDate"], "$$NOW")}]
    for word in ("delivered", "opened"):
        guard = deliveries.delivery_filter([email_id], "a")
        yield guard, deliveries.delivery_update(0, word, NOTING)
    yield from callback_writes(email_id)


def _own(before: Document) -> Any:
    """What names this e-mail in a claim or a change."""
    stored = Stored(before, datetime.now(UTC))
    return {"id": stored.id, "token": stored.token, "incarnation": stored.incarnation}


def situations(email_id: ObjectId, *, token: int = OF_KEY) -> Iterator[Document]:
    """A document in every status, with and without traces of a copy.

    Its ``_id`` follows from its key; or, by its ``token``, it is any.
    """
    now = datetime.now(UTC)
    made = document.new(
        {"from": "a@example.com", "to": ["b@example.org"], "text": ""},
        email_id=email_id,
        message_id="<m@example.com>",
        env=SIMULATED,
        content_hash="",
        priority=NORMAL,
        now=now,
        send_at=now,
        expires_at=now + timedelta(days=1),
        idempotency_key="key",
        nonce=ObjectId(),
        callback_url="https://hooks.example.com/",
        request_id="r-1",
        traceparent=f"00-{1:032x}-{1:016x}-01",
        route=["a"],
    )
    made = search.with_recipients(made)
    entry = {"type": "email.sent", "at": now, "since": now, "token": TOKEN, "tries": 1}
    claimed = {**entry, "id": "msg_claimed", "state": "due", "due_at": now, "nonce": NONCE}
    failed = {**entry, "id": "msg_failed", "state": "failed", "ended_at": now, "code": "500"}
    line = {"n": 1, "token": token, "vendor": "a", "started_at": now, "ended_at": None}
    yes = {"vendor": "a", "message_id": "id", "refused": [], "token": token - 1, "at": now}
    lease = {"token": token, "until": now + timedelta(minutes=1)}
    for status, unknowns, known in product(Status, (0, 1), (None, yes)):
        yield {
            **made,
            "status": status.value,
            "unknowns": unknowns,
            "lease": lease,
            "attempts": [{**line, "outcome": None}],
            "callbacks": [claimed, failed],
            **({"late_accept": known} if known and status is Status.SENDING else {}),
        }
