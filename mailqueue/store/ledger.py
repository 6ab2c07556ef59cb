"""The ledger of an e-mail, ``attempts``: one line per attempt, as expressions in an update. Pure.

Decides: what a line holds when an attempt begins and when it ends. An attempt is written down
before it is made, so that an open line always means that a copy may have left.

Promises: the server computes each line from the document that it changes. Only the line of the
given token is touched, and a yes is never overwritten. A line is bounded, so that the ledger of an
e-mail of the largest size fits into the document beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, SendResult

LENGTH = 50
LISTED = 5  # recipients that a line names; the document has them all
NOT_STARTED = "not_started"
_LONG = ("detail", "refused", "pending")

# In an update with a pipeline the server reads "$name" as a field and "$$NAME" as a variable. What
# came from outside is wrapped in $literal, so that a vendor's code "$5 missing" stays a text.


def with_new_line(
    token: Any,
    vendor: str,
    key: Any,
    *,
    probe: bool,
    suppressed: Sequence[str] = (),
    unavailable: Sequence[str] = (),
    redirected: bool = False,
) -> dict[str, Any]:
    """The ledger with one more line, that of an attempt that is about to be made.

    ``suppressed``: the recipients that it leaves out, since they are on the suppression
    list, or not allowed (staging). ``unavailable``: the other vendors that were so.
    ``redirected``: whether somebody else gets it in the place of others (staging).
    """
    line = {
        "n": {"$add": [{"$ifNull": [{"$last": "$attempts.n"}, 0]}, 1]},
        "token": token,
        "vendor": {"$literal": vendor},
        "key": key,
        "probe": probe,
        "started_at": "$$NOW",
        "ended_at": None,
        "outcome": None,
        **(_recipients("suppressed", suppressed) if suppressed else {}),
        **({"unavailable": {"$literal": list(unavailable)}} if unavailable else {}),
        **({"redirected": True} if redirected else {}),
    }
    return {"$slice": [{"$concatArrays": ["$attempts", [line]]}, -LENGTH]}


def with_closed_line(token: Any, end: dict[str, Any]) -> dict[str, Any]:
    """The ledger in which the line of ``token`` has its ``end``, or what else is added to it."""
    is_mine = {"$eq": ["$$line.token", token]}
    return {
        "$map": {
            "input": "$attempts",
            "as": "line",
            "in": {"$cond": [is_mine, _line_with_end(end), "$$line"]},
        }
    }


def event_as_yes(token: Any, other_yes: dict[str, Any]) -> dict[str, Any]:
    """The fields that change where the outcome is unknown, and an event stands in its line.

    The event is the yes, and waits in ``late_accept`` as that of another attempt does
    (``other_yes``: there is one). It only fills in for what is not known: the vendor's own answer
    says more, of single recipients, say.
    """
    own = {"$eq": ["$$line.token", token]}
    line = {"$first": {"$filter": {"input": "$attempts", "as": "line", "cond": own}}}
    has_event = {"$eq": [{"$type": "$$own.event"}, "object"]}
    message_id = "$$own.event.message_id"
    yes = {
        "vendor": "$$own.vendor",
        "message_id": message_id,
        "refused": array("$refused"),
        "token": token,
        "at": "$$own.event.at",
    }
    end = {"outcome": Outcome.ACCEPTED.value, "message_id": message_id, "late": True}
    end["extra_copy"] = other_yes
    first = {"$and": [has_event, {"$not": [other_yes]}]}
    fields = {
        "late_accept": {"$cond": [first, yes, {"$ifNull": ["$late_accept", "$$REMOVE"]}]},
        "attempts": {"$cond": [has_event, with_closed_line(token, end), "$attempts"]},
    }
    return {name: {"$let": {"vars": {"own": line}, "in": new}} for name, new in fields.items()}


def only_closed_line(token: Any, end: dict[str, Any]) -> dict[str, Any]:
    """The line of ``token`` alone, in short: for a document that has no room for more."""
    mine = {"$eq": ["$$line.token", token]}
    lines = {"$filter": {"input": array("$attempts"), "as": "line", "cond": mine}}
    short = {name: value for name, value in end.items() if name not in _LONG} | {"cut": True}
    return {"$map": {"input": lines, "as": "line", "in": _line_with_end(short)}}


def _line_with_end(end: dict[str, Any]) -> dict[str, Any]:
    # A yes may have been written while this end was on its way: a worker lost its lease, another
    # one called the outcome unknown, and then the first one's yes came in. The yes stays.
    yes = {"$eq": ["$$line.outcome", Outcome.ACCEPTED.value]}
    return {"$cond": [yes, "$$line", {"$mergeObjects": ["$$line", end]}]}


def line_end(result: SendResult | None, message_id: dict[str, Any]) -> dict[str, Any]:
    """What is added to a line when its attempt is over; None: nothing was sent."""
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
        **_recipients("refused", result.refused),
        **_recipients("pending", result.pending),
    }


def _recipients(name: str, recipients: Sequence[str]) -> dict[str, Any]:
    """The first few, and how many there were."""
    first_few = {name: {"$literal": list(recipients[:LISTED])}}
    return (
        first_few if len(recipients) <= LISTED else {**first_few, f"{name}_count": len(recipients)}
    )


def array(value: str) -> dict[str, Any]:
    """The field if it is an array, else an empty one: in a damaged document it may be anything."""
    return {"$cond": [{"$isArray": value}, value, []]}
