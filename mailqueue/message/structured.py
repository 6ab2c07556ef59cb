"""Headers whose grammar their name tells: addresses, an identifier, or words that stay bare.

Decides: what may stand in such a header of an application's own, and how it looks on the wire. In
these an encoded word (RFC 2047) may only stand for a display name: a program that looks for an
address, an identifier or a URL does not decode it. All other headers are free text.

Assumes: in ``wire`` that the value came from ``read``.

Promises: what cannot be written so is refused: non-ASCII letters in a URL, a word that is longer
than a line may be (998 octets, RFC 5322).
"""

from __future__ import annotations

import re

from mailqueue.errors import InvalidEmail
from mailqueue.message.headers import (
    LINE,
    Address,
    mailbox,
    mailboxes,
    parts,
    phrase,
    pieces,
    unstructured,
    visible,
)

MESSAGE_ID = "Message-ID"

_ADDRESSES = frozenset(
    {
        *("sender", "errors-to", "x-errors-to", "disposition-notification-to"),
        *("return-receipt-to", "x-confirm-reading-to", "mail-followup-to", "mail-reply-to"),
    }
)
_BARE = frozenset(
    {
        *("list-help", "list-unsubscribe", "list-subscribe", "list-post", "list-owner"),
        *("list-archive", "list-unsubscribe-post", "archived-at", "references", "in-reply-to"),
        *("auto-submitted", "precedence", "feedback-id", "supersedes"),
    }
)
_LIST_ID = "list-id"
_LONGEST = 20_000  # characters of a list of addresses
_ID = re.compile(r"[!-;=?-~]{1,500}")


def has_addresses(name: str) -> bool:
    """Whether a header of this name holds mailboxes."""
    return name.lower() in _ADDRESSES


def read(name: str, value: str, field: str) -> str:
    """The value in its one form, if it follows the grammar of this header."""
    key = name.lower()
    if key == MESSAGE_ID.lower():
        return _message_id(value, field)
    if key in _ADDRESSES:
        return ", ".join(map(str, _addresses(value, field, 1 if key == "sender" else None)))
    if key == _LIST_ID:
        return _list_id(value, field)
    return _bare(value, field) if key in _BARE else value


def wire(name: str, value: str) -> str:
    """The value as it stands in a message, in plain ASCII."""
    key = name.lower()
    if key in _ADDRESSES:
        return mailboxes(_addresses(value, key, None))
    if key == _LIST_ID and not value.isascii():
        listed = Address.trusted(value)
        return mailbox(listed.name, listed.address)
    return value if key in _BARE or key == _LIST_ID else unstructured(value)


def _addresses(value: str, field: str, most: int | None) -> list[Address]:
    if len(value) > _LONGEST:
        raise InvalidEmail(field, f"is longer than {_LONGEST} characters")
    found = [Address.parse(part, field) for part in parts(value)]
    if not found or (most is not None and len(found) > most):
        raise InvalidEmail(field, "must be one address" if most else "must be an address or more")
    if not all(address.is_ascii_mailbox for address in found):
        raise InvalidEmail(field, "has a non-ASCII mailbox")
    return found


def _message_id(value: str, field: str) -> str:
    bare = value.strip().removeprefix("<").removesuffix(">")
    left, at, right = bare.partition("@")
    if not (left and at and right) or "@" in right or not _ID.fullmatch(bare):
        raise InvalidEmail(field, "must be <left@right> in printable ASCII (RFC 5322)")
    return f"<{bare}>"


def _list_id(value: str, field: str) -> str:
    if value.isascii():
        return _bare(value, field)
    name, _, rest = value.strip().rpartition("<")
    if not rest.endswith(">") or not _ID.fullmatch(rest[:-1]):
        raise InvalidEmail(field, "must be <identifier> in printable ASCII, after a name or not")
    name = Address.parse(f"{name}<x@x>", field).name
    return f"{phrase(name)} <{rest}"


def _bare(value: str, field: str) -> str:
    value = value.strip(" \t")
    if value and not visible(value):
        raise InvalidEmail(field, "must be printable ASCII: percent-encode other characters")
    if max(map(len, pieces(value)), default=0) > LINE:
        raise InvalidEmail(field, f"has a word longer than a line may be ({LINE} octets)")
    return value
