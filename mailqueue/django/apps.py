"""The application ``mailqueue.django``: a system check, for who lists it in ``INSTALLED_APPS``.

Promises: ``manage.py check``, and each command that checks, says what is wrong with the
configuration before the first e-mail does. Nothing is connected to.
"""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks

from mailqueue.django.backend import producer_for
from mailqueue.errors import ConfigError


class MailqueueConfig(AppConfig):  # type: ignore[misc]  # Django is not typed
    """It has no models: e-mails are in MongoDB."""

    name = "mailqueue.django"
    label = "mailqueue"
    verbose_name = "mailqueue"

    def ready(self) -> None:
        """Register the check."""
        checks.register(check_configuration)


def check_configuration(**_: Any) -> list[checks.CheckMessage]:
    """One error for each problem of ``settings.MAILQUEUE_CONFIG``, or of what stands in for it."""
    try:
        producer_for()
    except ConfigError as error:
        return [checks.Error(problem, id="mailqueue.E001") for problem in error.problems]
    return []
