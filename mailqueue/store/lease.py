"""A lease that one process at a time holds, in ``<collection>.leases``. The sweeper has one.

Decides: who holds it. Taking, keeping and giving back are one guarded write each.

Assumes: the holder takes it again before it ends; a holder that is late does no harm.

Promises: all times are the server's. A lease that a damaged document gives for ever ends all the
same. Raises ``StoreUnavailable``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pymongo.errors import DuplicateKeyError

from mailqueue.store.document import LONGEST_LEASE
from mailqueue.store.mongo import Mongo

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class ProcessLease:
    """The lease of this ``name``, for the process that calls itself ``owner``.

    ``queue``: at which queue the holder waits, for people.
    """

    def __init__(self, mongo: Mongo, name: str, owner: str = "", queue: str = "") -> None:
        self._mongo = mongo
        self._leases = mongo.collection(".leases")
        self._name = name
        self._owner = owner
        self._queue = queue

    # Take: free, over or mine → mine for so long
    #
    # Rule: the lease is mine if it was mine already, if its time has passed, or if nobody ever made
    # it. To make it without a time, and only then to take it, keeps this to one way of taking.
    #
    #   before  {_id: "sweeper.production", owner: "web-1:…", queue: "mongodb", until: NOW - 3 s}
    #   after   {_id: "sweeper.production", owner: "web-2:…", queue: "mongodb", until: NOW + 120 s}

    def take(self, seconds: float) -> bool:
        """Take it, or keep it, for so long from now on; False: another process holds it."""
        mine_or_over = {
            "_id": self._name,
            "$or": [{"owner": self._owner}, {"$expr": lease_has_ended("$until")}],
        }
        until = {"$add": ["$$NOW", round(seconds * 1000)]}
        holder = {"owner": {"$literal": self._owner}, "queue": {"$literal": self._queue}}
        update = [{"$set": {**holder, "until": until}}]
        with self._mongo.operation():
            matched = self._leases.update_one(mine_or_over, update).matched_count
        return bool(matched) or (self._create() and self.take(seconds))

    def _create(self) -> bool:
        """Make the document, over from the start; False: another process has made it."""
        with self._mongo.operation():
            try:
                self._leases.insert_one({"_id": self._name, "until": _LONG_AGO})
            except DuplicateKeyError:
                return False
            return True

    def release(self) -> None:
        """Let another process take it at once; nothing happens if it is not mine."""
        with self._mongo.operation():
            self._leases.delete_one({"_id": self._name, "owner": self._owner})

    def holder(self) -> Mapping[str, Any] | None:
        """The lease with its ``owner`` and ``queue``; None: no process holds it."""
        match = {"_id": self._name, "$expr": {"$not": lease_has_ended("$until")}}
        with self._mongo.operation():
            return self._leases.find_one(match)


def lease_has_ended(until: str) -> dict[str, Any]:
    """An expression: whether the lease that lasts until the time in this field has ended.

    A value that is no time, or a time further off than ``LONGEST_LEASE``, is damage: it has ended.
    """
    latest = {"$add": ["$$NOW", round(LONGEST_LEASE * 1000)]}
    return {"$or": [{"$lt": [until, "$$NOW"]}, {"$gt": [until, latest]}]}
