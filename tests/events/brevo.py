"""Brevo's events."""

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
    # One event, or a batch of them where the webhook is set so.
    return json.dumps(events[0] if len(events) == 1 else list(events)).encode()


def _event(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "event": name,
        "email": ANN,
        "id": 77,
        "message-id": "<m1@smtp-relay.example>",
        "ts_event": 1780000002,
        "ts_epoch": 1780000002123,
        "X-Mailin-custom": json.dumps({"mailqueue_id": EMAIL_ID}),
    } | fields


CASE = EventsCase(
    config={"name": "br", "type": "brevo", "api_key": "k"},
    settings=PLAIN,
    other=PLAIN_OTHER,
    both=PLAIN_BOTH,
    request=plain,
    forgeries=PLAIN_FORGERIES,
    body=_body,
    batch=True,
    away_status=429,
    samples=[
        Sample(
            event=_event("request"),
            type=EventType.QUEUED,
            more={"message_id": "<m1@smtp-relay.example>", "email_id": EMAIL_ID},
        ),
        Sample(event=_event("delivered"), type=EventType.DELIVERED),
        Sample(event=_event("deferred", reason="451"), type=EventType.DEFERRED),
        Sample(event=_event("soft_bounce", reason="452"), type=EventType.BOUNCED_SOFT),
        Sample(
            event=_event("hard_bounce", reason="550 no such user"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "detail": "550 no such user"},
        ),
        Sample(
            event=_event("invalid_email"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced"},
        ),
        Sample(event=_event("blocked"), type=EventType.REJECTED),
        Sample(event=_event("error"), type=EventType.FAILED),
        Sample(
            event={
                "event": "complaint",
                "email": ANN,
                "id": 77,
                "message-id": "m1@smtp-relay.example",
                "ts_event": 1780090000,
            },
            type=EventType.COMPLAINED,
            more={
                "suppress": "complained",
                "message_id": "<m1@smtp-relay.example>",
                "email_id": None,
            },
        ),
        Sample(
            event=_event("unsubscribed"),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(event=_event("unique_opened"), type=EventType.OPENED),
        Sample(event=_event("proxy_open", ts_event=1780000003), type=EventType.OPENED),
        Sample(event=_event("click", link="https://example.org/a"), type=EventType.CLICKED),
        Sample(event=_event("list_addition"), type=EventType.UNKNOWN),
    ],
)
