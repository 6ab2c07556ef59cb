"""SMTP2GO: ``POST /v3/email/send``.

Decides: what a request to SMTP2GO looks like and what its answers mean. Facts: the OpenAPI text of
developers.smtp2go.com.

==================================================  ==========================================
answer                                              outcome
==================================================  ==========================================
200, ``succeeded`` at least 1, with an id           accepted; recipients that ``failures``
                                                    names are recorded
200, neither ``succeeded`` nor ``failed``, an id    accepted (``fastaccept`` or ``schedule``)
200, ``failed``                                     unsuitable: ``failures`` has the reasons
200 without an id                                   unknown
``ENDPOINT_PERMISSION_DENIED`` (a 400)              misconfigured
``API_EXCEPTION`` (a 400)                           unknown
400 others                                          unsuitable: another vendor may take it
401 402 403                                         misconfigured
429 (without a time; a minute at least)             throttled
==================================================  ==========================================

An ``error_code`` counts whatever the status: errors have been seen in a 200, too. There is no place
for tags and metadata; our id is the header ``X-Mailqueue-Id``. ``fastaccept`` is set to false: it
"will soon become the default", and with it no answer reports a failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Attachment, Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.payloads import (
    base64_text,
    encoded_headers,
    mailbox_text,
    merge,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import mapping, matching_recipients, natural, text

_ERRORS = {
    "NON_VALIDATING_IN_PAYLOAD": Outcome.UNSUITABLE,
    "ENDPOINT_PERMISSION_DENIED": Outcome.MISCONFIGURED,
    "API_EXCEPTION": Outcome.UNKNOWN,
}


class Smtp2Go(HttpVendor):
    """Own key: ``api_key``. By region: ``base_url`` ``https://eu-api.smtp2go.com`` (us, eu, au)."""

    default_base_url = "https://api.smtp2go.com"

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One JSON object. Reply-To is a custom header; a file name identifies an inline image."""
        payload = merge(self._payload(email, attempt), self.options(email))
        key = self.config.keys["api_key"]
        return json_request("/v3/email/send", payload, {"X-Smtp2go-Api-Key": key})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        headers = encoded_headers(email) | self.extra_headers(email, attempt.email_id)
        people = unique_recipients(email).items()
        payload = {
            "sender": mailbox_text(self.sender(email)),
            **{field: list(map(mailbox_text, addresses)) for field, addresses in people},
            "subject": email.subject,
            "text_body": email.text,
            "html_body": email.html,
            "custom_headers": [{"header": n, "value": v} for n, v in headers.items()],
            "attachments": [_file(a, a.filename) for a in email.attachments if not a.content_id],
            "inlines": [_file(a, a.content_id) for a in email.attachments if a.content_id],
        }
        # Added at the end: False counts as empty.
        return without_empty(payload) | {"fastaccept": False}

    def parse(self, response: Response, email: Email) -> SendResult:
        """SMTP2GO's own rows; errors are in ``data`` or, in its older texts, at the root."""
        data = mapping(response.object.get("data"))
        code = data.get("error_code") or response.object.get("error_code")
        error = text(data.get("error")) or response.string("error")
        if response.status == 200 and not code:
            return self._parse_success(response, data, email)
        # With a prefix: ``E_ApiResponseCodes.API_EXCEPTION``.
        word = text(code).rpartition(".")[2]
        result = self.by_status(response, f"{word} {error}".strip())
        if response.status in (200, 400):
            return replace(result, outcome=_ERRORS.get(word, result.outcome))
        return result

    def _parse_success(
        self, response: Response, data: Mapping[str, Any], email: Email
    ) -> SendResult:
        message_id = text(data.get("email_id")) or text(data.get("schedule_id"))
        entries = data.get("failures")
        failures = " ".join(filter(None, map(text, entries))) if isinstance(entries, list) else ""
        succeeded, failed = _count(data, "succeeded"), _count(data, "failed")
        if succeeded == 0 and failed > 0:
            return replace(self.by_status(response, failures), outcome=Outcome.UNSUITABLE)
        # With ``fastaccept`` or ``schedule``, which an option may ask for, there are no counts.
        uncounted = "succeeded" not in data and "failed" not in data
        if not message_id or not (uncounted or succeeded > 0):
            return self.by_status(response, "200 without an id")
        return SendResult(
            outcome=Outcome.ACCEPTED,
            code="200",
            detail=failures,
            message_id=message_id,
            # The reasons are free text: addresses are looked for among its words.
            refused=matching_recipients(
                email, failures.replace("<", " ").replace(">", " ").split()
            ),
        )


def _file(attachment: Attachment, name: str | None) -> dict[str, Any]:
    content = base64_text(attachment.content)
    return {"filename": name, "fileblob": content, "mimetype": attachment.content_type}


def _count(data: Mapping[str, Any], name: str) -> int:
    """How many; 0 if the count is absent, -1 if it is no count."""
    number = natural(data.get(name, 0))
    return -1 if number is None else number
