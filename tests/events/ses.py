"""Amazon SES's events, over SNS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mailqueue.vendors.events.source import EventRequest, EventSource, EventType
from tests.events.case import ANN, EMAIL_ID, EventsCase, Sample, changed, with_header
from tests.events.sns_topic import CERTIFICATE, END, envelope, with_field

ARN, OTHER_ARN = (f"arn:aws:sns:eu-west-1:000000000000:{name}" for name in ("mq", "other"))
CERTIFICATE_URL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123abcdef.pem"
MESSAGE_ID = "0102-inv-000000"


def signed(body: bytes) -> EventRequest:
    return envelope(body.decode("utf-8", "replace"), ARN, CERTIFICATE_URL)


def prepare(source: EventSource) -> None:
    source.download = {CERTIFICATE_URL: CERTIFICATE}.__getitem__  # type: ignore[attr-defined]  # of an SnsEvents


def _body(events: Sequence[Any]) -> bytes:
    (event,) = events
    return json.dumps(event).encode()


def _event(name: str, **parts: Any) -> dict[str, Any]:
    mail = {
        "timestamp": "2026-05-28T20:26:40.000Z",
        "messageId": MESSAGE_ID,
        "destination": [ANN],
        "tags": {"mailqueue_id": [EMAIL_ID], "ses:configuration-set": ["mq"]},
    }
    return {"eventType": name, "mail": mail} | parts


def _bounce(kind: str, subtype: str, feedback: str, **fields: Any) -> dict[str, Any]:
    person = {"emailAddress": ANN, "status": "5.1.1", "diagnosticCode": "smtp; 550"}
    return _event(
        "Bounce",
        bounce={
            "bounceType": kind,
            "bounceSubType": subtype,
            "feedbackId": feedback,
            "timestamp": "2026-05-28T20:26:43.000Z",
            "bouncedRecipients": [person],
        }
        | fields,
    )


def _complaint(feedback: str, **fields: Any) -> dict[str, Any]:
    return _event(
        "Complaint",
        complaint={
            "complainedRecipients": [{"emailAddress": ANN}],
            "complaintFeedbackType": "abuse",
            "complaintSubType": None,
            "feedbackId": feedback,
            "timestamp": "2026-05-29T20:26:43.000Z",
        }
        | fields,
    )


def _subscription(second: int, preferences: dict[str, Any]) -> dict[str, Any]:
    at = f"2026-05-28T22:00:0{second}.000Z"
    return _event(
        "Subscription", subscription={"timestamp": at, "newTopicPreferences": preferences}
    )


IDENTITY_BOUNCE = {
    "notificationType": "Bounce",
    "bounce": _bounce("Permanent", "General", "fb-identity")["bounce"],
    "mail": {
        "messageId": MESSAGE_ID,
        "headers": [{"name": "X-Mailqueue-Id", "value": EMAIL_ID}],
        "destination": [ANN],
    },
}
CASE = EventsCase(
    config={"name": "ses", "type": "ses", "region": "eu-west-1"},
    settings={"topic_arn": ARN},
    other={"topic_arn": OTHER_ARN},
    both={"topic_arn": ARN, "secret": "of-eventbridge"},
    request=signed,
    body=_body,
    prepare=prepare,
    samples=[
        Sample(
            event=_event("Send", send={}),
            type=EventType.SENT,
            more={"message_id": MESSAGE_ID, "email_id": EMAIL_ID},
        ),
        Sample(
            event=_event(
                "Delivery",
                delivery={
                    "timestamp": "2026-05-28T20:26:42.000Z",
                    "recipients": [ANN],
                    "smtpResponse": "250 ok",
                },
            ),
            type=EventType.DELIVERED,
            more={"detail": "250 ok"},
        ),
        Sample(
            event=_event(
                "DeliveryDelay",
                deliveryDelay={
                    "timestamp": "2026-05-28T20:36:42.000Z",
                    "delayType": "MailboxFull",
                    "delayedRecipients": [{"emailAddress": ANN, "status": "4.2.2"}],
                },
            ),
            type=EventType.DEFERRED,
            more={"code": "4.2.2"},
        ),
        Sample(
            event=_bounce("Permanent", "NoEmail", "fb-1"),
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "code": "5.1.1", "detail": "smtp; 550"},
        ),
        Sample(
            event=IDENTITY_BOUNCE,
            type=EventType.BOUNCED_HARD,
            more={"suppress": "bounced", "email_id": EMAIL_ID},
        ),
        Sample(event=_bounce("Permanent", "Suppressed", "fb-2"), type=EventType.REJECTED),
        Sample(
            event=_bounce("Permanent", "OnAccountSuppressionList", "fb-3"),
            type=EventType.REJECTED,
            more={"suppress": "bounced", "by_vendor_list": True},
        ),
        Sample(event=_bounce("Transient", "MailboxFull", "fb-4"), type=EventType.BOUNCED_SOFT),
        Sample(event=_bounce("Undetermined", "General", "fb-5"), type=EventType.BOUNCED_SOFT),
        Sample(
            event=_complaint("fb-6"),
            type=EventType.COMPLAINED,
            more={"suppress": "complained"},
        ),
        Sample(event=_complaint("fb-7", complaintFeedbackType="not-spam"), type=EventType.UNKNOWN),
        Sample(event=_event("Reject", reject={"reason": "Bad content"}), type=EventType.REJECTED),
        Sample(event=_event("Rendering Failure", failure={}), type=EventType.FAILED),
        Sample(
            event=_event("Open", open={"timestamp": "2026-05-28T21:00:00.000Z"}),
            type=EventType.OPENED,
        ),
        Sample(
            event=_event(
                "Click",
                click={"timestamp": "2026-05-28T21:00:00.000Z", "link": "https://example.org/a"},
            ),
            type=EventType.CLICKED,
            more={"detail": "https://example.org/a"},
        ),
        Sample(
            event=_subscription(0, {"unsubscribeAll": True}),
            type=EventType.UNSUBSCRIBED,
            more={"suppress": "unsubscribed"},
        ),
        Sample(
            event=_subscription(1, {"unsubscribeAll": False}),
            type=EventType.RESUBSCRIBED,
            more={"lift": True},
        ),
        Sample(event=_event("SomethingNew"), type=EventType.UNKNOWN),
    ],
    forgeries={
        "another message": with_field("Message", "{}"),
        "a subject more": with_field("Subject", "Hi"),
        "another topic": with_field("TopicArn", OTHER_ARN),
        "no topic": with_field("TopicArn", None),
        "no signature": with_field("Signature", ""),
        "no base64": with_field("Signature", "?"),
        "another version": with_field("SignatureVersion", "2"),
        "an unknown version": with_field("SignatureVersion", "3"),
        "an unknown type": with_field("Type", "Hello"),
        "a bucket": with_field(
            "SigningCertURL",
            "https://sns-eu-west-1.s3.amazonaws.com/SimpleNotificationService-1.pem",
        ),
        "a path in a bucket": with_field(
            "SigningCertURL", "https://s3.amazonaws.com/sns/SimpleNotificationService-1.pem"
        ),
        "a look-alike": with_field(
            "SigningCertURL",
            "https://sns.eu-west-1.amazonaws.com.example.org/SimpleNotificationService-1.pem",
        ),
        "another port": with_field(
            "SigningCertURL",
            "https://sns.eu-west-1.amazonaws.com:444/SimpleNotificationService-1.pem",
        ),
        "a user": with_field(
            "SigningCertURL",
            "https://sns.eu-west-1.amazonaws.com@example.org/SimpleNotificationService-1.pem",
        ),
        "no TLS": with_field(
            "SigningCertURL",
            "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
        ),
        "a line more": with_field("SigningCertURL", CERTIFICATE_URL + "\n"),
        "raw delivery": with_header("x-amz-sns-rawdelivery", "true"),
        "after the certificate's end": lambda original: changed(original, now=END.replace(month=2)),
    },
)
