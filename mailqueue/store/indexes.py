"""The indexes of the collection of e-mails (MongoDB 6.0 or newer).

Decides: which indexes exist. ``idempotency_key`` unique where present; ``(status, env, due_at)`` of
what is queued or being sent, for the backlog, the relay and the leases; ``(env, overdue_at)`` for
what the relay repeats; ``(status, env, expires_at)`` where present; ``(status, env, updated_at)``
of what ended, for retention. A transition writes to as few of them as can be. Where MongoDB alone
is the queue, two more find what is due in its order (``reservations``).

Promises: an index that the server refuses is a ``ConfigError`` that names it: waiting would not
help.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Status
from mailqueue.store.transitions import FINAL

_PENDING = [status.value for status in Status if not status.final]
# By the names of their fields in order. Partial where that will do: an e-mail that has ended leaves
# the index, so that it stays as small as the queue.
INDEXES: Mapping[str, Mapping[str, Any]] = {
    "idempotency_key": {
        "unique": True,
        "partialFilterExpression": {"idempotency_key": {"$exists": True}},
    },
    "status env due_at _id": {"partialFilterExpression": {"status": {"$in": _PENDING}}},
    "env overdue_at": {"partialFilterExpression": {"overdue_at": {"$exists": True}}},
    "status env expires_at": {"partialFilterExpression": {"expires_at": {"$exists": True}}},
    "status env updated_at": {"partialFilterExpression": {"status": {"$in": FINAL}}},
}

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # before every time: what is later is a time
FOR_RESERVATIONS: Mapping[str, Mapping[str, Any]] = {
    "status env priority due_at overdue_at _id": {
        "partialFilterExpression": {"status": Status.QUEUED.value},
    },
    # Only retries: a consumer had them in its hands before.
    "status env priority due_at overdue_at clock_from _id": {
        "partialFilterExpression": {"status": Status.QUEUED.value, "clock_from": {"$gt": EPOCH}},
    },
}

# MongoDB's error codes of an index that cannot be made, and what to do about it.
_REFUSALS: Mapping[int, str] = {
    13: "the user may not create it",
    67: "the server cannot make it: MongoDB 6.0 or newer is needed",
    85: "there is one with other options: drop that",
    86: "there is another of its name (the fields, each with _1): drop that",
    11000: "two e-mails have the same value: another program writes to the collection",
}


def create(
    emails: Collection[dict[str, Any]], wanted: Mapping[str, Mapping[str, Any]] = INDEXES
) -> None:
    """Create the missing indexes. Raises ``ConfigError`` and the driver's exceptions."""
    for name, options in wanted.items():
        try:
            emails.create_index([(field, 1) for field in name.split()], **options)
        except OperationFailure as error:
            problem = _REFUSALS.get(error.code or 0)
            if problem is None:
                raise
            fields = name.replace(" ", ", ")
            words = f"the index on ({fields}) is refused: {problem}"
            raise ConfigError([f"mongodb.collection: {words}"]) from None


def find_missing(emails: Collection[dict[str, Any]]) -> list[str]:
    """The indexes that nobody has created yet, by their fields."""
    fields = [
        " ".join(field for field, _ in index["key"])
        for index in emails.index_information().values()
    ]
    return [name for name in INDEXES if name not in fields]
