"""The port to a vendor: ``Vendor.send(email, attempt) -> SendResult``.

Decides: what a vendor is to the rest of the program. Each vendor is a subclass. One with an HTTP
API is easier to write as an ``HttpVendor`` (see ``http``), which needs two methods.

Assumes: an instance belongs to one delivery thread. Each thread makes its own, and makes a new one
after a fork. Several instances of one configuration are at work at the same time. The e-mail was
validated when it was stored.

Promises: vendor trouble is a value, never an exception. The worker takes whatever ``send`` returns
or raises: ``answers`` makes it storable. It cuts ``code`` to 100 characters and ``detail`` to 200,
and hides addresses, names, quotes of the e-mail and ``secrets`` in ``detail``. A header that could
inject another one is refused here, although the producer has checked it before.

What one attempt did is in MongoDB only after ``send`` returned. If the process dies before that,
the outcome is recorded as ``unknown``.

========================  ==============================================================
``code``                  meaning (else the vendor's own: ``"202"``, ``"smtp-550"``, or a
                          word of ``wire.failures``: the connection failed, not the vendor)
========================  ==============================================================
``header_injection``      a header value has CR, LF or NUL
``raised_...``            our code raised before the first byte: nothing was sent
``envelope``              this vendor cannot send to some of the recipients only
``size`` ``smtputf8``     the SMTP server does not offer what this e-mail needs
``no_connection``         the SMTP server takes no more connections at a time
``credentials``           no AWS credentials to sign with; nothing was sent
``simulated``             accepted by the simulation
========================  ==============================================================
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, ClassVar

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError, InvalidEmail
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.lifecycle.values import value
from mailqueue.logs import event, place
from mailqueue.message import Address, Email
from mailqueue.message.headers import encode_unstructured, header_problem
from mailqueue.message.mime import mime
from mailqueue.vendors import labels, limits
from mailqueue.vendors.payloads import merge

logger = logging.getLogger(__name__)

HEADER_INJECTION = "header_injection"
ENVELOPE = "envelope"
SIZE = "size"
SMTPUTF8 = "smtputf8"
LOCAL_CODES = frozenset({HEADER_INJECTION, ENVELOPE, SIZE, SMTPUTF8})  # the vendor was not asked

SIMULATED_DELAY = "simulated_delay"
EXPOSE_METADATA = "expose_metadata"
_LOCAL_OPTIONS = (SIMULATED_DELAY, EXPOSE_METADATA)  # no vendor sees them


@value
class Attempt:
    """What one attempt needs beside the e-mail.

    ``email_id``: our id, 24 hexadecimal digits. Send it along: it finds the e-mail at the vendor.
    ``message_id``: the Message-ID, with its angle brackets; the same in every attempt.
    ``date``: for the Date header; the same in every attempt, and not before the e-mail's
    ``send_at``. None: it is not known.
    ``key``: the idempotency key, if the vendor has a ``key_life``; the same in all attempts that
    may make only one copy.
    ``nonce``: of an e-mail that was sent with an idempotency key, what tells it from an earlier one
    with the same ``email_id``, which was pruned.
    ``recipients``: the addresses that this attempt goes to. None: all of them.
    ``deadline``: the moment, on the clock of ``time.monotonic``, by which ``send`` must be back.
    """

    email_id: str
    message_id: str
    date: datetime | None = None
    key: str | None = None
    nonce: str | None = None
    recipients: tuple[str, ...] | None = field(default=None, repr=False)
    deadline: float


class Vendor(ABC):
    """A vendor that takes e-mails. A subclass needs ``send``; all else has a default.

    It is made by its ``VendorConfig``. ``config.keys`` holds the keys of the entry in the
    configuration that not every vendor has, such as ``api_key``. The keys of a type of your own
    are not checked, so check them in ``__init__``, and raise ``ConfigError`` with the path of the
    key: ``ConfigError([f"vendors.{config.name}.token: required key is missing"])``. Otherwise a
    missing key is found too late, as a KeyError in each attempt. Open no connection there: commands
    that never send make vendors too.

    ``secrets``: texts to hide in the ``detail`` of results. By default all values of ``keys``.
    ``name`` is the vendor's name in the configuration.
    """

    key_life: ClassVar[float | None] = None
    """For how long, in seconds, the vendor documents that it knows an idempotency key.

    Within half of it an attempt with an unknown outcome is repeated under the same
    ``Attempt.key``. None: the vendor does not de-duplicate.
    """

    has_sandbox: ClassVar[bool] = False
    """Whether the vendor can check an e-mail without sending it, as ``config.sandbox`` asks.

    Without it ``sandbox: true`` is refused: the e-mails would go out.
    """

    lookup: Callable[[Email, Attempt], SendResult | None] | None = None
    """Whether the vendor has this e-mail. Define it as a method, where the vendor documents a
    search. It is asked after an unknown outcome, under the same rules as ``send``.

    Return ``accepted`` if the vendor has it. None proves nothing: the e-mail is sent again.
    """

    def __init__(self, config: VendorConfig) -> None:
        if config.sandbox and not self.has_sandbox:
            raise ConfigError([f"vendors.{config.name}.sandbox: {config.type} has no sandbox"])
        self.config = config
        self.name = config.name
        self.exposes_metadata = flag(config, EXPOSE_METADATA) is True
        self.secrets = tuple(v for v in config.keys.values() if isinstance(v, str))
        self._from = _from_address(config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def can_carry(self, email: Email) -> str | None:
        """None if this vendor can take the e-mail, else a short phrase that says why not.

        It is called when the next attempt is planned, in another thread and on another instance
        than ``send``, and must not wait for anything. The phrase quotes nothing of the e-mail. If
        it raises, the vendor counts as one that cannot carry this e-mail. An override asks
        ``super().can_carry(email)`` as well, which knows the capacity of the type; of a type of
        your own, that it carries no ``alternatives``, and no ``envelope`` with a bounce address or
        without some of the recipients that are shown. A producer does not load classes of your own,
        and accepts what only the override refuses.
        """
        return limits.can_carry(self.config.type, email, self.config.options)

    @abstractmethod
    def send(self, email: Email, attempt: Attempt) -> SendResult:
        """Hand the e-mail to the vendor, once. Vendor trouble is a result, never an exception.

        The deadline: return by ``attempt.deadline``, whatever the vendor does. Bound the whole
        call, not only each read, and hand over nothing once that moment has passed. ``HttpVendor``
        and ``Smtp`` do this for you. A call that is not back a second later (sooner where times
        are short) is given up. Its outcome is recorded as ``unknown`` and counts against the
        vendor, the e-mail may be sent again, and another thread goes on with a new instance. A
        late ``accepted`` is still recorded.

        The outcome: if nothing was sent, say so (any outcome but ``accepted`` and ``unknown``). If
        that is not certain, say ``unknown``. An exception counts as ``unknown``. Set
        ``answered=False`` if no complete answer came: such a failure makes the vendor unavailable
        at once. An answered failure may be this e-mail's fault, so a second e-mail has to fail too.

        If ``attempt.recipients`` names some recipients, send to these only, or return
        ``unsuitable``. It is None for types whose capacity has no ``partial_recipients``.
        """

    def close(self) -> None:  # noqa: B027  # nothing to do for a vendor that keeps nothing open
        """Give up connections; the next ``send`` opens new ones."""

    def sender(self, email: Email) -> Address:
        """The From of the e-mail: the vendor's own ``from``, if it has one."""
        return self._from or email.from_

    def options(self, email: Email) -> dict[str, Any]:
        """Vendor-specific extras: the configured ones, with the e-mail's own on top."""
        options = merge(self.config.options, email.vendor_options.get(self.name, {}))
        return {name: value for name, value in options.items() if name not in _LOCAL_OPTIONS}

    def mime(
        self, email: Email, attempt: Attempt, extra_headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The e-mail as a MIME message: the same, byte for byte, in every attempt."""
        return mime(
            email,
            message_id=attempt.message_id,
            date=attempt.date or datetime.now(UTC),
            email_id=attempt.email_id,
            sender=self.sender(email),
            extra_headers=extra_headers or {},
        )

    def tags(self, email: Email) -> tuple[str, ...]:
        """The tags that this vendor can keep to itself, each once; others are left out."""
        return labels.tags(self.config.type, email)

    def metadata(self, email: Email) -> dict[str, str]:
        """The metadata that this vendor can keep to itself; the rest is left out."""
        return labels.metadata(self.config.type, email)

    def extra_headers(self, email: Email, email_id: str) -> dict[str, str]:
        """Headers with our id, and with tags and metadata only if ``expose_metadata`` is set.

        Recipients can see headers.
        """
        headers = {"X-Mailqueue-Id": email_id}
        if self.exposes_metadata and email.tags:
            tags = json.dumps(list(dict.fromkeys(email.tags)))
            headers["X-Mailqueue-Tags"] = encode_unstructured(tags)
        if self.exposes_metadata and email.metadata:
            headers["X-Mailqueue-Metadata"] = encode_unstructured(json.dumps(dict(email.metadata)))
        return headers


def flag(config: VendorConfig, name: str) -> bool | None:
    """An option that is true or false; None: it is absent. Raises ConfigError for other values."""
    value = config.options.get(name)
    if name in config.options and not isinstance(value, bool):
        raise ConfigError([f"vendors.{config.name}.options.{name}: must be true or false"])
    return value


def _from_address(config: VendorConfig) -> Address | None:
    try:
        return Address.parse(config.from_) if config.from_ else None
    except InvalidEmail as error:
        raise ConfigError([f"vendors.{config.name}.from: {error.problem}"]) from None


def refuse_injection(email: Email, attempt: Attempt) -> SendResult | None:
    """A result if a header of this e-mail, decoded or not, could inject another; else None."""
    # The producer checked this. But a document may have been stored by an older version, or changed
    # by hand.
    values = (attempt.message_id, *_header_values(email))
    problem = next(filter(None, map(header_problem, values)), None)
    if problem is None:
        return None
    return SendResult(outcome=Outcome.REJECTED, code=HEADER_INJECTION, detail=f"a header {problem}")


def result_of_our_exception(vendor: Vendor, attempt: Attempt, error: Exception) -> SendResult:
    """The result of an exception in our code before the first byte: this vendor cannot send it."""
    kind = type(error).__name__
    facts = {"id": attempt.email_id, "vendor": vendor.name, "error": kind, "at": place(error)}
    event(logger, logging.ERROR, "vendor.raised", **facts)
    detail = str(error) if isinstance(error, InvalidEmail) else ""  # it quotes nothing
    return SendResult(
        outcome=Outcome.UNSUITABLE,
        code=f"raised_{kind}",
        detail=detail,
        answered=False,
        our_fault=True,
    )


def is_late(attempt: Attempt, began: float) -> bool:
    """Whether more than half of the attempt's time was spent before the vendor is asked.

    If the attempt then ends at its deadline, that is not the vendor's fault. ``began`` is on the
    clock of ``time.monotonic``.
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
