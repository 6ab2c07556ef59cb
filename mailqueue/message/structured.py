"""Headers with a grammar of their own: addresses, an identifier, or words that are never encoded.

Decides: what an application's own header of such a name may hold, and how it looks on the wire. In
these headers an encoded word (RFC 2047) may only stand for a display name: a program that looks for
an address, an identifier or a URL does not decode it. All other headers are free text.

Assumes: ``encode`` gets what ``read`` returned.

Promises: a value that cannot be written by the grammar is refused: non-ASCII letters in a URL, a
word that is longer than a line may be (998 octets, RFC 5322).
"""

from __future__ import annotations

import re

from mailqueue.errors import InvalidEmail
from mailqueue.message.addresses import Address, mailbox, mailboxes, split_list
from mailqueue.message.headers import LINE, encode_unstructured, is_visible, phrase, pieces

MESSAGE_ID = "Message-ID"

_ADDRESSES = frozenset(
    {
        *("sender", "errors-to", "x-errors-to", "disposition-notification-to"),
        *("return-receipt-to", "x-confirm-reading-to", "mail-followup-to", "mail-reply-to"),
    }
)
_BARE = frozenset(  # identifiers, URLs and words of a protocol: never an encoded word in them
    {
        *("list-help", "list-unsubscribe", "list-subscribe", "list-post", "list-owner"),
        *("list-archive", "list-unsubscribe-post", "archived-at", "references", "in-reply-to"),
        *("auto-submitted", "precedence", "feedback-id", "supersedes"),
    }
)
_LIST_ID = "list-id"
_MAX_LIST = 20_000  # characters of a list of addresses
_ID = re.compile(r"[!-;=?-~]{1,500}")


def has_addresses(name: str) -> bool:
    """Whether a header of this name holds mailboxes."""
    return name.lower() in _ADDRESSES


def read(name: str, value: str, field: str) -> str:
    """The value in its one normal form, if it follows the grammar of this header."""
    key = name.lower()
    if key == MESSAGE_ID.lower():
        return _message_id(value, field)
    if key in _ADDRESSES:
        return ", ".join(map(str, _addresses(value, field, 1 if key == "sender" else None)))
    if key == _LIST_ID:
        return _list_id(value, field)
    return _bare(value, field) if key in _BARE else value


def encode(name: str, value: str) -> str:
    """The value as it stands in a message, in plain ASCII."""
    key = name.lower()
    if key in _ADDRESSES:
        return mailboxes(_addresses(value, key, None))
    if key == _LIST_ID and not value.isascii():
        list_id = Address.from_canonical(value)
        return mailbox(list_id.name, list_id.address)
    return value if key in _BARE or key == _LIST_ID else encode_unstructured(value)


def _addresses(value: str, field: str, maximum: int | None) -> list[Address]:
    if len(value) > _MAX_LIST:
        raise InvalidEmail(field, f"is longer than {_MAX_LIST} characters: give fewer addresses")
    addresses = [Address.parse(entry, field) for entry in split_list(value)]
    if not addresses or (maximum is not None and len(addresses) > maximum):
        problem = "must be one address" if maximum else "must be one or more addresses"
        raise InvalidEmail(field, problem)
    if not all(address.is_ascii_mailbox for address in addresses):
        raise InvalidEmail(field, "has a mailbox outside ASCII: use an ASCII address")
    return addresses


def _message_id(value: str, field: str) -> str:
    bare = value.strip().removeprefix("<").removesuffix(">")
    id_left, at, id_right = bare.partition("@")
    if not (id_left and at and id_right) or "@" in id_right or not _ID.fullmatch(bare):
        raise InvalidEmail(field, "must be <left@right> in printable ASCII (RFC 5322)")
    return f"<{bare}>"


def _list_id(value: str, field: str) -> str:
    if value.isascii():
        return _bare(value, field)
    name, _, rest = value.strip().rpartition("<")
    if not rest.endswith(">") or not _ID.fullmatch(rest[:-1]):
        problem = "must be <identifier> in printable ASCII, with or without a name before it"
        raise InvalidEmail(field, problem)
    name = Address.parse(f"{name}<x@x>", field).name
    return f"{phrase(name)} <{rest}"


def _bare(value: str, field: str) -> str:
    value = value.strip(" \t")
    if value and not is_visible(value):
        raise InvalidEmail(field, "must be printable ASCII: percent-encode other characters")
    if max(map(len, pieces(value)), default=0) > LINE:
        raise InvalidEmail(field, f"has a word longer than a line ({LINE} octets): split it")
    return value
