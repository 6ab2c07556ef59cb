"""What a person does with e-mails: retry, mark as sent, cancel. Pure.

Decides: which e-mails each of these may change (the guard), what it writes, and what is said about
an e-mail that it may not change.

Assumes: as ``transitions``: guard and update are one step on the server.

Promises: every intervention is written into the e-mail's own list, with the ledger kept, so that
``audit`` can tell what was asked for. ``nonce`` makes a repeated write change nothing. A retry
keeps ``unknowns``: a copy may have left before it, so that no later end is called failed, and the
next unknown outcome parks the e-mail again; one retry is one more copy at most. It also keeps
``pending``: recipients who have got the e-mail are not sent it again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, assert_never

from bson import ObjectId

from mailqueue.errors import Unreadable
from mailqueue.lifecycle.outcomes import Reason, Status
from mailqueue.store.document import Stored
from mailqueue.store.transitions import OVERDUE_MS, UNEXPIRED, Filter, Pipeline

LIST_LENGTH = 50
_LARGEST = 2**31  # of what is counted up


class Verb(StrEnum):
    """What a person may do with an e-mail."""

    RETRY = "retry"
    MARK_SENT = "mark-sent"
    CANCEL = "cancel"

    @property
    def takes(self) -> tuple[Status, ...]:
        """The statuses that it changes."""
        if self is Verb.CANCEL:
            return (Status.QUEUED,)
        return (Status.FAILED, Status.UNCERTAIN)


def guard(verb: Verb) -> Filter:
    """Which e-mails a person may change so."""
    match: Filter = {"status": {"$in": [status.value for status in verb.takes]}}
    if verb is Verb.CANCEL:
        return {**match, "pending": None}  # what some have got already goes on to the others
    if verb is Verb.RETRY:
        return {**match, "email": {"$exists": True}, "$expr": UNEXPIRED}
    return match


def update(verb: Verb, nonce: ObjectId) -> Pipeline:
    """Write it down, and in the list of interventions what the e-mail was before."""
    entry = {
        "n": {"$add": [_number({"$last": {"$map": {"input": _LIST, "in": "$$this.n"}}}), 1]},
        "verb": verb.value,
        "was": "$status",
        "reason": {"$ifNull": ["$reason", None]},
        "token": {"$ifNull": ["$lease.token", None]},
        "at": "$$NOW",
        "nonce": nonce,
    }
    kept = {"$concatArrays": [_LIST, [entry]]}
    return [{"$set": _fields(verb) | {"interventions": {"$slice": [kept, -LIST_LENGTH]}}}]


# Of whatever type these are in a damaged document, a person's word is written down.
_LIST = {"$cond": [{"$isArray": "$interventions"}, "$interventions", []]}


def _number(value: Any) -> dict[str, Any]:
    return {"$cond": [{"$and": [{"$gte": [value, 0]}, {"$lt": [value, _LARGEST]}]}, value, 0]}


def _fields(verb: Verb) -> dict[str, Any]:
    match verb:
        case Verb.RETRY:
            return retried()
        case Verb.MARK_SENT:
            return marked_sent()
        case Verb.CANCEL:
            return cancelled()
        case _:
            assert_never(verb)


def retried() -> dict[str, Any]:
    """Queued with clocks, round and count anew; a fresh start forgets who was refused before."""
    fresh = {"$eq": [{"$ifNull": ["$pending", None]}, None]}
    return {
        "status": Status.QUEUED.value,
        "reason": None,
        "due_at": None,
        "clock_from": "$$NOW",
        "round": {"n": 0, "tried": [], "refused": []},
        "counted": 0,
        "pin": None,
        "refused": {"$cond": [fresh, None, {"$ifNull": ["$refused", None]}]},
        "announced": None,
        "overdue_at": {"$add": ["$$NOW", OVERDUE_MS]},
        "updated_at": "$$NOW",
    }


def marked_sent() -> dict[str, Any]:
    """Sent, as far as a person knows."""
    return {
        "status": Status.SENT.value,
        "reason": Reason.MARKED_SENT.value,
        "sent_at": "$$NOW",
        "overdue_at": "$$REMOVE",
        "pending": None,
        "updated_at": "$$NOW",
    }


def cancelled() -> dict[str, Any]:
    """Cancelled; uncertain if a copy may have left: a pin stands for an unknown outcome too."""
    pinned = {"$gt": ["$pin", None]}
    left = {"$or": [{"$ne": ["$unknowns", 0]}, pinned]}
    return {
        "status": {"$cond": [left, Status.UNCERTAIN.value, Status.CANCELLED.value]},
        "reason": Reason.CANCELLED.value,
        "due_at": None,
        "overdue_at": "$$REMOVE",
        "unknowns": {"$add": [_number("$unknowns"), {"$cond": [pinned, 1, 0]}]},
        "pin": None,
        "updated_at": "$$NOW",
    }


def refusal(verb: Verb, stored: Stored | None) -> str:
    """Why an e-mail was not changed, as it is now."""
    if stored is None:
        return "there is no such e-mail"
    try:
        if stored.status not in verb.takes:
            return f"is {stored.status}, but {verb} needs {' or '.join(verb.takes)}"
        if verb is Verb.RETRY and stored.expires_in is not None and stored.expires_in <= 0:
            return "its expires_at has passed"
    except Unreadable:
        return "its document is damaged: see mailqueue audit"
    if verb is Verb.CANCEL and stored.document.get("pending") is not None:
        return "some recipients have received it already, so the others get it too"
    return "it was changed meanwhile, or its content is no longer stored"
