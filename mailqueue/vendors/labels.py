"""Tags and metadata, the labels of an e-mail: which of them a vendor gets, and in which form.

Decides: which labels a vendor gets (by the numbers of its capacity). Labels are for the sender's
own records. They are no reason to skip a vendor, and recipients do not see them. A vendor gets the
labels that fit there, and the others are left out. Some vendors get other text encoded: ``b64-``
and its URL-safe base64.

Promises: the same labels for the same e-mail. A vendor always gets our own id, and no label
replaces it.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import inf

from mailqueue.config.capacity import Capacity
from mailqueue.message import Email
from mailqueue.vendors.limits import OWN_OPTIONS, capacity, headers_size

ID_KEY = "mailqueue_id"  # our id among the metadata; in headers it is X-Mailqueue-Id

_ID_SIZE = 50  # bytes of our id among the metadata, as JSON
_PRINTABLE = re.compile("[!-~]([ -~]*[!-~])?")
_VALUE = re.compile(r"(?!b64-)[A-Za-z0-9_-]{1,256}")
_NAME = re.compile(rf"(?!b64-|tag-\d|{ID_KEY}$)[A-Za-z0-9_-]{{1,256}}")


def tags(type_: str, email: Email) -> tuple[str, ...]:
    """The e-mail's tags, each once, in the form in which vendors of this type accept them."""
    limit = capacity(type_)
    forms = [_tag(limit, tag) for tag in dict.fromkeys(email.tags)]
    return tuple([tag for tag in forms if tag is not None][: limit.tags])


def _tag(limit: Capacity, tag: str) -> str | None:
    """The tag as it is, else encoded, else its digest; None: no form fits."""
    if _tag_fits(limit, tag):
        return tag
    if not limit.encoded_tags:
        return None
    # The digest is for a tag that is too long: it still counts equal tags together.
    forms = (_encode(tag), "sha256-" + sha256(tag.encode()).hexdigest())
    return next((form for form in forms if _tag_fits(limit, form)), None)


def metadata(type_: str, email: Email) -> dict[str, str]:
    """The e-mail's metadata that vendors of this type accept, while there is room."""
    if not email.metadata:
        return {}
    limit, room = capacity(type_), _room(type_, email)
    # In the order of the e-mail. An entry that does not fit is left out, and a later one may fit.
    entries, names = dict[str, str](), {ID_KEY}
    for name, value in email.metadata.items():
        size = _json_size(name) + _json_size(value) + 4  # ": " and ", "
        if len(entries) == limit.metadata:
            break
        if name.lower() in names or size > room or not _entry_fits(limit, name, value):
            continue
        if limit.caseless_metadata:
            names.add(name.lower())
        entries[name] = value
        room -= size
    return entries


def _room(type_: str, email: Email) -> float:
    """The bytes that the vendor has for metadata."""
    limit = capacity(type_)
    own = inf if limit.metadata_size is None else limit.metadata_size - _ID_SIZE
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
    return _is_within(len(tag), limit.tag_length) and all(
        _is_within(len(tag.encode()), n) for n in sizes
    )


def _entry_fits(limit: Capacity, name: str, value: str) -> bool:
    if not limit.underscore_labels and name.startswith("_"):
        return False
    lengths = ((name, limit.metadata_name), (value, limit.metadata_value))
    return all(
        _is_within(len(word), most) and _is_within(len(word.encode()), limit.word_size)
        for word, most in lengths
    )


def _is_within(number: int, most: int | None) -> bool:
    return most is None or number <= most


def pairs(tags: Sequence[str], metadata: Mapping[str, str], email_id: str) -> list[tuple[str, str]]:
    """Tags, metadata and our id as pairs of ASCII letters, digits, ``-`` and ``_`` only.

    Tags are named ``tag-1``, ``tag-2``...; other text is ``b64-`` and its URL-safe base64.
    """
    entries = {_word(name, _NAME): _word(value) for name, value in metadata.items() if value}
    entries |= {f"tag-{n}": _word(tag) for n, tag in enumerate(tags, 1)}
    return [*entries.items(), (ID_KEY, email_id)]


def _word(text: str, pattern: re.Pattern[str] = _VALUE) -> str:
    return text if pattern.fullmatch(text) else _encode(text)


def _encode(text: str) -> str:
    return "b64-" + urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")
