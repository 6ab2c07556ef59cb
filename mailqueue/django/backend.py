"""The e-mail backend that Django calls.

Decides: what becomes of several messages of which some are bad: all others are stored, then the
first error is raised. Which ``Producer`` a backend has: one for each configuration of the process,
since Django makes a new backend for each call of ``send_mail()``.

Assumes: ``MAILQUEUE_CONFIG`` in the settings, the option ``config`` of a mailer, or what
``Producer`` finds by itself.

Promises: a message that was counted has its ``mailqueue_id``, and is stored as durably as
``Producer.send()`` stores. Any thread may send, before and after a fork, and so may a log handler.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from django.conf import settings
from django.core.mail.backends.base import BaseEmailBackend

from mailqueue.config import Config
from mailqueue.django import messages
from mailqueue.errors import InvalidEmail, StoreUnavailable
from mailqueue.logs import event
from mailqueue.producer import Producer
from mailqueue.producer.producer import CallResult
from mailqueue.producer.submission import SendCall

logger = logging.getLogger(__name__)

# A log handler may mail: its own mail gets no line, which it would mail again.
_LOGGING: ContextVar[bool] = ContextVar("logging", default=False)
# Configurations cannot be hashed, and there are few. An entry is added in one step, without a lock
# that a fork could leave locked: at worst there are two producers for a while.
_producers: list[tuple[Any, Producer]] = []


class EmailBackend(BaseEmailBackend):  # type: ignore[misc]  # Django is not typed
    """Stores messages in mailqueue: ``EMAIL_BACKEND``, or a ``BACKEND`` of ``MAILERS``.

    ``config``, an option of a mailer: as ``settings.MAILQUEUE_CONFIG``, which it replaces.
    ``fail_silently``: what is not accepted or cannot be stored is only logged.
    """

    def __init__(
        self,
        fail_silently: bool = False,
        *,
        alias: str | None = None,
        config: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(alias=alias, **kwargs)
        self.alias = alias
        self.fail_silently = fail_silently
        self._config = config

    def send_messages(self, email_messages: Iterable[Any]) -> int:
        """Store messages; returns how many. Each then has its ``mailqueue_id``; the others None.

        As in Django, one without recipients is passed over. Unless ``fail_silently``: raises
        ``InvalidEmail``, with the place of the message as ``index``, once all others are stored,
        and ``StoreUnavailable`` when MongoDB does not answer. Raises ``ConfigError`` in any case.
        """
        all_messages = list(email_messages)
        results = _send(producer_for(self._config), all_messages)
        for index, message in enumerate(all_messages):
            result = results.get(index)
            message.mailqueue_id = result if isinstance(result, str) else None
        ordered = (results[index] for index in sorted(results))
        errors = [result for result in ordered if not isinstance(result, str)]
        if errors and not _LOGGING.get():
            _log(errors)
        if errors and not self.fail_silently:
            raise next((e for e in errors if isinstance(e, StoreUnavailable)), errors[0])
        return len(results) - len(errors)


def _send(producer: Producer, email_messages: Sequence[Any]) -> dict[int, CallResult]:
    """Store what can be stored; returns what came of each message that has recipients."""
    calls: dict[int, SendCall] = {}
    results: dict[int, CallResult] = {}
    for index, message in enumerate(email_messages):
        try:
            if message.recipients():
                calls[index] = messages.read(message)
        except InvalidEmail as error:
            results[index] = error
    results |= zip(calls, producer.send_each(calls.values()), strict=True)
    return {index: _with_index(result, index) for index, result in results.items()}


def _with_index(result: CallResult, index: int) -> CallResult:
    if isinstance(result, InvalidEmail):
        return InvalidEmail(result.field, result.problem, index)
    return result


def _log(errors: Sequence[InvalidEmail | StoreUnavailable]) -> None:
    token = _LOGGING.set(True)
    try:
        for error in errors:
            if isinstance(error, InvalidEmail):
                facts = {"field": error.field, "problem": error.problem}
                event(logger, logging.WARNING, "email.refused", **facts)
            else:
                event(logger, logging.ERROR, "email.not_stored", error=error)
    finally:
        _LOGGING.reset(token)


def producer_for(config: Any = None) -> Producer:
    """This process's producer for a configuration: a path, a mapping, a ``Config``, or None.

    None: ``settings.MAILQUEUE_CONFIG``; without it, what ``Producer`` finds. Raises
    ``ConfigError``.
    """
    config = getattr(settings, "MAILQUEUE_CONFIG", None) if config is None else config
    producer = next((each for key, each in _producers if key == config), None)
    if producer is None:
        value = (
            Config.from_mapping(config, secrets=False) if isinstance(config, Mapping) else config
        )
        producer = Producer(value)
        _producers.append((config, producer))
    return producer
