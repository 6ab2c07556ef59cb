"""The port of all readers of vendors' events: verify a request, then read the events in it.

Decides: what a request must show to be believed where the vendor signs nothing (HTTP Basic, or a
secret in a header), and that an old and a new secret are both good while they change.

Assumes: ``Request.body`` are the bytes as they came. A signature is over them, not over what was
parsed and written again.

Promises: nothing is stored here, and only readers that say so (``fetches``) ask another server.
``verify`` comes before ``read`` and compares in constant time; only ``verify`` and ``confirm`` may
raise ``Away``. ``read`` never raises for one odd event among others: what it cannot read is of the
type ``unknown``. No repr shows an address, a secret or a body.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, ClassVar, Literal

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError
from mailqueue.vendors.labels import ID_KEY
from mailqueue.vendors.values import identifier, mapping, mappings, text

LONGEST_DETAIL = 500  # characters
LONGEST = 10 * 2**20  # bytes of one request; no vendor sends more than one MiB
LONGEST_UNPROVEN = 2**20  # of one that must be parsed before it is verified: anybody can send it
SuppressionReason = Literal["bounced", "complained", "unsubscribed"]


class EventType(StrEnum):
    """What a vendor tells of an e-mail, or of one of its recipients, in one shape for all vendors.

    ``queued``: the vendor has it. ``sent``: it is on its way. ``delivered``: the recipient's server
    took it. ``deferred``: that server asks to wait, and the vendor tries again. ``bounced_soft``:
    given up for a passing cause. ``bounced_hard``: there is no such mailbox. ``rejected``: the
    vendor did not try. ``failed``: the vendor could not. ``complained``: a person calls it spam.
    ``unsubscribed``, ``resubscribed``, ``opened``, ``clicked``, ``autoresponded``: as they say.
    ``unknown``: anything else.
    """

    QUEUED = "queued"
    SENT = "sent"
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED_HARD = "bounced_hard"
    BOUNCED_SOFT = "bounced_soft"
    REJECTED = "rejected"
    FAILED = "failed"
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"
    RESUBSCRIBED = "resubscribed"
    OPENED = "opened"
    CLICKED = "clicked"
    AUTORESPONDED = "autoresponded"
    UNKNOWN = "unknown"


SUPPRESSION: Mapping[EventType, SuppressionReason] = {
    EventType.BOUNCED_HARD: "bounced",
    EventType.COMPLAINED: "complained",
    EventType.UNSUBSCRIBED: "unsubscribed",
}
"""Why an address should get no more e-mail after an event; the other types are no reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorEvent:
    """One event of a vendor.

    ``key``: the same in each repeat of this event, another one for each other event of the vendor.
    ``at``: when it happened, by the vendor's clock; None: it does not say.
    ``recipient``: whom it concerns; None: the e-mail, or one of several recipients, unknown which.
    ``email_id``: our id, 24 hex digits, as the vendor gave it back; None: it did not.
    ``message_id``: the vendor's id, in the form in which its adapter returns it.
    ``code`` and ``detail``: the vendor's words (``code``: an SMTP reply or enhanced code, a word).
    ``suppress``: why the recipient should get no more e-mail; ``by_vendor_list``: the vendor says
    so only because the recipient is on its own suppression list. ``lift``: that is over.
    ``proves_one``: the vendor decides about each recipient apart, so that the event tells nothing
    of the others; else it takes an e-mail for all of them or for none.
    """

    key: str
    type: EventType
    at: datetime | None = None
    recipient: str | None = field(default=None, repr=False)
    email_id: str | None = None
    message_id: str | None = None
    code: str = ""
    detail: str = field(default="", repr=False)
    suppress: SuppressionReason | None = None
    by_vendor_list: bool = False
    lift: bool = False
    proves_one: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRequest:
    """A request as it came. Names of ``headers`` are lower case; ``now``: the receiver's clock."""

    method: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    now: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handshake is answered with, instead of reading events."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class NotAuthentic(Exception):
    """The request is not shown to be the vendor's. The text is for the log and quotes nothing."""


class Malformed(Exception):
    """The request is authentic, but no such thing as this vendor sends. It quotes nothing."""


class Away(Exception):
    """What is needed to verify the request cannot be reached now: the vendor is to repeat it."""


class EventSource(ABC):
    """Reads the events of one configured vendor. Any thread may call.

    A request goes through ``greet``, ``verify``, ``confirm`` and ``read``, in this order.
    """

    fetches: ClassVar[bool] = False
    """Whether ``verify`` or ``confirm`` may ask another server, so that they take their time."""

    longest: ClassVar[int] = LONGEST
    """Bytes of the longest request."""

    away_status: ClassVar[int] = 503
    """The answer while the events cannot be stored, after which the vendor repeats them."""

    lacks_our_id: ClassVar[bool] = False
    """Whether some events have the vendor's id for the e-mail, but not ours."""

    def __init__(self, vendor: VendorConfig) -> None:
        self.vendor = vendor.name
        self.settings: Mapping[str, Any] = vendor.events or {}
        one, several = self.settings.get("secret"), self.settings.get("secrets") or ()
        self.secrets: tuple[str, ...] = (*(() if one is None else (one,)), *several)
        basic = self.settings.get("basic_auth")
        if "" in (*self.secrets, basic):
            problem = "a secret is empty: set its environment variable for mailqueue http"
            raise ConfigError([f"vendors.{vendor.name}.events: {problem}"])
        self._basic: str | None = basic

    @abstractmethod
    def verify(self, request: EventRequest) -> None:
        """Return if the request is the vendor's; else raise ``NotAuthentic``."""

    @abstractmethod
    def read(self, request: EventRequest) -> Sequence[VendorEvent]:
        """The events of a verified request. Raises ``Malformed`` if it holds no events at all."""

    def greet(self, request: EventRequest) -> Answer | None:
        """The answer to a handshake that comes before any event; None: it is none.

        It is called before ``verify``, and checks for itself what it must.
        """
        if request.method == "HEAD":
            return Answer()
        return None

    def confirm(self, request: EventRequest) -> Answer | None:
        """The answer to a verified request that is no event but a handshake; None: it is none."""
        del request
        return None

    # For the files of vendors -----------------------------------------------------------------

    def verify_plain(self, request: EventRequest) -> None:
        """For vendors that sign nothing: HTTP Basic, a bearer token, or ``X-Mailqueue-Secret``."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic" and self._basic is not None:
            try:
                credentials = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                credentials = b""
            if equal(credentials, self._basic):
                return
        header = request.headers.get("x-mailqueue-secret", "")
        tokens = [value if scheme.lower() == "bearer" else "", header]
        if any(equal(token, secret) for token in tokens for secret in self.secrets if token):
            return
        raise NotAuthentic("no secret, or a wrong one")


def equal(value: str | bytes, right: str | bytes) -> bool:
    """Compare in constant time; text of any characters is fine."""
    return hmac.compare_digest(_octets(value), _octets(right))


def _octets(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def json_of(body: bytes) -> Any:
    """The JSON value of a body. Raises ``Malformed``; a value too deep or too long is that, too."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed("the body is no JSON") from None


def event_of(body: bytes) -> Mapping[str, Any]:
    """The only event of a body. Raises ``Malformed``."""
    event = json_of(body)
    if not isinstance(event, dict):
        raise Malformed("the body is no event")
    return event


def events_of(body: bytes) -> list[Mapping[str, Any]]:
    """The events of a body that has one, or a list of them. Raises ``Malformed``."""
    value = json_of(body)
    if not isinstance(value, dict | list):
        raise Malformed("the body is neither an event nor a list of events")
    return mappings(value if isinstance(value, list) else [value])


def email_id_in(text_of_json: Any) -> str | None:
    """Our id among metadata that a vendor gives back as JSON in a string."""
    try:
        return identifier(mapping(json.loads(text(text_of_json))).get(ID_KEY))
    except (ValueError, RecursionError):
        return None


def key_of(*parts: object) -> str:
    """A key for an event without an id of its own: the same parts give the same key."""
    return sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:32]


def time_of(value: Any) -> datetime | None:
    """A time as vendors write it: Unix seconds (also as text), or ISO 8601; None: it is none."""
    try:
        if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
            at = datetime.fromisoformat(value.strip())
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        return datetime.fromtimestamp(float(value), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def only(recipients: Iterable[Any]) -> str | None:
    """The recipient, if there is exactly one; else nobody knows which of them is meant."""
    several = [each for each in recipients if isinstance(each, str) and each]
    return several[0] if len(several) == 1 else None


def brief(value: Any) -> str:
    """A vendor's words, as text of a length that is stored."""
    return value[:LONGEST_DETAIL] if isinstance(value, str) else ""
