"""Says once that a server is away, and once that it is back.

Decides: when an outage is worth a line in the log; nothing else depends on it. Any thread may call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Outage:
    """The present outage of one server, if there is one."""

    def __init__(self, server: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None

    def began(self, error: str) -> None:
        """The server did not answer; said for the first of a row only."""
        with self._lock:
            first = self._since is None
            if first:
                self._since = self._clock()
        if first:
            facts = {"server": self._server, "error": error}
            logger.error("server.away", extra={"facts": facts})

    def over(self) -> None:
        """The server answered."""
        if self._since is None:  # the usual case, without the lock
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            facts = {"server": self._server, "away": round(self._clock() - since, 1)}
            logger.warning("server.back", extra={"facts": facts})
