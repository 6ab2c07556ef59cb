"""SMTP2GO's webhooks: https://developers.smtp2go.com/docs/webhooks.

Not signed: user and password in the URL (``basic_auth``), or a bearer token. The webhook must be
set to JSON, and must ask for our header (``headers: ["X-Mailqueue-Id"]``): without it an event has
only SMTP2GO's own id. ``id`` in an event is the webhook's.

::

    processed                              queued
    delivered                              delivered
    bounce, hard                           bounced_hard
    bounce, soft                           bounced_soft
    reject                                 rejected
    spam                                   complained
    unsubscribe, resubscribe               unsubscribed, resubscribed
    open, click                            opened, clicked
    anything else                          unknown

It repeats for 48 hours; its time-out is ten seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

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
from mailqueue.vendors.values import identifier, text

_ID_HEADER = "x-mailqueue-id"
_TYPES = {
    "processed": EventType.QUEUED,
    "delivered": EventType.DELIVERED,
    "bounce": EventType.BOUNCED_SOFT,  # hard only if it says so
    "reject": EventType.REJECTED,
    "spam": EventType.COMPLAINED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "resubscribe": EventType.RESUBSCRIBED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
}


class Smtp2GoEvents(EventSource):
    """The events of one SMTP2GO webhook."""

    lacks_our_id: ClassVar[bool] = True

    def verify(self, request: EventRequest) -> None:
        self.verify_plain(request)

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        event = json_of(request.body)
        if not isinstance(event, dict):
            raise Malformed("the body is no event: set the webhook's output format to JSON")
        return [_event(event)]


def _event(event: Mapping[str, Any]) -> VendorEvent:
    name, time = text(event.get("event")), event.get("time")
    kind = _TYPES.get(name, EventType.UNKNOWN)
    if name == "bounce" and event.get("bounce") == "hard":
        kind = EventType.BOUNCED_HARD
    recipient, message_id = identifier(event.get("rcpt")), identifier(event.get("email_id"))
    # No document says whether the field keeps the spelling that the webhook asked for.
    ours = (value for key, value in event.items() if key.lower() == _ID_HEADER)
    return VendorEvent(
        key=key_of(name, message_id, recipient, time, event.get("url")),
        type=kind,
        at=time_of(time),
        recipient=recipient,
        email_id=identifier(next(ours, None)),
        message_id=message_id,
        code=text(event.get("bounce")),
        detail=brief(text(event.get("message")) or text(event.get("context"))),
        suppress=SUPPRESSION.get(kind),
        lift=kind is EventType.RESUBSCRIBED,
    )
