"""Mailgun's events."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

from mailqueue.vendors.events.source import EventRequest, EventType
from tests.events.case import ANN, EMAIL_ID, NOW, EventsCase, Sample, changed, request

SECRET, OTHER_SECRET = "invented-signing-key", "another-signing-key"
TIME = "1780000000"
# Made with SECRET, TIME and the token.
VECTOR = {
    "timestamp": TIME,
    "token": "0123456789abcdef0123456789abcdef0123456789abcdef01",
    "signature": "2982f931ca4e009b8be84a2bce997b72f793065b9e150684f98c47b3994f11aa",
}


def _signature(event: bytes, secret: str = SECRET) -> dict[str, str]:
    token = sha256(event).hexdigest()[:50]  # a new event has a new token
    right = hmac.digest(secret.encode(), (TIME + token).encode(), "sha256").hex()
    return {"timestamp": TIME, "token": token, "signature": right}


def signed(body: bytes) -> EventRequest:
    """A body that is an object gets its signature inside; any other one cannot have one."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return request(body)
    if isinstance(value, dict):
        body = json.dumps({"signature": _signature(body)} | value).encode()
    return request(body)


def _body(events: Sequence[Any]) -> bytes:
    (event,) = events
    return json.dumps({"event-data": event}).encode()


def _event(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "event": name,
        "id": f"id-of-{name}-{sorted(fields.items())}"[:80],
        "timestamp": 1780000001.5,
        "recipient": ANN,
        "message": {"headers": {"message-id": "68f0@example.org"}},
        "user-variables": {"mailqueue_id": EMAIL_ID},
    } | fields


def _with_signature(changes: Mapping[str, str]) -> Any:
    def forge(original: EventRequest) -> EventRequest:
        value = json.loads(original.body)
        value["signature"] |= changes
        return changed(original, body=json.dumps(value).encode())

    return forge


def _unsigned(original: EventRequest) -> EventRequest:
    value = json.loads(original.body)
    del value["signature"]
    return changed(original, body=json.dumps(value).encode())


CASE = EventsCase(
    config={"name": "mg", "type": "mailgun", "api_key": "k", "domain": "example.org"},
    settings={"secret": SECRET},
    other={"secret": OTHER_SECRET},
    both={"secrets": [OTHER_SECRET, SECRET]},
    request=signed,
    body=_body,
    samples=[
        Sample(
            event=_event("accepted"),
            type=EventType.QUEUED,
            more={"message_id": "<68f0@example.org>", "email_id": EMAIL_ID},
        ),
        Sample(
            event=_event("delivered", **{"delivery-status": {"code": 250}}),
            type=EventType.DELIVERED,
            more={"code": "250"},
        ),
        Sample(
            event=_event("failed", severity="temporary", **{"delivery-status": None}),
            type=EventType.DEFERRED,
        ),
        Sample(
            event=_event(
                "failed",
                severity="permanent",
                reason="bounce",
                **{"delivery-status": {"code": 550}},
            ),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced"},
        ),
        Sample(
            event=_event(
                "failed",
                severity="permanent",
                reason="bounce",
                **{"delivery-status": {"code": 554, "enhanced-code": "5.7.1"}},
            ),
            type=EventType.BOUNCED_HARD,  # for its content: the mailbox is there
        ),
        Sample(
            event=_event(
                "failed",
                severity="permanent",
                reason="suppress-bounce",
                **{"delivery-status": {"code": 605}},
            ),
            type=EventType.REJECTED,
            more={"suppress": "bounced", "by_vendor_list": True},
        ),
        Sample(
            event={
                **_event("rejected", reject={"reason": "content"}),
                "message": {"headers": {"to": ANN, "message-id": "68f0@example.org"}},
                "recipient": None,
            },
            type=EventType.REJECTED,
            more={"code": "content"},
        ),
        Sample(
            event=_event("complained"), type=EventType.COMPLAINED, more={"suppress": "complained"}
        ),
        Sample(event=_event("opened"), type=EventType.OPENED),
        Sample(event=_event("clicked", url="https://example.org/a"), type=EventType.CLICKED),
        Sample(
            event=_event("unsubscribed"),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(event=_event("list_member_uploaded"), type=EventType.UNKNOWN),
    ],
    forgeries={
        "no signature": _unsigned,
        "another token": _with_signature({"token": "0" * 50}),
        "another time": _with_signature({"timestamp": "1780000001"}),
        "half a signature": _with_signature({"signature": "00ff"}),
        "a signature that is no ASCII": _with_signature({"signature": "\xe4\ud800"}),
        "ten hours old": lambda original: changed(original, now=NOW + timedelta(hours=10)),
    },
    vectors=[
        (
            {"secret": SECRET},
            request(json.dumps({"signature": VECTOR, "event-data": _event("accepted")}).encode()),
        )
    ],
)
