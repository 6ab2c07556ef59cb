"""One job, from reserve to delete.

Everyone should be able to recite it::

    reserve → read, choose vendor → claim (intent and lease, one durable write)
    → vendor.send under the deadline → health hears the outcome → decide
    → settle (one durable write guarded by the token) → delete or release the job

Three roles do this, each in threads of its own (``consumer`` starts them). The *taker* reserves
jobs, reads their e-mails and chooses vendors. The *senders* each send one e-mail at a time and
decide what follows. Between them one thread takes *turns*: it records what was sent and claims what
is next, everything that has gathered while the last turn's write was under way, in one durable
write: a write costs the same for one e-mail as for eight. A lone e-mail waits for nobody.

Assumes: a job is only a hint; MongoDB's guards decide who owns an e-mail.

Promises: nothing is sent without a recorded claim; a job is deleted only after the e-mail's end is
stored; a yes is recorded even when the lease is lost. Given back unsent are: an e-mail whose claim
could not be confirmed, one that was claimed for a vendor that has failed since, and one that waits
for a sender, or for its vendor to have a place, for more than a second.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from bson import ObjectId

from mailqueue.config import Config
from mailqueue.consumer.fetcher import BATCH, PATIENCE, Batch, Fetcher, Result
from mailqueue.consumer.meter import Meter
from mailqueue.consumer.planner import (
    Ending,
    Inquiry,
    Task,
    Waiting,
    conclude,
    job_priority,
)
from mailqueue.consumer.slots import Slots
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle import decide
from mailqueue.lifecycle.outcomes import Decision, Outcome, SendResult
from mailqueue.logs import event, place
from mailqueue.routing import bulkheads
from mailqueue.routing.bulkheads import Bulkheads, Call
from mailqueue.routing.router import Router
from mailqueue.store.store import Store
from mailqueue.store.transitions import Aside, Change, Lease
from mailqueue.vendors import answers
from mailqueue.vendors.base import Attempt, Vendor

logger = logging.getLogger(__name__)

LOOKUP_SECONDS = 10.0
OVERDUE = SendResult(outcome=Outcome.UNKNOWN, code="deadline", answered=False)
GATHER = 0.005  # seconds


class Worker:
    """The work of one process, called by its threads: ``taker.fetch``, ``turn``, ``deliver``."""

    def __init__(
        self,
        config: Config,
        store: Store,
        routing: Router,
        *,
        owner: str,
        clock: Callable[[], float] = time.monotonic,
        meter: Meter | None = None,
    ) -> None:
        self._config = config
        self._meter = meter
        self._store = store
        self._routing = routing
        self._clock = clock
        self._owner = owner
        self._bulkheads: Bulkheads[Task | Inquiry] = routing.bulkheads
        self._senders = Slots(config.consumer.concurrency, clock)
        self.taker = Fetcher(config, store, routing, self._senders, clock)
        self.inbox = self.taker.inbox
        self.tasks: queue.SimpleQueue[Task | Inquiry | None] = queue.SimpleQueue()
        self.stopping = self.taker.stopping
        self._handing_out = threading.Lock()
        self._no_more = self._ending = False
        self._taken_at = clock()

    # Sending -----------------------------------------------------------------------------------

    def deliver(self, vendors: Mapping[str, Vendor]) -> bool:
        """Send the next claimed e-mail through this thread's ``vendors``; False: no more come.

        One whose vendor is full is parked and holds no sender: another call of that vendor is
        under way, whose sender takes it up afterwards.
        """
        task = self._next()
        if task is None:
            return False
        self._taken_at = self._clock()
        if isinstance(task, Inquiry):
            deadline, probe = self._taken_at + LOOKUP_SECONDS, False
        elif self._may_begin(task):
            deadline, probe = task.deadline, task.permit.probe is not None
        else:
            self._came(task, None)
            return True
        call = self._bulkheads.begin(task.vendor, task, deadline, probe=probe)
        if call is None:
            self._senders.give_back(1)
            return True
        return self._call(call, vendors)

    def _next(self) -> Task | Inquiry | None:
        """What waited for its vendor and may go now; else what is claimed next."""
        task = self._bulkheads.unpark()
        if task is None:
            return self.tasks.get()
        self._senders.give_back(-1)
        return task

    def _call(self, call: Call[Task | Inquiry], vendors: Mapping[str, Vendor]) -> bool:
        task = call.what
        result: SendResult | None
        if sent := isinstance(task, Task):
            result = self._send(task, vendors)
        else:
            result = self._ask(task, vendors, call.deadline)
        if not self._bulkheads.end(call, telling=sent):
            self._came_late(task, result)
            return False
        self._came(task, result)
        return True

    def _came(self, task: Task | Inquiry, result: SendResult | None) -> None:
        if isinstance(task, Task) and result is not None:
            # Before the slot is free: its next e-mail must not go to a vendor that just failed.
            email_id = str(task.stored.id)
            self._routing.report(task.permit, task.snapshot, result, email_id)
        self._bulkheads.given_back(task.vendor)
        self._senders.done()
        self.inbox.put(self._result(task, result))

    def overdue(self) -> list[Call[Task | Inquiry]]:
        """The calls that did not come back at their deadline: hand each to ``give_up``.

        The time that they are given beyond it is part of what is there to record a result.
        """
        return self._bulkheads.overdue(min(1.0, self._config.delivery.settle_timeout / 10))

    def give_up(self, call: Call[Task | Inquiry]) -> None:
        """Settle what a vendor was given in time; its thread goes on, but is no sender any more."""
        task = call.what
        facts = {"id": str(task.stored.id), "vendor": task.vendor}
        event(logger, logging.ERROR, "vendor.overdue", **facts)
        self._came(task, OVERDUE if isinstance(task, Task) else None)

    def _came_late(self, task: Task | Inquiry, result: SendResult | None) -> None:
        """What was given up was answered after all. A yes counts all the same."""
        if not isinstance(task, Task) or result is None or result.outcome is not Outcome.ACCEPTED:
            return
        token = task.stored.token + 1
        try:
            seconds = self._config.delivery.settle_timeout
            self._store.late_yes(task.stored.id, token, task.vendor, result, seconds)
        except StoreUnavailable:
            event(logger, logging.ERROR, "results.not_recorded")

    def _may_begin(self, task: Task) -> bool:
        """Not when we stop, nor too late, nor through a vendor that failed since the claim."""
        if self.stopping.is_set() or self._clock() >= task.deadline:
            return False
        return not self._routing.health.suspended_since(task.permit)

    def _send(self, task: Task, vendors: Mapping[str, Vendor]) -> SendResult:
        attempt = Attempt(
            email_id=str(task.stored.id),
            message_id=task.stored.document["message_id"],
            date=task.stored.date,
            key=task.attempt.key,
            recipients=task.snapshot.pending,
            deadline=task.deadline,
        )
        try:
            vendor = vendors[task.vendor]
        except BaseException as error:  # noqa: BLE001  # this thread's own could not be made
            _say_raised(attempt.email_id, task.vendor, error)
            return SendResult(outcome=Outcome.UNAVAILABLE, code="not_made", answered=False)
        try:
            if self._meter is None:
                answer = vendor.send(task.email, attempt)
            else:
                answer = self._meter.timed(lambda: vendor.send(task.email, attempt))
        except BaseException as error:  # noqa: BLE001  # whatever a vendor's class raises: not known
            _say_raised(attempt.email_id, task.vendor, error)
            return answers.from_exception(error)
        answer = answers.sanitize(answer, task.email, vendor)
        return self._routing.resolve_replay(task.snapshot, task.vendor, attempt.email_id, answer)

    def _ask(
        self, inquiry: Inquiry, vendors: Mapping[str, Vendor], deadline: float
    ) -> SendResult | None:
        """Ask the vendor of an unknown outcome. None proves nothing."""
        attempt = Attempt(
            email_id=str(inquiry.stored.id),
            message_id=inquiry.stored.document["message_id"],
            date=inquiry.stored.date,
            deadline=deadline,
        )
        try:
            vendor = vendors[inquiry.vendor]
            answer = vendor.lookup(inquiry.email, attempt) if vendor.lookup is not None else None
        except BaseException as error:  # noqa: BLE001  # the e-mail is not to wait for a question
            _say_raised(attempt.email_id, inquiry.vendor, error)
            return None
        found = answers.sanitize(answer, inquiry.email, vendor)
        return found if found.outcome is Outcome.ACCEPTED else None

    # Writing -----------------------------------------------------------------------------------

    def turn(self, seconds: float) -> bool:
        """Record what was sent and claim what is next, in one write; False: no more comes.

        Raises ``StoreUnavailable`` after ``seconds``; the results are kept for the next turn.
        """
        self._take_back()
        results = self._gather()
        try:
            settled = [
                each.ending or self._settled(each.task, each.result)
                for each in results
                if isinstance(each.task, Task)
            ]
            taken = self.taker.take()
            lost, again = self._record([*settled, *taken.endings], taken, seconds)
            if again:
                self.taker.waiting.extend(self.taker.look_again(again))
            for each in results:
                self._follow_up(each, lost, seconds)
        except StoreUnavailable:
            for each in results:
                self.inbox.put(each)
            raise
        return not (self._ending and self.inbox.empty() and not self.taker.waiting)

    def _take_back(self) -> None:
        """Give back what was claimed ahead of senders, or of vendors, that did not come free."""
        patience = 0.0 if self.stopping.is_set() else PATIENCE
        self._give_back(self._bulkheads.take_back(patience))
        if self._clock() - self._taken_at > patience:
            with self._handing_out, suppress(queue.Empty):
                while not self._no_more and (task := self.tasks.get_nowait()) is not None:
                    self._senders.give_back(1)
                    self._bulkheads.given_back(task.vendor)
                    self._give_back([task])

    def _gather(self) -> list[Result]:
        """What came meanwhile; where more will come in a moment, that too."""
        wait = None if self._bulkheads.idle and not self.taker.waiting else PATIENCE
        if self._ending or (self.taker.waiting and self._senders.free):
            wait = bulkheads.EVERY if self.taker.held_up and not self._ending else 0.0
        results: list[Result] = []
        with suppress(queue.Empty):
            self._sort(self.inbox.get(timeout=wait), results)
            if self._senders.expects(1 + self.inbox.qsize()):
                time.sleep(GATHER)
            while len(results) < BATCH:
                self._sort(self.inbox.get_nowait(), results)
        return results

    def _sort(self, came: list[Waiting] | Result | None, results: list[Result]) -> None:
        if came is None:
            self._ending = True
        elif isinstance(came, list):
            self.taker.waiting.extend(came)
        else:
            results.append(came)

    def _record(
        self, endings: Sequence[Ending], taken: Batch, seconds: float
    ) -> tuple[set[ObjectId], list[Waiting]]:
        """Write, hand out what was won, end the jobs; returns what was lost to another worker."""
        changes = [ending.change for ending in endings if ending.change is not None]
        written, won = self._write(changes, taken, seconds)
        lost = {change.id for change in changes} - written
        ready, again = self.taker.claimed(taken, won, lost)
        self._hand_out(ready)
        conclude(endings, written)
        return lost, again

    def _write(
        self, changes: Sequence[Change | Aside], taken: Batch, seconds: float
    ) -> tuple[set[ObjectId], set[ObjectId]]:
        """The one durable write of a turn; returns the ids of changes written, of claims won."""
        if not changes and not taken.tasks:
            return set(), set()
        began = self._clock()
        try:
            lease = Lease(owner=self._owner, nonce=taken.nonce, seconds=self._config.delivery.lease)
            written = self._store.write(changes, taken.claims, lease=lease, seconds=seconds)
        except StoreUnavailable:
            self._give_back(taken.tasks.values())  # they may be claimed all the same
            self.taker.failed(taken)
            raise
        self._senders.wrote(self._clock() - began)
        return written

    def _hand_out(self, ready: Sequence[Task | Inquiry]) -> None:
        """To the senders, unless they have been told that no more comes."""
        with self._handing_out:
            if not self._no_more:
                if self.tasks.empty():
                    self._taken_at = self._clock()  # nobody waits for longer than from now on
                for task in ready:
                    self.tasks.put(task)
                return
        self._give_back(ready)

    def _give_back(self, tasks: Iterable[Task | Inquiry]) -> None:
        """Have claims of which nothing was sent undone, and leave questions to others."""
        for task in tasks:
            if isinstance(task, Task):
                self.inbox.put(self._result(task, None))
            else:
                conclude([Ending(job=task.job, priority=job_priority(task.stored), delay=0.0)])

    def end_sending(self, senders: int) -> None:
        """Tell so many senders that no more comes."""
        with self._handing_out:
            self._no_more = True
        for _ in range(senders):
            self.tasks.put(None)

    def end(self) -> None:
        """Give back what no sender has begun, and let ``turn`` come to its end."""
        self._give_back(self._bulkheads.take_back(0.0))
        while not self.tasks.empty():
            task = self.tasks.get()
            if task is not None:
                self._give_back([task])
        self.inbox.put(None)

    def _follow_up(self, each: Result, lost: Collection[ObjectId], seconds: float) -> None:
        if isinstance(each.task, Inquiry):
            self._answered(each.task, each.result, seconds)
        elif each.task.stored.id in lost:
            self._lease_lost(each.task, each.result, seconds)

    def _answered(self, inquiry: Inquiry, found: SendResult | None, seconds: float) -> None:
        """The vendor knows the e-mail: a late yes. It does not: it may be sent again."""
        if found is not None:
            self._store.late_yes(inquiry.stored.id, inquiry.token, inquiry.vendor, found, seconds)
        else:
            self._store.looked_up(inquiry.stored.id, inquiry.token)
        conclude([Ending(job=inquiry.job, priority=job_priority(inquiry.stored), delay=0.0)])

    def _result(self, task: Task | Inquiry, result: SendResult | None) -> Result:
        """With its end, unless MongoDB must be asked for that, and is away."""
        ending = None
        if isinstance(task, Task):
            with suppress(StoreUnavailable):
                ending = self._settled(task, result)
        return Result(task, result, ending)

    def _settled(self, task: Task, result: SendResult | None) -> Ending:
        if result is None:
            self._routing.give_back(task.permit)
            decision = decide.requeue_unsent(task.snapshot)
        else:
            decision = self._decided(task, result)
        change = Change(
            id=task.stored.id,
            token=task.stored.token + 1,
            nonce=task.nonce,
            decision=decision,
            result=result,
            vendor=task.vendor,
        )
        return Ending.of(task.job, decision, change)

    def _decided(self, task: Task, result: SendResult) -> Decision:
        """What follows; where a bug of ours says nothing, what is surely right."""
        try:
            return self._routing.decide(task.snapshot, task.attempt, result, task.carriers)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # what left our hands must be recorded
            facts = {"id": str(task.stored.id), "error": type(error).__name__, "at": place(error)}
            event(logger, logging.ERROR, "email.not_decided", **facts)
            return decide.fallback(task.snapshot, result)

    def _lease_lost(self, task: Task, result: SendResult | None, seconds: float) -> None:
        """Another worker owns the e-mail by now. A yes counts all the same."""
        facts = {"id": str(task.stored.id), "vendor": task.vendor}
        event(logger, logging.WARNING, "lease.lost", **facts)
        if result is not None and result.outcome is Outcome.ACCEPTED:
            token = task.stored.token + 1
            self._store.late_yes(task.stored.id, token, task.vendor, result, seconds)
        conclude([Ending(job=task.job, priority=job_priority(task.stored), delay=1.0)])


def _say_raised(email_id: str, vendor: str | None, error: BaseException) -> None:
    facts = {"id": email_id, "vendor": vendor, "error": type(error).__name__}
    event(logger, logging.ERROR, "vendor.raised", **facts)
