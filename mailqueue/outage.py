"""What this process knows of a server that does not answer.

Decides: when an outage is worth a line in the log (once when it begins, once when it is over), and
which one caller may find out whether it is over, so that the others need not wait for that.

Promises: any thread may call, at any moment: there is no lock that an interrupted one could hold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf

from mailqueue import reentrancy
from mailqueue.errors import Unavailable
from mailqueue.logs import event

logger = logging.getLogger(__name__)


class Outage:
    """The present outage of one server, if there is one."""

    def __init__(self, server: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock = clock
        # One key or none. A dict's methods are one step each, which two assignments are not: of
        # several threads that see the same outage begin or end, exactly one says so.
        self._since: dict[str, float] = {}
        self._claimed_until = 0.0
        self._last_answer = -inf

    @property
    def duration(self) -> float:
        """Seconds since it began; 0: there is no outage."""
        since = self._since.get("")
        return 0.0 if since is None else max(self._clock() - since, 1e-9)

    @property
    def silence(self) -> float:
        """Seconds since the server answered anybody."""
        return self._clock() - self._last_answer

    def begin(self, error: str) -> None:
        """The server did not answer. Only the first failure in a row is logged."""
        now = self._clock()
        if self._since.setdefault("", now) is now:
            facts = {"server": self._server, "error": error}
            reentrancy.after_call(partial(event, logger, logging.ERROR, "server.lost", **facts))

    def end(self) -> None:
        """The server answered."""
        self._last_answer = self._clock()
        if self._since and (since := self._since.pop("", None)) is not None:
            facts = {"server": self._server, "lost_for": round(self._clock() - since, 1)}
            reentrancy.after_call(
                partial(event, logger, logging.WARNING, "server.recovered", **facts)
            )

    @contextmanager
    def listen(self) -> Iterator[None]:
        """What happens inside tells whether the server answers: ``Unavailable``, or nothing."""
        try:
            yield
        except Unavailable as error:
            self.begin(str(error))
            raise
        self.end()

    def claim(self, seconds: float) -> bool:
        """Whether this caller may try. Then no other may for ``seconds``, or until ``release``."""
        now = self._clock()
        if self._claimed_until > now:
            return False
        self._claimed_until = now + seconds
        return True

    def release(self) -> None:
        """Let the next caller try."""
        self._claimed_until = 0.0
