"""A message as it comes over SMTP, and what ``send()`` is called with.

Decides: which header fields say something to us and are taken out, and what is filled in. Who gets
the message says its envelope alone (RFC 5321, 2.3.1); what of it is stored, ``message.envelope``
decides.

Promises: whatever is refused is ``InvalidEmail``, naming the field and quoting nothing. A ``Bcc``
field is never passed on. The time is in proportion to the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from mailqueue.config import Config, VendorConfig
from mailqueue.errors import InvalidEmail
from mailqueue.message import Address, Email, EnvelopeDict, stdlib_message
from mailqueue.message.raw_headers import free_text, mailboxes, source
from mailqueue.smtp import replies
from mailqueue.smtp.envelope import Refused
from mailqueue.vendors.limits import capacity

PRIORITY, TAG, KEY = "X-Mailqueue-Priority", "X-Mailqueue-Tag", "Idempotency-Key"
VENDORS = "X-Mailqueue-Vendors"

# What others have written about the way here, some of it several times. A signature of the message
# does not hold for the one that is made anew, and only the envelope says who gets a blind copy.
_TRACES = {"received", "return-path", "authentication-results", "dkim-signature", "x-cron-env"}
_TAKEN_OUT = _TRACES | {"bcc", *map(str.lower, (PRIORITY, TAG, KEY, VENDORS))}


@dataclass(frozen=True, slots=True)
class SendArguments:
    """The arguments of ``send()``."""

    email: Email
    priority: Any
    idempotency_key: str | None = field(repr=False)
    vendors: list[str] | None = None


def max_bytes(config: Config) -> int:
    """Bytes of the largest message that may be worth reading: ``limits.max_size`` in base64.

    With the line ends of base64 (78 for 57 bytes), and 64 KiB for header fields.
    """
    return config.limits.max_size * 78 // 57 + 65_536


def content(raw: bytearray) -> bytearray:
    """The message that was sent as this: no dot stands twice (RFC 5321, 4.5.2). Raises Refused."""
    line_ends = raw.count(b"\r\n")
    if raw.count(b"\n") != line_ends or raw.count(b"\r") != line_ends:
        raise Refused(replies.BARE_LINE_END)
    if raw.startswith(b".") or b"\r\n." in raw:
        return raw.replace(b"\r\n.", b"\r\n").removeprefix(b".")
    return raw


def read(
    message: Message,
    sender: Address | None,
    recipients: Sequence[Address],
    vendors: Sequence[VendorConfig],
) -> SendArguments:
    """From a message and its envelope. ``sender``: the bounce address; None: nobody's.

    Every message has one, few programs care which. So it is kept only where each of ``vendors`` can
    send by it: else the others could not stand in, or nobody could send the message at all.

    Raises ``InvalidEmail``. The message is changed.
    """
    priority = _one(message, PRIORITY, "priority") or "normal"
    key = _one(message, KEY, "idempotency_key")
    tags = _texts(message, TAG, "tags")
    names = _one(message, VENDORS, "vendors")
    for name in _TAKEN_OUT.intersection(map(str.lower, message.keys())):
        del message[name]
    if "Content-Type" not in message and not message.is_multipart():
        # Many programs write UTF-8 and do not say so; to ASCII it makes no difference.
        message["Content-Type"] = 'text/plain; charset="utf-8"'
    fields = stdlib_message.read(message)
    if len(recipients) == 1 and not fields.get("to") and not fields.get("cc"):
        fields["to"] = list(recipients)  # to show the only one to himself tells nobody anything
    envelope: EnvelopeDict = {"recipients": [person.address for person in recipients]}
    limits = [capacity(each.type, each.options) for each in vendors]
    if all(each.bounce_address and (sender or each.null_sender) for each in limits):
        envelope["from"] = sender.address if sender else ""
    email = Email.from_mapping({**fields, "tags": tags, "envelope": envelope})
    route = None if names is None else [name.strip() for name in names.split(",")]
    return SendArguments(email, priority.lower(), key, route)


def header_mailboxes(message: Message, name: str) -> list[str]:
    """The mailboxes that the fields of this name hold."""
    field = name.lower()
    texts = [source(raw, field) for raw in message.get_all(name, ())]
    return [mailbox for text in texts for mailbox in mailboxes(text, field)]


def _one(message: Message, name: str, field: str) -> str | None:
    texts = _texts(message, name, field)
    if len(texts) > 1:
        raise InvalidEmail(field, f"is given more than once: give {name} once")
    return texts[0] if texts else None


def _texts(message: Message, name: str, field: str) -> list[str]:
    return [free_text(source(raw, field), field).strip() for raw in message.get_all(name, ())]
