"""beanstalkd: the queue as it comes, the fastest of ours.

``tube`` speaks its protocol, within the bounds of ``replies``, and is the consumer's side;
``broker`` spreads jobs over several servers; ``events`` reads what other programs put there.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailqueue.config import Beanstalkd
from mailqueue.queue.beanstalkd.broker import BeanstalkdBroker, depth
from mailqueue.queue.beanstalkd.events import EventTube
from mailqueue.queue.broker import INTAKE, Options


def open_broker(settings: Beanstalkd, options: Options) -> BeanstalkdBroker:
    """See ``queue.Kind``."""
    return BeanstalkdBroker(settings, options.ttr, keep=options.keep, suffix=options.suffix)


def open_events(settings: Beanstalkd, options: Options) -> Sequence[EventTube]:
    """See ``queue.Kind``."""
    events_depth(settings, options)
    return [EventTube(server, settings.tube) for server in settings.servers]


def events_depth(settings: Beanstalkd, _: Options) -> dict[str, int]:
    """See ``queue.Kind``."""
    return depth(settings, INTAKE)
