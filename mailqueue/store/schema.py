"""The schema of an e-mail document: which fields it must have, and what each may hold. Pure.

Decides: the same as ``document`` writes down, from the other side: this is what ``audit`` demands
before it looks at what the fields say together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from bson import ObjectId

from mailqueue.config.callbacks import TYPES
from mailqueue.lifecycle.outcomes import PRIORITIES, Outcome, Reason, Status
from mailqueue.store import callbacks
from mailqueue.store.document import PRODUCTION, SIMULATED, Document
from mailqueue.store.interventions import Verb
from mailqueue.store.ledger import NOT_STARTED

_MISSING = object()  # absent; in some fields null is not as good


def text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _time(value: Any) -> bool:
    return isinstance(value, datetime)


def _id(value: Any) -> bool:
    return isinstance(value, ObjectId)


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _object(**fields: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        whole = isinstance(value, Mapping)
        return whole and all(check(value.get(name, _MISSING)) for name, check in fields.items())

    return fits


def _optional(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or value is _MISSING or check(value)


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


_texts = _list_of(text)
_LINE = _object(
    n=_natural,
    token=_natural,
    vendor=text,
    key=_optional(text),
    started_at=_time,
    ended_at=_or_null(_time),
    outcome=_one_of(None, NOT_STARTED, *Outcome),
)
_INTERVENTION = _object(
    n=_natural,
    verb=_one_of(*Verb),
    was=_one_of(*Status),
    token=_natural,
    at=_time,
    by=_optional(text),
)
_CALLBACK = _object(
    id=text,
    type=_one_of(*TYPES),
    state=_one_of(*callbacks.STATES),
    at=_time,
    since=_time,
    due_at=_optional(_time),
    ended_at=_optional(_time),
    token=_natural,
    tries=_natural,
)
FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "env": _one_of(PRODUCTION, SIMULATED),
    "message_id": text,
    "content_hash": text,
    "status": _one_of(*Status),
    "priority": _one_of(*PRIORITIES.values()),
    "clock_from": _optional(_time),
    "created_at": _time,
    "updated_at": _time,
    "lease": _object(token=_natural, until=_optional(_time)),
    "attempts": _list_of(_LINE),
    "round": _object(n=_natural, tried=_texts, refused=_texts),
    "unknowns": _natural,
    "counted": _natural,
    "nonce": _optional(_id),
    "due_at": _optional(_time),
    "hold": _optional(text),
    "send_at": _optional(_time),
    "expires_at": _optional(_time),
    "sent_at": _optional(_time),
    "content_dropped_at": _optional(_time),
    "forgotten_at": _optional(_time),
    "reason": _optional(_one_of(*Reason)),
    "pin": _optional(_object(vendor=text, key=text, until=_time, repeats=_natural)),
    "pending": _optional(lambda value: bool(value) and _texts(value)),
    "late_accept": _optional(_object(vendor=text, token=_natural, at=_time)),
    "interventions": _optional(_list_of(_INTERVENTION)),
    "callback_url": _optional(text),
    "request_id": _optional(text),
    "traceparent": _optional(text),
    "route": _optional(lambda value: bool(value) and _texts(value)),
    "callbacks": _optional(_list_of(_CALLBACK)),
}


def problems(document: Document) -> Iterator[str]:
    """The fields that are missing or hold something else."""
    for name, fits in FIELDS.items():
        if not fits(document.get(name)):
            what = "is missing" if name not in document else "has an invalid value"
            yield f"{name} {what}"
