"""The e-mail document: how it is written down, and how it is read. Pure.

Decides: the fields of a new document, and what ``decide`` is told of a stored one.

Assumes: ``created_at`` of a new e-mail comes from the producer's clock, which may be wrong by days;
every other time is the database server's. So ``clock_from``, from which ``retry.give_up_after``
counts, is null until a consumer has the e-mail in its hands, due as it is then.

Promises: no I/O. ``transitions`` holds the guarded updates, ``store`` is the only writer. The
``nonce`` is of the call that stored the e-mail and never changes: it tells that call's own e-mail
from another that has the same ``_id``.

::

    _id  nonce  idempotency_key  content_hash  env  email{...}  message_id
    status  reason  priority  due_at  overdue_at  send_at  expires_at  clock_from  created_at
    updated_at
    lease {token, owner, nonce, until}      token grows with every claim and is never reused
    attempts [{n, token, vendor, key, probe, started_at, ended_at,
               outcome, code, detail, message_id, answered, refused, pending,
               looked_up, late, extra_copy}]    the newest 50; the last three where they apply
    round {n, tried, refused}  pin {vendor, key, until, repeats}  pending  refused
    unknowns  counted  late_accept {vendor, message_id, refused, token, at}  announced {at, n}
    vendor  vendor_message_id  sent_at  simulated
    interventions [{n, verb, was, reason, token, at, nonce}]    a person's, the newest 50
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId

from mailqueue.record import Outcome, Pin, Record, Round, Status, overdue_after

PRODUCTION, SIMULATED = "production", "simulated"

Document = Mapping[str, Any]


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
) -> dict[str, Any]:
    """The document of an e-mail that is about to be stored."""
    document: dict[str, Any] = {
        "_id": email_id,
        "content_hash": content_hash,
        "env": env,
        "email": email,
        "message_id": message_id,
        "status": Status.QUEUED.value,
        "priority": priority,
        "due_at": send_at,
        "overdue_at": max(now, send_at or now) + timedelta(seconds=overdue_after(priority)),
        "clock_from": None,
        "created_at": now,
        "updated_at": now,
        "lease": {"token": 0},
        "attempts": [],
        "round": {"n": 0, "tried": [], "refused": []},
        "unknowns": 0,
        "counted": 0,
    }
    if send_at is not None:
        document["send_at"] = send_at
    if expires_at is not None:
        document["expires_at"] = expires_at
    if idempotency_key is not None:
        document["idempotency_key"] = idempotency_key
    if nonce is not None:
        document["nonce"] = nonce
    return document


def rename(document: dict[str, Any], email_id: ObjectId) -> None:
    """Give a document that is not stored yet another id; its Message-ID follows."""
    old, document["_id"] = str(document["_id"]), email_id
    document["message_id"] = document["message_id"].replace(old, str(email_id))


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it was read, with the server's time of the reading."""

    document: Document = field(repr=False)
    now: datetime

    @property
    def id(self) -> ObjectId:
        """The e-mail's id."""
        value: ObjectId = self.document["_id"]
        return value

    @property
    def status(self) -> Status:
        """Where the e-mail stands."""
        return Status(self.document["status"])

    @property
    def token(self) -> int:
        """The fencing token of the newest claim."""
        return int(self.document["lease"]["token"])

    @property
    def date(self) -> datetime:
        """The e-mail's Date, the same in every attempt: when it was made, or was to be sent."""
        made: datetime = self.document["created_at"]
        return max(made, self.document.get("send_at") or made)

    @property
    def due_in(self) -> float:
        """Seconds until the e-mail is due; 0 or less: now."""
        return self._until("due_at") or 0.0

    @property
    def expires_in(self) -> float | None:
        """Seconds until the e-mail must not be sent any more; None: never."""
        return self._until("expires_at")

    @property
    def leased_for(self) -> float:
        """Seconds that the lease still holds; 0 or less: it has expired."""
        until = self.document["lease"].get("until")
        return 0.0 if until is None else float((until - self.now).total_seconds())

    def _until(self, field: str) -> float | None:
        at = self.document.get(field)
        return None if at is None else float((at - self.now).total_seconds())

    @property
    def unasked(self) -> Mapping[str, Any] | None:
        """The newest ledger line whose outcome is unknown and whose vendor was not yet asked."""
        lines: Sequence[Mapping[str, Any]] = self.document["attempts"]
        newest = next((x for x in reversed(lines) if x["outcome"] == Outcome.UNKNOWN), None)
        return None if newest is None or newest.get("looked_up") else newest

    def key_age(self, vendor: str, key: str | None) -> float:
        """Seconds since this vendor was first sent this key; 0: it was not."""
        uses = [
            line["started_at"]
            for line in self.document["attempts"]
            if key is not None and line["vendor"] == vendor and line.get("key") == key
        ]
        return max(0.0, (self.now - min(uses)).total_seconds()) if uses else 0.0

    def record(self) -> Record:
        """What ``decide`` needs to know; the open ledger line, if any, is the attempt decided."""
        document = self.document
        line = open_line(document) or {}
        pending = document.get("pending")
        return Record(
            priority=document["priority"],
            age=-(self._until("clock_from") or 0.0),
            expires_in=self.expires_in,
            counted=document["counted"],
            unknowns=document["unknowns"],
            round=_round(document["round"]),
            pin=self._pin(),
            pending=None if pending is None else tuple(pending),
            refused=tuple(document.get("refused") or ()),
            failed_at=_failed_at(document["attempts"]),
            unknown_at=_unknown_at(document["attempts"]),
            vendor=line.get("vendor"),
            probe=bool(line.get("probe")),
            key=line.get("key"),
            key_age=self.key_age(line.get("vendor", ""), line.get("key")),
        )

    def _pin(self) -> Pin | None:
        pin = self.document.get("pin")
        if pin is None:
            return None
        remaining = (pin["until"] - self.now).total_seconds()
        return Pin(
            vendor=pin["vendor"], key=pin["key"], remaining=remaining, repeats=pin["repeats"]
        )


def open_line(document: Document) -> Mapping[str, Any] | None:
    """The ledger line of the claim that holds the lease, unless it is closed."""
    if document["status"] != Status.SENDING:
        return None
    token = document["lease"]["token"]
    for line in reversed(document["attempts"]):
        if line["token"] == token and line["outcome"] is None:
            found: Mapping[str, Any] = line
            return found
    return None


def _round(value: Mapping[str, Any]) -> Round:
    return Round(n=value["n"], tried=tuple(value["tried"]), refused=tuple(value["refused"]))


def _failed_at(attempts: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The vendors that answered with a server error: the e-mail itself may be the cause."""
    failures = (Outcome.UNAVAILABLE.value, Outcome.UNKNOWN.value)
    return frozenset(
        line["vendor"] for line in attempts if line["outcome"] in failures and line.get("answered")
    )


def _unknown_at(attempts: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    unknown = Outcome.UNKNOWN.value
    return frozenset(line["vendor"] for line in attempts if line["outcome"] == unknown)
