"""Taking e-mails: reserve their jobs, read them, choose vendors, claim what can be sent.

Decides: which jobs this process holds. ``fetch`` (a thread per beanstalkd server) reserves jobs,
reads their e-mails and chooses vendors ahead of their claim, so that a sender that comes free has
not to wait for that; ``take`` says which are to be claimed now.

Assumes: a job is only a hint; MongoDB's guards decide who owns an e-mail. ``take`` and what follows
it are called by one thread.

Promises: no more e-mails are claimed than there are free senders, but for the few that ``senders``
allows ahead and those that are parked (``bulkheads``); none is read for which there is no memory
(``memory``). A job that waits for a sender for more than a second, or for memory for more than
five, goes back to the tube, where another process may be free.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bson import ObjectId

from mailqueue.config import Config
from mailqueue.consumer.memory import Memory
from mailqueue.consumer.planner import (
    Ending,
    Inquiry,
    Planner,
    Task,
    Waiting,
    conclude,
    job_priority,
)
from mailqueue.consumer.slots import Slots
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import NORMAL, SendResult
from mailqueue.queue.tube import Tube
from mailqueue.routing import bulkheads
from mailqueue.routing.bulkheads import Bulkheads
from mailqueue.routing.router import Router
from mailqueue.store import ids
from mailqueue.store.store import Store
from mailqueue.store.transitions import Aside, Claim

RESERVE_TIMEOUT = 1
LOOKED_AFTER = 0.1
PATIENCE = 1.0
LARGE_PATIENCE = 5.0
SOON = 0.02
BATCH = 256
CLAIM_TRIES = 3
NOT_NEEDED = ("content_hash", "updated_at", "overdue_at")  # for sending


@dataclass(frozen=True, slots=True)
class Result:
    """What a sender came to (None: nothing was sent, or the vendor does not know), and its end."""

    task: Task | Inquiry
    result: SendResult | None
    ending: Ending | None


@dataclass(slots=True)
class Batch:
    """Jobs whose turn it is, ``number`` senders taken for them, and the nonce of their claims."""

    number: int
    waiting: Sequence[Waiting]
    nonce: ObjectId = field(default_factory=ids.new)
    tasks: dict[ObjectId, Task] = field(default_factory=dict)
    inquiries: list[Inquiry] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    def add(self, seen: Task | Inquiry | Ending | None) -> None:
        """One more."""
        if isinstance(seen, Task):
            self.tasks[seen.stored.id] = seen
        elif isinstance(seen, Inquiry):
            self.inquiries.append(seen)
        elif seen is not None:
            self.endings.append(seen)

    @property
    def claims(self) -> list[Claim]:
        """The intents to be written."""
        return [task.claim for task in self.tasks.values()]


class Fetcher:
    """Puts jobs with what is to be done into ``inbox``, and takes from those that wait."""

    def __init__(
        self,
        config: Config,
        store: Store,
        routing: Router,
        senders: Slots,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._routing = routing
        self._triage = Planner(store.env, config.delivery, routing)
        self._senders = senders
        self._bulkheads: Bulkheads[Task | Inquiry] = routing.bulkheads
        self._deadline = config.delivery.deadline
        self._clock = clock
        self.stopping = threading.Event()
        self.inbox: queue.SimpleQueue[list[Waiting] | Result | None] = queue.SimpleQueue()
        self.waiting: deque[Waiting] = deque()
        self._memory = Memory(config.consumer.max_memory)
        self._most_large = config.consumer.concurrency
        self._large: deque[Waiting] = deque()  # read without content, until there is memory for it
        self.held_up = False  # some wait though senders are free: for their vendor

    # In a thread for each server ---------------------------------------------------------------

    def fetch(self, tube: Tube) -> bool:
        """Reserve jobs for the senders and read their e-mails; False: there was nothing to do.

        Raises ``QueueUnavailable`` and ``StoreUnavailable``; the jobs are back on the tube then.
        """
        idle_for = self._routing.idle_for()
        if idle_for:
            self.stopping.wait(min(idle_for, LOOKED_AFTER))  # a probe may be answered at once
            return False
        self._read_large()
        room = self._senders.room(SOON if self._large else 1.0)
        if not room or self.stopping.is_set():
            return False
        # Who probes takes one job, and leaves the others where they are.
        jobs = tube.reserve(0, min(room, BATCH) if idle_for is None else 1)
        if not jobs and not self._large:
            jobs = tube.reserve(RESERVE_TIMEOUT)
        if jobs:
            self._senders.reserved(len(jobs))
            self.inbox.put(self._look([Waiting(job, self._clock()) for job in jobs]))
            self._read_large()
        elif self._large:
            self.stopping.wait(SOON)
        return bool(jobs)

    def _look(self, waiting: list[Waiting]) -> list[Waiting]:
        """Read their e-mails (again), and see what is to be done; leave the large for later."""
        ids = [each.job.email_id for each in waiting if each.job.email_id is not None]
        most = self._memory.share(len(ids))
        try:
            stored = self._store.read(ids, NOT_NEEDED, most)
            for each in waiting:
                each.seen = each.held = None
                each.stored = stored.get(each.job.email_id) if each.job.email_id else None
            large = [each for each in waiting if each.stored and each.stored.size > most]
            small = [each for each in waiting if each not in large] if large else waiting
            for each in small:
                if each.stored is not None:
                    each.held = self._memory.hold(each.stored.size)
            self._see(small)
        except StoreUnavailable:
            self._drop(waiting)
            self._senders.reserved(-len(waiting))
            raise
        self._postpone(large)
        return small

    def _see(self, waiting: list[Waiting]) -> None:
        self._routing.look_around()
        self._triage.look(waiting)
        if self._store.unwritable:
            self._bury_unwritable(waiting)

    def _postpone(self, large: Iterable[Waiting]) -> None:
        """They wait for memory, and take no sender's place meanwhile."""
        for each in large:
            if len(self._large) < self._most_large:
                self._large.append(each)
                self._senders.reserved(-1)
            else:
                self._put_back([each], self._bulkheads.wait())

    def _read_large(self) -> None:
        """Read those for which there is memory now; those that wait for long go back."""
        with suppress(IndexError):  # no more, or another thread was faster
            while True:
                each = self._large.popleft()
                self._senders.reserved(1)
                each.held = self._memory.take(each.stored.size if each.stored else 0)
                if each.held is not None:
                    self.inbox.put(self._read_alone(each))
                elif each.since < self._clock() - LARGE_PATIENCE:
                    self._put_back([each], self._bulkheads.wait())
                else:
                    self._senders.reserved(-1)
                    self._large.appendleft(each)
                    return

    def _read_alone(self, each: Waiting) -> list[Waiting]:
        ids = [each.job.email_id] if each.job.email_id else []
        try:
            each.stored = next(iter(self._store.read(ids, NOT_NEEDED).values()), None)
            self._see([each])
        except StoreUnavailable:
            self._drop([each])
            self._senders.reserved(-1)
            raise
        return [each]

    def _bury_unwritable(self, waiting: Iterable[Waiting]) -> None:
        """A job whose e-mail takes no write would come again and again."""
        for each in waiting:
            if each.job.email_id in self._store.unwritable:
                self._give_back_probes([each])
                each.seen = Ending(job=each.job, bury=True)

    # In the thread that writes -----------------------------------------------------------------

    def take(self) -> Batch:
        """As many of the jobs that wait as senders are free for."""
        if self.stopping.is_set():
            self._senders.reserved(len(self._large))
            self._put_back([*self.waiting, *self._large])
            self.waiting.clear()
            self._large.clear()
        number = self._senders.take(len(self.waiting))
        taken = Batch(number, [self.waiting.popleft() for _ in range(number)])
        try:
            if number:
                self._routing.look_around()
                self._claim(taken)
        except StoreUnavailable:
            self.failed(taken)
            raise
        self._lose_patience()
        return taken

    def _claim(self, taken: Batch) -> None:
        """Say what is to be claimed; what finds its vendor full waits on."""
        deadline = self._clock() + self._deadline
        kept: list[Waiting] = []
        for each in taken.waiting:
            self._renew(each, taken.tasks)
            task = each.seen
            if (
                isinstance(task, Task)
                and task.permit.probe is None
                and self._bulkheads.full(task.vendor)
            ):
                kept.append(each)
                continue
            taken.add(task)
            if isinstance(task, (Task, Inquiry)):
                self._bulkheads.taken(task.vendor)
            if isinstance(task, Task):
                task.nonce, task.deadline = taken.nonce, deadline
        self.held_up = bool(kept)
        if kept:
            taken.waiting = [each for each in taken.waiting if each not in kept]
            taken.number -= len(kept)
            self._senders.leave(len(kept))
            self.waiting.extendleft(reversed(kept))

    def _renew(self, each: Waiting, tasks: Collection[ObjectId]) -> None:
        """Look again where it was chosen what cannot, or should not, be done any more."""
        task, stored = each.seen, each.stored
        if stored is None or not isinstance(task, (Task, Inquiry)):
            return
        if isinstance(task, Inquiry):
            if self._bulkheads.full(task.vendor):
                each.seen = self._triage.later(each.job, stored)
            return
        anew = self._routing.health.suspended_since(task.permit)
        crowded = task.permit.probe is None and self._bulkheads.crowded(task.vendor)
        now = self._clock()
        if crowded and now - each.looked_at >= bulkheads.EVERY:  # what waits is not chosen all over
            each.looked_at = now
            anew = True
        if anew or stored.id in tasks:
            self._give_back_probes([each])
            self._triage.choose_again(each, tasks)

    def _lose_patience(self) -> None:
        long_ago = self._clock() - PATIENCE
        if self.waiting and self.waiting[0].since < long_ago:
            late = [each for each in self.waiting if each.since < long_ago]
            self.waiting = deque(each for each in self.waiting if each.since >= long_ago)
            self._put_back(late)

    def claimed(
        self, taken: Batch, won: Collection[ObjectId], lost: Collection[ObjectId]
    ) -> tuple[list[Task | Inquiry], list[Waiting]]:
        """What may be sent now, and what another worker was faster at."""
        mine = [task for email_id, task in taken.tasks.items() if email_id in won]
        missed = [task for email_id, task in taken.tasks.items() if email_id not in won]
        jobs = {e.job for e in taken.endings if e.change is not None and e.change.id in lost}
        jobs |= {task.job for task in missed}
        for task in missed:
            self._bulkheads.given_back(task.vendor)
        ready: list[Task | Inquiry] = [*mine, *taken.inquiries]
        again = [each for each in taken.waiting if each.job in jobs]
        self._give_back_probes(again)
        self._senders.reserved(len(again))
        self._senders.give_back(taken.number - len(ready))
        return ready, again

    def look_again(self, lost: Sequence[Waiting]) -> list[Waiting]:
        """Look at what was lost again; the third time it is left for a second.

        Raises ``StoreUnavailable``; the jobs are back on the tube then.
        """
        for each in lost:
            each.tries += 1
        self._put_back([each for each in lost if each.tries >= CLAIM_TRIES], 1.0)
        again = [each for each in lost if each.tries < CLAIM_TRIES]
        return self._look(again) if again else []

    def failed(self, taken: Batch) -> None:
        """Nothing is known of these claims; the jobs go back to the tube."""
        self._drop(taken.waiting)
        self._senders.give_back(taken.number)
        for each in (taken.tasks.values(), taken.inquiries):
            for task in each:
                self._bulkheads.given_back(task.vendor)

    def _put_back(self, waiting: Collection[Waiting], delay: float = 0.0) -> None:
        """Let others have the jobs, but for those that can end without a write."""
        conclude([_end_of(each) or _released(each, delay) for each in waiting])
        self._give_back_probes(waiting)
        self._senders.reserved(-len(waiting))

    def _drop(self, waiting: Sequence[Waiting]) -> None:
        """End the connections: the server takes the jobs back with their priorities."""
        for connection in {each.job.connection for each in waiting}:
            connection.close()
        self._give_back_probes(waiting)

    def _give_back_probes(self, waiting: Iterable[Waiting]) -> None:
        for each in waiting:
            if isinstance(task := each.seen, Task):
                self._routing.give_back(task.permit)


def _end_of(each: Waiting) -> Ending | None:
    """What is to become of the job, where nothing has to be written first."""
    known = each.seen
    if not isinstance(known, Ending):
        return None
    if isinstance(known.change, Aside) and each.tries >= CLAIM_TRIES:
        return Ending(job=each.job, bury=True)  # it cannot even be said what is to be guarded
    return known if known.change is None else None


def _released(each: Waiting, delay: float) -> Ending:
    priority = job_priority(each.stored) if each.stored else NORMAL
    return Ending(job=each.job, priority=priority, delay=delay)
