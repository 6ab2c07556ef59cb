"""The e-mails in MongoDB: the truth, and the only module that writes it.

Decides: how to tell a lost reply from a lost claim, and what counts as stored. The fields stand in
``document``, the guarded updates in ``transitions`` and ``interventions``; ``bulk`` deals with
documents that take no write any more, ``mongo`` makes writes durable.

Durable is what a majority has in its journal. That is known of an e-mail in two ways only: a write
was acknowledged and matched it, or a majority read found it. What a plain read finds, or a
duplicate key speaks of, may be on a server that is not the primary any more, and be rolled back.
So it is confirmed by a durable write (``confirm``), and where that does not match all, the insert
is done again. Of two e-mails under one ``_id`` ours is the one with our ``nonce``. One with our
idempotency key holds the key; any other stays as it is, and ours gets another id.
An e-mail with a key has an ``_id`` that follows from the key (``keys``).

Promises: a call that returns is durable. Every method may be called from any thread and raises
``StoreUnavailable``; a ``Store`` belongs to the process that made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any, cast

from bson import ObjectId
from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, WriteError

from mailqueue.config import Callbacks, MongoDB, Retention
from mailqueue.lifecycle.outcomes import Reason, SendResult, Status
from mailqueue.outage import Outage
from mailqueue.store import indexes, interventions, paging, search
from mailqueue.store.announcements import announcement_filter, announcement_update
from mailqueue.store.bulk import BulkWriter, Emails
from mailqueue.store.callbacks import NO_CALLBACK_DUE, Noting
from mailqueue.store.document import SIMULATED, Document, Stored, sized_fields
from mailqueue.store.ends import Ends
from mailqueue.store.event_documents import EventDocuments
from mailqueue.store.holds import put_back_filter, put_back_update
from mailqueue.store.interventions import Verb
from mailqueue.store.keys import Keys
from mailqueue.store.merging import aside_writes, change_writes, claim_writes
from mailqueue.store.mongo import (
    DUPLICATE,
    Mongo,
    NotDurable,
    keys_refused,
    majority_reads,
    readable,
    refused_inserts,
    within,
    write_errors,
)
from mailqueue.store.reservations import Reservations
from mailqueue.store.transitions import (
    Aside,
    Change,
    Claim,
    Lease,
    Write,
    late_yes_filter,
    late_yes_update,
    look_up_filter,
    look_up_update,
)
from mailqueue.store.undecodable import read_each

PAGE = 1000


class Store(Mongo):
    """The collection of e-mails, for one kind of consumer or producer (``env``)."""

    def __init__(
        self,
        settings: MongoDB,
        *,
        env: str,
        client: MongoClient[dict[str, Any]] | None = None,
        outage: Outage | None = None,
        callbacks: Callbacks | None = None,
        retention: Retention | None = None,
    ) -> None:
        super().__init__(settings, client, outage)
        self.env = env
        self.emails = self.collection("")
        self.noting = Noting.of(callbacks, retention)
        self._durable = majority_reads(self.emails)
        self.ends = Ends(self, self.emails)
        self.bulk = BulkWriter(self, self.emails, env, self.noting)
        self.indexed = False
        self._searchable = retention is not None and retention.searchable
        self.keys = Keys(self.emails, env)

    @property
    def unwritable(self) -> set[ObjectId]:
        """The e-mails that take no write at all, as far as this process knows."""
        return self.bulk.unwritable

    def ensure_indexes(self, *, reservations: bool = False) -> None:
        """Create missing indexes (``reservations``: too); ``ConfigError``: one is refused."""
        with self.operation():
            self.keys.indexed = indexes.create(self.emails, self._wanted(reservations))
        self.indexed = True

    def reservations(self, *, seconds: float, change_stream: bool) -> Reservations:
        """What is due, for consumers without a queue; each is reserved for so many seconds."""
        return Reservations(self, self.env, seconds=seconds, change_stream=change_stream)

    def events(self) -> EventDocuments:
        """The events that other programs put into MongoDB, for ``mailqueue intake``."""
        return EventDocuments(self)

    def missing_indexes(self, *, reservations: bool = False) -> list[str]:
        """The indexes that nobody has created yet, by their fields; see ``ensure_indexes``."""
        with self.operation():
            return indexes.find_missing(self.emails, self._wanted(reservations))

    def _wanted(self, reservations: bool) -> Mapping[str, Mapping[str, Any]]:
        return indexes.wanted(reservations=reservations, search=self._searchable)

    # Producing ---------------------------------------------------------------------------------

    def insert(
        self, documents: Sequence[dict[str, Any]], session: ClientSession | None = None
    ) -> tuple[dict[str, Document], dict[ObjectId, int]]:
        """Store new e-mails in one write.

        Returns those that hold an idempotency key already, by the key (``_id``, ``content_hash``),
        and MongoDB's error code for each e-mail that it never takes. For neither is anything
        stored. A document whose ``_id`` is another e-mail's gets a new one. With ``session`` the
        driver's exceptions pass through.
        """
        if session is not None:
            self._write_new(documents, session)
            return {}, {}
        with self.operation():
            return self.persist(lambda: self._insert(documents))

    def _insert(
        self, documents: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, Document], dict[ObjectId, int]]:
        """One try. A document that is there already may be from an earlier try, its reply lost."""
        try:
            self._write_new(documents)
        except (WriteError, BulkWriteError) as error:
            codes = refused_inserts(error)
            if not codes and all(each.get("code") != DUPLICATE for each in write_errors(error)):
                raise
            refused = {documents[i]["_id"]: code for i, code in codes.items()}
            rest = [d for d in documents if d["_id"] not in refused]
            return self._confirm_new(rest, keys_refused(error)), refused
        return {}, {}

    def _write_new(
        self, documents: Sequence[Document], session: ClientSession | None = None
    ) -> None:
        if self._searchable:
            documents = list(map(search.with_recipients, documents))
        try:
            if len(documents) == 1:
                self.emails.insert_one(dict(documents[0]), session=session)
            else:
                self.emails.insert_many(map(dict, documents), ordered=False, session=session)
        except (WriteError, BulkWriteError) as error:
            if keys_refused(error):  # a producer of an older version has made its index since
                self.keys.indexed = True
            raise

    def _confirm_new(
        self, documents: Sequence[dict[str, Any]], old_keys: Sequence[str]
    ) -> dict[str, Document]:
        """Return who holds the keys of these, once all that is stored of both is durable.

        ``old_keys``: those that an older version's index knows. Raises ``NotDurable`` if some have
        to be inserted (again).
        """
        present, holders = self.keys.sort_out(documents, old_keys)
        if len(present) < len(documents) or not self._are_durable(present):
            raise NotDurable
        return holders

    def _are_durable(self, stored: Sequence[Document]) -> bool:
        """Whether these, as they were read, are durable; also if they have no nonce."""
        email_ids = list({d["_id"] for d in stored})
        nonces = [d.get("nonce") for d in stored]
        match = {"_id": {"$in": email_ids}, "nonce": {"$in": nonces}}
        return not stored or self.confirm(match) == len(email_ids)

    # Confirm: any → the same
    #
    # Rule: a write to which a majority agrees proves that all it matched was durable before it. So
    # a field that no document has is removed: that changes nothing, and MongoDB waits for the
    # majority nevertheless. What has been rolled back does not match.
    #
    #   before  {_id: 1, nonce: N, status: "queued", …}
    #   after   {_id: 1, nonce: N, status: "queued", …}

    def confirm(self, match: Mapping[str, Any]) -> int:
        """How many match, once these are durable. Raises the driver's exceptions."""
        return self.emails.update_many(match, {"$unset": {"confirm": ""}}).matched_count

    def by_key(
        self, keys: Sequence[str], session: ClientSession | None = None
    ) -> dict[str, Document]:
        """The e-mails stored under these idempotency keys (``_id``, ``content_hash``), durably."""
        if session is not None:
            return self.keys.find(keys, session)
        with self.operation():
            return self.persist(lambda: self._find_durable_keys(keys))

    def _find_durable_keys(self, keys: Sequence[str]) -> dict[str, Document]:
        holders = self.keys.find(keys)
        if not self._are_durable(list(holders.values())):
            raise NotDurable
        return holders

    def cancel(self, email_id: ObjectId) -> bool:
        """Cancel what is queued (``interventions``). False: it is not cancelled.

        What some recipients have received already goes on to the others, and what may have left is
        never called cancelled.
        """
        queued = {"_id": email_id, **interventions.guard(Verb.CANCEL)}
        with self.operation():
            update = self.noting.with_end([{"$set": interventions.cancel_fields()}])
            matched, _, is_repeated = self.bulk.write_counted([(queued, update)], self.timeout)
            if matched or is_repeated:
                self.ends.tell_stored([email_id], Reason.CANCELLED)
            cancelled = {"_id": email_id, "status": Status.CANCELLED.value}
            return self._durable.find_one(cancelled, {"_id": 1}) is not None

    def reschedule(self, email_id: ObjectId, send_at: datetime) -> bool:
        """Let an e-mail that was never tried be due at another time (``interventions``).

        False: nothing was changed.
        """
        match = interventions.reschedule_filter(email_id, send_at)
        write = match, interventions.reschedule_update(send_at)
        with self.operation():
            matched, _ = self.bulk.write([write], self.timeout)
        return matched == 1

    # Working -----------------------------------------------------------------------------------

    def read(
        self, ids: Sequence[ObjectId], without: Sequence[str] = (), most: int | None = None
    ) -> dict[ObjectId, Stored]:
        """The documents of ``ids``, each with the server's time; a missing one is left out.

        ``without``: the fields that are not needed (a date takes several times as long to read as a
        text). With ``most`` each comes with its size in bytes, and a larger one without its
        ``email``. What is read need not be durable: the guards of what is then written decide.
        """
        fields = dict.fromkeys(without, "$$REMOVE") | sized_fields(most)
        steps: list[dict[str, Any]] = [{"$match": {"_id": {"$in": list(ids)}}}, {"$set": fields}]
        return {stored.id: stored for stored in self._load(steps, self.emails, len(ids) + 1)}

    def write(
        self,
        changes: Sequence[Change | Aside],
        claims: Sequence[Claim] = (),
        *,
        lease: Lease | None = None,
        seconds: float | None = None,
    ) -> tuple[set[ObjectId], set[ObjectId]]:
        """Write transitions and claims in one bulk write; returns the ids written, and won.

        An id counts also if an earlier try wrote it and its reply was lost. ``claims`` need the
        ``lease`` that they take. The write is repeated for up to ``seconds``; with claims, and by
        default, for ``mongodb.timeout``. ``StoreUnavailable``: nothing is known of any of them;
        claims are undone by a ``Change`` with the ``nonce`` of the lease.
        """
        limit = self.timeout if claims or seconds is None else seconds
        writes = self._change_writes(changes)
        if claims and lease is not None:
            writes = [*claim_writes(claims, self.env, lease), *writes]
        with within(limit), self.ends.in_doubt(changes):
            matched, refused, is_repeated = self.bulk.write_counted(writes, limit)
            if matched == len(changes) + len(claims):
                written, won = {c.id for c in changes}, {c.id for c in claims}
                self.ends.tell(changes)
                return written, won
            if refused:
                self.bulk.write_in_short(changes, claims, refused, limit)
            written, won = self.bulk.ids_written(changes), self.bulk.ids_won(claims, lease)
        own = None if refused or is_repeated else matched - len(won)
        self.ends.tell(changes, written, own, [c.id for c in claims if c.id in refused])
        return written, won

    def _change_writes(self, changes: Sequence[Change | Aside]) -> list[Write]:
        simulated = self.env == SIMULATED
        asides = [c for c in changes if isinstance(c, Aside)]
        if not asides:
            changes = cast("Sequence[Change]", changes)
            return list(change_writes(changes, self.noting, simulated=simulated))
        others = (c for c in changes if isinstance(c, Change))
        writes = change_writes(others, self.noting, simulated=simulated)
        return [*writes, *aside_writes(asides, self.noting, simulated=simulated)]

    def record_late_yes(
        self,
        email_id: ObjectId,
        token: int,
        vendor: str,
        result: SendResult,
        seconds: float,
        incarnation: ObjectId | None = None,
    ) -> None:
        """Record a yes that came after the lease was lost, in whatever state the e-mail is."""
        update = late_yes_update(token, vendor, result, self.env == SIMULATED)
        update = self.noting.with_end(update)
        guard = late_yes_filter(email_id, token, incarnation)
        matched, refused, is_repeated = self.bulk.write_counted([(guard, update)], seconds)
        if refused and (result.refused or result.pending or result.detail):
            short = replace(result, refused=(), pending=(), detail="")
            self.record_late_yes(email_id, token, vendor, short, seconds, incarnation)
            return
        self.bulk.give_up(refused)
        if matched or is_repeated:
            self.ends.tell_late_yeses([(email_id, token)])

    def record_look_up(
        self, email_id: ObjectId, token: int, incarnation: ObjectId | None = None
    ) -> None:
        """Note that the vendor of this ledger line was asked and did not know the e-mail."""
        write = look_up_filter(email_id, token, incarnation), look_up_update(token)
        self.bulk.write([write], self.timeout)

    def intervene(
        self, ids: Sequence[ObjectId], verb: Verb, nonce: ObjectId, by: str = ""
    ) -> set[ObjectId]:
        """Do what a person asked for; returns the ids changed, now or by a lost reply's try."""
        chosen = {"_id": {"$in": list(ids)}}
        match = {**chosen, **interventions.guard(verb), "interventions.nonce": {"$ne": nonce}}
        with within(self.timeout):
            update = self.noting.with_end(interventions.update(verb, nonce, by))
            self.bulk.write([(match, update)], self.timeout)
            documents = self._find_durable({**chosen, "interventions.nonce": nonce}, {"_id": 1})
        changed = {d["_id"] for d in documents}
        if (reason := interventions.END_REASONS.get(verb)) is not None:
            self.ends.tell_stored(changed, reason)
        return changed

    def mark_announced(self, ids: Sequence[ObjectId]) -> None:
        """Note that the sweeper put these on the tube once more."""
        _, refused = self.bulk.write(
            [(announcement_filter(ids), announcement_update())], self.timeout
        )
        self.bulk.give_up(refused)

    def put_back(self, ids: Sequence[ObjectId]) -> int:
        """Let those of them that are held be due again; returns how many there were."""
        write = put_back_filter(ids), put_back_update()
        matched, refused = self.bulk.write([write], self.timeout)
        self.bulk.give_up(refused)
        return matched

    # Delete: sent, failed or cancelled → gone
    #
    # Rule: an e-mail that ended as ``status``, has not been retried since, and has no callback that
    # is due, is forgotten.
    # The sweeper asks once more for all that it found them by: under an id that follows from a key,
    # another e-mail may be stored by now.
    #
    #   before  {_id: 1, status: "sent", updated_at: NOW - 31 days, …}
    #   after   (no document)

    def delete(
        self, ids: Sequence[ObjectId], status: Status, match: Mapping[str, Any] | None = None
    ) -> int:
        """Delete e-mails that ended as ``status`` and ``match``; returns how many were deleted."""
        guard = {"_id": {"$in": list(ids)}, "status": status.value, **NO_CALLBACK_DUE}
        with self.operation():
            return self.emails.delete_many({**(match or {}), **guard}).deleted_count

    # Looking -----------------------------------------------------------------------------------

    def find(self, match: Mapping[str, Any], limit: int, *sort: str) -> list[Stored]:
        """Up to ``limit`` durable documents without their ``email``, in order of ``sort``."""
        steps: list[dict[str, Any]] = [{"$match": match}]
        if sort:
            steps.append({"$sort": dict.fromkeys(sort, 1)})
        steps += [{"$limit": limit}, {"$unset": "email"}, {"$set": {"now": "$$NOW"}}]
        return self._load(steps, self._durable)

    def find_whole(self, email_id: ObjectId) -> Stored | None:
        """This durable document with its ``email``; None: it is not there."""
        steps: list[dict[str, Any]] = [{"$match": {"_id": email_id}}, {"$set": {"now": "$$NOW"}}]
        return next(iter(self._load(steps, self._durable)), None)

    def page(
        self,
        limit: int,
        *,
        after: ObjectId | None = None,
        before: ObjectId | None = None,
        match: Mapping[str, Any] | None = None,
        steps: Sequence[dict[str, Any]] = paging.HEADS,
    ) -> list[Stored]:
        """Up to ``limit`` durable documents, the newest first; text empty, no HTML, no files.

        ``match``: only those. ``steps``: what of each (``paging.SUMMARY``: what operators see).

        Those that are older than ``after``, or those that are just newer than ``before``; by
        ``created_at``, and within a millisecond by ``_id``.
        """
        order = -1 if before is None else 1
        cursor, place = after or before, {}
        if cursor is not None:
            stored = self._find_durable({"_id": cursor}, {"created_at": 1})
            place = paging.beyond(cursor, next(iter(stored), None), order)
        page = paging.steps(limit, order, place, match)
        return self._load([*page, *steps], self._durable)[::-order]

    def page_ended(
        self,
        limit: int,
        *,
        after: paging.End | None = None,
        before: paging.End | None = None,
        match: Mapping[str, Any],
    ) -> list[Stored]:
        """The same by their end, as operators see them: ``match`` names their status."""
        order, cursor = (-1, after) if before is None else (1, before)
        emails = readable(self._durable)
        with self.operation():
            # By each kind the index is in the order of the ends; a damaged one may be anything.
            envs = emails.distinct("env", {"status": match["status"]})
            place = cursor.beyond(order) if cursor else {}
            scope = {"$and": [match, {"env": {"$in": envs}}, place]}
            heads = emails.find(scope, {paging.ENDED: 1}, sort=[(paging.ENDED, order)])
            ends = [head.get(paging.ENDED) for head in heads.limit(limit)]
        return self._load(paging.steps_by_end(ends, limit, order, scope), self._durable)[::-order]

    def find_heads(self, match: Mapping[str, Any]) -> list[Stored]:
        """The durable documents that match; text empty, no HTML, no files."""
        return self._load([{"$match": match}, *paging.HEADS], self._durable)

    def find_ids(
        self, match: Mapping[str, Any], oldest: int | None = None
    ) -> Iterator[list[ObjectId]]:
        """The ids of all that match, page by page, in one pass; or of the ``oldest`` so many.

        What is changed meanwhile, so that it does not match any more, is in no later page.
        """
        steps: list[dict[str, Any]] = [{"$match": match}]
        if oldest is not None:
            steps += [{"$sort": {"created_at": 1, "_id": 1}}, {"$limit": oldest}]
        with self.operation():
            cursor = self._durable.aggregate([*steps, {"$project": {"_id": 1}}], batchSize=PAGE)
        while True:
            with self.operation():  # each page has its own time
                page = list(islice(cursor, PAGE))
            if not page:
                return
            yield [d["_id"] for d in page if isinstance(d["_id"], ObjectId)]

    def find_jobs(self, match: Mapping[str, Any], limit: int, *sort: str) -> list[Stored]:
        """The same with only the fields of a job's priority, so that many fit into memory."""
        steps: list[dict[str, Any]] = [
            {"$match": match},
            {"$sort": dict.fromkeys(sort, 1)},
            {"$limit": limit},
            {"$project": {"priority": 1, "attempts.n": 1, "now": "$$NOW"}},
        ]
        return self._load(steps, self.emails)

    def _load(
        self, steps: Sequence[dict[str, Any]], emails: Emails, batch: int = PAGE
    ) -> list[Stored]:
        with self.operation():
            try:
                documents = list(emails.aggregate(steps, batchSize=batch))
            except BSONError:
                documents = list(read_each(steps, emails))
        # What somebody stored under another kind of id is no e-mail, and has no job.
        return [Stored(d, d["now"]) for d in documents if isinstance(d["_id"], ObjectId)]

    def _find_durable(self, match: dict[str, Any], fields: dict[str, Any]) -> list[dict[str, Any]]:
        with self.operation():
            return list(self._durable.find(match, fields))

    def count(self, match: Mapping[str, Any], limit: int) -> int:
        """How many match, counted up to ``limit``."""
        with self.operation():
            return self.emails.count_documents(match, limit=limit)

    def has_work(self, *, leased_only: bool = False) -> bool:
        """Whether an e-mail of my kind is due now or leased."""
        queued = {"status": Status.QUEUED.value, "due_at": {"$not": {"$gt": self.now()}}}
        leased = {"status": Status.SENDING.value}
        # In one question: between two of them an e-mail goes from the one to the other.
        either = [leased] if leased_only else [queued, leased]
        return self.count({"env": self.env, "$or": either}, 1) > 0
