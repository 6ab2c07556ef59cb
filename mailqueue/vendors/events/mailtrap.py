"""Mailtrap's webhooks: https://docs.mailtrap.io/email-api-smtp/advanced/webhooks.

Signed: an HMAC-SHA256 over the body as it came, in hexadecimal digits. The secret has 32
hexadecimal digits and is used as text. There is no timestamp: repeats are known by ``event_id``.
The body is JSON, or JSON Lines.

::

    delivery                               delivered
    soft bounce, suspension                deferred (it is tried again)
    bounce                                 bounced_hard
    reject                                 rejected
    spam                                   complained
    unsubscribe                            unsubscribed
    open, click                            opened, clicked
    anything else                          unknown

Anything but 200 is repeated every five minutes, 40 times; then the webhook is paused until a person
resumes it. The sandbox sends no events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mailqueue.vendors.events.signatures import verify_hex
from mailqueue.vendors.events.source import (
    SUPPRESSION,
    EventRequest,
    EventSource,
    EventType,
    Malformed,
    VendorEvent,
    brief,
    json_of,
    key_of,
    time_of,
)
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.values import identifier, mapping, mappings, text

_TYPES = {
    "delivery": EventType.DELIVERED,
    "soft bounce": EventType.DEFERRED,
    "suspension": EventType.DEFERRED,
    "bounce": EventType.BOUNCED_HARD,
    "reject": EventType.REJECTED,
    "spam": EventType.COMPLAINED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
}


class MailtrapEvents(EventSource):
    """The events of one Mailtrap webhook."""

    def verify(self, request: EventRequest) -> None:
        verify_hex(self.secrets, request.body, request.headers.get("mailtrap-signature", ""))

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        if request.headers.get("content-type", "").startswith("application/jsonl"):
            return [_event(event) for event in _lines(request.body)]
        body = json_of(request.body)
        if not isinstance(body, dict) or not isinstance(body.get("events"), list):
            raise Malformed("the body has no list of events")
        return [_event(event) for event in mappings(body["events"])]


def _lines(body: bytes) -> list[Mapping[str, Any]]:
    """The events of the lines that can be read; one bad line leaves the others as they are."""
    events = []
    for line in filter(None, body.splitlines()):
        try:
            events.append(json_of(line))
        except Malformed:
            continue
    return mappings(events)


def _event(event: Mapping[str, Any]) -> VendorEvent:
    name, recipient = text(event.get("event")), identifier(event.get("email"))
    kind, message_id = _TYPES.get(name, EventType.UNKNOWN), identifier(event.get("message_id"))
    details = (event.get("response"), event.get("reason"), event.get("url"))
    key = identifier(event.get("event_id"))
    return VendorEvent(
        key=key or key_of(name, message_id, recipient, event.get("timestamp")),
        type=kind,
        at=time_of(event.get("timestamp")),
        recipient=recipient,
        email_id=identifier(mapping(event.get("custom_variables")).get(ID_KEY)),
        message_id=message_id,
        code=identifier(event.get("response_code")) or text(event.get("bounce_category")),
        detail=brief(next(filter(None, map(text, details)), "")),
        suppress=SUPPRESSION.get(kind),
    )
