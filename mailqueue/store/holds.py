"""How an e-mail that waits for the end of a hold is put back. Pure.

Decides: what becomes of its clocks. ``transitions`` puts it under the hold, with a time that never
comes: so neither a consumer nor the sweeper looks at it, and the index on ``due_at`` finds it.

Promises: as ``transitions``.
"""

from __future__ import annotations

from collections.abc import Sequence

from bson import ObjectId

from mailqueue.lifecycle.outcomes import Status
from mailqueue.store.document import HELD
from mailqueue.store.transitions import OVERDUE_MS, Filter, Pipeline, current

# Put back: held → due ----------------------------------------------------------------------------
#
# Rule: an e-mail that is still queued, and waits for the end of a hold, is due. The time for which
# it waited is not part of its age.
#
#   before  {status: "queued", due_at: HELD, hold: "tag:news", clock_from: 09:00, updated_at: 09:05}
#   after   {status: "queued", due_at: null, clock_from: NOW - 5 min, overdue_at: NOW + 900 s}


def put_back_filter(ids: Sequence[ObjectId]) -> Filter:
    """Those of them that are held."""
    return {"_id": {"$in": list(ids)}, "status": Status.QUEUED.value, "due_at": HELD}


def put_back_update() -> Pipeline:
    """Due at once; who is held still is held again when a consumer reads it."""
    dates = [{"$eq": [{"$type": field}, "date"]} for field in ("$clock_from", "$updated_at")]
    later = {"$add": ["$clock_from", {"$subtract": ["$$NOW", "$updated_at"]}]}
    return [
        {
            "$set": {
                "due_at": None,
                "hold": "$$REMOVE",
                "clock_from": {"$cond": [{"$and": dates}, later, current("clock_from")]},
                "overdue_at": {"$add": ["$$NOW", OVERDUE_MS]},
                "updated_at": "$$NOW",
            }
        }
    ]
