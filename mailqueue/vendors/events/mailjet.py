"""Mailjet's event webhooks: https://dev.mailjet.com/email/guides/webhooks/.

Not signed: user and password in the URL (``basic_auth``). Each kind of event has an URL of its own,
which may be the same; events may come one by one or grouped.

::

    sent                                   delivered (the recipient's server took it)
    bounce, hard_bounce true               bounced_hard
    bounce, greylisted                     deferred
    bounce, any other                      bounced_soft
    blocked                                rejected
    spam                                   complained
    unsub                                  unsubscribed
    open, click                            opened, clicked
    anything else                          unknown

Anything but 200 is repeated every 30 seconds for a day; then the URL is given up for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mailqueue.vendors.events.source import (
    SUPPRESSION,
    EventRequest,
    EventSource,
    EventType,
    SuppressionReason,
    VendorEvent,
    brief,
    email_id_in,
    events_of,
    key_of,
    time_of,
)
from mailqueue.vendors.values import identifier, text

_TYPES = {
    "sent": EventType.DELIVERED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
    "bounce": EventType.BOUNCED_SOFT,  # hard, or deferred, by its other fields
    "blocked": EventType.REJECTED,
    "spam": EventType.COMPLAINED,
    "unsub": EventType.UNSUBSCRIBED,
}
_NO_MAILBOX = frozenset({"user unknown", "mailbox inactive"})


class MailjetEvents(EventSource):
    """The events of one Mailjet account."""

    def verify(self, request: EventRequest) -> None:
        self.verify_plain(request)

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        return [_event(event) for event in events_of(request.body)]


def _event(event: Mapping[str, Any]) -> VendorEvent:
    name, error = text(event.get("event")), text(event.get("error"))
    recipient, message_id = identifier(event.get("email")), identifier(event.get("MessageID"))
    kind = _TYPES.get(name, EventType.UNKNOWN)
    if name == "bounce" and event.get("hard_bounce") is True:
        kind = EventType.BOUNCED_HARD
    elif name == "bounce" and error == "greylisted":
        kind = EventType.DEFERRED
    details = (event.get("comment"), event.get("smtp_reply"), event.get("url"))
    return VendorEvent(
        key=key_of(name, message_id, recipient, event.get("time"), event.get("url"), error),
        type=kind,
        at=time_of(event.get("time")),
        recipient=recipient,
        email_id=identifier(event.get("CustomID")) or email_id_in(event.get("Payload")),
        message_id=message_id,
        code=error,
        detail=brief(next(filter(None, map(text, details)), "")),
        suppress=_suppress(kind, error),
    )


def _suppress(kind: EventType, error: str) -> SuppressionReason | None:
    """A hard bounce for the sender's content or domain says nothing of the mailbox."""
    if kind is EventType.BOUNCED_HARD and error not in _NO_MAILBOX:
        return None
    return SUPPRESSION.get(kind)
