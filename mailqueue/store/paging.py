"""Pages of e-mails by their age, ``created_at`` and then ``_id``; or by their end. Pure.

Decides: where a page begins that follows an e-mail, also one that is not stored any more; and what
of each e-mail is read for a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from bson import ObjectId

from mailqueue.store import ids
from mailqueue.store.document import Document, Stored

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
ENDED = "updated_at"  # of an e-mail that has ended
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def beyond(cursor: ObjectId, stored: Document | None, order: int) -> dict[str, Any]:
    """The e-mails that are older (``order`` -1) or newer than this one; None: it is gone."""
    at = None if stored is None else stored.get("created_at")
    if not isinstance(at, datetime):
        # An id that was made of the time tells where it was. One that follows from a key hardly
        # ever looks as if made lately; then it was older than all that are there.
        at = ids.time_of(cursor)
        at = at if at < datetime.now(UTC) + MAX_AHEAD else _LONG_AGO
    return _beyond("created_at", at, cursor, order)


def _beyond(field: str, at: datetime, cursor: ObjectId, order: int) -> dict[str, Any]:
    side = "$lt" if order < 0 else "$gt"
    same = {field: at, "_id": {side: cursor}}
    return {field: {f"{side}e": at}, "$or": [{field: {side: at}}, same]}


# An e-mail that is retried leaves the list of those that failed, with a new time. So a page of such
# a list begins at a time and an id, whatever has become of the e-mail that had them.


@dataclass(frozen=True, slots=True)
class End:
    """When an e-mail ended, and which of that millisecond it is. Its text is short."""

    at: datetime
    id: ObjectId

    @classmethod
    def of(cls, stored: Stored) -> Self:
        """That of an e-mail that has ended."""
        at = stored.document.get(ENDED)
        return cls(at if isinstance(at, datetime) else _LONG_AGO, stored.id)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ``ValueError``."""
        milliseconds, _, email_id = text.partition("-")
        try:
            at = _LONG_AGO + timedelta(milliseconds=int(milliseconds))
        except OverflowError as error:
            raise ValueError(text) from error
        return cls(at, ids.parse(email_id))

    def __str__(self) -> str:
        return f"{(self.at - _LONG_AGO) // timedelta(milliseconds=1)}-{self.id}"

    def beyond(self, order: int) -> dict[str, Any]:
        """Those that ended before (``order`` -1) or after this one."""
        return _beyond(ENDED, self.at, self.id, order)


def up_to(last: ObjectId, stored: Document | None) -> dict[str, Any]:
    """This e-mail, and all that are older; ``stored``: its document, None: it is gone."""
    return {"$or": [beyond(last, stored, -1), {"_id": last}]}


def steps(
    limit: int,
    order: int,
    place: Mapping[str, Any],
    match: Mapping[str, Any] | None,
    by: str = "created_at",
) -> list[dict[str, Any]]:
    """A page of those that match, from this place on; ``order`` -1: the newest first."""
    return [
        {"$match": {"$and": [place, match]} if match else place},
        {"$sort": {by: order, "_id": order}},
        {"$limit": limit},
    ]


def steps_by_end(
    ends: Sequence[Any], limit: int, order: int, scope: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The page of those in ``scope`` that ended at these times, summed up.

    The index has no id: it tells how far the page goes, and only what is in it is sorted. That is
    summed up before: whole e-mails may be too much for the server's memory.
    """
    bounds: dict[str, Any] = {}
    if len(ends) == limit and isinstance(ends[-1], datetime):
        bounds[ENDED] = {"$gte" if order < 0 else "$lte": ends[-1]}
    first, *rest = steps(limit, order, bounds, scope, ENDED)
    return [first, *SUMMARY, *rest]
