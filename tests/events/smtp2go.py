"""SMTP2GO's events."""

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
    (event,) = events
    return json.dumps(event).encode()


def _event(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "event": name,
        "time": "2026-05-28T20:26:43Z",
        "rcpt": ANN,
        "email_id": "1aaaaa-000000000-bbb",
        "id": "wh1",
        "X-Mailqueue-Id": EMAIL_ID,
    } | fields


CASE = EventsCase(
    config={"name": "s2", "type": "smtp2go", "api_key": "k"},
    settings=PLAIN,
    other=PLAIN_OTHER,
    both=PLAIN_BOTH,
    request=plain,
    forgeries=PLAIN_FORGERIES,
    body=_body,
    samples=[
        Sample(
            event=_event("processed"),
            type=EventType.QUEUED,
            more={"message_id": "1aaaaa-000000000-bbb", "email_id": EMAIL_ID},
        ),
        Sample(event=_event("delivered"), type=EventType.DELIVERED),
        Sample(
            event=_event("bounce", bounce="hard", message="550 no such user"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "detail": "550 no such user"},
        ),
        Sample(
            event=_event("bounce", bounce="soft", time="2026-05-28T20:26:44Z"),
            type=EventType.BOUNCED_SOFT,
        ),
        Sample(event=_event("reject"), type=EventType.REJECTED),
        Sample(event=_event("spam"), type=EventType.COMPLAINED, more={"suppress": "complained"}),
        Sample(
            event={
                **{k: v for k, v in _event("unsubscribe").items() if k != "X-Mailqueue-Id"},
                "x-mailqueue-id": EMAIL_ID,
            },
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed", "email_id": EMAIL_ID},
        ),
        Sample(event=_event("resubscribe"), type=EventType.RESUBSCRIBED, more={"lift": True}),
        Sample(event=_event("open"), type=EventType.OPENED),
        Sample(event=_event("click", url="https://example.org/a"), type=EventType.CLICKED),
        Sample(event=_event("sms_delivered"), type=EventType.UNKNOWN),
    ],
)
