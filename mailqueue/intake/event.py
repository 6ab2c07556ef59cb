"""One event: a JSON object that has an e-mail and the options of ``send()``.

Decides: how JSON says what JSON cannot: a time is ISO 8601 with an offset, the content of an
attachment is base64 (RFC 4648, line breaks allowed). Null means absent. Pure.

Assumes: nothing. Any program may have put the bytes there.

Promises: every refusal is an ``InvalidEmail`` that names the field and quotes nothing of it. JSON
that two readers could understand in two ways is refused: a key that is there twice, NaN.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Never

from mailqueue import tracing
from mailqueue.errors import InvalidEmail, did_you_mean
from mailqueue.message import Email
from mailqueue.message.fields import READERS, SHOWN_KEY
from mailqueue.producer.submission import SendOptions, Submission

MAX_BYTES = 65_536
KEYS = (
    *("email", "priority", "send_at", "expires_at", "idempotency_key"),
    *("callback_url", "request_id", "vendors", "traceparent"),
)
WHOLE = "event"  # the field, where it is none of these


def read(body: bytes, key: str) -> Submission:
    """The e-mail of an event, valid. ``key`` is its idempotency key unless it has one itself.

    ``body`` is empty if it was too large to be read. Raises ``InvalidEmail``.
    """
    if not body:
        raise InvalidEmail(WHOLE, f"is empty, or larger than {MAX_BYTES} bytes")
    event = _object(body)
    for name in event:
        if name not in KEYS:
            raise _unknown(name)
    options = SendOptions(
        event["priority"] if event.get("priority") is not None else "normal",
        _time(event.get("send_at"), "send_at"),
        _time(event.get("expires_at"), "expires_at"),
        event.get("callback_url"),
        event.get("request_id"),
        event.get("vendors"),
    )
    own_key = event.get("idempotency_key")
    with tracing.remote_parent(event.get("traceparent")):
        email = _email(event.get("email"))
        return Submission.of(email, options, key if own_key is None else own_key)


def _unknown(name: str) -> InvalidEmail:
    if not SHOWN_KEY.fullmatch(name):
        return InvalidEmail(WHOLE, f"has an unknown key: it may have {', '.join(KEYS)}")
    if name in READERS:
        return InvalidEmail(name, 'is a key of the e-mail: put it into the object "email"')
    return InvalidEmail(name, "unknown key" + did_you_mean(name, KEYS))


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        # Not json.loads(body), which would take UTF-16 and UTF-32 as well.
        text = body.decode("utf-8-sig")
        event = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise InvalidEmail(WHOLE, "is not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidEmail(WHOLE, f"is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise InvalidEmail(WHOLE, "is nested too deeply") from None
    except ValueError:
        raise InvalidEmail(WHOLE, "has a number with too many digits") from None
    if not isinstance(event, dict):
        raise InvalidEmail(WHOLE, "must be a JSON object")
    return event


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's parser keeps the last of two keys of one name, others the first."""
    names = dict(pairs)
    if len(names) < len(pairs):
        raise InvalidEmail(WHOLE, "has an object with a key that is there twice")
    return names


def _no_constant(_: str) -> Never:
    raise InvalidEmail(WHOLE, "is not JSON: NaN and Infinity are no numbers there")


def _time(value: object, field: str) -> datetime | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)  # type: ignore[arg-type]  # TypeError: no string
        offset = time.utcoffset()
    except (TypeError, ValueError):
        offset = None
    if offset is None:
        example = "2026-12-01T09:00:00+01:00"
        raise InvalidEmail(field, f"must be an ISO 8601 time with an offset, such as {example}")
    return time


def _email(value: object) -> Email:
    if not isinstance(value, dict):
        problem = "is missing" if value is None else "must be an object"
        raise InvalidEmail("email", problem)
    files = value.get("attachments")
    if not isinstance(files, list):  # none, or for the e-mail to refuse
        return Email.from_mapping(value)
    attachments = [_attachment(file, f"attachments[{n}]") for n, file in enumerate(files)]
    return Email.from_mapping({**value, "attachments": attachments})


def _attachment(file: object, field: str) -> object:
    if not isinstance(file, dict):
        return file
    try:
        content = b64decode("".join(file["content"].split()), validate=True)
    except (KeyError, AttributeError, ValueError):
        raise InvalidEmail(f"{field}.content", "must be text in base64 (RFC 4648)") from None
    return {**file, "content": content}
