"""MailerSend's webhooks: https://developers.mailersend.com/api/v1/webhooks.html.

Signed: an HMAC-SHA256 over the body as it came, in hexadecimal digits, with the webhook's signing
secret. There is no timestamp: repeats are known by ``data.id``. Its test event is signed with a
secret that everybody knows: it is answered, and does nothing.

::

    activity.sent, delivered               sent, delivered
    activity.deferred                      deferred
    activity.soft_bounced, hard_bounced    bounced_soft, bounced_hard
    activity.opened, opened_unique         opened
    activity.clicked, clicked_unique       clicked
    activity.unsubscribed                  unsubscribed
    activity.spam_complaint                complained
    recipient.on_hold_added, _removed      rejected, resubscribed
    anything else                          unknown

Two versions of the body are in use: in the older one, ``data.email`` is an object. It repeats for
three days what is not answered with 2xx; answer within three seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mailqueue.vendors.events.signatures import verify_hex
from mailqueue.vendors.events.source import (
    LONGEST_UNPROVEN,
    SUPPRESSION,
    Answer,
    EventRequest,
    EventSource,
    EventType,
    Malformed,
    VendorEvent,
    brief,
    event_of,
    json_of,
    key_of,
    time_of,
)
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.values import identifier, mapping, text

_TYPES = {
    "activity.sent": EventType.SENT,
    "activity.delivered": EventType.DELIVERED,
    "activity.deferred": EventType.DEFERRED,
    "activity.soft_bounced": EventType.BOUNCED_SOFT,
    "activity.hard_bounced": EventType.BOUNCED_HARD,
    "activity.opened": EventType.OPENED,
    "activity.opened_unique": EventType.OPENED,
    "activity.clicked": EventType.CLICKED,
    "activity.clicked_unique": EventType.CLICKED,
    "activity.unsubscribed": EventType.UNSUBSCRIBED,
    "activity.spam_complaint": EventType.COMPLAINED,
    "recipient.on_hold_added": EventType.REJECTED,
    "recipient.on_hold_removed": EventType.RESUBSCRIBED,
}
_TWICE = (EventType.OPENED, EventType.CLICKED)  # the first one comes as ..._unique, too
_OUR_TAG = f"{ID_KEY}:"


class MailerSendEvents(EventSource):
    """The events of one MailerSend webhook."""

    longest: ClassVar[int] = LONGEST_UNPROVEN

    def greet(self, request: EventRequest) -> Answer | None:
        if request.method == "POST" and b"webhook.test" in request.body[:200]:
            try:
                if mapping(json_of(request.body)).get("type") == "webhook.test":
                    return Answer()
            except Malformed:
                return None
        return super().greet(request)

    def verify(self, request: EventRequest) -> None:
        verify_hex(self.secrets, request.body, request.headers.get("signature", ""))

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        event = event_of(request.body)
        return [_event(event)]


def _event(event: Mapping[str, Any]) -> VendorEvent:
    kind, data = _TYPES.get(text(event.get("type")), EventType.UNKNOWN), mapping(event.get("data"))
    email, meta = mapping(data.get("email")), mapping(data.get("meta"))
    older = mapping(data.get("morph"))
    recipient = (
        identifier(mapping(email.get("recipient")).get("email"))
        or identifier(data.get("recipient"))
        or identifier(data.get("email"))
    )
    message_id = identifier(mapping(email.get("message")).get("id")) or identifier(
        data.get("message_id")
    )
    time, url = event.get("created_at"), text(meta.get("url")) or text(older.get("url"))
    key = identifier(data.get("id"))
    if kind in _TWICE or key is None:
        key = key_of(
            kind, event.get("type") if key is None else "", message_id, recipient, time, url
        )
    return VendorEvent(
        key=key,
        type=kind,
        at=time_of(time),
        recipient=recipient,
        email_id=_email_id(email.get("tags")) or _email_id(data.get("tags")),
        message_id=message_id,
        code=identifier(meta.get("bounce_code")) or text(older.get("reason")),
        detail=brief(text(meta.get("bounce_reason")) or text(older.get("readable_reason")) or url),
        suppress="bounced" if kind is EventType.REJECTED else SUPPRESSION.get(kind),
        by_vendor_list=kind is EventType.REJECTED,
        lift=kind is EventType.RESUBSCRIBED,
    )


def _email_id(tags: Any) -> str | None:
    """Our id is one of the tags."""
    ours = [tag for tag in tags if text(tag).startswith(_OUR_TAG)] if isinstance(tags, list) else []
    return ours[0].removeprefix(_OUR_TAG) if ours else None
