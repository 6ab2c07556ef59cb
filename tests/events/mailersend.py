"""MailerSend's events."""

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

SECRET, OTHER = "invented-ms-secret", "another-ms-secret"
MESSAGE_ID = "6800000000000000000000m1"


def signed(body: bytes) -> EventRequest:
    right = hmac.digest(SECRET.encode(), body, "sha256").hex()
    return request(body, {"Signature": right})


def _body(events: Sequence[Any]) -> bytes:
    (event,) = events
    return json.dumps(event).replace("/", "\\/").encode()


def _event(name: str, number: int, **data: Any) -> dict[str, Any]:
    common = {
        "id": f"aaaaaaaaaaaaaaaaaaaaaa{number:02}",
        "message_id": MESSAGE_ID,
        "email_id": "e1",
        "recipient": ANN,
        "tags": ["other", f"mailqueue_id:{EMAIL_ID}"],
    }
    return {
        "type": f"activity.{name}",
        "created_at": "2026-05-28T20:26:42.000000Z",
        "data": common | data,
    }


OLDER = {
    "type": "activity.delivered",
    "created_at": "2026-05-28T20:26:42.000000Z",
    "data": {
        "id": "aaaaaaaaaaaaaaaaaaaaaa01",
        "type": "delivered",
        "email": {
            "id": "e1",
            "tags": [f"mailqueue_id:{EMAIL_ID}"],
            "message": {"id": MESSAGE_ID},
            "recipient": {"email": ANN},
        },
        "morph": None,
    },
}
VECTOR = rb'{"type":"activity.delivered","url":"https:\/\/hooks.example.org\/ms"}'
CASE = EventsCase(
    config={"name": "ms", "type": "mailersend", "api_key": "k"},
    settings={"secret": SECRET},
    other={"secret": OTHER},
    both={"secrets": [OTHER, SECRET]},
    request=signed,
    body=_body,
    samples=[
        Sample(
            event=OLDER,
            type=EventType.DELIVERED,
            more={"message_id": MESSAGE_ID, "email_id": EMAIL_ID},
        ),
        Sample(
            event=_event("sent", 2),
            type=EventType.SENT,
            more={"message_id": MESSAGE_ID, "email_id": EMAIL_ID},
        ),
        Sample(event=_event("deferred", 3, meta=None), type=EventType.DEFERRED),
        Sample(
            event=_event("hard_bounced", 4, meta={"bounce_code": "550", "bounce_reason": "no"}),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "code": "550", "detail": "no"},
        ),
        Sample(event=_event("soft_bounced", 5, tags=[]), type=EventType.BOUNCED_SOFT),
        Sample(
            event=_event("spam_complaint", 6, meta=[]),
            type=EventType.COMPLAINED,
            more={"suppress": "complained"},
        ),
        Sample(event=_event("opened_unique", 7), type=EventType.OPENED),
        Sample(
            event=_event("clicked", 8, meta={"url": "https://example.org/a"}),
            type=EventType.CLICKED,
            more={"detail": "https://example.org/a"},
        ),
        Sample(
            event=_event("unsubscribed", 9),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(
            event=_event("x", 10) | {"type": "recipient.on_hold_added"},
            type=EventType.REJECTED,
            more={"suppress": "bounced", "by_vendor_list": True},
        ),
        Sample(
            event=_event("x", 11) | {"type": "recipient.on_hold_removed"},
            type=EventType.RESUBSCRIBED,
            more={"lift": True},
        ),
        Sample(event=_event("survey_opened", 12), type=EventType.UNKNOWN),
    ],
    forgeries={
        "no signature": without("signature"),
        "half a signature": with_header("signature", "00ff"),
        "not ASCII": with_header("signature", "\xe4\udcff"),
        "written again": lambda original: changed(
            original, body=json.dumps(json.loads(original.body)).encode() + b" "
        ),
    },
    vectors=[
        (
            {"secret": SECRET},
            request(
                VECTOR,
                {"Signature": "66ae005aa4256c84c46e1d48b9a660e7c5e72a968f25dd8311dbb7b0527998ab"},
            ),
        )
    ],
)
