"""What an application is told about an e-mail: a view of its document. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailqueue.record import Status


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """One line of an e-mail's ledger. ``outcome`` is None while the attempt is under way."""

    vendor: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class EmailStatus:
    """Where an e-mail stands. Times are aware (UTC).

    ``status`` is ``queued``, ``sending``, ``sent`` (a vendor accepted it), ``failed`` (no copy left
    our hands; ``reason`` says why), ``uncertain`` (a copy may have left; a person decides) or
    ``cancelled``. ``refused`` are recipients refused for good.
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
    lines = tuple(
        AttemptStatus(
            vendor=line["vendor"],
            started_at=line["started_at"],
            ended_at=line["ended_at"],
            outcome=line["outcome"],
            code=line.get("code") or "",
            detail=line.get("detail") or "",
        )
        for line in stored["attempts"]
    )
    return EmailStatus(
        id=str(stored["_id"]),
        status=Status(stored["status"]),
        reason=stored.get("reason"),
        created_at=stored["created_at"],
        due_at=stored.get("due_at"),
        sent_at=stored.get("sent_at"),
        vendor=stored.get("vendor"),
        vendor_message_id=stored.get("vendor_message_id"),
        message_id=stored["message_id"],
        unknowns=stored["unknowns"],
        simulated=bool(stored.get("simulated")),
        refused=tuple(stored.get("refused") or ()),
        attempts=lines,
    )
