"""The transitions of a stored e-mail: the guard before each, and the update it makes. Pure.

Decides: what must be true of a document for a transition to happen, and how a ``Decision`` is
written down.

Assumes: MongoDB evaluates guard and update in one step, so that every time is the server's
(``$$NOW``) and nothing happens between the two.

Promises: every transition is guarded by status and fencing token, so that writing it twice, or by a
worker that lost its lease, changes nothing. Only a yes needs no lease: it always counts.
A ledger line is bounded, so that the whole ledger of an e-mail of the largest size fits beside it.
An update evaluates whatever else the document holds, of whatever type; what it cannot do without is
checked by who read it (``document.Stored``), and where it is refused all the same, a ``small``
settlement or an ``Aside`` ends the e-mail without asking the document for anything.
Transitions that differ in nothing but the e-mail (and the vendor's id for it) are one update of
many documents, each under its guard: that costs the server a quarter of an update for each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from bson import ObjectId

from mailqueue.document import Document
from mailqueue.record import (
    HIGH,
    NORMAL,
    OVERDUE,
    Decision,
    Outcome,
    Pin,
    Reason,
    SendResult,
    Status,
)

LEDGER_LENGTH = 50
LISTED = 5  # recipients that a ledger line names; the document has them all
OVERDUE_MS = {
    "$cond": [
        {"$eq": ["$priority", HIGH]},
        round(OVERDUE[HIGH] * 1000),
        round(OVERDUE[NORMAL] * 1000),
    ]
}
CLOCK_FROM = {"$ifNull": ["$clock_from", "$$NOW"]}
NOT_STARTED = "not_started"
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
FINAL = [status.value for status in Status if status.final]
UNEXPIRED = {"$gt": [{"$ifNull": ["$expires_at", _NEVER]}, "$$NOW"]}

Pipeline = list[dict[str, Any]]
Filter = dict[str, Any]
Write = tuple[Filter, Pipeline]
T = TypeVar("T", "Claim", "Change")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The intent to send one e-mail through one vendor; ``token`` is the one that was seen."""

    id: ObjectId
    token: int
    vendor: str
    key: str | None = None
    probe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A decided transition of one e-mail.

    ``sending`` under ``token`` (and ``nonce`` when given), or ``queued`` while the newest token is
    ``token``. ``result`` closes the ledger line of that token; None with ``sending``: nothing was
    sent (``not_started``). ``expired`` also demands that the lease has run out.
    """

    id: ObjectId
    token: int
    decision: Decision
    sending: bool = True
    nonce: ObjectId | None = None
    result: SendResult | None = None
    vendor: str | None = None
    expired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """The end of an e-mail whose document is damaged; what was ``seen`` of it must still hold.

    What it becomes is told by what is left of it: ``failed`` if surely no copy left our hands.
    """

    id: ObjectId
    seen: Filter


def claim_writes(
    claims: Iterable[Claim], env: str, owner: str, nonce: ObjectId, lease: float
) -> Iterator[Write]:
    """As few updates as these claims need."""
    for alike in _grouped(claims, _claimed_alike):
        guard = claim_filter(alike[0], env) | _any_of(alike)
        yield guard, claim_update(alike[0], owner, nonce, lease)


def change_writes(
    changes: Iterable[Change], simulated: bool, *, small: bool = False
) -> Iterator[Write]:
    """As few updates as these changes need."""
    for alike in _grouped(changes, _changed_alike):
        update = change_update(alike[0], simulated, alike, small=small)
        yield change_filter(alike[0]) | _any_of(alike), update


def aside_writes(asides: Iterable[Aside], simulated: bool) -> Iterator[Write]:
    """One update for each."""
    for aside in asides:
        guard = {"_id": {"$in": [aside.id]}, **aside.seen}
        yield guard | {"$nor": [{"status": {"$in": FINAL}}]}, aside_update(simulated)


def _grouped(items: Iterable[T], kind: Callable[[T], Hashable]) -> Iterable[list[T]]:
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(kind(item), []).append(item)
    return groups.values()


def _claimed_alike(claim: Claim) -> Hashable:
    own = claim.key == str(claim.id)
    return claim.token, claim.vendor, claim.probe, own, None if own else claim.key


def _changed_alike(change: Change) -> Hashable:
    said = change.result
    answer = said and (said.outcome, said.code, said.detail, said.answered, said.refused)
    return (
        *(change.token, change.nonce, change.sending, change.expired, change.vendor),
        *(change.decision, answer, said and (said.pending, said.content_suspect)),
    )


def _any_of(alike: Sequence[Claim] | Sequence[Change]) -> Filter:
    return {"_id": {"$in": [each.id for each in alike]}}


def claim_filter(claim: Claim, env: str) -> Filter:
    """Queued, of my kind, due, not expired, and not claimed since it was read."""
    return {
        "_id": claim.id,
        "status": Status.QUEUED.value,
        "env": env,
        "lease.token": claim.token,
        "$expr": {
            "$and": [
                {"$lte": [{"$ifNull": ["$due_at", "$$NOW"]}, "$$NOW"]},
                UNEXPIRED,
            ]
        },
    }


def claim_update(claim: Claim, owner: str, nonce: ObjectId, lease: float) -> Pipeline:
    """Take the lease and open the ledger line (the intent) in one write."""
    own_key = claim.key == str(claim.id)
    line = {
        "n": {"$add": [{"$ifNull": [{"$last": "$attempts.n"}, 0]}, 1]},
        "token": claim.token + 1,
        "vendor": {"$literal": claim.vendor},
        "key": {"$toString": "$_id"} if own_key else {"$literal": claim.key},
        "probe": claim.probe,
        "started_at": "$$NOW",
        "ended_at": None,
        "outcome": None,
    }
    held = {
        "token": claim.token + 1,
        "owner": {"$literal": owner},
        "nonce": nonce,
        "until": {"$add": ["$$NOW", round(lease * 1000)]},
    }
    ledger = {"$slice": [{"$concatArrays": ["$attempts", [line]]}, -LEDGER_LENGTH]}
    return [
        {
            "$set": {
                "status": Status.SENDING.value,
                "lease": held,
                "attempts": ledger,
                "clock_from": CLOCK_FROM,
                "updated_at": "$$NOW",
            }
        }
    ]


def change_filter(change: Change) -> Filter:
    """The guard of a settlement, a rescue, or a transition of a queued e-mail."""
    guard: Filter = {
        "_id": change.id,
        "status": (Status.SENDING if change.sending else Status.QUEUED).value,
        "lease.token": change.token,
    }
    if change.nonce is not None:
        guard["lease.nonce"] = change.nonce
    if change.expired:
        guard["$expr"] = {"$lt": ["$lease.until", "$$NOW"]}
    return guard


def change_update(
    change: Change, simulated: bool, alike: Sequence[Change] = (), *, small: bool = False
) -> Pipeline:
    """Write the decision down; a yes that came late in the meantime wins over it.

    ``alike`` are the changes that are written together with this one: each e-mail gets its own of
    the ids that the vendor gave. ``small``: of the ledger only this line is kept, in short.
    """
    decision = change.decision
    message_id = _message_id(alike or (change,))
    fields: dict[str, Any] = {
        "status": decision.status.value,
        "reason": decision.reason,
        "due_at": _after(decision.delay) if decision.delay > 0 else None,
        "lease": {"$literal": {"token": change.token}},
        "round": {
            "n": decision.round.n,
            "tried": list(decision.round.tried),
            "refused": list(decision.round.refused),
        },
        "pin": _pin_update(decision.pin),
        "pending": _literal_list(decision.pending),
        "refused": _literal_list(decision.refused or None),
        "unknowns": decision.unknowns,
        "counted": decision.counted,
        "announced": None,
        "overdue_at": _overdue_at(decision),
        "updated_at": "$$NOW",
    }
    if change.sending:
        end = _line_end(change.result, message_id)
        fields["attempts"] = (_only_line if small else _closed_line)(change.token, end)
    else:
        fields["clock_from"] = CLOCK_FROM
    if change.result is not None and change.result.outcome is Outcome.ACCEPTED:
        fields["vendor"] = {"$literal": change.vendor}
        fields["vendor_message_id"] = message_id
    if decision.status is Status.SENT:
        return [{"$set": fields | _sent_now(simulated)}]
    return [{"$set": fields}, {"$set": _late_accept_wins(simulated)}]


def _sent_now(simulated: bool) -> dict[str, Any]:
    return {"sent_at": "$$NOW", **({"simulated": True} if simulated else {})}


def _as_it_is(field: str) -> dict[str, Any]:
    """The field's value, or nothing where it is not there."""
    return {"$ifNull": [f"${field}", "$$REMOVE"]}


def _late_accept_wins(simulated: bool) -> dict[str, Any]:
    won: dict[str, Any] = {
        "status": Status.SENT.value,
        "reason": None,
        "due_at": None,
        "overdue_at": "$$REMOVE",
        "pin": None,
        "pending": None,
        "refused": "$late_accept.refused",
        "vendor": "$late_accept.vendor",
        "vendor_message_id": "$late_accept.message_id",
        **_sent_now(simulated),
    }
    return {field: {"$cond": [_LATE, value, _as_it_is(field)]} for field, value in won.items()}


def aside_update(simulated: bool) -> Pipeline:
    """End what cannot be read, and leave all else as it is for a person to look at."""
    sending = {"$eq": ["$status", Status.SENDING.value]}
    yes = {"$and": [sending, _LATE]}
    end = {"$cond": [_surely_here(), Status.FAILED.value, Status.UNCERTAIN.value]}
    sent: dict[str, Any] = {
        "vendor": "$late_accept.vendor",
        "vendor_message_id": "$late_accept.message_id",
        **_sent_now(simulated),
    }
    fields = {field: {"$cond": [yes, value, _as_it_is(field)]} for field, value in sent.items()}
    fields["status"] = {"$cond": [yes, Status.SENT.value, end]}
    fields["reason"] = {"$cond": [yes, None, Reason.UNREADABLE.value]}
    ended = {"due_at": None, "overdue_at": "$$REMOVE", "updated_at": "$$NOW"}
    return [{"$set": fields | ended}]


def _surely_here() -> dict[str, Any]:
    """Whether no copy left our hands; where that cannot be read, one may have."""
    lines = {"$cond": [{"$isArray": "$attempts"}, "$attempts", [{}]]}
    outcome = {"$ifNull": ["$$line.outcome", None]}
    left = {"$in": [outcome, [None, Outcome.UNKNOWN.value, Outcome.ACCEPTED.value]]}
    some = {"$anyElementTrue": [{"$map": {"input": lines, "as": "line", "in": left}}]}
    none = [{"$in": [{"$type": f"${name}"}, ["missing", "null"]]} for name in _TRACES]
    queued = {"$eq": ["$status", Status.QUEUED.value]}
    return {"$and": [queued, {"$eq": ["$unknowns", 0]}, *none, {"$not": [some]}]}


_LATE = {"$eq": [{"$type": "$late_accept"}, "object"]}
_TRACES = ("pin", "pending", "late_accept", "sent_at")  # of a copy


def late_yes_filter(email_id: ObjectId, token: int) -> Filter:
    """No guard but that this line's yes is not yet written: writing it twice changes nothing."""
    open_or_unknown = {"token": token, "outcome": {"$ne": Outcome.ACCEPTED.value}}
    return {"_id": email_id, "attempts": {"$elemMatch": open_or_unknown}}


def late_yes_update(token: int, vendor: str, result: SendResult, simulated: bool) -> Pipeline:
    """A yes from a worker that lost its lease: the e-mail is sent, whatever it is by now.

    Whom this vendor refused or put off is recorded as refused; the e-mail is not tried again.
    """
    sending = {"$eq": ["$status", Status.SENDING.value]}
    sent = {"$eq": ["$status", Status.SENT.value]}
    left_out = {"$literal": [*result.refused, *result.pending]}
    message_id = {"$literal": result.message_id}
    yes = {
        "vendor": {"$literal": vendor},
        "message_id": message_id,
        "refused": {"$setUnion": [_array("$refused"), left_out]},
        "token": token,
        "at": "$$NOW",
    }
    line = _line_end(result, message_id) | {"late": True, "extra_copy": sent}
    becomes: dict[str, Any] = {
        "status": Status.SENT.value,
        "reason": None,
        "due_at": None,
        "overdue_at": "$$REMOVE",
        "pin": None,
        "pending": None,
        "refused": yes["refused"],
        "vendor": yes["vendor"],
        "vendor_message_id": message_id,
        **_sent_now(simulated),
    }
    keep = {"$or": [sending, sent]}
    fields: dict[str, Any] = {
        field: {"$cond": [keep, _as_it_is(field), value]} for field, value in becomes.items()
    }
    fields["late_accept"] = {"$cond": [sending, yes, _as_it_is("late_accept")]}
    fields["attempts"] = _closed_line(token, line)
    return [{"$set": fields | {"updated_at": "$$NOW"}}]


def looked_up_filter(email_id: ObjectId, token: int) -> Filter:
    """Still queued, and this line's vendor was not asked yet."""
    line = {"token": token, "looked_up": {"$ne": True}}
    return {"_id": email_id, "status": Status.QUEUED.value, "attempts": {"$elemMatch": line}}


def looked_up_update(token: int) -> Pipeline:
    """The vendor was asked and did not know the e-mail, which proves nothing."""
    return [{"$set": {"attempts": _closed_line(token, {"looked_up": True})}}]


def _array(value: str) -> dict[str, Any]:
    return {"$cond": [{"$isArray": value}, value, []]}


def _only_line(token: int, end: dict[str, Any]) -> dict[str, Any]:
    """The ledger without its other lines, where there is one."""
    mine = {"$eq": ["$$line.token", token]}
    lines = {"$filter": {"input": _array("$attempts"), "as": "line", "cond": mine}}
    short = {name: value for name, value in end.items() if name not in _LONG} | {"cut": True}
    return {"$map": {"input": lines, "as": "line", "in": _ended(short)}}


_LONG = ("detail", "refused", "pending")


def _closed_line(token: int, end: dict[str, Any]) -> dict[str, Any]:
    is_mine = {"$eq": ["$$line.token", token]}
    return {
        "$map": {
            "input": "$attempts",
            "as": "line",
            "in": {"$cond": [is_mine, _ended(end), "$$line"]},
        }
    }


def _ended(end: dict[str, Any]) -> dict[str, Any]:
    """The line with its end; a yes stays, since it came late, but before we called it unknown."""
    yes = {"$eq": ["$$line.outcome", Outcome.ACCEPTED.value]}
    return {"$cond": [yes, "$$line", {"$mergeObjects": ["$$line", end]}]}


def _message_id(alike: Sequence[Change]) -> dict[str, Any]:
    """The vendor's id for the e-mail that is written."""
    ids = [change.result and change.result.message_id for change in alike]
    if all(each == ids[0] for each in ids):
        return {"$literal": ids[0]}
    which = {"$indexOfArray": [{"$literal": [change.id for change in alike]}, "$_id"]}
    return {"$arrayElemAt": [{"$literal": ids}, which]}


def _line_end(result: SendResult | None, message_id: dict[str, Any]) -> dict[str, Any]:
    if result is None:
        return {"ended_at": "$$NOW", "outcome": NOT_STARTED}
    suspect = {"content_suspect": True} if result.content_suspect else {}
    return suspect | {
        "ended_at": "$$NOW",
        "outcome": result.outcome.value,
        "code": {"$literal": result.code},
        "detail": {"$literal": result.detail},
        "message_id": message_id,
        "answered": result.answered,
        **_people("refused", result.refused),
        **_people("pending", result.pending),
    }


def _people(name: str, people: Sequence[str]) -> dict[str, Any]:
    """The first few, and how many there were."""
    if len(people) <= LISTED:
        return {name: {"$literal": list(people)}}
    return {name: {"$literal": list(people[:LISTED])}, f"{name}_count": len(people)}


def _pin_update(pin: Pin | None) -> Any:
    if pin is None:
        return None
    until = _after(max(0.0, pin.remaining))
    return {"vendor": pin.vendor, "key": pin.key, "until": until, "repeats": pin.repeats}


def _literal_list(values: Sequence[str] | None) -> Any:
    return None if values is None else {"$literal": list(values)}


def _overdue_at(decision: Decision) -> Any:
    """When a queued e-mail is announced again although its job should be there."""
    if decision.status is not Status.QUEUED:
        return "$$REMOVE"
    return {"$add": ["$$NOW", round(decision.delay * 1000), OVERDUE_MS]}


def _after(seconds: float) -> dict[str, Any]:
    return {"$add": ["$$NOW", round(seconds * 1000)]}


def is_written(change: Change, document: Document) -> bool:
    """Whether the transition is in the document, though the write matched nothing this time."""
    try:
        return _closed(change, document) if change.sending else _stands(change, document)
    except (LookupError, TypeError):
        return False


def _closed(change: Change, document: Document) -> bool:
    outcome = change.result.outcome.value if change.result else NOT_STARTED
    return any(
        line["token"] == change.token and line["outcome"] == outcome
        for line in document["attempts"]
    )


def _stands(change: Change, document: Document) -> bool:
    same = bool(document["lease"]["token"] == change.token)
    return same and document["status"] == change.decision.status.value
