"""Amazon SES's events, over SNS or EventBridge.

Source: https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html.

Over SNS (``topic_arn``) they are signed: see ``sns``. Over EventBridge they are not, and the API
destination's connection sends ``basic_auth`` or a secret. Events have our id only if the vendor's
``configuration_set`` publishes them; notifications of an identity have SES's id alone.

::

    Send                                   sent
    Delivery                               delivered
    DeliveryDelay                          deferred
    Bounce, Permanent                      bounced_hard
    the same, Suppressed                   rejected: AWS's list of all its customers
    the same, OnAccountSuppressionList     rejected: the account's own list
    Bounce, Transient or Undetermined      bounced_soft (SES does not try again)
    Complaint                              complained; not-spam: unknown
    Reject                                 rejected
    Rendering Failure                      failed
    Open, Click                            opened, clicked
    Subscription                           unsubscribed, resubscribed
    anything else                          unknown

A complaint that names several people does not know which of them complained: SES lists all of one
domain. SNS repeats three times within a minute what is answered with 5xx, and never after a 4xx:
give the subscription a longer policy and a dead-letter queue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from mailqueue.vendors.events.sns import SnsEvents
from mailqueue.vendors.events.source import (
    SUPPRESSION,
    Answer,
    EventRequest,
    EventType,
    Malformed,
    SuppressionReason,
    VendorEvent,
    brief,
    event_of,
    json_of,
    key_of,
    time_of,
)
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.values import first, identifier, mapping, mappings, text

_HOST = r"https://sns\.[a-z0-9-]{3,}\.amazonaws\.com(?:\.cn)?"
_ID_HEADER = "x-mailqueue-id"
_TYPES = {
    "Send": EventType.SENT,
    "Delivery": EventType.DELIVERED,
    "DeliveryDelay": EventType.DEFERRED,
    "Bounce": EventType.BOUNCED_SOFT,  # hard or rejected by its types
    "Complaint": EventType.COMPLAINED,
    "Reject": EventType.REJECTED,
    "Rendering Failure": EventType.FAILED,
    "Open": EventType.OPENED,
    "Click": EventType.CLICKED,
    "Subscription": EventType.UNSUBSCRIBED,  # or the reverse, by its preferences
}
# Where an event has what it is about, and whom.
_PARTS = {
    "Send": "send",
    "Delivery": "delivery",
    "DeliveryDelay": "deliveryDelay",
    "Bounce": "bounce",
    "Complaint": "complaint",
    "Reject": "reject",
    "Rendering Failure": "failure",
    "Open": "open",
    "Click": "click",
    "Subscription": "subscription",
}
_PEOPLE = ("bouncedRecipients", "complainedRecipients", "delayedRecipients")
_ACCOUNT_LIST, _GLOBAL_LIST = "OnAccountSuppressionList", "Suppressed"


class SesEvents(SnsEvents):
    """The events of one SNS topic, or of one EventBridge connection."""

    lacks_our_id: ClassVar[bool] = True
    certificate_url: ClassVar = re.compile(
        rf"{_HOST}/SimpleNotificationService-[A-Za-z0-9]+\.pem", re.ASCII
    )
    subscribe_url: ClassVar = re.compile(
        rf"{_HOST}/\?Action=ConfirmSubscription&[!-~]{{1,2000}}", re.ASCII
    )
    versions: ClassVar = ("1", "2")

    def verify(self, request: EventRequest) -> None:
        if _has_envelope(request):
            super().verify(request)
        else:
            self.verify_plain(request)

    def confirm(self, request: EventRequest) -> Answer | None:
        return super().confirm(request) if _has_envelope(request) else None

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        if _has_envelope(request):
            return super().read(request)
        event = event_of(request.body)
        return self.read_message(mapping(event.get("detail")))

    def read_message(self, message: Mapping[str, Any]) -> Sequence[VendorEvent]:
        name = text(message.get("eventType")) or text(message.get("notificationType"))
        part = mapping(message.get(_PARTS.get(name, "")))
        people = _people(part, mapping(message.get("mail")), name)
        return [_event(name, part, message, person, len(people)) for person in people]


def _has_envelope(request: EventRequest) -> bool:
    if "x-amz-sns-message-type" in request.headers or "x-amz-sns-rawdelivery" in request.headers:
        return True
    try:
        return "TopicArn" in mapping(json_of(request.body))
    except Malformed:
        return False


def _people(
    part: Mapping[str, Any], mail: Mapping[str, Any], name: str
) -> Sequence[Mapping[str, Any]]:
    """Whom an event concerns, each with what it says of them; an empty one: nobody knows."""
    listed = [entry for field in _PEOPLE for entry in mappings(part.get(field))]
    if not listed and name not in ("Open", "Click", "Subscription"):  # those do not say whose
        listed = _entries(part.get("recipients")) or _entries(mail.get("destination"))
    if not listed and len(people := _entries(mail.get("destination"))) == 1:
        listed = people
    return listed or [{}]


def _entries(addresses: Any) -> list[Mapping[str, Any]]:
    several: Iterable[Any] = addresses if isinstance(addresses, list) else ()
    return [{"emailAddress": each} for each in several if text(each)]


def _event(
    name: str,
    part: Mapping[str, Any],
    message: Mapping[str, Any],
    person: Mapping[str, Any],
    people: int,
) -> VendorEvent:
    mail = mapping(message.get("mail"))
    kind, subtype = _type(name, part), text(part.get("bounceSubType"))
    message_id, recipient = (
        identifier(mail.get("messageId")),
        identifier(person.get("emailAddress")),
    )
    time = part.get("timestamp") or mail.get("timestamp")
    own_list = _ACCOUNT_LIST in (subtype, part.get("complaintSubType"))
    suppress: SuppressionReason | None = "bounced" if own_list else SUPPRESSION.get(kind)
    if kind is EventType.COMPLAINED and people > 1:
        suppress = None
    details = (person.get("diagnosticCode"), part.get("smtpResponse"), part.get("reason"))
    # One event may come over SNS and EventBridge, or as a notification too: the ids of the
    # messages differ, what they tell does not.
    same = part.get("feedbackId") or key_of(message_id, time, part.get("link"))
    return VendorEvent(
        key=key_of(kind, same, recipient),
        type=kind,
        at=time_of(time),
        recipient=recipient,
        email_id=_email_id(mail),
        message_id=message_id,
        code=text(person.get("status")) or subtype or text(part.get("delayType")),
        detail=brief(next(filter(None, map(text, (*details, part.get("link")))), "")),
        suppress=suppress,
        by_vendor_list=own_list,
        lift=kind is EventType.RESUBSCRIBED,
    )


def _type(name: str, part: Mapping[str, Any]) -> EventType:
    kind = _TYPES.get(name, EventType.UNKNOWN)
    if name == "Bounce" and part.get("bounceType") == "Permanent":
        listed = part.get("bounceSubType") in (_ACCOUNT_LIST, _GLOBAL_LIST)
        return EventType.REJECTED if listed else EventType.BOUNCED_HARD
    if name == "Complaint" and part.get("complaintSubType") == _ACCOUNT_LIST:
        return EventType.REJECTED
    if name == "Complaint" and part.get("complaintFeedbackType") == "not-spam":
        return EventType.UNKNOWN
    if name == "Subscription" and not _unsubscribes(part):
        return EventType.RESUBSCRIBED
    return kind


def _unsubscribes(part: Mapping[str, Any]) -> bool:
    preferences = mapping(part.get("newTopicPreferences"))
    statuses = mappings(preferences.get("topicSubscriptionStatus"))
    leaves = any(text(each.get("subscriptionStatus")).lower() == "optout" for each in statuses)
    return preferences.get("unsubscribeAll") is True or leaves


def _email_id(mail: Mapping[str, Any]) -> str | None:
    """Our id among the tags, each of which is a list; else in our header."""
    tag = identifier(first(mapping(mail.get("tags")).get(ID_KEY)))
    headers = mappings(mail.get("headers"))
    ours = (each.get("value") for each in headers if text(each.get("name")).lower() == _ID_HEADER)
    return tag or identifier(next(ours, None))
