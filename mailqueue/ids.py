"""Identities made here: of e-mails, and of whoever writes to one.

Decides: an identity begins with the time: 4 bytes of seconds, as in every ObjectId, and 3 bytes of
their fraction, so that what is newer sorts later. The other 5 are the system's randomness, made
anew for each.

Assumes: nothing of the process. There is no state that a fork could copy or two threads could
share: ``bson.ObjectId`` counts up from a number of its process, and two children of one process
were seen to begin with the same one.
"""

from __future__ import annotations

import os
import time

from bson import ObjectId

_SECOND = 10**9  # in nanoseconds
_RANDOM = 5  # bytes of an id


def new() -> ObjectId:
    """An identity that nobody else has, in no other thread, process or host."""
    return several(1)[0]


def several(number: int) -> list[ObjectId]:
    """So many of them, for one question to the system: that lets other threads go first."""
    moment = (time.time_ns() << 24) // _SECOND & 2**56 - 1
    begin, rest = moment.to_bytes(7, "big"), os.urandom(_RANDOM * number)
    return [ObjectId(begin + rest[at : at + _RANDOM]) for at in range(0, len(rest), _RANDOM)]
