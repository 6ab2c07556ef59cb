"""Resend's JSON on the wire: what comes in as an e-mail, and how an e-mail is shown.

Decides: which keys a request may have. Resend's are ``from to cc bcc reply_to subject text html
headers attachments tags scheduled_at``; ours are ``priority expires_at metadata callback_url
vendors``. A tag with a value is metadata: that is what Resend calls a tag, and its API gets it back
as one. A tag that is a text, or has a name alone, is a tag of ours.

Assumes: ``send()`` checks what is passed on. Here is checked only what it cannot know.

Promises: nothing is dropped in silence. What is not supported is refused by its name, and so is
what is not known. JSON is read strictly: no NaN, no number that a float cannot hold, no key twice.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from binascii import Error as BadBase64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any, cast

from mailqueue.errors import InvalidEmail, did_you_mean
from mailqueue.http.errors import Entry, Problem, invalid, refused
from mailqueue.message import Email, EmailDict
from mailqueue.message.fields import SHOWN_KEY
from mailqueue.store import ids

if TYPE_CHECKING:
    from mailqueue.producer.status import AttemptStatus, Delivery, EmailStatus, StoredEmail

AS_THEY_ARE = (
    *("from", "to", "cc", "bcc", "reply_to", "subject", "text", "html", "headers", "metadata"),
)
"""Keys that mean the same to ``send()``."""
UNSUPPORTED: Mapping[str, str] = {
    "template": "is not supported: templates are not rendered here, send html or text",
    "topic_id": "is not supported: there are no topics here",
}
KEYS = (
    *(*AS_THEY_ARE, "attachments", "tags", "scheduled_at", "priority", "expires_at"),
    *("callback_url", "vendors"),
)

MAX_VALUES = 200_000
# A string, the beginning of a list or object, a number that is no byte. Linear in the length.
_VALUE = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]'
    rb'|(?!(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])[\s,\]}])[^\s\[\]{}:,"]++',
    re.DOTALL,
)

_ATTACHMENT_KEYS = ("content", "filename", "content_type", "content_id", "inline_content_id")
_PATH = "is not supported: nothing is fetched from here, send the file's content"
_NO_TIME = 'must be a time with its zone, as in "2030-01-31T09:00:00Z"'
_OBJECT = "must be an object"
_Object = dict[str, Any]


@dataclass(slots=True)
class Message:
    """One e-mail of a request: what ``send()`` takes.

    ``places``: the pointers of fields that stood elsewhere in the request.
    """

    email: Email | EmailDict = field(repr=False)
    priority: Any = "normal"
    send_at: datetime | None = None
    expires_at: datetime | None = None
    callback_url: Any = None
    vendors: Any = None
    places: dict[str, str] = field(default_factory=dict, repr=False)

    def problem(self, error: InvalidEmail) -> Problem:
        """What ``send()`` refuses, with its place in the request."""
        return invalid(error, self.places.get(error.field))


# JSON ---------------------------------------------------------------------------------------------


def read_json(body: bytes) -> Any:
    """The value of a request's body. Raises ``Problem``: malformed, or too many values."""
    if len(body) > MAX_VALUES and _counts_more(body, MAX_VALUES):
        message = f"The body has more than {MAX_VALUES} values."
        raise Problem(413, "request_too_large", message)
    try:
        return _DECODER.decode(body.decode())
    except RecursionError:
        reason = "it is nested too deeply"
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except json.JSONDecodeError as error:  # its text quotes nothing
        reason = f"{error.msg}, at character {error.pos}"
    except ValueError as error:
        reason = str(error) if type(error) is _Strict else "a number is too long"
    message = f"The body is not valid JSON: {reason}."
    raise Problem(400, "validation_error", message, errors=[Entry("", reason)])


def _counts_more(body: bytes, most: int) -> bool:
    """Whether there are more values that take memory of their own: twenty times their octets.

    A byte is none of them: files come as lists of bytes, too.
    """
    if sum(map(body.count, b'[{",')) <= most:  # the usual case, and quick
        return False
    return next(islice(_VALUE.finditer(body), most, None), None) is not None


class _Strict(ValueError):
    """JSON that other programs would read in different ways."""


def _unique(pairs: list[tuple[str, Any]]) -> _Object:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise _Strict("an object has a key twice")
    return mapping


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise _Strict("a number is too large")
    return number


def _no_constant(_: str) -> float:
    raise _Strict("NaN and Infinity are no numbers in JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant
)


# In -----------------------------------------------------------------------------------------------


def read_message(value: Any, path: str = "") -> Message:
    """One e-mail of a request, at this pointer. Raises ``Problem`` for what is not for ``send()``.

    Raises ``InvalidEmail`` as ``send()`` does.
    """
    if type(value) is not dict:
        raise refused(path, _OBJECT)
    email = {key: value[key] for key in AS_THEY_ARE if key in value}
    message = Message(cast("EmailDict", email))
    if len(email) == len(value):  # the usual case
        return message
    _check_keys(value)
    message.priority = _or(value.get("priority"), "normal")
    message.send_at = read_time(value.get("scheduled_at"), "scheduled_at")
    message.expires_at = read_time(value.get("expires_at"), "expires_at")
    message.callback_url = value.get("callback_url")
    message.vendors = value.get("vendors")
    if (attachments := value.get("attachments")) is not None:
        files = enumerate(_list(attachments, "attachments"))
        email["attachments"] = [_attachment(file, f"attachments[{n}]") for n, file in files]
    if (tags := value.get("tags")) is not None:
        _read_tags(_list(tags, "tags"), email, message.places)
    return message


def _check_keys(value: _Object, keys: Sequence[str] = KEYS, place: str = "") -> None:
    for key in value.keys() - set(keys):
        if key in UNSUPPORTED and not place:
            if value[key] is not None:
                raise InvalidEmail(key, UNSUPPORTED[key])
        elif SHOWN_KEY.fullmatch(key):
            raise InvalidEmail(f"{place}{key}", "unknown key" + did_you_mean(key, keys))
        else:
            raise InvalidEmail(place.removesuffix(".") or "email", "has an unknown key")


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _list(value: Any, name: str) -> list[Any]:
    if type(value) is not list:
        raise InvalidEmail(name, "must be a list")
    return value


def read_time(value: Any, name: str) -> datetime | None:
    """A time in ISO 8601; None: none is there. Raises ``InvalidEmail``."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidEmail(name, _NO_TIME) from None
    if time.tzinfo is None:
        raise InvalidEmail(name, _NO_TIME)
    return time


def _attachment(file: Any, place: str) -> _Object:
    if type(file) is not dict:
        raise InvalidEmail(place, _OBJECT)
    if file.get("path") is not None:
        raise InvalidEmail(f"{place}.path", _PATH)
    _check_keys(file, (*_ATTACHMENT_KEYS, "path"), f"{place}.")
    return {
        "content": _octets(file.get("content"), f"{place}.content"),
        "filename": file.get("filename"),
        "content_type": file.get("content_type"),
        # Older versions of the SDKs have the longer name.
        "content_id": _or(file.get("content_id"), file.get("inline_content_id")),
    }


def _octets(content: Any, place: str) -> bytes:
    """A file's content: base64, or a list of its bytes, as Resend's SDK for Python sends it."""
    try:
        if type(content) is str:
            lines = content.split() if "\n" in content else [content]
            return b64decode("".join(lines), validate=True)
        if type(content) is list and all(type(octet) is int for octet in content):
            return bytes(content)
    except (BadBase64, ValueError):  # ValueError also: outside ASCII; not in range(256)
        pass
    raise InvalidEmail(place, "must be base64, or a list of bytes")


def _read_tags(tags: list[Any], email: _Object, places: dict[str, str]) -> None:
    """Put Resend's tags where they belong, and note in ``places`` where each stood."""
    own: list[str] = []
    metadata = _or(email.get("metadata"), {})
    labels: _Object = {}
    for n, tag in enumerate(tags):
        place = f"tags[{n}]"
        name, value = _name_and_value(tag, place)
        if value is None:
            places[f"tags[{len(own)}]"] = f"/tags/{n}"
            own.append(name)
            continue
        if name in labels or (type(metadata) is dict and name in metadata):
            raise InvalidEmail(f"{place}.name", "is given more than once, or in metadata too")
        places[f"metadata.{name}"] = places[f"metadata[{len(labels)}]"] = f"/tags/{n}"
        labels[name] = value
    email["tags"] = own
    if labels:
        if type(metadata) is not dict:
            raise InvalidEmail("metadata", _OBJECT)
        email["metadata"] = {**labels, **metadata}


def _name_and_value(tag: Any, place: str) -> tuple[str, str | None]:
    """A tag's name and value; None: it has no value."""
    if type(tag) is str:
        return tag, None
    if type(tag) is not dict:
        raise InvalidEmail(place, "must be an object with name and value")
    _check_keys(tag, ("name", "value"), f"{place}.")
    name, value = tag.get("name"), tag.get("value")
    if type(name) is not str:
        raise InvalidEmail(f"{place}.name", "must be a string")
    if value is not None and type(value) is not str:
        raise InvalidEmail(f"{place}.value", "must be a string")
    return name, value


def read_reschedule(value: Any, email_id: str) -> datetime:
    """The new time of this e-mail. Raises ``Problem`` and ``InvalidEmail``."""
    if type(value) is not dict:
        raise refused("", _OBJECT)
    _check_keys(value, ("scheduled_at", "id"))
    # Resend's SDK for Python repeats the address here.
    if value.get("id") not in (None, email_id, ids.as_uuid(email_id)):
        raise InvalidEmail("id", "is another one than in the address")
    time = read_time(value.get("scheduled_at"), "scheduled_at")
    if time is None:
        raise InvalidEmail("scheduled_at", f"is missing, or null: it {_NO_TIME}")
    return time


# Out ----------------------------------------------------------------------------------------------

_LISTS = ("to", "cc", "bcc", "reply_to")
_LAST_EVENTS: Mapping[str, str] = {
    "queued": "queued",
    "sending": "queued",
    "sent": "sent",
    "failed": "failed",
    "cancelled": "canceled",
    "uncertain": "delivery_delayed",  # Resend has no word for it: it waits for a person
}


_AFTER_THE_YES: Mapping[str, str] = {
    "deferred": "delivery_delayed",
    "rejected": "failed",
}  # the other words of a delivery are Resend's own


def show(
    stored: StoredEmail,
    events: Sequence[Mapping[str, Any]] = (),
    tally: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    whole: bool,
) -> _Object:
    """An e-mail as Resend shows it, and what we know of it.

    ``whole``: with its text, its HTML, ``events`` as they are stored, and how many there are.
    """
    status = stored.status
    is_scheduled = _is_scheduled(status)
    html, text = (stored.email.html, stored.email.text) if stored.email else (None, None)
    return {
        "object": "email",
        "id": ids.as_uuid(stored.id),
        "message_id": status.message_id,
        **_headers(stored.email),
        **({"html": html, "text": text} if whole else {}),
        "created_at": _time(status.created_at),
        "scheduled_at": _time(status.due_at) if is_scheduled else None,
        "last_event": "scheduled" if is_scheduled else _last_event(status),
        "mailqueue": {**_state(stored), **(_ledger(status, events, tally or {}) if whole else {})},
    }


def _last_event(status: EmailStatus) -> str:
    """The word for where the e-mail stands, of those that Resend has."""
    delivery = status.delivery
    if delivery is None:
        return _LAST_EVENTS[status.status]
    if delivery == "delivered":
        marks = {mark for each in status.deliveries for mark in each.marks}
        return next((mark for mark in ("clicked", "opened") if mark in marks), delivery)
    return _AFTER_THE_YES.get(delivery, delivery)


def _is_scheduled(status: EmailStatus) -> bool:
    """It waits for the time that its sender asked for, and was never tried."""
    return (
        status.status == "queued"
        and not status.attempts
        and status.due_at is not None
        and status.due_at > datetime.now(UTC)
    )


def _headers(email: Email | None) -> _Object:
    """None: what is stored cannot be read."""
    if email is None:
        return {"from": "", **{name: [] for name in _LISTS}, "subject": "", "tags": []}
    return {
        "from": str(email.from_),
        **{name: list(map(str, getattr(email, name))) for name in _LISTS},
        "subject": email.subject,
        "tags": [{"name": name, "value": value} for name, value in email.metadata.items()],
    }


def _state(stored: StoredEmail) -> _Object:
    status = stored.status
    return {
        "status": status.status,
        "reason": status.reason,
        "priority": stored.priority,
        "due_at": _time(status.due_at),
        "expires_at": _time(stored.expires_at),
        "sent_at": _time(status.sent_at),
        "vendor": status.vendor,
        "vendor_message_id": status.vendor_message_id,
        "unknowns": status.unknowns,
        "simulated": status.simulated,
        "delivery": status.delivery,
        "tags": list(stored.email.tags) if stored.email else [],
    }


def _ledger(
    status: EmailStatus,
    events: Sequence[Mapping[str, Any]],
    tally: Mapping[str, Mapping[str, Any]],
) -> _Object:
    return {
        "refused": list(status.refused),
        "attempts": [_attempt(attempt) for attempt in status.attempts],
        "deliveries": [_delivery(each) for each in status.deliveries],
        "events": [_event(event) for event in events],
        "event_counts": {
            name: {"n": each["n"], "first": _time(each["first"]), "last": _time(each["last"])}
            for name, each in tally.items()
        },
    }


def _delivery(delivery: Delivery) -> _Object:
    return {
        "recipient": delivery.recipient,
        "state": delivery.state,
        "marks": list(delivery.marks),
    }


def _event(event: Mapping[str, Any]) -> _Object:
    names = ("type", "vendor", "recipient", "code", "detail")
    times = {name: _time(event.get(name)) for name in ("at", "received_at")}
    return {**{name: event.get(name) for name in names}, **times}


def _attempt(attempt: AttemptStatus) -> _Object:
    return {
        "vendor": attempt.vendor,
        "started_at": _time(attempt.started_at),
        "ended_at": _time(attempt.ended_at),
        "outcome": attempt.outcome,
        "code": attempt.code,
        "detail": attempt.detail,
    }


def _time(time: datetime | None) -> str | None:
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
