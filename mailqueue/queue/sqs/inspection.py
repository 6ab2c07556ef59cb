"""What SQS says of our queues to a person who asks.

Promises: nothing is changed, and no message is received.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from mailqueue.config.queue import Sqs
from mailqueue.errors import QueueUnavailable
from mailqueue.queue.sqs.client import Clients, Queue


@dataclass(frozen=True, slots=True)
class Facts:
    """One queue. ``error``: it cannot be asked, and all else is 0. Times are in seconds.

    ``max_receives``: after so many a message goes to a dead-letter queue; 0: it never does.
    """

    use: str
    error: str = ""
    ready: int = 0
    in_flight: int = 0
    retention: int = 0
    max_receives: int = 0


def inspect(settings: Sqs) -> Iterator[Facts]:
    """Ask each queue."""
    urls = {use: getattr(settings, use) for use in ("urgent", "normal", "callbacks", "intake")}
    with closing(Clients(settings)) as clients:
        for use, url in urls.items():
            if url is not None:
                try:
                    yield _facts(use, Queue(clients, url).attributes("All"))
                except QueueUnavailable as error:
                    yield Facts(use, str(error))


def _facts(use: str, attributes: Mapping[str, str]) -> Facts:
    redrive = json.loads(attributes.get("RedrivePolicy") or "{}")
    return Facts(
        use,
        ready=int(attributes.get("ApproximateNumberOfMessages", 0)),
        in_flight=int(attributes.get("ApproximateNumberOfMessagesNotVisible", 0)),
        retention=int(attributes.get("MessageRetentionPeriod", 0)),
        max_receives=int(redrive.get("maxReceiveCount", 0)),
    )
