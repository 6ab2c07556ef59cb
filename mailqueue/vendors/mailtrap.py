"""Mailtrap: ``POST /api/send``.

Decides: what a request to Mailtrap looks like and what its answers mean. Facts: Mailtrap's
email-sending-transactional.openapi.yml and sandbox-sending.openapi.yml.

==============================================  ==================================================
answer                                          outcome
==============================================  ==================================================
200 with ``success`` and ``message_ids``        accepted, the first recipient's id
200 otherwise                                   unknown
400                                             unsuitable: another vendor may take it
401 403                                         misconfigured, or unsuitable (below)
429 (150 requests in 10 s)                      throttled
==============================================  ==================================================

401 says "Unauthorized" for a wrong token and for a From domain that is not verified. It is the
domain's fault, and the e-mail unsuitable, if Mailtrap has accepted e-mails from another domain and
has refused no third domain since. Otherwise we assume a wrong token, since no e-mail fails then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Attachment, Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.payloads import (
    base64_text,
    encoded_headers,
    merge,
    named_address,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import first, identifier, text

INBOX = "inbox_id"
_SANDBOX = "https://sandbox.api.mailtrap.io"


class Mailtrap(HttpVendor):
    """Own key: ``api_key``. Bulk stream: ``base_url`` ``https://bulk.api.mailtrap.io``.

    The sandbox keeps e-mails in the inbox that the option ``inbox_id`` names.
    """

    default_base_url = "https://send.api.mailtrap.io"
    has_sandbox = True

    def __init__(self, config: VendorConfig) -> None:
        if config.sandbox and not config.options.get(INBOX):
            raise ConfigError([f"vendors.{config.name}.options.{INBOX}: the sandbox needs it"])
        if config.sandbox and not config.base_url:
            config = replace(config, base_url=_SANDBOX)
        super().__init__(config)
        self._accepted_domain = ""  # the From domain of the last e-mail that was accepted
        self._refused_domains: set[str] = set()  # those refused since

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One JSON object. Reply-To is a header, since the field takes one address only."""
        options = self.options(email)
        inbox = quote(str(options.pop(INBOX, "")), safe="")
        path = f"/api/send/{inbox}" if self.config.sandbox else "/api/send"
        payload = merge(self._payload(email, attempt), options)
        return json_request(path, payload, {"Api-Token": self.config.keys["api_key"]})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        people = unique_recipients(email).items()
        payload = {
            "from": named_address(self.sender(email)),
            **{field: list(map(named_address, addresses)) for field, addresses in people},
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "attachments": [_file(a) for a in email.attachments],
            "headers": encoded_headers(email),
            "custom_variables": {**self.metadata(email), ID_KEY: attempt.email_id},
            "category": next(iter(self.tags(email)), ""),
        }
        return without_empty(payload)

    def parse(self, response: Response, email: Email) -> SendResult:
        """Mailtrap's own rows; its errors are ``{"success": false, "errors": ["..."]}``."""
        domain = self.sender(email).ascii.rpartition("@")[2].lower()
        errors = response.object.get("errors")
        success = response.object.get("success") is True and not errors
        # One id for each recipient, in the order to, cc, bcc. The sandbox gives one.
        message_id = identifier(first(response.object.get("message_ids")))
        if response.status == 200 and success and message_id:
            self._accepted_domain = domain
            self._refused_domains.clear()
            return SendResult(outcome=Outcome.ACCEPTED, code="200", message_id=message_id)
        words = filter(None, map(text, errors)) if isinstance(errors, list) else ()
        result = self.by_status(response, ", ".join(words))
        if (
            response.status in (401, 403)
            and not response.is_html  # HTML is no answer of the API
            and self._is_domains_fault(domain)
        ):
            return replace(result, outcome=Outcome.UNSUITABLE)
        return result

    def _is_domains_fault(self, domain: str) -> bool:
        """Note that this domain was refused, and say whether it is to blame, not the token."""
        self._refused_domains.add(domain)
        other_works = self._accepted_domain not in ("", domain)
        return other_works and self._refused_domains == {domain}


def _file(attachment: Attachment) -> dict[str, str]:
    entry = {
        "content": base64_text(attachment.content),
        "filename": attachment.filename,
        "type": attachment.content_type,
        "disposition": "attachment",
    }
    if attachment.content_id:
        entry |= {"disposition": "inline", "content_id": attachment.content_id}
    return entry
