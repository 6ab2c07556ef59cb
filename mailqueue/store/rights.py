"""What MongoDB's user may not do with the collections of an installation.

Decides: which writes are tried. They are those without which consumers do not work; whoever only
stores e-mails needs fewer.

Assumes: a write that matches nothing needs the same right as one that matches, whoever gave it: a
role of MongoDB's or one's own, or nobody, where there are no users at all.

Promises: nothing is changed, and no collection is created.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo.errors import OperationFailure

from mailqueue.store.mongo import Mongo

UNAUTHORIZED = (13, 8000)  # the second is that of MongoDB Atlas' shared clusters
ESSENTIAL: Mapping[str, tuple[str, ...]] = {
    "": ("update", "remove"),
    ".vendors": ("update",),
    ".leases": ("update",),
}
"""Without these no e-mail is sent, by the end of a collection's name."""
FURTHER: Mapping[str, tuple[str, ...]] = {".stats": ("update",), ".control": ("update",)}
"""Without these nobody learns that consumers live, or can hold anything."""
_NOTHING: Mapping[str, Any] = {"_id": {"$in": []}}


def find_missing(mongo: Mongo, needed: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """The rights that are missing, by the collection's name. Raises ``StoreUnavailable``."""
    missing: dict[str, list[str]] = {}
    with mongo.operation():
        for suffix, rights in needed.items():
            for right in rights:
                if not _has(mongo, suffix, right):
                    missing.setdefault(mongo.collection(suffix).full_name, []).append(right)
    return missing


# Any → the same
#
# Rule: no document matches, so none is written.


def _has(mongo: Mongo, suffix: str, right: str) -> bool:
    collection = mongo.collection(suffix)
    try:
        if right == "remove":
            collection.delete_many(_NOTHING)
        else:
            collection.update_many(_NOTHING, {"$set": {"at": None}})
    except OperationFailure as error:
        if error.code not in UNAUTHORIZED:
            raise
        return False
    return True
