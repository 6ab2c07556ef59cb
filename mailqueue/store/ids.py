"""Identities made here: the ids of e-mails, and the nonces of calls that write to one.

Decides: an identity begins with the time: 4 bytes of seconds, as in every ObjectId, and 3 bytes of
their fraction, so that a newer one sorts later. The other 5 are random, and no secret. They come
from a generator that each process seeds from the system once. To ask the system for each identity
would let other threads go first, and cost ``send()`` by many threads more than all else here.

Assumes: ``process`` tells a process from its parent, so that no two processes use one generator.
The threads of a process share theirs, which takes single steps. (``bson.ObjectId`` counts up from a
number of its process, and two children of one process were seen to begin with the same one.)

The id of an e-mail with an idempotency key follows from the key (``of_key``), so that MongoDB's own
index on ``_id`` keeps the key to one e-mail. It says nothing of the time, and it comes again when
the key is used again after its e-mail was pruned.

An id is also written as a UUID, for programs that take nothing else. It is of version 8 (RFC 9562:
the maker's own layout): the first 6 bytes of the id, ``8000-8000``, the last 6. So the digits can
be read in it, UUIDs sort as their ids do, and no other UUID is mistaken for one.
"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from random import Random
from uuid import UUID

from bson import ObjectId

_SECOND = 10**9  # in nanoseconds
_BITS = 40  # of an id that are random
_UUID = re.compile(r"(\w{8})-(\w{4})-8000-8000-(\w{12})", re.ASCII)
_DIGITS = re.compile(r"[0-9a-f]{24}", re.IGNORECASE)
_generators: dict[tuple[int, int], Random] = {}  # by process
_forks = 0


def new() -> ObjectId:
    """An identity that nobody else has, in no other thread, process or host."""
    return several(1)[0]


def several(number: int) -> list[ObjectId]:
    """``number`` identities of one moment."""
    begin = ((time.time_ns() << 24) // _SECOND & 2**56 - 1) << _BITS
    own = process()
    random = _generators.get(own) or _generators.setdefault(own, Random())  # noqa: S311  # no secret
    return [
        ObjectId((begin | random.getrandbits(_BITS)).to_bytes(12, "big")) for _ in range(number)
    ]


def of_key(env: str, key: str, other: ObjectId | None = None) -> ObjectId:
    """The id of the e-mail of this kind with this idempotency key.

    ``other``: an id of this key under which something else is stored; the next one follows from it.
    """
    # No key has a NUL (``submission``), so no two pairs make the same text.
    text = f"{env}\0{key}" if other is None else f"{env}\0{key}\0{other}"
    return ObjectId(sha256(text.encode()).digest()[:12])


def time_of(email_id: ObjectId) -> datetime:
    """When it was made, in milliseconds; one that follows from a key has any time."""
    begin = int.from_bytes(email_id.binary[:7], "big")
    seconds, fraction = begin >> 24, begin & 2**24 - 1
    return datetime.fromtimestamp(seconds, UTC) + timedelta(milliseconds=fraction * 1000 >> 24)


def to_uuid(email_id: ObjectId | str) -> UUID:
    """The id as a UUID of version 8. Raises ``ValueError`` as ``parse`` does."""
    return UUID(as_uuid(str(parse(str(email_id)))))


def as_uuid(digits: str) -> str:
    """The text of ``to_uuid`` for the 24 digits of an id."""
    return f"{digits[:8]}-{digits[8:12]}-8000-8000-{digits[12:]}"


def parse(text: str) -> ObjectId:
    """The id that ``text`` writes, in one of the two forms. Raises ``ValueError``."""
    digits = _UUID.sub(r"\1\2\3", text)
    if _DIGITS.fullmatch(digits) is None:
        raise ValueError("an e-mail's id has 24 hexadecimal characters, or is a UUID")
    return ObjectId(digits)


def process() -> tuple[int, int]:
    """This process: its number, and how many forks it descends from, as numbers are used again."""
    # The number is asked for: uWSGI forks without the hook, unless its options say otherwise.
    return os.getpid(), _forks


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  # of the process, as the hook is
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)
