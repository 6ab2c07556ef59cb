"""Reading documents, some of which cannot be decoded.

Decides: what is still known of such a document: its ``_id``, and what of ``FIELDS`` can be decoded.
The driver decodes a reply as a whole, so one damaged document hides all others. So they are then
read one at a time.

Promises: nothing is changed.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Sequence
from typing import Any

from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection

FIELDS = ("status", "lease", "callbacks", "callback_url")


def read_each(
    steps: Sequence[dict[str, Any]], collection: Collection[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each document of an aggregation alone; ``steps`` begin with those that choose them."""
    for each in collection.aggregate([*steps, {"$project": {"now": "$$NOW"}}]):
        alone = {"$match": {"_id": each["_id"]}}
        try:
            yield from list(collection.aggregate([alone, *steps[1:]]))
        except BSONError:
            fields = [_field(collection, alone, name) for name in FIELDS]
            yield dict(ChainMap(each, *fields))


def _field(
    collection: Collection[dict[str, Any]], alone: dict[str, Any], field: str
) -> dict[str, Any]:
    """A field without decoding it; nothing where it is the one that cannot be."""
    options = collection.codec_options.with_options(document_class=RawBSONDocument)
    raw = collection.with_options(codec_options=options)
    try:
        (document,) = raw.aggregate([alone, {"$project": {field: 1}}])
        return {field: document[field]} if field in document else {}
    except (BSONError, ValueError):  # or it is not there any more
        return {}
