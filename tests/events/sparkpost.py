"""SparkPost's events."""

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

TRANSMISSION = "7200000000000001"


def _body(events: Sequence[Any]) -> bytes:
    return json.dumps([{"msys": {"message_event": event}} for event in events]).encode()


def _event(kind: str, number: int, **fields: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "event_id": f"9200000000000000{number}",
        "timestamp": "1780000002",
        "transmission_id": TRANSMISSION,
        "raw_rcpt_to": ANN,
        "rcpt_to": ANN,
        "rcpt_meta": {"mailqueue_id": EMAIL_ID},
    } | fields


def _bounce(number: int, bounce_class: str, **fields: Any) -> dict[str, Any]:
    return _event("bounce", number, bounce_class=bounce_class, **fields)


CASE = EventsCase(
    config={"name": "sp", "type": "sparkpost", "api_key": "k"},
    settings=PLAIN,
    other=PLAIN_OTHER,
    both=PLAIN_BOTH,
    request=plain,
    forgeries=PLAIN_FORGERIES,
    body=_body,
    batch=True,
    samples=[
        Sample(
            event=_event("injection", 1, transmission_id=int(TRANSMISSION)),
            type=EventType.QUEUED,
            more={"message_id": TRANSMISSION, "email_id": EMAIL_ID},
        ),
        Sample(event=_event("delivery", 2), type=EventType.DELIVERED),
        Sample(event=_event("delay", 3, error_code="452"), type=EventType.DEFERRED),
        Sample(
            event=_bounce(4, "10", error_code="550", raw_reason="550 5.1.1"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "code": "550", "detail": "550 5.1.1"},
        ),
        Sample(
            event=_event("out_of_band", 5, bounce_class="30"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced"},
        ),
        Sample(event=_bounce(6, "51"), type=EventType.BOUNCED_SOFT),
        Sample(event=_bounce(7, "25"), type=EventType.REJECTED),
        Sample(event=_bounce(8, "60"), type=EventType.AUTORESPONDED),
        Sample(event=_bounce(9, "80"), type=EventType.RESUBSCRIBED, more={"lift": True}),
        Sample(
            event=_bounce(10, "90"),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(event=_event("generation_rejection", 11), type=EventType.REJECTED),
        Sample(event=_event("generation_failure", 12), type=EventType.FAILED),
        Sample(
            event=_event("spam_complaint", 13),
            type=EventType.COMPLAINED,
            more={"suppress": "complained"},
        ),
        Sample(event=_event("initial_open", 14), type=EventType.OPENED),
        Sample(
            event=_event("click", 15, target_link_url="https://example.org/a"),
            type=EventType.CLICKED,
        ),
        Sample(
            event=_event("link_unsubscribe", 16),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(event=_event("relay_injection", 17), type=EventType.UNKNOWN),
    ],
)
