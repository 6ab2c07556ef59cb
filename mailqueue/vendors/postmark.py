"""Postmark: ``POST /email``; ``lookup`` by ``GET /messages/outbound``.

Decides: what a request to Postmark looks like and what its answers mean. Facts: Postmark's Python
SDK, its error codes, and "Custom metadata FAQ" for the search.

The ``ErrorCode`` in the body decides, not the status; its numbers look like statuses and are none.

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

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mailqueue.headers import Address
from mailqueue.message import Attachment, Email
from mailqueue.record import Outcome, SendResult
from mailqueue.vendors.base import ID_KEY, Attempt, merged, named
from mailqueue.vendors.http import Answer, HttpVendor, Request, json_request

_TEST_TOKEN = "POSTMARK_API_TEST"  # noqa: S105  # public: everything is accepted, nothing sent
_INACTIVE = re.compile(r"inactive addresses:\s*(.*)\.\s*Inactive recipients", re.DOTALL)
_RECIPIENTS_INACTIVE = 406
_MEANING = {
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
        """One JSON object; mailboxes are header text."""
        payload = merged(self._payload(email, attempt), self.options(email))
        return json_request("/email", payload, self._login())

    def lookup(self, email: Email, attempt: Attempt) -> SendResult | None:
        """The e-mail under our id in Postmark's metadata; None proves nothing."""
        query = {"count": "1", "offset": "0", f"metadata_{ID_KEY}": attempt.email_id}
        stream = self.options(email).get("MessageStream") or self.config.keys["message_stream"]
        if stream:
            query["messagestream"] = str(stream)
        found = self.ask("/messages/outbound", query, self._login(), attempt).get("Messages")
        first = found[0] if isinstance(found, list) and found else None
        message_id = first.get("MessageID") if isinstance(first, dict) else None
        if not isinstance(message_id, str):
            return None
        return SendResult(outcome=Outcome.ACCEPTED, code="found", message_id=message_id)

    def _login(self) -> Mapping[str, str]:
        token = _TEST_TOKEN if self.config.sandbox else self.config.keys["api_key"]
        return {"X-Postmark-Server-Token": token}

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        headers = email.headers.items()
        payload = {
            "From": _people([self.sender(email)]),
            "To": _people(email.to),
            "Cc": _people(email.cc),
            "Bcc": _people(email.bcc),
            "ReplyTo": _people(email.reply_to),
            "Subject": email.subject,
            "TextBody": email.text,
            "HtmlBody": email.html,
            "Headers": [{"Name": name, "Value": value} for name, value in headers],
            "Attachments": [_attachment(a) for a in email.attachments],
            "Tag": next(iter(email.tags), None),
            "Metadata": {**email.metadata, ID_KEY: attempt.email_id},
            "MessageStream": self.config.keys["message_stream"],
        }
        return {name: value for name, value in payload.items() if value}

    def parse(self, answer: Answer, email: Email) -> SendResult:
        """Postmark's own rows; its errors are ``{"ErrorCode", "Message"}``."""
        code, message = answer.object.get("ErrorCode"), answer.string("Message")
        detail = f"{code}: {message}" if code else message
        message_id = answer.string("MessageID")
        inactive = named(email, _inactive(message))
        if answer.status == 200 and not code:
            if not message_id:
                return self.by_status(answer, "200 without an id")
            return SendResult(
                outcome=Outcome.ACCEPTED, code="200", message_id=message_id, refused=inactive
            )
        result = self.by_status(answer, detail)
        if code == _RECIPIENTS_INACTIVE:
            everyone = tuple(person.address for person in email.recipients)
            if len(everyone) in {1, len(inactive)}:
                return replace(result, outcome=Outcome.REJECTED, refused=everyone)
            return replace(result, outcome=Outcome.UNSUITABLE)
        if isinstance(code, int) and code in _MEANING:
            return replace(result, outcome=_MEANING[code])
        return replace(result, outcome=Outcome.UNSUITABLE) if answer.status == 200 else result


def _people(addresses: Iterable[Address]) -> str:
    return ", ".join(str(Address(a.name, a.ascii)) for a in addresses)


def _attachment(attachment: Attachment) -> dict[str, str]:
    entry = {
        "Name": attachment.filename,
        "Content": b64encode(attachment.content).decode("ascii"),
        "ContentType": attachment.content_type,
    }
    cid = attachment.content_id
    return {**entry, "ContentID": f"cid:{cid}"} if cid else entry


def _inactive(message: str) -> list[str]:
    found = _INACTIVE.search(message)
    return [address.strip() for address in found[1].split(",")] if found else []
