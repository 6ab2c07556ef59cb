"""The arguments of MAIL and RCPT: who sends a message, and who gets it.

Decides: which addresses and parameters are taken. Addresses are those of an e-mail (``Address``),
outside ASCII with SMTPUTF8 only (RFC 6531). Source routes, DSN parameters and the like are not.

Promises: what is not taken raises ``Refused`` with the reply; nothing is quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mailqueue.errors import InvalidEmail
from mailqueue.message import Address
from mailqueue.message.message import MAX_RECIPIENTS
from mailqueue.smtp import replies

_PATH = r"\s*(<[^<>]*>|[^<>\s]+)((?:\s+[!-~]+)*)"
_FROM, _TO = (re.compile(word + _PATH, re.IGNORECASE) for word in ("FROM:", "TO:"))


class Refused(Exception):
    """A command or message is not taken; the text is the reply."""


@dataclass(slots=True)
class Envelope:
    """The message that is being handed over. ``sender``: None after ``MAIL FROM:<>``.

    ``size`` in bytes, as the client says; 0: it does not.
    """

    is_begun: bool = False
    sender: Address | None = None
    allows_utf8: bool = False
    size: int = 0
    recipients: list[Address] = field(default_factory=list)


def begin(argument: str | None, max_bytes: int) -> Envelope:
    """What MAIL says. Raises ``Refused``."""
    match = _FROM.fullmatch(argument or "")
    if match is None:
        raise Refused("501 5.5.4 Syntax: MAIL FROM:<address> [parameters]")
    envelope = Envelope(is_begun=True)
    for parameter in match[2].split():
        _read_parameter(parameter.upper(), envelope)
    if envelope.size > max_bytes:
        raise Refused(replies.TOO_LARGE.format(size=max_bytes))
    if match[1] != "<>":
        envelope.sender = _address(match[1], envelope)
    return envelope


def _read_parameter(parameter: str, envelope: Envelope) -> None:
    name, _, value = parameter.partition("=")
    if name == "SIZE" and re.fullmatch("[0-9]{1,20}", value):
        envelope.size = int(value)
    elif name == "SMTPUTF8" and not value:
        envelope.allows_utf8 = True
    # RFC 4954, 5: AUTH is who the sender claims to be, which a server may leave aside.
    elif name != "AUTH" and parameter not in {"BODY=7BIT", "BODY=8BITMIME"}:
        raise Refused("555 5.5.4 A parameter of MAIL is not known here")


def add_recipient(argument: str | None, envelope: Envelope) -> None:
    """Put into the envelope what RCPT says. Raises ``Refused``."""
    match = _TO.fullmatch(argument or "")
    if not envelope.is_begun:
        raise Refused("503 5.5.1 MAIL comes first")
    if match is None:
        raise Refused("501 5.5.4 Syntax: RCPT TO:<address>")
    if match[2]:
        raise Refused("555 5.5.4 A parameter of RCPT is not known here")
    if len(envelope.recipients) >= MAX_RECIPIENTS:
        raise Refused("452 4.5.3 Too many recipients: send the message again to the others")
    envelope.recipients.append(_address(match[1], envelope))


def _address(path: str, envelope: Envelope) -> Address:
    mailbox = path.removeprefix("<").removesuffix(">")
    if not mailbox.isascii() and not envelope.allows_utf8:
        raise Refused(replies.NEEDS_SMTPUTF8)
    try:
        return Address.parse(mailbox)
    except InvalidEmail:
        raise Refused(replies.NOT_AN_ADDRESS) from None
