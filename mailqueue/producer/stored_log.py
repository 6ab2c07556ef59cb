"""The line of the log for an e-mail that is stored.

Decides: when it is written. Whoever stores e-mails calls ``log_stored`` once they are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from functools import partial

from mailqueue import reentrancy
from mailqueue.logs import event
from mailqueue.producer.submission import Inserted, Outcome
from mailqueue.store.document import Stored

logger = logging.getLogger(__name__)

# A log handler may send: its own e-mail gets no line, of which it would send another.
_LOGGING: ContextVar[bool] = ContextVar("logging", default=False)


def log_stored(outcomes: Iterable[Outcome]) -> None:
    """A line for each e-mail that is stored now; in a call, once that is over (``reentrancy``)."""
    if not logger.isEnabledFor(logging.INFO):
        return
    for each in outcomes:
        if isinstance(each, Inserted):
            facts = Stored(each.document, each.document["created_at"]).facts
            reentrancy.after_call(partial(_log, facts))


def _log(facts: Mapping[str, str]) -> None:
    if not _LOGGING.get():
        token = _LOGGING.set(True)
        try:
            event(logger, logging.INFO, "email.stored", **facts)
        finally:
            _LOGGING.reset(token)
