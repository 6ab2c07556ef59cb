"""Callbacks: the application hears what becomes of its e-mails, by a POST to a URL of its own.

What is due stands in the e-mails' documents, where ``store.callbacks`` notes it. ``server`` is the
process, ``responder`` its work: it claims (``due``), makes the event (``event``), signs it
(``signing``), and posts it (``poster``, to none but the ``addresses`` that are public).
"""

from __future__ import annotations

from mailqueue.callbacks.server import run

__all__ = ["run"]
