"""The calls on ``/emails``, with Resend's keys and shapes.

Decides: what each call does. The answer to a POST waits for the e-mail's durable write, and for
nothing else: beanstalkd may be away. A caller whose API key has senders sees only e-mails of those.

Promises: a 201 means that a majority of MongoDB has the e-mail in its journal. An idempotency key
belongs to the API key: two callers with the same one do not meet.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from mailqueue.errors import InvalidEmail
from mailqueue.http import wire
from mailqueue.http.auth import check_sender
from mailqueue.http.calls import Call, Headers, Reply
from mailqueue.http.errors import Entry, Problem, not_found, refused
from mailqueue.http.limits import Limits
from mailqueue.http.wire import Message
from mailqueue.message import Email
from mailqueue.store import ids

if TYPE_CHECKING:
    from mailqueue.aio import AsyncProducer
    from mailqueue.producer.status import StoredEmail
    from mailqueue.producer.submission import SendCall

T = TypeVar("T")

MAX_BATCH = 100
MAX_KEY_LENGTH = 256
MAX_PAGE, PAGE = 100, 20

_JSON = b"application/json"
_RAW = b"message/rfc822"
_LARGE = 256 * 1024  # bytes; reading more would hold up all other requests
_PRIVATE: Headers = [(b"cache-control", b"no-store")]


class Emails:
    """The handlers. They belong to one event loop."""

    def __init__(self, producer: AsyncProducer, limits: Limits) -> None:
        self._producer, self._limits = producer, limits

    # Sending -----------------------------------------------------------------------------------

    async def send(self, call: Call) -> Reply:
        """``POST /emails``: store one e-mail."""
        read = _reader(call, {_JSON: _read_one, _RAW: _read_raw})
        key = _idempotency_key(call)
        with self._limits.body(call.length) as body:
            message = await _apart_if_large(read, await body.read(call.receive))
            _check_sender(call, message)
            email_id = await self._store(message, key)
        return Reply(201, b'{"id":"%b"}' % ids.as_uuid(email_id).encode(), id=email_id)

    async def _store(self, message: Message, key: str | None) -> str:
        try:
            return await self._producer.send(
                message.email,
                priority=message.priority,
                send_at=message.send_at,
                expires_at=message.expires_at,
                idempotency_key=key,
            )
        except InvalidEmail as error:
            raise message.problem(error) from None

    async def send_batch(self, call: Call) -> Reply:
        """``POST /emails/batch``: store all e-mails, or none if one is not valid."""
        read = _reader(call, {_JSON: _read_batch})
        if call.headers.get(b"x-batch-validation", b"strict").lower() != b"strict":
            raise refused("", "X-Batch-Validation is not supported, except strict")
        key = _idempotency_key(call)
        with self._limits.body(call.length) as body:
            messages = await _apart_if_large(read, await body.read(call.receive))
            for n, message in enumerate(messages):
                _check_sender(call, message, f"/{n}")
            email_ids = await self._store_all(messages, key)
        shown = [{"id": ids.as_uuid(email_id)} for email_id in email_ids]
        return _json(201, {"data": shown}, emails=len(shown))

    async def _store_all(self, messages: Sequence[Message], key: str | None) -> list[str]:
        calls: list[SendCall] = [
            {
                "email": message.email,
                "priority": message.priority,
                "send_at": message.send_at,
                "expires_at": message.expires_at,
                "idempotency_key": None if key is None else f"{key}#{n}",
            }
            for n, message in enumerate(messages)
        ]
        try:
            return await self._producer.send_all(calls)
        except InvalidEmail as error:
            if error.index is None:
                raise
            raise messages[error.index].problem(error) from None

    # Looking -----------------------------------------------------------------------------------

    async def show(self, call: Call) -> Reply:
        """``GET /emails/{id}``."""
        stored = await self._find(call)
        return _json(200, wire.show(stored, whole=True), id=stored.id)

    async def page(self, call: Call) -> Reply:
        """``GET /emails``: the newest first."""
        limit, after, before = _cursor(call)
        stored = await self._producer.recent(limit + 1, after=after, before=before)
        has_more = len(stored) > limit
        # Before an id the newest come first too: the one too many is then the first.
        shown = stored[-limit:] if before is not None else stored[:limit]
        data = [wire.show(each, whole=False) for each in shown if _may_see(call, each)]
        return _json(200, {"object": "list", "has_more": has_more, "data": data}, emails=len(data))

    async def _find(self, call: Call) -> StoredEmail:
        """The e-mail of the address. Raises ``Problem`` if there is none for this caller."""
        try:
            email_id = ids.parse(call.scope["path_params"]["id"])
        except ValueError:
            raise not_found() from None
        stored = await self._producer.find(str(email_id))
        if stored is None or not _may_see(call, stored):
            raise not_found()
        return stored

    # Changing ----------------------------------------------------------------------------------

    async def reschedule(self, call: Call) -> Reply:
        """``PATCH /emails/{id}``: another ``scheduled_at``."""
        read = _reader(call, {_JSON: wire.read_json})
        with self._limits.body(call.length) as body:
            send_at = wire.read_reschedule(read(await body.read(call.receive)))
        stored = await self._find(call)
        if not await self._producer.reschedule(stored.id, send_at):
            raise _too_late("It was tried already, or has ended: its time cannot be changed.")
        return _json(200, {"object": "email", "id": ids.as_uuid(stored.id)}, id=stored.id)

    async def cancel(self, call: Call) -> Reply:
        """``POST /emails/{id}/cancel``."""
        stored = await self._find(call)
        is_cancelled = stored.status.status == "cancelled"
        if not is_cancelled and not await self._producer.cancel(stored.id):
            raise _too_late("It is being sent, or has ended: it cannot be cancelled.")
        return _json(200, {"object": "email", "id": ids.as_uuid(stored.id)}, id=stored.id)


# Reading a request --------------------------------------------------------------------------------


def _reader(call: Call, readers: dict[bytes, Callable[[bytes], T]]) -> Callable[[bytes], T]:
    """The reader of the body's type. Raises ``Problem`` for another type."""
    read = readers.get(call.content_type)
    encoding = call.headers.get(b"content-encoding", b"identity").lower()
    if read is None or encoding != b"identity":
        types = " or ".join(kind.decode() for kind in readers)
        message = f"Send a body of Content-Type: {types}, without a Content-Encoding."
        raise Problem(415, "unsupported_media_type", message)
    return read


async def _apart_if_large(read: Callable[[bytes], T], body: bytes) -> T:
    """Read the body, in another thread if that takes long."""
    return read(body) if len(body) <= _LARGE else await asyncio.to_thread(read, body)


def _read_one(body: bytes) -> Message:
    return wire.read_message(wire.read_json(body))


def _read_raw(body: bytes) -> Message:
    from email import message_from_bytes, policy

    return Message(Email.from_message(message_from_bytes(body, policy=policy.SMTP)))


def _read_batch(body: bytes) -> list[Message]:
    values = wire.read_json(body)
    if type(values) is not list or not 0 < len(values) <= MAX_BATCH:
        raise refused("", f"must be a list of 1 to {MAX_BATCH} e-mails")
    messages = []
    for n, value in enumerate(values):
        try:
            messages.append(wire.read_message(value, f"/{n}"))
        except InvalidEmail as error:
            raise InvalidEmail(error.field, error.problem, n) from None
    return messages


def _check_sender(call: Call, message: Message, path: str = "") -> None:
    """Raises ``Problem`` if the caller's key has senders, and this is none of them."""
    if call.key.senders:
        try:
            email = message.email = Email.of(message.email)
        except InvalidEmail as error:
            raise message.problem(error) from None
        check_sender(call.key, email, path)


def _idempotency_key(call: Call) -> str | None:
    """The caller's key, apart from those of other callers: the API key's name comes first."""
    header = call.headers.get(b"idempotency-key")
    if header is None:
        return None
    key = header.decode("latin-1").strip()
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        problem = f"must have 1 to {MAX_KEY_LENGTH} characters"
        raise Problem(
            400,
            "invalid_idempotency_key",
            f"Idempotency-Key {problem}.",
            errors=[Entry("", problem)],
        )
    return f"{call.key.name}:{key}" if call.key.name else key


def _cursor(call: Call) -> tuple[int, str | None, str | None]:
    """The ``limit``, ``after`` and ``before`` of the query. Raises ``Problem``."""
    query = dict(parse_qsl(call.scope["query_string"].decode("latin-1"), keep_blank_values=True))
    limit, after, before = (query.pop(name, None) for name in ("limit", "after", "before"))
    if query:
        raise refused("", "has an unknown parameter: there are limit, after and before")
    if limit is not None and re.fullmatch("[1-9][0-9]?|100", limit) is None:
        raise refused("/limit", f"must be a number from 1 to {MAX_PAGE}")
    if after is not None and before is not None:
        raise refused("/before", "cannot be used with after")
    return int(limit or PAGE), _id(after, "/after"), _id(before, "/before")


def _id(text: str | None, path: str) -> str | None:
    try:
        return None if text is None else str(ids.parse(text))
    except ValueError:
        raise refused(path, "must be an e-mail's id") from None


def _may_see(call: Call, stored: StoredEmail) -> bool:
    email = stored.email
    return not call.key.senders or (
        email is not None and call.key.may_send_from(email.from_.address)
    )


def _too_late(message: str) -> Problem:
    return Problem(409, "conflict", message)


def _json(status: int, value: Any, id: str | None = None, emails: int | None = None) -> Reply:  # noqa: A002  # as in the log
    return Reply(status, json.dumps(value).encode(), headers=_PRIVATE, id=id, emails=emails)
