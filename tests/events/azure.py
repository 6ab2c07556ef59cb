"""Azure's events."""

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

OPERATION = "68f0c0ff-ee00-8000-8000-00000000a001"  # EMAIL_ID as a UUID


def _body(events: Sequence[Any]) -> bytes:
    return json.dumps(list(events)).encode()


def _event(number: int, kind: str, **data: Any) -> dict[str, Any]:
    return {
        "id": f"g{number}",
        "eventType": f"Microsoft.Communication.{kind}",
        "eventTime": "2026-05-28T20:28:40.1234567Z",
        "data": {"messageId": OPERATION, "recipient": ANN, **data},
    }


def _report(number: int, status: str, **data: Any) -> dict[str, Any]:
    return _event(number, "EmailDeliveryReportReceived", status=status, **data)


CASE = EventsCase(
    config={
        "name": "az",
        "type": "azure",
        "access_key": "aw==",
        "base_url": "https://x.communication.azure.com",
    },
    settings=PLAIN,
    other=PLAIN_OTHER,
    both=PLAIN_BOTH,
    request=plain,
    forgeries=PLAIN_FORGERIES,
    body=_body,
    batch=True,
    samples=[
        Sample(
            event=_report(
                1, "Delivered", deliveryAttemptTimeStamp="2026-05-28T20:26:42.9900000+00:00"
            ),
            type=EventType.DELIVERED,
            more={"message_id": OPERATION, "email_id": EMAIL_ID},
        ),
        Sample(
            event=_report(2, "Bounced", deliveryStatusDetails={"statusMessage": "550"}),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "detail": "550"},
        ),
        Sample(
            event=_report(3, "Suppressed"),
            type=EventType.REJECTED,
            more={"suppress": "bounced", "by_vendor_list": True},
        ),
        Sample(event=_report(4, "Quarantined"), type=EventType.REJECTED),
        Sample(event=_report(5, "FilteredSpam"), type=EventType.REJECTED),
        Sample(event=_report(6, "Failed"), type=EventType.FAILED),
        Sample(event=_report(7, "Expanded"), type=EventType.SENT),
        Sample(event=_report(8, "SomethingNew"), type=EventType.UNKNOWN),
        Sample(
            event=_report(11, "Delivered", messageId="33333333-3333-4333-8333-333333333333"),
            type=EventType.DELIVERED,
            more={"email_id": None},
        ),
        Sample(
            event=_event(9, "EmailEngagementTrackingReportReceived", engagementType="view"),
            type=EventType.OPENED,
        ),
        Sample(
            event=_event(
                10,
                "EmailEngagementTrackingReportReceived",
                engagementType="click",
                engagementContext="https://example.org/a",
            ),
            type=EventType.CLICKED,
            more={"detail": "https://example.org/a"},
        ),
    ],
)
