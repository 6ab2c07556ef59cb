"""SparkPost: ``POST /api/v1/transmissions``.

Decides: what a request to SparkPost looks like and what its answers mean. Facts: SparkPost's
transmissions.apib and index.apib, its extended error codes.

===============================================  ============================================
answer                                           outcome
===============================================  ============================================
200, all recipients accepted                     accepted, the transmission's id
200 with ``errors``, some recipients accepted    accepted; refused are those it names
200, no recipient accepted                       rejected
400 with 1902 (the recipient is suppressed)      rejected
400 with 1502 (no resources, "retry later")      unavailable
400 with 1910 (generation not configured)        misconfigured
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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Attachment, Email
from mailqueue.vendors.base import (
    Attempt,
    ascii_headers,
    identifier,
    mapping,
    matching_recipients,
    merged,
    natural,
    text,
    unique_recipients,
)
from mailqueue.vendors.http import Answer, HttpVendor, Request, json_request
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.limits import bare_type

_SUPPRESSED = "1902"
_OF_THE_VENDOR = {"1502": Outcome.UNAVAILABLE, "1910": Outcome.MISCONFIGURED}
_ACCEPTED = "total_accepted_recipients"
_BETWEEN = re.compile(r"[\s<>\"'(),:;]+")  # addresses in a text


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
            "metadata": {**self.metadata(email), ID_KEY: attempt.email_id},
            "campaign_id": next(iter(self.tags(email)), None),
        }
        payload = {name: value for name, value in payload.items() if value}
        key = {"Authorization": self.config.keys["api_key"]}
        return json_request("/api/v1/transmissions", merged(payload, self.options(email)), key)

    def _content(self, email: Email) -> dict[str, Any]:
        sender = self.sender(email)
        name = {"name": sender.name} if sender.name else {}
        copied = unique_recipients(email).get("cc")
        headers = ascii_headers(email) | ({"CC": _people(copied)} if copied else {})
        content = {
            "from": {"email": sender.ascii, **name},
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "reply_to": _people(email.reply_to),
            "headers": headers,
            "attachments": [_file(a) for a in email.attachments if not a.content_id],
            "inline_images": [_file(a) for a in email.attachments if a.content_id],
        }
        return {name: value for name, value in content.items() if value}

    def parse(self, answer: Answer, email: Email) -> SendResult:
        """SparkPost's own rows; its errors are ``{"errors": [{"message", "description"}]}``."""
        errors = _errors(answer)
        result = self.by_status(answer, _detail(errors))
        codes = {identifier(error.get("code")) for error in errors}
        results = mapping(answer.object.get("results"))
        if answer.status == 200:
            return self._taken(result, results, email)
        if answer.status == 420:
            return replace(result, outcome=Outcome.MISCONFIGURED)
        if _SUPPRESSED in codes and not results.get(_ACCEPTED):
            return replace(result, outcome=Outcome.REJECTED, refused=_everyone(email))
        theirs = (outcome for code, outcome in _OF_THE_VENDOR.items() if code in codes)
        return replace(result, outcome=next(theirs, result.outcome))

    def _taken(self, result: SendResult, results: Mapping[str, Any], email: Email) -> SendResult:
        accepted, message_id = natural(results.get(_ACCEPTED)), identifier(results.get("id"))
        if accepted == 0:
            return replace(result, outcome=Outcome.REJECTED, refused=_everyone(email))
        if accepted is None or message_id is None:
            return result
        refused = matching_recipients(email, _addresses_in(results.get("rcpt_to_errors")))
        return SendResult(
            outcome=Outcome.ACCEPTED,
            code="200",
            detail=result.detail if results.get("total_rejected_recipients") else "",
            message_id=message_id,
            refused=refused if len(refused) < len(email.recipients) else (),
        )


def _addresses_in(errors: Any) -> list[str]:
    """The addresses in the texts of errors, which tell them only sometimes."""
    entries = errors if isinstance(errors, list) else [errors]
    told = [v for e in entries for v in (e.values() if isinstance(e, dict) else [e])]
    return [word.strip(".") for each in told for word in _BETWEEN.split(text(each)) if "@" in word]


def _recipients(email: Email) -> list[dict[str, Any]]:
    """All of them see the same To; who is alone with copies sees his own address there."""
    listed = unique_recipients(email)
    shown = {"header_to": _people(listed["to"])} if "to" in listed else {}
    people = (person for field in listed.values() for person in field)
    return [{"address": {"email": person.ascii, **shown}} for person in people]


def _people(addresses: Iterable[Address]) -> str:
    return ", ".join(str(Address(a.name, a.ascii)) for a in addresses)


def _everyone(email: Email) -> tuple[str, ...]:
    return tuple(person.address for person in email.recipients)


def _file(attachment: Attachment) -> dict[str, str]:
    """An inline image is found by its name."""
    return {
        "name": attachment.content_id or attachment.filename,
        "type": bare_type(attachment) if attachment.content_id else attachment.content_type,
        "data": b64encode(attachment.content).decode("ascii"),
    }


def _errors(answer: Answer) -> list[Mapping[str, Any]]:
    errors = answer.object.get("errors")
    return [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []


def _detail(errors: Sequence[Mapping[str, Any]]) -> str:
    first = errors[0] if errors else {}
    parts = (text(first.get(name)) for name in ("code", "message", "description"))
    return ": ".join(filter(None, parts))
