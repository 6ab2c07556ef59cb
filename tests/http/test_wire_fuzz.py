"""Whatever a request holds, it becomes an e-mail, or a refusal that names a place."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailqueue.errors import InvalidEmail
from mailqueue.http import wire
from mailqueue.http.errors import Problem
from mailqueue.message import Email
from mailqueue.producer.submission import SendOptions

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(), max_size=20),
    st.sampled_from(
        ["\ud800", "a@b.example", "\0", "=?utf-8?q?=0D=0A?=", "2030-01-01T00:00:00Z", ""]
    ),
)
ANY = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYED = {
    "attachments": st.lists(
        st.dictionaries(
            st.sampled_from(["content", "filename", "content_type", "content_id", "path"]), ANY
        ),
        max_size=2,
    ),
    "tags": st.lists(
        ANY | st.fixed_dictionaries({"name": ANY}, optional={"value": ANY}), max_size=3
    ),
    "headers": st.dictionaries(st.text(st.characters(), max_size=5), ANY, max_size=3),
    "metadata": st.dictionaries(st.text(st.characters(), max_size=5), ANY, max_size=3),
}
MESSAGES = st.fixed_dictionaries(
    {"from": st.just("a@example.com") | ANY, "to": st.just("b@example.org") | ANY},
    optional={key: KEYED.get(key, ANY) | ANY for key in wire.KEYS if key not in ("from", "to")},
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(MESSAGES | ANY | st.dictionaries(st.text(st.characters()), ANY))
def test_an_odd_request_is_refused_or_taken(value: Any) -> None:
    message = None
    try:
        message = wire.read_message(wire.read_json(json.dumps(value).encode()))
        Email.of(message.email)
        SendOptions(message.priority, message.send_at, message.expires_at)
    except InvalidEmail as error:
        problem = (
            message.problem(error) if message else Problem(422, "validation_error", str(error))
        )
        _check(problem)
    except Problem as problem:
        _check(problem)


def _check(problem: Problem) -> None:
    assert problem.status in {400, 422}
    body = json.loads(problem.body())
    for error in body["errors"]:
        assert error["pointer"] == "" or error["pointer"].startswith("/")


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(
    st.binary(max_size=50) | st.text('{}[]",:0123456789.eE-+tfn\\u \n', max_size=50).map(str.encode)
)
def test_any_octets_are_json_or_malformed(octets: bytes) -> None:
    with suppress(Problem):
        wire.read_json(octets)


@pytest.mark.parametrize("depth", [10, 1000, 100_000])
def test_any_depth_is_read_or_refused(depth: int) -> None:
    body = b'{"metadata":' * depth + b"1" + b"}" * depth
    with pytest.raises((Problem, InvalidEmail)):
        Email.of(wire.read_message(wire.read_json(body)).email)
