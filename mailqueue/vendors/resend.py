"""Resend: ``POST /emails``.

Decides: what a request to Resend looks like and what its answers mean. Facts: resend.json and
resend.com/docs (errors, rate limit, idempotency keys).

De-duplicates: a request under the same ``Idempotency-Key`` gets the first one's answer for 24 h.

===============================================  ============================================
answer                                           outcome
===============================================  ============================================
200 with ``id`` (a replay has the same one)      accepted
400 "API key is invalid", 401, 403 others        misconfigured
403 ``validation_error``: the domain is not      unsuitable
verified, or only testing e-mails to oneself
409 ``concurrent_idempotent_requests``           unknown, not the vendor's fault: our first
                                                 request is still running
409 ``invalid_idempotent_request``               unsuitable: nothing was sent by this request
429 ``daily_``, ``monthly_quota_exceeded``       misconfigured
429 others                                       throttled (``retry-after``)
400, 422 others                                  unsuitable: another vendor may take it
===============================================  ============================================

Our id, tags and metadata go as Resend's own tags, in the form of ``labels.pairs``; our id is the
header ``X-Mailqueue-Id`` as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Attachment, Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.labels import pairs
from mailqueue.vendors.payloads import (
    ascii_headers,
    base64_text,
    mailbox_text,
    merge,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import code_and_text

_QUOTAS = {"daily_quota_exceeded", "monthly_quota_exceeded"}


class Resend(HttpVendor):
    """Own key: ``api_key``. There is no sandbox, only addresses to test with."""

    default_base_url = "https://api.resend.com"
    key_life = 24 * 3600.0

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One JSON object. Mailboxes are header text."""
        payload = merge(self._payload(email, attempt), self.options(email))
        headers = {
            "Authorization": f"Bearer {self.config.keys['api_key']}",
            # Under the same key the body must be the same, or Resend answers 409.
            "Idempotency-Key": attempt.key or attempt.email_id,
        }
        return json_request("/emails", payload, headers)

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        tags = pairs(self.tags(email), self.metadata(email), attempt.email_id)
        people = unique_recipients(email).items()
        payload = {
            "from": mailbox_text(self.sender(email)),
            **{field: list(map(mailbox_text, addresses)) for field, addresses in people},
            "reply_to": list(map(mailbox_text, email.reply_to)),
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "headers": ascii_headers(email) | self.extra_headers(email, attempt.email_id),
            "attachments": [_attachment(a) for a in email.attachments],
            "tags": [{"name": name, "value": value} for name, value in tags],
        }
        return without_empty(payload)

    def parse(self, response: Response, email: Email) -> SendResult:  # noqa: ARG002  # the port's
        """Resend's own rows; its errors are ``{"statusCode", "name", "message"}``."""
        name, message = response.string("name"), response.string("message")
        result = self.by_status(response, code_and_text(name, message))
        match response.status:
            case 200 if message_id := response.string("id"):
                return SendResult(outcome=Outcome.ACCEPTED, code="200", message_id=message_id)
            # Documented as a 403; a 400 with this text has been seen.
            case 400 if "api key is invalid" in message.lower():
                return replace(result, outcome=Outcome.MISCONFIGURED)
            case 403 if name == "validation_error":
                return replace(result, outcome=Outcome.UNSUITABLE)
            case 409 if name == "concurrent_idempotent_requests":
                return replace(result, outcome=Outcome.UNKNOWN, our_fault=True)
            case 429 if name in _QUOTAS:
                return replace(result, outcome=Outcome.MISCONFIGURED)
            case 429 if result.retry_after is None:
                # In seconds, as ``retry-after``.
                reset = response.headers.get("ratelimit-reset", "").strip()
                return replace(result, retry_after=response.seconds(reset))
        return result


def _attachment(attachment: Attachment) -> dict[str, str]:
    entry = {
        "filename": attachment.filename,
        "content": base64_text(attachment.content),
        "content_type": attachment.content_type,
    }
    cid = attachment.content_id
    return {**entry, "content_id": cid} if cid else entry
