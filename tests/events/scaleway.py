"""Scaleway's events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mailqueue.vendors.events.scaleway import _CHAINS
from mailqueue.vendors.events.source import EventRequest, EventSource, EventType
from tests.events.case import ANN, EMAIL_ID, EventsCase, Sample
from tests.events.sns_topic import AUTHORITY, CERTIFICATE, STRANGERS, envelope, with_field

ARN, OTHER_ARN = (f"arn:scw:sns:fr-par:project-{name}:mq" for name in ("a", "b"))
CERTIFICATE_URL = "https://messaging.s3.fr-par.scw.cloud/fr-par/sns/topic-2026.pem"
STRANGERS_URL = "https://messaging.s3.fr-par.scw.cloud/fr-par/sns/strangers.pem"
FILES = {
    CERTIFICATE_URL: CERTIFICATE,
    STRANGERS_URL: STRANGERS,
    **dict.fromkeys(_CHAINS, AUTHORITY),
}


def signed(body: bytes) -> EventRequest:
    return envelope(body.decode("utf-8", "replace"), ARN, CERTIFICATE_URL)


def prepare(source: EventSource) -> None:
    source.download = FILES.__getitem__  # type: ignore[attr-defined]  # of an SnsEvents


def _body(events: Sequence[Any]) -> bytes:
    (event,) = events
    return json.dumps(event).encode()


def _event(number: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"a{number}",
        "type": kind,
        "created_at": "2026-05-28T20:26:42Z",
        "email_id": "e-ann",
        "email_to": ANN,
        "email_headers": [{"key": "x-mailqueue-id", "value": EMAIL_ID}],
    } | fields


CASE = EventsCase(
    config={
        "name": "sw",
        "type": "scaleway",
        "secret_key": "k",
        "project_id": "p",
        "region": "fr-par",
    },
    settings={"topic_arn": ARN},
    other={"topic_arn": OTHER_ARN},
    both={"topic_arn": ARN},
    request=signed,
    body=_body,
    prepare=prepare,
    samples=[
        Sample(
            event=_event(1, "email_queued"),
            type=EventType.QUEUED,
            more={"message_id": "e-ann", "email_id": EMAIL_ID},
        ),
        Sample(
            event=_event(2, "email_delivered", email_response_code=250),
            type=EventType.DELIVERED,
            more={"code": "250"},
        ),
        Sample(event=_event(3, "email_deferred", email_response_code=451), type=EventType.DEFERRED),
        Sample(
            event=_event(4, "email_mailbox_not_found", email_response_code=550),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced"},
        ),
        Sample(
            event=_event(5, "email_dropped", email_response_code=554), type=EventType.BOUNCED_HARD
        ),
        Sample(event=_event(6, "email_dropped"), type=EventType.BOUNCED_SOFT),
        Sample(event=_event(7, "email_spam"), type=EventType.REJECTED),
        Sample(event=_event(8, "email_blocklisted", email_id=None), type=EventType.REJECTED),
        Sample(
            event={
                "id": "a9",
                "type": "blocklist_created",
                "created_at": "2026-05-28T20:26:44Z",
                "blocklist_id": "b1",
                "blocklist_type": "mailbox_not_found",
                "blocklist_reason": "550",
            },
            type=EventType.REJECTED,
            more={"suppress": "bounced", "by_vendor_list": True, "recipient": None},
        ),
        Sample(event=_event(10, "unknown_type"), type=EventType.UNKNOWN),
    ],
    forgeries={
        "another message": with_field("Message", "{}"),
        "another topic": with_field("TopicArn", OTHER_ARN),
        "no signature": with_field("Signature", ""),
        "the newer version": with_field("SignatureVersion", "2"),
        "a certificate of another authority": with_field("SigningCertURL", STRANGERS_URL),
        "a certificate of Amazon's": with_field(
            "SigningCertURL",
            "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123abcdef.pem",
        ),
        "a look-alike": with_field(
            "SigningCertURL", "https://messaging.s3.fr-par.scw.cloud.example.org/a.pem"
        ),
        "a way out of the folder": with_field(
            "SigningCertURL", "https://messaging.s3.fr-par.scw.cloud/../../bucket/a.pem"
        ),
    },
)
