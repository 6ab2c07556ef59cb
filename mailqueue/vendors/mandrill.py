"""Mandrill (Mailchimp Transactional): ``POST /api/1.4/messages/send``.

Decides: what a request to Mandrill looks like and what its answers mean. Facts: Mailchimp's
transactional.openapi.json.

A 200 is a list, one entry per recipient, each with a status of its own:

==============================================  ==================================================
entry                                           that recipient
==============================================  ==================================================
``sent`` ``queued`` ``scheduled``               accepted
``queued``, account suspended or quota spent    accepted and held: no more e-mails there
``rejected``: bounced, complained, ruled out    rejected
``rejected`` ``unsigned`` ``invalid-sender``    unsuitable: the From domain is not verified there
``rejected`` ``test-mode-limit``                misconfigured
``rejected`` for another reason                 unsuitable
``invalid``                                     rejected
==============================================  ==================================================

The e-mail is accepted if anybody's was; who was rejected is recorded, the others are tried again.
Else the most hopeful outcome stands. Errors are told by their ``name``: the status differs for the
same error, an invalid key has been seen with 401 and with 500.

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

from base64 import b64encode
from dataclasses import replace
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Attachment, Email
from mailqueue.vendors.base import (
    Attempt,
    encoded_headers,
    matching_recipients,
    merged,
    text,
    unique_recipients,
)
from mailqueue.vendors.http import Answer, HttpVendor, Request, json_request
from mailqueue.vendors.labels import ID_KEY

_ERRORS = {
    "Invalid_Key": Outcome.MISCONFIGURED,
    "Unknown_Subaccount": Outcome.MISCONFIGURED,
    "PaymentRequired": Outcome.MISCONFIGURED,
    "ValidationError": Outcome.UNSUITABLE,
    "RequestLimitExceeded": Outcome.THROTTLED,
}
_TAKEN = {"sent", "queued", "scheduled"}
_SUPPRESSED = {"hard-bounce", "soft-bounce", "spam", "unsub", "custom", "rule", "invalid"}
_HELD = {
    *("sending-suspended", "account-suspended", "sending-paused"),
    *("monthly-limit-reached", "hourly-quota-exhausted", "free-trial-sends-exhausted"),
}
_HOPEFUL = (  # the first that any recipient has is the e-mail's
    Outcome.ACCEPTED,
    Outcome.UNKNOWN,
    Outcome.MISCONFIGURED,
    Outcome.UNSUITABLE,
    Outcome.REJECTED,
)


class Mandrill(HttpVendor):
    """Own key: ``api_key``. There is no sandbox but a test key, which sends nothing."""

    default_base_url = "https://mandrillapp.com"

    def build(self, email: Email, attempt: Attempt) -> Request:
        """Options lie over the whole call: ``{"message": {"subaccount": "x"}, "ip_pool": "y"}``."""
        payload = merged({"message": self._message(email, attempt)}, self.options(email))
        payload["key"] = self.config.keys["api_key"]
        return json_request("/api/1.4/messages/send", payload, {})

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
            "images": [_file(a, a.content_id) for a in email.attachments if a.content_id],
            "tags": list(self.tags(email)),
            "metadata": {**self.metadata(email), ID_KEY: attempt.email_id},
            "preserve_recipients": True,  # else everybody gets a mail with only themselves in To
        }
        return {name: value for name, value in message.items() if value}

    def parse(self, answer: Answer, email: Email) -> SendResult:
        """A list of recipients, or ``{"status": "error", "code", "name", "message"}``."""
        if answer.status == 200 and isinstance(answer.json, list):
            return self._by_recipient(answer, email)
        name, message = (answer.string(key) for key in ("name", "message"))
        result = self.by_status(answer, f"{name} {message}".strip())
        if name == "PaymentRequired" and "send_at" in self.options(email):
            return replace(result, outcome=Outcome.UNSUITABLE)
        return replace(result, outcome=_ERRORS.get(name, result.outcome))

    def _by_recipient(self, answer: Answer, email: Email) -> SendResult:
        entries = [entry for entry in answer.json if isinstance(entry, dict)]
        told = [(_outcome(entry), entry) for entry in entries]
        outcome = next((o for o in _HOPEFUL if any(o is t for t, _ in told)), Outcome.UNKNOWN)
        first = next((entry for o, entry in told if o is outcome), {})
        result = SendResult(outcome=outcome, code="200", detail=_reasons(entries))
        if outcome is not Outcome.ACCEPTED:
            return result
        refused = [e.get("email") for o, e in told if o is Outcome.REJECTED]
        put_off = (Outcome.MISCONFIGURED, Outcome.UNSUITABLE)
        return replace(
            result,
            message_id=text(first.get("_id")) or None,
            refused=matching_recipients(email, refused),
            pending=matching_recipients(email, [e.get("email") for o, e in told if o in put_off]),
            quota_held=any(text(entry.get("queued_reason")) in _HELD for entry in entries),
        )


def _recipients(email: Email) -> list[dict[str, str]]:
    return [
        {"email": person.ascii, "type": field, **({"name": person.name} if person.name else {})}
        for field, people in unique_recipients(email).items()
        for person in people
    ]


def _file(attachment: Attachment, name: str | None) -> dict[str, Any]:
    content = b64encode(attachment.content).decode("ascii")
    return {"type": attachment.content_type, "name": name, "content": content}


def _outcome(entry: dict[str, Any]) -> Outcome:
    match text(entry.get("status")), text(entry.get("reject_reason")):
        case status, _ if status in _TAKEN:
            return Outcome.ACCEPTED
        case "invalid", _:
            return Outcome.REJECTED
        case "rejected", "test-mode-limit":
            return Outcome.MISCONFIGURED
        case "rejected", reason:
            return Outcome.REJECTED if reason in _SUPPRESSED else Outcome.UNSUITABLE
    return Outcome.UNKNOWN


def _reasons(entries: list[dict[str, Any]]) -> str:
    keys = ("status", "reject_reason", "queued_reason")
    words = (" ".join(filter(None, (text(entry.get(key)) for key in keys))) for entry in entries)
    return ", ".join(dict.fromkeys(words))
