"""The one port to a vendor: ``Vendor.send(email, attempt) -> SendResult``.

Decides: what a vendor is to the rest of the program, and what may be said about its answers.

Assumes: an instance belongs to one thread; the e-mail was validated when it was accepted.

Promises: ``send`` never raises for vendor trouble, it is a value. Its ``detail`` may be in the
vendor's own words: ``answers`` makes one short line of it, without addresses, names, subjects or
keys, before anything else sees it. A header that could inject another one is refused here
once more, whatever the producer that stored it checked.

========================  ==============================================================
``code``                  meaning (else the vendor's own: ``"202"``, ``"smtp-550"``, or a
                          word of ``failures``: the connection, not the vendor, failed)
========================  ==============================================================
``header_injection``      a header value with CR, LF or NUL
``raised_...``            an exception of ours before the first byte: nothing left our hands
``envelope``              this vendor cannot send to some of the recipients only
``size`` ``smtputf8``     the SMTP server does not offer what this e-mail needs
``no_connection``         no connection to the SMTP server came free: it takes no more at a time
``credentials``           there is nothing to sign a request to AWS with; nothing was sent
``simulated``             accepted by the simulation
========================  ==============================================================
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError, InvalidEmail
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.logs import event
from mailqueue.message import Address, Email, structured
from mailqueue.message.headers import mailboxes, unsafe, unstructured
from mailqueue.vendors import labels, limits

logger = logging.getLogger(__name__)

HEADER_INJECTION = "header_injection"
ENVELOPE = "envelope"
SIZE = "size"
SMTPUTF8 = "smtputf8"
OURS = frozenset({HEADER_INJECTION, ENVELOPE, SIZE, SMTPUTF8})  # said without asking the vendor

SIMULATED_DELAY = "simulated_delay"
EXPOSE_METADATA = "expose_metadata"
_OURS = (SIMULATED_DELAY, EXPOSE_METADATA)  # options that no vendor sees
IDLE_SECONDS = 20.0  # a connection that idled for longer may be dead without our knowing
CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What one attempt needs beside the e-mail.

    ``message_id`` with its angle brackets; ``date`` is the e-mail's, the same in every attempt, and
    not before its ``send_at`` (None: out of its id). ``recipients``: None is all, else only these.
    ``deadline`` is a ``time.monotonic`` moment.
    """

    email_id: str
    message_id: str
    date: datetime | None = None
    key: str | None = None
    recipients: tuple[str, ...] | None = field(default=None, repr=False)
    deadline: float


class Vendor(ABC):
    """A vendor that takes e-mails. ``lookup`` is None unless it documents a search for sent ones.

    ``key_life``: the documented life, in seconds, of a key by which the vendor de-duplicates.
    ``has_sandbox``: it has a way to have an e-mail checked only. Where there is none,
    ``sandbox: true`` is refused: the e-mails would go out. ``exposes_metadata``: recipients may see
    tags and metadata, by the option ``expose_metadata``. ``secrets`` are hidden, as is what is
    private in the e-mail, in the ``detail`` of what ``send`` returns.
    """

    key_life: ClassVar[float | None] = None
    has_sandbox: ClassVar[bool] = False
    lookup: Any = None

    def __init__(self, config: VendorConfig) -> None:
        if config.sandbox and not self.has_sandbox:
            raise ConfigError([f"vendors.{config.name}.sandbox: {config.type} has no sandbox"])
        self.config = config
        self.name = config.name
        self.exposes_metadata = flag(config, EXPOSE_METADATA) is True
        self.secrets = tuple(v for v in config.keys.values() if isinstance(v, str))
        self._from = _address(config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def can_carry(self, email: Email) -> str | None:
        """None if this vendor can take the e-mail, else a short phrase that says why not."""
        return limits.can_carry(self.config.type, email, self.config.options)

    @abstractmethod
    def send(self, email: Email, attempt: Attempt) -> SendResult:
        """Hand the e-mail to the vendor, once. Vendor trouble is a result, never an exception.

        It is back by ``attempt.deadline``, whatever the vendor does: bound what it waits for, the
        whole call and not each read only, and hand over nothing once that moment has passed.
        (``HttpVendor`` and ``Smtp`` see to that.) One that is not back a second after it, or sooner
        where times are short, is given up: the outcome is recorded as ``unknown``, held against
        the vendor, and the e-mail goes on its way, so that it may leave twice; another thread
        takes this one's place, with a new instance. A yes that comes after all is recorded.

        A failure with ``answered=False`` (no complete answer came) closes the vendor at once. One
        that was answered may be this e-mail's own fault: it takes another e-mail's to close it.

        An instance is used by one thread. Where nothing left, say so (any outcome but ``accepted``
        and ``unknown``); where that is not certain, say ``unknown``. An exception is ``unknown``.
        """

    def close(self) -> None:  # noqa: B027  # nothing to do for a vendor that keeps nothing open
        """Give up connections; the next ``send`` opens new ones."""

    def sender(self, email: Email) -> Address:
        """Who the e-mail is from here: the vendor's own ``from``, if it has one."""
        return self._from or email.from_

    def options(self, email: Email) -> dict[str, Any]:
        """Vendor-specific extras: the configured ones, the e-mail's own on top."""
        options = merged(self.config.options, email.vendor_options.get(self.name, {}))
        return {name: value for name, value in options.items() if name not in _OURS}

    def tags(self, email: Email) -> tuple[str, ...]:
        """The tags that this vendor keeps to itself, each once; it does without the others."""
        return labels.tags(self.config.type, email)

    def metadata(self, email: Email) -> dict[str, str]:
        """The metadata that this vendor keeps to itself; it does without the rest."""
        return labels.metadata(self.config.type, email)

    def extra_headers(self, email: Email, email_id: str) -> dict[str, str]:
        """Our id; tags and metadata only where they may be seen: recipients can see headers."""
        headers = {"X-Mailqueue-Id": email_id}
        if self.exposes_metadata and email.tags:
            tags = json.dumps(list(dict.fromkeys(email.tags)))
            headers["X-Mailqueue-Tags"] = unstructured(tags)
        if self.exposes_metadata and email.metadata:
            headers["X-Mailqueue-Metadata"] = unstructured(json.dumps(dict(email.metadata)))
        return headers


def flag(config: VendorConfig, name: str) -> bool | None:
    """An option that is true or false; None: it is not there. Raises ConfigError for another."""
    value = config.options.get(name)
    if name in config.options and not isinstance(value, bool):
        raise ConfigError([f"vendors.{config.name}.options.{name}: must be true or false"])
    return value


def _address(config: VendorConfig) -> Address | None:
    try:
        return Address.parse(config.from_) if config.from_ else None
    except InvalidEmail as error:
        raise ConfigError([f"vendors.{config.name}.from: {error.problem}"]) from None


def created_at(email_id: str) -> datetime:
    """When the e-mail was made, out of its id: a date that is the same in every attempt."""
    return datetime.fromtimestamp(int(email_id[:8], 16), UTC)


def unique_recipients(email: Email) -> dict[str, list[Address]]:
    """To, cc and bcc, each mailbox only where it is shown first; no empty ones.

    One that is there twice is refused by some vendors and gets two copies from others. To the
    vendors' APIs ``Ann@`` and ``ann@`` are one mailbox; to SMTP they are two.
    """
    return email.unique_recipients(ignore_case=True)


def matching_recipients(email: Email, addresses: Iterable[Any]) -> tuple[str, ...]:
    """The recipients among ``addresses``, as we write them: vendors answer in lower case."""
    told = {address.lower() for address in addresses if isinstance(address, str)}
    people = email.recipients if told else ()
    return tuple(p.address for p in people if told & {p.address.lower(), p.ascii.lower()})


def ascii_headers(email: Email) -> dict[str, str]:
    """The e-mail's own headers as they stand in a message, in plain ASCII."""
    return {name: structured.wire(name, value) for name, value in email.headers.items()}


def encoded_headers(email: Email) -> dict[str, str]:
    """The same with Reply-To, for a vendor that has no other place for it."""
    headers = ascii_headers(email)
    if email.reply_to:
        headers["Reply-To"] = mailboxes(email.reply_to)
    return headers


def text(value: Any) -> str:
    """What a vendor answered, if it is text, else ``""``."""
    return value if isinstance(value, str) else ""


def identifier(value: Any) -> str | None:
    """An id that a vendor answered, text or a number, as text; None: it is no id."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return str(value) or None


def natural(value: Any) -> int | None:
    """A count that a vendor answered; None: it is none."""
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if right else None


def mapping(value: Any) -> Mapping[str, Any]:
    """An object that a vendor answered, or an empty one."""
    return value if isinstance(value, dict) else {}


def first(values: Any) -> Any:
    """The first of a list that a vendor answered; None: it is none, or is empty."""
    return values[0] if isinstance(values, list) and values else None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on it: mappings are merged, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        present = result.get(key)
        if isinstance(present, Mapping) and isinstance(value, Mapping):
            result[key] = merged(present, value)
        else:
            result[key] = value
    return result


def refuse_injection(email: Email, attempt: Attempt) -> SendResult | None:
    """A result if a header of this e-mail, decoded or not, could inject another; else None."""
    values = (attempt.message_id, *_header_values(email))
    problem = next(filter(None, map(unsafe, values)), None)
    if problem is None:
        return None
    return SendResult(outcome=Outcome.REJECTED, code=HEADER_INJECTION, detail=f"a header {problem}")


def unsent(vendor: Vendor, attempt: Attempt, error: Exception) -> SendResult:
    """What an exception of ours means before the first byte was written: this way it cannot go."""
    kind = type(error).__name__
    facts = {"id": attempt.email_id, "vendor": vendor.name, "error": kind}
    event(logger, logging.ERROR, "vendor.raised", **facts)
    detail = str(error) if isinstance(error, InvalidEmail) else ""  # it quotes nothing
    return SendResult(
        outcome=Outcome.UNSUITABLE,
        code=f"raised_{kind}",
        detail=detail,
        answered=False,
        our_fault=True,
    )


def late(attempt: Attempt, began: float) -> bool:
    """Whether an attempt, ``began`` in time, has lost most of it before the vendor is asked.

    If it ends at its deadline then, that is not the vendor's fault.
    """
    now = time.monotonic()
    return began < attempt.deadline and now - began > attempt.deadline - now


def _header_values(email: Email) -> Iterator[str]:
    yield from (email.subject, *email.headers, *email.headers.values())
    yield from (*email.tags, *email.metadata, *email.metadata.values())  # headers at some vendors
    for person in email.people:
        yield from (person.name, person.address)
    for file in email.attachments:
        yield from (file.filename, file.content_type, file.content_id or "")
    yield from (form.content_type for form in email.alternatives)
