"""Tags and metadata, the labels of an e-mail: what a vendor is given of them, and in which form.

Decides: which of them a vendor keeps to itself (the numbers are those of ``capacity``). Labels are
for the sender's own books: they never keep an e-mail from a vendor and never reach a recipient. A
vendor is given what it takes as it is, and does without the rest; some take other text packed: as
``b64-`` and its URL-safe base64.

Promises: the same labels for the same e-mail; our own id is always among what a vendor is given,
and no label takes its place.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import inf

from mailqueue.config.vendor_types import Capacity
from mailqueue.message import Email
from mailqueue.vendors.limits import OWN_OPTIONS, capacity, headers_size

ID_KEY = "mailqueue_id"  # our id among the metadata; in headers it is X-Mailqueue-Id

_OWN_ENTRY = 50  # bytes of our id among the metadata, as JSON
_PRINTABLE = re.compile("[!-~]([ -~]*[!-~])?")
_VALUE = re.compile(r"(?!b64-)[A-Za-z0-9_-]{1,256}")
_NAME = re.compile(rf"(?!b64-|tag-\d|{ID_KEY}$)[A-Za-z0-9_-]{{1,256}}")


def tags(type_: str, email: Email) -> tuple[str, ...]:
    """The e-mail's tags, each once, that vendors of this type take, as they take them."""
    limit = capacity(type_)
    forms = [_form(limit, tag) for tag in dict.fromkeys(email.tags)]
    return tuple([tag for tag in forms if tag is not None][: limit.tags])


def _form(limit: Capacity, tag: str) -> str | None:
    """The tag as it is, else packed, else what is always the same for it; None: not at all."""
    if _tag_fits(limit, tag):
        return tag
    if not limit.packed_tags:
        return None
    forms = (_pack(tag), "sha256-" + sha256(tag.encode()).hexdigest())
    return next((form for form in forms if _tag_fits(limit, form)), None)


def metadata(type_: str, email: Email) -> dict[str, str]:
    """The e-mail's metadata that vendors of this type take as they are, while there is room."""
    if not email.metadata:
        return {}
    limit, room = capacity(type_), _room(type_, email)
    kept, seen = dict[str, str](), {ID_KEY}
    for name, value in email.metadata.items():
        size = _json_size(name) + _json_size(value) + 4
        if len(kept) == limit.metadata:
            break
        if name.lower() in seen or size > room or not _entry_fits(limit, name, value):
            continue
        if limit.caseless_metadata:
            seen.add(name.lower())
        kept[name] = value
        room -= size
    return kept


def _room(type_: str, email: Email) -> float:
    """Bytes for the metadata."""
    limit = capacity(type_)
    own = inf if limit.metadata_size is None else limit.metadata_size - _OWN_ENTRY
    if limit.options_size is None:
        return own
    others = headers_size(email) + sum(len(tag.encode()) for tag in tags(type_, email))
    return min(own, limit.options_size - OWN_OPTIONS - others)


def _json_size(word: str) -> int:
    return len(json.dumps(word, ensure_ascii=False).encode())


def _tag_fits(limit: Capacity, tag: str) -> bool:
    if limit.ascii_tags and not _PRINTABLE.fullmatch(tag):
        return False
    if not limit.underscore_labels and tag.startswith("_"):
        return False
    sizes = (limit.tag_size, limit.word_size)
    return _within(len(tag), limit.tag_length) and all(_within(len(tag.encode()), n) for n in sizes)


def _entry_fits(limit: Capacity, name: str, value: str) -> bool:
    if not limit.underscore_labels and name.startswith("_"):
        return False
    lengths = ((name, limit.metadata_name), (value, limit.metadata_value))
    return all(
        _within(len(word), most) and _within(len(word.encode()), limit.word_size)
        for word, most in lengths
    )


def _within(number: int, most: int | None) -> bool:
    return most is None or number <= most


def pairs(tags: Sequence[str], metadata: Mapping[str, str], email_id: str) -> list[tuple[str, str]]:
    """All of them as names and values of ASCII letters, digits, ``-`` and ``_`` only.

    Tags are ``tag-1``, ``tag-2``...; other text is ``b64-`` and its URL-safe base64.
    """
    found = {_word(name, _NAME): _word(value) for name, value in metadata.items() if value}
    found |= {f"tag-{n}": _word(tag) for n, tag in enumerate(tags, 1)}
    return [*found.items(), (ID_KEY, email_id)]


def _word(text: str, pattern: re.Pattern[str] = _VALUE) -> str:
    return text if pattern.fullmatch(text) else _pack(text)


def _pack(text: str) -> str:
    return "b64-" + urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")
