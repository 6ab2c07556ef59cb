"""Postmark's events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mailqueue.vendors.events.source import EventType
from tests.events.case import (
    ANN,
    EMAIL_ID,
    PLAIN,
    PLAIN_BOTH,
    PLAIN_FORGERIES,
    PLAIN_OTHER,
    EventsCase,
    Sample,
    plain,
)

MESSAGE_ID = "aaaaaaaa-0000-4000-8000-000000000001"


def _body(events: Sequence[Any]) -> bytes:
    (event,) = events
    return json.dumps(event).encode()


def _record(kind: str, **fields: Any) -> dict[str, Any]:
    who = "Email" if kind in ("Bounce", "SpamComplaint") else "Recipient"
    common = {"RecordType": kind, "MessageID": MESSAGE_ID, who: ANN}
    return common | {"Metadata": {"mailqueue_id": EMAIL_ID}} | fields


def _bounce(kind: str, **fields: Any) -> dict[str, Any]:
    at = "2026-05-28T20:26:42Z"
    return _record("Bounce", Type=kind, ID=42000001, BouncedAt=at, Details="550", **fields)


def _change(reason: str | None, *, suppress: bool, at: str) -> dict[str, Any]:
    return _record(
        "SubscriptionChange", SuppressSending=suppress, SuppressionReason=reason, ChangedAt=at
    )


BOUNCES = {
    "SoftBounce": EventType.BOUNCED_SOFT,
    "Transient": EventType.DEFERRED,
    "DnsError": EventType.DEFERRED,
    "Blocked": EventType.REJECTED,
    "DMARCPolicy": EventType.REJECTED,
    "SpamNotification": EventType.REJECTED,
    "AutoResponder": EventType.AUTORESPONDED,
    "SMTPApiError": EventType.FAILED,
    "InboundError": EventType.UNKNOWN,
}
CASE = EventsCase(
    config={"name": "pm", "type": "postmark", "api_key": "k"},
    settings=PLAIN,
    other=PLAIN_OTHER,
    both=PLAIN_BOTH,
    request=plain,
    forgeries=PLAIN_FORGERIES,
    body=_body,
    samples=[
        Sample(
            event=_record("Delivery", DeliveredAt="2026-05-28T20:26:41.1234567Z"),
            type=EventType.DELIVERED,
            more={"message_id": MESSAGE_ID, "email_id": EMAIL_ID},
        ),
        Sample(
            event=_bounce("HardBounce"), type=EventType.BOUNCED_HARD, more={"suppress": "bounced"}
        ),
        Sample(
            event=_bounce("BadEmailAddress"), type=EventType.REJECTED, more={"suppress": "bounced"}
        ),
        *[Sample(event=_bounce(kind), type=type_) for kind, type_ in BOUNCES.items()],
        Sample(
            event=_record("SpamComplaint", BouncedAt="2026-05-29T20:26:42Z", TypeCode=512),
            type=EventType.COMPLAINED,
            more={"suppress": "complained"},
        ),
        Sample(
            event=_change("ManualSuppression", suppress=True, at="2026-05-29T20:26:43Z"),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(
            event=_change("HardBounce", suppress=True, at="2026-05-29T20:26:44Z"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "by_vendor_list": True},
        ),
        Sample(
            event=_change(None, suppress=False, at="2026-05-29T20:26:45Z"),
            type=EventType.RESUBSCRIBED,
            more={"lift": True},
        ),
        Sample(event=_record("Open", ReceivedAt="2026-05-28T21:00:00Z"), type=EventType.OPENED),
        Sample(
            event=_record(
                "Click", ReceivedAt="2026-05-28T21:00:00Z", OriginalLink="https://example.org/a"
            ),
            type=EventType.CLICKED,
            more={"detail": "https://example.org/a"},
        ),
    ],
)
