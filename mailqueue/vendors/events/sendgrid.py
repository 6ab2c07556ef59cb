"""SendGrid's Event Webhook: https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event.

Signed with ECDSA (P-256, SHA-256) over the timestamp's header and the body as it came, with the
line end that the body has. ``secret`` is the verification key that SendGrid shows for the webhook
once its signature is enabled. The timestamp's age is not judged: no document says whether a repeat
is signed anew, and ``sg_event_id`` shows repeats.

::

    processed                              queued
    delivered                              delivered
    deferred                               deferred
    bounce, type bounce                    bounced_hard
    bounce, type blocked or expired        bounced_soft
    dropped                                rejected; some because of SendGrid's own lists
    open, click                            opened, clicked
    spamreport                             complained
    unsubscribe, group_unsubscribe         unsubscribed
    group_resubscribe                      resubscribed
    anything else                          unknown

It repeats for 24 hours what is not answered with 2xx. A bounce that comes long after the delivery
has neither our id nor SendGrid's: only its address is left.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError, MissingExtra
from mailqueue.vendors.events.source import (
    SUPPRESSION,
    EventRequest,
    EventSource,
    EventType,
    Malformed,
    NotAuthentic,
    SuppressionReason,
    VendorEvent,
    brief,
    json_of,
    key_of,
    time_of,
)
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.values import identifier, mappings, text

_TYPES = {
    "processed": EventType.QUEUED,
    "delivered": EventType.DELIVERED,
    "deferred": EventType.DEFERRED,
    "bounce": EventType.BOUNCED_SOFT,  # hard only with the type "bounce"
    "dropped": EventType.REJECTED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
    "spamreport": EventType.COMPLAINED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "group_unsubscribe": EventType.UNSUBSCRIBED,
    "group_resubscribe": EventType.RESUBSCRIBED,
}
_OWN_LISTS: Mapping[str, SuppressionReason] = {
    "Bounced Address": "bounced",
    "Spam Reporting Address": "complained",
    "Unsubscribed Address": "unsubscribed",
}


class SendGridEvents(EventSource):
    """The events of one SendGrid webhook."""

    def __init__(self, vendor: VendorConfig) -> None:
        super().__init__(vendor)
        self._verifiers = [_verifier(vendor.name, secret) for secret in self.secrets]

    def verify(self, request: EventRequest) -> None:
        headers = request.headers
        timestamp = headers.get("x-twilio-email-event-webhook-timestamp", "")
        encoded = headers.get("x-twilio-email-event-webhook-signature", "")
        try:
            signature = base64.b64decode(encoded, validate=True)
            message = timestamp.encode("ascii") + request.body
        except (binascii.Error, ValueError):
            raise NotAuthentic("the signature is malformed") from None
        if not any(is_signed(signature, message) for is_signed in self._verifiers):
            raise NotAuthentic("the signature is missing or wrong")

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        events = json_of(request.body)
        if not isinstance(events, list):
            raise Malformed("the body is no list of events")
        return [_event(each) for each in mappings(events)]


def _event(event: Mapping[str, Any]) -> VendorEvent:
    name, reason = text(event.get("event")), text(event.get("reason"))
    kind = _TYPES.get(name, EventType.UNKNOWN)
    if name == "bounce" and event.get("type") == "bounce":
        kind = EventType.BOUNCED_HARD
    own_list = _OWN_LISTS.get(reason) if kind is EventType.REJECTED else None
    details = (event.get("reason"), event.get("response"), event.get("url"))
    recipient = identifier(event.get("email"))
    key = identifier(event.get("sg_event_id"))
    return VendorEvent(
        key=key or key_of(name, event.get("sg_message_id"), recipient, event.get("timestamp")),
        type=kind,
        at=time_of(event.get("timestamp")),
        recipient=recipient,
        email_id=identifier(event.get(ID_KEY)),
        message_id=_message_id(text(event.get("sg_message_id"))),
        code=text(event.get("status")) or text(event.get("type")),
        detail=brief(next(filter(None, map(text, details)), "")),
        suppress=own_list or SUPPRESSION.get(kind),
        by_vendor_list=own_list is not None,
        lift=kind is EventType.RESUBSCRIBED,
    )


def _message_id(value: str) -> str | None:
    """The id that the API answered with: an event's begins with it, and may have dots itself."""
    for end in (".filter", ".recvd-"):
        value = value.partition(end)[0]
    return value or None


def _verifier(vendor: str, secret: str) -> Callable[[bytes, bytes], bool]:
    """Says whether a signature is that of a message, with this public key."""
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_der_public_key
    except ImportError as error:
        raise MissingExtra("events", "cryptography", "SendGrid signs its events") from error
    problem = f"vendors.{vendor}.events: a secret is no verification key of SendGrid's"
    try:
        key = load_der_public_key(base64.b64decode(secret, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        raise ConfigError([problem]) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError([problem])

    def is_signed(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    return is_signed
