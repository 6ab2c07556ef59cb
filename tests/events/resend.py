"""Resend's events."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from mailqueue.vendors.events.source import EventRequest, EventType
from tests.events.case import (
    ANN,
    EMAIL_ID,
    NOW,
    EventsCase,
    Sample,
    changed,
    request,
    with_header,
    without,
)

SECRET = "whsec_aW52ZW50ZWQtc2VjcmV0LW9mLTI0Ynl0"
OTHER = "whsec_" + base64.b64encode(b"another-secret-of-24-byt").decode()
MESSAGE_ID = "11111111-2222-4333-8444-555555555555"
SIGNATURE, STAMP = "svix-signature", "svix-timestamp"
TIME = str(int(NOW.timestamp()) - 200)


def signed(body: bytes) -> EventRequest:
    name = "msg_" + sha256(body).hexdigest()[:10]
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    right = hmac.digest(key, f"{name}.{TIME}.".encode() + body, "sha256")
    value = "v1a,AAAA v1," + base64.b64encode(right).decode()
    return request(body, {"svix-id": name, STAMP: TIME, SIGNATURE: value})


def _body(events: Sequence[Any]) -> bytes:
    (event,) = events
    return json.dumps(event).encode()


def _event(name: str, **data: Any) -> dict[str, Any]:
    common = {"email_id": MESSAGE_ID, "to": [ANN], "tags": {"mailqueue_id": EMAIL_ID}}
    return {"type": name, "created_at": "2026-05-28T20:26:42.000Z", "data": common | data}


CASE = EventsCase(
    config={"name": "re", "type": "resend", "api_key": "k"},
    settings={"secret": SECRET},
    other={"secret": OTHER},
    both={"secrets": [OTHER, SECRET]},
    request=signed,
    body=_body,
    samples=[
        Sample(
            event=_event("email.sent"),
            type=EventType.SENT,
            more={"message_id": MESSAGE_ID, "email_id": EMAIL_ID},
        ),
        Sample(event=_event("email.delivered"), type=EventType.DELIVERED),
        Sample(event=_event("email.delivery_delayed"), type=EventType.DEFERRED),
        Sample(
            event=_event("email.bounced", bounce={"type": "Permanent", "message": "no such user"}),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "detail": "no such user"},
        ),
        Sample(event=_event("email.bounced"), type=EventType.BOUNCED_SOFT),
        Sample(
            event=_event(
                "email.bounced", to=[ANN, "bob@example.net"], bounce={"type": "Permanent"}
            ),
            type=EventType.BOUNCED_HARD,
            more={"recipient": None, "suppress": "bounced"},
        ),
        Sample(
            event=_event("email.suppressed", suppressed={"reason": "previous_bounce"}),
            type=EventType.REJECTED,
            more={"suppress": "bounced", "by_vendor_list": True},
        ),
        Sample(
            event=_event("email.failed", failed={"reason": "reached_daily_quota"}),
            type=EventType.FAILED,
            more={"detail": "reached_daily_quota"},
        ),
        Sample(
            event=_event("email.complained"),
            type=EventType.COMPLAINED,
            more={"suppress": "complained"},
        ),
        Sample(event=_event("email.opened"), type=EventType.OPENED),
        Sample(
            event=_event("email.clicked", click={"link": "https://example.org/a"}),
            type=EventType.CLICKED,
            more={"detail": "https://example.org/a"},
        ),
        Sample(event=_event("contact.created"), type=EventType.UNKNOWN),
    ],
    forgeries={
        "no signature": without(SIGNATURE),
        "no id": without("svix-id"),
        "another id": with_header("svix-id", "msg_2"),
        "another timestamp": with_header(STAMP, str(int(TIME) + 1)),
        "a timestamp that is none": with_header(STAMP, "\xb2"),
        "another version": with_header(SIGNATURE, "v2,AAAA"),
        "a version only": with_header(SIGNATURE, "v1"),
        "written again": lambda original: changed(original, body=original.body + b"\n"),
        "ten minutes old": lambda original: changed(original, now=NOW + timedelta(minutes=10)),
        "from the future": lambda original: changed(original, now=NOW - timedelta(minutes=10)),
    },
    vectors=[
        (
            {"secret": SECRET},
            changed(
                request(
                    b'{"type":"email.delivered","created_at":"2026-05-28T20:26:40.000Z",'
                    b'"data":{"email_id":"11111111-2222-4333-8444-555555555555"}}',
                    {
                        "svix-id": "msg_invented1",
                        STAMP: "1780000000",
                        SIGNATURE: "v1,Rwp+5MYS5Q8DsRBABjJuPsfadISqAscShh69yF/HXT4=",
                    },
                ),
                now=datetime.fromtimestamp(1780000000, UTC),
            ),
        )
    ],
)
