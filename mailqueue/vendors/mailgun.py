"""Mailgun: ``POST /v3/{domain}/messages``, multipart; ``lookup`` by ``GET .../events``.

An e-mail whose envelope leaves out someone whom it shows goes to ``.../messages.mime``: the message
as SMTP gets it, with the fields ``to`` for those who are sent to.

Decides: what a request to Mailgun looks like and what its answers mean. Facts: Mailgun's
openapi.yaml and api-sending.rst, "Error codes".

==================================================  =========================================
answer                                              outcome
==================================================  =========================================
200, JSON with ``id``, ``message`` "Queued..."      accepted
200 "Mailgun Magnificent API"                       misconfigured: wrong URL, nothing sent
400 "Domain ... is not allowed to send"             misconfigured: the account's state
400 the same, "authorized recipients"               unsuitable: only these recipients
400 others                                          unsuitable: another vendor may take it
401 402 403                                         misconfigured
404 "Domain not found"                              unsuitable (it may be temporary)
404 others                                          misconfigured
429                                                 throttled; the time is in the text
==================================================  =========================================

Mailgun removes non-ASCII letters from tags, so it gets such tags encoded (``labels``), and digests
of tags that are too long. Metadata are its variables, which recipients can see in a message's
source (header ``X-Mailgun-Variables``). With the option ``expose_metadata`` set to false, only our
id is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.message.mime import boundary
from mailqueue.vendors.base import EXPOSE_METADATA, Attempt, flag
from mailqueue.vendors.http import HttpVendor, Request, Response, common_headers
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.payloads import (
    ascii_headers,
    basic_login,
    mailbox_list,
    mailbox_text,
    unique_recipients,
)
from mailqueue.vendors.values import mapping, mappings, text

Part = tuple[str, str | tuple[str, bytes, str]]

_EARLIER = timedelta(minutes=5)
_RETRY_TIME = re.compile(r"try again after (?:(\d+) seconds|([A-Z][^.]*))")


class Mailgun(HttpVendor):
    """Own keys: ``api_key``, ``domain``. In the EU: ``base_url`` ``https://api.eu.mailgun.net``."""

    default_base_url = "https://api.mailgun.net"
    has_sandbox = True

    def build(self, email: Email, attempt: Attempt) -> Request:
        """A multipart form. An option replaces the fields of its name."""
        options = self.options(email)
        in_mime = bool(email.display_only)
        message = self._mime_parts if in_mime else self._message_parts
        own_parts = (*message(email, attempt), *self._option_parts(email, attempt))
        parts = [part for part in own_parts if part[0] not in options]
        parts += [(n, str(v)) for n, value in options.items() for v in _each(value)]
        body, content_type = form(parts)
        own = {"Content-Type": content_type, **self._login()}
        path = self._path("messages.mime" if in_mime else "messages")
        return Request(path, body, {**common_headers(), **own})

    def lookup(self, email: Email, attempt: Attempt) -> SendResult | None:
        """The e-mail under our id among what was accepted for its first recipient.

        The filter ``message-id`` is of no use: it wants the id that Mailgun gave.
        """
        query = {
            "event": "accepted",
            "recipient": email.recipients[0].ascii,
            "begin": str(int(_begin(attempt).timestamp())),
            "ascending": "yes",
            "limit": "300",
        }
        events = self.ask(self._path("events"), query, self._login(), attempt).get("items")
        for event in mappings(events):
            message_id = _message_id(event, attempt.email_id)
            if message_id:
                return SendResult(outcome=Outcome.ACCEPTED, code="found", message_id=message_id)
        return None

    def _path(self, resource: str) -> str:
        # A slash in the domain would name another resource.
        return f"/v3/{quote(self.config.keys['domain'], safe='')}/{resource}"

    def _login(self) -> Mapping[str, str]:
        return basic_login("api", self.config.keys["api_key"])

    def _mime_parts(self, email: Email, attempt: Attempt) -> Iterator[Part]:
        people = (person for field in unique_recipients(email).values() for person in field)
        yield from (("to", person.ascii) for person in people)
        message = self.mime(email, attempt)
        yield "message", ("message.eml", message, "message/rfc822")

    def _message_parts(self, email: Email, attempt: Attempt) -> Iterator[Part]:
        yield "from", mailbox_text(self.sender(email))
        for name, people in unique_recipients(email).items():
            yield from ((name, mailbox_text(person)) for person in people)
        yield "subject", email.subject
        bodies = ("text", email.text), ("html", email.html)
        yield from ((n, body) for n, body in bodies if body is not None)
        for a in email.attachments:  # an inline one is found by its file name
            kind, name = ("inline", a.content_id) if a.content_id else ("attachment", a.filename)
            yield kind, (name, a.content, a.content_type)
        yield from ((f"h:{name}", value) for name, value in ascii_headers(email).items())
        if email.reply_to:
            yield "h:Reply-To", mailbox_list(email.reply_to)
        yield "h:Message-Id", attempt.message_id

    def _option_parts(self, email: Email, attempt: Attempt) -> Iterator[Part]:
        yield from (("o:tag", tag) for tag in self.tags(email))
        if flag(self.config, EXPOSE_METADATA) is not False:
            yield from ((f"v:{name}", value) for name, value in self.metadata(email).items())
        yield f"v:{ID_KEY}", attempt.email_id
        if self.config.sandbox:
            yield "o:testmode", "yes"

    def parse(self, response: Response, email: Email) -> SendResult:  # noqa: ARG002  # the port's
        """Mailgun's own rows; its errors are ``{"message"}`` or plain text."""
        message = response.string("message")
        result = self.by_status(response, message)
        match response.status:
            case 200:
                return self._parse_success(response, message)
            case 400 if message.startswith("Domain ") and "is not allowed to send" in message:
                of_recipients = "authorized recipients" in message
                outcome = Outcome.UNSUITABLE if of_recipients else Outcome.MISCONFIGURED
                return replace(result, outcome=outcome)
            # The domain may be in another region, or not known everywhere yet.
            case 404 if message.startswith("Domain not found"):
                return replace(result, outcome=Outcome.UNSUITABLE)
            case 429 if result.retry_after is None:
                return replace(result, retry_after=_retry_after(response, message))
        return result

    def _parse_success(self, response: Response, message: str) -> SendResult:
        message_id = response.string("id")
        if message_id and message.startswith("Queued"):
            return SendResult(outcome=Outcome.ACCEPTED, code="200", message_id=message_id)
        result = self.by_status(response, "200 without an id")
        if "Mailgun Magnificent API" in response.text:
            return replace(result, outcome=Outcome.MISCONFIGURED, detail="wrong URL or domain")
        return result


def form(parts: Iterable[Part]) -> tuple[bytes, str]:
    """A form's bytes, the same for the same parts, and its content type.

    The boundary is not predictable: an author of a part of the e-mail's text could otherwise add
    fields to the form.
    """
    pieces = [_piece(name, value) for name, value in parts]
    mark = boundary("form", pieces).removeprefix("=_")  # it would need quotes
    line = f"--{mark}".encode()
    body = b"".join(b"%b\r\n%b\r\n" % (line, piece) for piece in pieces) + line + b"--\r\n"
    return body, f"multipart/form-data; boundary={mark}"


def _piece(name: str, value: str | tuple[str, bytes, str]) -> bytes:
    """One field with its headers, or one file: its name, content and type."""
    head = f'Content-Disposition: form-data; name="{_escape(name)}"'
    if isinstance(value, str):
        return f"{head}\r\n\r\n{value}".encode()
    filename, content, kind = value
    head += f'; filename="{_escape(filename)}"\r\nContent-Type: {kind}'
    return head.encode() + b"\r\n\r\n" + content


def _escape(name: str) -> str:
    """As browsers write names in a form (HTML, "multipart/form-data encoding algorithm")."""
    return name.translate({10: "%0A", 13: "%0D", 34: "%22"})


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _begin(attempt: Attempt) -> datetime:
    """Before its first event: the Date may be of another clock, and is rounded up."""
    return (attempt.date or datetime.now(UTC)) - _EARLIER


def _message_id(event: Mapping[str, Any], email_id: str) -> str | None:
    """Mailgun's id of the message, with its brackets, if this event is about this e-mail."""
    headers = mapping(mapping(event.get("message")).get("headers"))
    message_id = text(headers.get("message-id"))
    if mapping(event.get("user-variables")).get(ID_KEY) != email_id or not message_id:
        return None
    # Events have the id without brackets, the answer to a request with them.
    return f"<{message_id.strip('<>')}>"


def _retry_after(response: Response, message: str) -> float | None:
    """``... limit exceeded, try again after 120 seconds`` or ``... after Mon, 20 Dec 2021 ...``."""
    match = _RETRY_TIME.search(message)
    return response.seconds((match[1] or match[2]).strip()) if match else None
