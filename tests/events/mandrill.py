"""Mandrill's events."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

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

SECRET, OTHER = "invented-mandrill-key", "another-mandrill-key"
URL = "https://u:p@hooks.example.org/mandrill?x=1"
SIGNATURE = "x-mandrill-signature"


def signature(events: str, key: str = SECRET) -> str:
    message = f"{URL}mandrill_events{events}".encode("utf-8", "surrogatepass")
    return base64.b64encode(hmac.digest(key.encode(), message, "sha1")).decode()


def signed(body: bytes, key: str = SECRET) -> EventRequest:
    """``body`` is the value of the form's only field."""
    try:
        events = body.decode()
    except UnicodeDecodeError:
        return request(body)
    form = urlencode({"mandrill_events": events}).encode()
    return request(form, {"X-Mandrill-Signature": signature(events, key)})


def _body(events: Sequence[Any]) -> bytes:
    return json.dumps(list(events)).encode()


def _event(name: str, **fields: Any) -> dict[str, Any]:
    message = {"_id": "m1", "email": ANN, "metadata": {"mailqueue_id": EMAIL_ID}}
    extra = fields.pop("msg", {})
    return {"event": name, "_id": "m1", "ts": 1780000001, "msg": message | extra} | fields


def _blacklist(action: str) -> dict[str, Any]:
    entry = {"email": ANN, "reason": "hard-bounce", "detail": "550"}
    return {"type": "blacklist", "action": action, "ts": 1780000004, "reject": entry}


CASE = EventsCase(
    config={"name": "md", "type": "mandrill", "api_key": "k"},
    settings={"secret": SECRET, "url": URL},
    other={"secret": OTHER, "url": URL},
    both={"secrets": [OTHER, SECRET], "url": URL},
    request=signed,
    body=_body,
    batch=True,
    samples=[
        Sample(
            event=_event("send"),
            type=EventType.SENT,
            more={"message_id": "m1", "email_id": EMAIL_ID},
        ),
        Sample(event=_event("delivered"), type=EventType.DELIVERED),
        Sample(
            event=_event("deferral", msg={"smtp_events": [{"diag": "451 later"}]}),
            type=EventType.DEFERRED,
            more={"detail": "451 later"},
        ),
        Sample(
            event=_event("hard_bounce", msg={"bounce_description": "bad_mailbox", "diag": "550"}),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "code": "bad_mailbox", "detail": "550"},
        ),
        Sample(event=_event("soft_bounce"), type=EventType.BOUNCED_SOFT),
        Sample(
            event=_event("reject", msg={"reject": {"reason": "hard-bounce"}}),
            type=EventType.REJECTED,
            more={"suppress": "bounced", "by_vendor_list": True},
        ),
        Sample(
            event=_event("reject", ts=1780000002, msg={"reject": {"reason": "rule"}}),
            type=EventType.REJECTED,
        ),
        Sample(event=_event("spam"), type=EventType.COMPLAINED, more={"suppress": "complained"}),
        Sample(
            event=_event("unsub"),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(event=_event("open"), type=EventType.OPENED),
        Sample(event=_event("click", url="https://example.org/a"), type=EventType.CLICKED),
        Sample(
            event=_blacklist("add"),
            type=EventType.REJECTED,
            more={"suppress": "bounced", "by_vendor_list": True},
        ),
        Sample(event=_blacklist("remove"), type=EventType.RESUBSCRIBED, more={"lift": True}),
        Sample(event=_event("inbound"), type=EventType.UNKNOWN),
    ],
    forgeries={
        "no signature": without(SIGNATURE),
        "another signature": with_header(SIGNATURE, signature("[]")),
        "not ASCII": with_header(SIGNATURE, "\xe4\udcff"),
        "a field more": lambda original: changed(original, body=original.body + b"&a=1"),
        "no form": lambda original: changed(original, body=b"\xff"),
        "the key that everybody knows": lambda original: signed(
            _body([_event("send")]), "test-webhook"
        ),
    },
    vectors=[
        (
            {"secret": SECRET, "url": URL},
            request(
                urlencode(
                    {"mandrill_events": '[{"event":"send","_id":"m1","ts":1780000000}]'}
                ).encode(),
                {SIGNATURE: "UVitFs3W8y3/3tETy7pWmUo46AM="},
            ),
        )
    ],
)
