"""The indexes of the collection of e-mails (MongoDB 6.0 or newer).

Decides: which indexes exist. ``(created_at, _id)`` for lists by age; ``(status, env, due_at)`` of
what is queued or being sent, for the backlog, the relay and the leases; ``(env, overdue_at)`` for
what the relay repeats; ``(status, env, expires_at)`` where present; ``(status, env, updated_at)``
of what ended, for retention and lists by the end. A transition writes to as few of them as can be.
Where MongoDB alone is the queue, two more find what is due in its order (``reservations``).

A key is kept to one e-mail by the ``_id`` that follows from it (``ids.of_key``). Older versions
gave an e-mail with a key any ``_id``, and had a unique index on it. That stays where it is: their
e-mails are found by it, and their producers may still run. Where there are such e-mails without it,
in a collection that lacks an index of ours (restored from a dump, say), it is made again.

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
from mailqueue.store.document import CLOCK_TOKEN
from mailqueue.store.transitions import FINAL

_PENDING = [status.value for status in Status if not status.final]
# By the names of their fields in order. Partial where that will do: an e-mail that has ended leaves
# the index, so that it stays as small as the queue.
INDEXES: Mapping[str, Mapping[str, Any]] = {
    "created_at _id": {},
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

# With ``retention.searchable``. Not partial: what is older has no list, and is found by that.
FOR_SEARCH: Mapping[str, Mapping[str, Any]] = {
    "recipients created_at _id": {},
    "email.tags created_at _id": {},
}

_KEY = "idempotency_key"  # an index of older versions
KEY_INDEX = [(_KEY, 1)]
_KEY_OPTIONS: Mapping[str, Any] = {
    "unique": True,
    "partialFilterExpression": {"idempotency_key": {"$exists": True}},
}
# E-mails with a key and any ``_id``: their tokens did not begin with the clock.
_OLD_KEYS: Mapping[str, Any] = {
    "idempotency_key": {"$exists": True},
    "lease.token": {"$not": {"$gte": CLOCK_TOKEN}},
}

# MongoDB's error codes of an index that cannot be made, and what to do about it.
_REFUSALS: Mapping[int, str] = {
    13: "the user may not create it",
    67: "the server cannot make it: MongoDB 6.0 or newer is needed",
    85: "there is one with other options: drop that",
    86: "there is another of its name (the fields, each with _1): drop that",
    11000: "two e-mails have the same value: another program writes to the collection",
}


Indexes = Mapping[str, Mapping[str, Any]]


def wanted(*, reservations: bool, search: bool) -> Indexes:
    """The indexes that there should be."""
    reserving = FOR_RESERVATIONS if reservations else {}
    return {**INDEXES, **reserving, **(FOR_SEARCH if search else {})}


def create(emails: Collection[dict[str, Any]], wanted: Indexes = INDEXES) -> bool:
    """Create the missing indexes; returns whether there is one on keys, of an older version.

    Raises ``ConfigError`` and the driver's exceptions.
    """
    present = _names(emails)
    has_key_index = _KEY in present
    # To look through all e-mails is no more work than to make an index of them.
    if not has_key_index and not wanted.keys() <= present:
        has_key_index = has_old_keys(emails)
        if has_key_index:
            _create(emails, _KEY, _KEY_OPTIONS)
    for name, options in wanted.items():
        _create(emails, name, options)
    return has_key_index


def _create(emails: Collection[dict[str, Any]], name: str, options: Mapping[str, Any]) -> None:
    try:
        emails.create_index([(field, 1) for field in name.split()], **options)
    except OperationFailure as error:
        problem = _REFUSALS.get(error.code or 0)
        if problem is None:
            raise
        fields = name.replace(" ", ", ")
        words = f"the index on ({fields}) is refused: {problem}"
        raise ConfigError([f"mongodb.collection: {words}"]) from None


def _names(emails: Collection[dict[str, Any]]) -> set[str]:
    """The indexes that are there, by their fields."""
    present = emails.index_information().values()
    return {" ".join(field for field, _ in index["key"]) for index in present}


def find_missing(emails: Collection[dict[str, Any]], wanted: Indexes = INDEXES) -> list[str]:
    """The indexes that nobody has created yet, by their fields."""
    present = _names(emails)
    return [name for name in wanted if name not in present]


def has_key_index(emails: Collection[dict[str, Any]]) -> bool:
    """Whether there is the one on keys, of an older version."""
    return _KEY in _names(emails)


def has_old_keys(emails: Collection[dict[str, Any]]) -> bool:
    """Whether an e-mail has a key and any ``_id``; this looks through all of them."""
    return emails.find_one(_OLD_KEYS, {"_id": 1}) is not None
