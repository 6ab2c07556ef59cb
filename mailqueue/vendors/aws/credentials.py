"""The credentials with which a request to AWS is signed.

Decides: where they come from: the keys of the configuration, else those of the environment, else
botocore's chain (the extra ``ses``): roles, profiles, web identity, SSO, processes, containers and
machines. botocore is imported only where neither the configuration nor the environment has keys.

Assumes: botocore renews what it lends from 15 minutes before the end, and insists on it from 10
minutes before. Its questions have time-outs and repetitions of their own, of up to some minutes.

Promises: a caller of ``Chain.current`` waits until its deadline and ``LONGEST`` seconds at most,
and not at all while credentials hold; one thread asks at a time; a forked child asks anew. Nothing
is raised: why there are no credentials is a result with the ``code`` ``credentials``. No key is in
a repr, an error or a log.

==========================================  ====================================================
no credentials, since                       outcome
==========================================  ====================================================
nothing lends any, botocore is missing      misconfigured
a profile, role or token cannot be used     misconfigured
a container's endpoint or a process failed  unavailable
a network error, a 5xx, no answer yet       unavailable
==========================================  ====================================================
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from mailqueue.errors import MissingExtra
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.logs import event
from mailqueue.vendors.aws.signing import Credentials

logger = logging.getLogger(__name__)

NO_CREDENTIALS = "credentials"
LOOK = 60.0  # seconds between two looks whether botocore has renewed what it lends
AFTER_FAILURE = 5.0  # seconds for which a failure is the answer to all
LONGEST = 10.0  # seconds that a caller waits; a small machine loads botocore for some of them

# At DEBUG botocore writes answers with keys in them; its warnings quote what an endpoint answered.
_QUIET = {"botocore": logging.INFO, "botocore.credentials": logging.ERROR}


def static_credentials(keys: Mapping[str, Any], environ: Mapping[str, str]) -> Credentials | None:
    """The keys of a vendor's configuration, else of the environment; None: neither has any."""
    names = ("access_key_id", "secret_access_key", "session_token")
    from_environment = {name: environ.get(f"AWS_{name.upper()}") for name in names}
    for place in (keys, from_environment):
        key, secret, token = (place.get(name) for name in names)
        if key and secret:
            return Credentials(key, secret, token or None)
    return None


def require_botocore() -> None:
    """Import botocore. Raises MissingExtra."""
    try:
        import botocore.session  # noqa: F401  # whether it can be
    except ImportError:
        reason = "no keys in the configuration or the environment"
        raise MissingExtra("ses", "botocore", reason) from None


@dataclass(frozen=True, slots=True, repr=False)
class _State:
    """The answer to callers, when to look again, and until when it holds even so (monotonic)."""

    answer: Credentials | SendResult
    look_at: float = 0.0
    holds_until: float = 0.0


class Chain:
    """What botocore's chain lends, for all threads of a process.

    ``find`` gives an object like botocore's ``Credentials`` (None: there are none); it and the
    object's methods are called in a thread of their own and may take long. ``clock`` is monotonic.
    """

    def __init__(
        self, find: Callable[[], Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._find = find
        self._clock = clock
        self._lent: Any = None
        self._state = _State(_failure(Outcome.UNAVAILABLE, "not asked yet"))
        self._lock = threading.Lock()
        self._look: Future[Credentials | SendResult] | None = None

    def current(self, deadline: float) -> Credentials | SendResult:
        """Credentials that hold now, or why there are none; ``deadline`` is a monotonic moment."""
        state, now = self._state, self._clock()
        if now < state.look_at:  # each e-mail comes by here: no lock, and no question to botocore
            return state.answer
        look = self._begin_look()
        if now < state.holds_until:
            return state.answer
        try:
            return look.result(max(0.0, min(LONGEST, deadline - time.monotonic())))
        except TimeoutError:
            return _failure(Outcome.UNAVAILABLE, "no answer yet")

    def _begin_look(self) -> Future[Credentials | SendResult]:
        """The look that is going on, or a new one; the last one where it is young enough."""
        with self._lock:
            look = self._look
            if look and (not look.done() or self._clock() < self._state.look_at):
                return look
            look = Future()
            name = "mailqueue-credentials"
            threading.Thread(target=self._run, args=(look,), name=name, daemon=True).start()
            self._look = look
            return look

    def _run(self, look: Future[Credentials | SendResult]) -> None:
        self._state = self._next_state()
        look.set_result(self._state.answer)

    def _next_state(self) -> _State:
        answer, error = self._ask()
        now = self._clock()
        if isinstance(answer, SendResult):
            held = self._state.answer
            if isinstance(held, SendResult) or self._ends_soon():
                self._lent = None  # the next look reads profiles and the environment anew
                return _State(answer, look_at=now + AFTER_FAILURE)
            event(logger, logging.WARNING, "credentials.not_renewed", error=error)
            answer = held
        elif self._ends_soon():  # lent for minutes: to be renewed before it is used again
            return _State(answer, look_at=now + AFTER_FAILURE)
        # It holds for two looks, so that nobody waits while the next one is going on.
        return _State(answer, look_at=now + LOOK, holds_until=now + 2 * LOOK)

    def _ask(self) -> tuple[Credentials | SendResult, str]:
        """What botocore gives now, and the kind of error where it gave nothing."""
        try:
            if self._lent is None:
                self._lent = self._find()
            if self._lent is None:
                return _failure(Outcome.MISCONFIGURED, "no keys, and nothing that lends any"), ""
            lent = self._lent.get_frozen_credentials()  # renews them, if it is time
            return Credentials(lent.access_key, lent.secret_key, lent.token or None), ""
        except Exception as error:  # noqa: BLE001  # botocore's own, and what its sources raise
            return _reason(error), type(error).__name__

    def _ends_soon(self) -> bool:
        """Whether what is lent ends before the look after the next."""
        ends = getattr(self._lent, "refresh_needed", None)  # a profile's own keys never end
        return ends is not None and bool(ends(refresh_in=2 * LOOK))


@cache
def chain(region: str) -> Chain:
    """The process's chain; ``region`` is where roles are asked for, unless AWS's own settings say.

    One for all threads, since each has a vendor of its own.
    """
    return Chain(partial(_find, region))


def _find(region: str) -> Any:
    require_botocore()
    import botocore.session

    for name, level in _QUIET.items():
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(level)
    session = botocore.session.Session()
    if session.get_config_variable("region") is None:
        session.set_config_variable("region", region)
    return session.get_credentials()


def _reason(error: Exception) -> SendResult:
    """What an error of the chain means. Its text may quote files, URLs and answers."""
    if isinstance(error, MissingExtra):
        return _failure(Outcome.MISCONFIGURED, str(error))
    from botocore import exceptions

    passing = (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError,
    )
    unavailable = isinstance(error, passing)
    words = type(error).__name__
    if isinstance(error, exceptions.ClientError):  # AWS refused
        unavailable = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
        words += f" {error.response.get('Error', {}).get('Code', '')}".rstrip()
    return _failure(Outcome.UNAVAILABLE if unavailable else Outcome.MISCONFIGURED, words)


def _failure(outcome: Outcome, detail: str) -> SendResult:
    return SendResult(outcome=outcome, code=NO_CREDENTIALS, detail=detail, answered=False)


os.register_at_fork(after_in_child=chain.cache_clear)  # locks and threads are the parent's
