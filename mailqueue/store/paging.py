"""Pages of e-mails by their age, ``created_at`` and then ``_id``. Pure.

Decides: where a page begins that follows an e-mail, also one that is not stored any more; and what
of each e-mail is read for a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from mailqueue.store import ids
from mailqueue.store.document import Document

MAX_AHEAD = timedelta(days=1)  # a producer's clock that is further ahead is not believed
HEADS: Sequence[dict[str, Any]] = (
    {"$unset": ["email.html", "email.alternatives", "email.attachments"]},
    {"$set": {"email.text": "", "now": "$$NOW"}},
)
"""Of an e-mail, what an application sees of it in a list."""
SUMMARY: Sequence[dict[str, Any]] = (
    {
        "$project": dict.fromkeys(
            (
                *("status", "reason", "vendor", "env", "priority", "created_at", "updated_at"),
                *("due_at", "hold", "unknowns", "pin", "email.tags"),
                *("attempts.n", "attempts.vendor", "attempts.code"),
            ),
            1,
        )
    },
    {"$set": {"now": "$$NOW"}},
)
"""Of an e-mail, what an operator sees: no address, no subject."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def beyond(cursor: ObjectId, stored: Document | None, order: int) -> dict[str, Any]:
    """The e-mails that are older (``order`` -1) or newer than this one; None: it is gone."""
    at = None if stored is None else stored.get("created_at")
    if not isinstance(at, datetime):
        # An id that was made of the time tells where it was. One that follows from a key hardly
        # ever looks as if made lately; then it was older than all that are there.
        at = ids.time_of(cursor)
        at = at if at < datetime.now(UTC) + MAX_AHEAD else _LONG_AGO
    side = "$lt" if order < 0 else "$gt"
    same = {"created_at": at, "_id": {side: cursor}}
    return {"created_at": {f"{side}e": at}, "$or": [{"created_at": {side: at}}, same]}


def up_to(last: ObjectId, stored: Document | None) -> dict[str, Any]:
    """This e-mail, and all that are older; ``stored``: its document, None: it is gone."""
    return {"$or": [beyond(last, stored, -1), {"_id": last}]}


def steps(
    limit: int, order: int, place: Mapping[str, Any], match: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """A page of those that match, from this place on; ``order`` -1: the newest first."""
    return [
        {"$match": {"$and": [place, match]} if match else place},
        {"$sort": {"created_at": order, "_id": order}},
        {"$limit": limit},
    ]
