"""SendGrid's events."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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

SIGNATURE = "x-twilio-email-event-webhook-signature"
TIMESTAMP = "x-twilio-email-event-webhook-timestamp"
TIME = "1780000010"
KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
MESSAGE_ID = "aBcDeFgHiJkLmNoPqRsTuV"


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def signed(body: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> EventRequest:
    signature = key.sign(TIME.encode() + body, ec.ECDSA(hashes.SHA256()))
    encoded = base64.b64encode(signature).decode()
    return request(body, {SIGNATURE: encoded, TIMESTAMP: TIME})


def _body(events: Sequence[Any]) -> bytes:
    return json.dumps(list(events)).encode() + b"\r\n"


def _event(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "event": name,
        "sg_event_id": f"id-of-{name}-{len(fields)}",
        "timestamp": 1780000003,
        "email": ANN,
        "sg_message_id": f"{MESSAGE_ID}.filter0001.2.3",
        "mailqueue_id": EMAIL_ID,
    } | fields


OWN_LIST = {"suppress": "bounced", "by_vendor_list": True}
CASE = EventsCase(
    config={"name": "sg", "type": "sendgrid", "api_key": "k"},
    settings={"secret": _public(KEY)},
    other={"secret": _public(OTHER_KEY)},
    both={"secrets": [_public(OTHER_KEY), _public(KEY)]},
    request=signed,
    body=_body,
    batch=True,
    samples=[
        Sample(
            event=_event("processed", sg_message_id=f"{MESSAGE_ID}.recvd-7f-1-6A-3.0"),
            type=EventType.QUEUED,
            more={"message_id": MESSAGE_ID, "email_id": EMAIL_ID},
        ),
        Sample(event=_event("delivered", response="250 ok"), type=EventType.DELIVERED),
        Sample(event=_event("deferred", response="451", attempt="2"), type=EventType.DEFERRED),
        Sample(
            event=_event("bounce", type="bounce", status="5.1.1", reason="550 no such user"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "code": "5.1.1", "detail": "550 no such user"},
        ),
        Sample(
            event=_event("bounce", type="blocked", sg_event_id="b2"), type=EventType.BOUNCED_SOFT
        ),
        Sample(
            event=_event("bounce", type="expired", sg_event_id="b3"), type=EventType.BOUNCED_SOFT
        ),
        Sample(
            event=_event("dropped", reason="Bounced Address"),
            type=EventType.REJECTED,
            more=OWN_LIST,
        ),
        Sample(
            event=_event("dropped", reason="Spam Content", sg_event_id="d2"),
            type=EventType.REJECTED,
        ),
        Sample(
            event=_event("spamreport"), type=EventType.COMPLAINED, more={"suppress": "complained"}
        ),
        Sample(event=_event("open"), type=EventType.OPENED),
        Sample(
            event=_event("click", url="https://example.org/a"),
            type=EventType.CLICKED,
            more={"detail": "https://example.org/a"},
        ),
        Sample(
            event=_event("unsubscribe"),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(
            event=_event("group_unsubscribe", asm_group_id=7),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(
            event=_event("group_resubscribe", asm_group_id=7),
            type=EventType.RESUBSCRIBED,
            more={"lift": True},
        ),
        Sample(
            event={
                "event": "bounce",
                "type": "bounce",
                "sg_event_id": "late",
                "timestamp": 1780050000,
                "email": ANN,
                "sg_message_id": "",
            },
            type=EventType.BOUNCED_HARD,
            more={"email_id": None, "message_id": None, "suppress": "bounced"},
        ),
        Sample(event=_event("account_status_change"), type=EventType.UNKNOWN),
    ],
    forgeries={
        "no signature": without(SIGNATURE),
        "no timestamp": without(TIMESTAMP),
        "another timestamp": with_header(TIMESTAMP, "1780000011"),
        "the line end is gone": lambda original: changed(original, body=original.body.strip()),
        "no base64": with_header(SIGNATURE, "?"),
        "no signature in base64": with_header(SIGNATURE, "AAAA"),
        "not ASCII": with_header(TIMESTAMP, "\xb2"),
    },
)
