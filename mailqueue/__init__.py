"""mailqueue: a durable queue for e-mail, with vendor failover and a precise promise on duplicates.

::

    from mailqueue import Producer

    with Producer("config.json") as producer:
        email_id = producer.send({"from": ..., "to": [...], "subject": ..., "text": ...})

``send()`` returns when a majority of MongoDB has the e-mail in its journal. Then processes of
``python -m mailqueue.consumer``, as many as you like, send it through the vendors. ``mailqueue
--help`` lists what an operator can look at and do.

To read the code, begin with ``message`` and ``producer``, then ``store``, ``queue``, ``consumer``,
``routing``, ``vendors`` and ``lifecycle``: the order in which an e-mail meets them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mailqueue.config import Config
from mailqueue.errors import (
    ConfigError,
    InvalidEmail,
    MailQueueError,
    MissingExtra,
    QueueUnavailable,
    StoreUnavailable,
    Unavailable,
)
from mailqueue.lifecycle.outcomes import Status
from mailqueue.message import Address, Alternative, Attachment, Email, EmailDict, Envelope
from mailqueue.producer import Priority, Producer
from mailqueue.producer.status import AttemptStatus, EmailStatus, StoredEmail

if TYPE_CHECKING:
    from mailqueue.aio import AsyncProducer
    from mailqueue.consumer import Consumer

__version__ = "0.1.0"

__all__ = [
    "Address",
    "Alternative",
    "AsyncProducer",
    "Attachment",
    "AttemptStatus",
    "Config",
    "ConfigError",
    "Consumer",
    "Email",
    "EmailDict",
    "EmailStatus",
    "Envelope",
    "InvalidEmail",
    "MailQueueError",
    "MissingExtra",
    "Priority",
    "Producer",
    "QueueUnavailable",
    "Status",
    "StoreUnavailable",
    "StoredEmail",
    "Unavailable",
]


if not TYPE_CHECKING:  # a type checker would believe that any name is there

    def __getattr__(name: str) -> Any:
        """Import these when they are asked for: few applications need them."""
        if name == "Consumer":
            from mailqueue.consumer import Consumer

            return Consumer
        if name == "AsyncProducer":
            from mailqueue.aio import AsyncProducer

            return AsyncProducer
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
