"""Mailtrap's events."""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from typing import Any

from mailqueue.vendors.events.source import EventRequest, EventType
from tests.events.case import (
    ANN,
    EMAIL_ID,
    EventsCase,
    Sample,
    changed,
    request,
    with_header,
    without,
)

SECRET, OTHER = "0123456789abcdef0123456789abcdef", "f123456789abcdef0123456789abcdef"


def signed(body: bytes) -> EventRequest:
    right = hmac.digest(SECRET.encode(), body, "sha256").hex()
    return request(body, {"Mailtrap-Signature": right, "Content-Type": "application/json"})


def _body(events: Sequence[Any]) -> bytes:
    return json.dumps({"events": list(events)}).encode()


def _event(name: str, number: int, **fields: Any) -> dict[str, Any]:
    return {
        "event": name,
        "event_id": f"e0000000-0000-4000-8000-0000000000{number:02}",
        "timestamp": 1780000002,
        "email": ANN,
        "message_id": "mt-1",
        "custom_variables": {"mailqueue_id": EMAIL_ID},
    } | fields


CASE = EventsCase(
    config={"name": "mt", "type": "mailtrap", "api_key": "k"},
    settings={"secret": SECRET},
    other={"secret": OTHER},
    both={"secrets": [OTHER, SECRET]},
    request=signed,
    body=_body,
    batch=True,
    samples=[
        Sample(
            event=_event("delivery", 1),
            type=EventType.DELIVERED,
            more={"message_id": "mt-1", "email_id": EMAIL_ID},
        ),
        Sample(
            event=_event("soft bounce", 2, response="451 later", response_code=451),
            type=EventType.DEFERRED,
            more={"code": "451", "detail": "451 later"},
        ),
        Sample(
            event=_event("bounce", 3, response="550", bounce_category="badmailbox"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "code": "badmailbox"},
        ),
        Sample(event=_event("suspension", 4, reason="x"), type=EventType.DEFERRED),
        Sample(event=_event("reject", 5, reason="x"), type=EventType.REJECTED),
        Sample(event=_event("spam", 6), type=EventType.COMPLAINED, more={"suppress": "complained"}),
        Sample(event=_event("open", 7), type=EventType.OPENED),
        Sample(event=_event("click", 8, url="https://example.org/a"), type=EventType.CLICKED),
        Sample(
            event=_event("unsubscribe", 9),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(event=_event("activity_log.created", 10), type=EventType.UNKNOWN),
    ],
    forgeries={
        "no signature": without("mailtrap-signature"),
        "half a signature": with_header("mailtrap-signature", "00ff"),
        "not ASCII": with_header("mailtrap-signature", "\xe4\udcff"),
        "another event": lambda original: changed(
            original, body=original.body.replace(b"mt-1", b"mt-2")
        ),
    },
    vectors=[
        (
            {"secret": SECRET},
            request(
                b'{"events":[{"event":"delivery","event_id":"e-1"}]}',
                {
                    "Mailtrap-Signature": "aa4016e9a26c0148c261a260bd65b3a0f889df4ca0e595264e70e0bd"
                    "2d8e955b"
                },
            ),
        )
    ],
)
