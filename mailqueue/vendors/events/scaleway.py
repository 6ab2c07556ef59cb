"""Scaleway's events, over its Topics and Events: https://www.scaleway.com/en/docs/transactional-email/.

Signed as SNS's messages are (see ``sns``), always in its version 1, with certificates of Scaleway's
own authority. ``topic_arn`` is needed: any customer's topic is validly signed.

::

    email_queued                           queued
    email_delivered                        delivered
    email_deferred                         deferred
    email_dropped, code 5xx                bounced_hard
    email_dropped, any other               bounced_soft
    email_mailbox_not_found                bounced_hard
    email_spam, email_blocklisted          rejected (a filter's word, no person's)
    blocklist_created                      rejected: the address is on Scaleway's list
    anything else                          unknown
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mailqueue.vendors.events.sns import SnsEvents
from mailqueue.vendors.events.source import (
    SUPPRESSION,
    EventType,
    NotAuthentic,
    SuppressionReason,
    VendorEvent,
    brief,
    key_of,
    time_of,
)
from mailqueue.vendors.values import identifier, mappings, text

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_REGION = r"[a-z]{2}-[a-z]{3}"
_CHAINS = tuple(
    f"https://messaging.s3.fr-par.scw.cloud/{region}/sns/sns-trust-chain.pem"
    for region in ("fr-par", "nl-ams")
)
_ID_HEADER = "x-mailqueue-id"
_TYPES = {
    "email_queued": EventType.QUEUED,
    "email_delivered": EventType.DELIVERED,
    "email_deferred": EventType.DEFERRED,
    "email_dropped": EventType.BOUNCED_SOFT,  # hard with a code of 5xx
    "email_mailbox_not_found": EventType.BOUNCED_HARD,
    "email_spam": EventType.REJECTED,
    "email_blocklisted": EventType.REJECTED,
    "blocklist_created": EventType.REJECTED,
}


class ScalewayEvents(SnsEvents):
    """The events of one topic of Scaleway's."""

    certificate_url: ClassVar = re.compile(
        rf"https://messaging\.s3\.{_REGION}\.scw\.cloud/[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*"
        r"(?:\.[A-Za-z0-9_-]+)*\.pem",
        re.ASCII,
    )
    subscribe_url: ClassVar = re.compile(
        rf"https://sns\.mnq\.{_REGION}\.scaleway\.com/\?Action=ConfirmSubscription&[!-~]{{1,2000}}",
        re.ASCII,
    )
    versions: ClassVar = ("1",)

    def check_issuer(self, certificate: Certificate) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.x509 import load_pem_x509_certificates

        for chain in _CHAINS:
            for issuer in load_pem_x509_certificates(self.download(chain)):
                try:
                    certificate.verify_directly_issued_by(issuer)
                except (ValueError, TypeError, InvalidSignature):
                    continue
                return
        raise NotAuthentic("the certificate is not of Scaleway's authority")

    def read_message(self, message: Mapping[str, Any]) -> Sequence[VendorEvent]:
        return [_event(message)]


def _event(event: Mapping[str, Any]) -> VendorEvent:
    name, code = text(event.get("type")), identifier(event.get("email_response_code")) or ""
    kind = _TYPES.get(name, EventType.UNKNOWN)
    if name == "email_dropped" and code.startswith("5"):
        kind = EventType.BOUNCED_HARD
    headers = mappings(event.get("email_headers"))
    ours = (each.get("value") for each in headers if text(each.get("key")).lower() == _ID_HEADER)
    detail = text(event.get("email_response_message")) or text(event.get("blocklist_reason"))
    recipient, key = identifier(event.get("email_to")), identifier(event.get("id"))
    return VendorEvent(
        key=key or key_of(name, event.get("email_id"), recipient, event.get("created_at")),
        type=kind,
        at=time_of(event.get("created_at")),
        recipient=recipient,
        email_id=identifier(next(ours, None)),
        message_id=identifier(event.get("email_id")),
        code=code or text(event.get("blocklist_type")),
        detail=brief(detail),
        suppress=_suppress(name, kind),
        by_vendor_list=name == "blocklist_created",
        proves_one=True,
    )


def _suppress(name: str, kind: EventType) -> SuppressionReason | None:
    """A dropped e-mail may have been refused for its content, whatever its code."""
    if name == "blocklist_created":
        return "bounced"
    return SUPPRESSION.get(kind) if name == "email_mailbox_not_found" else None
