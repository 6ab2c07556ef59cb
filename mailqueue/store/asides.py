"""Ending an e-mail whose document is damaged, so that a person sees it. Pure.

Decides: what it becomes, asking the document for as little as can be.
"""

from __future__ import annotations

from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, Reason, Status
from mailqueue.store.ledger import array
from mailqueue.store.transitions import HAS_LATE_YES, Pipeline, current, sent_fields

_TRACES_OF_A_COPY = ("pin", "pending", "late_accept", "sent_at")

# Aside: damaged → failed or uncertain ------------------------------------------------------------
#
# Rule: an e-mail that cannot be read, is not final, and still looks as it was seen, ends, so that a
# person sees it: as ``sent`` where a late yes stands in it, as ``failed`` where all that is there
# proves that no copy left, else as ``uncertain``. Nothing else of it is touched.
#
#   before  {status: "queued", attempts: "oops", unknowns: 0}
#   after   {status: "uncertain", reason: "unreadable", attempts: "oops", unknowns: 0}


def aside_update(simulated: bool) -> Pipeline:
    """End what cannot be read, and leave all else as it is for a person to look at."""
    sending = {"$eq": ["$status", Status.SENDING.value]}
    yes = {"$and": [sending, {"$or": [HAS_LATE_YES, {"$ne": [_event("at"), None]}]}]}
    end = {"$cond": [_no_copy_left(), Status.FAILED.value, Status.UNCERTAIN.value]}
    sent: dict[str, Any] = {
        "vendor": {"$ifNull": ["$late_accept.vendor", _event("vendor")]},
        "vendor_message_id": {"$ifNull": ["$late_accept.message_id", _event("message_id")]},
        **sent_fields(simulated),
    }
    fields = {field: {"$cond": [yes, value, current(field)]} for field, value in sent.items()}
    fields["status"] = {"$cond": [yes, Status.SENT.value, end]}
    fields["reason"] = {"$cond": [yes, None, Reason.UNREADABLE.value]}
    clocks = {"due_at": None, "overdue_at": "$$REMOVE", "updated_at": "$$NOW"}
    return [{"$set": fields | clocks}]


def _event(name: str) -> dict[str, Any]:
    """What a vendor's event in a line of the ledger says; null: there is none."""
    has_event = {"$eq": [{"$type": "$$line.event"}, "object"]}
    lines = {"$filter": {"input": array("$attempts"), "as": "line", "cond": has_event}}
    value = "$$line.vendor" if name == "vendor" else f"$$line.event.{name}"
    return {"$let": {"vars": {"line": {"$first": lines}}, "in": {"$ifNull": [value, None]}}}


def _no_copy_left() -> dict[str, Any]:
    """Whether no copy left our hands; where that cannot be read, one may have."""
    lines = {"$cond": [{"$isArray": "$attempts"}, "$attempts", [{}]]}
    outcome = {"$ifNull": ["$$line.outcome", None]}
    may_be_copy = {"$in": [outcome, [None, Outcome.UNKNOWN.value, Outcome.ACCEPTED.value]]}
    has_copy = {"$anyElementTrue": [{"$map": {"input": lines, "as": "line", "in": may_be_copy}}]}
    no_traces = [
        {"$in": [{"$type": f"${name}"}, ["missing", "null"]]} for name in _TRACES_OF_A_COPY
    ]
    is_queued = {"$eq": ["$status", Status.QUEUED.value]}
    return {"$and": [is_queued, {"$eq": ["$unknowns", 0]}, *no_traces, {"$not": [has_copy]}]}
