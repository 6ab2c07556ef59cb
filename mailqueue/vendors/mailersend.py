"""MailerSend: ``POST /v1/email``.

Decides: what a request to MailerSend looks like and what its answers mean. Facts: MailerSend's
Python SDK (models/email.py) and its list of MS codes, which end the texts of its errors.

==================================================  =======================================
answer                                              outcome
==================================================  =======================================
202 with ``X-Message-Id``                           accepted
202, warning SOME_SUPPRESSED                        accepted, the suppressed are recorded
202, warning ALL_SUPPRESSED, no id                  rejected: nobody gets it
202, any other warning or error, or no id           unknown
401, 403 (MS40301 to MS40305)                       misconfigured
422 MS42204 MS42222 MS42225 (quotas)                misconfigured
422 others                                          unsuitable: another vendor may take it
429 MS42901 (the day's quota of calls)              misconfigured
429 others (MS42903)                                throttled (``Retry-After``)
==================================================  =======================================

There are no metadata, and headers only on the largest plans (option ``custom_headers``): our id
travels as a tag.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from typing import Any

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Attachment, Email
from mailqueue.vendors.base import (
    Attempt,
    ascii_headers,
    flag,
    matching_recipients,
    merged,
    text,
    unique_recipients,
)
from mailqueue.vendors.http import Answer, HttpVendor, Request, json_request
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.limits import CUSTOM_HEADERS

_QUOTAS = {"MS42204", "MS42222", "MS42225", "MS42901"}
_SUPPRESSED = {"SOME_SUPPRESSED", "ALL_SUPPRESSED"}


class MailerSend(HttpVendor):
    """Own key: ``api_key``, a token of the From's domain. The file name alone tells its type."""

    default_base_url = "https://api.mailersend.com"

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)
        self._has_headers = flag(config, CUSTOM_HEADERS) is True

    def build(self, email: Email, attempt: Attempt) -> Request:
        """An address may stand only once in to, cc and bcc together."""
        options = self.options(email)
        options.pop(CUSTOM_HEADERS, None)
        payload = merged(self._payload(email, attempt), options)
        key = self.config.keys["api_key"]
        return json_request("/v1/email", payload, {"Authorization": f"Bearer {key}"})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        people = unique_recipients(email).items()
        payload = {
            "from": _person(self.sender(email)),
            **{field: [_person(address) for address in addresses] for field, addresses in people},
            "reply_to": next((_person(address) for address in email.reply_to), None),
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "attachments": [_file(a) for a in email.attachments],
            "tags": [*self.tags(email), f"{ID_KEY}:{attempt.email_id}"],
            "headers": [{"name": n, "value": v} for n, v in self._headers(email, attempt).items()],
        }
        return {name: value for name, value in payload.items() if value}

    def _headers(self, email: Email, attempt: Attempt) -> dict[str, str]:
        """Without the plan that has headers, one would have the whole e-mail refused."""
        if not self._has_headers:
            return {}
        extra = self.extra_headers(email, attempt.email_id) if self.exposes_metadata else {}
        return ascii_headers(email) | extra

    def parse(self, answer: Answer, email: Email) -> SendResult:
        """MailerSend's own rows; errors are ``{"message", "errors": {"field": ["... #MS42207"]}}``.

        The proper 202 has an empty body, so one that is cut is told by its id.
        """
        if answer.status == 202:
            return self._taken(answer, email)
        result = self.by_status(answer, _message(answer))
        if answer.status in (422, 429) and _QUOTAS & set(re.findall(r"MS\d{5}", answer.text)):
            return replace(result, outcome=Outcome.MISCONFIGURED)
        return result

    def _taken(self, answer: Answer, email: Email) -> SendResult:
        listed = answer.object.get("warnings") or []
        warnings = [w for w in listed if isinstance(w, dict)] if isinstance(listed, list) else []
        kinds = {text(warning.get("type")) for warning in warnings}
        message_id = answer.headers.get("X-Message-Id")
        whole = isinstance(listed, list) and len(warnings) == len(listed)
        odd = bool(answer.object.get("errors") or kinds - _SUPPRESSED or not whole)
        if not odd and message_id:
            return SendResult(
                outcome=Outcome.ACCEPTED,
                code="202",
                detail=" ".join(sorted(kinds)),
                message_id=message_id,
                refused=_suppressed(warnings, email),
            )
        result = self.by_status(answer, "202 with a warning" if odd else "202 without an id")
        if not odd and "ALL_SUPPRESSED" in kinds:
            return replace(result, outcome=Outcome.REJECTED, detail="every recipient is suppressed")
        return result


def _person(address: Address) -> dict[str, str]:
    entry = {"email": address.ascii}
    return {**entry, "name": address.name} if address.name else entry


def _file(attachment: Attachment) -> dict[str, str]:
    entry = {
        "content": b64encode(attachment.content).decode("ascii"),
        "filename": attachment.filename,
        "disposition": "attachment",
    }
    if attachment.content_id:
        entry |= {"disposition": "inline", "id": attachment.content_id}
    return entry


def _suppressed(warnings: list[dict[str, Any]], email: Email) -> tuple[str, ...]:
    listed = [warning.get("recipients") for warning in warnings]
    people = [person for people in listed if isinstance(people, list) for person in people]
    return matching_recipients(
        email, [person.get("email") for person in people if isinstance(person, dict)]
    )


def _message(answer: Answer) -> str:
    """The first field's first error, which has the code, else the message."""
    errors = answer.object.get("errors")
    first = next(iter(errors.values()), None) if isinstance(errors, dict) else None
    told = first[0] if isinstance(first, list) and first else answer.object.get("message")
    return text(told)
