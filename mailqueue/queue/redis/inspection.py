"""What a Redis server, and the queue on it, say of themselves to a person who asks.

Promises: nothing is changed. What the server does not tell this user is not complained of.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass

from mailqueue.config.queue import Redis
from mailqueue.errors import QueueUnavailable
from mailqueue.queue.redis import events
from mailqueue.queue.redis.connection import Connection
from mailqueue.queue.redis.scripts import Tube

RECENT = 10.0  # seconds: an intake looks once a second


@dataclass(frozen=True, slots=True)
class Facts:
    """``forgets``: nothing outlives a restart. ``evicts``: by which policy our keys may go."""

    jobs: Mapping[str, int]
    events: Mapping[str, int]
    has_intake: bool
    forgets: bool
    evicts: str
    buried_key: str


def inspect(settings: Redis, ttr: int) -> Facts:
    """Ask; raises ``QueueUnavailable``."""
    tube = Tube(settings.tube, ttr)
    with closing(Connection(settings)) as connection:
        jobs = tube.counts(connection.ask(*tube.depth()))
        idle = events.seconds_without_intake(connection, settings)
        persistence, memory = connection.facts("persistence"), connection.facts("memory")
    policy = memory.get("maxmemory_policy", "")
    return Facts(
        jobs,
        events.depth(settings),
        has_intake=idle is not None and idle < RECENT,
        forgets=persistence.get("aof_enabled") == "0" and not _snapshots(settings),
        # The others evict only keys that are to expire; ours are not.
        evicts=policy if policy.startswith("allkeys") and memory.get("maxmemory") != "0" else "",
        buried_key=tube.buried,
    )


def _snapshots(settings: Redis) -> bool:
    """Whether it saves snapshots; True, too, where we may not ask."""
    with suppress(QueueUnavailable), closing(Connection(settings)) as connection:
        return bool(connection.ask("CONFIG", "GET", "save")[1])
    return True
