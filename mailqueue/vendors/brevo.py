"""Brevo: ``POST /v3/smtp/email``.

Decides: what a request to Brevo looks like and what its answers mean. Facts: Brevo's
swagger_definition_v3.yml and developers.brevo.com/docs (idempotency, sandbox mode, limit headers).

De-duplicates: a request under an ``idempotencyKey`` that was used before is not processed.

===============================================  ============================================
answer                                           outcome
===============================================  ============================================
201, 202 with ``messageId``                      accepted
400 ``duplicate_parameter``: our key was used    accepted (a replay), without an id
400 others                                       unsuitable: another vendor may take it
401 402 403 (key, credits, permission), or       misconfigured
400 with a code for one of these
409 ``duplicate_request``                        unknown, not the vendor's fault: our first
                                                 request is still running
429                                              throttled (``x-sib-ratelimit-reset``, seconds)
===============================================  ============================================

It accepts no text without HTML and no inline images. A file's type follows from its extension. The
only place for metadata is the header ``X-Mailin-custom``, which recipients can see. Only ASCII is
safe there: Brevo decodes encoded words and sends 8 bit. Our id goes there.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.limits import brevo_name
from mailqueue.vendors.payloads import (
    base64_text,
    merge,
    named_address,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import code_and_text

_ACCOUNT_ERRORS = frozenset(
    ("account_under_validation", "not_enough_credits", "permission_denied", "unauthorized")
)


class Brevo(HttpVendor):
    """Own key: ``api_key``.

    ``key_life``: the guide says 30 minutes, the older changelog 15. The shorter time is safe. A key
    that we give up too early costs at most one allowed copy; one that we trust for too long makes a
    copy that is not counted.
    """

    default_base_url = "https://api.brevo.com"
    has_sandbox = True
    key_life = 900.0

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One JSON object, whose ``headers`` also have the key, the metadata and the sandbox."""
        payload = merge(self._payload(email, attempt), self.options(email))
        return json_request("/v3/smtp/email", payload, {"api-key": self.config.keys["api_key"]})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        files, people = email.attachments, unique_recipients(email).items()
        payload = {
            "sender": _person(self.sender(email)),
            **{field: list(map(_person, addresses)) for field, addresses in people},
            "replyTo": next(map(_person, email.reply_to), None),  # it takes one
            "subject": email.subject,
            "htmlContent": email.html,
            "textContent": email.text,
            "headers": self._headers(email, attempt),
            "tags": list(self.tags(email)),
            "attachment": [
                {"name": file.filename, "content": base64_text(file.content)} for file in files
            ],
        }
        return without_empty(payload)

    def _headers(self, email: Email, attempt: Attempt) -> dict[str, str]:
        """Brevo's headers. Its key must be a UUID: we derive one from ours."""
        metadata = filter(_is_plain, email.metadata.items()) if self.exposes_metadata else ()
        headers = {
            **email.headers,
            "X-Mailin-custom": json.dumps({**dict(metadata), ID_KEY: attempt.email_id}),
            "idempotencyKey": str(uuid5(NAMESPACE_OID, attempt.key or attempt.email_id)),
        }
        return {**headers, "X-Sib-Sandbox": "drop"} if self.config.sandbox else headers

    def parse(self, response: Response, email: Email) -> SendResult:  # noqa: ARG002  # the port's
        """Brevo's own rows; its errors are ``{"code", "message"}``."""
        code, message = response.string("code"), response.string("message")
        result = self.by_status(response, code_and_text(code, message))
        match response.status:
            # 202 where an option asks for a later time (``scheduledAt``).
            case 201 | 202 if message_id := response.string("messageId"):
                return SendResult(outcome=Outcome.ACCEPTED, code=result.code, message_id=message_id)
            case 400 if code == "duplicate_parameter":
                return replace(result, outcome=Outcome.ACCEPTED, replay=True)
            case 400 if code in _ACCOUNT_ERRORS:
                return replace(result, outcome=Outcome.MISCONFIGURED)
            case 409 if code == "duplicate_request":
                return replace(result, outcome=Outcome.UNKNOWN, our_fault=True)
            case 429 if result.retry_after is None:
                # Brevo documents no Retry-After, only this header.
                reset = response.headers.get("x-sib-ratelimit-reset", "").strip()
                return replace(result, retry_after=response.seconds(reset))
        return result


def _person(address: Address) -> dict[str, str]:
    # Brevo drops a name with non-ASCII letters and punctuation, unless it is encoded.
    return named_address(Address(brevo_name(address.name), address.address))


def _is_plain(entry: tuple[str, str]) -> bool:
    """Whether neither name nor value is decoded there, or read as a template."""
    word = "".join(entry)
    special = any(sign in word for sign in ("=?", "{{", "{%"))
    return word.isascii() and word.isprintable() and not special
