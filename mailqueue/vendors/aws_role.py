"""The credentials that AWS lends to this container or machine: kept, and renewed in time.

Decides: when ``aws_endpoints`` is asked. A new set is asked for 10 minutes before the present one
ends (a machine's is ready 5 minutes before); one that cannot be renewed is used until it ends.

Assumes: the clock is right to a few minutes, as signing assumes too.

Promises: one thread asks at a time; the others go on with what is there, and wait for it only where
that has ended. ``current`` takes a few seconds at most and never raises: why there are no
credentials is a result with the ``code`` ``credentials``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mailqueue.record import Outcome, SendResult
from mailqueue.vendors import aws_endpoints
from mailqueue.vendors.aws import Credentials
from mailqueue.vendors.aws_endpoints import Lent, NoCredentials

NO_CREDENTIALS = "credentials"
EARLY = 600.0  # seconds before the end
PAUSE = 60.0  # between two attempts to renew what still holds
AFTER_FAILURE = 5.0  # those who waited for it do not all ask again
LONGEST = 5.0  # for all the questions of one renewal


@dataclass(frozen=True, slots=True, repr=False)
class _State:
    """The last answer, until when it holds, and from when on it is to be renewed."""

    answer: Credentials | SendResult
    ends_at: float
    renew_at: float


class Role:
    """The role of this container or machine; one for all threads. ``clock`` is wall clock time."""

    def __init__(
        self,
        environ: Mapping[str, str],
        fetch: Callable[[Mapping[str, str], float], Lent] = aws_endpoints.fetch,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._environ = environ
        self._fetch = fetch
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child: the thread that may hold the lock is not there."""
        self._renewing = threading.Lock()
        self._state = _State(_none(Outcome.UNAVAILABLE, "not asked yet"), 0.0, 0.0)

    def current(self, deadline: float) -> Credentials | SendResult:
        """Credentials that hold now, or why there are none; ``deadline`` is a monotonic moment."""
        state, now = self._state, self._clock()
        if now < state.renew_at:
            return state.answer
        holds = now < state.ends_at
        until = min(deadline, time.monotonic() + LONGEST)
        wait = 0.0 if holds else max(0.0, until - time.monotonic())
        if not self._renewing.acquire(timeout=wait):
            return state.answer if holds else _none(Outcome.UNAVAILABLE, "the role was slow")
        try:  # asking while holding the lock: it is there to have one ask, and guards nothing else
            if self._state is state:  # else somebody did while this thread waited
                self._state = self._renewed(state, until)
            return self._state.answer
        finally:
            self._renewing.release()

    def _renewed(self, state: _State, deadline: float) -> _State:
        try:
            lent = self._fetch(self._environ, deadline)
            now = self._clock()
            if lent.ends_at <= now:
                raise NoCredentials(Outcome.UNAVAILABLE, "the role's credentials have expired")
        except NoCredentials as failed:
            now = self._clock()
            if now < state.ends_at:
                return replace(state, renew_at=min(state.ends_at, now + PAUSE))
            return _State(_none(failed.outcome, str(failed)), 0.0, now + AFTER_FAILURE)
        renew_at = max(lent.ends_at - EARLY, now + PAUSE)
        return _State(lent.credentials, lent.ends_at, min(lent.ends_at, renew_at))


def _none(outcome: Outcome, detail: str) -> SendResult:
    return SendResult(outcome=outcome, code=NO_CREDENTIALS, detail=detail, answered=False)


role = Role(os.environ)
"""The one of this process."""
os.register_at_fork(after_in_child=role.forget)
