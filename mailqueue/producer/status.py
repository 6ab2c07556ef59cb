"""What an application sees of an e-mail: a view of its document. Pure.

Promises: any document can be viewed. A damaged field is shown as if it were absent; an e-mail whose
status cannot be read is ``uncertain``, with the reason ``unreadable``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mailqueue.lifecycle.outcomes import Reason, Status

_STATUSES = frozenset(Status)
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
class EmailStatus:
    """Where an e-mail stands, as it was when it was read. Times are aware (UTC).

    ``id``: as ``send()`` returned it.
    ``status``: see ``Status``; ``reason``: why it ended, unless a vendor accepted it.
    ``due_at``: not sent before; None: due at once. ``sent_at``: when a vendor accepted it.
    ``vendor`` and ``vendor_message_id``: who accepted it, and the vendor's own id for it.
    ``message_id``: its Message-ID header.
    ``unknowns``: how many attempts have an unknown outcome, so that a copy may have left.
    ``simulated``: no vendor was called, it was outside production.
    ``refused``: the recipients that a vendor refused for good.
    ``attempts``: the newest 50, the oldest of these first.
    """

    id: str
    status: Status
    reason: str | None
    created_at: datetime
    due_at: datetime | None
    sent_at: datetime | None
    vendor: str | None
    vendor_message_id: str | None
    message_id: str
    unknowns: int
    simulated: bool
    refused: tuple[str, ...] = field(repr=False)
    attempts: tuple[AttemptStatus, ...]


def status_of(stored: Mapping[str, Any]) -> EmailStatus:
    """The view of a stored document."""
    status, reason = _status(stored)
    return EmailStatus(
        id=str(stored["_id"]),
        status=status,
        reason=reason,
        created_at=_time(stored.get("created_at")) or _time_of_id(stored["_id"]),
        due_at=_time(stored.get("due_at")),
        sent_at=_time(stored.get("sent_at")),
        vendor=_text(stored.get("vendor")),
        vendor_message_id=_text(stored.get("vendor_message_id")),
        message_id=_text(stored.get("message_id")) or "",
        unknowns=_number(stored.get("unknowns")),
        simulated=stored.get("simulated") is True,
        refused=tuple(filter(_text, _list(stored.get("refused")))),
        attempts=tuple(map(_attempt, filter(_is_attempt, _list(stored.get("attempts"))))),
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


def _time_of_id(email_id: Any) -> datetime:
    """When the id was made: an ObjectId begins with the time."""
    time: datetime = getattr(email_id, "generation_time", _LONG_AGO)
    return time


def _time(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _text(value: Any) -> str | None:
    return value if type(value) is str else None


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int) and value > 0 else 0


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
