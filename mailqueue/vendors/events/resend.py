"""Resend's webhooks: https://resend.com/docs/webhooks/introduction.

Signed as Standard Webhooks says (https://www.standardwebhooks.com): an HMAC-SHA256 over
``svix-id``, ``svix-timestamp`` and the body as it came. ``secret`` begins with ``whsec_``. The
timestamp is of the attempt, so that a repeat is not too old; five minutes are allowed.

::

    email.scheduled                        queued
    email.sent, delivered                  sent, delivered
    email.delivery_delayed                 deferred
    email.bounced, type Permanent          bounced_hard
    email.bounced, any other               bounced_soft
    email.suppressed                       rejected, because of Resend's own list
    email.failed                           failed
    email.opened, clicked, complained      opened, clicked, complained
    suppression.added, removed             rejected, resubscribed
    anything else                          unknown

Where an e-mail has several recipients, an event does not say whom it concerns. Resend repeats for
27 hours what is not answered with 2xx.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError
from mailqueue.vendors.events.signatures import mac
from mailqueue.vendors.events.source import (
    SUPPRESSION,
    EventRequest,
    EventSource,
    EventType,
    NotAuthentic,
    SuppressionReason,
    VendorEvent,
    brief,
    equal,
    event_of,
    only,
    time_of,
)
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.values import identifier, mapping, text

WINDOW = timedelta(minutes=5)
_PREFIX = "whsec_"
_TYPES = {
    "email.scheduled": EventType.QUEUED,
    "email.sent": EventType.SENT,
    "email.delivered": EventType.DELIVERED,
    "email.delivery_delayed": EventType.DEFERRED,
    "email.bounced": EventType.BOUNCED_SOFT,  # hard only if it says Permanent
    "email.suppressed": EventType.REJECTED,
    "email.failed": EventType.FAILED,
    "email.opened": EventType.OPENED,
    "email.clicked": EventType.CLICKED,
    "email.complained": EventType.COMPLAINED,
    "suppression.added": EventType.REJECTED,
    "suppression.removed": EventType.RESUBSCRIBED,
}


class ResendEvents(EventSource):
    """The events of one Resend webhook."""

    def __init__(self, vendor: VendorConfig) -> None:
        super().__init__(vendor)
        self._keys = [_key(vendor.name, secret) for secret in self.secrets]

    def verify(self, request: EventRequest) -> None:
        headers = request.headers
        name, stamp = headers.get("svix-id", ""), headers.get("svix-timestamp", "")
        at = time_of(stamp)
        message = f"{name}.{stamp}.".encode("utf-8", "surrogatepass") + request.body
        right = [base64.b64encode(mac(key, message)) for key in self._keys]
        versions = (each.partition(",") for each in headers.get("svix-signature", "").split(" "))
        signatures = [value for version, _, value in versions if version == "v1"]
        if not name or not any(equal(value, each) for value in signatures for each in right):
            raise NotAuthentic("the signature is missing or wrong")
        if at is None or abs(request.now - at) > WINDOW:
            raise NotAuthentic("the signature is more than five minutes old")

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        event = event_of(request.body)
        return [_event(event, request.headers.get("svix-id", ""))]


def _event(event: Mapping[str, Any], key: str) -> VendorEvent:
    name, data = text(event.get("type")), mapping(event.get("data"))
    bounce, suppressed = mapping(data.get("bounce")), mapping(data.get("suppressed"))
    kind = _TYPES.get(name, EventType.UNKNOWN)
    if name == "email.bounced" and bounce.get("type") == "Permanent":
        kind = EventType.BOUNCED_HARD
    recipients = data.get("to")
    recipient = only(recipients) if isinstance(recipients, list) else None
    suppress, own_list = SUPPRESSION.get(kind), kind is EventType.REJECTED
    if own_list:
        suppress = _reason(text(suppressed.get("reason")))
    details = (
        bounce.get("message"),
        suppressed.get("message"),
        mapping(data.get("failed")).get("reason"),
        mapping(data.get("click")).get("link"),
    )
    return VendorEvent(
        key=key,
        type=kind,
        at=time_of(event.get("created_at")),
        recipient=recipient or identifier(data.get("email")),
        email_id=identifier(mapping(data.get("tags")).get(ID_KEY)),
        message_id=identifier(data.get("email_id")),
        code=text(bounce.get("subType")) or text(suppressed.get("type")),
        detail=brief(next(filter(None, map(text, details)), "")),
        suppress=suppress,
        by_vendor_list=own_list,
        lift=kind is EventType.RESUBSCRIBED,
    )


def _reason(word: str) -> SuppressionReason:
    if "complain" in word:
        return "complained"
    return "unsubscribed" if "unsubscribe" in word else "bounced"


def _key(vendor: str, secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        problem = "a secret is none of Resend's (whsec_ and base64)"
        raise ConfigError([f"vendors.{vendor}.events: {problem}"]) from None
