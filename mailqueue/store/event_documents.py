"""The events that other programs insert into ``<collection>.intake``, for ``mailqueue intake``.

Decides: what a document of an event is: ``{event: {...}}``, or the same as a text in JSON. What the
event says is none of its business.

An event is no hint: it is deleted only after its e-mail is stored. So a reservation stands in the
event's own document, by a guarded update, and whoever is killed leaves it to its end.

Promises: one that is read has its ``_id`` for a name, which no other has. Raises
``StoreUnavailable``.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Collection, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from bson import ObjectId, encode, json_util

from mailqueue.store import ids
from mailqueue.store.lease import lease_has_ended
from mailqueue.store.mongo import Mongo

SECONDS = 60.0  # of a reservation; a batch is stored in a moment
MOST_BYTES = 65_535  # of an event
_FREE: Mapping[str, Any] = {
    "buried": None,
    "$or": [{"reserved": None}, {"$expr": lease_has_ended("$reserved.until")}],
}
# As JSON it may be smaller, but not by so much.
_FITS = {"$lte": [{"$bsonSize": "$$ROOT"}, 4 * MOST_BYTES]}
_FIELDS = {"event": {"$cond": [_FITS, "$event", ""]}}


class EventDocuments:
    """One thread uses it."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        events = mongo.collection(".intake")
        # What is no UTF-8 is left to who reads the event: it must not keep others back.
        options = events.codec_options.with_options(unicode_decode_error_handler="surrogateescape")
        self._events = events.with_options(codec_options=options)
        self._indexed = False
        self._reserved: dict[str, Any] = {}  # the ``_id`` of each, by its name
        self._nonce = ids.new()

    # Reserve: waiting → reserved
    #
    # Rule: an event that is not buried, and that nobody has reserved, or not for this long, is
    # reserved by this process. Of two that found it the later one matches nothing.
    #
    #   before  {_id: 1, event: {…}}
    #   after   {_id: 1, event: {…}, reserved: {by: N, until: NOW + 60 s}}

    def reserve(self, limit: int) -> Mapping[str, bytes | None]:
        """Up to ``limit`` events, the oldest ids first, as JSON; None: it is too large."""
        until = {"$add": ["$$NOW", round(SECONDS * 1000)]}
        update = [{"$set": {"reserved": {"by": self._nonce, "until": until}}}]
        with self._mongo.operation():
            self._ensure_index()
            # Without a limit of its own: so many that cannot be asked for would hide all others.
            with self._events.find(_FREE, {"_id": 1}, batch_size=limit).sort("_id", 1) as waiting:
                ids = filter(_can_be_asked_for, (document["_id"] for document in waiting))
                chosen = {"_id": {"$in": list(islice(ids, limit))}}
            if not chosen["_id"]["$in"]:
                return {}
            self._events.update_many({**chosen, **_FREE}, update)
            documents = list(self._events.find(chosen | {"reserved.by": self._nonce}, _FIELDS))
        fresh = {n: d for d in documents if (n := _name(d["_id"])) not in self._reserved}
        self._reserved |= {name: document["_id"] for name, document in fresh.items()}
        return {name: _body(document.get("event")) for name, document in fresh.items()}

    def _ensure_index(self) -> None:
        """Buried ones may pile up; those that wait are to be found without them."""
        if not self._indexed:
            self._events.create_index([("buried", 1), ("_id", 1)])
            self._indexed = True

    # Delete: reserved → gone; its e-mail is stored
    #
    #   before  {_id: 1, event: {…}, reserved: {by: N, until: …}}
    #   after   (no document)

    def delete(self, names: Collection[str]) -> None:
        """Delete what is stored as e-mails; also if the reservation is over: it is stored."""
        chosen = [self._reserved.pop(name) for name in names]
        if chosen:
            with self._mongo.operation():
                self._events.delete_many({"_id": {"$in": chosen}})

    # Bury: reserved → buried
    #
    # Rule: an event that can never be an e-mail stays, and says what is wrong with it.
    #
    #   before  {_id: 1, event: {…}, reserved: {by: N, until: …}}
    #   after   {_id: 1, event: {…}, buried: {at: NOW, problem: "email.to: must be an address"}}

    def bury(self, names: Collection[str], note: str) -> None:
        """Keep these for a person."""
        chosen = [self._reserved.pop(name) for name in names]
        buried = {"at": "$$NOW", "problem": {"$literal": note}}
        update = [{"$set": {"buried": buried, "reserved": "$$REMOVE"}}]
        with self._mongo.operation():
            self._events.update_many({"_id": {"$in": chosen}}, update)

    # Give back: reserved → waiting
    #
    # Rule: what this process has reserved, and only that, is free for all.
    #
    #   before  {_id: 1, event: {…}, reserved: {by: N, until: …}}
    #   after   {_id: 1, event: {…}}

    def give_back(self) -> None:
        """Let anybody have what is reserved here."""
        chosen, self._reserved = list(self._reserved.values()), {}
        if chosen:
            mine = {"_id": {"$in": chosen}, "reserved.by": self._nonce}
            with self._mongo.operation():
                self._events.update_many(mine, [{"$set": {"reserved": "$$REMOVE"}}])

    def depth(self) -> Mapping[str, int]:
        """How many events there are by state."""
        buried, reserved = {"buried": {"$exists": True}}, {"reserved": {"$exists": True}}
        with self._mongo.operation():
            everything = self._events.count_documents({})
            n_buried = self._events.count_documents(buried)
            n_reserved = self._events.count_documents(reserved)
        return {
            "ready": everything - n_buried - n_reserved,
            "reserved": n_reserved,
            "delayed": 0,
            "buried": n_buried,
        }


def _name(identity: Any) -> str:
    """A text for an ``_id`` of any type; of two values it is two."""
    if isinstance(identity, ObjectId):
        return str(identity)
    return json.dumps(identity, default=json_util.default)


def _can_be_asked_for(identity: Any) -> bool:
    """Whether the driver encodes it again: not one with a text that is no UTF-8, which stays."""
    try:
        return isinstance(identity, ObjectId) or bool(encode({"": identity}))
    except UnicodeError:
        return False


def _body(value: Any) -> bytes | None:
    """The event as JSON; None: it is too large. What JSON does not know is left to who reads it."""
    if isinstance(value, str):
        body = value.encode("utf-8", "surrogateescape")
    else:
        body = json.dumps(value, default=_plain).encode()
    return body if len(body) <= MOST_BYTES else None


def _plain(value: Any) -> Any:
    """A time and a file's content as events in JSON have them."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value.isoformat() if isinstance(value, datetime) else json_util.default(value)
