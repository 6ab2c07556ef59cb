"""Noting that the sweeper announced e-mails once more. Pure.

Decides: when an e-mail that is queued, and was announced again, is overdue the next time.
"""

from __future__ import annotations

from collections.abc import Sequence

from bson import ObjectId

from mailqueue.lifecycle.outcomes import ANNOUNCEMENTS, Status
from mailqueue.store.transitions import OVERDUE_MS, Filter, Pipeline

# Announced: queued stays queued ------------------------------------------------------------------
#
# Rule: an e-mail that the sweeper put on the tube once more, and that is still queued, is overdue
# again after four times as long as the last time, and after ``ANNOUNCEMENTS`` times it is left
# alone. An attempt begins this anew (``change_update``). In a damaged document the count may be
# anything: it is brought into bounds.
#
#   before  {status: "queued", priority: 65536, announced: null, overdue_at: NOW - 1 s}
#   after   {status: "queued", priority: 65536, announced: {at: NOW, n: 1},
#            overdue_at: NOW + 4 * 900 s}


def announcement_filter(ids: Sequence[ObjectId]) -> Filter:
    """Those of them that are still queued."""
    return {"_id": {"$in": list(ids)}, "status": Status.QUEUED.value}


def announcement_update() -> Pipeline:
    """Count it, and say when it is overdue again."""
    count = {"$cond": [{"$isNumber": "$announced.n"}, "$announced.n", 0]}
    n = {"$add": [{"$max": [0, {"$min": [count, ANNOUNCEMENTS]}]}, 1]}
    later = {"$add": ["$$NOW", {"$multiply": [OVERDUE_MS, {"$pow": [4, "$announced.n"]}]}]}
    again = {"$cond": [{"$lt": ["$announced.n", ANNOUNCEMENTS]}, later, "$$REMOVE"]}
    return [
        {"$set": {"announced": {"$mergeObjects": [{"at": "$$NOW", "n": n}]}}},
        {"$set": {"overdue_at": again}},  # a second step: it reads the new count
    ]
