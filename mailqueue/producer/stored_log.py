"""The line of the log for an e-mail that is stored.

Decides: when it is written. Whoever stores e-mails calls ``log_stored`` once they are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial

from mailqueue import reentrancy
from mailqueue.logs import event_each
from mailqueue.producer.submission import Inserted, Outcome
from mailqueue.store.document import Stored

logger = logging.getLogger(__name__)

# A log handler may send: its own e-mail gets no line, of which it would send another.
_LOGGING: ContextVar[bool] = ContextVar("logging", default=False)


def log_stored(outcomes: Iterable[Outcome]) -> None:
    """A line for each e-mail that is stored now; in a call, once that is over (``reentrancy``)."""
    if logger.isEnabledFor(logging.INFO):
        documents = [each.document for each in outcomes if isinstance(each, Inserted)]
        facts = [Stored(document, document["created_at"]).facts for document in documents]
        reentrancy.after_call(partial(_log, facts))


def _log(each: Sequence[Mapping[str, str]]) -> None:
    if not _LOGGING.get():
        token = _LOGGING.set(True)
        try:
            event_each(logger, logging.INFO, "email.stored", each)
        finally:
            _LOGGING.reset(token)
