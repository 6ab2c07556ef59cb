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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from mailqueue import tracing
from mailqueue.errors import InvalidEmail, StoreUnavailable
from mailqueue.http import wire
from mailqueue.http.auth import check_sender
from mailqueue.http.calls import Call, Headers, Reply
from mailqueue.http.errors import Entry, Problem, invalid, not_found, refused
from mailqueue.http.limits import Limits
from mailqueue.http.wire import Message
from mailqueue.message import Email
from mailqueue.service.keys import ApiKey
from mailqueue.store import ids

if TYPE_CHECKING:
    from mailqueue.aio import AsyncProducer
    from mailqueue.http.events import Events
    from mailqueue.producer.status import StoredEmail
    from mailqueue.producer.submission import SendCall

T = TypeVar("T")
Reader = TypeVar("Reader", bound=Callable[..., Any])
_Json = dict[str, Any]

MAX_BATCH = 100
MAX_KEY_LENGTH = 256
MAX_PAGE, PAGE = 100, 20
SEARCH_PAGE, MAX_PAGES = 200, 25  # e-mails, pages; where a caller's own stand among others
MAX_LOOKS = 4  # e-mails that are read whole at a time

_JSON = b"application/json"
_RAW = b"message/rfc822"
_LARGE = 256 * 1024  # bytes; reading more would hold up all other requests
_PRIVATE: Headers = [(b"cache-control", b"no-store")]


class Emails:
    """The handlers. They belong to one event loop."""

    def __init__(self, producer: AsyncProducer, events: Events, limits: Limits) -> None:
        self._producer, self._events, self._limits = producer, events, limits
        self._looks = asyncio.Semaphore(MAX_LOOKS)

    # Sending -----------------------------------------------------------------------------------

    async def send(self, call: Call) -> Reply:
        """``POST /emails``: store one e-mail."""
        read = partial(_reader(call, _READERS), call.key)
        key = _idempotency_key(call)
        with self._limits.body(call.length) as body:
            message = await _apart_if_large(read, await call.read(body))
            with _in_trace(call):
                email_id = await self._store(message, key, call.caller_request_id)
        return Reply(201, b'{"id":"%b"}' % ids.as_uuid(email_id).encode(), id=email_id)

    async def _store(self, message: Message, key: str | None, request_id: str | None) -> str:
        try:
            return await self._producer.send(
                message.email,
                priority=message.priority,
                send_at=message.send_at,
                expires_at=message.expires_at,
                idempotency_key=key,
                callback_url=message.callback_url,
                request_id=request_id,
                vendors=message.vendors,
            )
        except InvalidEmail as error:
            raise message.problem(error) from None

    async def send_batch(self, call: Call) -> Reply:
        """``POST /emails/batch``: store all e-mails, or none if one is not valid.

        With ``X-Batch-Validation: permissive`` those that are valid are stored.
        """
        read = _reader(call, {_JSON: partial(_read_batch, call.key)})
        is_strict, key = _is_strict(call), _idempotency_key(call)
        with self._limits.body(call.length) as body:
            entries = await _apart_if_large(read, await call.read(body))
            with _in_trace(call):
                if is_strict:
                    answer = {"data": await self._store_all(entries, key, call.caller_request_id)}
                else:
                    answer = await self._store_valid(entries, key, call.caller_request_id)
        return _json(201, answer, emails=len(answer["data"]))

    async def _store_all(
        self, entries: Sequence[Message | Problem], key: str | None, request_id: str | None
    ) -> list[_Json]:
        for each in entries:
            if isinstance(each, Problem):
                raise each
        messages = [each for each in entries if isinstance(each, Message)]
        try:
            calls = _calls(enumerate(messages), key, request_id)
            email_ids = await self._producer.send_all(calls)
        except InvalidEmail as error:
            if error.index is None:
                raise
            raise messages[error.index].problem(error) from None
        return [{"id": ids.as_uuid(email_id)} for email_id in email_ids]

    async def _store_valid(
        self, entries: Sequence[Message | Problem], key: str | None, request_id: str | None
    ) -> _Json:
        messages = {n: each for n, each in enumerate(entries) if isinstance(each, Message)}
        problems = {n: each for n, each in enumerate(entries) if isinstance(each, Problem)}
        shown = []
        results = await self._producer.send_each(_calls(messages.items(), key, request_id))
        for (n, message), result in zip(messages.items(), results, strict=True):
            if isinstance(result, StoreUnavailable):
                raise result
            if isinstance(result, InvalidEmail):
                problems[n] = message.problem(InvalidEmail(result.field, result.problem, n))
            else:
                shown.append({"id": ids.as_uuid(result)})
        errors = [{"index": n, "message": problems[n].message} for n in sorted(problems)]
        return {"data": shown, "errors": errors}

    # Looking -----------------------------------------------------------------------------------

    async def show(self, call: Call) -> Reply:
        """``GET /emails/{id}``."""
        async with self._looks:  # how large it is, nobody knows before it is there
            stored = await self._find(call)
            events, tally = await self._events.of_email(stored.id)
            shown = wire.show(stored, events, tally, whole=True)
            return _json(200, shown, id=stored.id)

    async def page(self, call: Call) -> Reply:
        """``GET /emails``: the newest first."""
        limit, after, before = _cursor(call)
        emails, may_be_more = await self._newest(call, limit + 1, after, before)
        # Before an id the newest come first too: the one too many is then the first.
        shown = emails[-limit:] if before is not None else emails[:limit]
        has_more = len(emails) > limit or (may_be_more and bool(shown))
        data = [wire.show(each, whole=False) for each in shown]
        return _json(200, {"object": "list", "has_more": has_more, "data": data}, emails=len(data))

    async def _newest(
        self, call: Call, number: int, after: str | None, before: str | None
    ) -> tuple[list[StoredEmail], bool]:
        """This many or more that the caller may see, and whether there may be more.

        Among those of others a caller's own may be few: ``MAX_PAGES`` are looked through.
        """
        size = SEARCH_PAGE if call.key.senders else number
        emails: list[StoredEmail] = []
        for _ in range(MAX_PAGES):
            page = await self._producer.recent(size, after=after, before=before)
            visible = [each for each in page if _may_see(call, each)]
            emails = emails + visible if before is None else visible + emails
            if len(page) < size or len(emails) >= number:
                return emails, False
            after, before = (page[-1].id, None) if before is None else (None, page[0].id)
        return emails, True

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
            value = await _apart_if_large(read, await call.read(body))
        stored = await self._find(call)
        send_at = wire.read_reschedule(value, stored.id)
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


def _reader(call: Call, readers: Mapping[bytes, Reader]) -> Reader:
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


def _read_one(key: ApiKey, body: bytes) -> Message:
    message = wire.read_message(wire.read_json(body))
    _check_sender(key, message)
    return message


def _read_raw(key: ApiKey, body: bytes) -> Message:
    from mailqueue.message.parsing import parse  # the library's parser, which few need

    message = Message(Email.from_message(parse(body)))
    _check_sender(key, message)
    return message


_READERS = {_JSON: _read_one, _RAW: _read_raw}


def _read_batch(key: ApiKey, body: bytes) -> list[Message | Problem]:
    """The e-mails of a batch; for one that is refused, why."""
    values = wire.read_json(body)
    if type(values) is not list or not 0 < len(values) <= MAX_BATCH:
        raise refused("", f"must be a list of 1 to {MAX_BATCH} e-mails")
    return [_read_entry(key, value, n) for n, value in enumerate(values)]


def _read_entry(key: ApiKey, value: Any, n: int) -> Message | Problem:
    try:
        message = wire.read_message(value, f"/{n}")
        _check_sender(key, message, n)
        return message
    except InvalidEmail as error:
        return invalid(InvalidEmail(error.field, error.problem, n))
    except Problem as problem:
        return problem


def _check_sender(key: ApiKey, message: Message, index: int | None = None) -> None:
    """Raises ``Problem`` if the caller's key has senders, and this is none of them."""
    if key.senders:
        try:
            email = message.email = Email.of(message.email)
        except InvalidEmail as error:
            own = InvalidEmail(error.field, error.problem, index)
            raise message.problem(own) from None
        check_sender(key, email, "" if index is None else f"/{index}")


def _calls(
    messages: Iterable[tuple[int, Message]], key: str | None, request_id: str | None
) -> list[SendCall]:
    return [
        {
            "email": message.email,
            "priority": message.priority,
            "send_at": message.send_at,
            "expires_at": message.expires_at,
            "idempotency_key": None if key is None else f"{key}#{n}",
            "callback_url": message.callback_url,
            "request_id": request_id,
            "vendors": message.vendors,
        }
        for n, message in messages
    ]


def _in_trace(call: Call) -> AbstractContextManager[None]:
    """While this lasts, e-mails belong to the caller's span, unless this process has its own."""
    return tracing.remote_parent(call.headers.get(b"traceparent"))


def _is_strict(call: Call) -> bool:
    """Whether a bad e-mail keeps the others of its batch from being stored."""
    mode = call.headers.get(b"x-batch-validation", b"strict")
    if mode not in (b"strict", b"permissive"):
        raise refused("", "X-Batch-Validation must be strict or permissive")
    return mode == b"strict"


def _idempotency_key(call: Call) -> str | None:
    """The caller's key, apart from those of other callers: the API key's name comes first."""
    header = call.headers.get(b"idempotency-key")
    if header is None:
        return None
    key = header.decode("latin-1").strip()
    number = sum(name == b"idempotency-key" for name, _ in call.scope["headers"])
    if number > 1 or not 0 < len(key) <= MAX_KEY_LENGTH:
        problem = f"must be there once, with 1 to {MAX_KEY_LENGTH} characters"
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
    return Reply(
        status,
        json.dumps(value, ensure_ascii=False).encode(),
        headers=_PRIVATE,
        id=id,
        emails=emails,
    )
