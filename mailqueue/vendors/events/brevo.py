"""Brevo's transactional webhooks: https://developers.brevo.com/docs/transactional-webhooks.

Not signed: user and password in the URL (``basic_auth``), a bearer token or a header of the
webhook's own. ``id`` in an event is the webhook's, so the key is made of what tells events apart.

::

    request                                queued (it also comes before ``blocked``)
    delivered                              delivered
    deferred                               deferred
    soft_bounce                            bounced_soft
    hard_bounce, invalid_email             bounced_hard
    blocked                                rejected, Brevo does not say why
    error                                  failed
    spam, complaint                        complained
    unsubscribe, unsubscribed              unsubscribed
    opened, unique_opened, proxy_open, …   opened
    click                                  clicked
    anything else                          unknown

It throws an event away after any 5xx and each 4xx but 429: so 429 is the answer while nothing can
be stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mailqueue.vendors.events.source import (
    SUPPRESSION,
    EventRequest,
    EventSource,
    EventType,
    VendorEvent,
    brief,
    email_id_in,
    events_of,
    key_of,
    time_of,
)
from mailqueue.vendors.values import identifier, text

_TYPES = {
    "request": EventType.QUEUED,
    "delivered": EventType.DELIVERED,
    "deferred": EventType.DEFERRED,
    "soft_bounce": EventType.BOUNCED_SOFT,
    "hard_bounce": EventType.BOUNCED_HARD,
    "invalid_email": EventType.BOUNCED_HARD,
    "blocked": EventType.REJECTED,
    "error": EventType.FAILED,
    "spam": EventType.COMPLAINED,
    "complaint": EventType.COMPLAINED,
    "unsubscribe": EventType.UNSUBSCRIBED,
    "unsubscribed": EventType.UNSUBSCRIBED,
    "opened": EventType.OPENED,
    "unique_opened": EventType.OPENED,
    "proxy_open": EventType.OPENED,
    "unique_proxy_open": EventType.OPENED,
    "click": EventType.CLICKED,
}


class BrevoEvents(EventSource):
    """The events of one Brevo webhook."""

    lacks_our_id: ClassVar[bool] = True
    away_status: ClassVar[int] = 429

    def verify(self, request: EventRequest) -> None:
        self.verify_plain(request)

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        return [_event(event) for event in events_of(request.body)]


def _event(event: Mapping[str, Any]) -> VendorEvent:
    name, recipient = text(event.get("event")), identifier(event.get("email"))
    kind = _TYPES.get(name, EventType.UNKNOWN)
    message_id = text(event.get("message-id")).strip("<>")
    seconds = event.get("ts_event") or event.get("ts")
    # The first open comes twice: as opened and as unique_opened.
    word = kind if kind is EventType.OPENED else name
    return VendorEvent(
        key=key_of(word, message_id, recipient, seconds, event.get("ts_epoch"), event.get("link")),
        type=kind,
        at=time_of(seconds),
        recipient=recipient,
        email_id=email_id_in(event.get("X-Mailin-custom")),
        message_id=f"<{message_id}>" if message_id else None,
        code=name,
        detail=brief(text(event.get("reason")) or text(event.get("link"))),
        suppress=SUPPRESSION.get(kind),
    )
