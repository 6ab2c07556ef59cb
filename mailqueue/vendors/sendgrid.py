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

The status alone tells acceptance, so a 202 whose body is cut is accepted all the same.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mailqueue.headers import Address
from mailqueue.message import Attachment, Email
from mailqueue.record import Outcome, SendResult
from mailqueue.vendors.base import ID_KEY, Attempt, merged
from mailqueue.vendors.http import Answer, HttpVendor, Request, json_request


class SendGrid(HttpVendor):
    """Own key: ``api_key``. ``base_url`` is ``https://api.eu.sendgrid.com`` for EU subusers."""

    default_base_url = "https://api.sendgrid.com"
    has_sandbox = True

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One personalization: everybody sees the same To and Cc."""
        payload = merged(self._payload(email, attempt), self.options(email))
        key = self.config.keys["api_key"]
        return json_request("/v3/mail/send", payload, {"Authorization": f"Bearer {key}"})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        payload = {
            "personalizations": [_recipients(email)],
            "from": _person(self.sender(email)),
            "reply_to_list": list(_unseen(email.reply_to, set())),  # it insists on unique ones
            "subject": email.subject,
            "content": _content(email),
            "attachments": [_attachment(a) for a in email.attachments],
            "headers": {**email.headers, "Message-ID": attempt.message_id},
            "categories": list(dict.fromkeys(email.tags)),
            "custom_args": {**email.metadata, ID_KEY: attempt.email_id},
        }
        if self.config.sandbox:
            payload["mail_settings"] = {"sandbox_mode": {"enable": True}}
        return {name: value for name, value in payload.items() if value}  # empty ones are refused

    def parse(self, answer: Answer, email: Email) -> SendResult:
        """SendGrid's own rows; its errors are ``{"errors": [{"message", "field"}]}``."""
        if answer.status == 202 or (answer.status == 200 and self._sandbox(email)):
            message_id = answer.headers.get("X-Message-Id")
            return SendResult(
                outcome=Outcome.ACCEPTED, code=str(answer.status), message_id=message_id
            )
        message = _message(answer)
        result = self.by_status(answer, message)
        if answer.status == 403 and "verified sender identity" in message.lower():
            return replace(result, outcome=Outcome.UNSUITABLE)
        if answer.status == 403 and "too many bad requests" in message.lower():
            return replace(result, outcome=Outcome.UNAVAILABLE)
        if answer.status == 451:
            return replace(result, outcome=Outcome.MISCONFIGURED)
        if answer.status == 429 and result.retry_after is None:
            return replace(result, retry_after=_until_reset(answer))
        return result

    def _sandbox(self, email: Email) -> bool:
        settings = _object(self.options(email).get("mail_settings"))
        return self.config.sandbox or bool(_object(settings.get("sandbox_mode")).get("enable"))


def _recipients(email: Email) -> dict[str, Any]:
    """To, cc and bcc; an address may stand only once in all three together."""
    seen: set[str] = set()
    fields = {"to": email.to, "cc": email.cc, "bcc": email.bcc}
    entries = {name: list(_unseen(people, seen)) for name, people in fields.items()}
    return {name: people for name, people in entries.items() if people}


def _unseen(people: Iterable[Address], seen: set[str]) -> Iterable[dict[str, str]]:
    for person in people:
        entry = _person(person)
        if entry["email"].lower() not in seen:
            seen.add(entry["email"].lower())
            yield entry


def _person(address: Address) -> dict[str, str]:
    entry = {"email": address.ascii}
    return {**entry, "name": address.name} if address.name else entry


def _content(email: Email) -> list[dict[str, str]]:
    """The text first: SendGrid insists."""
    bodies = (("text/plain", email.text), ("text/html", email.html))
    return [{"type": kind, "value": body} for kind, body in bodies if body]


def _attachment(attachment: Attachment) -> dict[str, str]:
    entry = {
        "content": b64encode(attachment.content).decode("ascii"),
        "type": attachment.content_type,
        "filename": attachment.filename.translate(_FILENAME),
        "disposition": "attachment",
    }
    if attachment.content_id:
        entry |= {"disposition": "inline", "content_id": attachment.content_id}
    return entry


_FILENAME = str.maketrans(";,", "__")  # both are refused in a file name


def _object(value: Any) -> dict[str, Any]:
    """An option that should be an object, whatever was given."""
    return value if isinstance(value, dict) else {}


def _message(answer: Answer) -> str:
    errors = answer.object.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, str) else ""


def _until_reset(answer: Answer) -> float | None:
    reset = answer.headers.get("X-RateLimit-Reset", "").strip()
    return max(0.0, int(reset[:12]) - answer.now) if reset.isascii() and reset.isdigit() else None
