"""Django's e-mail through mailqueue: ``EMAIL_BACKEND = "mailqueue.django.EmailBackend"``.

``backend`` is what Django calls, ``messages`` reads what it hands over. In ``INSTALLED_APPS``,
``mailqueue.django`` adds a system check of the configuration (``apps``); the backend does not need
it there.
"""

from __future__ import annotations

from mailqueue.django.backend import EmailBackend

__all__ = ["EmailBackend"]
