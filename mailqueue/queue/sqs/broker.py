"""The producer's side of Amazon SQS, and the way to the consumer's.

Decides: which queue gets what: one is for ``high``, one for all others (``receiver``).

Assumes: the numbers of ``depth`` are approximate, right within a minute or so. If they are too low,
the sweeper announces e-mails that have a job. It announces each at most once a minute, and the
doubled jobs count as well, so this ends by itself. If they are too high, it finds what has no job
by ``overdue_at``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress

from mailqueue.config.queue import Sqs
from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.announcer import Announcer
from mailqueue.queue.broker import BACKLOG, CALLBACKS, INTAKE, STATES, Announcement, turns
from mailqueue.queue.sqs.client import BATCH, Clients, Queue
from mailqueue.queue.sqs.receiver import MAX_DELAY, SqsReceiver, entry, queue_of

ANNOUNCE = 5.0  # seconds; what is not put by then waits for the next announcement
_COUNTS = {
    "ready": "ApproximateNumberOfMessages",
    "reserved": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}


class SqsBroker:
    """The queues of ``settings`` for e-mails, or with a ``suffix`` the one for something else.

    That one need not exist: nothing is announced then, and nobody receives. ``ttr``: whole seconds
    after which a reserved job is another's. ``keep``: see ``Announcer``.
    """

    max_delay = float(MAX_DELAY)

    def __init__(
        self,
        settings: Sqs,
        ttr: int,
        clock: Callable[[], float] = time.monotonic,
        keep: int = BACKLOG,
        suffix: str = "",
    ) -> None:
        self.name = f"sqs {settings.region}"
        self._ttr, self._clock = ttr, clock
        self._clients = Clients(settings)
        self._queues = [Queue(self._clients, url) for url in _urls(settings, suffix)]
        self._outage = Outage(self.name)
        self._announcer = Announcer(self._put, {self.name: self._outage}, keep=keep, clock=clock)
        self._turns = turns()

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs; returns those on the queue, keeps the others but what is due too late."""
        if not self._queues:
            return ()
        soon = [each for each in announcements if each.delay <= MAX_DELAY]
        return self._announcer.announce(soon) if soon or not announcements else ()

    def show(self, receipts: Sequence[str], *, is_urgent: bool) -> None:
        """Let messages that AWS Lambda received come again at once. Never raises.

        What this fails for comes again when its visibility timeout is over.
        """
        with suppress(QueueUnavailable):
            self._queues[0 if is_urgent else -1].hide(receipts, 0)

    def receivers(self) -> Sequence[SqsReceiver]:
        """One for both queues. An outage is logged once, whoever sees it."""
        if not self._queues:
            return ()
        return [SqsReceiver(self.name, self._queues, self._ttr, self._turns, self._outage)]

    def depth(self) -> dict[str, int] | None:
        """Jobs by state; ``QueueUnavailable`` if a queue does not answer. None: there is none."""
        if not self._queues:
            return None
        counts = dict.fromkeys(STATES, 0)
        for each in self._queues:
            attributes = each.attributes(*_COUNTS.values())
            for state, name in _COUNTS.items():
                counts[state] += int(attributes.get(name, 0))
        return counts

    def close(self) -> None:
        """Close this process's connections."""
        self._clients.close()

    def _put(self, _: str, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs; returns those that were not put. Raises only if none was."""
        end = self._clock() + ANNOUNCE
        trouble: QueueUnavailable | None = None
        rest: list[Announcement] = []
        for line, page in self._pages(announcements):
            failed: Collection[int] = range(len(page))
            if trouble is None and self._clock() < end:
                try:
                    failed = line.send([entry(str(each.email_id), each.delay) for each in page])
                except QueueUnavailable as error:
                    trouble = error
            rest += [page[i] for i in failed]
        if len(rest) == len(announcements):
            raise trouble or QueueUnavailable("sqs: no message was taken")
        return rest

    def _pages(
        self, announcements: Sequence[Announcement]
    ) -> Iterator[tuple[Queue, Sequence[Announcement]]]:
        """What one request puts, and where; the urgent first."""
        for line in self._queues:
            own = [a for a in announcements if queue_of(a.priority, self._queues) is line]
            for start in range(0, len(own), BATCH):
                yield line, own[start : start + BATCH]


def _urls(settings: Sqs, suffix: str) -> list[str]:
    """Of the queues for e-mails, or of the one for something else, if there is one."""
    other = {CALLBACKS: settings.callbacks, INTAKE: settings.intake}.get(suffix)
    return [url for url in ((other,) if suffix else (settings.urgent, settings.normal)) if url]
