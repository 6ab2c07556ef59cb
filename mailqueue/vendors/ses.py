"""Amazon SES: API v2, ``POST /v2/email/outbound-emails``.

Decides: what a request to SES looks like and what its answers mean. Facts: botocore's model of
sesv2, the SES developer guide, django-anymail.

Every e-mail goes as ``Content.Raw``, the MIME message that SMTP gets too. (``Simple`` would be a
second form to maintain, with at most 15 headers, in ASCII.) Recipients see the headers of the
message; ``Destination`` names each mailbox once. SES replaces ``Message-ID`` and ``Date``. Its own
address is the sender of the envelope; what bounces is forwarded to the e-mail's bounce address.

``EmailTags`` hold our id, the tags and the metadata, in the form of ``labels.pairs``. Options are
merged into the request, their ``EmailTags`` are added. ``sandbox``: to SES's mailbox simulator.

=================================================  =============================================
answer (its kind is in ``x-amzn-ErrorType``)       outcome
=================================================  =============================================
200 with ``MessageId``                             accepted
``MessageRejected``, ``BadRequestException``,      unsuitable, whatever the status
``MailFromDomainNotVerifiedException``
account suspended, sending paused (``Message-      misconfigured, though a 400
Rejected`` may say that too), limit exceeded
bad or expired credentials, wrong clock            misconfigured, whatever the status
``Throttling...`` "Daily message quota exceeded"   misconfigured: the quota is spent
``Throttling...`` others                           throttled, though a 400
404 429 413 and others                             by status
no credentials                                     see ``aws.credentials``; code ``credentials``
=================================================  =============================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.aws import credentials as aws_credentials
from mailqueue.vendors.aws.signing import Credentials, sign
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.http import HttpVendor, Request, Response, json_request
from mailqueue.vendors.labels import pairs
from mailqueue.vendors.payloads import base64_text, merge, unique_recipients

SIMULATOR = "success@simulator.amazonses.com"

_PATH = "/v2/email/outbound-emails"
_EMAIL_ERRORS = {"MessageRejected", "MailFromDomainNotVerifiedException", "BadRequestException"}
_ACCOUNT_ERRORS = re.compile(
    r"AccountSuspended|SendingPaused|LimitExceeded|AccessDenied|ExpiredToken|RequestExpired|"
    r"IncompleteSignature|InvalidSignature|SignatureDoesNotMatch|InvalidClientTokenId|"
    r"UnrecognizedClient|MissingAuthenticationToken|NotAuthorized|OptInRequired"
)
_PAUSED = re.compile(r"[Ss]ending (?:paused|suspended) for this account")


class Ses(HttpVendor):
    """Own keys: ``region``; ``access_key_id``, ``secret_access_key``, ``session_token``;
    ``configuration_set``, without which no event has our id.

    Without keys: those of the environment, else those of botocore's chain (the extra ``ses``).
    ``base_url`` for FIPS or dual-stack hosts. Raises MissingExtra if there are no keys and botocore
    is not installed.
    """

    has_sandbox = True

    def __init__(self, config: VendorConfig) -> None:
        url = config.base_url or f"https://email.{config.keys['region']}.amazonaws.com"
        super().__init__(replace(config, base_url=url))
        self._host = urlsplit(url).netloc
        self._credentials = Credentials("", "")
        if self._static_credentials() is None:
            aws_credentials.require_botocore()
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def _send(self, email: Email, attempt: Attempt) -> SendResult:
        credentials: Credentials | SendResult | None = self._static_credentials()
        if credentials is None:
            region = self.config.keys["region"]
            credentials = aws_credentials.chain(region).current(attempt.deadline)
        if isinstance(credentials, SendResult):
            return credentials
        # Those of botocore are renewed, so each request signs with the present ones.
        self._credentials, self.secrets = credentials, credentials.secrets
        return super()._send(email, attempt)

    def _static_credentials(self) -> Credentials | None:
        return aws_credentials.static_credentials(self.config.keys, os.environ)

    def build(self, email: Email, attempt: Attempt) -> Request:
        """The request with its signature, which depends on the time of day."""
        options = self.options(email)
        own_tags = options.pop("EmailTags", None) or []
        payload = merge(self._payload(email, attempt), options)
        # Options replace what they name; tags are added instead, or our id would be lost.
        payload["EmailTags"] += own_tags if isinstance(own_tags, list | tuple) else [own_tags]
        unsigned = json_request(_PATH, payload, {})
        headers = {"Host": self._host, "Content-Type": unsigned.headers["Content-Type"]}
        signed = sign(
            _PATH,
            headers,
            unsigned.body,
            credentials=self._credentials,
            region=self.config.keys["region"],
            service="ses",
            now=self.clock(),
        )
        return Request(_PATH, unsigned.body, {**unsigned.headers, **signed})

    def _payload(self, email: Email, attempt: Attempt) -> dict[str, Any]:
        message = self.mime(email, attempt)
        simulator = {"ToAddresses": [SIMULATOR]}
        bounces = email.bounce_address
        configuration_set = self.config.keys.get("configuration_set")
        tags = pairs(self.tags(email), self.metadata(email), attempt.email_id)
        return {
            "Destination": simulator if self.config.sandbox else _destination(email),
            "Content": {"Raw": {"Data": base64_text(message)}},
            "EmailTags": [{"Name": name, "Value": value} for name, value in tags],
            **({} if bounces is None else {"FeedbackForwardingEmailAddress": bounces.ascii}),
            **({"ConfigurationSetName": configuration_set} if configuration_set else {}),
        }

    def parse(self, response: Response, email: Email) -> SendResult:  # noqa: ARG002  # the port's
        """SES's own rows; its errors are ``{"message"}`` and a header with their kind."""
        message_id = response.string("MessageId")
        if response.status == 200 and message_id:
            return SendResult(outcome=Outcome.ACCEPTED, code="200", message_id=message_id)
        kind, message = _kind(response), _message(response)
        result = self.by_status(response, message or kind)
        if not 400 <= response.status < 500:
            return result
        if kind in _EMAIL_ERRORS and not _PAUSED.search(message):
            return replace(result, outcome=Outcome.UNSUITABLE)
        if kind.startswith("Throttling"):
            # One kind for the rate and for the quota of the day: only the text tells them apart.
            quota_spent = "daily" in message.lower()
            outcome = Outcome.MISCONFIGURED if quota_spent else Outcome.THROTTLED
            return replace(result, outcome=outcome)
        if _ACCOUNT_ERRORS.match(kind) or _PAUSED.search(message):
            return replace(result, outcome=Outcome.MISCONFIGURED)
        return result


def _destination(email: Email) -> dict[str, list[str]]:
    # Bcc recipients stand only here: the message has no such header. SES sends to these alone.
    fields = unique_recipients(email).items()
    return {f"{name.capitalize()}Addresses": [p.ascii for p in people] for name, people in fields}


def _kind(response: Response) -> str:
    """``MessageRejected`` out of ``MessageRejected:http://...`` or ``com.amazonaws#...``."""
    kind = response.headers.get("x-amzn-ErrorType") or response.string("__type")
    return kind.partition(":")[0].rpartition("#")[2].strip()


def _message(response: Response) -> str:
    """The first line. For a bad signature, the next lines repeat all that was signed."""
    message = response.string("message") or response.string("Message")
    return message.strip().partition("\n")[0]
