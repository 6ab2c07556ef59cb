"""Mandrill (Mailchimp Transactional): ``POST /api/1.4/messages/send``.

Decides: what a request to Mandrill looks like and what its answers mean. Facts: Mailchimp's
transactional.openapi.json, "Use SMTP headers to customize your messages".

An e-mail whose envelope leaves out someone whom it shows goes to ``/messages/send-raw``: the
message as SMTP gets it, with ``to`` for those who are sent to, and with ``X-MC-*`` headers, which
Mandrill reads as options. Options for ``message`` have no place there, so such an e-mail with such
options, or with such headers of its own, does not go to Mandrill.

A 200 is a list with one entry per recipient, each with its own status:

==============================================  ==================================================
entry                                           that recipient
==============================================  ==================================================
``sent`` ``queued`` ``scheduled``               accepted
``queued``, account suspended or quota spent    accepted and held; the vendor gets no more e-mails
``rejected``: bounced, complained, by a rule    rejected
``rejected`` ``unsigned`` ``invalid-sender``    unsuitable: the From domain is not verified there
``rejected`` ``test-mode-limit``                misconfigured
``rejected`` for another reason                 unsuitable
``invalid``                                     rejected
==============================================  ==================================================

The e-mail is accepted if any recipient is. Rejected recipients are recorded, the others are tried
again. If none is accepted, the best outcome counts. Errors are identified by their ``name``, since
the status varies: an invalid key has been seen with 401 and with 500.

==============================================  ==================================================
``name``                                        outcome
==============================================  ==================================================
``Invalid_Key`` ``Unknown_Subaccount``          misconfigured
``PaymentRequired``                             misconfigured; unsuitable if ``send_at`` was asked
``ValidationError``                             unsuitable
``RequestLimitExceeded``                        throttled
==============================================  ==================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Attachment, Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.payloads import (
    base64_text,
    encoded_headers,
    merge,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import mappings, matching_recipients, text

_ERRORS = {
    "Invalid_Key": Outcome.MISCONFIGURED,
    "Unknown_Subaccount": Outcome.MISCONFIGURED,
    "PaymentRequired": Outcome.MISCONFIGURED,
    "ValidationError": Outcome.UNSUITABLE,
    "RequestLimitExceeded": Outcome.THROTTLED,
}
_ACCEPTED_STATUSES = {"sent", "queued", "scheduled"}
_SUPPRESSED = {"hard-bounce", "soft-bounce", "spam", "unsub", "custom", "rule", "invalid"}
_QUOTA_REASONS = {
    *("sending-suspended", "account-suspended", "sending-paused"),
    *("monthly-limit-reached", "hourly-quota-exhausted", "free-trial-sends-exhausted"),
}
_BEST_FIRST = (  # the first of these that any recipient has is the e-mail's outcome
    Outcome.ACCEPTED,
    Outcome.UNKNOWN,
    Outcome.MISCONFIGURED,
    Outcome.UNSUITABLE,
    Outcome.REJECTED,
)


class Mandrill(HttpVendor):
    """Own key: ``api_key``. There is no sandbox; with a test key nothing is sent."""

    default_base_url = "https://mandrillapp.com"

    def can_carry(self, email: Email) -> str | None:
        """Not an envelope together with options for the message."""
        if email.display_only and (
            "message" in self.options(email)
            or any(name.lower().startswith("x-mc-") for name in email.headers)
        ):
            return "envelope with options for the message"
        return super().can_carry(email)

    def build(self, email: Email, attempt: Attempt) -> Request:
        """Options lie over the whole call: ``{"message": {"subaccount": "x"}, "ip_pool": "y"}``."""
        in_mime = bool(email.display_only)
        own = self._raw(email, attempt) if in_mime else {"message": self._message(email, attempt)}
        payload = merge(own, self.options(email))
        # It travels in the body. Options cannot replace it.
        payload["key"] = self.config.keys["api_key"]
        return json_request(f"/api/1.4/messages/{'send-raw' if in_mime else 'send'}", payload, {})

    def _raw(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        """The call for a MIME message, which has its options among its headers."""
        tags = ", ".join(tag for tag in self.tags(email) if tag.isascii() and "," not in tag)
        options = {
            "X-MC-PreserveRecipients": "true",  # else it rewrites To and Cc
            "X-MC-Metadata": json.dumps({**self.metadata(email), ID_KEY: attempt.email_id}),
            **({"X-MC-Tags": tags} if tags else {}),
        }
        message = self.mime(email, attempt, options).decode("ascii")
        people = (person for field in unique_recipients(email).values() for person in field)
        return {"raw_message": message, "to": [p.ascii for p in people]}

    def _message(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        sender = self.sender(email)
        message = {
            "from_email": sender.ascii,
            "from_name": sender.name,
            "to": _recipients(email),
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "headers": encoded_headers(email),
            "attachments": [_file(a, a.filename) for a in email.attachments if not a.content_id],
            # An inline image is found by its name.
            "images": [_file(a, a.content_id) for a in email.attachments if a.content_id],
            "tags": list(self.tags(email)),
            "metadata": {**self.metadata(email), ID_KEY: attempt.email_id},
            "preserve_recipients": True,  # else all get a mail with only themselves in To
        }
        return without_empty(message)

    def parse(self, response: Response, email: Email) -> SendResult:
        """A list of recipients, or ``{"status": "error", "code", "name", "message"}``."""
        if response.status == 200 and isinstance(response.json, list):
            return self._by_recipient(response, email)
        name, message = (response.string(key) for key in ("name", "message"))
        result = self.by_status(response, f"{name} {message}".strip())
        # Scheduling needs a balance; without a schedule the account may be fine.
        if name == "PaymentRequired" and "send_at" in self.options(email):
            return replace(result, outcome=Outcome.UNSUITABLE)
        return replace(result, outcome=_ERRORS.get(name, result.outcome))

    def _by_recipient(self, response: Response, email: Email) -> SendResult:
        entries = mappings(response.json)
        outcomes = [_outcome(entry) for entry in entries]
        outcome = next((each for each in _BEST_FIRST if each in outcomes), Outcome.UNKNOWN)
        result = SendResult(outcome=outcome, code="200", detail=_reasons(entries))
        if outcome is not Outcome.ACCEPTED:
            return result

        def recipients(*wanted: Outcome) -> tuple[str, ...]:
            of_outcome = (entry for o, entry in zip(outcomes, entries, strict=True) if o in wanted)
            return matching_recipients(email, [entry.get("email") for entry in of_outcome])

        return replace(
            result,
            message_id=text(entries[outcomes.index(outcome)].get("_id")) or None,
            refused=recipients(Outcome.REJECTED),
            pending=recipients(Outcome.MISCONFIGURED, Outcome.UNSUITABLE),
            # It is held there and may still go out, so no other vendor gets it.
            quota_held=any(text(entry.get("queued_reason")) in _QUOTA_REASONS for entry in entries),
        )


def _recipients(email: Email) -> list[dict[str, str]]:
    return [
        {"email": person.ascii, "type": field, **({"name": person.name} if person.name else {})}
        for field, people in unique_recipients(email).items()
        for person in people
    ]


def _file(attachment: Attachment, name: str | None) -> dict[str, Any]:
    content = base64_text(attachment.content)
    return {"type": attachment.content_type, "name": name, "content": content}


def _outcome(entry: Mapping[str, Any]) -> Outcome:
    match text(entry.get("status")), text(entry.get("reject_reason")):
        case status, _ if status in _ACCEPTED_STATUSES:
            return Outcome.ACCEPTED
        case "invalid", _:
            return Outcome.REJECTED
        case "rejected", "test-mode-limit":
            return Outcome.MISCONFIGURED
        case "rejected", reason:
            return Outcome.REJECTED if reason in _SUPPRESSED else Outcome.UNSUITABLE
    return Outcome.UNKNOWN


def _reasons(entries: Sequence[Mapping[str, Any]]) -> str:
    keys = ("status", "reject_reason", "queued_reason")
    words = (" ".join(filter(None, (text(entry.get(key)) for key in keys))) for entry in entries)
    return ", ".join(dict.fromkeys(words))
