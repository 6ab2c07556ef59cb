"""What vendors' events change in an e-mail: the guard before each write, and its update. Pure.

Decides: how far each recipient has come (``STEPS``), what stands beside that (``MARKS``), and when
an event settles an attempt.

Promises: events may come in any order and any number of times. A recipient only goes up the steps,
and marks are only added, so the same events always end in the same document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bson import ObjectId

from mailqueue.lifecycle.outcomes import Outcome, SendResult, Status
from mailqueue.store import ledger
from mailqueue.store.callbacks import Noting
from mailqueue.store.transitions import Filter, Pipeline, Write, late_yes_update, same_email

STEPS = (
    *("queued", "sent", "deferred", "delivered", "bounced_soft", "failed", "rejected"),
    "bounced_hard",
)
"""From the least to the most that is known: a bounce may follow a delivery, not the reverse."""

MARKS = ("complained", "unsubscribed", "opened", "clicked", "autoresponded")
SUMMARIES = {"bounced_soft": "bounced", "bounced_hard": "bounced"}
COMPLAINED = "complained"

# Delivery: any → the same, one recipient further --------------------------------------------------
#
# Rule: an event of a vendor that was asked to send the e-mail moves the recipient to its step, if
# that is above the one that stands there. The summary is the highest step of all recipients, or
# ``complained``. The status of the e-mail does not change, nor does ``updated_at``, from which
# retention counts.
#
#   before  {status: "sent", attempts: [{vendor: "ses", …}], delivery: {"0": "deferred"}}
#   after   {status: "sent", attempts: [{vendor: "ses", …}], delivery: {"0": "delivered"},
#            delivery_summary: "delivered"}
#
# A mark stands beside the step: delivery_marks: {"0": {opened: true}}.


def delivery_filter(ids: Sequence[ObjectId], vendor: str) -> Filter:
    """Those of them that this vendor was asked to send."""
    return {"_id": {"$in": list(ids)}, "attempts.vendor": vendor}


def delivery_update(recipient: int, word: str, noting: Noting) -> Pipeline:
    """Move the recipient to the step ``word``, or add that mark; note it if that is news."""
    if word in MARKS:
        name = f"delivery_marks.{recipient}.{word}"
        is_news: Any = {"$ne": [f"${name}", True]}
        change: dict[str, Any] = {name: True}
    else:
        name = f"delivery.{recipient}"
        is_news = {"$gt": [STEPS.index(word), _step(f"${name}")]}
        change = {name: {"$cond": [is_news, word, f"${name}"]}}
    change |= noting.with_step(recipient, word, is_news)
    return [{"$set": change}, {"$set": {"delivery_summary": _summary()}}]


def _step(word: Any) -> dict[str, Any]:
    """Its number; -1: none of the steps."""
    return {"$indexOfArray": [list(STEPS), word]}


def _values(field: str) -> dict[str, Any]:
    """What an object holds, without its keys; anything else holds nothing."""
    is_object = {"$eq": [{"$type": f"${field}"}, "object"]}
    return {"$objectToArray": {"$cond": [is_object, f"${field}", {}]}}


def _summary() -> dict[str, Any]:
    steps = {"$map": {"input": _values("delivery"), "as": "entry", "in": _step("$$entry.v")}}
    words = [SUMMARIES.get(word, word) for word in STEPS]
    complaints = {
        "$map": {
            "input": _values("delivery_marks"),
            "as": "entry",
            "in": {"$eq": [f"$$entry.v.{COMPLAINED}", True]},
        }
    }
    highest = {"$max": steps}
    step = {
        "$cond": [{"$gte": [highest, 0]}, {"$arrayElemAt": [words, highest]}, "$$REMOVE"],
    }
    return {"$cond": [{"$anyElementTrue": [complaints]}, COMPLAINED, step]}


# Event: sending → the same; unknown → sent --------------------------------------------------------
#
# Rule: an event proves that its vendor took the e-mail. An attempt whose outcome is unknown has
# then had a yes, late. While the attempt is still under way, its settlement knows more: the event
# waits in the attempt's line, and counts only if the outcome turns out unknown, after the rescue of
# a dead worker's e-mail, say. ``late_accept`` is for earlier attempts: one may have had a yes, too.
#
#   before  {status: "sending", lease: {token: 1, …}, attempts: [{token: 1, outcome: null}]}
#   after   {…, attempts: [{token: 1, outcome: null, event: {message_id: "x", at: NOW}}]}
#   then    {status: "sent", attempts: [{token: 1, outcome: "accepted", late: true, …}]}
#
#   before  {status: "uncertain", attempts: [{token: 1, outcome: "unknown"}]}
#   after   {status: "sent", attempts: [{token: 1, outcome: "accepted", late: true}]}


def open_attempt_write(
    email_id: ObjectId, token: int, message_id: str | None, *, incarnation: ObjectId | None = None
) -> Write:
    """For an attempt that is under way. Write it before ``unknown_attempt_write``."""
    line = {"token": token, "outcome": None, "event": None}
    is_open = {
        **same_email(email_id, incarnation),
        "status": Status.SENDING.value,
        "lease.token": token,
        "attempts": {"$elemMatch": line},
    }
    event = {"message_id": {"$literal": message_id}, "at": "$$NOW"}
    lines = ledger.with_closed_line(token, {"event": event})
    return is_open, [{"$set": {"attempts": lines, "updated_at": "$$NOW"}}]


def unknown_attempt_write(
    email_id: ObjectId,
    token: int,
    vendor: str,
    message_id: str | None,
    *,
    simulated: bool,
    incarnation: ObjectId | None = None,
) -> Write:
    """For an attempt whose outcome is unknown, also one that ended so since it was read."""
    unknown = {"token": token, "outcome": Outcome.UNKNOWN.value}
    is_unknown = {**same_email(email_id, incarnation), "attempts": {"$elemMatch": unknown}}
    result = SendResult(outcome=Outcome.ACCEPTED, code="event", message_id=message_id)
    return is_unknown, late_yes_update(token, vendor, result, simulated)
