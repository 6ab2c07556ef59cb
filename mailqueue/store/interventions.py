"""What a person or an application does with e-mails: retry, mark as sent, cancel, reschedule. Pure.

Decides: which e-mails each of these may change (the guard), what it writes, and why an e-mail was
not changed.

Assumes: as ``transitions``: guard and update are one step on the server.

Promises: every intervention is written into the e-mail's own list, with the ledger kept, so that
``audit`` can tell what was asked for. ``nonce`` makes a repeated write change nothing. A retry
keeps ``unknowns``: a copy may have left before it, so that no later end is called failed, and the
next unknown outcome parks the e-mail again; one retry is one more copy at most. It also keeps
``pending``: recipients that have received the e-mail do not get it again.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from bson import ObjectId

from mailqueue.errors import Unreadable
from mailqueue.lifecycle.outcomes import Reason, Status
from mailqueue.store.document import LARGEST_TOKEN, Stored
from mailqueue.store.transitions import OVERDUE_MS, UNEXPIRED, Filter, Pipeline

LIST_LENGTH = 50
_LARGEST = 2**31  # of what is counted up


class Verb(StrEnum):
    """What a person may do with an e-mail."""

    RETRY = "retry"
    MARK_SENT = "mark-sent"
    CANCEL = "cancel"

    @property
    def statuses(self) -> tuple[Status, ...]:
        """The statuses of the e-mails that it may change."""
        if self is Verb.CANCEL:
            return (Status.QUEUED,)
        return (Status.FAILED, Status.UNCERTAIN)


END_REASONS = {Verb.MARK_SENT: Reason.MARKED_SENT, Verb.CANCEL: Reason.CANCELLED}


# The guards, and what each verb writes -----------------------------------------------------------
#
# Each is one update of the e-mails that a person chose: {"_id": {"$in": [...]}}, the guard, and
# {"interventions.nonce": {"$ne": NONCE}}. The nonce is of this command: when its reply was lost and
# it is repeated, the e-mails that have it already are passed over, and it tells afterwards which
# e-mails were changed. (``Producer.cancel`` asks for one e-mail and writes no entry.)
#
# Retry: an e-mail that is failed or uncertain, whose content is still kept and whose time has not
# passed, is queued as if it were new. ``unknowns``, the ledger and ``pending`` stay.
#
#   before  {status: "failed", reason: "rejected", lease: {token: 3}, counted: 3,
#            round: {n: 2, tried: ["ses"], refused: []}}
#   after   {status: "queued", reason: null, lease: {token: 3}, counted: 0, clock_from: NOW,
#            round: {n: 0, tried: [], refused: []}, overdue_at: NOW + 900 s,
#            interventions: [{n: 1, verb: "retry", was: "failed", reason: "rejected", token: 3,
#                             at: NOW, nonce: NONCE, by: "ann@ops"}]}
#
# Mark as sent: an e-mail that is failed or uncertain is sent, as a person found out elsewhere.
#
#   before  {status: "uncertain", reason: "unknown", unknowns: 2}
#   after   {status: "sent", reason: "marked_sent", sent_at: NOW, unknowns: 2, interventions: […]}
#
# Cancel: an e-mail that is queued, and that no recipient has got, is not sent any more. It is
# cancelled only if surely no copy left: an outcome that is unknown makes it uncertain. A pin stands
# for one more of these, that is not counted yet.
#
#   before  {status: "queued", unknowns: 0, pin: null}
#   after   {status: "cancelled", reason: "cancelled", unknowns: 0, pin: null}
#   before  {status: "queued", unknowns: 0, pin: {vendor: "resend", …}}
#   after   {status: "uncertain", reason: "cancelled", unknowns: 1, pin: null}


def guard(verb: Verb) -> Filter:
    """The e-mails that a person may change in this way."""
    match: Filter = {"status": {"$in": [status.value for status in verb.statuses]}}
    if verb is Verb.CANCEL:
        return {**match, "pending": None}  # what some have received goes on to the others
    if verb is Verb.RETRY:
        whole = {"email": {"$exists": True}, "content_dropped_at": None}
        return {**match, **whole, "$expr": UNEXPIRED}
    return match


def update(verb: Verb, nonce: ObjectId, by: str = "") -> Pipeline:
    """Make the change, and note in the list of interventions what the e-mail was before.

    ``by``: who asked for it.
    """
    entry = {
        "n": {"$add": [_number({"$last": {"$map": {"input": _LIST, "in": "$$this.n"}}}), 1]},
        "verb": verb.value,
        "was": "$status",
        "reason": {"$ifNull": ["$reason", None]},
        "token": {"$ifNull": ["$lease.token", None]},
        "at": "$$NOW",
        "nonce": nonce,
        **({"by": {"$literal": by}} if by else {}),
    }
    entries = {"$concatArrays": [_LIST, [entry]]}
    return [{"$set": _fields(verb) | {"interventions": {"$slice": [entries, -LIST_LENGTH]}}}]


# In a damaged document these may be of any type; what a person decides is written all the same.
_LIST = {"$cond": [{"$isArray": "$interventions"}, "$interventions", []]}


def _number(value: Any) -> dict[str, Any]:
    return {"$cond": [{"$and": [{"$gte": [value, 0]}, {"$lt": [value, _LARGEST]}]}, value, 0]}


def _fields(verb: Verb) -> dict[str, Any]:
    match verb:
        case Verb.RETRY:
            return retry_fields()
        case Verb.MARK_SENT:
            return mark_sent_fields()
        case Verb.CANCEL:
            return cancel_fields()
        case _:
            assert_never(verb)


def retry_fields() -> dict[str, Any]:
    """Queued with clocks, round and count anew.

    The refused recipients are forgotten, since all are tried again; but not while ``pending`` lists
    those that are left.
    """
    asks_all = {"$eq": [{"$ifNull": ["$pending", None]}, None]}
    return {
        "status": Status.QUEUED.value,
        "reason": None,
        "due_at": None,
        "clock_from": "$$NOW",
        "round": {"n": 0, "tried": [], "refused": []},
        "counted": 0,
        "pin": None,
        "refused": {"$cond": [asks_all, None, {"$ifNull": ["$refused", None]}]},
        "announced": None,
        "overdue_at": {"$add": ["$$NOW", OVERDUE_MS]},
        "updated_at": "$$NOW",
    }


def mark_sent_fields() -> dict[str, Any]:
    """Sent, as far as a person knows."""
    return {
        "status": Status.SENT.value,
        "reason": Reason.MARKED_SENT.value,
        "sent_at": "$$NOW",
        "overdue_at": "$$REMOVE",
        "pending": None,
        "updated_at": "$$NOW",
    }


def cancel_fields() -> dict[str, Any]:
    """Cancelled; uncertain if a copy may have left."""
    is_pinned = {"$gt": ["$pin", None]}
    may_have_left = {"$or": [{"$ne": ["$unknowns", 0]}, is_pinned]}
    return {
        "status": {"$cond": [may_have_left, Status.UNCERTAIN.value, Status.CANCELLED.value]},
        "reason": Reason.CANCELLED.value,
        "due_at": None,
        "overdue_at": "$$REMOVE",
        "hold": "$$REMOVE",
        "unknowns": {"$add": [_number("$unknowns"), {"$cond": [is_pinned, 1, 0]}]},
        "pin": None,
        "updated_at": "$$NOW",
    }


# Reschedule: queued stays queued -----------------------------------------------------------------
#
# Rule: an e-mail that is queued, has no line in its ledger, and does not expire before its new time
# is sent at that time instead. The token grows as with a claim: what a consumer has read of the
# e-mail is out of date. It may be about to claim it, or, where no vendor could be asked, to put it
# off for less. The age of the e-mail, for ``retry.give_up_after``, begins anew at the new time.
#
#   before  {status: "queued", attempts: [], lease: {token: 0}, send_at: T, due_at: T,
#            overdue_at: T + 900 s, clock_from: null}
#   after   {status: "queued", attempts: [], lease: {token: 1}, send_at: U, due_at: U,
#            overdue_at: U + 900 s, clock_from: null}


def reschedule_filter(email_id: ObjectId, send_at: datetime) -> Filter:
    """Queued, never tried, and not expired by then."""
    return {
        "_id": email_id,
        "status": Status.QUEUED.value,
        "attempts": [],
        "lease.token": {"$gte": 0, "$lt": LARGEST_TOKEN},
        "$or": [{"expires_at": None}, {"expires_at": {"$gt": send_at}}],
    }


def reschedule_update(send_at: datetime) -> Pipeline:
    """Due at another time, and nobody's decision about it counts any more."""
    return [
        {
            "$set": {
                "send_at": send_at,
                "due_at": send_at,
                "lease.token": {"$add": ["$lease.token", 1]},
                "clock_from": None,
                "hold": "$$REMOVE",
                "announced": None,
                "overdue_at": {"$add": [{"$max": ["$$NOW", send_at]}, OVERDUE_MS]},
                "updated_at": "$$NOW",
            }
        }
    ]


def refusal(verb: Verb, stored: Stored | None) -> str:
    """Why an e-mail was not changed, as it is now."""
    if stored is None:
        return "there is no such e-mail"
    changed = "it was changed meanwhile, or its content is no longer stored"
    return obstacle(verb, stored) or changed


def obstacle(verb: Verb, stored: Stored) -> str | None:
    """Why the guard of ``verb`` lets this e-mail alone; None: it does not, as far as is seen."""
    try:
        if verb is Verb.RETRY and stored.document.get("content_dropped_at") is not None:
            return f"is {stored.status}, and its content is no longer stored"
        if stored.status not in verb.statuses:
            return f"is {stored.status}, but {verb} needs {' or '.join(verb.statuses)}"
        if verb is Verb.RETRY and stored.expires_in is not None and stored.expires_in <= 0:
            return "its expires_at has passed"
    except Unreadable:
        return "its document is damaged: see mailqueue audit"
    if verb is Verb.CANCEL and stored.document.get("pending") is not None:
        return "some recipients have received it already, so the others get it too"
    return None
