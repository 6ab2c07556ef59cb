"""Redis as the queue: for those who have one already.

``scripts`` has the keys and what is done to them, as scripts that the server runs; ``connection``
speaks to it by redis-py, within bounds; ``broker`` announces, ``receiver`` reserves; ``events``
reads what other programs put there.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailqueue.errors import MissingExtra

try:
    import redis as _  # noqa: F401  # only whether it is there
except ImportError:
    raise MissingExtra("redis", "redis", 'queue.type is "redis"') from None

from mailqueue.config import Redis
from mailqueue.queue.broker import Options
from mailqueue.queue.redis.broker import RedisBroker
from mailqueue.queue.redis.events import EventStream, depth


def open_broker(settings: Redis, options: Options) -> RedisBroker:
    """See ``queue.Kind``."""
    return RedisBroker(settings, options.ttr, keep=options.keep, suffix=options.suffix)


def open_events(settings: Redis, options: Options) -> Sequence[EventStream]:
    """See ``queue.Kind``."""
    events_depth(settings, options)
    return [EventStream(settings)]


def events_depth(settings: Redis, _: Options) -> dict[str, int]:
    """See ``queue.Kind``."""
    return depth(settings)
