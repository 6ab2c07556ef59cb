"""The credentials with which a request to AWS is signed.

Decides: where they come from: the keys of the configuration, else those of the environment, else
botocore's chain (the extra ``ses``): roles, profiles, web identity, SSO, processes, containers and
machines. botocore is imported only where neither the configuration nor the environment has keys.

Assumes: botocore renews temporary credentials from 15 minutes before they expire, and must from 10
minutes before. Its requests have time-outs and retries of their own, up to some minutes.

Promises: a caller of ``Chain.current`` waits no longer than its deadline and ``MAX_WAIT``, and not
at all while credentials are valid. One thread asks botocore at a time; a forked child starts anew.
Nothing is raised: the reason is a result with the ``code`` ``credentials``. No key is in a repr, an
error or a log.

==========================================  ====================================================
no credentials, since                       outcome
==========================================  ====================================================
no source has any, botocore is missing      misconfigured
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
CHECK_SECONDS = 60.0  # between two checks whether botocore has renewed the credentials
FAILURE_SECONDS = 5.0  # for which all callers get the same failure
MAX_WAIT = 10.0  # seconds for a caller; a small machine needs some of them to load botocore

# At DEBUG botocore logs answers with keys in them; its warnings quote answers of endpoints.
_LOG_LEVELS = {"botocore": logging.INFO, "botocore.credentials": logging.ERROR}


def static_credentials(keys: Mapping[str, Any], environ: Mapping[str, str]) -> Credentials | None:
    """The keys of a vendor's configuration, else of the environment; None: neither has any."""
    names = ("access_key_id", "secret_access_key", "session_token")
    from_environment = {name: environ.get(f"AWS_{name.upper()}") for name in names}
    for source in (keys, from_environment):
        key, secret, token = (source.get(name) for name in names)
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
    """What callers get, when to check again, and until when they need not wait for that.

    The moments are on the ``Chain``'s clock.
    """

    answer: Credentials | SendResult
    check_at: float = 0.0
    valid_until: float = 0.0


class Chain:
    """The credentials of botocore's chain, for all threads of a process.

    ``find`` returns an object like botocore's ``Credentials`` (None: there are none). It and the
    object's methods run in a separate thread and may take long. ``clock`` is monotonic.
    """

    def __init__(
        self, find: Callable[[], Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._find = find
        self._clock = clock
        self._source: Any = None  # botocore's object, which renews itself
        self._state = _State(_failure(Outcome.UNAVAILABLE, "not asked yet"))
        self._lock = threading.Lock()
        self._check: Future[Credentials | SendResult] | None = None

    def current(self, deadline: float) -> Credentials | SendResult:
        """Valid credentials, or why there are none; ``deadline`` is on ``time.monotonic``."""
        state, now = self._state, self._clock()
        if now < state.check_at:  # the usual case, for each e-mail: no lock, no call of botocore
            return state.answer
        check = self._begin_check()
        if now < state.valid_until:
            return state.answer
        try:
            return check.result(max(0.0, min(MAX_WAIT, deadline - time.monotonic())))
        except TimeoutError:
            return _failure(Outcome.UNAVAILABLE, "no answer yet")

    def _begin_check(self) -> Future[Credentials | SendResult]:
        """The check that is going on, or the last one if it is recent, or a new one."""
        with self._lock:
            check = self._check
            if check and (not check.done() or self._clock() < self._state.check_at):
                return check
            check = Future()
            name = "mailqueue-credentials"
            threading.Thread(target=self._run, args=(check,), name=name, daemon=True).start()
            self._check = check
            return check

    def _run(self, check: Future[Credentials | SendResult]) -> None:
        try:
            self._state = self._next_state()
        except BaseException as error:  # noqa: BLE001  # a check without an end would be the last
            failure = _failure(Outcome.UNAVAILABLE, type(error).__name__)
            self._source = None
            self._state = _State(failure, check_at=self._clock() + FAILURE_SECONDS)
        check.set_result(self._state.answer)

    def _next_state(self) -> _State:
        answer, error = self._ask()
        now = self._clock()
        if isinstance(answer, SendResult):
            previous = self._state.answer
            if isinstance(previous, SendResult) or self._expires_soon():
                self._source = None  # the next check reads profiles and the environment anew
                return _State(answer, check_at=now + FAILURE_SECONDS)
            event(logger, logging.WARNING, "credentials.not_renewed", error=error)
            answer = previous
        elif self._expires_soon():  # temporary ones for some minutes only: renew them before use
            return _State(answer, check_at=now + FAILURE_SECONDS)
        # Valid until the check after the next, so that no caller waits for the next one.
        return _State(answer, check_at=now + CHECK_SECONDS, valid_until=now + 2 * CHECK_SECONDS)

    def _ask(self) -> tuple[Credentials | SendResult, str]:
        """The credentials that botocore has now, or the reason and the kind of error."""
        try:
            if self._source is None:
                self._source = self._find()
            if self._source is None:
                return _failure(Outcome.MISCONFIGURED, "no keys, and no source of any"), ""
            current = self._source.get_frozen_credentials()  # renews them if it is time
            return Credentials(current.access_key, current.secret_key, current.token or None), ""
        except Exception as error:  # noqa: BLE001  # botocore's own, and what its sources raise
            return _reason(error), type(error).__name__

    def _expires_soon(self) -> bool:
        """Whether the credentials expire before the check after the next."""
        refresh_needed = getattr(self._source, "refresh_needed", None)  # static keys lack it
        return refresh_needed is not None and bool(refresh_needed(refresh_in=2 * CHECK_SECONDS))


@cache
def chain(region: str) -> Chain:
    """The process's chain, for all threads.

    ``region`` is where roles are requested, unless AWS's own settings name one.
    """
    return Chain(partial(_find, region))


def _find(region: str) -> Any:
    require_botocore()
    import botocore.session

    for name, level in _LOG_LEVELS.items():
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

    temporary = (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError,
    )
    unavailable = isinstance(error, temporary)
    words = type(error).__name__
    if isinstance(error, exceptions.ClientError):  # AWS refused
        unavailable = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
        words += f" {error.response.get('Error', {}).get('Code', '')}".rstrip()
    return _failure(Outcome.UNAVAILABLE if unavailable else Outcome.MISCONFIGURED, words)


def _failure(outcome: Outcome, detail: str) -> SendResult:
    return SendResult(outcome=outcome, code=NO_CREDENTIALS, detail=detail, answered=False)


os.register_at_fork(after_in_child=chain.cache_clear)  # locks and threads are the parent's
