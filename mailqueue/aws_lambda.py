"""AWS Lambda: ``handler`` sends the e-mails of an SQS event, ``sweep`` is a round of the sweeper.

Decides: what is sent within an invocation, and how each message ends. One e-mail at a time goes
through the consumer's own parts, called one after the other in this thread:
``Fetcher.read``, ``Writer.turn`` (claims), ``Sender.deliver``, ``Writer.turn`` (writes the result).

=====================================  ===========================================================
what becomes of its e-mail             what becomes of a message
=====================================  ===========================================================
it ended, or another worker sends it   success: SQS deletes it
queued again at once (another vendor)  tried again here, while there is time
due again within 15 minutes            a new message with the delay; this one is a success
due later                              success: the sweeper announces it when it is due
no time is left for it                 a failure that SQS shows again at once
MongoDB is away, or it is not ours     a failure: SQS shows it again later
=====================================  ===========================================================

So an e-mail that waits for a vendor does not count towards a redrive policy. What is not known to
be a success is a failure, and a message that comes again finds its e-mail as it is.

Assumes: the configuration is where ``Config.load`` finds it ($MAILQUEUE_CONFIG, else config.json in
the function's folder), and ``queue.type`` is ``sqs``; otherwise the invocation fails with
``ConfigError``. Lambda may freeze or kill the environment at any step: claims and leases are the
consumer's, so nothing is lost by that.

Promises: no e-mail is begun that cannot be finished in time. Where the function's timeout is short,
the configured clocks are shortened; where it is too short for any attempt, nothing is begun, and
all messages are failures. No thread of an invocation outlives it. That an environment lives, and
what its attempts came to, is written at the end of an invocation, every ten seconds at most.
Connections to MongoDB, SQS and vendors stay open for the next invocation; the MongoDB driver's
monitors, the watchdog over vendors' sockets and the thread that ends spans, which sleep, stay as
well.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from mailqueue import logs
from mailqueue.config import Config, Sqs, is_production
from mailqueue.consumer import assemble
from mailqueue.consumer.delivery import Delivery
from mailqueue.consumer.sender import ThreadVendors
from mailqueue.consumer.sweeper import Sweeper
from mailqueue.consumer.writer import Writer
from mailqueue.errors import ConfigError, StoreUnavailable
from mailqueue.lifecycle.outcomes import HIGH, NORMAL
from mailqueue.queue import open_broker
from mailqueue.queue.broker import Announcement, End, Job, email_id_of, turns

if TYPE_CHECKING:
    from mailqueue.queue.sqs.broker import SqsBroker

logger = logging.getLogger(__name__)

SPARE = 5.0  # seconds at the end of an invocation: for new messages, and for the answer
PAUSE = 0.5  # seconds between two tries to write results while MongoDB is away
USABLE = 0.75  # of an invocation's time for one attempt: in the rest others are begun
SHORTEST = (5.0, 1.0)  # seconds that delivery.deadline and mongodb.timeout are shortened to


def handler(event: Mapping[str, Any], context: Any) -> dict[str, list[dict[str, str]]]:
    """Send the e-mails of an SQS event; returns the messages that are to come again.

    The event source mapping needs ``ReportBatchItemFailures``. ``context`` tells by
    ``get_remaining_time_in_millis()`` how long it may take. Raises ``ConfigError`` and
    ``MissingExtra``; then all messages come again.
    """
    records: Sequence[Mapping[str, Any]] = event.get("Records", ())
    seconds_left = _clock_of(context)
    worker = _worker(seconds_left())
    if worker is None:
        failures = [record["messageId"] for record in records]
    else:
        failures = worker.send(records, seconds_left)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failures]}


def sweep(event: Mapping[str, Any], context: Any) -> dict[str, int]:  # noqa: ARG001  # Lambda passes it
    """A round of the sweeper, for a schedule: once a minute. Returns what was done, by name.

    What is not done in the time of ``context`` is for the next round.

    Raises ``ConfigError``, ``MissingExtra`` and ``StoreUnavailable``.
    """
    return dict(_sweeper().run_once(_clock_of(context)() - SPARE))


def _clock_of(context: Any) -> Callable[[], float]:
    """Seconds that are left of the invocation."""
    return lambda: context.get_remaining_time_in_millis() / 1000


# What an environment has, for each of its invocations; they come one at a time.


_workers: list[Worker] = []  # at most one


def _worker(seconds: float) -> Worker | None:
    """Whose attempts end within these seconds of an invocation; None: no attempt can."""
    if _workers and _workers[0].longest <= seconds:
        return _workers[0]
    config = _config()
    fitting = _fit(config, seconds)
    if fitting is None:
        logs.event(logger, logging.ERROR, "lambda.too_short", seconds=round(seconds, 1))
        return None
    close()
    _workers.append(Worker(fitting))
    if fitting is not config:
        clocks = {"deadline": fitting.delivery.deadline, "timeout": fitting.mongodb.timeout}
        logs.event(logger, logging.WARNING, "lambda.clocks_shortened", **clocks)
    return _workers[0]


def close() -> None:
    """Close all connections; an environment of Lambda's is never told that it ends."""
    while _workers:
        _workers.pop().close()


def _fit(config: Config, seconds: float) -> Config | None:
    """The configuration with an attempt that ends within these seconds; None: they are too few.

    Both clocks are shortened by the same factor, but neither below ``SHORTEST``: then the other one
    has what is left. The lease follows from them.
    """
    longest = _longest(config)
    if longest + SPARE + 1 <= seconds:
        return config
    room, clocks = seconds * USABLE - SPARE, (config.delivery.deadline, config.mongodb.timeout)
    least_deadline, least_timeout = map(min, clocks, SHORTEST)
    calls = (longest - clocks[0]) / clocks[1]  # of MongoDB, beside the attempt
    timeout = max(least_timeout, clocks[1] * room / longest)
    deadline = max(least_deadline, room - calls * timeout)
    timeout = (room - deadline) / calls
    if round(timeout, 1) < least_timeout:
        return None
    return config.replace(
        mongodb=replace(config.mongodb, timeout=round(timeout, 1)),
        delivery=replace(config.delivery, deadline=round(deadline, 1)),
    )


def _longest(config: Config) -> float:
    """Seconds from the claim of an e-mail until its result is stored."""
    delivery = config.delivery
    return config.mongodb.timeout + delivery.deadline + delivery.settle_timeout


@cache
def _sweeper() -> Sweeper:
    config = _config()
    store, router, owner = assemble(config, simulated=not is_production())
    return Sweeper(config, store, router, open_broker(config, keep=0), owner=owner)


def _config() -> Config:
    _configure_logs()
    return Config.load(secrets=is_production())


def _configure_logs() -> None:
    """Lambda's own handler, which is on the root, writes our lines; but not as JSON.

    Ours has no thread, since that would stop with the invocation.
    """
    package, formatter = logging.getLogger("mailqueue"), logs.format_of(None)
    package.setLevel(logging.INFO)
    if package.handlers:  # from an earlier invocation
        return
    if logs.VARIABLE in os.environ or not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(formatter)
        package.addHandler(handler)
        package.propagate = False


class Batch:
    """The messages of one event, as the holder of their jobs. All are failures until they end.

    Several messages of one e-mail are one job.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        broker: SqsBroker,
        urgent: str,
        turns: Iterator[int],
    ) -> None:
        self._broker = broker
        self._receipts: dict[str, tuple[bool, str]] = {}
        self._messages: dict[Job, list[str]] = {}
        self._priorities: dict[Job, int] = {}
        jobs: dict[str, Job] = {}
        for record in records:
            body = str(record.get("body", ""))
            # An ARN ends in the name of the queue, as the URL does.
            is_urgent = str(record.get("eventSourceARN")).rpartition(":")[2] == urgent
            if body not in jobs:
                jobs[body] = job = Job(email_id_of(body), next(turns), self)
                self._priorities[job] = HIGH if is_urgent else NORMAL
            self._messages.setdefault(jobs[body], []).append(record["messageId"])
            self._receipts[record["messageId"]] = (is_urgent, str(record.get("receiptHandle")))
        self.todo = deque(self._messages)

    @property
    def failures(self) -> list[str]:
        """The messages that are to come again."""
        return [message for messages in self._messages.values() for message in messages]

    def end(self, ends: Mapping[Job, End]) -> None:
        """See the table above; a job to be buried stays a failure."""
        for job, end in ends.items():
            if job not in self._messages:  # of an earlier invocation, whose messages came again
                continue
            if end.word == "delete":
                del self._messages[job]
            elif end.word == "release":
                self._priorities[job] = end.priority
                if end.delay:
                    self.postpone([job], end.delay)
                else:
                    self.todo.append(job)

    def give_back(self, jobs: Sequence[Job]) -> None:
        """MongoDB is away: they stay failures."""

    def show_todo(self) -> None:
        """Let what is left come again at once: others may have time for it."""
        pairs = [self._receipts[message] for job in self.todo for message in self._messages[job]]
        for is_urgent in (True, False):
            receipts = [receipt for was_urgent, receipt in pairs if was_urgent is is_urgent]
            self._broker.show(receipts, is_urgent=is_urgent)

    def postpone(self, jobs: Sequence[Job], delay: float) -> None:
        """Put new messages in the place of these; if that fails, they stay failures."""
        new = {
            Announcement(job.email_id, self._priorities[job], delay): job
            for job in jobs
            if job.email_id is not None
        }
        on_queue = set(self._broker.announce([*new]))
        for announcement, job in new.items():
            if announcement in on_queue or delay > self._broker.max_delay:
                self._messages.pop(job, None)


class Worker:
    """A consumer without threads. ``send`` is called by one thread at a time."""

    def __init__(self, config: Config) -> None:
        if not isinstance(config.queue, Sqs):
            raise ConfigError(['queue.type: must be "sqs" for AWS Lambda'])
        self._urgent = config.queue.urgent.rpartition("/")[2]
        self._simulated = not is_production()
        # One e-mail at a time: what is claimed does not wait for another's call.
        self._config = config.replace(consumer=replace(config.consumer, concurrency=1))
        self._store, self._router, owner = assemble(self._config, simulated=self._simulated)
        self._writer = Writer(self._config, self._store, self._router, owner=owner)
        self._vendors = ThreadVendors(lambda: self._config.vendors, simulated=self._simulated)
        self._broker = cast("SqsBroker", open_broker(self._config, keep=0))
        self._turns = turns()
        self._is_ready = False

    def send(
        self, records: Sequence[Mapping[str, Any]], seconds_left: Callable[[], float]
    ) -> list[str]:
        """Send the e-mails of these messages; returns the ids of those that are to come again."""
        batch = Batch(records, self._broker, self._urgent, self._turns)
        try:
            self._prepare()
            self._send_all(batch, seconds_left)
        except StoreUnavailable as error:
            logs.event(logger, logging.ERROR, "lambda.not_finished", error=str(error))
            return batch.failures
        finally:
            self._writer.sender.flush_spans(1.0)  # before Lambda freezes the environment
        batch.show_todo()
        if self._writer.reporter.is_due:
            self._writer.reporter.beat(seconds=1.0)
        return batch.failures

    def close(self) -> None:
        """Close all connections."""
        self._vendors.close()
        self._broker.close()
        self._store.close()

    @property
    def longest(self) -> float:
        """Seconds that are left when an e-mail is begun, at least."""
        return _longest(self._config) + SPARE

    def _prepare(self) -> None:
        """What a consumer does at its start, once."""
        if not self._is_ready:
            self._store.ensure_indexes()
            self._router.health.refresh()
            self._is_ready = True

    def _send_all(self, batch: Batch, seconds_left: Callable[[], float]) -> None:
        """Send until nothing is to be done, or no time is left to begin another."""
        writer = self._writer
        while True:
            if batch.todo and seconds_left() >= self.longest:
                self._begin(batch)
            writer.fetcher.read_large()
            if writer.inbox.empty() and not writer.waiting and writer.sender.pacer.empty:
                if not batch.todo or seconds_left() < self.longest:
                    return
                continue
            self._turn(seconds_left)
            while not writer.sender.queue.empty() or writer.sender.pacer.send_next():
                writer.sender.deliver(self._vendors)

    def _begin(self, batch: Batch) -> None:
        """Read the next e-mail and plan what to do, unless no vendor may be asked."""
        job = batch.todo.popleft()
        pause, room = self._router.intake()
        if not room:
            batch.postpone([job], min(pause, self._broker.max_delay))
            return
        self._writer.slots.reserve(1)
        try:
            delivery = Delivery(job, time.monotonic())
            self._writer.inbox.put(self._writer.fetcher.read([delivery]))
        except StoreUnavailable:
            batch.todo.clear()  # they come again later, as this one does

    def _turn(self, seconds_left: Callable[[], float]) -> None:
        """Write results and claims; results again, while MongoDB is away and there is time."""
        while True:
            seconds = min(self._config.delivery.settle_timeout, seconds_left() - SPARE)
            try:
                self._writer.turn(max(1.0, seconds))
                return
            except StoreUnavailable:
                if seconds_left() < SPARE + PAUSE + 1.0:
                    raise
                time.sleep(PAUSE)
