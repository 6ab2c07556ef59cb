"""What an application sees of an e-mail: a view of its document. Pure.

Promises: any document can be viewed. A damaged field is shown as if it were absent; an e-mail whose
status cannot be read is ``uncertain``, with the reason ``unreadable``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self, cast

from mailqueue.errors import Unreadable
from mailqueue.lifecycle.outcomes import PRIORITIES, Reason, Status
from mailqueue.message import Email
from mailqueue.producer.submission import Priority
from mailqueue.store.document import HELD, Stored

_STATUSES = frozenset(Status)
_PRIORITIES = {number: cast("Priority", name) for name, number in PRIORITIES.items()}
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """One attempt to send an e-mail through one vendor. Times are aware (UTC).

    ``ended_at`` and ``outcome`` are None while it is under way. ``outcome`` is a word of
    ``mailqueue.vendors.Outcome``, or ``not_started``: nothing was sent. ``code`` and ``detail`` are
    the vendor's words, without anything private.
    """

    vendor: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What vendors' events tell of one recipient (docs/events.md).

    ``recipient``: its place among the recipients. ``state``: the highest step, None: no event told
    one. ``marks``: what stands beside it: opened, clicked, complained and the like.
    """

    recipient: int
    state: str | None
    marks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EmailStatus:
    """Where an e-mail stands, as it was when it was read. Times are aware (UTC).

    ``id``: as ``send()`` returned it.
    ``status``: see ``Status``; ``reason``: why it ended, unless a vendor accepted it.
    ``route``: the vendors that are left for it, by the producer's configuration: those that it may
    go to, without those that cannot take it. Of one alone, no other can stand in.
    ``due_at``: not sent before; None: due at once. ``hold``: the name under which an operator lets
    it wait. ``sent_at``: when a vendor accepted it.
    ``vendor`` and ``vendor_message_id``: who accepted it, and the vendor's own id for it.
    ``message_id``: its Message-ID header.
    ``unknowns``: how many attempts have an unknown outcome, so that a copy may have left.
    ``simulated``: no vendor was called, it was outside production.
    ``refused``: the recipients that a vendor refused for good, or that are suppressed.
    ``attempts``: the newest 50, the oldest of these first.
    ``delivery``: what vendors' events tell of all recipients in one word: ``delivered``,
    ``bounced``, ``complained`` and the like; None: no event came. ``deliveries``: of each of them.
    """

    id: str
    status: Status
    reason: str | None
    created_at: datetime
    due_at: datetime | None
    hold: str | None
    route: tuple[str, ...]
    sent_at: datetime | None
    vendor: str | None
    vendor_message_id: str | None
    message_id: str
    unknowns: int
    simulated: bool
    refused: tuple[str, ...] = field(repr=False)
    attempts: tuple[AttemptStatus, ...]
    delivery: str | None
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class StoredEmail:
    """An e-mail with its content, as it was when it was read. Times are aware (UTC).

    ``id``: as ``send()`` returned it; ``status``: where it stands.
    ``email``: what was handed in, in its normal form; None: it cannot be read, or was left out.
    ``priority``, ``expires_at``, ``idempotency_key``: as they were given to ``send()``.
    """

    id: str
    status: EmailStatus
    email: Email | None = field(repr=False)
    priority: Priority
    expires_at: datetime | None
    idempotency_key: str | None = field(repr=False)

    @classmethod
    def of(cls, stored: Stored, vendors: Sequence[str] = ()) -> Self:
        """The view of a stored e-mail, where these ``vendors`` are configured."""
        document = stored.document
        return cls(
            id=str(stored.id),
            status=status_of(document, vendors),
            email=_email(stored),
            priority=_PRIORITIES.get(stored.priority, "normal"),
            expires_at=_time(document.get("expires_at")),
            idempotency_key=_text(document.get("idempotency_key")),
        )


def _email(stored: Stored) -> Email | None:
    try:
        return stored.email
    except Unreadable:
        return None


def status_of(stored: Mapping[str, Any], vendors: Sequence[str] = ()) -> EmailStatus:
    """The view of a stored document, where these ``vendors`` are configured."""
    status, reason = _status(stored)
    return EmailStatus(
        id=str(stored["_id"]),
        status=status,
        reason=reason,
        created_at=_time(stored.get("created_at")) or _LONG_AGO,
        due_at=_due_at(stored),
        hold=_text(stored.get("hold")),
        route=_route(stored, vendors),
        sent_at=_time(stored.get("sent_at")),
        vendor=_text(stored.get("vendor")),
        vendor_message_id=_text(stored.get("vendor_message_id")),
        message_id=_text(stored.get("message_id")) or "",
        unknowns=_number(stored.get("unknowns")),
        simulated=stored.get("simulated") is True,
        refused=tuple(filter(_text, _list(stored.get("refused")))),
        attempts=tuple(map(_attempt, filter(_is_attempt, _list(stored.get("attempts"))))),
        delivery=_text(stored.get("delivery_summary")),
        deliveries=_deliveries(stored) if "delivery_summary" in stored else (),
    )


def _deliveries(stored: Mapping[str, Any]) -> tuple[Delivery, ...]:
    states, marks = _mapping(stored.get("delivery")), _mapping(stored.get("delivery_marks"))
    places = sorted({int(place) for place in (*states, *marks) if place.isdecimal()})
    return tuple(
        Delivery(place, _text(states.get(str(place))), tuple(_mapping(marks.get(str(place)))))
        for place in places
    )


def _attempt(line: Mapping[str, Any]) -> AttemptStatus:
    return AttemptStatus(
        vendor=line["vendor"],
        started_at=line["started_at"],
        ended_at=_time(line.get("ended_at")),
        outcome=_text(line.get("outcome")),
        code=_text(line.get("code")) or "",
        detail=_text(line.get("detail")) or "",
    )


def _status(stored: Mapping[str, Any]) -> tuple[Status, str | None]:
    status = _text(stored.get("status"))
    if status not in _STATUSES:
        return Status.UNCERTAIN, Reason.UNREADABLE
    return Status(status), _text(stored.get("reason"))


def _is_attempt(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return _text(value.get("vendor")) is not None and _time(value.get("started_at")) is not None


def _route(stored: Mapping[str, Any], vendors: Sequence[str]) -> tuple[str, ...]:
    """The vendors that are left: on its route, configured, and not known to be unable."""
    names = [name for name in _list(stored.get("route")) if _text(name) is not None]
    if vendors:
        names = [name for name in vendors if "route" not in stored or name in names]
    refused = _list(_mapping(stored.get("round")).get("refused"))
    return tuple(name for name in names if name not in refused)


def _due_at(stored: Mapping[str, Any]) -> datetime | None:
    time = _time(stored.get("due_at"))
    return None if time == HELD else time


def _time(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _text(value: Any) -> str | None:
    return value if type(value) is str else None


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int) and value > 0 else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
