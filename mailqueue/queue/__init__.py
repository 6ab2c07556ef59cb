"""The queue: the hint that an e-mail is due now. MongoDB is the truth, a job only points at it.

What it is for: a worker sleeps until there is work and gets the most urgent first, and of many
workers one gets each job. Asking MongoDB for all of that costs it more of its time.

What may be lost: everything. A lost job is put anew by the sweeper, from what MongoDB says is due.
A job that comes twice, or early, finds its e-mail claimed or not yet due, and changes nothing. So
nothing here needs to be durable, and ``send()`` does not fail while all servers are away. Events
are the one thing that is no hint: jobs of other programs, which are to become e-mails. They are
lost where the queue loses them.

``broker`` is the port: what each kind of queue does, and the values that pass through it.
``announcer`` bridges outages for all kinds, ``connections`` keeps each thread's own. ``beanstalkd``
is the queue as it comes; the others are optional. Each kind is a module or package of the name of
its type, with the functions of ``Kind``, and is loaded when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from mailqueue.config import Config, Memory
from mailqueue.config.queue import QUEUE_TYPES
from mailqueue.errors import ConfigError
from mailqueue.queue.broker import BACKLOG, Options

if TYPE_CHECKING:
    from mailqueue.queue.broker import Broker, EventReceiver
    from mailqueue.queue.mongodb import DueEmails


class Kind(Protocol):
    """What the module of a kind of queue has. ``settings`` are those of its type."""

    def open_broker(self, settings: Any, options: Options) -> Broker:
        """The queue; nothing is connected to yet."""

    def open_events(self, settings: Any, options: Options) -> Sequence[EventReceiver]:
        """Who reserves events: one for each server. Raises ``QueueUnavailable`` if none answers."""

    def events_depth(self, settings: Any, options: Options) -> dict[str, int] | None:
        """Events by state; None: there is no place for them. Raises ``QueueUnavailable``."""


def open_broker(
    config: Config, *, keep: int = BACKLOG, suffix: str = "", store: DueEmails | None = None
) -> Broker:
    """The queue of the configuration; nothing is connected to yet.

    ``suffix`` makes the name of another tube of ours (``CALLBACKS``). ``keep``: announcements that
    are remembered while the queue is away. Who receives e-mails gives its ``store``: one kind of
    queue finds them there. Raises ``MissingExtra``.
    """
    options = Options(config.delivery.ttr, keep, suffix, store)
    return _kind(config).open_broker(config.broker, options)


def open_events(config: Config, *, store: DueEmails | None = None) -> Sequence[EventReceiver]:
    """Who reserves the events of other programs: one for each server; ``store`` as above.

    Raises ``ConfigError``, ``MissingExtra``, and ``QueueUnavailable`` if no server is reached.
    """
    return _kind(config).open_events(config.broker, Options(config.delivery.ttr, store=store))


def events_depth(config: Config, *, store: DueEmails | None = None) -> dict[str, int] | None:
    """Events by state; None: there is no place for them. Raises ``QueueUnavailable``."""
    return _kind(config).events_depth(config.broker, Options(config.delivery.ttr, store=store))


def _kind(config: Config) -> Kind:
    (name,) = (name for name, type_ in QUEUE_TYPES.items() if isinstance(config.broker, type_))
    return cast("Kind", import_module(f"{__name__}.{name}"))


def refuse_memory(config: Config) -> None:
    """Raise ``ConfigError`` for a queue in the memory of a process that nobody else is in."""
    if isinstance(config.broker, Memory):
        problem = "memory is of one process, and nobody puts jobs into that of a command"
        raise ConfigError([f"queue.type: {problem}"])
