"""Postmark's webhooks: https://postmarkapp.com/developer/webhooks/webhooks-overview.

Not signed: the URL's user and password (``basic_auth``), or a header of the webhook's own
(``X-Mailqueue-Secret``). Each message stream has its own webhooks.

::

    Delivery                                                  delivered
    Bounce: HardBounce                                        bounced_hard
    Bounce: SoftBounce, VirusNotification                     bounced_soft
    Bounce: Transient, DnsError, OpenRelayTest                deferred
    Bounce: BadEmailAddress, Blocked, DMARCPolicy,
            ManuallyDeactivated, Unconfirmed,
            SpamNotification (a filter's, no person's)        rejected
    Bounce: AutoResponder, AddressChange,
            ChallengeVerification                             autoresponded
    Bounce: SMTPApiError, TemplateRenderingFailed             failed
    Bounce: Unsubscribe, Subscribe                            unsubscribed, resubscribed
    SpamComplaint                                             complained
    SubscriptionChange                                        by SuppressSending and its reason
    Open, Click                                               opened, clicked
    anything else                                             unknown

It repeats after 5xx, 408, 429 and time-outs, for at least 72 minutes. Any other 4xx ends the event.
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
    event_of,
    key_of,
    time_of,
)
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.values import identifier, mapping, text

_RECORDS = {
    "Delivery": EventType.DELIVERED,
    "SpamComplaint": EventType.COMPLAINED,
    "Open": EventType.OPENED,
    "Click": EventType.CLICKED,
}
_BOUNCES = {
    "HardBounce": EventType.BOUNCED_HARD,
    "SoftBounce": EventType.BOUNCED_SOFT,
    "VirusNotification": EventType.BOUNCED_SOFT,
    "Transient": EventType.DEFERRED,
    "DnsError": EventType.DEFERRED,
    "OpenRelayTest": EventType.DEFERRED,
    "BadEmailAddress": EventType.REJECTED,
    "Blocked": EventType.REJECTED,
    "DMARCPolicy": EventType.REJECTED,
    "ManuallyDeactivated": EventType.REJECTED,
    "Unconfirmed": EventType.REJECTED,
    "SpamNotification": EventType.REJECTED,
    "SpamComplaint": EventType.COMPLAINED,
    "AutoResponder": EventType.AUTORESPONDED,
    "AddressChange": EventType.AUTORESPONDED,
    "ChallengeVerification": EventType.AUTORESPONDED,
    "SMTPApiError": EventType.FAILED,
    "TemplateRenderingFailed": EventType.FAILED,
    "Unsubscribe": EventType.UNSUBSCRIBED,
    "Subscribe": EventType.RESUBSCRIBED,
}
_CHANGES = {  # of a subscription, by the reason to suppress
    "HardBounce": EventType.BOUNCED_HARD,
    "SpamComplaint": EventType.COMPLAINED,
}
_TIMES = ("DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt")


class PostmarkEvents(EventSource):
    """The events of one message stream, or of several with the same secret."""

    def verify(self, request: EventRequest) -> None:
        self.verify_plain(request)

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        event = event_of(request.body)
        return [_event(event, request.headers.get("x-pm-webhook-trace-id", ""))]


def _event(event: Mapping[str, Any], trace: str) -> VendorEvent:
    record, kind = text(event.get("RecordType")), _type(event)
    recipient = identifier(event.get("Recipient")) or identifier(event.get("Email"))
    message_id = identifier(event.get("MessageID"))
    time = next((text(event.get(name)) for name in _TIMES if event.get(name)), "")
    # The trace is the same in each repeat; Postmark does not send it everywhere yet.
    own_key = trace and key_of(trace)
    change = record == "SubscriptionChange"
    return VendorEvent(
        key=own_key or key_of(record, message_id, recipient, time, event.get("Type")),
        type=kind,
        at=time_of(time),
        recipient=recipient,
        email_id=identifier(mapping(event.get("Metadata")).get(ID_KEY)),
        message_id=message_id,
        code=text(event.get("Type")) or text(event.get("SuppressionReason")),
        detail=brief(text(event.get("Details")) or text(event.get("OriginalLink"))),
        suppress=_suppress(kind, event),
        by_vendor_list=change and kind is not EventType.UNSUBSCRIBED and not _lifts(kind),
        lift=_lifts(kind),
    )


def _type(event: Mapping[str, Any]) -> EventType:
    record = text(event.get("RecordType"))
    if record == "Bounce":
        return _BOUNCES.get(text(event.get("Type")), EventType.UNKNOWN)
    if record == "SubscriptionChange":
        if event.get("SuppressSending") is not True:
            return EventType.RESUBSCRIBED
        reason = text(event.get("SuppressionReason"))
        return _CHANGES.get(reason, EventType.UNSUBSCRIBED)
    return _RECORDS.get(record, EventType.UNKNOWN)


def _suppress(kind: EventType, event: Mapping[str, Any]) -> SuppressionReason | None:
    if event.get("Type") == "BadEmailAddress":
        return "bounced"
    return SUPPRESSION.get(kind)


def _lifts(kind: EventType) -> bool:
    return kind is EventType.RESUBSCRIBED
