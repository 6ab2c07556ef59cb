"""Whether this process lives, and whether it can do its work.

Decides: ready is who can store an e-mail. beanstalkd does not matter: without it, e-mails are
stored and sent a little later.

Promises: however often it is asked, MongoDB is asked once a second.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mailqueue.errors import StoreUnavailable
from mailqueue.http.calls import Call, Reply
from mailqueue.http.errors import unavailable

if TYPE_CHECKING:
    from mailqueue.aio import AsyncProducer

_EVERY = 1.0  # seconds
_OK = Reply(200, b'{"status":"ok"}')


class Health:
    """The handlers. They belong to one event loop."""

    def __init__(self, producer: AsyncProducer) -> None:
        self._producer = producer
        self._check: asyncio.Task[StoreUnavailable | None] | None = None
        self._checked_at = 0.0

    async def live(self, _: Call) -> Reply:
        """``GET /healthz``: the process answers."""
        return _OK

    async def ready(self, _: Call) -> Reply:
        """``GET /readyz``: MongoDB takes writes."""
        check = self._check
        if check is None or (check.done() and time.monotonic() > self._checked_at + _EVERY):
            check = self._check = asyncio.create_task(self._look())
        # The look goes on if the client of this request goes away: others wait for it too.
        if (error := await asyncio.shield(check)) is not None:
            raise unavailable(error)
        return _OK

    async def _look(self) -> StoreUnavailable | None:
        try:
            await self._producer.check_writable()
        except StoreUnavailable as error:
            return error
        finally:
            self._checked_at = time.monotonic()
        return None
