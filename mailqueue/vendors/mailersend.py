"""MailerSend: ``POST /v1/email``.

Decides: what a request to MailerSend looks like and what its answers mean. Facts: MailerSend's
Python SDK (models/email.py) and its list of MS codes, with which the texts of its errors end.

==================================================  =======================================
answer                                              outcome
==================================================  =======================================
202 with ``X-Message-Id``                           accepted
202, warning SOME_SUPPRESSED                        accepted, the suppressed are recorded
202, warning ALL_SUPPRESSED, no id                  rejected: no recipient gets it
202, any other warning or error, or no id           unknown
401, 403 (MS40301 to MS40305)                       misconfigured
422 MS42204 MS42222 MS42225 (quotas)                misconfigured
422 others                                          unsuitable: another vendor may take it
429 MS42901 (the day's quota of calls)              misconfigured
429 others (MS42903)                                throttled (``Retry-After``)
==================================================  =======================================

There is no place for metadata, and for headers only on the largest plans (option
``custom_headers``), so our id is a tag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mailqueue.config import VendorConfig
from mailqueue.config.vendor_types import CUSTOM_HEADERS
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Attachment, Email
from mailqueue.vendors.base import Attempt, flag
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.payloads import (
    ascii_headers,
    base64_text,
    merge,
    named_address,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import first, mapping, mappings, matching_recipients, text

_QUOTAS = {"MS42204", "MS42222", "MS42225", "MS42901"}
_SUPPRESSED = {"SOME_SUPPRESSED", "ALL_SUPPRESSED"}


class MailerSend(HttpVendor):
    """Own key: ``api_key``, a token of the From's domain. A file's type follows from its name."""

    default_base_url = "https://api.mailersend.com"

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)
        self._has_headers = flag(config, CUSTOM_HEADERS) is True

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One JSON object. Each address is in only one of to, cc and bcc."""
        options = self.options(email)
        # An option of ours, which MailerSend does not know.
        options.pop(CUSTOM_HEADERS, None)
        payload = merge(self._payload(email, attempt), options)
        key = self.config.keys["api_key"]
        return json_request("/v1/email", payload, {"Authorization": f"Bearer {key}"})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        people = unique_recipients(email).items()
        payload = {
            "from": named_address(self.sender(email)),
            **{field: list(map(named_address, addresses)) for field, addresses in people},
            "reply_to": next(map(named_address, email.reply_to), None),  # it takes one
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "attachments": [_file(a) for a in email.attachments],
            "tags": [*self.tags(email), f"{ID_KEY}:{attempt.email_id}"],
            "headers": [{"name": n, "value": v} for n, v in self._headers(email, attempt).items()],
        }
        return without_empty(payload)

    def _headers(self, email: Email, attempt: Attempt) -> dict[str, str]:
        """None without the plan that allows them: MailerSend would refuse the whole e-mail."""
        if not self._has_headers:
            return {}
        extra = self.extra_headers(email, attempt.email_id) if self.exposes_metadata else {}
        return ascii_headers(email) | extra

    def parse(self, response: Response, email: Email) -> SendResult:
        """MailerSend's own rows; errors are ``{"message", "errors": {"field": ["... #MS42207"]}}``.

        A normal 202 has an empty body, so a 202 whose body is cut is recognised by its id.
        """
        if response.status == 202:
            return self._parse_success(response, email)
        result = self.by_status(response, _message(response))
        # The code has no field of its own: it is the end of the text.
        if response.status in (422, 429) and _QUOTAS & set(re.findall(r"MS\d{5}", response.text)):
            return replace(result, outcome=Outcome.MISCONFIGURED)
        return result

    def _parse_success(self, response: Response, email: Email) -> SendResult:
        # A 202 has JSON only if there are warnings.
        entries = response.object.get("warnings") or []
        warnings = mappings(entries)
        kinds = {text(warning.get("type")) for warning in warnings}
        message_id = response.headers.get("X-Message-Id")
        readable = isinstance(entries, list) and len(warnings) == len(entries)
        # What another warning means is not documented: the e-mail may have left.
        unclear = bool(response.object.get("errors") or kinds - _SUPPRESSED or not readable)
        if not unclear and message_id:
            return SendResult(
                outcome=Outcome.ACCEPTED,
                code="202",
                detail=" ".join(sorted(kinds)),
                message_id=message_id,
                refused=_suppressed_recipients(warnings, email),
            )
        result = self.by_status(response, "202 with a warning" if unclear else "202 without an id")
        if not unclear and "ALL_SUPPRESSED" in kinds:
            return replace(result, outcome=Outcome.REJECTED, detail="every recipient is suppressed")
        return result


def _file(attachment: Attachment) -> dict[str, str]:
    entry = {
        "content": base64_text(attachment.content),
        "filename": attachment.filename,
        "disposition": "attachment",
    }
    if attachment.content_id:
        entry |= {"disposition": "inline", "id": attachment.content_id}
    return entry


def _suppressed_recipients(warnings: list[Mapping[str, Any]], email: Email) -> tuple[str, ...]:
    people = [person for each in warnings for person in mappings(each.get("recipients"))]
    return matching_recipients(email, [person.get("email") for person in people])


def _message(response: Response) -> str:
    """The first field's first error, which has the code, else the message."""
    by_field = mapping(response.object.get("errors"))
    error = first(next(iter(by_field.values()), None))
    return text(response.object.get("message") if error is None else error)
