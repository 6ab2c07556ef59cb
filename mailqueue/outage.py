"""The present outage of a server: said once when it begins and once when it is over.

Decides: when an outage is worth a line in the log, and who may look whether it is over while
everybody else need not wait for that.

Promises: any thread may call, at any moment: there is no lock that an interrupted one could hold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from math import inf

from mailqueue import calls
from mailqueue.logs import event

logger = logging.getLogger(__name__)


class Outage:
    """The present outage of one server, if there is one."""

    def __init__(self, server: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock = clock
        self._since: dict[str, float] = {}  # its methods are one step each, as no two lines are
        self._tried_until = 0.0
        self._answered = -inf

    @property
    def lasts(self) -> float:
        """Seconds since it began; 0: there is none."""
        since = self._since.get("")
        return 0.0 if since is None else max(self._clock() - since, 1e-9)

    @property
    def silent(self) -> float:
        """Seconds since the server answered anybody."""
        return self._clock() - self._answered

    def began(self, error: str) -> None:
        """The server did not answer; said for the first of a row only."""
        now = self._clock()
        if self._since.setdefault("", now) is now:
            facts = {"server": self._server, "error": error}
            calls.say(partial(event, logger, logging.ERROR, "server.away", **facts))

    def over(self) -> None:
        """The server answered."""
        self._answered = self._clock()
        if self._since and (since := self._since.pop("", None)) is not None:
            facts = {"server": self._server, "away": round(self._clock() - since, 1)}
            calls.say(partial(event, logger, logging.WARNING, "server.back", **facts))

    def claim(self, seconds: float) -> bool:
        """Whether this caller may try; nobody else may for so long, or until ``give_back``."""
        now = self._clock()
        if self._tried_until > now:
            return False
        self._tried_until = now + seconds
        return True

    def give_back(self) -> None:
        """Let the next caller try."""
        self._tried_until = 0.0
