"""The fields of an e-mail: what each may hold.

Decides: what makes the value of each key of ``send()``'s mapping valid (``READERS``).

Assumes: nothing about the values.

Promises: a reader returns the value in its one normal form, or raises ``InvalidEmail`` that names
the field and quotes nothing of it. Numbers in metadata become text, booleans ``true`` or ``false``.
A value takes time and memory in proportion to its length, and there are at most ``MAX_ENTRIES`` of
each kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sized
from functools import lru_cache
from math import isfinite
from typing import Any

from mailqueue.errors import InvalidEmail
from mailqueue.message import structured
from mailqueue.message.addresses import SEVERAL, Address
from mailqueue.message.attachments import (
    Alternative,
    Attachment,
    read_alternative,
    read_attachment,
)
from mailqueue.message.envelope import NULL_SENDER, Envelope
from mailqueue.message.headers import FIELD_NAME, GENERATED, body_text, header_text, is_text

MAX_ENTRIES = 1000
"""Entries of a list, and of a mapping: recipients, attachments, headers, tags, metadata."""
MAX_ALTERNATIVES = 10
MAX_OPTIONS = 10_000
"""Values in ``vendor_options``, however nested."""

RESERVED = GENERATED | {
    *("from", "to", "cc", "bcc", "reply-to", "subject"),
    *("return-path", "received", "dkim-signature"),
}
"""Header names (lower case) that an e-mail cannot set; nor ``Content-*``, ``Resent-*``,
``X-Mailqueue-*``."""
_RESERVED_PREFIXES = ("content-", "resent-", "x-mailqueue-")

_ENVELOPE_KEYS = frozenset({"from", "recipients"})
_MAX_BITS = 1024  # of a whole number, as in a float; Python takes very long to print longer ones
_MAX_DEPTH = 32  # of nested ``vendor_options``
SHOWN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Keys that may stand in an error. Others may hold anything, an address, say."""


def _sender(value: object, field: str) -> Address:
    if value is None:
        raise InvalidEmail(field, "is missing: give the sender's address")
    try:
        return _usual_sender(value, field) if type(value) is str else Address.parse(value, field)
    except InvalidEmail as error:
        if error.problem != SEVERAL:
            raise
    raise InvalidEmail(field, "contains several addresses: give one")


# An application has few senders, and most of its e-mails are from one of them.
_usual_sender = lru_cache(maxsize=100)(Address.parse)


def _addresses(value: object, field: str) -> tuple[Address, ...]:
    if value is None:
        return ()
    return tuple([Address.parse(entry, place) for entry, place in _entries(value, field)])


def _entries(value: object, field: str) -> Iterator[tuple[Any, str]]:
    """The entries of a list, each with its place; a single value is a list of one."""
    # A tuple of two is ambiguous: one mailbox with its name, or two addresses.
    if isinstance(value, list | tuple) and not _is_pair(value):
        _check_length(value, field)
        yield from ((entry, f"{field}[{n}]") for n, entry in enumerate(value))
    elif isinstance(value, Address | tuple) or is_text(value):
        yield value, field
    else:
        raise InvalidEmail(field, f"must be a list, not {type(value).__name__}")


def _is_pair(value: object) -> bool:
    """Whether a tuple is one mailbox, a name and an address; two addresses are a list."""
    if not isinstance(value, tuple) or len(value) != 2:  # a pair
        return False
    name, address = value
    return (name is None or (is_text(name) and "@" not in name)) and is_text(address)


def _check_length(value: Sized, field: str) -> None:
    if len(value) > MAX_ENTRIES:
        raise InvalidEmail(field, f"has {len(value)} entries: at most {MAX_ENTRIES} are allowed")


def _items(value: object, field: str) -> Iterator[tuple[str, Any, str]]:
    """The items of a mapping, each with its place, which shows only harmless keys.

    A key must not begin with a dollar sign: to MongoDB it would be an operator, and its driver
    turns a mapping with ``$ref`` into a reference.
    """
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise InvalidEmail(field, f"must be a mapping, not {type(value).__name__}")
    _check_length(value, field)
    for n, (key, item) in enumerate(value.items()):
        is_harmless = isinstance(key, str) and SHOWN_KEY.fullmatch(key)
        place = f"{field}.{key}" if is_harmless else f"{field}[{n}]"
        name = header_text(key, place)
        if name.startswith("$"):
            problem = "has a key that begins with $, which MongoDB cannot store: rename it"
            raise InvalidEmail(place, problem)
        yield name, item, place


def _envelope(value: object, field: str) -> Envelope | None:
    """What the envelope was given; only the whole e-mail tells what of it the headers say."""
    if value is None:
        return None
    if isinstance(value, Envelope):
        value = {"from": value.from_, "recipients": value.recipients or None}
    if not isinstance(value, Mapping) or value.keys() - _ENVELOPE_KEYS:
        keys = ", ".join(sorted(_ENVELOPE_KEYS))
        raise InvalidEmail(field, f"must be an Envelope or a mapping of {keys}")
    people = value.get("recipients")
    recipients = _addresses(people, f"{field}.recipients")
    if people is not None and not recipients:
        problem = "is empty: name who is sent to, or leave it out"
        raise InvalidEmail(f"{field}.recipients", problem)
    return Envelope(_bounce_address(value.get("from"), f"{field}.from"), recipients)


def _bounce_address(value: object, field: str) -> Address | None:
    if value is None:
        return None
    if isinstance(value, Address):
        value = value.address
    if is_text(value) and value in ("", "<>"):
        return NULL_SENDER
    return Address("", _sender(value, field).address)


def _subject(value: object, field: str) -> str:
    return "" if value is None else header_text(value, field)


def _body(value: object, field: str) -> str | None:
    return None if value is None else body_text(value, field)


def _headers(value: object, field: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    names: set[str] = set()
    for name, text, place in _items(value, field):
        key = name.lower()
        if not FIELD_NAME.fullmatch(name):
            raise InvalidEmail(place, "is not a valid header name: use letters, digits and hyphens")
        if key in RESERVED or key.startswith(_RESERVED_PREFIXES):
            problem = "is a reserved header: use the field of that name, or leave it out"
            raise InvalidEmail(place, problem)
        if key in names:
            raise InvalidEmail(place, "is given more than once: names do not differ by their case")
        names.add(key)
        spelling = structured.MESSAGE_ID if key == structured.MESSAGE_ID.lower() else name
        headers[spelling] = structured.read(name, header_text(text, place), place)
    return headers


def _tags(value: object, field: str) -> tuple[str, ...]:
    if value is None:
        return ()
    tags = tuple([(header_text(tag, place), place) for tag, place in _entries(value, field)])
    for tag, place in tags:
        if not tag:
            raise InvalidEmail(place, "is empty: leave it out")
    return tuple([tag for tag, _ in tags])


def _metadata(value: object, field: str) -> dict[str, str]:
    return {key: _scalar(item, place) for key, item, place in _items(value, field)}


def _scalar(value: object, field: str) -> str:
    """Text as it is; numbers as text; booleans as JSON writes them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise InvalidEmail(field, "is too large a number: give it as text")
    if isinstance(value, float) and not isfinite(value):  # JSON's 1e999, say
        raise InvalidEmail(field, "is no finite number: give it as text")
    return header_text(str(value) if isinstance(value, int | float) else value, field)


def _vendor_options(value: object, field: str) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    if value is None:
        return options
    budget = iter(range(MAX_OPTIONS))  # one step for each value, shared by all levels
    for vendor, mapping, place in _items(value, field):
        if not isinstance(mapping, Mapping):
            raise InvalidEmail(place, f"must be a mapping, not {type(mapping).__name__}")
        options[vendor] = _json(mapping, place, _MAX_DEPTH, budget)
    return options


def _json(value: object, field: str, depth: int, budget: Iterator[int]) -> Any:
    """A copy of a value, if both JSON and MongoDB can hold it."""
    if not depth:
        raise InvalidEmail(field, f"is nested too deeply: {_MAX_DEPTH} levels are allowed")
    if next(budget, None) is None:
        raise InvalidEmail(field, f"is one value too many: at most {MAX_OPTIONS} are allowed")
    if isinstance(value, Mapping):
        items = _items(value, field)
        return {key: _json(item, place, depth - 1, budget) for key, item, place in items}
    if isinstance(value, list | tuple):
        places = ((entry, f"{field}[{n}]") for n, entry in enumerate(value))
        return [_json(entry, place, depth - 1, budget) for entry, place in places]
    if value is None or isinstance(value, bool) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if is_text(value):
        return body_text(value, field)
    kind = type(value).__name__
    raise InvalidEmail(field, f"is a value that JSON and MongoDB cannot hold: convert the {kind}")


def _attachments(value: object, field: str) -> tuple[Attachment, ...]:
    if value is None:
        return ()
    return tuple([read_attachment(entry, place) for entry, place in _entries(value, field)])


def _alternatives(value: object, field: str) -> tuple[Alternative, ...]:
    if value is None:
        return ()
    forms = tuple([read_alternative(entry, place) for entry, place in _entries(value, field)])
    if len(forms) > MAX_ALTERNATIVES:
        raise InvalidEmail(
            field, f"has {len(forms)} entries: at most {MAX_ALTERNATIVES} are allowed"
        )
    return forms


READERS: Mapping[str, Callable[[object, str], object]] = {
    "from": _sender,
    "to": _addresses,
    "cc": _addresses,
    "bcc": _addresses,
    "reply_to": _addresses,
    "envelope": _envelope,
    "subject": _subject,
    "text": _body,
    "html": _body,
    "alternatives": _alternatives,
    "headers": _headers,
    "attachments": _attachments,
    "tags": _tags,
    "metadata": _metadata,
    "vendor_options": _vendor_options,
}
"""Every key of the mapping that ``send()`` takes, and the function that checks its value."""
