"""The web pages for operators: ``mailqueue http --dashboard``.

``application`` is the file to read: which address leads to which page. A page is a function that
takes a ``PageRequest`` and returns a ``Page``; it may wait for MongoDB, and runs in a thread.

=================  ===============================================================================
``application``    the addresses, and the ASGI application that ``http`` mounts
``endpoint``       one request: who asks, the page in a thread, the answer and the line in the log
``access``         who asks, and which requests a browser made on its own pages
``pages``          what a page gets and returns
``rendering``      templates, and how times and spans are written
``backend``        what the pages read: the store, its events, the queue
``overview``       what is wrong, the numbers, the last hour
``plot``           that hour, drawn
``emails``         the list, those that failed, those that are uncertain
``filters``        what an operator looks for in the list
``story``          one e-mail: what happened, what comes next; its content behind "show"
``actions``        retry, mark as sent, cancel: count, confirm, done
``vendors``        the vendors, and what is held: enable, drain, hold
=================  ===============================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailqueue.errors import MissingExtra

if TYPE_CHECKING:
    from mailqueue.config import Config
    from mailqueue.dashboard.application import Dashboard

__all__ = ["make"]


def make(config: Config) -> Dashboard:
    """The pages as an ASGI application, to be mounted; nothing is connected to yet.

    Raises ``MissingExtra`` if the extra ``web`` is not installed.
    """
    MissingExtra.unless("web", "jinja2", "the dashboard needs it")
    from mailqueue.dashboard.application import Dashboard

    return Dashboard(config)
