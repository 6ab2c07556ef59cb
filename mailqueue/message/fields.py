"""The fields of an e-mail: what each may hold.

Decides: what makes the value of each key of ``send()``'s mapping legal (``READERS``).

May assume: nothing about what it is given.

Promises: a reader returns the value in its one normal form, or raises ``InvalidEmail`` naming the
field, never what stood in it. Chosen where the standards leave room: metadata numbers become text
and booleans ``true`` or ``false``; a missing content type is guessed from the file's name, and a
missing name from the type (``file_types``). A value costs time and memory in proportion to its
length, and there are at most ``MOST`` of each kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sized
from math import isfinite
from typing import Any

from mailqueue.errors import InvalidEmail
from mailqueue.message import structured
from mailqueue.message.file_types import name_of, type_of
from mailqueue.message.headers import FIELD_NAME, SEVERAL, Address, header_text, is_text, plain_text
from mailqueue.message.mime import GENERATED, Alternative, Attachment
from mailqueue.message.parameters import charset

MOST = 1000
"""Entries of a list, and of a mapping: recipients, attachments, headers, tags, metadata."""
MAX_ALTERNATIVES = 10
MOST_OPTIONS = 10_000
"""Values in ``vendor_options``, however nested."""

RESERVED = GENERATED | {
    *("from", "to", "cc", "bcc", "reply-to", "subject"),
    *("return-path", "received", "dkim-signature"),
}
"""Header names (lower case) that an e-mail cannot set; nor ``Content-*``, ``Resent-*``,
``X-Mailqueue-*``."""
_RESERVED_FAMILIES = ("content-", "resent-", "x-mailqueue-")

_NAME = r"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+"
_VALUE = rf'({_NAME}|"([ !#-\[\]-~]|\\[ -~])*")'
_CONTENT_TYPE = re.compile(
    rf"(?!multipart/){_NAME}/{_NAME}([ \t]*;[ \t]*{_NAME}={_VALUE})*", re.IGNORECASE | re.ASCII
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,250}")
LONGEST_NUMBER = 1024  # bits: as many as a float can express; Python prints no endless ones
SHOWN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _sender(value: object, field: str) -> Address:
    if value is None:
        raise InvalidEmail(field, "is missing")
    try:
        return Address.parse(value, field)
    except InvalidEmail as error:
        if error.problem != SEVERAL:
            raise
    raise InvalidEmail(field, "is not a valid e-mail address: there are several")


def _addresses(value: object, field: str) -> tuple[Address, ...]:
    if value is None:
        return ()
    return tuple([Address.parse(entry, place) for entry, place in _entries(value, field)])


def _entries(value: object, field: str) -> Iterator[tuple[Any, str]]:
    """The entries of a list, each with its place; what is no list is a list of one."""
    if isinstance(value, list | tuple) and not _is_pair(value):
        _check_number(value, field)
        yield from ((entry, f"{field}[{n}]") for n, entry in enumerate(value))
    elif isinstance(value, Address | tuple) or is_text(value):
        yield value, field
    else:
        raise InvalidEmail(field, f"must be a list, not {type(value).__name__}")


def _is_pair(value: object) -> bool:
    """A name and an address, in a tuple; two addresses are a list."""
    if not isinstance(value, tuple) or len(value) != 2:  # a pair
        return False
    name, address = value
    return (name is None or (is_text(name) and "@" not in name)) and is_text(address)


def _check_number(value: Sized, field: str) -> None:
    if len(value) > MOST:
        raise InvalidEmail(field, f"has {len(value)} entries: may have {MOST}")


def _items(value: object, field: str) -> Iterator[tuple[str, Any, str]]:
    """The items of a mapping, each with its place; a key that may hold anything is not shown.

    A key that begins with a dollar sign means something else to MongoDB or to its driver, which
    makes a reference of what has a ``$ref``.
    """
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise InvalidEmail(field, f"must be a mapping, not {type(value).__name__}")
    _check_number(value, field)
    for n, (key, item) in enumerate(value.items()):
        shown = isinstance(key, str) and SHOWN_KEY.fullmatch(key)
        place = f"{field}.{key}" if shown else f"{field}[{n}]"
        name = header_text(key, place)
        if name.startswith("$"):
            raise InvalidEmail(place, "has a name that begins with $, which MongoDB cannot keep")
        yield name, item, place


def _subject(value: object, field: str) -> str:
    return "" if value is None else header_text(value, field)


def _body(value: object, field: str) -> str | None:
    return None if value is None else _encodable(plain_text(value, field), field)


def _encodable(value: str, field: str) -> str:
    if not value.isascii() and _SURROGATE.search(value):
        raise InvalidEmail(field, "contains a lone surrogate")
    return value


def _headers(value: object, field: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    seen: set[str] = set()
    for name, text, place in _items(value, field):
        key = name.lower()
        if not FIELD_NAME.fullmatch(name):
            raise InvalidEmail(place, "is no header name (RFC 5322)")
        if key in RESERVED or key.startswith(_RESERVED_FAMILIES):
            raise InvalidEmail(place, "is a reserved header")
        if key in seen:
            raise InvalidEmail(place, "is given more than once")
        seen.add(key)
        kept_as = structured.MESSAGE_ID if key == structured.MESSAGE_ID.lower() else name
        headers[kept_as] = structured.read(name, header_text(text, place), place)
    return headers


def _tags(value: object, field: str) -> tuple[str, ...]:
    if value is None:
        return ()
    tags = tuple([(header_text(tag, place), place) for tag, place in _entries(value, field)])
    for tag, place in tags:
        if not tag:
            raise InvalidEmail(place, "is empty")
    return tuple([tag for tag, _ in tags])


def _metadata(value: object, field: str) -> dict[str, str]:
    return {key: _scalar(item, place) for key, item, place in _items(value, field)}


def _scalar(value: object, field: str) -> str:
    """Text as it is; numbers as text; booleans as JSON writes them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:
        raise InvalidEmail(field, "is too large a number: give it as text")
    return header_text(str(value) if isinstance(value, int | float) else value, field)


def _vendor_options(value: object, field: str) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    if value is None:
        return options
    room = iter(range(MOST_OPTIONS))
    for vendor, given, place in _items(value, field):
        if not isinstance(given, Mapping):
            raise InvalidEmail(place, f"must be a mapping, not {type(given).__name__}")
        options[vendor] = _json(given, place, 32, room)
    return options


def _json(value: object, field: str, depth: int, room: Iterator[int]) -> Any:
    """A copy of what JSON and MongoDB both can hold."""
    if not depth:
        raise InvalidEmail(field, "is nested too deeply")
    if next(room, None) is None:
        raise InvalidEmail(field, f"is one value too many: there may be {MOST_OPTIONS}")
    if isinstance(value, Mapping):
        items = _items(value, field)
        return {key: _json(item, place, depth - 1, room) for key, item, place in items}
    if isinstance(value, list | tuple):
        places = ((entry, f"{field}[{n}]") for n, entry in enumerate(value))
        return [_json(entry, place, depth - 1, room) for entry, place in places]
    if value is None or isinstance(value, bool) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if is_text(value):
        return _encodable(plain_text(value, field), field)
    kind = type(value).__name__
    raise InvalidEmail(field, f"has a value that JSON and MongoDB cannot hold: {kind}")


_FILE_KEYS = frozenset({"filename", "content", "content_type", "content_id"})


def _attachments(value: object, field: str) -> tuple[Attachment, ...]:
    if value is None:
        return ()
    return tuple([_file(entry, place) for entry, place in _entries(value, field)])


def _file(given: object, field: str) -> Attachment:
    if isinstance(given, Attachment):
        given = file_mapping(given)
    if not isinstance(given, Mapping) or given.keys() - _FILE_KEYS:
        keys = ", ".join(sorted(_FILE_KEYS))
        raise InvalidEmail(field, f"must be an Attachment or a mapping of {keys}")
    content = given.get("content")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise InvalidEmail(f"{field}.content", f"must be bytes, not {type(content).__name__}")
    texts = ((key, given.get(key)) for key in ("filename", "content_type", "content_id"))
    name, kind, content_id = (
        "" if text is None else header_text(text, f"{field}.{key}") for key, text in texts
    )
    name = name.strip()
    kind = kind or type_of(name)
    if len(kind) > 255 or not _CONTENT_TYPE.fullmatch(kind):
        raise InvalidEmail(f"{field}.content_type", "is no type of a single file (RFC 2045)")
    content_id = content_id.removeprefix("<").removesuffix(">")
    if content_id and not _CONTENT_ID.fullmatch(content_id):
        raise InvalidEmail(f"{field}.content_id", "must be printable ASCII without spaces")
    return Attachment(name or name_of(kind), bytes(content), kind, content_id or None)


_FORM_KEYS = frozenset({"content", "content_type"})


def _alternatives(value: object, field: str) -> tuple[Alternative, ...]:
    if value is None:
        return ()
    forms = tuple([_form(entry, place) for entry, place in _entries(value, field)])
    if len(forms) > MAX_ALTERNATIVES:
        raise InvalidEmail(field, f"has more than {MAX_ALTERNATIVES} entries")
    return forms


def _form(given: object, field: str) -> Alternative:
    if isinstance(given, Alternative):
        given = {"content": given.content, "content_type": given.content_type}
    if not isinstance(given, Mapping) or given.keys() != _FORM_KEYS:
        raise InvalidEmail(field, "must be an Alternative or a mapping of content, content_type")
    kind = header_text(given["content_type"], f"{field}.content_type")
    text = kind.lower().startswith("text/") and len(kind) <= 255 and _CONTENT_TYPE.fullmatch(kind)
    if not text or kind.partition(";")[0].strip().lower() in ("text/plain", "text/html"):
        problem = "must be a type of text other than text/plain and text/html, which have own keys"
        raise InvalidEmail(f"{field}.content_type", problem)
    content = given["content"]
    if is_text(content):
        content = _encodable(plain_text(content, f"{field}.content"), f"{field}.content").encode()
        kind = _as_utf8(kind, f"{field}.content_type")
    if not isinstance(content, bytes | bytearray | memoryview):
        words = f"must be a string or bytes, not {type(content).__name__}"
        raise InvalidEmail(f"{field}.content", words)
    return Alternative(bytes(content), kind)


def _as_utf8(kind: str, field: str) -> str:
    """The type of a text that is kept as UTF-8."""
    given = charset(kind)
    if not given:
        return f"{kind}; charset=utf-8"
    if given != "utf-8":
        raise InvalidEmail(field, "must say charset=utf-8, or give the content as bytes")
    return kind


def file_mapping(file: Attachment) -> dict[str, Any]:
    mapping = {
        "filename": file.filename,
        "content": file.content,
        "content_type": file.content_type,
        "content_id": file.content_id,
    }
    return {key: value for key, value in mapping.items() if value is not None}


READERS: Mapping[str, Callable[[object, str], object]] = {
    "from": _sender,
    "to": _addresses,
    "cc": _addresses,
    "bcc": _addresses,
    "reply_to": _addresses,
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
"""Every key of the mapping that ``send()`` takes, and what makes its value legal."""
