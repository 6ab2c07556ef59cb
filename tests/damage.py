"""Documents of e-mails with one thing wrong in each: every field, every BSON type.

``damaged(sound)`` gives them for a sound document. What a field must hold is not said here: some of
the damage may do no harm, and then the e-mail is as good as any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from datetime import UTC, datetime
from typing import Any

from bson import (
    Binary,
    Code,
    DatetimeMS,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    encode,
)
from bson.dbref import DBRef
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

Document = dict[str, Any]

MISSING = object()
VALUES: Mapping[str, Any] = {
    "missing": MISSING,
    "null": None,
    "true": True,
    "a number": 5,
    "below zero": -1,
    "a large number": Int64(2**63 - 1),
    "a fraction": 1.5,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "a decimal": Decimal128("NaN"),
    "a text": "x",
    "an empty text": "",
    "an empty list": [],
    "a list": ["x", None, {}],
    "an empty object": {},
    "an object": {"x": 1, "token": "x", "n": "x"},
    "bytes": b"\xff\xfe",
    "a UUID": Binary(b"0" * 16, 4),
    "an id": ObjectId("65f0a1b2c3d4e5f6a7b8c9d0"),
    "a date": datetime(2020, 1, 1, tzinfo=UTC),
    "a date far away": datetime(9999, 1, 1, tzinfo=UTC),
    "a date beyond": DatetimeMS(2**62),
    "a timestamp": Timestamp(1, 1),
    "a pattern": Regex("x"),
    "code": Code("x"),
    "code with scope": Code("x", {"y": 1}),
    "the least": MinKey(),
    "the greatest": MaxKey(),
    "a reference": DBRef("x", 1),
}


MARK = "UNDECODABLE"
FEW = ("missing", "null", "a number", "a large number", "a text", "a list", "an object", "a date")


def damaged(sound: Document, *only: str, few: bool = False) -> Iterator[tuple[str, Document]]:
    """What is wrong, and the document, which has an id of its own and shares what is sound.

    ``only`` in these fields; ``few``: inside of lists and objects not every value is tried.
    """
    for path in _paths(sound):
        if path[0] == "_id" or (only and path[0] not in only):
            continue
        for name in FEW if few and len(path) > 1 else VALUES:
            document = {**_with(sound, path, VALUES[name]), "_id": ObjectId()}
            yield f"{'.'.join(map(str, path))} is {name}", document


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value[:1])
    for key, each in inner:
        yield from _paths(each, (*path, key))


def _with(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy along the path."""
    key, *inner = path
    copied = copy(document)
    if inner:
        copied[key] = _with(document[key], tuple(inner), value)
    elif value is not MISSING:
        copied[key] = value
    else:
        del copied[key]
    return copied


def undecodable(document: Document) -> RawBSONDocument:
    """The document with bytes that are no text where the mark is; another driver may write so."""
    raw = encode(document)
    assert MARK.encode() in raw
    return RawBSONDocument(raw.replace(MARK.encode(), b"\xff" * len(MARK)))
