"""SparkPost: ``POST /api/v1/transmissions``.

Decides: what a request to SparkPost looks like and what its answers mean. Facts: SparkPost's
transmissions.apib and index.apib, its extended error codes.

===============================================  ============================================
answer                                           outcome
===============================================  ============================================
200, all recipients accepted                     accepted, the transmission's id
200 with ``errors``, some recipients accepted    accepted; those that it names are refused
200, no recipient accepted                       rejected
400 with 1902 (the recipient is suppressed)      rejected
400 with 1502 (no resources, "retry later")      unavailable
400 with 1910 (generation not configured)        misconfigured
400 (7001: From domain not verified), 422        unsuitable: another vendor may take it
401 403                                          misconfigured
420 (2101: sending limit exceeded)               misconfigured: nothing was sent
===============================================  ============================================

A template engine reads every e-mail. ``perform_substitutions`` turns it off for the bodies. In
headers it stays on, without a way to escape, so e-mails with ``{{`` in subject, names or headers do
not go to SparkPost (``limits``). It ignores unknown fields silently. ``recipients`` are those who
are sent to; ``header_to`` and the header ``CC`` say whom they see. Most accounts keep only the
domain of a ``return_path``, so a bounce address is for those that the option ``own_return_path``
says are others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mailqueue.config import VendorConfig
from mailqueue.config.vendor_types import OWN_RETURN_PATH
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Attachment, Email
from mailqueue.vendors.base import Attempt, flag
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.limits import bare_type
from mailqueue.vendors.payloads import (
    ascii_headers,
    base64_text,
    mailbox_list,
    merge,
    unique_recipients,
    without_empty,
)
from mailqueue.vendors.values import (
    code_and_text,
    every_recipient,
    identifier,
    mapping,
    mappings,
    matching_recipients,
    natural,
    text,
)

_SUPPRESSED = "1902"
_VENDOR_ERRORS = {"1502": Outcome.UNAVAILABLE, "1910": Outcome.MISCONFIGURED}
_ACCEPTED = "total_accepted_recipients"
_SEPARATORS = re.compile(r"[\s<>\"'(),:;]+")  # between addresses in a text


class SparkPost(HttpVendor):
    """Own key: ``api_key``. In the EU: ``base_url`` ``https://api.eu.sparkpost.com``.

    Its sandbox only sends one template of its own, five times in an account's life: no use here.
    """

    default_base_url = "https://api.sparkpost.com"

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)
        flag(config, OWN_RETURN_PATH)

    def build(self, email: Email, attempt: Attempt) -> Request:
        """One transmission; each recipient gets a separate e-mail with the same To and Cc."""
        payload = {
            "options": {"perform_substitutions": False},
            "recipients": _recipients(email),
            "content": self._content(email),
            "metadata": {**self.metadata(email), ID_KEY: attempt.email_id},
            "campaign_id": next(iter(self.tags(email)), None),  # it takes one
            "return_path": None if email.bounce_address is None else email.bounce_address.ascii,
        }
        options = self.options(email)
        # An option of ours, which SparkPost does not know.
        options.pop(OWN_RETURN_PATH, None)
        payload = merge(without_empty(payload), options)
        # The bare key, without a scheme.
        key = {"Authorization": self.config.keys["api_key"]}
        return json_request("/api/v1/transmissions", payload, key)

    def _content(self, email: Email) -> dict[str, Any]:
        sender = self.sender(email)
        name = {"name": sender.name} if sender.name else {}
        copied = _shown(email, "cc")
        # Each recipient is an entry without a field: this header alone shows the Cc.
        headers = ascii_headers(email) | ({"CC": mailbox_list(copied)} if copied else {})
        content = {
            "from": {"email": sender.ascii, **name},
            "subject": email.subject,
            "text": email.text,
            "html": email.html,
            "reply_to": mailbox_list(email.reply_to),
            "headers": headers,
            "attachments": [_file(a) for a in email.attachments if not a.content_id],
            "inline_images": [_file(a) for a in email.attachments if a.content_id],
        }
        return without_empty(content)

    def parse(self, response: Response, email: Email) -> SendResult:
        """SparkPost's own rows; its errors are ``{"errors": [{"message", "description"}]}``."""
        errors = mappings(response.object.get("errors"))
        result = self.by_status(response, _detail(errors))
        codes = {identifier(error.get("code")) for error in errors}
        results = mapping(response.object.get("results"))
        if response.status == 200:
            return self._parse_success(result, results, email)
        if response.status == 420:
            return replace(result, outcome=Outcome.MISCONFIGURED)
        if _SUPPRESSED in codes and not results.get(_ACCEPTED):
            return replace(result, outcome=Outcome.REJECTED, refused=every_recipient(email))
        outcomes = (outcome for code, outcome in _VENDOR_ERRORS.items() if code in codes)
        return replace(result, outcome=next(outcomes, result.outcome))

    def _parse_success(
        self, result: SendResult, results: Mapping[str, Any], email: Email
    ) -> SendResult:
        accepted, message_id = natural(results.get(_ACCEPTED)), identifier(results.get("id"))
        if accepted == 0:
            return replace(result, outcome=Outcome.REJECTED, refused=every_recipient(email))
        if accepted is None or message_id is None:
            return result
        refused = matching_recipients(email, _addresses_in(results.get("rcpt_to_errors")))
        return SendResult(
            outcome=Outcome.ACCEPTED,
            code="200",
            detail=result.detail if results.get("total_rejected_recipients") else "",
            message_id=message_id,
            # Some were accepted, so a text that names all is no list of the refused.
            refused=refused if len(refused) < len(email.recipients) else (),
        )


def _addresses_in(errors: Any) -> list[str]:
    """The addresses in the texts of errors, which name them only sometimes."""
    entries = errors if isinstance(errors, list) else [errors]
    texts = [v for e in entries for v in (e.values() if isinstance(e, dict) else [e])]
    words = (word for each in texts for word in _SEPARATORS.split(text(each)))
    return [word.strip(".") for word in words if "@" in word]


def _recipients(email: Email) -> list[dict[str, Any]]:
    """All see the same To. Without a To, each recipient sees their own address there."""
    shown = _shown(email, "to")
    header = {"header_to": mailbox_list(shown)} if shown else {}
    people = (person for field in unique_recipients(email).values() for person in field)
    return [{"address": {"email": person.ascii, **header}} for person in people]


def _shown(email: Email, field: str) -> Sequence[Address]:
    """Whom the header of this field shows: with an envelope also some who are not sent to."""
    if email.display_only:
        return email.to if field == "to" else email.cc
    return unique_recipients(email).get(field, ())


def _file(attachment: Attachment) -> dict[str, str]:
    """A file; the name identifies an inline image."""
    return {
        "name": attachment.content_id or attachment.filename,
        "type": bare_type(attachment) if attachment.content_id else attachment.content_type,
        "data": base64_text(attachment.content),
    }


def _detail(errors: list[Mapping[str, Any]]) -> str:
    error = errors[0] if errors else {}
    return code_and_text(*(text(error.get(name)) for name in ("code", "message", "description")))
