"""What an event may say, and what is refused, by name."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mailqueue.errors import InvalidEmail
from mailqueue.intake.event import KEYS, MAX_BYTES, read
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.message import Attachment, Email
from tests.for_each import for_each

EMAIL = {"from": "ann@example.com", "to": "bob@example.org", "subject": "Hi", "text": "Hello"}
KEY = "intake:1:2"
PAGE = Path(__file__).parents[2] / "docs/intake.md"


def event(**more: Any) -> bytes:
    return json.dumps({"email": EMAIL, **more}).encode()


def refusal(body: bytes) -> InvalidEmail:
    with pytest.raises(InvalidEmail) as caught:
        read(body, KEY)
    return caught.value


def test_an_event_needs_nothing_but_its_email() -> None:
    submission = read(event(), KEY)
    assert submission.email.to_mapping() == Email.from_mapping(EMAIL).to_mapping()
    assert (submission.key, submission.options.priority) == (KEY, "normal")
    assert submission.options.send_at is submission.options.expires_at is None


def test_an_e_mail_without_the_object_around_it_is_told_where_its_keys_belong() -> None:
    error = refusal(json.dumps(EMAIL).encode())
    assert (error.field, error.problem) == (
        "from",
        'is a key of the e-mail: put it into the object "email"',
    )


def test_null_means_absent() -> None:
    names = ("priority", "send_at", "expires_at", "idempotency_key")
    submission = read(event(**dict.fromkeys(names)), KEY)
    assert (submission.key, submission.options.priority) == (KEY, "normal")


@for_each("priority", PRIORITIES)
def test_an_event_has_the_options_of_send(priority: str) -> None:
    submission = read(
        event(
            priority=priority,
            send_at="2026-12-01T09:00:00+01:00",
            expires_at="2026-12-01T09:00:00Z",
            idempotency_key="welcome-4711",
        ),
        KEY,
    )
    assert submission.options.priority == priority
    assert submission.options.send_at == datetime(2026, 12, 1, 8, tzinfo=UTC)
    assert submission.options.expires_at == datetime(2026, 12, 1, 9, tzinfo=UTC)
    assert submission.key == "welcome-4711"


def test_the_content_of_an_attachment_is_base64_which_tools_wrap() -> None:
    content = bytes(range(256))
    text = b64encode(content).decode()
    files = [{"filename": "a.bin", "content": text[:76] + "\r\n" + text[76:]}]
    (attachment,) = read(event(email={**EMAIL, "attachments": files}), KEY).email.attachments
    assert attachment == Attachment("a.bin", content, "application/octet-stream")


@for_each("content", [None, 5, ["aGk="], "aGk", "a-_=", "ä", "aGk=\0"])
def test_any_other_content_is_refused(content: object) -> None:
    files = [{"filename": "a", "content": "aGk="}, {"filename": "b", "content": content}]
    assert refusal(event(email={**EMAIL, "attachments": files})).field == "attachments[1].content"


def test_a_file_without_content_and_what_is_no_file_are_refused() -> None:
    for file in ({"filename": "a"}, 5, None):
        problem = refusal(event(email={**EMAIL, "attachments": [file]}))
        assert problem.field.startswith("attachments[0]")
    assert refusal(event(email={**EMAIL, "attachments": "a"})).field == "attachments"


@for_each(
    "more, field",
    [
        ({"email": None}, "email"),
        ({"email": [EMAIL]}, "email"),
        ({"email": {**EMAIL, "to": "b@x.org, c@x.org"}}, "to"),
        ({"email": {**EMAIL, "to": ["bob@example.org", "nobody"]}}, "to[1]"),
        ({"email": {**EMAIL, "sbject": "Hi"}}, "sbject"),
        ({"email": {**EMAIL, "text": None}}, "text"),
        ({"email": {**EMAIL, "subject": "\ud800"}}, "subject"),
        ({"priority": "urgent"}, "priority"),
        ({"priority": 5}, "priority"),
        ({"priority": ""}, "priority"),
        ({"send_at": "tomorrow"}, "send_at"),
        ({"send_at": 1764576000}, "send_at"),
        ({"send_at": "2026-12-01"}, "send_at"),
        ({"send_at": "2026-12-01T09:00:00"}, "send_at"),
        ({"expires_at": "2026-12-01T09:00:00"}, "expires_at"),
        (
            {"send_at": "2026-12-01T09:00:00Z", "expires_at": "2026-12-01T09:00:00+01:00"},
            "expires_at",
        ),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": 5}, "idempotency_key"),
        ({"idempotency_key": "x" * 513}, "idempotency_key"),
        ({"callback_url": "https://x.example.com/ y"}, "callback_url"),
        ({"request_id": 5}, "request_id"),
        ({"prioritty": "high"}, "prioritty"),
        ({"bob@example.org": 1}, "event"),
    ],
)
def test_what_is_refused_is_named_and_not_quoted(more: dict[str, Any], field: str) -> None:
    error = refusal(event(**more))
    assert error.field == field
    assert "example.org" not in str(error)


DEEP = b'{"a":' * 12_000 + b"1" + b"}" * 12_000  # Python 3.13 reads some thousands


@for_each(
    "body, reason",
    [
        (b"", "is empty, or larger than 65536 bytes"),
        (b"   ", "is not JSON"),
        (b"hello", "is not JSON"),
        (event()[:-1], "is not JSON"),
        (event() + b"{}", "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"email"', "must be a JSON object"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (event().decode().encode("utf-16"), "is not UTF-8"),
        (b'{"email": "\xe4"}', "is not UTF-8"),
        (b'{"email": 1, "email": 2}', "a key that is there twice"),
        (b'{"email": {"headers": {"X-A": "1", "X-A": "2"}}}', "a key that is there twice"),
        (b'{"email": NaN}', "NaN"),
        (b'{"email": {"vendor_options": {"a": {"b": -Infinity}}}}', "NaN"),
        (b'{"email": ' + b"9" * 5_000 + b"}", "too many digits"),
        (DEEP, "nested too deeply"),
        (b"[" * 60_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused_as_a_whole(body: bytes, reason: str) -> None:
    error = refusal(body)
    assert error.field == "event"
    assert reason in error.problem


def test_options_that_are_nested_too_deeply_for_the_store_are_refused() -> None:
    value: object = 1
    for _ in range(100):
        value = {"a": value}
    options = {"sendgrid": {"a": value}}
    assert "nested too deeply" in refusal(event(email={**EMAIL, "vendor_options": options})).problem


def test_an_infinite_number_is_refused_however_it_is_written() -> None:
    """Python reads 1e999 as infinity."""
    for place, value in (
        ("vendor_options", {"sendgrid": {"a": "HUGE"}}),
        ("metadata", {"a": "HUGE"}),
    ):
        body = event(email={**EMAIL, place: value})
        assert refusal(body.replace(b'"HUGE"', b"1e999")).field.startswith(place)


def test_a_byte_order_mark_is_no_reason_to_refuse() -> None:
    assert read(b"\xef\xbb\xbf" + event(), KEY).key == KEY


def test_the_bound_is_that_of_a_job_as_beanstalkd_comes() -> None:
    assert MAX_BYTES == 65_536


def test_the_event_in_the_documentation_is_legal_and_has_every_key() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert read(shown.encode(), KEY).email.attachments[0].content == b"A lamp\n"
    assert tuple(json.loads(shown)) == KEYS
