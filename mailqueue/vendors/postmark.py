"""Postmark: ``POST /email``; ``lookup`` by ``GET /messages/outbound``.

Decides: what a request to Postmark looks like and what its answers mean. Facts: Postmark's Python
SDK, its error codes, and "Custom metadata FAQ" for the search.

The ``ErrorCode`` in the body decides, not the status. Its numbers look like HTTP statuses, but are
not.

===============================================  ============================================
answer                                           outcome
===============================================  ============================================
200, ``ErrorCode`` 0 or none, ``MessageID``      accepted
the same, "inactive addresses: ..."              accepted, those addresses refused
406, all recipients inactive                     rejected (suppressed); some: unsuitable
10 (token), 405 (credits), 412, 413 (account)    misconfigured
1235, 1236 (message stream)                      misconfigured
100 (maintenance)                                unavailable
300, 400, 401 (signature), 411 and other 422     unsuitable: another vendor may take it
403 in HTML: the network layer, not the API      unavailable
===============================================  ============================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Attachment, Email
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.payloads import (
    ascii_headers,
    base64_text,
    is_earlier,
    mailbox_list,
    mailbox_text,
    merge,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import every_recipient, first, mapping, matching_recipients, text

_TEST_TOKEN = "POSTMARK_API_TEST"  # noqa: S105  # public: everything is accepted, nothing sent
_INACTIVE = ("inactive addresses:", "Inactive recipients")  # the texts around the addresses
_RECIPIENTS_INACTIVE = 406
_ERRORS = {
    10: Outcome.MISCONFIGURED,
    100: Outcome.UNAVAILABLE,
    405: Outcome.MISCONFIGURED,
    412: Outcome.MISCONFIGURED,
    413: Outcome.MISCONFIGURED,
    1235: Outcome.MISCONFIGURED,
    1236: Outcome.MISCONFIGURED,
}


class Postmark(HttpVendor):
    """Own keys: ``api_key`` (the server's token), ``message_stream`` (none: Postmark's default)."""

    default_base_url = "https://api.postmarkapp.com"
    has_sandbox = True

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One JSON object. Mailboxes are header text."""
        payload = merge(self._payload(email, attempt), self.options(email))
        return json_request("/email", payload, self._login())

    def lookup(self, email: Email, attempt: Attempt) -> SendResult | None:
        """The e-mail under our id in Postmark's metadata; None proves nothing."""
        query = {"count": "1", "offset": "0", f"metadata_{ID_KEY}": attempt.email_id}
        stream = self.options(email).get("MessageStream") or self.config.keys["message_stream"]
        if stream:
            query["messagestream"] = str(stream)
        messages = self.ask("/messages/outbound", query, self._login(), attempt).get("Messages")
        message = mapping(first(messages))
        message_id = text(message.get("MessageID"))
        if not message_id or is_earlier(message.get("ReceivedAt"), attempt.date):
            return None
        return SendResult(outcome=Outcome.ACCEPTED, code="found", message_id=message_id)

    def _login(self) -> Mapping[str, str]:
        token = _TEST_TOKEN if self.config.sandbox else self.config.keys["api_key"]
        return {"X-Postmark-Server-Token": token}

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        headers, people = ascii_headers(email).items(), unique_recipients(email).items()
        payload = {
            "From": mailbox_text(self.sender(email)),
            **{field.capitalize(): mailbox_list(addresses) for field, addresses in people},
            "ReplyTo": mailbox_list(email.reply_to),
            "Subject": email.subject,
            "TextBody": email.text,
            "HtmlBody": email.html,
            "Headers": [{"Name": name, "Value": value} for name, value in headers],
            "Attachments": [_attachment(a) for a in email.attachments],
            "Tag": next(iter(self.tags(email)), None),
            "Metadata": {**self.metadata(email), ID_KEY: attempt.email_id},
            "MessageStream": self.config.keys["message_stream"],
        }
        return without_empty(payload)

    def parse(self, response: Response, email: Email) -> SendResult:
        """Postmark's own rows; its errors are ``{"ErrorCode", "Message"}``."""
        code, message = _error_code(response), response.string("Message")
        inactive = matching_recipients(email, _inactive_addresses(message))
        if response.status == 200 and code in (None, 0):
            message_id = response.string("MessageID")
            if code is None or not message_id:
                return self.by_status(response, "200 without an id")
            return SendResult(
                outcome=Outcome.ACCEPTED, code="200", message_id=message_id, refused=inactive
            )
        result = self.by_status(response, f"{code}: {message}" if code else message)
        if code == _RECIPIENTS_INACTIVE:
            recipients = every_recipient(email)
            # Nothing was sent to anybody. If only some are inactive, another vendor may reach the
            # others.
            if len(recipients) in {1, len(inactive)}:
                return replace(result, outcome=Outcome.REJECTED, refused=recipients)
            return replace(result, outcome=Outcome.UNSUITABLE)
        if code in _ERRORS:
            return replace(result, outcome=_ERRORS[code])
        return replace(result, outcome=Outcome.UNSUITABLE) if response.status == 200 else result


def _attachment(attachment: Attachment) -> dict[str, str]:
    entry = {
        "Name": attachment.filename,
        "Content": base64_text(attachment.content),
        "ContentType": attachment.content_type,
    }
    cid = attachment.content_id
    # Postmark wants the prefix.
    return {**entry, "ContentID": f"cid:{cid}"} if cid else entry


def _error_code(response: Response) -> int | None:
    """0 if there is none, as in "delivery may be delayed"; None: it is no number."""
    code = response.object.get("ErrorCode", 0)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _inactive_addresses(message: str) -> list[str]:
    # No field has them, only the text, in lower case.
    begin, end = _INACTIVE
    addresses, closed, _ = message.partition(begin)[2].partition(end)
    return [address.strip(" .\n\r") for address in addresses.split(",")] if closed else []
