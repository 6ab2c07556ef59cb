"""Mailjet: ``POST /v3.1/send``; ``lookup`` by ``GET /v3/REST/message``.

Decides: what a request to Mailjet looks like and what its answers mean. Facts: Mailjet's
api-documentation, guides/_send-api.md.

A request is a list of messages, each with its own ``Status``; the HTTP status is about the whole
list. We send one message, and its own status decides.

===============================================  ============================================
answer                                           outcome
===============================================  ============================================
200 or 400, our message's ``Status`` "success"   accepted
``Status`` "error": ``mj-0001``, ``mj-0015``     misconfigured (suspended, credentials)
``Status`` "error" with a ``StatusCode`` of 5xx  unavailable
``Status`` "error", others (sender, headers...)  unsuitable: another vendor may take it
400 without messages: nothing was sent           unsuitable
401                                              misconfigured
429 in HTML                                      throttled
===============================================  ============================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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
    basic_login,
    is_earlier,
    merge,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import code_and_text, first, identifier, mapping, text

_ACCOUNT_ERRORS = {"mj-0001", "mj-0015"}
_ROOT = ("Messages", "SandboxMode", "Globals")  # in this order: equal bytes


class Mailjet(HttpVendor):
    """Own keys: ``api_key``, ``secret_key``. Options are the message's, or of the root."""

    default_base_url = "https://api.mailjet.com"
    has_sandbox = True

    def build(self, email: Email, attempt: Attempt) -> Request:
        """A list of one message."""
        options = self.options(email)
        root = {name: options.pop(name) for name in _ROOT if name in options}
        payload: dict[str, Any] = {"Messages": [merge(self._message(email, attempt), options)]}
        if self.config.sandbox:
            payload["SandboxMode"] = True
        return json_request("/v3.1/send", merge(payload, root), self._login())

    def lookup(self, email: Email, attempt: Attempt) -> SendResult | None:  # noqa: ARG002  # the port's
        """The message under our id as its ``CustomID``; None proves nothing."""
        query = {"CustomID": attempt.email_id, "Limit": "1"}
        messages = self.ask("/v3/REST/message", query, self._login(), attempt).get("Data")
        message = mapping(first(messages))
        message_id = identifier(message.get("ID"))
        if message_id is None or message.get("CustomID", attempt.email_id) != attempt.email_id:
            return None
        if is_earlier(message.get("ArrivedAt"), attempt.date):
            return None
        return SendResult(outcome=Outcome.ACCEPTED, code="found", message_id=message_id)

    def _login(self) -> Mapping[str, str]:
        keys = self.config.keys
        return basic_login(keys["api_key"], keys["secret_key"])

    def _message(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        metadata = {**self.metadata(email), ID_KEY: attempt.email_id}
        people = unique_recipients(email).items()
        message = {
            "From": _person(self.sender(email)),
            **{field.capitalize(): _people(addresses) for field, addresses in people},
            "ReplyTo": next(iter(_people(email.reply_to)), None),
            "Subject": email.subject,
            "TextPart": email.text,
            "HTMLPart": email.html,
            "Headers": ascii_headers(email),
            "Attachments": [_file(a) for a in email.attachments if not a.content_id],
            "InlinedAttachments": [_file(a) for a in email.attachments if a.content_id],
            "CustomCampaign": next(iter(self.tags(email)), None),
            "CustomID": attempt.email_id,
            "EventPayload": json.dumps(metadata, ensure_ascii=False),
        }
        return without_empty(message)

    def parse(self, response: Response, email: Email) -> SendResult:  # noqa: ARG002  # the port's
        """Mailjet's own rows; errors are ``{"ErrorCode", "ErrorMessage", "StatusCode"}``."""
        message = mapping(first(response.object.get("Messages")))
        # A list with an error gets a 400, also if some of its messages went out.
        if response.status in {200, 400} and message.get("Status") == "success":
            return SendResult(
                outcome=Outcome.ACCEPTED, code=str(response.status), message_id=_message_id(message)
            )
        error = mapping(first(message.get("Errors"))) or response.object
        code = text(error.get("ErrorCode"))
        result = self.by_status(response, code_and_text(code, text(error.get("ErrorMessage"))))
        if code in _ACCOUNT_ERRORS and 400 <= response.status < 429:
            return replace(result, outcome=Outcome.MISCONFIGURED)
        # 429 and 5xx are about the whole request.
        if message.get("Status") != "error" or response.status >= 429:
            return result
        status = error.get("StatusCode")
        if isinstance(status, int) and status >= 500:
            return replace(result, outcome=Outcome.UNAVAILABLE)
        return replace(result, outcome=Outcome.UNSUITABLE)


def _person(address: Address) -> dict[str, str]:
    entry = {"Email": address.ascii}
    return {**entry, "Name": address.name} if address.name else entry


def _people(addresses: Iterable[Address]) -> list[dict[str, str]]:
    return list(map(_person, addresses))


def _file(attachment: Attachment) -> dict[str, str]:
    """The type goes without parameters: Mailjet adds its own charset to text."""
    entry = {
        "ContentType": bare_type(attachment),
        "Filename": attachment.filename,
        "Base64Content": base64_text(attachment.content),
    }
    cid = attachment.content_id
    return {**entry, "ContentID": cid} if cid else entry


def _message_id(message: Mapping[str, Any]) -> str | None:
    """A 64-bit number, as text. The sandbox gives none."""
    return identifier(mapping(first(message.get("To"))).get("MessageID"))
