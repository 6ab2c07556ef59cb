"""Which states of an e-mail are legal: each guard of the audit, one document that breaks it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from mailqueue.lifecycle.outcomes import NORMAL
from mailqueue.store import audit, document, interventions, ledger
from mailqueue.store.audit import GRACE, problems
from mailqueue.store.document import Stored
from mailqueue.store.interventions import Verb
from tests.for_each import for_each

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
KEYED = "the-key"

Document = dict[str, Any]


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def line(n: int, outcome: str | None, **fields: Any) -> Document:
    ended = None if outcome is None else ago(900 - n)
    return {
        "n": n,
        "token": n,
        "vendor": "first",
        "key": None,
        "started_at": ago(901 - n),
        "ended_at": ended,
        "outcome": outcome,
        **fields,
    }


def email(status: str, *outcomes: str | Document | None, **fields: Any) -> Document:
    """A document whose ledger has these outcomes, or lines."""
    made = document.new(
        {},
        email_id=ObjectId(),
        message_id="<1@example.com>",
        env="production",
        content_hash="hash",
        priority=NORMAL,
        now=ago(1000),
    )
    lines = [o if isinstance(o, dict) else line(n, o) for n, o in enumerate(outcomes, 1)]
    token = lines[-1]["token"] if lines else 0
    return {**made, "attempts": lines, "lease": {"token": token}, "status": status, **fields}


def lease(token: int, seconds: float = 60) -> Document:
    return {"token": token, "owner": "me", "nonce": ObjectId(), "until": ago(-seconds)}


def retry(token: int, was: str = "uncertain", n: int = 1) -> Document:
    return {"n": n, "verb": "retry", "was": was, "token": token, "at": ago(500)}


def sent(*outcomes: str | Document | None, **fields: Any) -> Document:
    return email("sent", *outcomes, **{"sent_at": ago(1), "vendor": "first", **fields})


def found(made: Mapping[str, Any]) -> list[str]:
    return problems(Stored(made, NOW))


LATE = {"vendor": "first", "message_id": "1", "token": 1, "at": NOW}
PIN = {"vendor": "first", "key": KEYED, "until": ago(-60), "repeats": 1}
MARK = {**retry(1), "verb": "mark-sent"}
KEYED_UNKNOWN = line(1, "unknown", key=KEYED)
KEYED_YES = line(2, "accepted", key=KEYED)
LATE_YES = line(1, "accepted", late=True)

LEGAL: Mapping[str, Document] = {
    "new": email("queued"),
    "waiting": email("queued", "unavailable", "deferred", due_at=ago(-60), counted=1),
    "waiting after an unknown outcome": email("queued", "unknown", unknowns=1),
    "given back unsent": email("queued", "not_started"),
    "it ended as not sent, but some recipients have received it": email(
        "queued", "accepted", pending=["b"]
    ),
    "pinned": email("queued", KEYED_UNKNOWN, pin=PIN),
    "just expired": email("queued", expires_at=ago(10)),
    "being sent": email("sending", None, lease=lease(1)),
    "being resent": email("sending", "unknown", None, unknowns=1, lease=lease(2)),
    "lease just over": email("sending", None, lease=lease(1, -10)),
    "a late yes meanwhile": email(
        "sending", LATE_YES, None, unknowns=1, lease=lease(2), late_accept=LATE
    ),
    "sent": sent("unavailable", "accepted"),
    "sent, simulated": sent("accepted", env="simulated", simulated=True),
    "sent twice after an unknown outcome": sent(LATE_YES, "accepted", unknowns=1, late_accept=LATE),
    "sent under one key": sent(KEYED_UNKNOWN, KEYED_YES),
    "two answers under one key": sent({**KEYED_YES, **LATE_YES, "key": KEYED}, KEYED_YES),
    "sent in two parts": sent(line(1, "accepted", pending=["b"]), "accepted"),
    "parts, the rest late": sent(line(1, "accepted", late=True), unknowns=1, pending=["b"]),
    "marked as sent": email(
        "sent", "rejected", sent_at=NOW, reason="marked_sent", interventions=[MARK]
    ),
    "failed": email("failed", "rejected", reason="rejected", counted=1),
    "expired": email("failed", reason="expired"),
    "uncertain": email("uncertain", "unknown", "unknown", reason="unknown", unknowns=2),
    "uncertain, a part accepted": email(
        "uncertain", "accepted", "unknown", reason="unknown", unknowns=1, pending=["b"]
    ),
    "cancelled": email("cancelled", reason="cancelled"),
    "retried": email("queued", "unknown", reason=None, unknowns=1, interventions=[retry(1)]),
    "copies of a retry": sent(
        line(1, "accepted", late=True),
        line(2, "accepted", late=True),
        "accepted",
        unknowns=2,
        interventions=[retry(2)],
    ),
    "a cut ledger": sent(
        *(line(n, "throttled") for n in range(11, 11 + ledger.LENGTH)), unknowns=2, counted=60
    ),
}


@for_each("name", LEGAL)
def test_a_legal_state_is_left_in_peace(name: str) -> None:
    assert found(LEGAL[name]) == []


def new(**fields: Any) -> Document:
    return email("queued", **fields)


ILLEGAL: Mapping[str, Document] = {
    # the form
    "status has an invalid value": email("delivered"),
    "env has an invalid value": new(env="staging"),
    "unknowns has an invalid value": new(unknowns=True),
    "lease has an invalid value": new(lease={}),
    "pending has an invalid value": new(pending=[]),
    "attempts has an invalid value": email("queued", line(1, "delivered")),
    "round has an invalid value": new(round=[]),
    "interventions has an invalid value": new(interventions=[{}]),
    "created_at has an invalid value": new(created_at="today"),
    # the ledger
    "the ledger's lines are not numbered one after the other": email("queued", line(2, "deferred")),
    "the ledger has more than 50 lines": email("queued", *["throttled"] * 51),
    "the ledger's tokens do not increase": email(
        "queued", "deferred", line(2, "deferred", token=1)
    ),
    "the newest claim has no line in the ledger": new(lease={"token": 1}),
    "attempt 1 has no outcome, but its lease is not held": email("queued", None),
    "attempt 1 has an end, but no outcome": email(
        "sending", line(1, None, ended_at=NOW), lease=lease(1)
    ),
    "attempt 1 has an outcome, but no end": email("queued", line(1, "deferred", ended_at=None)),
    "attempt 1 ended before it began": email("queued", line(1, "deferred", ended_at=ago(999))),
    # the lease
    "a lease is held, but nothing is being sent": new(lease={"token": 0, "until": NOW}),
    "it is being sent, but no lease is held": email("sending", None),
    "it is being sent, but every attempt has an outcome": email(
        "sending", "deferred", lease=lease(1)
    ),
    "its lease expired 301 s ago and was not rescued": email("sending", None, lease=lease(1, -301)),
    "its lease lasts for more than a day": email("sending", None, lease=lease(1, 86_401)),
    # what is known
    "2 outcomes are unknown, but 1 are counted": email("queued", "unknown", "unknown", unknowns=1),
    "an unknown outcome is not counted": email("queued", KEYED_UNKNOWN),
    "1 unknown outcomes are counted, but the ledger has fewer": new(unknowns=1),
    "more attempts are counted than the ledger has": email("queued", "not_started", counted=1),
    "it was sent again after an unknown outcome more than once": email(
        "queued", "unknown", "unknown", "deferred", unknowns=2
    ),
    "2 copies were accepted, but at most 1 may be": sent("accepted", "accepted"),
    "3 copies were accepted, but at most 2 may be": sent(
        "accepted", "accepted", "accepted", interventions=[retry(1), retry(2, "failed", 2)]
    ),
    "3 unknown outcomes are counted, but at most 2 may be": email(
        "uncertain", "unknown", "unknown", "unknown", unknowns=3, reason="unknown"
    ),
    # the status
    "it has not ended, but has a reason": new(reason="expired"),
    "it expired 301 s ago, but is still queued": new(expires_at=ago(GRACE + 1)),
    "it is being sent before it is due": email("sending", None, lease=lease(1), due_at=ago(-9)),
    "a vendor accepted it, but it is not sent": email("queued", "accepted"),
    "sent_at is set, but it is not sent": new(sent_at=NOW),
    "it has ended, but due_at is set": sent("accepted", due_at=NOW),
    "a late acceptance is recorded, but it is not sent": email(
        "queued", "accepted", late_accept=LATE
    ),
    "it has ended, but is pinned to a vendor": sent("accepted", pin=PIN),
    "sent_at is missing": sent("accepted", sent_at=None),
    "it is sent, but its reason belongs to another status": sent("accepted", reason="expired"),
    "it is sent, but recipients are pending": sent("accepted", pending=["b"]),
    "it is marked as sent, but no intervention says so": sent("rejected", reason="marked_sent"),
    "it is sent, but no vendor accepted it": sent("deferred"),
    "vendor is missing": sent("accepted", vendor=None),
    "it was sent by a consumer of the other kind": sent("accepted", simulated=True),
    "it ended as not sent, but a copy may have left": email(
        "failed", "unknown", unknowns=1, reason="rejected"
    ),
    "it ended as not sent, but some recipients have received it": email(
        "cancelled", reason="cancelled", pending=["b"]
    ),
    "its reason is missing or belongs to another status": email(
        "failed", "rejected", reason="unknown"
    ),
    "it is uncertain, but no outcome is unknown": email("uncertain", reason="expired"),
}


@for_each("problem", ILLEGAL)
def test_each_illegal_state_is_named(problem: str) -> None:
    assert problem in found(ILLEGAL[problem])


@for_each("name", ["content_hash", "created_at", "counted", "priority"])
def test_each_status_has_its_required_fields(name: str) -> None:
    made = email("queued")
    del made[name]
    assert found(made) == [f"{name} is missing"]


@for_each("status", ["cancelled", "uncertain", "sending"])
def test_a_reason_belongs_to_its_end(status: str) -> None:
    wrong = {"cancelled": "expired", "uncertain": None, "sending": "expired"}[status]
    said = {"sending": "it has not ended, but has a reason"}
    made = email(status, None, lease=lease(1), reason=wrong)
    assert said.get(status, "its reason is missing or belongs to another status") in found(made)


@for_each("change", [lambda d: d.update(status="failed"), lambda d: d.clear()])
def test_the_audit_says_nothing_about_anybody(change: Callable[[Document], None]) -> None:
    made = copy.deepcopy(sent("accepted", refused=["bob@example.org"], pending=["ann@example.com"]))
    change(made)
    assert found(made)
    assert "example" not in str(found(made))


def test_a_sweeper_is_given_time_to_come_by() -> None:
    made = Stored(email("sending", None, lease=lease(1, -301)), NOW)
    assert problems(made, grace=301) == []


class Shelf:
    """A store that gives out its documents by page, in order of ``_id``."""

    def __init__(self, *documents: Document) -> None:
        self.documents = documents
        self.pages: list[int] = []

    def find(self, match: Mapping[str, Any], limit: int, *sort: str) -> list[Stored]:
        assert sort == ("_id",)
        after = match.get("_id", {"$gt": None})["$gt"]
        left = [d for d in self.documents if after is None or d["_id"] > after]
        self.pages.append(len(left[:limit]))
        return [Stored(d, NOW) for d in left[:limit]]


def test_the_walk_sees_every_email_once_a_page_at_a_time() -> None:
    wrong = email("delivered")
    others = (email("queued"), email("queued"), sent("accepted"), email("queued"))
    shelf = Shelf(wrong, *others)
    result = audit.walk(shelf, page=2)  # type: ignore[arg-type]  # what it needs of a store
    assert shelf.pages == [2, 2, 1, 0]
    assert result.emails == {"queued": 3, "delivered": 1, "sent": 1}
    assert result.illegal == {"delivered": 1}
    assert result.findings == [(str(wrong["_id"]), "delivered", ["status has an invalid value"])]


def test_only_the_first_findings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "LISTED", 1)
    result = audit.walk(Shelf(new(env=""), new(env="")))  # type: ignore[arg-type]  # as above
    assert result.illegal.total() == 2
    assert len(result.findings) == 1


# --- what a person may do


@for_each("verb", Verb)
def test_every_intervention_is_written_down_with_what_was_before(verb: Verb) -> None:
    (stage,) = interventions.update(verb, ObjectId())
    assert "interventions" in stage["$set"]
    assert "attempts" not in stage["$set"]
    assert "lease" not in stage["$set"]


REFUSALS = [
    (Verb.RETRY, None, "there is no such e-mail"),
    (Verb.RETRY, email("sent"), "is sent, but retry needs failed or uncertain"),
    (Verb.CANCEL, email("failed"), "is failed, but cancel needs queued"),
    (Verb.RETRY, email("failed", expires_at=ago(1)), "its expires_at has passed"),
    (
        Verb.CANCEL,
        email("queued", pending=["b"]),
        "some recipients have received it already, so the others get it too",
    ),
    (
        Verb.MARK_SENT,
        email("failed"),
        "it was changed meanwhile, or its content is no longer stored",
    ),
]


@for_each("verb, made, why", REFUSALS)
def test_a_refusal_says_why(verb: Verb, made: Document | None, why: str) -> None:
    stored = None if made is None else Stored(made, NOW)
    assert interventions.refusal(verb, stored) == why
