"""Mailjet's events."""

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


def _body(events: Sequence[Any]) -> bytes:
    # One event, or a group of them where the webhook is set so.
    return json.dumps(events[0] if len(events) == 1 else list(events)).encode()


def _event(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "event": name,
        "time": 1780000002,
        "MessageID": 9007199254740993,  # no float holds it
        "email": ANN,
        "CustomID": EMAIL_ID,
    } | fields


CASE = EventsCase(
    config={"name": "mj", "type": "mailjet", "api_key": "k", "secret_key": "s"},
    settings=PLAIN,
    other=PLAIN_OTHER,
    both=PLAIN_BOTH,
    request=plain,
    forgeries=PLAIN_FORGERIES,
    body=_body,
    batch=True,
    samples=[
        Sample(
            event=_event("sent", smtp_reply="250 ok"),
            type=EventType.DELIVERED,
            more={"message_id": "9007199254740993", "email_id": EMAIL_ID, "detail": "250 ok"},
        ),
        Sample(
            event=_event("bounce", hard_bounce=True, error="user unknown", comment="550"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "code": "user unknown"},
        ),
        Sample(
            event=_event("bounce", hard_bounce=True, error="relay/access denied"),
            type=EventType.BOUNCED_HARD,
        ),
        Sample(
            event=_event("bounce", hard_bounce=False, error="greylisted"), type=EventType.DEFERRED
        ),
        Sample(
            event=_event("bounce", hard_bounce=False, error="quota exceeded"),
            type=EventType.BOUNCED_SOFT,
        ),
        Sample(event=_event("blocked", error="preblocked"), type=EventType.REJECTED),
        Sample(
            event=_event("spam", source="fbl"),
            type=EventType.COMPLAINED,
            more={"suppress": "complained"},
        ),
        Sample(
            event=_event("unsub", CustomID=None, Payload=json.dumps({"mailqueue_id": EMAIL_ID})),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed", "email_id": EMAIL_ID},
        ),
        Sample(event=_event("open"), type=EventType.OPENED),
        Sample(event=_event("click", url="https://example.org/a"), type=EventType.CLICKED),
        Sample(event=_event("parsed"), type=EventType.UNKNOWN),
    ],
)
