"""Azure's events through Event Grid: https://learn.microsoft.com/azure/event-grid/communication-services-email-events.

Not signed: a header of the subscription (``X-Mailqueue-Secret``, or a bearer token), which also
comes with the handshake. Tokens of Entra are not supported. A handshake is answered after the
secret was seen; the address in it is never asked.

::

    report, Delivered                      delivered
    report, Expanded                       sent
    report, Bounced                        bounced_hard
    report, Suppressed                     rejected, because of Azure's own list
    report, Quarantined, FilteredSpam      rejected
    report, Failed                         failed
    engagement, view                       opened
    engagement, click                      clicked
    anything else                          unknown

Nothing of ours comes back, but ``messageId`` is the operation's id: we choose it, and our id can be
read in it. Event Grid repeats for 24 hours; 400, 401 and 413 end an event at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mailqueue.vendors.events.source import (
    SUPPRESSION,
    Answer,
    EventRequest,
    EventSource,
    EventType,
    Malformed,
    NotAuthentic,
    VendorEvent,
    brief,
    events_of,
    json_of,
    key_of,
    time_of,
)
from mailqueue.vendors.values import first, identifier, mapping, text

_VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"
_REPORT = "Microsoft.Communication.EmailDeliveryReportReceived"
_OPERATION = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-8[0-9a-f]{3}-8[0-9a-f]{3}-([0-9a-f]{12})")
_STATUSES = {
    "Delivered": EventType.DELIVERED,
    "Expanded": EventType.SENT,
    "Bounced": EventType.BOUNCED_HARD,
    "Suppressed": EventType.REJECTED,
    "Quarantined": EventType.REJECTED,
    "FilteredSpam": EventType.REJECTED,
    "Failed": EventType.FAILED,
}
_ENGAGEMENTS = {"view": EventType.OPENED, "click": EventType.CLICKED}
# Both spellings are in use.
_TIMES = ("deliveryAttemptTimeStamp", "deliveryAttemptTimestamp", "userActionTimeStamp")


class AzureEvents(EventSource):
    """The events of one subscription of Event Grid, in its own schema or as CloudEvents."""

    def greet(self, request: EventRequest) -> Answer | None:
        if request.method == "OPTIONS":  # the handshake of CloudEvents
            origin = request.headers.get("webhook-request-origin", "")
            return (
                Answer(headers={"WebHook-Allowed-Origin": origin}) if self._ours(request) else None
            )
        if request.headers.get("aeg-event-type") != "SubscriptionValidation":
            return super().greet(request)
        return self._validation(request) if self._ours(request) else None

    def _ours(self, request: EventRequest) -> bool:
        try:
            self.verify(request)
        except NotAuthentic:
            return False
        return True

    def _validation(self, request: EventRequest) -> Answer | None:
        try:
            event = mapping(first(json_of(request.body)))
        except Malformed:
            return None
        code = identifier(mapping(event.get("data")).get("validationCode"))
        if event.get("eventType") != _VALIDATION or code is None:
            return None
        return Answer(body=json.dumps({"validationResponse": code}).encode())

    def verify(self, request: EventRequest) -> None:
        self.verify_plain(request)

    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        return [_event(event) for event in events_of(request.body)]


def _event(event: Mapping[str, Any]) -> VendorEvent:
    name, data = text(event.get("eventType")) or text(event.get("type")), mapping(event.get("data"))
    status = text(data.get("status"))
    if name == _REPORT:
        kind = _STATUSES.get(status, EventType.UNKNOWN)
    else:
        kind = _ENGAGEMENTS.get(text(data.get("engagementType")), EventType.UNKNOWN)
    times = (data.get(field) for field in _TIMES)
    at = next(filter(None, map(time_of, times)), None)
    details = mapping(data.get("deliveryStatusDetails"))
    own_list = status == "Suppressed"
    key = identifier(event.get("id"))
    return VendorEvent(
        key=key or key_of(name, data.get("messageId"), data.get("recipient"), status),
        type=kind,
        at=at or time_of(event.get("eventTime")) or time_of(event.get("time")),
        recipient=identifier(data.get("recipient")),
        email_id=_email_id(text(data.get("messageId"))),
        message_id=identifier(data.get("messageId")),
        code=status,
        detail=brief(text(details.get("statusMessage")) or text(data.get("engagementContext"))),
        suppress="bounced" if own_list else SUPPRESSION.get(kind),
        by_vendor_list=own_list,
    )


def _email_id(operation: str) -> str | None:
    """Our id in that of the operation, as the adapter makes it."""
    match = _OPERATION.fullmatch(operation)
    return "".join(match.groups()) if match else None
