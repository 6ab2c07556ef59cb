"""Reading documents, some of which cannot be decoded.

Decides: what is still known of such a document: its ``_id``, and what can be decoded of ``BYTES``,
as it stands there, and of ``TEXTS``, with replacements in what is no text. The driver decodes a
reply as a whole, so one damaged document hides all others. So they are then read one at a time.

Promises: nothing is changed.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Sequence
from typing import Any

from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection

from mailqueue.store.mongo import readable

BYTES = ("status", "lease")  # by these an update is guarded
TEXTS = ("callbacks", "callback_url")


def read_each(
    steps: Sequence[dict[str, Any]], collection: Collection[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each document of an aggregation alone; ``steps`` begin with those that choose them."""
    for each in collection.aggregate([*steps, {"$project": {"now": "$$NOW"}}]):
        alone = {"$match": {"_id": each["_id"]}}
        try:
            yield from list(collection.aggregate([alone, *steps[1:]]))
        except BSONError:
            yield dict(ChainMap(each, *_fields(collection, alone)))


def _fields(
    collection: Collection[dict[str, Any]], alone: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    options: CodecOptions[Any] = collection.codec_options.with_options(
        document_class=RawBSONDocument
    )
    for name in BYTES:
        yield _field(collection.with_options(options), alone, name)
    for name in TEXTS:
        yield _field(readable(collection), alone, name)


def _field(
    collection: Collection[dict[str, Any]], alone: dict[str, Any], field: str
) -> dict[str, Any]:
    """This field; nothing where it is the one that cannot be decoded."""
    try:
        (document,) = collection.aggregate([alone, {"$project": {field: 1}}])
        return {field: document[field]} if field in document else {}
    except (BSONError, ValueError):  # or it is not there any more
        return {}
