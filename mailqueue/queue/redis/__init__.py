"""Redis as the queue: for those who have one already.

``scripts`` has the keys and what is done to them, as scripts that the server runs; ``connection``
speaks to it by redis-py, within bounds; ``broker`` announces, ``receiver`` reserves; ``events``
reads what other programs put there.
"""

from __future__ import annotations

from mailqueue.errors import MissingExtra

try:
    import redis as _  # noqa: F401  # only whether it is there
except ImportError:
    raise MissingExtra("redis", "redis", "the queue redis needs it") from None
