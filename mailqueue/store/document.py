"""The e-mail document: how it is written down, and how it is read. Pure.

Decides: the fields of a new document, and what ``decide`` is told of a stored one.

Assumes: ``created_at`` of a new e-mail comes from the producer's clock, which may be wrong by days;
every other time is the database server's. So ``clock_from``, from which ``retry.give_up_after``
counts, is null until a consumer has the e-mail in its hands, due as it is then.

Promises: no I/O. ``transitions`` holds the guarded updates, ``store`` is the only writer. The
``nonce`` is of the call that stored the e-mail and never changes: it tells that call's own e-mail
from another that has the same ``_id``. What is read is of the right type, else ``Unreadable`` is
raised: anything may stand in a document.

::

    _id  nonce  idempotency_key  content_hash  env  email{...}  message_id
    status  reason  priority  due_at  overdue_at  send_at  expires_at  clock_from  created_at
    updated_at
    lease {token, owner, nonce, until}      token grows with every claim and is never reused;
                            it begins with the clock where ``_id`` follows from a key
    attempts [{n, token, vendor, key, probe, started_at, ended_at,
               outcome, code, detail, message_id, answered, refused, pending,
               content_suspect, refused_count, pending_count, suppressed, suppressed_count,
               unavailable, redirected, event {message_id, at}, looked_up, late, extra_copy,
               cut}]
                            the newest 50; the last line's where they apply: a line names the first
                            five of its recipients; ``cut``: those before it had no room
    round {n, tried, refused}  pin {vendor, key, until, repeats}  pending  refused
    hold: under which it waits, due at HELD
    unknowns  counted  late_accept {vendor, message_id, refused, token, at}  announced {at, n}
    vendor  vendor_message_id  sent_at  simulated
    interventions [{n, verb, was, reason, token, at, nonce, by}]    a person's, the newest 50
    route [vendor]: those that it may go to; not there: all
    callback_url  request_id  traceparent   of the caller, where there are any
    callbacks [{id, type, at, reason, recipient, state, due_at, since, token, tries, nonce, code,
                ended_at}]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar

from bson import ObjectId
from bson.errors import BSONError

from mailqueue.errors import Unreadable
from mailqueue.lifecycle.outcomes import (
    NORMAL,
    Outcome,
    Pin,
    Round,
    Snapshot,
    Status,
    overdue_after,
    retry_priority,
)
from mailqueue.message import Email

PRODUCTION, SIMULATED = "production", "simulated"
HELD = datetime(9999, 12, 31, tzinfo=UTC)  # due when a hold is over; no ``send_at`` is so late
CLOCK_TOKEN = 2**40  # from here on a token began with the clock, in milliseconds
LONGEST_LEASE = 86_400.0  # seconds; no configuration may ask for more

Document = Mapping[str, Any]
T = TypeVar("T")
_DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, BSONError)
_LARGEST = 2**31  # of what is counted up; far more than is ever reached
LARGEST_TOKEN = 2**53  # a number that a shell writes as a fraction is whole up to there
_FIRST = Round()
_NEW = {"status": Status.QUEUED.value, "clock_from": None, "unknowns": 0, "counted": 0}
_LISTS = ("to", "cc", "bcc", "reply_to", "tags")  # of texts, as are the values of these:
_MAPPINGS = ("headers", "metadata")
_KINDS = {
    **dict.fromkeys(("from", "subject", "text", "html"), str),
    **dict.fromkeys((*_LISTS, "attachments", "alternatives"), list),
    **dict.fromkeys((*_MAPPINGS, "vendor_options"), dict),
}


def new(
    email: Mapping[str, Any],
    *,
    email_id: ObjectId,
    message_id: str,
    env: str,
    content_hash: str,
    priority: int,
    now: datetime,
    send_at: datetime | None = None,
    expires_at: datetime | None = None,
    idempotency_key: str | None = None,
    nonce: ObjectId | None = None,
    callback_url: str | None = None,
    request_id: str | None = None,
    route: Sequence[str] | None = None,
    traceparent: str | None = None,
) -> dict[str, Any]:
    """The document of an e-mail that is about to be stored."""
    document: dict[str, Any] = {
        "_id": email_id,
        "content_hash": content_hash,
        "env": env,
        "email": email,
        "message_id": message_id,
        "priority": priority,
        "due_at": send_at,
        "overdue_at": max(now, send_at or now) + timedelta(seconds=overdue_after(priority)),
        "created_at": now,
        "updated_at": now,
        "lease": {"token": 0 if idempotency_key is None else _clock_token(now)},
        "attempts": [],
        "round": {"n": 0, "tried": [], "refused": []},
        **_NEW,
    }
    optional = {
        "send_at": send_at,
        "expires_at": expires_at,
        "idempotency_key": idempotency_key,
        "nonce": nonce,
        "callback_url": callback_url,
        "request_id": request_id,
        "route": None if route is None else list(route),
        "traceparent": traceparent,
    }
    return document | {name: value for name, value in optional.items() if value is not None}


def _clock_token(now: datetime) -> int:
    """The first token of an e-mail whose ``_id`` follows from its key, and so may come again.

    It is above those of an e-mail that had the same ``_id`` before, and was pruned.
    """
    return max(CLOCK_TOKEN, int(now.timestamp() * 1000))


def rename(document: dict[str, Any], email_id: ObjectId) -> None:
    """Give a document that is not stored yet another id; a Message-ID made of it follows."""
    old, document["_id"] = str(document["_id"]), email_id
    document["message_id"] = document["message_id"].replace(old, str(email_id))


def _raise_unreadable(read: Callable[[Stored], T]) -> Callable[[Stored], T]:
    """Raise ``Unreadable`` where reading fails: that is due to what the document holds."""

    @wraps(read)
    def read_or_raise(stored: Stored) -> T:
        try:
            return read(stored)
        except _DAMAGE as error:
            raise Unreadable(f"{read.__name__}: {type(error).__name__}") from None

    return read_or_raise


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it was read, with the server's time of the reading.

    All that is read of it may raise ``Unreadable``: anything may stand in a document.
    """

    document: Document = field(repr=False)
    now: datetime

    @property
    def id(self) -> ObjectId:
        """The e-mail's id."""
        value: ObjectId = self.document["_id"]
        return value

    @property
    def facts(self) -> dict[str, str]:
        """Which e-mail it is, for a line of the log: its id, and the caller's ``request_id``."""
        facts = {"id": str(self.id)}
        return facts if self.request_id is None else facts | {"request_id": self.request_id}

    @property
    def request_id(self) -> str | None:
        """The caller's own."""
        request_id = self.document.get("request_id")
        return request_id if isinstance(request_id, str) else None

    @property
    def last_vendor(self) -> str | None:
        """The vendor of the newest attempt, if that can be read."""
        try:
            vendor = self.document["attempts"][-1]["vendor"]
        except _DAMAGE:
            return None
        return vendor if isinstance(vendor, str) else None

    @property
    def has_callback(self) -> bool:
        """Whether it has a ``callback_url`` of its own."""
        return isinstance(self.document.get("callback_url"), str)

    @property
    @_raise_unreadable
    def size(self) -> int:
        """Bytes in MongoDB, where that was asked for; above the limit asked, without ``email``."""
        return int(self.document.get("size", 0))

    @property
    @_raise_unreadable
    def env(self) -> str:
        """What kind of consumer the e-mail is for."""
        return (PRODUCTION, SIMULATED)[(PRODUCTION, SIMULATED).index(self.document["env"])]

    @property
    @_raise_unreadable
    def status(self) -> Status:
        """Where the e-mail stands."""
        return Status(self.document["status"])

    @property
    @_raise_unreadable
    def token(self) -> int:
        """The fencing token of the newest claim."""
        return _natural(self.document["lease"]["token"], LARGEST_TOKEN)

    @property
    def incarnation(self) -> ObjectId | None:
        """The ``nonce`` of an e-mail whose ``_id`` follows from its key; None of all others.

        Such an ``_id`` may have been another e-mail's, which was pruned, and no other e-mail's
        nonce is the same.
        """
        lease, nonce = self.document.get("lease"), self.document.get("nonce")
        if not isinstance(lease, dict) or not isinstance(nonce, ObjectId):
            return None
        token = lease.get("token")
        return nonce if isinstance(token, int | float) and token >= CLOCK_TOKEN else None

    @property
    def attempt_key(self) -> str:
        """Under which vendors are to know the e-mail, if they de-duplicate by a key."""
        return str(self.incarnation or self.id)

    @property
    def date(self) -> datetime | None:
        """The e-mail's Date, the same in every attempt: when it was made, or was to be sent.

        None where that cannot be read. A Date has whole seconds, and is not before ``send_at``.
        """
        created_at, send_at = self.document.get("created_at"), self.document.get("send_at")
        if isinstance(send_at, datetime) and send_at.microsecond and send_at.year < MAXYEAR:
            send_at = send_at.replace(microsecond=0) + timedelta(seconds=1)
        times = [at for at in (created_at, send_at) if isinstance(at, datetime)]
        return max(times, default=None)

    @property
    def priority(self) -> int:
        """That of a new job; where it cannot be read, the usual one."""
        value = self.document.get("priority")
        return value if isinstance(value, int) and 0 <= value < _LARGEST else NORMAL

    @property
    def job_priority(self) -> int:
        """The priority of its job: that of a retry once there was an attempt."""
        attempts = self.document.get("attempts")
        return retry_priority(self.priority) if attempts else self.priority

    @property
    @_raise_unreadable
    def due_in(self) -> float:
        """Seconds until the e-mail is due; 0 or less: now."""
        return self._until("due_at") or 0.0

    @property
    def is_held(self) -> bool:
        """Whether it waits for the end of a hold, without a job."""
        return self.document.get("due_at") == HELD

    @property
    @_raise_unreadable
    def expires_in(self) -> float | None:
        """Seconds until the e-mail must not be sent any more; None: never."""
        return self._until("expires_at")

    @property
    @_raise_unreadable
    def leased_for(self) -> float:
        """Seconds that the lease still holds; 0 or less: it has expired."""
        until = self.document["lease"].get("until")
        seconds = 0.0 if until is None else float((until - self.now).total_seconds())
        if seconds > LONGEST_LEASE:
            raise ValueError
        return seconds

    def _until(self, field: str) -> float | None:
        at = self.document.get(field)
        return None if at is None else float((at - self.now).total_seconds())

    @property
    @_raise_unreadable
    def email(self) -> Email:
        """What is to be sent."""
        is_dropped = self.document.get("content_dropped_at") is not None
        return Email.from_document(_content(self.document["email"], is_dropped=is_dropped))

    @property
    @_raise_unreadable
    def lines(self) -> Sequence[Mapping[str, Any]]:
        """The ledger."""
        return _lines(self.document)

    @property
    def line_to_look_up(self) -> Mapping[str, Any] | None:
        """The newest ledger line with an unknown outcome, unless it was looked up already."""
        unknown = (line for line in reversed(self.lines) if line["outcome"] == Outcome.UNKNOWN)
        newest = next(unknown, None)
        return None if newest is None or newest.get("looked_up") else newest

    def key_age(self, vendor: str, key: str | None) -> float:
        """Seconds since this vendor was first sent this key; 0: it was not."""
        try:
            lines = self.document["attempts"]
            if key is None or not lines:
                return 0.0
            mine = (x for x in lines if x["vendor"] == vendor and x.get("key") == key)
            first = min((x["started_at"] for x in mine), default=self.now)
            return max(0.0, float((self.now - first).total_seconds()))
        except _DAMAGE as error:
            raise Unreadable(f"started_at: {type(error).__name__}") from None

    @_raise_unreadable
    def snapshot(self) -> Snapshot:
        """The e-mail as ``decide`` sees it."""
        document = self.document
        _text(document["message_id"])
        _natural(document["lease"]["token"], LARGEST_TOKEN)
        lines = _lines(document)
        pending = document.get("pending")
        return Snapshot(
            priority=_natural(document["priority"]),
            age=-(self._until("clock_from") or 0.0),
            expires_in=self.expires_in,
            counted=_natural(document["counted"]),
            unknowns=_natural(document["unknowns"]),
            round=_round(document["round"]),
            pin=self._pin(),
            pending=None if pending is None else _texts(pending),
            refused=_texts(document.get("refused") or []),
            hint_vendors=_hint_vendors(lines) if lines else frozenset(),
            unknown_vendors=_unknown_vendors(lines) if lines else frozenset(),
            route=_texts(document["route"]) if "route" in document else None,
        )

    @property
    @_raise_unreadable
    def open_line(self) -> Mapping[str, Any] | None:
        """The ledger line of the claim that holds the lease, unless it is closed."""
        if self.status is not Status.SENDING:
            return None
        of_claim = (x for x in reversed(self.lines) if x["token"] == self.token)
        line = next((x for x in of_claim if x["outcome"] is None), None)
        if line is not None and line.get("key") is not None:
            _text(line["key"])
        return line

    def _pin(self) -> Pin | None:
        pin = self.document.get("pin")
        if pin is None:
            return None
        return Pin(
            vendor=_text(pin["vendor"]),
            key=_text(pin["key"]),
            remaining=(pin["until"] - self.now).total_seconds(),
            repeats=_natural(pin["repeats"]),
        )


def _lines(document: Document) -> Sequence[Mapping[str, Any]]:
    lines: Sequence[Mapping[str, Any]] = document["attempts"]
    if not isinstance(lines, list):
        raise TypeError
    for line in lines:
        _natural(line["token"], LARGEST_TOKEN)
        _natural(line.get("n") or 0)
        _text(line["vendor"])
        if line["outcome"] is not None:
            _text(line["outcome"])
    return lines


def _round(value: Mapping[str, Any]) -> Round:
    tried, refused = value["tried"], value["refused"]
    if not (tried or refused) and isinstance(tried, list) and isinstance(refused, list):
        n = _natural(value["n"])
        return Round(n=n) if n else _FIRST  # as nearly always
    return Round(n=_natural(value["n"]), tried=_texts(tried), refused=_texts(refused))


def _hint_vendors(attempts: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The vendors whose answer is only a hint, as ``SendResult.may_be_content`` tells of one."""
    failures = (Outcome.UNAVAILABLE.value, Outcome.UNKNOWN.value)
    return frozenset(
        line["vendor"]
        for line in attempts
        if line.get("content_suspect") or (line["outcome"] in failures and line.get("answered"))
    )


def _unknown_vendors(attempts: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    unknown = Outcome.UNKNOWN.value
    return frozenset(line["vendor"] for line in attempts if line["outcome"] == unknown)


# The types of what is read; each raises TypeError ------------------------------------------------


def _natural(value: Any, largest: int = _LARGEST) -> int:
    """Also one that a shell wrote as a fraction."""
    if type(value) is int and 0 <= value < largest:  # nearly always
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < largest:
        raise TypeError
    return int(value)


def _text(value: Any) -> str:
    """Not code, which bson makes a kind of text."""
    if type(value) is not str:
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))


def _content(email: Any, *, is_dropped: bool = False) -> Mapping[str, Any]:
    """What ``send()`` stored, as far as its types tell."""
    texts = [email["from"]]
    for name, value in email.items():
        if type(value) is not _KINDS.get(name, type(value)):
            raise TypeError
        if name in _LISTS:
            texts += value
        elif name in _MAPPINGS:
            texts += value.values()
    for file in email.get("attachments", ()):
        texts += (file["filename"], file.get("content_type", ""), file.get("content_id") or "")
        memoryview(file["content"])  # TypeError
    for form in email.get("alternatives", ()):
        texts.append(form["content_type"])
        memoryview(form["content"])  # TypeError
    for options in email.get("vendor_options", {}).values():
        options.items()  # AttributeError
    if "envelope" in email:
        texts += _envelope_texts(email["envelope"])
    if {*map(type, texts)} != {str}:
        raise TypeError
    if not (email.get("to") or email.get("cc") or email.get("bcc")):
        raise LookupError
    if "text" not in email and "html" not in email and not is_dropped:
        raise LookupError
    return email  # type: ignore[no-any-return]  # a mapping, as was seen


def _envelope_texts(envelope: Mapping[str, Any]) -> list[Any]:
    """Its addresses. Recipients that cannot be read must not become those of the headers."""
    recipients = envelope.get("recipients", [""])
    if not envelope or envelope.keys() - {"from", "recipients"} or type(recipients) is not list:
        raise TypeError
    if not recipients:
        raise LookupError
    return [envelope.get("from", ""), *recipients]


def sized_fields(most: int | None) -> dict[str, Any]:
    """What is added to a document that is read, and left out of one that has more bytes."""
    if most is None:
        return {"now": "$$NOW"}
    size = {"$bsonSize": "$$ROOT"}
    email = {"$cond": [{"$lte": [size, most]}, "$email", "$$REMOVE"]}
    return {"now": "$$NOW", "size": size, "email": email}
