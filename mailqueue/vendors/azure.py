"""Azure Communication Services Email: ``POST /emails:send``.

Decides: what a request to Azure looks like and what its answers mean. Facts: azure-rest-api-specs
(CommunicationServicesEmail), the SDK azure-communication-email 1.1.0.

The sender is an address without a name: the resource has the display name. There is no place for
tags and metadata. Our id is the header ``X-Mailqueue-Id``; our Message-ID is not sent.

``Operation-Id`` is the same in all attempts. No document says that Azure de-duplicates by it, so it
is no idempotency key. ``lookup`` asks for the operation by it. There is no sandbox.

=======================================================  ====================================
answer                                                   outcome
=======================================================  ====================================
202 with ``id``, ``status`` that is not a failure        accepted; the verdict may come later
202 with ``status`` ``Failed`` or ``Canceled``           unknown
400 (``InvalidAddress`` and others)                      unsuitable: another vendor may take it
``DomainNotLinked``, whatever the status                 unsuitable: the From is not known there
401 403 (``Denied``: also a host signed wrongly)         misconfigured
429                                                      throttled
=======================================================  ====================================
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Attachment, Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.payloads import (
    ascii_headers,
    base64_text,
    merge,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import code_and_text, mapping, text

_VERSION = "api-version=2025-09-01"  # the first with inline attachments
_PATH = f"/emails:send?{_VERSION}"
_ACCEPTED_STATUSES = {"NotStarted", "Running", "Succeeded"}


class Azure(HttpVendor):
    """Own key: ``access_key``. ``base_url`` is the resource's endpoint."""

    def __init__(self, config: VendorConfig) -> None:
        # Each resource has a host of its own, so there is no default.
        if not config.base_url:
            raise ConfigError([f"vendors.{config.name}.base_url: required key is missing"])
        super().__init__(config)
        # It is signed, too: Azure answers ``Denied`` if it is not the host that was asked.
        self._host = urlsplit(config.base_url).netloc
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def build(self, email: Email, attempt: Attempt) -> Request:
        """The request with its signature, which depends on the time of day."""
        payload = merge(self._payload(email, attempt), self.options(email))
        unsigned = json_request(_PATH, payload, {"Operation-Id": _operation(attempt)})
        signed = self._signature("POST", _PATH, unsigned.body)
        return Request(_PATH, unsigned.body, {**unsigned.headers, **signed})

    def lookup(self, email: Email, attempt: Attempt) -> SendResult | None:  # noqa: ARG002  # the port's
        """The operation under our id. None, also for a failed one, proves nothing."""
        path = f"/emails/operations/{_operation(attempt)}"
        signed = self._signature("GET", f"{path}?{_VERSION}", b"")
        name, _, version = _VERSION.partition("=")
        operation = self.ask(path, {name: version}, signed, attempt)
        operation_id, status = text(operation.get("id")), text(operation.get("status"))
        if operation_id != _operation(attempt) or status not in _ACCEPTED_STATUSES:
            return None
        return SendResult(outcome=Outcome.ACCEPTED, code="found", message_id=operation_id)

    def _signature(self, method: str, path: str, body: bytes) -> dict[str, str]:
        key = self.config.keys["access_key"]
        return sign(method, path, self._host, body, access_key=key, now=self.clock())

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        bodies = {"plainText": email.text, "html": email.html}
        payload = {
            "senderAddress": self.sender(email).ascii,
            "recipients": {n: _people(people) for n, people in unique_recipients(email).items()},
            "replyTo": _people(email.reply_to),
            "content": {
                "subject": email.subject,
                **{name: body for name, body in bodies.items() if body},
            },
            "attachments": [_attachment(a) for a in email.attachments],
            "headers": ascii_headers(email) | self.extra_headers(email, attempt.email_id),
        }
        return without_empty(payload)

    def parse(self, response: Response, email: Email) -> SendResult:  # noqa: ARG002  # the port's
        """Azure's own rows; its errors are ``{"error": {"code", "message"}}``."""
        operation_id, status = response.string("id"), response.string("status")
        if response.status == 202 and operation_id and status in _ACCEPTED_STATUSES:
            return SendResult(outcome=Outcome.ACCEPTED, code="202", message_id=operation_id)
        error = mapping(response.object.get("error"))
        code, message = text(error.get("code")), text(error.get("message"))
        result = self.by_status(response, code_and_text(code, message))
        if 400 <= response.status < 500 and code.lower() == "domainnotlinked":
            return replace(result, outcome=Outcome.UNSUITABLE)
        return result


def _operation(attempt: Attempt) -> str:
    """The id of the operation: ours as a UUID of version 8, the same in every attempt.

    Azure's events have this id and nothing else of ours, so ours must be readable in it. The digits
    that are left tell an e-mail from an earlier one with the same id.
    """
    digits, more = attempt.email_id, (attempt.nonce or "000000")[-6:]
    return str(UUID(f"{digits[:12]}8{more[:3]}8{more[3:]}{digits[12:]}"))


def sign(
    method: str, path: str, host: str, body: bytes, *, access_key: str, now: datetime
) -> dict[str, str]:
    """The headers that sign ``body`` for ``path`` (with its query) at ``host``."""
    date = format_datetime(now, usegmt=True)
    digest = base64_text(sha256(body).digest())
    text_to_sign = f"{method}\n{path}\n{date};{host};{digest}"
    key = b64decode(access_key)
    signature = base64_text(hmac.digest(key, text_to_sign.encode(), "sha256"))
    signed = "SignedHeaders=x-ms-date;host;x-ms-content-sha256"
    return {
        "Host": host,
        "x-ms-date": date,
        "x-ms-content-sha256": digest,
        "Authorization": f"HMAC-SHA256 {signed}&Signature={signature}",
    }


def _people(people: Sequence[Address]) -> list[dict[str, str]]:
    return [_person(person) for person in people]


def _person(person: Address) -> dict[str, str]:
    entry = {"address": person.ascii}
    return {**entry, "displayName": person.name} if person.name else entry


def _attachment(attachment: Attachment) -> dict[str, str]:
    entry = {
        "name": attachment.filename,
        "contentType": attachment.content_type,
        "contentInBase64": base64_text(attachment.content),
    }
    return {**entry, "contentId": attachment.content_id} if attachment.content_id else entry
