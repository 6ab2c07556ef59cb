"""The suppression list: who gets no e-mail any more, whatever vendor reported it.

Decides: which spellings mean one entry (``entry_of``), what several reports about one address come
to, and when an entry holds.

Assumes: reports come in any order, and any of them may come again.

Promises: what a call wrote is durable when it returns, and the same call again changes nothing.
Every method may be called from any thread and raises ``StoreUnavailable``. Nothing here is pruned
with the e-mails.

::

    _id         ann@example.net, or @example.net: each address of that domain, not of those below it
    reason      bounced | complained | unsubscribed | manual
    source      the vendor's name, or manual
    at          when it was reported
    until       it holds no longer then; null: for ever
    others [{reason, source, at, until}]    only where there are several reports
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Any, TypeVar
from unicodedata import normalize

from pymongo import DeleteMany, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError

from mailqueue.config import Suppression
from mailqueue.errors import InvalidEmail
from mailqueue.message import Address
from mailqueue.store.document import Document
from mailqueue.store.ledger import array
from mailqueue.store.mongo import DUPLICATE, Mongo, readable, write_errors
from mailqueue.store.transitions import Pipeline

T = TypeVar("T")
MANUAL = "manual"  # a reason that always counts, and the source of what a person enters
PAGE = 1000  # entries written together
MOST_KEYS = 20_000  # asked for together: far below the size of a message to MongoDB
HASHES = "sha256:"
_HASH = re.compile(f"{HASHES}[0-9a-f]{{64}}")
_REPORT = ("reason", "source", "at", "until")


@dataclass(frozen=True, slots=True)
class Report:
    """Why an ``entry`` (in its normal form) is to get no more e-mail."""

    entry: str = field(repr=False)
    reason: str
    source: str = MANUAL
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    until: datetime | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The entry, if this is the only report."""
        fields = {name: getattr(self, name) for name in _REPORT}
        return {"_id": self.entry, **fields}


def entry_of(text: str, name: str = "address") -> str:
    """The normal form of an address, or of ``@domain``: lower case, the domain in ASCII (IDNA).

    Raises ``InvalidEmail``, which names the field ``name`` and quotes nothing.
    """
    text = text.strip()
    if _HASH.fullmatch(text):
        return text
    if text.startswith("@"):
        person = Address.parse(f"any{text}", name)
        if person.name:
            raise InvalidEmail(name, "must be an address, or @ and a domain")
        return key_of(person)[len("any") :]
    return key_of(Address.parse(text, name))


def key_of(person: Address) -> str:
    """Under which entry an address stands; a local part outside ASCII stays so."""
    if person.address.isascii():
        return person.address.lower()
    try:
        return normalize("NFC", person.identity.lower())
    except UnicodeError:  # no valid domain, so nobody is sent to there
        return person.address.lower()


def keys_of(documents: Iterable[Document]) -> set[str]:
    """The entries that would stop a recipient of these stored e-mails; a damaged one has none."""
    # Of every e-mail that is sent, so it reads the texts and makes no addresses of them.
    keys = set()
    for document in documents:
        for text in _recipients(document.get("email")):
            plain = text.isascii() and text[-1:] != ">"  # as nearly always
            key = text.lower() if plain else key_of(Address.from_canonical(text))
            keys.add(key)
            keys.add(key[key.rfind("@") :])
    return keys


def _recipients(email: Any) -> list[str]:
    """The texts that name who is sent to, as far as they are there."""
    try:
        if "envelope" in email and (recipients := email["envelope"].get("recipients")):
            texts = recipients
        elif "cc" in email or "bcc" in email:
            texts = [*email.get("to", ()), *email.get("cc", ()), *email.get("bcc", ())]
        else:
            texts = email["to"]
        return texts if type(texts) is list and set(map(type, texts)) == {str} else []
    except (LookupError, TypeError, AttributeError):
        return []


def hash_of(entry: str) -> str:
    """The name of an entry whose address is forgotten."""
    return entry if _HASH.fullmatch(entry) else HASHES + sha256(entry.encode()).hexdigest()


def is_suppressed(person: Address, entries: Collection[str]) -> bool:
    """Whether one of the ``entries`` is this person's, or that of the domain."""
    key = key_of(person)
    return key in entries or key[key.rfind("@") :] in entries


class Suppressions:
    """The list of one installation, in ``<collection>.suppressed``.

    ``reasons``: those that stop an e-mail, beside ``manual``.
    """

    def __init__(self, mongo: Mongo, reasons: Iterable[str] = ()) -> None:
        self._mongo = mongo
        self._list = readable(mongo.collection(".suppressed"))
        self._reasons = frozenset((*reasons, MANUAL))

    @classmethod
    def of(cls, mongo: Mongo, settings: Suppression | None) -> Suppressions | None:
        """As it is configured; None: it is off."""
        return None if settings is None else cls(mongo, settings.apply)

    # Asking ------------------------------------------------------------------------------------

    def find(self, keys: Collection[str], now: datetime) -> frozenset[str]:
        """Those of the ``keys`` (normal forms) whose entry holds at this time."""
        entries: set[str] = set()
        for some in _pages(keys, MOST_KEYS):
            documents = self._documents([*some, HASHES])
            if documents.pop(HASHES, None) is not None:
                names = {hash_of(each): each for each in some}
                hashed = self._documents(list(names))
                documents |= {names[name]: document for name, document in hashed.items()}
            entries.update(name for name, d in documents.items() if self._holds(d, now))
        return frozenset(entries)

    def _documents(self, names: Sequence[str]) -> dict[str, Document]:
        with self._mongo.operation():
            return {d["_id"]: d for d in self._list.find({"_id": {"$in": list(names)}})}

    def _holds(self, document: Document, now: datetime) -> bool:
        return any(
            str(report.get("reason")) in self._reasons and not _is_over(report, now)
            for report in _reports(document)
        )

    def documents(
        self, entries: Collection[str] = (), *, reason: str | None = None, limit: int = 0
    ) -> Iterator[dict[str, Any]]:
        """The entries in order of ``_id``: all, or those named, or those with this reason."""
        names = [name for each in entries for name in (each, hash_of(each))]
        match: dict[str, Any] = {"_id": {"$in": names} if names else {"$ne": HASHES}}
        if reason is not None:
            match["$or"] = [{"reason": reason}, {"others.reason": reason}]
        with self._mongo.operation():
            cursor = self._list.find(match, batch_size=PAGE).sort("_id", 1).limit(limit)
        while True:
            with self._mongo.operation():  # its time is that of one batch
                documents = list(islice(cursor, PAGE))
            if not documents:
                return
            yield from documents

    def count(self) -> int:
        """About how many entries there are."""
        with self._mongo.operation():
            return self._list.estimated_document_count()

    # Changing ----------------------------------------------------------------------------------

    def add(self, reports: Iterable[Report], written: Callable[[int], None] | None = None) -> None:
        """Enter what is reported; ``written`` hears how many are durable, after each page."""
        for some in _pages(reports, PAGE):
            self._add(list({(r.entry, r.source, r.reason): r for r in some}.values()))
            if written is not None:
                written(len(some))

    def _add(self, reports: Sequence[Report]) -> None:
        """New entries are inserted together; what is there already is brought together."""
        with self._mongo.operation():
            documents = [InsertOne(report.document) for report in reports]
            existing = self._mongo.persist(lambda: self._insert(documents))
            updates = [
                UpdateOne({"_id": reports[i].entry}, report_update(reports[i]), upsert=True)
                for i in existing
            ]
            if updates:
                self._mongo.persist(lambda: self._list.bulk_write(updates))

    def _insert(self, documents: Sequence[InsertOne[dict[str, Any]]]) -> list[int]:
        """The places of those whose entry exists: perhaps by an earlier try."""
        try:
            self._list.bulk_write(documents, ordered=False)
        except BulkWriteError as error:
            errors = write_errors(error)
            foreign = any(each.get("code") != DUPLICATE for each in errors)
            if foreign or error.details.get("writeConcernErrors"):
                raise
            return sorted(each["index"] for each in errors)
        return []

    def remove(self, entries: Collection[str]) -> set[str]:
        """Remove entries, whoever reported them; returns those that were there."""
        names = {hash_of(each): each for each in entries}
        present = [document["_id"] for document in self.documents(entries)] if entries else []
        with self._mongo.operation():
            match = {"_id": {"$in": present}}
            self._mongo.persist(lambda: self._list.delete_many(match))
        return {names.get(name, name) for name in present}

    # Forget: an entry → the same under a hash of its address
    #
    # Rule: who is on the list stays there, and is not named. HASHES says that there are hashes, so
    # that consumers ask for them; it is there before the first entry goes.
    #
    #   before  {_id: "ann@example.net", reason: "bounced", …}
    #   after   {_id: "sha256:5c0e…", reason: "bounced", …}, {_id: "sha256:"}

    def forget(self, entries: Collection[str], *, dry_run: bool = False) -> int:
        """Keep only hashes of these; returns how many were there by name."""
        documents = self._documents(list(entries))
        if dry_run or not documents:
            return len(documents)
        writes: list[ReplaceOne[dict[str, Any]] | DeleteMany] = [
            ReplaceOne({"_id": HASHES}, {}, upsert=True),
            *(
                ReplaceOne({"_id": hash_of(name)}, {**document, "_id": hash_of(name)}, upsert=True)
                for name, document in documents.items()
            ),
            DeleteMany({"_id": {"$in": list(documents)}}),
        ]
        with self._mongo.operation():
            self._mongo.persist(lambda: self._list.bulk_write(writes))
        return len(documents)

    def lift(self, source: str, entries: Collection[str], at: datetime) -> None:
        """Take back what this ``source`` reported until then; what others reported stays."""
        match = {"_id": {"$in": list(entries)}}
        writes: list[UpdateMany | DeleteMany] = [
            UpdateMany(match, lift_update(source, at)),
            DeleteMany({**match, "reason": {"$exists": False}}),
        ]
        with self._mongo.operation():
            self._mongo.persist(lambda: self._list.bulk_write(writes))


# Report: an entry → the same with one more report -------------------------------------------------
#
# Rule: an entry has one report for each source and reason, the newest. So reports may come twice
# and in any order, and one source can take its own back. The first stands on top.
#
#   before  {_id: "ann@example.net", reason: "bounced", source: "ses", at: T, until: null}
#   after   {_id: "ann@example.net", reason: "bounced", source: "ses", at: T, until: null,
#            others: [{reason: "complained", source: "postmark", at: U, until: null}]}


def report_update(report: Report) -> Pipeline:
    """Enter one more report about an address that is on the list."""
    new = {name: getattr(report, name) for name in _REPORT}
    same = {"$and": [{"$eq": [f"$$this.{n}", {"$literal": new[n]}]} for n in ("source", "reason")]}
    newer = {"$and": [same, {"$gt": ["$$this.at", new["at"]]}]}
    has_newer = {"$anyElementTrue": [{"$map": {"input": "$all", "as": "this", "in": newer}}]}
    replaced = {"$concatArrays": [_without(same), [{"$literal": new}]]}
    return [_ALL, {"$set": {"all": {"$cond": [has_newer, "$all", replaced]}}}, _FIRST_ON_TOP]


# Lift: an entry → the same without a source's reports, or gone ------------------------------------
#
# Rule: what a source reported until ``at`` is taken back. An entry without any report is deleted
# by the next write; meanwhile it stops nobody.
#
#   before  {_id: "ann@example.net", reason: "bounced", source: "ses", at: T, until: null,
#            others: [{reason: "complained", source: "postmark", at: U, until: null}]}
#   after   {_id: "ann@example.net", reason: "complained", source: "postmark", at: U, until: null}


def lift_update(source: str, at: datetime) -> Pipeline:
    """Take back the reports of one source."""
    own = {"$and": [{"$eq": ["$$this.source", {"$literal": source}]}, {"$lte": ["$$this.at", at]}]}
    return [_ALL, {"$set": {"all": _without(own)}}, _FIRST_ON_TOP]


_TOP = {"$cond": ["$reason", [{name: f"${name}" for name in _REPORT}], []]}
_ALL = {"$set": {"all": {"$concatArrays": [_TOP, array("$others")]}}}
_OTHERS = {"$slice": ["$all", 1, {"$max": [1, {"$size": "$all"}]}]}
_FIRST_ON_TOP = {
    "$replaceWith": {
        "$mergeObjects": [
            {"_id": "$_id"},
            {"$first": "$all"},
            {"$cond": [{"$gt": [{"$size": "$all"}, 1]}, {"others": _OTHERS}, {}]},
        ]
    }
}


def _without(reports: dict[str, Any]) -> dict[str, Any]:
    return {"$filter": {"input": "$all", "as": "this", "cond": {"$not": [reports]}}}


def _reports(document: Document) -> list[Mapping[str, Any]]:
    others = document.get("others")
    rest = others if isinstance(others, list) else []
    return [document, *(each for each in rest if isinstance(each, dict))]


def _is_over(report: Mapping[str, Any], now: datetime) -> bool:
    until = report.get("until")
    return isinstance(until, datetime) and until <= now


def _pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to ``size`` of the items."""
    iterator = iter(items)
    while page := list(islice(iterator, size)):
        yield page
