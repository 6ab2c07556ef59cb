"""Finding the e-mails that are due, for consumers that have no queue beside MongoDB.

Decides: which e-mails a process gets. The most urgent class comes first, in it what was tried
already, then what has been due for longest.

A reservation is a document of its own in ``<collection>.reserved``, under the e-mail's id, so that
of several processes one can insert it. It is a hint, as a job of a queue is: it is acknowledged by
the primary alone, it may be lost, and the guard of the claim decides. The e-mail's own document is
not touched. Who is killed leaves what was reserved to its end.

Assumes: the indexes of ``indexes.FOR_RESERVATIONS``, which hold every field that is asked for: no
document is read. ``status``, ``env``, and the places of ``due_at`` are ranges of them, so that what
is due later costs nothing.

Promises: any thread may call. Raises ``StoreUnavailable``.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo import DeleteMany, UpdateMany, WriteConcern
from pymongo.errors import BulkWriteError

from mailqueue.lifecycle.outcomes import RETRY_PRIORITIES, Status
from mailqueue.store import ids, indexes
from mailqueue.store.changes import Changes
from mailqueue.store.mongo import DUPLICATE, Mongo, write_errors

LONGEST = 60.0  # seconds that an e-mail is put off here; when it is due stands in its document
BURIED_FOR = 3600.0
WIDEST = 200_000  # e-mails that are looked at for those that are free
CROWD = 2_000  # e-mails before those that are free: to look past them costs both sides some time
REST = 4.0  # times as long as such a look, until the next one
FRESH = 0.5  # seconds that an e-mail is reserved ahead
HASTE = 0.1  # seconds until a busy process asks again
MOST_AHEAD = 256
OVER_SECONDS = 20.0  # between two looks for what is left over
CLOCK_SECONDS = 30.0  # until the server is asked for its time again
_EPOCH, _FIRST_ID = indexes.EPOCH, ObjectId(bytes(12))
_HINT = WriteConcern(w=1, j=False)  # to lose a reservation is harmless
_ORDER = dict.fromkeys(("priority", "due_at", "overdue_at"), 1)
_RETRY_PRIORITY = {
    "$switch": {
        "branches": [
            {"case": {"$eq": ["$priority", new]}, "then": retry}
            for new, retry in RETRY_PRIORITIES.items()
        ],
        "default": "$priority",
    }
}


class Reservations:
    """The e-mails of one kind (``env``), for one process."""

    def __init__(self, mongo: Mongo, env: str, *, seconds: float, change_stream: bool) -> None:
        self._mongo, self._env, self._seconds = mongo, env, seconds
        self._emails = mongo.collection("")
        self._reserved = mongo.collection(".reserved").with_options(write_concern=_HINT)
        self._owner = ids.new()
        self._clock = ServerClock(mongo)
        self._changes = Changes(self._emails) if change_stream else None
        self._ended: deque[ObjectId] = deque()  # to be deleted with the next look
        self._others = 0  # reserved e-mails among those of the last look
        self._ahead: deque[ObjectId] = deque()  # reserved, and not asked for yet
        self._looked_at = self._filled_at = self._deleted_over_at = -math.inf
        self._rests_until = -math.inf
        self._batch = 0

    # A process that comes back for more within moments reserves ahead: the looks cost it more than
    # all else here. What it has ahead it does not keep for long, so that other processes, or what
    # is more urgent, need not wait.

    def reserve(self, limit: int) -> Sequence[ObjectId]:
        """Reserve up to ``limit`` e-mails that are due, the most urgent first.

        Where nothing is due this is one command, of three look-ups in an index.
        """
        now = time.monotonic()
        if self._ahead and now - self._looked_at > FRESH:
            self.put_off(dict.fromkeys(self._ahead, 0.0))
            self._ahead.clear()
        if not self._ahead and now >= self._rests_until:
            busy = now - self._filled_at < HASTE
            self._batch = max(limit, min(MOST_AHEAD, 2 * self._batch if busy else 0))
            self._ahead.extend(self._look(self._batch))
            self._looked_at = time.monotonic()
            if self._others >= CROWD and len(self._ahead) < self._batch:
                # All wait for one slow vendor, say.
                self._rests_until = self._looked_at + REST * (self._looked_at - now)
        email_ids = [self._ahead.popleft() for _ in range(min(limit, len(self._ahead)))]
        if len(email_ids) == limit:
            self._filled_at = time.monotonic()
        return email_ids

    def _look(self, limit: int) -> Sequence[ObjectId]:
        """Find what is due and nobody's, and reserve it."""
        self._delete_over()
        self._delete_ended()
        while True:
            most = min(WIDEST, limit + self._others)
            due = self._find_due(most)
            free = self._free(due) if due else []
            self._others = len(due) - len(free)
            if len(free) >= limit or len(due) < most or most == WIDEST:
                return self._insert(free[:limit]) if free else []
            self._others = 2 * self._others + limit  # look beyond those

    # Three ranges of the indexes, each in the order in which it is to be reserved: retries; what
    # has no due time; what has one. They are put in order here, since no one range of an index can
    # have what is due in the order in which it became due. ``overdue_at`` is that moment and a
    # time that is the same for all of a class. Only ids come back: dates take long to read.

    def _find_due(self, limit: int) -> list[ObjectId]:
        """Up to ``limit`` queued e-mails that are due, reserved or not, the most urgent first."""
        # What another program has stored under another kind of id is no e-mail.
        queued = {"status": Status.QUEUED.value, "env": self._env, "_id": {"$gte": _FIRST_ID}}
        now = self._clock.now()
        retries = queued | {"due_at": {"$not": {"$gt": now}}, "clock_from": {"$gt": _EPOCH}}
        at_once = queued | {"due_at": {"$not": {"$gt": _EPOCH}}}
        at_their_time = queued | {"due_at": {"$gt": _EPOCH, "$lte": now}}
        steps = _steps(retries, limit, _RETRY_PRIORITY)
        for match in at_once, at_their_time:
            others = {"coll": self._emails.name, "pipeline": _steps(match, limit, "$priority")}
            steps.append({"$unionWith": others})
        steps += [{"$sort": {"p": 1, "overdue_at": 1}}, {"$project": {"_id": 1}}]
        with self._mongo.operation():
            documents = self._emails.aggregate(steps, batchSize=3 * limit + 1)
            unique = dict.fromkeys(document["_id"] for document in documents)  # a retry comes twice
        return list(unique)[:limit]

    def _free(self, due: Sequence[ObjectId]) -> list[ObjectId]:
        """Those of them that nobody has reserved."""
        match: dict[str, Any] = {"until": {"$gt": self._clock.now()}}
        hint = [("$natural", 1)]  # of a crowd, all: to seek each takes several times as long
        if len(due) < CROWD:
            match["_id"], hint = {"$in": due}, [("_id", 1)]
        with self._mongo.operation():
            documents = self._reserved.find(match, {"_id": 1}, hint=hint)
            reserved = {document["_id"] for document in documents}
        return [each for each in due if each not in reserved]

    # Reserve: nothing → reserved
    #
    # Rule: an e-mail is reserved by whoever inserts the document of its id. All of a batch are
    # inserted in one command; those that another process has inserted meanwhile are left out.
    #
    #   before  (no document)
    #   after   {_id: 1, by: N, until: NOW + 15 s}

    def _insert(self, free: Sequence[ObjectId]) -> Sequence[ObjectId]:
        now = self._clock.now()
        until = now + timedelta(seconds=self._seconds)
        documents = [{"_id": each, "by": self._owner, "until": until} for each in free]
        with self._mongo.operation():
            try:
                self._reserved.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                errors = write_errors(error)
                if any(each.get("code") != DUPLICATE for each in errors):
                    raise
                lost = {free[each["index"]] for each in errors}
                # Of other processes; or left over, and free with the next look.
                over = {"_id": {"$in": list(lost)}, "until": {"$lte": now}}
                self._reserved.delete_many(over)
                return [each for each in free if each not in lost]
        return free

    # End: reserved by me → nothing, or put off
    #
    # Rule: what is reserved by this process, and only that, is free at once, or later.
    #
    #   before  {_id: 1, by: N, until: NOW + 12 s}
    #   after   {_id: 1, by: N, until: NOW + 1 s}     or (no document)

    def end(self, ids_ended: Iterable[ObjectId]) -> None:
        """Their e-mails are not queued any more, so there is no hurry; nothing is written yet."""
        self._ended.extend(ids_ended)

    def put_off(self, delays: Mapping[ObjectId, float]) -> None:
        """Let each be found again after so many seconds, at most ``LONGEST``; 0: at once."""
        by_delay: dict[float, list[ObjectId]] = {}
        for email_id, delay in delays.items():
            by_delay.setdefault(min(LONGEST, delay), []).append(email_id)
        self._write(
            [
                UpdateMany(self._mine(some), [{"$set": {"until": _after(delay)}}])
                if delay > 0
                else DeleteMany(self._mine(some))
                for delay, some in by_delay.items()
            ]
        )

    def bury(self, email_ids: Collection[ObjectId]) -> None:
        """Let nobody find these for an hour: a person is to look at them."""
        until = {"until": _after(BURIED_FOR), "by": None}
        self._write([UpdateMany(self._mine(email_ids), [{"$set": until}])] if email_ids else [])

    def _write(self, writes: Sequence[DeleteMany | UpdateMany]) -> None:
        if writes:
            with self._mongo.operation():
                self._reserved.bulk_write(writes, ordered=False)

    @property
    def watching(self) -> bool:
        """Whether ``wait`` ends when an e-mail is stored."""
        return self._changes is not None and self._changes.available

    def wait(self, seconds: float) -> None:
        """Until something may be due, or so many seconds."""
        if self._changes is None or not self._changes.wait():
            time.sleep(seconds)

    def _delete_over(self) -> None:
        """What is left of processes that were killed; they are few."""
        if time.monotonic() - self._deleted_over_at > OVER_SECONDS:
            self._deleted_over_at = time.monotonic()
            with self._mongo.operation():
                self._reserved.delete_many({"until": {"$lte": self._clock.now()}})

    def _delete_ended(self) -> None:
        ended: list[ObjectId] = []
        with suppress(IndexError):  # no more
            while len(ended) < WIDEST:
                ended.append(self._ended.popleft())
        if ended:
            with self._mongo.operation():
                self._reserved.delete_many(self._mine(ended))

    def _mine(self, email_ids: Collection[ObjectId]) -> dict[str, Any]:
        return {"_id": {"$in": list(email_ids)}, "by": self._owner}

    def close(self) -> None:
        """Let anybody have at once what is still reserved by this process."""
        with self._mongo.operation():
            self._reserved.delete_many({"by": self._owner})


def _after(seconds: float) -> dict[str, Any]:
    return {"$add": ["$$NOW", round(seconds * 1000)]}


class ServerClock:
    """The server's time, asked for now and then; between, this host's monotonic clock goes on."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._reading: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """A few milliseconds late at most."""
        reading, at = self._reading, time.monotonic()
        if reading is None or at - reading[1] > CLOCK_SECONDS:
            reading = self._reading = self._mongo.now(), time.monotonic()
            at = reading[1]
        return reading[0] + timedelta(seconds=at - reading[1])


def _steps(match: Mapping[str, Any], limit: int, priority: Any) -> list[dict[str, Any]]:
    project = {"p": priority, "overdue_at": 1}
    return [{"$match": match}, {"$sort": _ORDER}, {"$limit": limit}, {"$project": project}]
