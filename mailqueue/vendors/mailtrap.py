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
refused no third one since; else the token is taken to be wrong, for then nothing is lost.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Attachment, Email
from mailqueue.vendors.base import (
    Attempt,
    encoded_headers,
    first,
    identifier,
    merged,
    text,
    unique_recipients,
)
from mailqueue.vendors.http import Answer, HttpVendor, Request, json_request
from mailqueue.vendors.labels import ID_KEY

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
        self._proven = ""  # the From domain of the last e-mail that was accepted
        self._denied: set[str] = set()  # those refused since

    def build(self, email: Email, attempt: Attempt) -> Request:
        """Reply-To is a header, since the field takes one address only."""
        options = self.options(email)
        inbox = quote(str(options.pop(INBOX, "")), safe="")
        path = f"/api/send/{inbox}" if self.config.sandbox else "/api/send"
        payload = merged(self._payload(email, attempt), options)
        return json_request(path, payload, {"Api-Token": self.config.keys["api_key"]})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        people = unique_recipients(email).items()
        payload = {
            "from": _person(self.sender(email)),
            **{field: [_person(address) for address in addresses] for field, addresses in people},
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "attachments": [_file(a) for a in email.attachments],
            "headers": encoded_headers(email),
            "custom_variables": {**self.metadata(email), ID_KEY: attempt.email_id},
            "category": next(iter(self.tags(email)), ""),
        }
        return {name: value for name, value in payload.items() if value}

    def parse(self, answer: Answer, email: Email) -> SendResult:
        """Mailtrap's own rows; its errors are ``{"success": false, "errors": ["..."]}``."""
        domain = self.sender(email).ascii.rpartition("@")[2].lower()
        ids, errors = answer.object.get("message_ids"), answer.object.get("errors")
        success = answer.object.get("success") is True and not errors
        message_id = identifier(first(ids))
        if answer.status == 200 and success and message_id:
            self._proven = domain
            self._denied.clear()
            return SendResult(outcome=Outcome.ACCEPTED, code="200", message_id=message_id)
        words = filter(None, map(text, errors)) if isinstance(errors, list) else ()
        result = self.by_status(answer, ", ".join(words))
        if answer.status in (401, 403) and not answer.html and self._domain_to_blame(domain):
            return replace(result, outcome=Outcome.UNSUITABLE)
        return result

    def _domain_to_blame(self, domain: str) -> bool:
        self._denied.add(domain)
        return self._proven not in ("", domain) and self._denied == {domain}


def _person(address: Address) -> dict[str, str]:
    entry = {"email": address.ascii}
    return {**entry, "name": address.name} if address.name else entry


def _file(attachment: Attachment) -> dict[str, str]:
    entry = {
        "content": b64encode(attachment.content).decode("ascii"),
        "filename": attachment.filename,
        "type": attachment.content_type,
        "disposition": "attachment",
    }
    if attachment.content_id:
        entry |= {"disposition": "inline", "content_id": attachment.content_id}
    return entry
