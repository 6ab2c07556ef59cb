"""Mandrill's webhooks: https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/.

Signed: an HMAC-SHA1 over the URL as it is configured at Mandrill, and the form's fields in the
order of their names. So ``url`` must be that URL, character by character; behind a proxy it is not
the one that arrives. ``secret`` is the webhook's key. There is no timestamp: repeats are known by
their keys.

A HEAD request comes first. If that fails, a form without events comes, signed with a key that
everybody knows: it is answered, and does nothing.

::

    send                                   sent
    delivered                              delivered
    deferral                               deferred
    hard_bounce, soft_bounce               bounced_hard, bounced_soft
    reject                                 rejected; some because of Mandrill's own list
    spam                                   complained
    unsub                                  unsubscribed
    open, click                            opened, clicked
    blacklist: add or change, remove       rejected, resubscribed
    anything else                          unknown

A batch that is not answered with 200 is repeated, and holds up all that follow.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError
from mailqueue.vendors.events.signatures import mac
from mailqueue.vendors.events.source import (
    SUPPRESSION,
    Answer,
    EventRequest,
    EventSource,
    EventType,
    Malformed,
    NotAuthentic,
    SuppressionReason,
    VendorEvent,
    brief,
    equal,
    json_of,
    key_of,
    time_of,
)
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.values import identifier, mapping, mappings, text

_FIELD = "mandrill_events"
_PUBLIC_KEY = "test-webhook"
_MAX_FIELDS = 100
_TYPES = {
    "send": EventType.SENT,
    "delivered": EventType.DELIVERED,
    "deferral": EventType.DEFERRED,
    "hard_bounce": EventType.BOUNCED_HARD,
    "soft_bounce": EventType.BOUNCED_SOFT,
    "reject": EventType.REJECTED,
    "spam": EventType.COMPLAINED,
    "unsub": EventType.UNSUBSCRIBED,
    "open": EventType.OPENED,
    "click": EventType.CLICKED,
}
_OWN_LIST: Mapping[str, SuppressionReason] = {
    "hard-bounce": "bounced",
    "spam": "complained",
    "unsub": "unsubscribed",
}


class MandrillEvents(EventSource):
    """The events of one Mandrill webhook."""

    def __init__(self, vendor: VendorConfig) -> None:
        super().__init__(vendor)
        if _PUBLIC_KEY in self.secrets:
            raise ConfigError([f"vendors.{vendor.name}.events: this key is known to everybody"])
        self._url: str = self.settings["url"]

    def greet(self, request: EventRequest) -> Answer | None:
        if request.method == "POST" and self._is_test(request):
            return Answer()
        return super().greet(request)

    def _is_test(self, request: EventRequest) -> bool:
        try:
            fields = _fields(request.body)
        except Malformed:
            return False
        return dict(fields).get(_FIELD) == "[]" and self._is_signed(request, fields, [_PUBLIC_KEY])

    def verify(self, request: EventRequest) -> None:
        try:
            fields = _fields(request.body)
        except Malformed:
            raise NotAuthentic("no signature: the body is no form") from None
        if not self._is_signed(request, fields, self.secrets):
            raise NotAuthentic("the signature is missing or wrong")

    def _is_signed(
        self, request: EventRequest, fields: Iterable[tuple[str, str]], secrets: Iterable[str]
    ) -> bool:
        message = self._url + "".join(name + value for name, value in sorted(fields))
        octets = message.encode("utf-8", "surrogatepass")
        signature = request.headers.get("x-mandrill-signature", "")
        right = [base64.b64encode(mac(secret, octets, "sha1")) for secret in secrets]
        return any(equal(signature, each) for each in right)

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        events = json_of(dict(_fields(request.body)).get(_FIELD, "").encode())
        if not isinstance(events, list):
            raise Malformed("the form has no list of events")
        return [_event(event) for event in mappings(events)]


def _fields(body: bytes) -> list[tuple[str, str]]:
    try:
        form = body.decode("ascii")
        return parse_qsl(form, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:  # a UnicodeError, too
        raise Malformed("the body is no form") from None


def _event(event: Mapping[str, Any]) -> VendorEvent:
    if text(event.get("type")) == "blacklist":
        return _change_of_list(event)
    name, message = text(event.get("event")), mapping(event.get("msg"))
    kind = _TYPES.get(name, EventType.UNKNOWN)
    message_id = identifier(event.get("_id")) or identifier(message.get("_id"))
    reject = text(mapping(message.get("reject")).get("reason"))
    own_list = _OWN_LIST.get(reject) if kind is EventType.REJECTED else None
    smtp = mappings(message.get("smtp_events"))
    detail = text(message.get("diag")) or (text(smtp[-1].get("diag")) if smtp else "")
    return VendorEvent(
        key=key_of(message_id, name, event.get("type"), event.get("ts"), event.get("url")),
        type=kind,
        at=time_of(event.get("ts")),
        recipient=identifier(message.get("email")),
        email_id=identifier(mapping(message.get("metadata")).get(ID_KEY)),
        message_id=message_id,
        code=text(message.get("bounce_description")) or reject,
        detail=brief(detail or text(event.get("url"))),
        suppress=own_list or SUPPRESSION.get(kind),
        by_vendor_list=own_list is not None,
        proves_one=True,
    )


def _change_of_list(event: Mapping[str, Any]) -> VendorEvent:
    """An address that came on Mandrill's list, or left it."""
    entry, action = mapping(event.get("reject")), text(event.get("action"))
    removal = action == "remove"
    recipient, reason = identifier(entry.get("email")), text(entry.get("reason"))
    return VendorEvent(
        key=key_of("blacklist", action, recipient, event.get("ts")),
        type=EventType.RESUBSCRIBED if removal else EventType.REJECTED,
        at=time_of(event.get("ts")),
        recipient=recipient,
        code=reason,
        detail=brief(entry.get("detail")),
        suppress=None if removal else _OWN_LIST.get(reason),
        by_vendor_list=not removal,
        lift=removal,
    )
