"""Mailgun's webhooks: https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/.

``signature`` in the body is an HMAC-SHA256 of a timestamp and a random token with the account's
HTTP webhook signing key (``secret``), which is not the API key. It does not cover the event: who
has seen one signature could put it on other events. So one token is good for one event only, and
the address must be HTTPS. Repeats, up to eight hours later, have the signature of the first try:
nine hours are accepted.

::

    accepted                               queued
    delivered                              delivered
    failed, temporary                      deferred
    failed, permanent                      bounced_hard
    the same, code 605 to 607, suppress-*  rejected, because of Mailgun's own lists
    rejected                               rejected
    opened, clicked                        opened, clicked
    complained                             complained
    unsubscribed                           unsubscribed
    anything else                          unknown

It repeats for eight hours what is answered with anything but 200 and 406. The older webhooks that
send forms mix our metadata with their own fields: they are refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from threading import Lock
from typing import Any, ClassVar

from mailqueue.config import VendorConfig
from mailqueue.vendors.events.signatures import verify_hex
from mailqueue.vendors.events.source import (
    LONGEST_UNPROVEN,
    SUPPRESSION,
    EventRequest,
    EventSource,
    EventType,
    Malformed,
    NotAuthentic,
    SuppressionReason,
    VendorEvent,
    brief,
    json_of,
    key_of,
    only,
    time_of,
)
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.values import identifier, mapping, text

WINDOW = timedelta(hours=9)
TOKENS = 100_000  # remembered; each with the key of its event

_TYPES = {
    "accepted": EventType.QUEUED,
    "delivered": EventType.DELIVERED,
    "rejected": EventType.REJECTED,
    "opened": EventType.OPENED,
    "clicked": EventType.CLICKED,
    "complained": EventType.COMPLAINED,
    "unsubscribed": EventType.UNSUBSCRIBED,
}
_OWN_LISTS: Mapping[str, SuppressionReason] = {
    "605": "bounced",
    "606": "unsubscribed",
    "607": "complained",
    "suppress-bounce": "bounced",
    "suppress-unsubscribe": "unsubscribed",
    "suppress-complaint": "complained",
}
# Of the mailbox itself, not of the sender's reputation or of the content.
_NO_MAILBOX = ("5.1.1", "5.1.10", "5.1.2", "5.1.3", "5.1.6")


class MailgunEvents(EventSource):
    """The events of one Mailgun account or domain. Remembers tokens: one instance a process."""

    longest: ClassVar[int] = LONGEST_UNPROVEN

    def __init__(self, vendor: VendorConfig) -> None:
        super().__init__(vendor)
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._lock = Lock()

    def verify(self, request: EventRequest) -> None:
        try:
            body = mapping(json_of(request.body))
        except Malformed:
            raise NotAuthentic("no signature: the body is no JSON") from None
        signature = mapping(body.get("signature"))
        timestamp, token = text(signature.get("timestamp")), text(signature.get("token"))
        at = time_of(timestamp)
        if not token or at is None:
            raise NotAuthentic("the signature is missing")
        message = (timestamp + token).encode("utf-8", "surrogatepass")
        verify_hex(self.secrets, message, text(signature.get("signature")))
        if abs(request.now - at) > WINDOW:
            raise NotAuthentic("the signature is more than nine hours old")
        self._use(token, _key(mapping(body.get("event-data"))))

    def _use(self, token: str, key: str) -> None:
        """A token is good for one event; a repeat of that event has it again."""
        with self._lock:
            if self._tokens.setdefault(token, key) != key:
                raise NotAuthentic("the signature is that of another event")
            while len(self._tokens) > TOKENS:
                self._tokens.popitem(last=False)

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        body = json_of(request.body)
        if not isinstance(body, dict) or not isinstance(body.get("event-data"), dict):
            raise Malformed("the body has no event-data")
        return [_event(body["event-data"])]


def _event(event: Mapping[str, Any]) -> VendorEvent:
    name, reason = text(event.get("event")), text(event.get("reason"))
    status = mapping(event.get("delivery-status"))
    code = identifier(status.get("enhanced-code")) or identifier(status.get("code")) or ""
    own_list = _OWN_LISTS.get(reason) or _OWN_LISTS.get(identifier(status.get("code")) or "")
    kind = _TYPES.get(name, EventType.UNKNOWN)
    if name == "failed":
        kind = EventType.DEFERRED
        if event.get("severity") == "permanent":
            kind = EventType.REJECTED if own_list else EventType.BOUNCED_HARD
    headers = mapping(mapping(event.get("message")).get("headers"))
    message_id = text(headers.get("message-id")).strip("<>")
    details = (status.get("message"), status.get("description"))
    rejection = text(mapping(event.get("reject")).get("reason"))
    return VendorEvent(
        key=_key(event),
        type=kind,
        at=time_of(event.get("timestamp")),
        recipient=identifier(event.get("recipient")) or only([headers.get("to")]),
        email_id=identifier(mapping(event.get("user-variables")).get(ID_KEY)),
        message_id=f"<{message_id}>" if message_id else None,
        code=code or reason or rejection,
        detail=brief(next(filter(None, map(text, details)), "")),
        suppress=_suppress(kind, code, reason, own_list),
        by_vendor_list=kind is EventType.REJECTED and own_list is not None,
    )


def _suppress(
    kind: EventType, code: str, reason: str, own_list: SuppressionReason | None
) -> SuppressionReason | None:
    if kind is EventType.BOUNCED_HARD:
        # A permanent failure may be for content or reputation, too: those have other codes.
        no_mailbox = code in _NO_MAILBOX or code in ("", "550")
        return "bounced" if reason == "bounce" and no_mailbox else None
    return own_list if kind is EventType.REJECTED else SUPPRESSION.get(kind)


def _key(event: Mapping[str, Any]) -> str:
    """Mailgun's id of an event is unique within a day only."""
    at = time_of(event.get("timestamp"))
    return key_of(event.get("id"), event.get("event"), at.date() if at else None)
