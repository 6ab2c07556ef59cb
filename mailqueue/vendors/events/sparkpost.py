"""SparkPost's webhooks: https://developers.sparkpost.com/api/webhooks/.

Not signed: HTTP Basic (``basic_auth``) or a header of the webhook's own. OAuth 2 is not supported.

::

    injection                              queued
    delivery                               delivered
    delay                                  deferred
    bounce, out_of_band                    by the class of the bounce:
       10, 30                              bounced_hard
       25, 26                              rejected
       60, 100                             autoresponded
       80, 90                              resubscribed, unsubscribed
       any other                           bounced_soft
    policy_rejection, generation_rejection rejected
    generation_failure                     failed
    spam_complaint                         complained
    list_unsubscribe, link_unsubscribe     unsubscribed
    open, initial_open, amp_open, …        opened
    click, amp_click                       clicked
    anything else                          unknown

Anything but 200 is repeated for eight hours; its time-out is ten seconds. Batches come from several
servers in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    "injection": EventType.QUEUED,
    "delivery": EventType.DELIVERED,
    "delay": EventType.DEFERRED,
    "policy_rejection": EventType.REJECTED,
    "generation_rejection": EventType.REJECTED,
    "generation_failure": EventType.FAILED,
    "spam_complaint": EventType.COMPLAINED,
    "list_unsubscribe": EventType.UNSUBSCRIBED,
    "link_unsubscribe": EventType.UNSUBSCRIBED,
    "open": EventType.OPENED,
    "initial_open": EventType.OPENED,
    "amp_open": EventType.OPENED,
    "amp_initial_open": EventType.OPENED,
    "click": EventType.CLICKED,
    "amp_click": EventType.CLICKED,
}
_CLASSES = {
    **dict.fromkeys(("10", "30"), EventType.BOUNCED_HARD),
    **dict.fromkeys(("25", "26"), EventType.REJECTED),
    **dict.fromkeys(("60", "100"), EventType.AUTORESPONDED),
    "80": EventType.RESUBSCRIBED,
    "90": EventType.UNSUBSCRIBED,
}


class SparkPostEvents(EventSource):
    """The events of one SparkPost webhook."""

    def verify(self, request: EventRequest) -> None:
        self.verify_plain(request)

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        batch = json_of(request.body)
        if not isinstance(batch, list):
            raise Malformed("the body is no list of events")
        classes = [mapping(entry.get("msys")) for entry in mappings(batch)]
        # An object with no class in it is SparkPost's ping.
        return [_event(mapping(event)) for entry in classes for event in entry.values()]


def _event(event: Mapping[str, Any]) -> VendorEvent:
    name, bounce_class = text(event.get("type")), identifier(event.get("bounce_class")) or ""
    kind = _TYPES.get(name, EventType.UNKNOWN)
    if name in ("bounce", "out_of_band"):
        kind = _CLASSES.get(bounce_class, EventType.BOUNCED_SOFT)
    recipient = identifier(event.get("raw_rcpt_to")) or identifier(event.get("rcpt_to"))
    message_id = identifier(event.get("transmission_id"))
    key = identifier(event.get("event_id"))
    if kind is EventType.OPENED:  # the first one comes twice: as open and as initial_open
        key = None
    return VendorEvent(
        key=key or key_of(kind, message_id, recipient, event.get("timestamp")),
        type=kind,
        at=time_of(event.get("timestamp")),
        recipient=recipient,
        email_id=identifier(mapping(event.get("rcpt_meta")).get(ID_KEY)),
        message_id=message_id,
        code=identifier(event.get("error_code")) or bounce_class,
        detail=brief(text(event.get("raw_reason")) or text(event.get("target_link_url"))),
        suppress=SUPPRESSION.get(kind),
        lift=kind is EventType.RESUBSCRIBED,
    )
