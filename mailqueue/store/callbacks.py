"""The callbacks of an e-mail: how one is noted, claimed and settled. Pure.

Decides: what an application is told of (``ENDS``, ``STEPS``), which name each event has, and that
it is noted in the very update that makes it true: a transactional outbox. The application is told
later, by a responder, as often as it takes.

Assumes: as ``transitions``: guard and update are one step on the server, and every time is the
server's.

Promises: an event is noted once, however often the update is repeated: its id follows from the
e-mail and the event, and an id that is in the list is not noted again. The id is the
``webhook-id`` of each delivery, so that the application can tell a repeat. Noting needs nothing of
the document: whatever stands in it, the update that it is part of works as without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from bson import ObjectId

from mailqueue.config import Callbacks, Retention
from mailqueue.config.callbacks import TYPES
from mailqueue.lifecycle.outcomes import Reason, Status
from mailqueue.store import ledger
from mailqueue.store.content import DROP_IF_SENT
from mailqueue.store.document import CLOCK_TOKEN
from mailqueue.store.transitions import Filter, Pipeline, Write

DUE, DELIVERED, GONE, FAILED = STATES = ("due", "delivered", "gone", "failed")
ENDED = (DELIVERED, GONE, FAILED)
DUE_AT = "callbacks.due_at"
INDEX = ("env", DUE_AT)
TROUBLE = (FAILED, GONE)
TROUBLE_INDEX = ("env", "callbacks.state")
# Each with what is in it: most e-mails are in neither. Only who needs them makes them.
INDEXES: Mapping[tuple[str, ...], Filter] = {
    INDEX: {DUE_AT: {"$exists": True}},
    TROUBLE_INDEX: {"callbacks.state": {"$in": list(TROUBLE)}},
}
OF = "_to_"  # in the id of a recipient's step, before the recipient's place
NO_CALLBACK_DUE: Filter = {DUE_AT: {"$exists": False}}  # of none in the list
_LARGEST = 2**31
_SUPPRESSED = {
    "$and": [
        {"$eq": ["$status", Status.FAILED.value]},
        {"$eq": ["$reason", Reason.SUPPRESSED.value]},
    ]
}
# The word of each end in its id, its type, and how it is known, once the e-mail has ended.
ENDS = (
    *((s.value, f"email.{s}", {"$eq": ["$status", s.value]}) for s in Status if s.final),
    ("suppressed", "email.suppressed", _SUPPRESSED),
)
STEPS: Mapping[str, str] = {
    "deferred": "email.delivery_delayed",
    "delivered": "email.delivered",
    "bounced_soft": "email.bounced",
    "bounced_hard": "email.bounced",
    "failed": "email.failed",
    "rejected": "email.failed",
    "complained": "email.complained",
    "opened": "email.opened",
    "clicked": "email.clicked",
}
"""The types by the words of ``deliveries``; of the others nobody is told."""

_LIST = ledger.array("$callbacks")
_IDS = {"$map": {"input": _LIST, "in": "$$this.id"}}


@dataclass(frozen=True, slots=True)
class Noting:
    """What is noted: events of these ``types``, of e-mails that have a ``callback_url``.

    ``everyone``: of all others too, since there is a URL for them. ``drops_content``: an e-mail
    that is sent loses its content (``content``), whoever is told.
    """

    types: Collection[str] = TYPES
    everyone: bool = False
    drops_content: bool = False

    @classmethod
    def of(cls, callbacks: Callbacks | None, retention: Retention | None = None) -> Self:
        """As the configuration has it."""
        drops = retention is not None and retention.content == "until_sent"
        if callbacks is None:
            return cls(drops_content=drops)
        return cls(frozenset(callbacks.types), callbacks.url is not None, drops)

    # Note: any → the same, with the callback that is due -----------------------------------------
    #
    # Rule: an e-mail that ends so, and whose list has no entry with the id of this end, gets one.
    # The id counts a person's retries: an e-mail that fails, is retried, and fails again has ended
    # twice. Ends that follow each other without a retry differ in their status.
    #
    #   before  {status: "sending", callback_url: "https://…"}
    #   after   {status: "sent", callback_url: "https://…", callbacks: [{id: "msg_65f1…_sent_0",
    #            type: "email.sent", state: "due", at: NOW, due_at: NOW, token: 0, tries: 0}]}

    def with_end(self, update: Pipeline) -> Pipeline:
        """The update with a last step: if the e-mail has ended by it, that is noted."""
        entries = [
            {"$cond": [is_so, [_entry(_id(word, _RETRIES), type_, reason="$reason")], []]}
            for word, type_, is_so in ENDS
            if type_ in self.types
        ]
        noted = [*update, {"$set": self._with_entries(entries)}] if entries else update
        return self.without_content(noted)

    def without_content(self, update: Pipeline) -> Pipeline:
        """The update with a last step, where content is dropped: if the e-mail is sent by it."""
        return [*update, *DROP_IF_SENT] if self.drops_content else update

    # A recipient's step is noted in the same way, in the step of the update that makes it: there
    # the document is still as it was. No recipient takes a step twice.

    def with_step(self, recipient: int, word: str, changes: Any) -> dict[str, Any]:
        """Fields for the update that takes a recipient to ``word``, if ``changes`` is true."""
        type_ = STEPS.get(word)
        if type_ is None or type_ not in self.types:
            return {}
        entry = _entry(_id(f"{word}{OF}{recipient}"), type_, recipient=recipient)
        return self._with_entries([{"$cond": [changes, [entry], []]}])

    def _with_entries(self, entries: Sequence[Any]) -> dict[str, Any]:
        """The list with those of these entries (each an array of one or none) that are new."""
        is_new = {"$not": [{"$in": ["$$this.id", _IDS]}]}
        new = {"$filter": {"input": {"$concatArrays": list(entries)}, "cond": is_new}}
        noted = {
            "$let": {
                "vars": {"new": new},
                "in": {
                    "$cond": [
                        {"$eq": ["$$new", []]},
                        {"$ifNull": ["$callbacks", "$$REMOVE"]},
                        {"$concatArrays": [_LIST, "$$new"]},
                    ]
                },
            }
        }
        if self.everyone:
            return {"callbacks": noted}
        has_url = {"$eq": [{"$type": "$callback_url"}, "string"]}
        return {"callbacks": {"$cond": [has_url, noted, {"$ifNull": ["$callbacks", "$$REMOVE"]}]}}


def _entry(id_: Any, type_: str, **more: Any) -> dict[str, Any]:
    times = {"at": "$$NOW", "due_at": "$$NOW", "since": "$$NOW"}
    return {"id": id_, "type": type_, **more, "state": DUE, **times, "token": 0, "tries": 0}


# An ``_id`` that follows from a key comes again: then the nonce tells the e-mails apart, as
# ``Stored.incarnation`` has it.
_NAME = {
    "$cond": [
        {
            "$and": [
                {"$isNumber": "$lease.token"},
                {"$gte": ["$lease.token", CLOCK_TOKEN]},
                {"$eq": [{"$type": "$nonce"}, "objectId"]},
            ]
        },
        "$nonce",
        "$_id",
    ]
}


def _id(word: str, *count: Any) -> dict[str, Any]:
    numbers = [part for each in count for part in ("_", {"$toString": each})]
    return {"$concat": ["msg_", {"$toString": _NAME}, f"_{word}", *numbers]}


def _number(value: Any) -> dict[str, Any]:
    fits = {"$and": [{"$isNumber": value}, {"$gte": [value, 0]}, {"$lt": [value, _LARGEST]}]}
    return {"$cond": [fits, value, 0]}


_RETRIES = _number({"$last": {"$map": {"input": ledger.array("$interventions"), "in": "$$this.n"}}})


# Claim: due → due later, mine meanwhile ----------------------------------------------------------
#
# Rule: of each of these e-mails, the first callback that is due is mine until its time comes again.
# Its token grows: who claims it later settles it, and not I.
#
#   before  {callbacks: [{id: "msg_…", state: "due", due_at: NOW - 1 s, token: 0, tries: 0}]}
#   after   {callbacks: [{id: "msg_…", state: "due", due_at: NOW + 45 s, token: 1, tries: 1,
#            nonce: N}]}


def claim_write(ids: Sequence[ObjectId], env: str, nonce: ObjectId, seconds: float) -> Write:
    """Claim a callback of each of these; their ``nonce`` then tells which."""
    guard: Filter = {"_id": {"$in": list(ids)}, "env": env, DUE_AT: {"$exists": True}}
    is_due = {"$map": {"input": "$callbacks", "in": _is_due("$$this")}}
    first = {"$indexOfArray": [is_due, True]}
    claim = {
        "due_at": _after(seconds),
        "token": {"$add": ["$$entry.token", 1]},
        "tries": {"$add": ["$$entry.tries", 1]},
        "nonce": nonce,
    }
    place = {"$indexOfArray": ["$callbacks", "$$entry"]}
    mine = {"$and": [{"$eq": [place, "$$first"]}, _is_due("$$entry")]}
    entries = {
        "$map": {
            "input": "$callbacks",
            "as": "entry",
            "in": {"$cond": [mine, {"$mergeObjects": ["$$entry", claim]}, "$$entry"]},
        }
    }
    return guard, [{"$set": {"callbacks": {"$let": {"vars": {"first": first}, "in": entries}}}}]


def _is_due(entry: str) -> dict[str, Any]:
    """An entry that has ended has no ``due_at``; and what is missing is less than any time."""
    is_time = {"$eq": [{"$type": f"{entry}.due_at"}, "date"]}
    return {"$and": [is_time, {"$lte": [f"{entry}.due_at", "$$NOW"]}]}


# Settle: due, mine → delivered, gone or failed; or due again -------------------------------------
#
# Rule: what came of a callback is written down if its token and nonce are those of the claim.
#
#   before  {callbacks: [{id: "msg_…", state: "due", due_at: NOW + 40 s, token: 1, nonce: N}]}
#   after   {callbacks: [{id: "msg_…", state: "delivered", code: "200", ended_at: NOW, token: 1}]}
#   or      {callbacks: [{id: "msg_…", state: "due", due_at: NOW + 5 s, code: "500", token: 1}]}


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of a claimed callback: its ``state``; with DUE also in how many seconds it is due.

    ``expires_after``: seconds after which one that would be due again has failed instead.
    """

    email_id: ObjectId
    id: str
    token: int
    nonce: ObjectId
    state: str
    code: str
    delay: float = 0.0
    expires_after: float = 0.0


def settle_write(settlement: Settlement) -> Write:
    """Write down what came of it."""
    guard = {
        "_id": settlement.email_id,
        "callbacks": {
            "$elemMatch": {
                "id": settlement.id,
                "token": settlement.token,
                "nonce": settlement.nonce,
            }
        },
    }
    code = {"$literal": settlement.code}
    end: dict[str, Any] = {"state": settlement.state, "due_at": "$$REMOVE", "ended_at": "$$NOW"}
    if settlement.state == DUE:
        age = {"$subtract": ["$$NOW", "$$entry.since"]}
        is_over = {"$gte": [age, round(settlement.expires_after * 1000)]}
        end = {
            "state": {"$cond": [is_over, FAILED, DUE]},
            "due_at": {"$cond": [is_over, "$$REMOVE", _after(settlement.delay)]},
            "ended_at": {"$cond": [is_over, "$$NOW", "$$REMOVE"]},
        }
    return guard, _change_entry({"$eq": ["$$entry.id", settlement.id]}, end | {"code": code})


# Retry: failed or gone → due ---------------------------------------------------------------------
#
# Rule: a callback that a person wants to be tried again is due at once, and has its time anew. Its
# id stays.
#
#   before  {callbacks: [{id: "msg_…", state: "failed", ended_at: T, code: "500", tries: 90}]}
#   after   {callbacks: [{id: "msg_…", state: "due", due_at: NOW, since: NOW, tries: 0}]}


def retry_write(ids: Sequence[ObjectId], states: Sequence[str]) -> Write:
    """Try the callbacks of these e-mails again that are in one of these states."""
    guard = {"_id": {"$in": list(ids)}, "callbacks.state": {"$in": list(states)}}
    again = {"state": DUE, "due_at": "$$NOW", "since": "$$NOW", "tries": 0, "ended_at": "$$REMOVE"}
    return guard, _change_entry({"$in": ["$$entry.state", list(states)]}, again)


def _change_entry(is_meant: Any, fields: Mapping[str, Any]) -> Pipeline:
    """Give the entries that are meant these fields; one that is ``$$REMOVE`` is gone afterwards."""
    names = [*fields, "nonce"]
    others = {
        "$arrayToObject": {
            "$filter": {
                "input": {"$objectToArray": "$$entry"},
                "as": "field",
                "cond": {"$not": [{"$in": ["$$field.k", names]}]},
            }
        }
    }
    entry = {"$mergeObjects": [others, fields]}
    changed = {"$cond": [is_meant, entry, "$$entry"]}
    return [{"$set": {"callbacks": {"$map": {"input": _LIST, "as": "entry", "in": changed}}}}]


def _after(seconds: float) -> dict[str, Any]:
    return {"$add": ["$$NOW", round(seconds * 1000)]}
