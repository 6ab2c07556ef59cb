"""The clocks of MongoDB's hosts: how far they are apart.

A lease is counted in ``$$NOW``, which is the clock of the host that executes the write: of the
primary, or of the router (mongos) of a sharded cluster. After an election, or through another
router, another host's clock goes on with what the first began. So hosts whose clocks differ by more
than the margin of a lease (``Delivery.margin``) could let it end while its attempt still runs.

Decides: how clocks are compared. Each host is asked several times, since the driver chooses whom
it asks. An answer is as exact as its round trip is short, and of two clocks that much is forgiven.

Promises: nothing is written. With one host nothing is asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from pymongo import ReadPreference

from mailqueue.store.mongo import Mongo

SAMPLES = 8  # of two secondaries, one is missed once in 128 times


def spread(mongo: Mongo) -> float:
    """Seconds by which the clocks of two of MongoDB's hosts differ, at least; 0: as far as seen.

    Raises ``StoreUnavailable``.
    """
    with mongo.operation():
        mongo.client.admin.command("hello")  # the driver knows all hosts afterwards
        if len(mongo.client.nodes) < 2:
            return 0.0
        samples = list(_samples(mongo))
    # Each sample is a span of what the host's clock may be ahead of ours.
    return max(0.0, max(low for low, _ in samples) - min(high for _, high in samples))


def _samples(mongo: Mongo) -> Iterator[tuple[float, float]]:
    """What a host's clock is ahead of this process's: not less than, and not more than."""
    others = [ReadPreference.SECONDARY_PREFERRED] * SAMPLES
    for preference in (ReadPreference.PRIMARY_PREFERRED, *others):
        before = time.time()
        hello = mongo.client.admin.command("hello", read_preference=preference)
        after = time.time()
        local = hello["localTime"].timestamp()
        yield local - after, local - before
