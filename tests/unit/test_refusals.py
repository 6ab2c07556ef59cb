"""A write that is refused for what it would make of a document, told from an outage."""

from __future__ import annotations

from typing import Any

import pytest
from bson.errors import InvalidDocument
from pymongo.errors import AutoReconnect, BulkWriteError, DocumentTooLarge, PyMongoError

from mailqueue.store.mongo import refusals
from tests.for_each import for_each

TOO_LARGE, NO_ARRAY, TAKEN, LARGER_THAN_THE_CACHE = 17419, 28680, 11000, 388
STEPPED_DOWN, OUT_OF_TIME, CACHE_FULL, WRITES_BLOCKED, OVERLOADED = 189, 50, 365, 371, 433


def failed(*codes: int, **more: Any) -> BulkWriteError:
    errors = [{"index": 2 * i, "code": code} for i, code in enumerate(codes)]
    return BulkWriteError({"writeErrors": errors, **more})


def test_an_operation_that_is_refused_is_named() -> None:
    assert refusals(failed(TOO_LARGE)) == [0]
    assert refusals(failed(TOO_LARGE, NO_ARRAY, TAKEN, LARGER_THAN_THE_CACHE)) == [0, 2, 4, 6]


@for_each("code", [STEPPED_DOWN, OUT_OF_TIME, CACHE_FULL, WRITES_BLOCKED, OVERLOADED])
def test_an_operation_that_may_pass_yet_makes_it_an_outage(code: int) -> None:
    assert refusals(failed(code)) is None
    assert refusals(failed(TOO_LARGE, code)) is None


def test_what_may_not_last_is_an_outage() -> None:
    assert refusals(failed(TOO_LARGE, writeConcernErrors=[{"code": 64}])) is None
    assert refusals(failed()) is None


@for_each("error", [AutoReconnect("away"), PyMongoError(), KeyError()])
def test_whatever_else_goes_wrong_is_no_refusal(error: Exception) -> None:
    assert refusals(error) is None


@for_each("error", [InvalidDocument("x"), DocumentTooLarge("x"), OverflowError(), "\ud800"])
def test_what_cannot_be_encoded_may_be_any_of_them(error: Exception | str) -> None:
    if isinstance(error, str):
        with pytest.raises(UnicodeEncodeError) as raised:
            error.encode()
        error = raised.value
    assert refusals(error) == []
