"""The base of every vendor with an HTTP API: build, post, parse.

Decides: what an HTTP status means where a vendor's own table says nothing else, and what follows
when no complete answer came. A vendor's file adds ``build`` (its request from an e-mail) and
``parse`` (its rows of the table), and nothing about connections. This is a whole adapter::

    class Pigeon(HttpVendor):
        default_base_url = "https://api.pigeon.example"

        def build(self, email: Email, attempt: Attempt) -> Request:
            payload = {
                "from": self.sender(email).ascii,
                "to": [person.ascii for person in email.recipients],
                "subject": email.subject,
                "text": email.text,
                "reference": attempt.email_id,
            }
            headers = {"Authorization": f"Bearer {self.config.keys['api_key']}"}
            return json_request("/v1/messages", payload, headers)

        def parse(self, response: Response, email: Email) -> SendResult:
            message_id = response.string("id")
            if response.status == 201 and message_id:
                return SendResult(outcome=Outcome.ACCEPTED, code="201", message_id=message_id)
            return self.by_status(response, response.string("error"))

====================================  ===============================================
answer                                outcome
====================================  ===============================================
2xx that ``parse`` does not know      unknown
3xx (never followed)                  misconfigured
400, 422                              unsuitable (in HTML: a firewall's, unavailable)
other 4xx                             unsuitable
401, 402, 403                         misconfigured (403 in HTML: unavailable)
404, 405, 406, 410, 415               misconfigured
413                                   unsuitable
429                                   throttled (``Retry-After``)
408, 502, 504, 520, 524               unknown (a gateway gave up, its backend may not have)
500, 503, other 5xx                   unavailable
no status, nothing written            unavailable
no status after the first byte        unknown; not the vendor's fault if an idle connection
                                      was lost (``wire.idle``)
2xx before the request was complete   unknown; any other status counts as usual
====================================  ===============================================

Assumes: ``build`` waits for nothing, and makes the same bytes of the same e-mail and attempt
(except for a signature).

Promises: the e-mail is posted at most once per ``send``, which is back by the deadline.
"""

from __future__ import annotations

import json
import re
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import cached_property, lru_cache
from http import HTTPStatus
from importlib import metadata
from typing import Any, ClassVar
from urllib.parse import urlencode

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors import base
from mailqueue.vendors.base import Attempt, Vendor
from mailqueue.vendors.wire import failures, trust
from mailqueue.vendors.wire.proxy import proxy_for
from mailqueue.vendors.wire.response import MAX_VALUE
from mailqueue.vendors.wire.transport import NoResponse, RawResponse, Request, Transport

__all__ = ["HttpVendor", "Request", "Response", "json_request"]

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?) *(?:,|$)")
_ACCOUNT_ERRORS = {401, 402, 403, 404, 405, 406, 410, 415}
_GATEWAY_ERRORS = {408, 502, 504, 520, 524}
_FIREWALL_IF_HTML = {400, 403, 422}  # it stands before the API, and has not understood the e-mail
_NEVER_CONTENT = {401, 402, 407, 429}  # not due to what is in the e-mail


class Response:
    """A vendor's answer. A value that is missing, or of another type, reads as empty.

    ``status``: the number. ``headers``: a mapping, in which case does not matter. ``body``: bytes,
    at most 1 MiB. ``cut``: a word of ``wire.failures`` if the body ended too early, else "".
    """

    def __init__(self, raw: RawResponse) -> None:
        self.status = raw.status
        self.headers = raw.headers
        self.body = raw.body
        self.cut = raw.cut

    @cached_property
    def text(self) -> str:
        """The first 4 KiB of the body as text, to search in; never for a log."""
        return self.body[:MAX_VALUE].decode("utf-8", "replace")

    @cached_property
    def json(self) -> Any:
        """The body as JSON; None if it is no JSON, or was cut off.

        Texts in it are cut to 4 KiB, so that a search in them is quick.
        """
        try:
            value = None if self.cut else json.loads(self.body)
            return value if len(self.body) <= MAX_VALUE else _shorten(value)
        except (ValueError, RecursionError):
            return None

    @property
    def object(self) -> Mapping[str, Any]:
        """The body's JSON object, or an empty one."""
        return self.json if isinstance(self.json, dict) else {}

    def string(self, name: str) -> str:
        """The text under this name in the body's JSON object, or ``""``."""
        value = self.object.get(name)
        return value if isinstance(value, str) else ""

    @property
    def is_html(self) -> bool:
        """True for an HTML page. Firewalls and proxies send these, APIs do not."""
        kind = self.headers.get("Content-Type", "")
        return "html" in kind.lower() or self.body.lstrip()[:1] == b"<"

    @property
    def now(self) -> float:
        """The time by the vendor's clock, in seconds since 1970. Its dates are on that clock."""
        return _date(self.headers.get("Date", "")) or time.time()

    @property
    def retry_after(self) -> float | None:
        """``Retry-After``, in seconds from now; None if there is none."""
        return self.seconds(self.headers.get("Retry-After", "").strip())

    def seconds(self, text: str) -> float | None:
        """Seconds from now for ``"120"`` or ``"Mon, 20 Dec 2021 20:33:21 UTC"``; else None.

        Two proxies may have set it both (``"120, 120"``), and some count parts of a second.
        """
        if number := _NUMBER.match(text):
            return float(number[1][:9])
        date = _date(text)
        return None if date is None else max(0.0, date - self.now)


class HttpVendor(Vendor):
    """A vendor with an HTTP API. Subclasses define ``build`` and ``parse``.

    It posts over one connection of its own, which is kept between e-mails. No redirects are
    followed, nothing is repeated. ``config.timeout`` (seconds) counts for each read, the attempt's
    deadline for the whole call. An exception of ``build`` is ``unsuitable``: nothing was sent. One
    of ``parse`` is ``unknown``.
    """

    default_base_url: ClassVar[str]
    """Scheme, host and port of the API, where the configuration has no ``base_url``."""

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)
        trust.check(config)
        url = config.base_url or self.default_base_url
        try:
            self.transport = Transport(url, proxy=proxy_for(url))
        except ValueError as problem:
            raise ConfigError([f"vendors.{config.name}: {problem}"]) from None
        self.transport.ca_file = config.ca_file or self.transport.ca_file

    @abstractmethod
    def build(self, email: Email, attempt: Attempt) -> Request:
        """The vendor's request for this e-mail. It may raise; then nothing is sent."""

    @abstractmethod
    def parse(self, response: Response, email: Email) -> SendResult:
        """What the vendor's answer means; ``by_status`` for what the vendor's table leaves out.

        Where the vendor's documents leave open whether the e-mail was taken, return ``unknown``. A
        2xx without an id is ``unknown`` too.
        """

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        """Build, post once, parse."""
        if attempt.recipients is not None:
            return SendResult(
                outcome=Outcome.UNSUITABLE, code=base.ENVELOPE, detail="cannot send to some only"
            )
        # An exception before the first byte: nothing was sent, and this vendor cannot send the
        # e-mail. After the first byte the outcome is unknown, as the worker records any exception.
        self.transport.written = False
        try:
            return base.refuse_injection(email, attempt) or self._send(email, attempt)
        except Exception as error:
            if self.transport.written:
                raise
            return base.result_of_our_exception(self, attempt, error)

    def close(self) -> None:
        """Close the connection."""
        self.transport.close()

    def _send(self, email: Email, attempt: Attempt) -> SendResult:
        began = time.monotonic()
        request = self.build(email, attempt)
        late = base.is_late(attempt, began)  # a large e-mail took ``build`` most of the time
        try:
            raw = self.transport.post(request, attempt.deadline, self.config.timeout)
        except NoResponse as failure:
            our_fault = failure.idled or (late and failure.code == failures.DEADLINE)
            return failures.result(failure.code, failure.written, our_fault=our_fault)
        result = self.parse(Response(raw), email)
        # The server cannot have accepted an e-mail that it had not received completely.
        if raw.early and (raw.status < 300 or result.outcome is Outcome.ACCEPTED):
            return failures.result(failures.EARLY_ANSWER, written=True)
        if result.outcome is Outcome.UNKNOWN:
            self.close()  # what was not understood may be followed by more of it
            if raw.cut:
                return replace(result, code=raw.cut, answered=False)
        return result

    def ask(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str], attempt: Attempt
    ) -> Mapping[str, Any]:
        """For ``lookup``: the JSON object that a GET answers with, else an empty one."""
        request = Request(f"{path}?{urlencode(query)}", b"", {**common_headers(), **headers})
        try:
            raw = self.transport.get(request, attempt.deadline, self.config.timeout)
        except NoResponse:
            return {}
        return Response(raw).object if raw.status == 200 else {}

    def by_status(self, response: Response, detail: str = "") -> SendResult:
        """The result by the table at the top of this file. ``detail``: the vendor's own words."""
        status = response.status
        result = SendResult(
            outcome=_outcome_of_status(status),
            code=str(status),
            detail=detail or _status_phrase(status),
            retry_after=response.retry_after,
            content_suspect=response.is_html
            and 400 <= status < 500
            and status not in _NEVER_CONTENT,
        )
        if status in _FIREWALL_IF_HTML and response.is_html:
            return replace(result, outcome=Outcome.UNAVAILABLE, detail="HTML, not from the API")
        return result


def json_request(path: str, payload: Mapping[str, Any], headers: Mapping[str, str]) -> Request:
    """A POST of JSON to ``path``, which may have a query. Equal payloads make equal bytes."""
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    return Request(path, body, {**common_headers(), "Content-Type": "application/json", **headers})


@lru_cache(maxsize=1)
def common_headers() -> Mapping[str, str]:
    """The headers of every request: our name, and that we want plain JSON."""
    try:
        version = metadata.version("mailqueue")
    except metadata.PackageNotFoundError:  # run from the source tree
        version = "0"
    return {
        "User-Agent": f"mailqueue/{version}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }


def _outcome_of_status(status: int) -> Outcome:
    if status == 429:
        return Outcome.THROTTLED
    if status in _ACCOUNT_ERRORS or 300 <= status < 400:
        return Outcome.MISCONFIGURED
    # 2xx: the vendor's own table would know a real yes.
    if status in _GATEWAY_ERRORS or status < 300:
        return Outcome.UNKNOWN
    return Outcome.UNSUITABLE if status < 500 else Outcome.UNAVAILABLE


def _shorten(value: Any) -> Any:
    """The same JSON value with each text and name cut to ``MAX_VALUE``."""
    if isinstance(value, dict):
        return {name[:MAX_VALUE]: _shorten(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shorten(part) for part in value]
    return value[:MAX_VALUE] if isinstance(value, str) else value


def _status_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
