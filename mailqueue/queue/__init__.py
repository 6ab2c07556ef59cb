"""The queue: the hint that an e-mail is due now. MongoDB is the truth, a job only points at it.

What it is for: a worker sleeps until there is work and gets the most urgent first, and of many
workers one gets each job. Asking MongoDB for all of that costs it more of its time.

What may be lost: everything. A lost job is put anew by the sweeper, from what MongoDB says is due.
A job that comes twice, or early, finds its e-mail claimed or not yet due, and changes nothing. So
nothing here needs to be durable, and ``send()`` does not fail while all servers are away. Events
are the one thing that is no hint: jobs of other programs, which are to become e-mails. They are
lost where the queue loses them.

``broker`` is the port: what each kind of queue does, and the values that pass through it.
``announcer`` bridges outages for all kinds. ``beanstalkd`` is the queue as it comes; the others are
optional. Each kind is loaded when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mailqueue.config import Beanstalkd, Config, Memory, MongoDBQueue, Redis, Sqs
from mailqueue.errors import ConfigError, QueueUnavailable
from mailqueue.queue.broker import BACKLOG, INTAKE

if TYPE_CHECKING:
    from mailqueue.queue.broker import Broker, EventReceiver
    from mailqueue.queue.mongodb import DueEmails


def open_broker(
    config: Config, *, keep: int = BACKLOG, suffix: str = "", store: DueEmails | None = None
) -> Broker:
    """The queue of the configuration; nothing is connected to yet.

    ``suffix`` makes the name of another tube of ours (``CALLBACKS``). ``keep``: announcements that
    are remembered while the queue is away. Who receives e-mails gives its ``store``: one kind of
    queue finds them there. Raises ``ConfigError`` and ``MissingExtra``.
    """
    settings = config.broker
    if isinstance(settings, Beanstalkd):
        from mailqueue.queue.beanstalkd.broker import BeanstalkdBroker  # lazily

        return BeanstalkdBroker(settings, config.delivery.ttr, keep=keep, suffix=suffix)
    if isinstance(settings, MongoDBQueue):
        from mailqueue.queue.mongodb import MongoDBBroker  # lazily

        return MongoDBBroker(settings, config.delivery.ttr, None if suffix else store)
    if isinstance(settings, Memory):
        from mailqueue.queue.memory import MemoryBroker  # lazily

        return MemoryBroker(settings, config.delivery.ttr, suffix=suffix)
    if isinstance(settings, Redis):
        from mailqueue.queue.redis.broker import RedisBroker  # lazily

        return RedisBroker(settings, config.delivery.ttr, keep=keep, suffix=suffix)
    if isinstance(settings, Sqs):
        from mailqueue.queue.sqs.broker import SqsBroker  # lazily

        return SqsBroker(settings, config.delivery.ttr, keep=keep, suffix=suffix)
    raise ConfigError([f"queue.type: {type(settings).__name__} is not there yet"])


def open_events(config: Config, *, store: DueEmails | None = None) -> Sequence[EventReceiver]:
    """Who reserves the events of other programs: one for each server; ``store`` as above.

    Raises ``ConfigError``, ``MissingExtra``, and ``QueueUnavailable`` if no server is reached.
    """
    settings = config.broker
    if isinstance(settings, Beanstalkd):
        from mailqueue.queue.beanstalkd.broker import depth  # lazily
        from mailqueue.queue.beanstalkd.events import EventTube  # lazily

        depth(settings, INTAKE)
        return [EventTube(server, settings.tube) for server in settings.servers]
    if isinstance(settings, MongoDBQueue) and store is not None:
        from mailqueue.queue.mongodb import DocumentEvents  # lazily

        return [DocumentEvents(store.events())]
    if isinstance(settings, Memory):
        from mailqueue.queue.memory import events_of  # lazily

        return events_of(settings, config.delivery.ttr)
    if isinstance(settings, Redis):
        from mailqueue.queue.redis import events  # lazily

        events.depth(settings)
        return [events.EventStream(settings)]
    if isinstance(settings, Sqs):
        from mailqueue.queue.sqs.broker import SqsBroker  # lazily
        from mailqueue.queue.sqs.events import SqsEvents  # lazily

        if settings.intake is None:
            raise ConfigError(["queue.intake: required key is missing"])
        SqsBroker(settings, config.delivery.ttr, suffix=INTAKE).depth()
        return [SqsEvents(settings, settings.intake, config.delivery.ttr)]
    raise ConfigError([f"queue.type: {type(settings).__name__} is not there yet"])


def events_depth(config: Config, *, store: DueEmails | None = None) -> dict[str, int] | None:
    """Events by state; None: there is no place for them. Raises ``QueueUnavailable``."""
    if isinstance(config.broker, Redis):
        from mailqueue.queue.redis import events  # lazily

        return events.depth(config.broker)
    if isinstance(config.broker, MongoDBQueue):
        return dict(store.events().depth()) if store else None
    return dict(open_broker(config, keep=0, suffix=INTAKE).depth() or {}) or None


def refuse_memory(config: Config) -> None:
    """Raise ``ConfigError`` for a queue in the memory of a process that nobody else is in."""
    if isinstance(config.broker, Memory):
        problem = "memory is of one process, and nobody puts jobs into that of a command"
        raise ConfigError([f"queue.type: {problem}"])


__all__ = ["Broker", "QueueUnavailable", "open_broker", "open_events", "refuse_memory"]
