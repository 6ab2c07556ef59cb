"""Amazon SQS as the queue.

``client`` asks the service, ``messages`` waits for several queues at once; ``broker`` announces,
``receiver`` reserves; ``events`` reads what other programs put there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from mailqueue.config import Sqs
from mailqueue.errors import ConfigError
from mailqueue.queue.broker import INTAKE, Options
from mailqueue.queue.sqs.broker import SqsBroker
from mailqueue.queue.sqs.events import SqsEvents


def open_broker(settings: Sqs, options: Options) -> SqsBroker:
    """See ``queue.Kind``."""
    return SqsBroker(settings, options.ttr, keep=options.keep, suffix=options.suffix)


def open_events(settings: Sqs, options: Options) -> Sequence[SqsEvents]:
    """See ``queue.Kind``."""
    if settings.intake is None:
        raise ConfigError(["queue.intake: required key is missing"])
    events_depth(settings, options)
    return [SqsEvents(settings, settings.intake, options.ttr)]


def events_depth(settings: Sqs, options: Options) -> dict[str, int] | None:
    """See ``queue.Kind``."""
    with closing(SqsBroker(settings, options.ttr, suffix=INTAKE)) as broker:
        return broker.depth()
