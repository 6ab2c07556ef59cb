"""Bulk writes to the e-mails, and what follows when MongoDB refuses one of them.

Decides: how one refused write is kept from failing the others. MongoDB refuses an update that would
make a document too large, or that fails on what the document holds, however often it is repeated.
To find out which of many it was, each is written alone. Then a settlement is written in short, so
that MongoDB still learns what left our hands. An e-mail that takes no claim is set aside as
``unreadable``. An e-mail that takes no write at all is remembered by this process, and left alone.

Assumes: every write is guarded, so that it may be repeated.

Promises: a write that returns is durable. Raises ``StoreUnavailable``.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from bson import ObjectId
from bson.errors import BSONError
from pymongo import UpdateMany
from pymongo.collection import Collection

from mailqueue.lifecycle.outcomes import Reason, Status
from mailqueue.logs import event
from mailqueue.store.callbacks import Noting
from mailqueue.store.document import SIMULATED
from mailqueue.store.merging import aside_writes, change_writes
from mailqueue.store.mongo import Mongo, majority_reads, refusals
from mailqueue.store.transitions import Aside, Change, Claim, Lease, Write, same_email
from mailqueue.store.written import is_written

logger = logging.getLogger(__name__)

Emails = Collection[dict[str, Any]]
UNWRITABLE = 10_000
BY_ID = "_id_"  # said to the server, so that it does not try the other indexes first


class BulkWriter:
    """Any thread may call. ``unwritable`` are the e-mails that took no write in this process."""

    def __init__(self, mongo: Mongo, emails: Emails, env: str, noting: Noting) -> None:
        self._mongo = mongo
        self._emails, self._durable = emails, majority_reads(emails)
        self._env = env
        self._noting = noting
        self.unwritable: set[ObjectId] = set()

    def write(self, writes: Iterable[Write], seconds: float) -> tuple[int, set[ObjectId]]:
        """Write all of them; returns how many documents matched, and which refuse the write.

        Repeated for up to ``seconds``. Where one is refused the number is not known, and is -1.
        """
        matched, refused, _ = self.write_counted(list(writes), seconds)
        return matched, refused

    def write_counted(
        self, writes: Sequence[Write], seconds: float
    ) -> tuple[int, set[ObjectId], bool]:
        """The same, and whether it was repeated: then an earlier try may have matched others."""
        if not writes:
            return 0, set(), False
        matched, indexes, is_repeated = self._write_together(writes, seconds)
        if indexes is None:
            return matched, set(), is_repeated
        # One write may be for many e-mails, and the server does not say which of them it refused.
        suspects = [writes[i] for i in indexes] or writes
        refused = {
            email_id
            for write in suspects
            for email_id, single in _singles(write)
            if self._write_together([single], seconds)[1] is not None
        }
        return -1, refused, is_repeated

    def _write_together(
        self, writes: Sequence[Write], seconds: float
    ) -> tuple[int, list[int] | None, bool]:
        """How many documents matched, which writes were refused (see ``refusals``), as above."""
        updates = [UpdateMany(match, update, hint=BY_ID) for match, update in writes]
        tries = count()

        def write_once() -> tuple[int, list[int] | None]:
            next(tries)
            return self._write_once(updates)

        with self._mongo.operation(seconds=seconds):
            matched, indexes = self._mongo.persist(write_once)
        return matched, indexes, next(tries) > 1

    def _write_once(self, updates: Sequence[UpdateMany]) -> tuple[int, list[int] | None]:
        try:
            return self._emails.bulk_write(updates, ordered=False).matched_count, None
        except Exception as error:
            if (indexes := refusals(error)) is None:
                raise
            return -1, indexes

    # Was it written? ---------------------------------------------------------------------------
    #
    # A write that matched fewer documents than it should was in part done by an earlier try whose
    # reply was lost, or came too late. The documents tell which: a claim of ours has our nonce, a
    # change has closed its ledger line as it would (``is_written``).

    def ids_won(self, claims: Sequence[Claim], lease: Lease | None) -> set[ObjectId]:
        """The claims that are in the documents."""
        if not claims or lease is None:
            return set()
        ids = [c.id for c in claims]
        mine = {"_id": {"$in": ids}, "lease.nonce": lease.nonce, "status": Status.SENDING.value}
        return {d["_id"] for d in self._find(mine, {"_id": 1})}

    def ids_written(self, changes: Sequence[Change | Aside]) -> set[ObjectId]:
        """The changes that are in the documents."""
        if not changes:
            return set()
        by_id = {c.id: c for c in changes if isinstance(c, Change)}
        fields = {"status": 1, "lease": 1, "attempts": 1, "nonce": 1, "late_accept": 1}
        try:
            documents = self._find({"_id": {"$in": list(by_id)}}, fields)
        except BSONError:  # damaged since it was read: it is looked at again
            documents = []
        written = {d["_id"] for d in documents if is_written(by_id[d["_id"]], d)}
        if asides := [c.id for c in changes if isinstance(c, Aside)]:
            ended = {"_id": {"$in": asides}, "reason": Reason.UNREADABLE.value}
            written |= {d["_id"] for d in self._find(ended, {"_id": 1})}
        return written

    def _find(self, match: dict[str, Any], fields: dict[str, Any]) -> list[dict[str, Any]]:
        with self._mongo.operation():
            return list(self._durable.find(match, fields))

    # What is refused ---------------------------------------------------------------------------

    def write_in_short(
        self,
        changes: Iterable[Change | Aside],
        claims: Iterable[Claim],
        refused: Container[ObjectId],
        seconds: float,
    ) -> None:
        """Write what was refused as briefly as can be.

        Of the ledger of a change only this attempt's line; the e-mail of a claim is set aside.
        """
        simulated = self._env == SIMULATED
        again = [c for c in changes if c.id in refused]
        shorter = [c for c in again if isinstance(c, Change)]
        guards = {
            c.id: {"lease.token": c.token, "env": self._env, **same_email(c.id, c.incarnation)}
            for c in claims
        }
        asides = [Aside(id=i, guard=guard) for i, guard in guards.items() if i in refused]
        for change in shorter:
            event(logger, logging.ERROR, "email.shortened", id=str(change.id))
        for aside in asides:
            facts = {"id": str(aside.id), "error": "takes no claim"}
            event(logger, logging.ERROR, "email.unreadable", **facts)
        short = change_writes(shorter, self._noting, simulated=simulated, short=True)
        writes = [*short, *aside_writes(asides, self._noting, simulated=simulated)]
        _, still_refused = self.write(writes, seconds)
        # An aside asks for so little that there is no shorter form of it.
        self.give_up(still_refused | {c.id for c in again if isinstance(c, Aside)})

    def give_up(self, ids: Iterable[ObjectId]) -> None:
        """Remember what takes no write at all, and log it once."""
        for email_id in set(ids) - self.unwritable:
            event(logger, logging.ERROR, "email.write_refused", id=str(email_id))
            if len(self.unwritable) < UNWRITABLE:
                self.unwritable.add(email_id)


def _singles(write: Write) -> Iterator[tuple[ObjectId, Write]]:
    """The same update for each of its e-mails alone."""
    match, update = write
    ids = match["_id"]
    for email_id in ids["$in"] if isinstance(ids, dict) else [ids]:
        yield email_id, ({**match, "_id": email_id}, update)
