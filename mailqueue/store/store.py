"""The e-mails in MongoDB: the truth, and the only module that writes it.

Decides: how a lost reply is told from a lost claim, what counts as kept, and what becomes of an
e-mail whose document takes a write no more: its settlement is made small, else it is set aside as
``unreadable``, and the others that were written with it are written. The fields stand in
``document``, the guards in ``transitions``; ``mongo`` makes writes durable.

Kept is what a majority has in its journal. That is known of an e-mail in two ways only: the write
was acknowledged and matched it, or a majority read found it. What a plain read finds, or a
duplicate key speaks of, may be on a server that is not the primary any more, and be rolled back:
it is confirmed by a durable write, and where that does not match all, the insert is done again. Of
two e-mails under one ``_id`` ours is the one with our ``nonce``; the other stays as it is, and ours
gets an id of its own.

Promises: a call that returns is durable. Every method may be called from any thread and raises
``StoreUnavailable``; a ``Store`` belongs to the process that made it.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from bson import ObjectId
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, UpdateMany
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DuplicateKeyError

from mailqueue.config import MongoDB
from mailqueue.lifecycle.outcomes import Reason, SendResult, Status
from mailqueue.logs import event
from mailqueue.outage import Outage
from mailqueue.store import document, ids, indexes, interventions
from mailqueue.store.document import SIMULATED, Document, Stored
from mailqueue.store.interventions import Verb
from mailqueue.store.merging import aside_writes, change_writes, claim_writes
from mailqueue.store.mongo import (
    DUPLICATE,
    Mongo,
    NotKept,
    duplicates,
    kept,
    refusals,
    within,
    write_errors,
)
from mailqueue.store.transitions import (
    Aside,
    Change,
    Claim,
    Lease,
    Write,
    announced_filter,
    announced_update,
    is_written,
    late_yes_filter,
    late_yes_update,
    looked_up_filter,
    looked_up_update,
)

logger = logging.getLogger(__name__)

Emails = Collection[dict[str, Any]]
UNWRITABLE = 10_000
PAGE = 1000
BY_ID = "_id_"  # said to the server, so that it does not try the other indexes first


class Store(Mongo):
    """The collection of e-mails, for one kind of consumer or producer (``env``)."""

    def __init__(
        self,
        settings: MongoDB,
        *,
        env: str,
        client: MongoClient[dict[str, Any]] | None = None,
        outage: Outage | None = None,
    ) -> None:
        super().__init__(settings, client, outage)
        self.env = env
        self.emails = self.collection("")
        self._kept = kept(self.emails)
        self.indexed = False
        self.unwritable: set[ObjectId] = set()  # not even to be set aside; as this process knows

    def ensure_indexes(self) -> None:
        """Create the indexes that are missing; ``ConfigError``: the server refuses one."""
        with self.reached():
            indexes.create(self.emails)
        self.indexed = True

    def missing_indexes(self) -> list[str]:
        """The indexes that nobody has created yet, by their fields."""
        with self.reached():
            return indexes.missing(self.emails)

    # Producing ---------------------------------------------------------------------------------

    def insert(
        self, documents: Sequence[dict[str, Any]], session: ClientSession | None = None
    ) -> list[str]:
        """Store new e-mails in one write; returns the idempotency keys that were there already.

        A document whose ``_id`` is another e-mail's gets a new one. With ``session`` the driver's
        exceptions pass through, a taken key among them.
        """
        if session is not None:
            self._write_new(documents, session)
            return []
        with self.reached():
            return self.persist(lambda: self._insert(documents))

    def _insert(self, documents: Sequence[dict[str, Any]]) -> list[str]:
        """One try; what is there already may be from the one before, whose reply was lost."""
        try:
            self._write_new(documents)
        except (DuplicateKeyError, BulkWriteError) as error:
            if all(each.get("code") != DUPLICATE for each in write_errors(error)):
                raise
            taken = duplicates(error)
            self._confirm_new([d for d in documents if d.get("idempotency_key") not in taken])
            return taken
        return []

    def _write_new(
        self, documents: Sequence[Document], session: ClientSession | None = None
    ) -> None:
        if len(documents) == 1:
            self.emails.insert_one(dict(documents[0]), session=session)
        else:
            self.emails.insert_many(map(dict, documents), ordered=False, session=session)

    def _confirm_new(self, documents: Sequence[dict[str, Any]]) -> None:
        """Return if all of these are kept as ours; else see to it that they can be inserted."""
        nonces = [d.get("nonce") for d in documents]
        under = {"_id": {"$in": [d["_id"] for d in documents]}}
        if not documents or self.confirm(under | {"nonce": {"$in": nonces}}) == len(documents):
            return
        found = self._kept.find(under, {"nonce": 1})
        theirs = {d["_id"] for d in found if d.get("nonce") not in nonces}
        for each in documents:
            if each["_id"] in theirs:
                document.rename(each, ids.new())
        raise NotKept

    def confirm(self, match: Mapping[str, Any]) -> int:
        """How many match, once these are durable: a majority write waits even if it is empty.

        Raises the driver's exceptions.
        """
        return self.emails.update_many(match, {"$unset": {"confirm": ""}}).matched_count

    def by_key(
        self, keys: Sequence[str], session: ClientSession | None = None
    ) -> dict[str, Document]:
        """The e-mails stored under these idempotency keys (``_id``, ``content_hash``), durably."""
        with self.reached(session):
            if session is not None:
                found = self._under(keys, session)
            else:
                found = self.persist(lambda: self._kept_under(keys))
        return {each["idempotency_key"]: each for each in found}

    def _kept_under(self, keys: Sequence[str]) -> list[Document]:
        found = self._under(keys)
        these = {"_id": {"$in": [d["_id"] for d in found]}, "idempotency_key": {"$in": list(keys)}}
        if found and self.confirm(these) < len(found):
            raise NotKept
        return found

    def _under(self, keys: Sequence[str], session: ClientSession | None = None) -> list[Document]:
        match = {"idempotency_key": {"$in": list(keys)}}
        fields = {"idempotency_key": 1, "content_hash": 1}
        return list(self.emails.find(match, fields, session=session))

    def cancel(self, email_id: ObjectId) -> bool:
        """Cancel what is queued. False: it is not cancelled (what may have left, never is).

        What some recipients have got already goes on to the others.
        """
        queued = {"_id": email_id, **interventions.guard(Verb.CANCEL)}
        with self.reached():
            self._bulk([(queued, [{"$set": interventions.cancelled()}])], self.timeout)
            cancelled = {"_id": email_id, "status": Status.CANCELLED.value}
            return self._kept.find_one(cancelled, {"_id": 1}) is not None

    # Working -----------------------------------------------------------------------------------

    def read(
        self, ids: Sequence[ObjectId], without: Sequence[str] = (), most: int | None = None
    ) -> dict[ObjectId, Stored]:
        """The documents of ``ids``, each with the server's time; a missing one is left out.

        A date takes several times as long to read as a text: ``without`` says what is not needed.
        With ``most`` each comes with its size in bytes, and a larger one without its ``email``.
        """
        fields: dict[str, Any] = {"now": "$$NOW"} | dict.fromkeys(without, "$$REMOVE")
        if most is not None:
            size = {"$bsonSize": "$$ROOT"}
            fields["size"] = size
            fields["email"] = {"$cond": [{"$lte": [size, most]}, "$email", "$$REMOVE"]}
        steps: list[dict[str, Any]] = [{"$match": {"_id": {"$in": list(ids)}}}, {"$set": fields}]
        return {stored.id: stored for stored in self._stored(steps, self.emails, len(ids) + 1)}

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
        with within(limit):
            matched, refused = self._bulk(writes, limit)
            if matched == len(changes) + len(claims):
                return {c.id for c in changes}, {c.id for c in claims}
            if refused:
                self._make_small(changes, refused, limit)
                self._set_aside(claims, refused)
            return self._written(changes), self._won(claims, lease)

    def _won(self, claims: Sequence[Claim], lease: Lease | None) -> set[ObjectId]:
        if not claims or lease is None:
            return set()
        ids = [c.id for c in claims]
        mine = {"_id": {"$in": ids}, "lease.nonce": lease.nonce, "status": Status.SENDING.value}
        return {document["_id"] for document in self._majority(mine, {"_id": 1})}

    def _change_writes(self, changes: Sequence[Change | Aside]) -> list[Write]:
        simulated = self.env == SIMULATED
        asides = [c for c in changes if isinstance(c, Aside)]
        if not asides:
            return list(change_writes(cast("Sequence[Change]", changes), simulated=simulated))
        others = (c for c in changes if isinstance(c, Change))
        writes = change_writes(others, simulated=simulated)
        return [*writes, *aside_writes(asides, simulated=simulated)]

    def _written(self, changes: Sequence[Change | Aside]) -> set[ObjectId]:
        if not changes:
            return set()
        by_id = {c.id: c for c in changes if isinstance(c, Change)}
        fields = {"status": 1, "lease": 1, "attempts": 1}
        try:
            found = self._majority({"_id": {"$in": list(by_id)}}, fields)
        except BSONError:  # damaged since it was read: it is looked at again
            found = []
        written = {d["_id"] for d in found if is_written(by_id[d["_id"]], d)}
        if asides := [c.id for c in changes if isinstance(c, Aside)]:
            ended = {"_id": {"$in": asides}, "reason": Reason.UNREADABLE.value}
            written |= {d["_id"] for d in self._majority(ended, {"_id": 1})}
        return written

    # What is refused ---------------------------------------------------------------------------

    def _make_small(
        self, changes: Iterable[Change | Aside], refused: Container[ObjectId], seconds: float
    ) -> None:
        """Write refused settlements in short, so that what left our hands is known all the same."""
        concerned = [c for c in changes if isinstance(c, Change) and c.id in refused]
        hopeless = {c.id for c in changes if isinstance(c, Aside) and c.id in refused}
        for change in concerned:
            event(logger, logging.ERROR, "email.written_in_short", id=str(change.id))
        writes = change_writes(concerned, simulated=self.env == SIMULATED, small=True)
        _, still = self._bulk(writes, seconds)
        self._give_up(hopeless | still)

    def _set_aside(self, claims: Iterable[Claim], refused: Container[ObjectId]) -> None:
        """End what cannot be claimed."""
        concerned = [
            Aside(id=c.id, seen={"lease.token": c.token, "env": self.env})
            for c in claims
            if c.id in refused
        ]
        for aside in concerned:
            facts = {"id": str(aside.id), "error": "takes no claim"}
            event(logger, logging.ERROR, "email.unreadable", **facts)
        writes = aside_writes(concerned, simulated=self.env == SIMULATED)
        _, still = self._bulk(writes, self.timeout)
        self._give_up(still)

    def _give_up(self, ids: Iterable[ObjectId]) -> None:
        """Remember what takes no write at all, and say it once."""
        for email_id in set(ids) - self.unwritable:
            event(logger, logging.ERROR, "email.takes_no_write", id=str(email_id))
            if len(self.unwritable) < UNWRITABLE:
                self.unwritable.add(email_id)

    def late_yes(
        self, email_id: ObjectId, token: int, vendor: str, result: SendResult, seconds: float
    ) -> None:
        """Record a yes that came after the lease was lost, in whatever state the e-mail is."""
        update = late_yes_update(token, vendor, result, self.env == SIMULATED)
        _, refused = self._bulk([(late_yes_filter(email_id, token), update)], seconds)
        if refused and (result.refused or result.pending or result.detail):
            short = replace(result, refused=(), pending=(), detail="")
            self.late_yes(email_id, token, vendor, short, seconds)
        else:
            self._give_up(refused)

    def looked_up(self, email_id: ObjectId, token: int) -> None:
        """Note that the vendor of this ledger line was asked and did not know the e-mail."""
        self._bulk([(looked_up_filter(email_id, token), looked_up_update(token))], self.timeout)

    def intervene(self, ids: Sequence[ObjectId], verb: Verb, nonce: ObjectId) -> set[ObjectId]:
        """Do what a person asked for; returns the ids changed, now or by a lost reply's try."""
        chosen = {"_id": {"$in": list(ids)}}
        match = {**chosen, **interventions.guard(verb), "interventions.nonce": {"$ne": nonce}}
        with within(self.timeout):
            self._bulk([(match, interventions.update(verb, nonce))], self.timeout)
            changed = self._majority({**chosen, "interventions.nonce": nonce}, {"_id": 1})
        return {document["_id"] for document in changed}

    def _bulk(self, writes: Iterable[Write], seconds: float) -> tuple[int, set[ObjectId]]:
        """Write all of them; returns how many documents matched, and which refuse the write.

        One that is refused fails by itself; then the number is not known, and is -1.
        """
        writes = list(writes)
        if not writes:
            return 0, set()
        matched, among = self._bulk_once(writes, seconds)
        if among is None:
            return matched, set()
        singles = [single for i in among or range(len(writes)) for single in _singles(writes[i])]
        return -1, {
            one for one, write in singles if self._bulk_once([write], seconds)[1] is not None
        }

    def _bulk_once(self, writes: Sequence[Write], seconds: float) -> tuple[int, list[int] | None]:
        """How many documents matched, and which writes were refused (see ``refusals``)."""
        many = [UpdateMany(match, update, hint=BY_ID) for match, update in writes]
        with self.reached(seconds=seconds):
            return self.persist(lambda: self._write_once(many))

    def _write_once(self, many: Sequence[UpdateMany]) -> tuple[int, list[int] | None]:
        try:
            return self.emails.bulk_write(many, ordered=False).matched_count, None
        except Exception as error:
            if (among := refusals(error)) is None:
                raise
            return -1, among

    def _majority(self, match: dict[str, Any], fields: dict[str, Any]) -> list[dict[str, Any]]:
        with self.reached():
            return list(self._kept.find(match, fields))

    # Looking -----------------------------------------------------------------------------------

    def find(self, match: Mapping[str, Any], limit: int, *sort: str) -> list[Stored]:
        """Up to ``limit`` kept documents without their e-mail's content, in order of ``sort``."""
        steps: list[dict[str, Any]] = [{"$match": match}]
        if sort:
            steps.append({"$sort": dict.fromkeys(sort, 1)})
        steps += [{"$limit": limit}, {"$unset": "email"}, {"$set": {"now": "$$NOW"}}]
        return self._stored(steps, self._kept)

    def find_jobs(self, match: Mapping[str, Any], limit: int, *sort: str) -> list[Stored]:
        """The same, but only what tells the job's priority: many fit into memory."""
        steps: list[dict[str, Any]] = [
            {"$match": match},
            {"$sort": dict.fromkeys(sort, 1)},
            {"$limit": limit},
            {"$project": {"priority": 1, "attempts.n": 1, "now": "$$NOW"}},
        ]
        return self._stored(steps, self.emails)

    def _stored(
        self, steps: Sequence[dict[str, Any]], emails: Emails, batch: int = PAGE
    ) -> list[Stored]:
        with self.reached():
            try:
                found = list(emails.aggregate(steps, batchSize=batch))
            except BSONError:
                found = list(one_by_one(steps, emails))
        # What somebody stored under another kind of id is no e-mail, and has no job.
        return [Stored(d, d["now"]) for d in found if isinstance(d["_id"], ObjectId)]

    def count(self, match: Mapping[str, Any], limit: int) -> int:
        """How many match, counted up to ``limit``."""
        with self.reached():
            return self.emails.count_documents(match, limit=limit)

    def has_work(self) -> bool:
        """Whether an e-mail of my kind is due now or leased."""
        queued = {"status": Status.QUEUED.value, "due_at": {"$not": {"$gt": self.now()}}}
        leased = {"status": Status.SENDING.value}
        # In one question: between two of them an e-mail goes from the one to the other.
        return self.count({"env": self.env, "$or": [queued, leased]}, 1) > 0

    def mark_announced(self, ids: Sequence[ObjectId]) -> None:
        """Note that the relay put these on the tube; each time the next comes four times later."""
        _, refused = self._bulk([(announced_filter(ids), announced_update())], self.timeout)
        self._give_up(refused)

    def delete(self, ids: Sequence[ObjectId], status: Status) -> int:
        """Delete e-mails that ended as ``status``."""
        with self.reached():
            final = {"_id": {"$in": list(ids)}, "status": status.value}
            return self.emails.delete_many(final).deleted_count


def _singles(write: Write) -> Iterator[tuple[ObjectId, Write]]:
    """The same update for each of its e-mails by itself."""
    match, update = write
    ids = match["_id"]
    for email_id in ids["$in"] if isinstance(ids, dict) else [ids]:
        yield email_id, ({**match, "_id": email_id}, update)


def one_by_one(steps: Sequence[dict[str, Any]], emails: Emails) -> Iterator[dict[str, Any]]:
    """Where one cannot be decoded: the others, and of that one what it is known by."""
    for known in emails.aggregate([*steps, {"$project": {"now": "$$NOW"}}]):
        alone = {"$match": {"_id": known["_id"]}}
        try:
            yield from list(emails.aggregate([alone, *steps[1:]]))
        except BSONError:
            yield known | _raw(emails, alone, "status") | _raw(emails, alone, "lease")


def _raw(emails: Emails, alone: dict[str, Any], field: str) -> dict[str, Any]:
    """A field as it is; nothing when it is the one that cannot be decoded."""
    options: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
    raw = emails.with_options(codec_options=options)
    try:
        (found,) = raw.aggregate([alone, {"$project": {field: 1}}])
        return {field: found[field]} if field in found else {}
    except (BSONError, ValueError):  # or it is not there any more
        return {}
