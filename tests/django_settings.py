"""Settings of a Django project whose mail goes through mailqueue, for this process."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

HAS_MAILERS = django.VERSION >= (6, 1)
BACKEND = "mailqueue.django.EmailBackend"


def configure() -> None:
    """Once in a process, as Django wants it."""
    if settings.configured:
        return
    backend: dict[str, Any] = {"EMAIL_BACKEND": BACKEND}
    if HAS_MAILERS:
        backend = {
            "MAILERS": {
                "default": {"BACKEND": BACKEND},
                "silent": {"BACKEND": BACKEND, "OPTIONS": {"fail_silently": True}},
            }
        }
    settings.configure(
        **backend,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_FROM_EMAIL="Shop <shop@example.com>",
        INSTALLED_APPS=["mailqueue.django"],
        MAILQUEUE_CONFIG=None,
        SECRET_KEY="of a test",
        TIME_ZONE="Europe/Berlin",
        USE_TZ=True,
    )
    django.setup()
