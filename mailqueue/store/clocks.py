"""The clocks of MongoDB's hosts: how far they are apart.

A lease is counted in ``$$NOW``, which is the clock of the host that executes the write: of the
primary, or of the router (mongos) of a sharded cluster. After an election, or through another
router, another host's clock goes on with what the first began. So hosts whose clocks differ by more
than the margin of a lease (``Delivery.margin``) could let it end while its attempt still runs.

Decides: how clocks are compared. An answer is as exact as its round trip is short, and of two
clocks that much is forgiven.

Promises: nothing is written. Where there is one host, one question is asked.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from datetime import UTC
from typing import Any

from pymongo import MongoClient, ReadPreference
from pymongo.errors import PyMongoError
from pymongo.server_description import ServerDescription

from mailqueue.config import MongoDB
from mailqueue.store.mongo import Mongo, connect, within

PATIENCE = 2.0  # seconds for a host that may be away


def spread(mongo: Mongo, settings: MongoDB) -> float:
    """Seconds by which the clocks of two of MongoDB's hosts differ, at least; 0: as far as seen.

    A host that does not answer is left out. Raises ``StoreUnavailable``.
    """
    with mongo.operation():
        mongo.client.admin.command("hello")  # afterwards the driver knows all hosts
    if len(mongo.client.nodes) < 2:
        return 0.0
    chosen: list[tuple[str, int | None]] = []

    def choose(servers: list[ServerDescription]) -> list[ServerDescription]:
        return [server for server in servers if not chosen or server.address in chosen]

    leads: list[tuple[float, float]] = []
    with closing(connect(settings, server_selector=choose)) as client:
        for host in mongo.client.nodes:
            chosen[:] = [host]
            with suppress(PyMongoError), within(min(PATIENCE, settings.timeout)):
                leads.append(_lead(client))
        # Closing ends sessions at the primary: were another host still chosen, it would look for it
        # for all of the timeout.
        chosen.clear()
    if not leads:
        return 0.0
    return max(0.0, max(least for least, _ in leads) - min(most for _, most in leads))


def _lead(client: MongoClient[dict[str, Any]]) -> tuple[float, float]:
    """What the host's clock is ahead of this process's: not less than, and not more than."""
    client.admin.command("hello", read_preference=ReadPreference.NEAREST)
    before = time.time()  # now there is a connection
    hello = client.admin.command("hello", read_preference=ReadPreference.NEAREST)
    after = time.time()
    local = hello["localTime"].replace(tzinfo=UTC).timestamp()
    return local - after, local - before
