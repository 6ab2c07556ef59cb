"""Scaleway Transactional Email: ``POST /transactional-email/v1alpha1/regions/{region}/emails``.

Decides: what a request to Scaleway looks like and what its answers mean. Facts: Scaleway's
OpenAPI text of the API.

==============================================  ===========================================
answer                                          outcome
==============================================  ===========================================
200 with ``emails``, one per recipient          accepted, the first one's id
200, some of them ``failed`` or ``canceled``    accepted, those recipients are tried again
200, all of them ``failed`` or ``canceled``     unsuitable
200 without an id                               unknown
400 "Invalid email from address" and others     unsuitable: another vendor may take it
401 "authentication is denied"                  misconfigured
==============================================  ===========================================

The status decides about every other answer: Scaleway's error codes are not published. There is no
place for tags and metadata; our id is the header ``X-Mailqueue-Id``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.payloads import (
    base64_text,
    encoded_headers,
    merge,
    named_address,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import mappings, matching_recipients, text

_NOT_SENT = {"failed", "canceled"}


class Scaleway(HttpVendor):
    """Own keys: ``secret_key``, ``project_id``, ``region``."""

    default_base_url = "https://api.scaleway.com"

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One JSON object. Reply-To is an additional header."""
        keys = self.config.keys
        payload = merge(self._payload(email, attempt), self.options(email))
        # A slash in the region would name another resource.
        region = quote(keys["region"], safe="")
        path = f"/transactional-email/v1alpha1/regions/{region}/emails"
        return json_request(path, payload, {"X-Auth-Token": keys["secret_key"]})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        headers = encoded_headers(email) | self.extra_headers(email, attempt.email_id)
        people = unique_recipients(email).items()
        payload = {
            "from": named_address(self.sender(email)),
            **{field: list(map(named_address, addresses)) for field, addresses in people},
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "project_id": self.config.keys["project_id"],
            "attachments": [
                {
                    "name": file.filename,
                    "type": file.content_type,
                    "content": base64_text(file.content),
                }
                for file in email.attachments
            ],
            "additional_headers": [{"key": n, "value": value} for n, value in headers.items()],
        }
        return without_empty(payload)

    def parse(self, response: Response, email: Email) -> SendResult:
        """Scaleway's own rows; errors have a ``message``."""
        if response.status == 200:
            return self._parse_success(response, email)
        return self.by_status(response, response.string("message"))

    def _parse_success(self, response: Response, email: Email) -> SendResult:
        entries = mappings(response.object.get("emails"))
        # One entry for each recipient, with a status of its own.
        unsent = [entry for entry in entries if text(entry.get("status")) in _NOT_SENT]
        accepted = [entry for entry in entries if text(entry.get("status")) not in _NOT_SENT]
        message_id = next(filter(None, (text(entry.get("id")) for entry in accepted)), None)
        # Failed at once: no copy left, so another vendor may try.
        if entries and not accepted:
            result = self.by_status(response, "failed at once")
            return replace(result, outcome=Outcome.UNSUITABLE)
        if not message_id:
            return self.by_status(response, "200 without an id")
        pending = matching_recipients(email, [entry.get("mail_rcpt") for entry in unsent])
        result = SendResult(outcome=Outcome.ACCEPTED, code="200", message_id=message_id)
        return replace(result, pending=pending)
