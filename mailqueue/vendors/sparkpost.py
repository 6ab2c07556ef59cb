"""SparkPost: ``POST /api/v1/transmissions``.

Decides: what a request to SparkPost looks like and what its answers mean. Facts: SparkPost's
transmissions.apib and index.apib.

===============================================  ============================================
answer                                           outcome
===============================================  ============================================
200, all recipients accepted                     accepted, the transmission's id
200 with ``errors``, some recipients accepted    accepted; refused are those it names
200, no recipient accepted                       rejected
400 (7001: From domain not verified), 422        unsuitable: another vendor may take it
401 403                                          misconfigured
420 (2101: sending limit exceeded)               misconfigured: nothing was sent
===============================================  ============================================

A template engine reads every mail there. ``perform_substitutions`` turns it off for the bodies; in
headers it stays on and its escapes are off, so ``limits`` passes SparkPost over for e-mails with
``{{`` in subject, names or headers. Unknown fields are ignored without a word.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mailqueue.headers import Address
from mailqueue.message import Attachment, Email
from mailqueue.record import Outcome, SendResult
from mailqueue.vendors.base import ID_KEY, Attempt, everyone_once, merged, named
from mailqueue.vendors.http import Answer, HttpVendor, Request, json_request

_MAILBOX = re.compile(r"[^\s<>\"'(),:;]+@[^\s<>\"'(),:;]+")


class SparkPost(HttpVendor):
    """Own key: ``api_key``. In the EU: ``base_url`` ``https://api.eu.sparkpost.com``.

    Its sandbox sends one template of its own, five times in an account's life: none for us.
    """

    default_base_url = "https://api.sparkpost.com"

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One transmission; each recipient gets a mail of its own, with the same To and Cc."""
        payload = {
            "options": {"perform_substitutions": False},
            "recipients": _recipients(email),
            "content": self._content(email),
            "metadata": {**email.metadata, ID_KEY: attempt.email_id},
            "campaign_id": next(iter(email.tags), None),
        }
        payload = {name: value for name, value in payload.items() if value}
        key = {"Authorization": self.config.keys["api_key"]}
        return json_request("/api/v1/transmissions", merged(payload, self.options(email)), key)

    def _content(self, email: Email) -> dict[str, Any]:
        sender = self.sender(email)
        name = {"name": sender.name} if sender.name else {}
        headers = {**email.headers, "CC": _people(email.cc)}
        content = {
            "from": {"email": sender.ascii, **name},
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "reply_to": _people(email.reply_to),
            "headers": {name: value for name, value in headers.items() if value or name != "CC"},
            "attachments": [_file(a) for a in email.attachments if not a.content_id],
            "inline_images": [_file(a) for a in email.attachments if a.content_id],
        }
        return {name: value for name, value in content.items() if value}

    def parse(self, answer: Answer, email: Email) -> SendResult:
        """SparkPost's own rows; its errors are ``{"errors": [{"message", "description"}]}``."""
        result = self.by_status(answer, _detail(answer))
        if answer.status == 420:
            return replace(result, outcome=Outcome.MISCONFIGURED)
        results = answer.object.get("results")
        if answer.status != 200 or not isinstance(results, dict):
            return result
        accepted, message_id = results.get("total_accepted_recipients"), results.get("id")
        if accepted == 0 and accepted is not False:
            return replace(result, outcome=Outcome.REJECTED, refused=_everyone(email))
        if not isinstance(accepted, int) or not isinstance(message_id, str | int):
            return result
        refused = named(email, _MAILBOX.findall(str(results.get("rcpt_to_errors", ""))))
        detail = result.detail if results.get("total_rejected_recipients") else ""
        return SendResult(
            outcome=Outcome.ACCEPTED,
            code="200",
            detail=detail,
            message_id=str(message_id),
            refused=refused if len(refused) < len(email.recipients) else (),
        )


def _recipients(email: Email) -> list[dict[str, Any]]:
    shown = _people(email.to)
    people = (person for field in everyone_once(email).values() for person in field)
    return [{"address": {"email": person.ascii, "header_to": shown}} for person in people]


def _people(addresses: Iterable[Address]) -> str:
    return ", ".join(str(Address(a.name, a.ascii)) for a in addresses)


def _everyone(email: Email) -> tuple[str, ...]:
    return tuple(person.address for person in email.recipients)


def _file(attachment: Attachment) -> dict[str, str]:
    """An inline image is found by its name."""
    return {
        "name": attachment.content_id or attachment.filename,
        "type": attachment.content_type,
        "data": b64encode(attachment.content).decode("ascii"),
    }


def _detail(answer: Answer) -> str:
    errors = answer.object.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    error: Mapping[str, Any] = first if isinstance(first, dict) else {}
    parts = (error.get(name) for name in ("code", "message", "description"))
    return ": ".join(part for part in parts if isinstance(part, str))
