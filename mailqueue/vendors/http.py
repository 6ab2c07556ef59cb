"""The base of every vendor with an HTTP API: build, post, parse.

Decides: what an HTTP status means where a vendor's own table says nothing else, and what follows
when no complete answer came. A vendor's file adds ``build`` (its request from an e-mail) and
``parse`` (its rows of the table), and nothing about connections.

====================================  ===============================================
answer                                outcome
====================================  ===============================================
2xx that ``parse`` does not know      unknown
3xx (never followed)                  misconfigured
400, 422, other 4xx                   unsuitable (HTML: a firewall's, unavailable)
401, 402, 403                         misconfigured (403 in HTML: unavailable)
404, 405, 406, 410, 415               misconfigured
413                                   unsuitable
429                                   throttled (``Retry-After``)
408, 502, 504, 520, 524               unknown (a gateway gave up, its backend may not have)
500, 503, other 5xx                   unavailable
no status, nothing written            unavailable
no status after the first byte        unknown; the vendor is not blamed where a connection
                                      was lost that had been kept (``idle``)
2xx before the e-mail was through     unknown; another status then counts as ever
====================================  ===============================================

Promises: the e-mail is posted at most once per ``send``; the same e-mail and attempt make the same
bytes, whenever and wherever they are made.
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
from mailqueue.vendors.wire.transport import Lost, RawAnswer, Request, Transport

__all__ = ["Answer", "HttpVendor", "Request", "json_request"]

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?) *(?:,|$)")
_OF_THE_ACCOUNT = {401, 402, 403, 404, 405, 406, 410, 415}
_OF_A_GATEWAY = {408, 502, 504, 520, 524}
_HTML_IS_A_FIREWALL = {400, 403, 422}
_OF_NO_CONTENT = {401, 402, 407, 429}


class Answer:
    """A vendor's answer, read with care: nothing in it is taken to be there."""

    def __init__(self, raw: RawAnswer) -> None:
        self.status = raw.status
        self.headers = raw.headers
        self.body = raw.body
        self.cut = raw.cut

    @cached_property
    def text(self) -> str:
        """The beginning of the body as text, for looking into; never for a log."""
        return self.body[:MAX_VALUE].decode("utf-8", "replace")

    @cached_property
    def json(self) -> Any:
        """The body as JSON, or None. A body that was cut off is not looked at.

        No text in it is longer than 4 KiB: vendors' files search in them.
        """
        try:
            value = None if self.cut else json.loads(self.body)
            return value if len(self.body) <= MAX_VALUE else _shortened(value)
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
    def html(self) -> bool:
        """True for a page: what APIs do not send, but firewalls and proxies do."""
        kind = self.headers.get("Content-Type", "")
        return "html" in kind.lower() or self.body.lstrip()[:1] == b"<"

    @property
    def now(self) -> float:
        """The time by the vendor's own clock, by which it also dates the end of a pause."""
        return _date(self.headers.get("Date", "")) or time.time()

    @property
    def retry_after(self) -> float | None:
        """``Retry-After`` in seconds from now: given in seconds or as a date; else None."""
        return self.seconds(self.headers.get("Retry-After", "").strip())

    def seconds(self, text: str) -> float | None:
        """Seconds from now for ``"120"`` or ``"Mon, 20 Dec 2021 20:33:21 UTC"``; else None.

        Two proxies may have said it both (``"120, 120"``), and some count parts of a second.
        """
        if number := _NUMBER.match(text):
            return float(number[1][:9])
        date = _date(text)
        return None if date is None else max(0.0, date - self.now)


class HttpVendor(Vendor):
    """A vendor with an HTTP API. ``timeout`` of its config counts per read."""

    default_base_url: ClassVar[str]

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)
        trust.check(config)
        url = config.base_url or self.default_base_url
        try:
            self.transport = Transport(url, proxy=proxy_for(url))
        except ValueError as problem:
            raise ConfigError([f"vendors.{config.name}: {problem}"]) from None
        self.transport.verify = config.ca_file or True

    @abstractmethod
    def build(self, email: Email, attempt: Attempt) -> Request:
        """The vendor's request for this e-mail."""

    @abstractmethod
    def parse(self, answer: Answer, email: Email) -> SendResult:
        """What the vendor's answer means; ``by_status`` for what is not in its own table."""

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        """Build, post once, parse."""
        if attempt.recipients is not None:
            return SendResult(
                outcome=Outcome.UNSUITABLE, code=base.ENVELOPE, detail="cannot send to some only"
            )
        self.transport.written = False
        try:
            return base.refuse_injection(email, attempt) or self._send(email, attempt)
        except Exception as error:
            if self.transport.written:
                raise
            return base.unsent(self, attempt, error)

    def close(self) -> None:
        """Close the connection."""
        self.transport.close()

    def _send(self, email: Email, attempt: Attempt) -> SendResult:
        began = time.monotonic()
        request = self.build(email, attempt)
        late = base.late(attempt, began)
        try:
            raw = self.transport.post(request, attempt.deadline, self.config.timeout)
        except Lost as lost:
            our_fault = lost.idled or (late and lost.code == failures.DEADLINE)
            return failures.result(lost.code, lost.written, our_fault=our_fault)
        result = self.parse(Answer(raw), email)
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
        """The JSON object that a search answers with; empty when no whole 200 with one came."""
        request = Request(f"{path}?{urlencode(query)}", b"", {**common_headers(), **headers})
        try:
            raw = self.transport.get(request, attempt.deadline, self.config.timeout)
        except Lost:
            return {}
        return Answer(raw).object if raw.status == 200 else {}

    def by_status(self, answer: Answer, detail: str = "") -> SendResult:
        """The common table (at the top of this file)."""
        status = answer.status
        result = SendResult(
            outcome=_outcome(status),
            code=str(status),
            detail=detail or _phrase(status),
            retry_after=answer.retry_after,
            content_suspect=answer.html and 400 <= status < 500 and status not in _OF_NO_CONTENT,
        )
        if status in _HTML_IS_A_FIREWALL and answer.html:
            return replace(result, outcome=Outcome.UNAVAILABLE, detail="HTML, not from the API")
        return result


def json_request(path: str, payload: Mapping[str, Any], headers: Mapping[str, str]) -> Request:
    """A request with a JSON body; equal payloads make equal bytes."""
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    return Request(path, body, {**common_headers(), "Content-Type": "application/json", **headers})


@lru_cache(maxsize=1)
def common_headers() -> Mapping[str, str]:
    """Who we are, and that answers come as plain JSON."""
    try:
        version = metadata.version("mailqueue")
    except metadata.PackageNotFoundError:  # run from the source tree
        version = "0"
    return {
        "User-Agent": f"mailqueue/{version}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }


def _outcome(status: int) -> Outcome:
    if status == 429:
        return Outcome.THROTTLED
    if status in _OF_THE_ACCOUNT or 300 <= status < 400:
        return Outcome.MISCONFIGURED
    if status in _OF_A_GATEWAY or status < 300:
        return Outcome.UNKNOWN
    return Outcome.UNSUITABLE if status < 500 else Outcome.UNAVAILABLE


def _shortened(value: Any) -> Any:
    """The same JSON value with the beginning of each text, and of each name."""
    if isinstance(value, dict):
        return {name[:MAX_VALUE]: _shortened(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shortened(part) for part in value]
    return value[:MAX_VALUE] if isinstance(value, str) else value


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
