"""SendGrid: ``POST /v3/mail/send``.

Decides: what a request to SendGrid looks like and what its answers mean. Facts:
twilio/sendgrid-oai (tsg_mail_v3.json) and twilio.com/docs/sendgrid.

===============================================  ============================================
answer                                           outcome
===============================================  ============================================
202                                              accepted, id in ``X-Message-Id``
200, sandbox mode asked for                      accepted (nothing is sent)
400                                              unsuitable: another vendor may take it
401 (key, "Maximum credits exceeded")            misconfigured
403 From is not a verified Sender Identity       unsuitable
403 "Too many bad requests" (a temporary block)  unavailable
403 "access forbidden" and others                misconfigured
429                                              throttled until ``X-RateLimit-Reset`` (epoch)
451 (the wrong region's host)                    misconfigured
===============================================  ============================================

The status alone means acceptance, so a 202 whose body is cut is accepted too.

Metadata are ``custom_args``, which SendGrid mixes with the fields of its events. Names that are
fields of an event get the prefix ``metadata_``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Attachment, Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.limits import bare_type
from mailqueue.vendors.payloads import (
    ascii_headers,
    base64_text,
    merge,
    named_address,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import first, mapping, text

_PREFIX = "metadata_"
_EVENT_FIELDS = re.compile(
    rf"({_PREFIX})*(asm_group_id|attempt|bounce_classification|category|cert_err|custom_args|email|"
    r"event|ip|marketing_campaign_.*|newsletter.*|pool|post_type|reason|response|send_at|sg_.*|"
    r"singlesend_.*|smtp-id|status|template_id|timestamp|tls|type|unique_args|url|url_offset|"
    r"useragent)",
    re.DOTALL,
)


class SendGrid(HttpVendor):
    """Own key: ``api_key``. ``base_url`` is ``https://api.eu.sendgrid.com`` for EU subusers."""

    default_base_url = "https://api.sendgrid.com"
    has_sandbox = True

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One personalization: all recipients see the same To and Cc."""
        payload = merge(self._payload(email, attempt), self.options(email))
        key = self.config.keys["api_key"]
        return json_request("/v3/mail/send", payload, {"Authorization": f"Bearer {key}"})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        people = unique_recipients(email).items()
        metadata = {_arg(name): value for name, value in self.metadata(email).items()}
        payload = {
            "personalizations": [{f: list(map(named_address, group)) for f, group in people}],
            "from": named_address(self.sender(email)),
            "reply_to_list": _unique(email.reply_to),  # repeated ones are refused
            "subject": email.subject,
            "content": _content(email),
            "attachments": [_attachment(a) for a in email.attachments],
            "headers": {**ascii_headers(email), "Message-ID": attempt.message_id},
            "categories": list(self.tags(email)),
            "custom_args": {**metadata, ID_KEY: attempt.email_id},
        }
        if self.config.sandbox:
            payload["mail_settings"] = {"sandbox_mode": {"enable": True}}
        return without_empty(payload)

    def parse(self, response: Response, email: Email) -> SendResult:
        """SendGrid's own rows; its errors are ``{"errors": [{"message", "field"}]}``."""
        # In sandbox mode the yes is a 200. Without it, 200 is no documented answer.
        if response.status == 202 or (response.status == 200 and self._sandbox(email)):
            message_id = response.headers.get("X-Message-Id")
            return SendResult(
                outcome=Outcome.ACCEPTED, code=str(response.status), message_id=message_id
            )
        message = _message(response)
        result = self.by_status(response, message)
        if response.status == 403 and "verified sender identity" in message.lower():
            return replace(result, outcome=Outcome.UNSUITABLE)
        if response.status == 403 and "too many bad requests" in message.lower():
            return replace(result, outcome=Outcome.UNAVAILABLE)
        # The account's data are in another region than this host.
        if response.status == 451:
            return replace(result, outcome=Outcome.MISCONFIGURED)
        if response.status == 429 and result.retry_after is None:
            return replace(result, retry_after=_until_reset(response))
        return result

    def _sandbox(self, email: Email) -> bool:
        settings = mapping(self.options(email).get("mail_settings"))
        return self.config.sandbox or bool(mapping(settings.get("sandbox_mode")).get("enable"))


def _arg(name: str) -> str:
    return f"{_PREFIX}{name}" if _EVENT_FIELDS.fullmatch(name) else name


def _unique(people: Iterable[Address]) -> list[dict[str, str]]:
    mailboxes: dict[str, Address] = {}
    for person in people:
        mailboxes.setdefault(person.identity.lower(), person)
    return list(map(named_address, mailboxes.values()))


def _content(email: Email) -> list[dict[str, str]]:
    """The bodies; SendGrid requires the text first."""
    bodies = (("text/plain", email.text), ("text/html", email.html))
    return [{"type": kind, "value": body} for kind, body in bodies if body]


def _attachment(attachment: Attachment) -> dict[str, str]:
    entry = {
        "content": base64_text(attachment.content),
        "type": bare_type(attachment),  # with parameters it is refused
        "filename": attachment.filename.translate(_FORBIDDEN_IN_NAMES),
        "disposition": "attachment",
    }
    if attachment.content_id:
        entry |= {"disposition": "inline", "content_id": attachment.content_id}
    return entry


# SendGrid takes neither in a file name.
_FORBIDDEN_IN_NAMES = str.maketrans(";,", "__")


def _message(response: Response) -> str:
    return text(mapping(first(response.object.get("errors"))).get("message"))


def _until_reset(response: Response) -> float | None:
    reset = response.headers.get("X-RateLimit-Reset", "").strip()
    return max(0.0, int(reset[:12]) - response.now) if reset.isascii() and reset.isdigit() else None
