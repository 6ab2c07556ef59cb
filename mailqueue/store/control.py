"""What an operator asks of all consumers: hold e-mails, and drain vendors.

Decides: which e-mails a hold concerns, and how it is written down: who, when, why, and what was
before it. ``routing`` reads it together with the vendors' health, and says what follows.

Assumes: a held e-mail stands under the ``hold`` that keeps it (``transitions``), with a time that
never comes, and has no job. So a hold of 100,000 e-mails is in nobody's way, and its end finds
them.

Promises: what a call wrote is durable when it returns; the same call again changes nothing. Raises
``StoreUnavailable``. One damaged document hides no other.

::

    _id      all, tag:NAME, priority:NAME, vendor:NAME (its e-mails wait), drain:NAME (others get
             them)
    kind  name  active  at  by  reason      of the newest change
    nonce                                   of the call that made it
    history [{verb, at, by, reason}]        the newest 50
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Self

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import PRIORITIES, Status
from mailqueue.message import Email
from mailqueue.store import ids
from mailqueue.store.document import HELD, PRODUCTION, SIMULATED, Document, Stored
from mailqueue.store.ledger import array
from mailqueue.store.mongo import majority_reads
from mailqueue.store.store import Store

KINDS = ("all", "tag", "priority", "vendor", "drain")
DRAIN = "drain"  # under this stands an e-mail all of whose vendors are drained
SECOND_LOOK = 1.5  # seconds: until then a consumer may not have heard that a hold is over
UNLIMITED = 10**9  # more e-mails than there are
PAGE = 1000  # e-mails put back together
HISTORY = 50
SUFFIX = ".control"
ACTIVE: list[dict[str, Any]] = [
    {"$match": {"active": True}},
    {"$unset": "history"},
    {"$project": {"control": "$$ROOT"}},
]
"""The steps of a reading beside others."""
_ENVS = (PRODUCTION, SIMULATED)
Announce = Callable[[Sequence[Stored]], int]
"""Puts their jobs; returns how many could not be put."""


@dataclass(frozen=True, slots=True)
class Control:
    """One hold or drain. ``name`` is that of the tag, the class or the vendor; empty for ``all``.

    ``at``, ``by`` and ``reason``: when, by whom and why it began.
    """

    kind: str
    name: str = ""
    at: datetime | None = None
    by: str = ""
    reason: str = ""

    @property
    def id(self) -> str:
        """The ``_id`` of its document."""
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @property
    def hold(self) -> str:
        """Under which the e-mails stand that wait for its end."""
        return DRAIN if self.kind == DRAIN else self.id

    @property
    def subject(self) -> str:
        """What is held or drained, in words."""
        if self.kind == "all":
            return "everything"
        return f"{'vendor' if self.kind == DRAIN else self.kind} {self.name}"

    @property
    def match(self) -> dict[str, Any]:
        """What is stored of the e-mails that it concerns; empty: that does not tell."""
        if self.kind == "priority":
            return {"priority": PRIORITIES.get(self.name)}
        return {"email.tags": self.name} if self.kind == "tag" else {}

    @property
    def state(self) -> str:
        """What it is, in a word."""
        return "drained" if self.kind == DRAIN else "held"

    @classmethod
    def of(cls, document: Document) -> Self:
        """The control in a document; raises ``TypeError`` for what is none."""
        kind, name, by, reason = (document.get(n) for n in ("kind", "name", "by", "reason"))
        if kind not in KINDS or not isinstance(name, str):
            raise TypeError
        at = document.get("at")
        return cls(kind, name, at if isinstance(at, datetime) else None, str(by), str(reason))


@dataclass(frozen=True)
class Controls:
    """All that is active. False if nothing is, as nearly always."""

    active: Mapping[str, Control] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.active)

    @cached_property
    def everything(self) -> bool:
        """Whether every e-mail is held."""
        return "all" in self.active

    @cached_property
    def held_vendors(self) -> frozenset[str]:
        """The vendors whose e-mails wait."""
        return self._names("vendor")

    @cached_property
    def drained(self) -> frozenset[str]:
        """The vendors that get no e-mail."""
        return self._names(DRAIN)

    @cached_property
    def closed(self) -> frozenset[str]:
        """The vendors that are not asked, for the one reason or the other."""
        return self.held_vendors | self.drained

    @cached_property
    def _tags(self) -> frozenset[str]:
        return self._names("tag")

    @cached_property
    def _priorities(self) -> Mapping[int, str]:
        return {PRIORITIES[name]: name for name in self._names("priority") if name in PRIORITIES}

    def _names(self, kind: str) -> frozenset[str]:
        return frozenset(each.name for each in self.active.values() if each.kind == kind)

    def hold_of(self, email: Email, priority: int) -> str | None:
        """The hold that concerns an e-mail, whatever vendor it would go to."""
        if self.everything:
            return "all"
        if (name := self._priorities.get(priority)) is not None:
            return f"priority:{name}"
        tag = next((tag for tag in email.tags if tag in self._tags), None)
        return None if tag is None else f"tag:{tag}"

    @property
    def holds(self) -> list[str]:
        """Under which e-mails may wait now."""
        return sorted({each.hold for each in self.active.values()})


class ControlStore:
    """The holds and drains of one installation, for both kinds of consumer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.collection = store.collection(SUFFIX)

    def read(self) -> Controls:
        """What is active now."""
        return controls_of(self._find({"active": True}))

    def documents(self) -> list[Document]:
        """All that there ever was, in order, each with its history."""
        return sorted(self._find({}), key=lambda document: str(document["_id"]))

    def _find(self, match: Mapping[str, Any]) -> list[dict[str, Any]]:
        with self._store.operation():
            return list(majority_reads(self.collection).find(match))

    # Begin: absent or over → active
    #
    # Rule: a hold that is active already stays as it is, with the name of who began it.
    #
    #   before  {_id: "tag:news", active: false, history: [begin, end]}
    #   after   {_id: "tag:news", active: true, at: NOW, by: "ann@ops", reason: "wrong price",
    #            nonce: N, history: [begin, end, begin]}

    def begin(self, control: Control) -> bool:
        """Hold, or drain, from now on; False: it was so already."""
        inactive = {"_id": control.id, "active": {"$ne": True}}
        update, nonce = _change(control, active=True)

        def write() -> bool:
            try:
                written = self.collection.update_one(inactive, update, upsert=True)
            except DuplicateKeyError:  # there is one, and it is active: perhaps a lost reply's
                return self._is_mine(control, nonce)
            return bool(written.matched_count or written.upserted_id)

        with self._store.operation():
            return self._store.persist(write)

    # End: active → over
    #
    #   before  {_id: "tag:news", active: true, by: "ann@ops", …}
    #   after   {_id: "tag:news", active: false, at: NOW, by: "bob@ops", history: […, end]}

    def end(self, control: Control) -> bool:
        """Let it be over; False: it was not active. Its e-mails are to be put back."""
        active = {"_id": control.id, "active": True}
        update, nonce = _change(control, active=False)
        with self._store.operation():
            write = self._store.persist(lambda: self.collection.update_one(active, update))
            return bool(write.matched_count) or self._is_mine(control, nonce)

    def _is_mine(self, control: Control, nonce: ObjectId) -> bool:
        return bool(self._find({"_id": control.id, "nonce": nonce}))

    # E-mails -----------------------------------------------------------------------------------

    def count(self, hold: str, limit: int) -> int:
        """How many e-mails wait under it, of both kinds."""
        return self._store.count(_waiting(hold, _ENVS), limit)

    def count_concerned(self, control: Control, limit: int = UNLIMITED) -> int | None:
        """How many queued e-mails it concerns, of a vendor all: theirs are not known before.

        None: to count them takes too long, which is no reason to let an operator wait.
        """
        return self._count({"status": Status.QUEUED.value} | control.match, limit)

    def count_waiting(self, control: Control, limit: int = UNLIMITED) -> int | None:
        """How many e-mails wait for its end; None as above.

        Under ``all`` nothing is moved: those that are due.
        """
        if control.kind != "all":
            return self._count(_waiting(control.hold, _ENVS), limit)
        return self._count(self._due(), limit)

    def count_due(self, control: Control, seconds: float) -> int | None:
        """How many due e-mails it concerns that no consumer has let wait under it yet.

        None: to count them takes longer, or only a consumer knows whose turn they are.
        """
        if not control.match:
            return None
        try:
            with self._store.operation(seconds=seconds):
                return self._store.count(self._due() | control.match, UNLIMITED)
        except StoreUnavailable:
            return None

    def _due(self) -> dict[str, Any]:
        """In the order of the index."""
        due_at = {"$not": {"$gt": self._store.now()}}
        return {"status": Status.QUEUED.value, "env": {"$in": list(_ENVS)}, "due_at": due_at}

    def _count(self, match: Mapping[str, Any], limit: int) -> int | None:
        try:
            return self._store.count(match, limit)
        except StoreUnavailable:
            return None

    def release(self, control: Control, announce: Announce) -> int:
        """End it, and have what waited for that announced; returns how many could not be.

        It takes two seconds longer than the work. A sweeper announces what is left, also if this
        is interrupted.
        """
        self.end(control)
        unannounced = self._put_back(control, announce)
        # Within a second a consumer that did not know may have put some more under the hold.
        time.sleep(SECOND_LOOK)
        return unannounced + self._put_back(control, announce)

    def _put_back(self, control: Control, announce: Announce) -> int:
        return sum(announce(page) for page in self.put_back(control.hold))

    def put_back(self, hold: str, envs: Sequence[str] = _ENVS) -> Iterator[list[Stored]]:
        """Let what waits under ``hold`` be due again, each once, by ``_id``; page by page.

        Each page is durable, and is to be announced.
        """
        match = _waiting(hold, envs)
        while page := self._store.find_jobs(match, PAGE, "_id"):
            self._store.put_back([stored.id for stored in page])
            yield page
            # Onwards only: under a drain, consumers may hold an e-mail again at once.
            match["_id"] = {"$gt": page[-1].id}

    def put_back_abandoned(self, holds: Collection[str], limit: int) -> list[Stored]:
        """The same for what waits, in my kind, under none of these ``holds``: up to ``limit``."""
        match = _waiting({"$nin": list(holds)}, [self._store.env])
        page = self._store.find_jobs(match, limit, "_id")
        for start in range(0, len(page), PAGE):
            self._store.put_back([stored.id for stored in page[start : start + PAGE]])
        return page


def _waiting(hold: Any, envs: Sequence[str]) -> dict[str, Any]:
    """Those that wait: in the order of the index, so that it costs nothing where none does."""
    queued = {"status": Status.QUEUED.value, "env": {"$in": list(envs)}, "due_at": HELD}
    return queued | {"hold": hold}


def controls_of(documents: Iterable[Document]) -> Controls:
    """The active ones among the documents; what is damaged is none."""
    active = {}
    for document in documents:
        try:
            control = Control.of(document)
        except TypeError:
            continue
        if document.get("active") is True:
            active[control.id] = control
    return Controls(active)


def _change(control: Control, *, active: bool) -> tuple[list[dict[str, Any]], ObjectId]:
    nonce = ids.new()
    facts = {"at": "$$NOW", "by": {"$literal": control.by}, "reason": {"$literal": control.reason}}
    entry = {"verb": "begin" if active else "end", **facts}
    history = {"$slice": [{"$concatArrays": [array("$history"), [entry]]}, -HISTORY]}
    names = {"kind": control.kind, "name": {"$literal": control.name}}
    fields = {**names, "active": active, **facts, "nonce": nonce, "history": history}
    return [{"$set": fields}], nonce
