"""The consumer's side of Amazon SQS: jobs that are reserved, and how they end.

Decides: which queue a job goes to, and how it ends.

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
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from mailqueue.errors import QueueUnavailable
from mailqueue.lifecycle.outcomes import HIGH
from mailqueue.outage import Outage
from mailqueue.queue.broker import End, Job, email_id_of, whole_seconds
from mailqueue.queue.sqs.client import Entry, Message, Queue
from mailqueue.queue.sqs.messages import Messages

MAX_DELAY = 900
BURIED_FOR = 3600


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
        job = Job(email_id_of(body), turn, self, message["ReceiptHandle"], body.encode())
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
