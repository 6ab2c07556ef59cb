"""The body of a callback: an event in the shape of Resend's webhooks. Pure.

Decides: what an application is told. It is what the e-mail's document had when the event was noted,
and what never changes: the same event has the same body in every repeat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from mailqueue.errors import Unreadable
from mailqueue.message import Email
from mailqueue.store import ids
from mailqueue.store.callbacks import OF
from mailqueue.store.document import SIMULATED, Stored

_BOUNCES = {"bounced_hard": "Permanent", "bounced_soft": "Transient"}


@dataclass(frozen=True, slots=True)
class Callback:
    """A claimed callback of a stored e-mail: its entry in the list, and the claim's ``nonce``."""

    stored: Stored
    entry: Mapping[str, Any] = field(repr=False)
    nonce: ObjectId

    @property
    def id(self) -> str:
        """The ``webhook-id``."""
        return str(self.entry["id"])

    @property
    def type(self) -> str:
        """What it tells of, as ``email.sent``."""
        return str(self.entry["type"])

    @property
    def word(self) -> str:
        """The end, or the step of a recipient: what its id has between the e-mail and a number."""
        separator = OF if "recipient" in self.entry else "_"
        return self.id.removeprefix(f"msg_{self.stored.id}_").rpartition(separator)[0]

    @property
    def recipient(self) -> str | None:
        """The address that it is about; None: it is about all of them."""
        place, email = self.entry.get("recipient"), _email(self.stored)
        if not isinstance(place, int) or email is None or place >= len(email.recipients):
            return None
        return email.recipients[place].address

    def body(self, event: Mapping[str, Any]) -> bytes:
        """The JSON; ``event``: what the vendor told, empty if it is not from a vendor."""
        at = event.get("at")
        created_at = at if isinstance(at, datetime) else self.entry["at"]
        value = {"type": self.type, "created_at": _time(created_at), "data": self._data(event)}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )

    def _data(self, event: Mapping[str, Any]) -> dict[str, Any]:
        document, email = self.stored.document, _email(self.stored)
        data: dict[str, Any] = {
            "email_id": ids.as_uuid(str(self.stored.id)),
            "created_at": _time(document.get("created_at")),
            "message_id": document.get("message_id"),
            **_head(email),
        }
        if document.get("env") == SIMULATED:
            data["simulated"] = True
        if isinstance(document.get("request_id"), str):
            data["request_id"] = document["request_id"]
        if (recipient := self.recipient) is not None:
            data["recipient"] = recipient
        return data | self._details(event)

    def _details(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """What Resend has for the type, under its names."""
        code, detail = event.get("code") or "", event.get("detail") or ""
        reason = self.entry.get("reason") or detail or code or self.word
        match self.type:
            case "email.failed" | "email.uncertain" | "email.cancelled":
                return {self.type.removeprefix("email."): {"reason": reason}}
            case "email.bounced":
                kind = _BOUNCES.get(self.word, "Undetermined")
                return {"bounce": {"type": kind, "subType": code, "message": detail}}
            case "email.suppressed":
                message = "All recipients are on the suppression list."
                return {"suppressed": {"type": "OnAccountSuppressionList", "message": message}}
            case "email.clicked":
                at = _time(event.get("at") or self.entry["at"])
                return {"click": {"ipAddress": "", "link": "", "timestamp": at, "userAgent": ""}}
        return {}


def _email(stored: Stored) -> Email | None:
    try:
        return stored.email
    except Unreadable:
        return None


def _head(email: Email | None) -> dict[str, Any]:
    if email is None:  # what is stored cannot be read
        return {"from": "", "to": [], "subject": "", "tags": {}}
    lists = {name: list(map(str, getattr(email, name))) for name in ("to", "cc", "bcc")}
    return {
        "from": str(email.from_),
        **{name: people for name, people in lists.items() if people or name == "to"},
        "subject": email.subject,
        # Metadata is what Resend calls tags, and its events have them as an object.
        "tags": dict(email.metadata),
    }


def _time(time: Any) -> str | None:
    if not isinstance(time, datetime):
        return None
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
