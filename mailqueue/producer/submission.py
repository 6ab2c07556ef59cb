"""From what an application hands in to the documents that are stored.

Decides: what is refused, and under which name. An e-mail is read in the thread of its caller, so
that no other thread touches the caller's objects; ``prepare`` then makes the documents of all
e-mails that are stored together. Nothing is stored here: all e-mails of a call are known to be good
before the first is written.

Promises: every refusal is an ``InvalidEmail`` that names the field and quotes nothing of it. The
same idempotency key twice in one call is one e-mail.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Required, TypeAlias, TypedDict

from bson import ObjectId

from mailqueue import tracing
from mailqueue.config import Config, callbacks
from mailqueue.config.checks import vendor_name
from mailqueue.errors import InvalidEmail
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.message import Email, EmailDict, message
from mailqueue.producer import routes
from mailqueue.producer.group_commit import MAX_BYTES
from mailqueue.store import document, ids

if TYPE_CHECKING:  # importing it takes 8 ms, and few applications need it
    from email.message import EmailMessage

MAX_KEY_LENGTH = 512
MAX_REQUEST_ID = 200
MAX_VENDORS = 100
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_UNSTORABLE = re.compile(r"[\0\ud800-\udfff]")
MAX_PAGE = 500  # e-mails in one write of ``send_many()``
LATEST = datetime(9999, 12, 31, tzinfo=UTC)  # a time plus what is added to it must be a date, too
_STEP = 100  # e-mails

Priority = Literal["high", "normal", "bulk"]
Sendable: TypeAlias = "Email | EmailDict | EmailMessage"


class SendCall(TypedDict, total=False):
    """The arguments of one ``send()``, as ``send_all()`` and ``send_each()`` take them."""

    email: Required[Sendable]
    priority: Priority
    send_at: datetime | None
    expires_at: datetime | None
    idempotency_key: str | None
    callback_url: str | None
    request_id: str | None
    vendors: Sequence[str] | None


@dataclass(slots=True)
class SendOptions:
    """How urgent e-mails are, when they may be sent, until when, and who hears of them.

    Any value may be given; afterwards times are in UTC, in milliseconds as MongoDB keeps them.
    Raises ``InvalidEmail``. Which hosts a ``callback_url`` may have is for ``prepare`` to say.
    """

    priority: Priority = "normal"
    send_at: datetime | None = None
    expires_at: datetime | None = None
    callback_url: str | None = None
    request_id: str | None = None
    vendors: Sequence[str] | None = None

    def __post_init__(self) -> None:
        value: object = self.priority
        if not isinstance(value, str) or (priority := str.__str__(value)) not in PRIORITIES:
            raise InvalidEmail("priority", f"must be one of {', '.join(PRIORITIES)}")
        self.priority = priority  # type: ignore[assignment]  # one of them, as was just seen
        if self.callback_url is not None or self.request_id is not None:
            self.callback_url = _text(self.callback_url, "callback_url", callbacks.MAX_URL)
            self.request_id = _text(self.request_id, "request_id", MAX_REQUEST_ID)
        if self.vendors is not None:
            self.vendors = _vendors(self.vendors)
        if self.send_at is None and self.expires_at is None:  # the usual case
            return
        send_at, expires_at = _time(self.send_at, "send_at"), _time(self.expires_at, "expires_at")
        if send_at is not None and expires_at is not None and expires_at <= send_at:
            raise InvalidEmail("expires_at", "must be later than send_at")
        self.send_at = send_at
        self.expires_at = expires_at


def _text(value: object, field: str, longest: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value) or len(value) > longest:
        problem = f"must be a string of 1 to {longest} visible ASCII characters, without spaces"
        raise InvalidEmail(field, problem)
    return str.__str__(value)


def _vendors(value: object) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and 0 < len(value) <= MAX_VENDORS:
        names = [str.__str__(name) for name in value if isinstance(name, str)]
        if len(names) == len(value) and not any(map(vendor_name, names)):
            return tuple(dict.fromkeys(names))
    raise InvalidEmail("vendors", "must be a list of one or more names of vendors")


def _time(value: object, field: str) -> datetime | None:
    return None if value is None else time_of(value, field)


def time_of(value: object, field: str) -> datetime:
    """The time in UTC. Its class and time zone may be the caller's own and raise anything."""
    try:
        if not isinstance(value, datetime) or value.utcoffset() is None:
            raise InvalidEmail(field, "must be an aware datetime: one with a time zone")
        utc = value.astimezone(UTC)
        milliseconds = utc.microsecond // 1000
        time = utc.time().replace(microsecond=milliseconds * 1000)
        moment = datetime.combine(utc.date(), time, UTC)
    except InvalidEmail:
        raise
    except OverflowError:
        moment = LATEST
    except Exception:  # noqa: BLE001  # a caller's time zone raises whatever it likes
        problem = "has a time zone without a valid offset: use datetime.timezone.utc"
        raise InvalidEmail(field, problem) from None
    if moment >= LATEST:
        advice = "leave it out" if field == "expires_at" else "give an earlier time"
        raise InvalidEmail(field, f"is later than a date can hold: {advice}")
    return moment


@dataclass(frozen=True, slots=True)
class Inserted:
    """The e-mail is stored, by this call."""

    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class KeyTaken:
    """An e-mail with the same idempotency key and content was stored before: its id."""

    id: ObjectId


@dataclass(frozen=True, slots=True)
class Refused:
    """The e-mail is not stored."""

    error: InvalidEmail


Outcome = Inserted | KeyTaken | Refused


def id_of(outcome: Outcome) -> str:
    """The id of the stored e-mail; raises what a refusal says."""
    if isinstance(outcome, Inserted):  # a match statement would take several times as long
        return str(outcome.document["_id"])
    if isinstance(outcome, KeyTaken):
        return str(outcome.id)
    raise outcome.error


@dataclass(slots=True, eq=False)
class Submission:
    """One e-mail of a call, valid. ``nonce`` identifies this call's own document.

    ``id`` is its id, unless it has a key: then the id follows from that (``id_in``).

    ``index`` is its position in the list given to ``send_many()``. ``document`` is empty until
    ``prepare`` makes it, and is made once: a repeated write must store the same e-mail.
    ``traceparent``: the span in which the call was made (see ``tracing``).
    """

    email: Email
    options: SendOptions
    key: str | None = field(repr=False)
    id: ObjectId
    nonce: ObjectId
    index: int | None = None
    traceparent: str | None = None
    document: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, email: Sendable, options: SendOptions, key: str | None, index: int | None = None
    ) -> Submission:
        """Read what the caller handed in; call it in the caller's thread, or in its context."""
        valid, valid_key = Email.of(email), _key(key)
        email_id, nonce = ids.several(2)
        return cls(valid, options, valid_key, email_id, nonce, index, tracing.traceparent())

    @classmethod
    def of_call(cls, call: SendCall, index: int) -> Submission:
        """The same, with the arguments of one ``send()``. ``InvalidEmail`` has the index."""
        try:
            options = SendOptions(
                call.get("priority", "normal"),
                call.get("send_at"),
                call.get("expires_at"),
                call.get("callback_url"),
                call.get("request_id"),
                call.get("vendors"),
            )
            return cls.of(call["email"], options, call.get("idempotency_key"), index)
        except InvalidEmail as error:
            raise InvalidEmail(error.field, error.problem, index) from None

    def refuse(self, field: str, problem: str) -> Refused:
        """This e-mail is not accepted."""
        return Refused(InvalidEmail(field, problem, self.index))

    def id_in(self, env: str) -> ObjectId:
        """The id of its document, for a producer of this kind."""
        if self.document:
            email_id: ObjectId = self.document["_id"]
            return email_id
        return self.id if self.key is None else ids.of_key(env, self.key)

    @property
    def size(self) -> int:
        """About how many bytes it has: quick to count, and only to bound a write."""
        email = self.email
        size = _octets(email.text or "") + _octets(email.html or "")
        if email.metadata:
            size += sum(map(_octets, email.metadata.values()))
        if email.vendor_options:
            size += _octets(repr(email.vendor_options))
        for part in email.alternatives + email.attachments:
            size += len(part.content)
        return size


def _octets(text: str) -> int:
    """A bound for its length in UTF-8; rare characters take 4 bytes."""
    return len(text) if text.isascii() else 3 * len(text)


def _key(key: str | None) -> str | None:
    value: object = key
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_KEY_LENGTH:
        problem = f"must be a string of 1 to {MAX_KEY_LENGTH} characters"
        raise InvalidEmail("idempotency_key", problem)
    if _UNSTORABLE.search(value):
        problem = "contains NUL or a lone surrogate: leave these characters out"
        raise InvalidEmail("idempotency_key", problem)
    return str.__str__(value)


def read_all(
    emails: Sequence[Sendable], options: SendOptions, keys: Sequence[str | None] | None
) -> list[Submission]:
    """Read the e-mails of one call. Raises ``InvalidEmail`` with the index of the first bad one."""
    keys = [None] * len(emails) if keys is None else keys
    if len(keys) != len(emails):
        raise InvalidEmail("idempotency_keys", "needs one entry for each e-mail (or None)")
    submissions: list[Submission] = []
    try:
        for index, (email, key) in enumerate(zip(emails, keys, strict=True)):
            submissions.append(Submission.of(email, options, key, index))
    except InvalidEmail as error:
        raise InvalidEmail(error.field, error.problem, len(submissions)) from None
    return submissions


def prepare(
    submissions: Iterable[Submission], config: Config, env: str
) -> dict[Submission, Refused]:
    """Make the documents that are missing; returns the e-mails that are refused.

    Runs each step over up to 100 e-mails: that takes half the time of one e-mail after the other,
    since the processor keeps the code of a step in its cache.
    """
    unprepared = [submission for submission in submissions if not submission.document]
    refusals: dict[Submission, Refused] = {}
    for start in range(0, len(unprepared), _STEP):
        refusals |= _prepare_page(unprepared[start : start + _STEP], config, env)
    return refusals


def _prepare_page(
    page: Sequence[Submission], config: Config, env: str
) -> dict[Submission, Refused]:
    mappings = [submission.email.to_mapping() for submission in page]
    sizes = [message.size(mapping) for mapping in mappings]
    narrowed = [_route(each, config) for each in page]
    pairs = zip(page, narrowed, strict=True)
    unsuitable = [routes.problem(each.email, route, config) for each, route in pairs]
    hashes = [message.content_hash(mapping) for mapping in mappings]
    now = datetime.now(UTC)
    refusals = {}
    for submission, mapping, size, reason, content_hash, route in zip(
        page, mappings, sizes, unsuitable, hashes, narrowed, strict=True
    ):
        if size > config.limits.max_size:
            problem = f"{size} bytes are more than limits.max_size ({config.limits.max_size})"
            refusals[submission] = submission.refuse("email", problem)
        elif reason is not None:
            refusals[submission] = submission.refuse(*reason)
        elif (url_problem := _url_problem(submission, config)) is not None:
            refusals[submission] = submission.refuse("callback_url", url_problem)
        else:
            submission.document = _document(submission, mapping, content_hash, env, now, route)
    return refusals


def _route(submission: Submission, config: Config) -> routes.Names | None:
    names = submission.options.vendors
    return routes.route_of(submission.email, None if names is None else tuple(names), config)


def _url_problem(submission: Submission, config: Config) -> str | None:
    url = submission.options.callback_url
    return None if url is None else callbacks.url_problem(url, config.callbacks.allow)


def _document(
    submission: Submission,
    mapping: dict[str, Any],
    content_hash: str,
    env: str,
    now: datetime,
    route: routes.Names | None,
) -> dict[str, Any]:
    email, options = submission.email, submission.options
    return document.new(
        mapping,
        email_id=submission.id_in(env),
        message_id=email.message_id or _message_id(submission),
        env=env,
        content_hash=content_hash,
        priority=PRIORITIES[options.priority],
        now=now,
        send_at=options.send_at,
        expires_at=options.expires_at,
        idempotency_key=submission.key,
        nonce=submission.nonce,
        callback_url=options.callback_url,
        request_id=options.request_id,
        route=route,
        traceparent=submission.traceparent,
    )


def _message_id(submission: Submission) -> str:
    # Where the id follows from a key, it may come again, and mail systems drop what they have seen.
    unique = submission.id if submission.key is None else submission.nonce
    return f"<{unique}@{submission.email.from_.ascii.rpartition('@')[2]}>"


def merge_keys(submissions: Iterable[Submission]) -> list[Submission]:
    """The same, with the first e-mail of a key in the place of all others with that key.

    They must be prepared. Raises ``InvalidEmail`` where two e-mails that differ have one key.
    """
    first_of_key: dict[str, Submission] = {}
    merged = []
    for submission in submissions:
        key = submission.key
        first = submission if key is None else first_of_key.setdefault(key, submission)
        if first.document["content_hash"] != submission.document["content_hash"]:
            problem = "was given to two e-mails that differ: use one key for each e-mail"
            raise submission.refuse("idempotency_key", problem).error
        merged.append(first)
    return merged


def pages(submissions: Iterable[Submission]) -> Iterator[list[Submission]]:
    """What is stored in one write each: at most 500 e-mails, and 16 MiB unless one is larger."""
    page: list[Submission] = []
    page_size = 0
    for submission in submissions:
        size = submission.size
        page_size += size
        if page and (len(page) == MAX_PAGE or page_size > MAX_BYTES):
            yield page
            page, page_size = [], size
        page.append(submission)
    if page:
        yield page
