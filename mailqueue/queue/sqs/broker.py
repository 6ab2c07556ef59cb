"""E-mails announced over Amazon SQS: one queue for ``high``, one for all others.

Decides: what a job is there, how two queues are waited for at once, and how a job ends.

* A job is a message whose body is the 24 hex characters of the e-mail's id.
* ``release`` puts a new message with the delay, then deletes the old one. To hide the old one for
  longer would be one request less, but it counts as in flight (SQS has room for 120,000 of these),
  ages towards its retention, and each further receive of it towards a redrive policy. So a message
  that was received often is one that nobody could end. A crash between the two doubles a job.
* A delay above 900 s is more than SQS takes: no message is put, and the sweeper announces the
  e-mail when it is due.
* ``bury`` hides the message for an hour. A redrive policy takes it to a dead-letter queue in the
  end; without one it is gone when its retention is over.
* Urgent jobs come first (``messages``).

Assumes: the numbers of ``depth`` are approximate, right within a minute or so. If they are too low,
the sweeper announces e-mails that have a job. It announces each at most once a minute, and the
doubled jobs count as well, so this ends by itself. If they are too high, it finds what has no job
by ``overdue_at``.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress

from bson import ObjectId

from mailqueue.config.queue import Sqs
from mailqueue.errors import QueueUnavailable
from mailqueue.lifecycle.outcomes import HIGH
from mailqueue.outage import Outage
from mailqueue.queue.announcer import Announcer
from mailqueue.queue.broker import (
    BACKLOG,
    CALLBACKS,
    INTAKE,
    STATES,
    Announcement,
    End,
    Job,
    whole_seconds,
)
from mailqueue.queue.sqs.client import BATCH, Clients, Entry, Message, Queue
from mailqueue.queue.sqs.messages import Messages

MAX_DELAY = 900
BURIED_FOR = 3600
ANNOUNCE = 5.0  # seconds; what is not put by then waits for the next announcement
_BODY = re.compile(r"[0-9a-f]{24}")
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
        self._turns = itertools.count(1)

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs; returns those on the queue, keeps the others but what is due too late."""
        if not self._queues:
            return ()
        soon = [each for each in announcements if each.delay <= MAX_DELAY]
        return self._announcer.announce(soon) if soon or not announcements else ()

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


class SqsReceiver:
    """The jobs of all ``queues``, for one thread; any thread ends them."""

    def __init__(
        self, name: str, queues: Sequence[Queue], ttr: int, turns: Iterator[int], outage: Outage
    ) -> None:
        self.name, self.place = name, f"{len(queues)} queues of {name}"
        self._messages = Messages(queues, ttr, outage)
        self._holders = {each: SqsHolder(each, queues) for each in queues}
        self._turns = turns

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        """See ``Receiver``."""
        messages = self._messages.receive(timeout, limit)
        return [self._holders[line].hold(message, next(self._turns)) for line, message in messages]

    def close(self) -> None:
        """Give back what is reserved, also what a request brings that is under way for 5 s."""
        self._messages.close()
        for each in self._holders.values():
            each.close()


class SqsHolder:
    """The reserved jobs of one queue, and what becomes of them; any thread may call.

    What is put again goes to the queue of its priority, one of ``queues``.
    """

    def __init__(self, line: Queue, queues: Sequence[Queue]) -> None:
        self._line, self._queues = line, queues
        self._reserved: dict[Job, None] = {}

    def hold(self, message: Message, turn: int) -> Job:
        """The job that came as this message."""
        body = message.get("Body", "")
        email_id = ObjectId(body) if _BODY.fullmatch(body) else None
        job = Job(email_id, turn, self, message["ReceiptHandle"], body.encode())
        self._reserved[job] = None
        return job

    def end(self, ends: Mapping[Job, End]) -> None:
        """See ``Holder``; here each request is waited for. Jobs that have ended are passed over."""
        jobs = self._release([*ends])
        buried = [job for job in jobs if ends[job].word == "bury"]
        # A job whose successor was not taken stays, and comes again when its time to run is over.
        stay = {*buried, *self._put_again({job: ends[job] for job in jobs})}
        self._line.delete([job.handle for job in jobs if job not in stay])
        self._line.hide([job.handle for job in buried], BURIED_FOR)

    def _put_again(self, ends: Mapping[Job, End]) -> set[Job]:
        """Put new jobs in the place of those to be released; returns those that have none.

        Those that are due too late for a delay need none.
        """
        lost: set[Job] = set()
        again = [job for job, end in ends.items() if end.word == "release"]
        soon = [job for job in again if ends[job].delay <= MAX_DELAY]
        for line in self._queues:
            own = [job for job in soon if queue_of(ends[job].priority, self._queues) is line]
            failed = line.send([entry(job.body.decode(), ends[job].delay) for job in own])
            lost.update(own[i] for i in failed)
        return lost

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Show them to anybody at once; else they come again when their time to run is over."""
        with suppress(QueueUnavailable):
            self._line.hide([job.handle for job in self._release(jobs)], 0)

    def close(self) -> None:
        """Give back all."""
        self.give_back([*self._reserved])

    def _release(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of them that are reserved; from now on they are not."""
        return [job for job in jobs if self._reserved.pop(job, self) is None]


def queue_of(priority: int, queues: Sequence[Queue]) -> Queue:
    """The first is for what is as urgent as ``high``, a retry of it included."""
    return queues[0] if priority <= HIGH else queues[-1]


def entry(body: str, delay: float) -> Entry:
    """A message to be put."""
    return {"MessageBody": body, "DelaySeconds": min(MAX_DELAY, whole_seconds(delay))}


def _urls(settings: Sqs, suffix: str) -> list[str]:
    """Of the queues for e-mails, or of the one for something else, if there is one."""
    other = {CALLBACKS: settings.callbacks, INTAKE: settings.intake}.get(suffix)
    return [url for url in ((other,) if suffix else (settings.urgent, settings.normal)) if url]
