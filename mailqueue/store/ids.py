"""Identities made here: the ids of e-mails, and the nonces of calls that write to one.

Decides: an identity begins with the time: 4 bytes of seconds, as in every ObjectId, and 3 bytes of
their fraction, so that a newer one sorts later. The other 5 are random, and no secret. They come
from a generator that each process seeds from the system once. To ask the system for each identity
would let other threads go first, and cost ``send()`` by many threads more than all else here.

Assumes: ``process`` tells a process from its parent, so that no two processes use one generator.
The threads of a process share theirs, which takes single steps. (``bson.ObjectId`` counts up from a
number of its process, and two children of one process were seen to begin with the same one.)
"""

from __future__ import annotations

import os
import time
from random import Random

from bson import ObjectId

_SECOND = 10**9  # in nanoseconds
_BITS = 40  # of an id that are random
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


def process() -> tuple[int, int]:
    """This process: its number, and how many forks it descends from, as numbers are used again."""
    return os.getpid(), _forks


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  # of the process, as the hook is
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)
