"""The fetchers: reserve jobs, read their e-mails, plan. A thread for each receiver.

Decides: which jobs this process holds. They are read and planned ahead of their claim, so that a
sender that comes free has not to wait for that.

Assumes: a job is only a hint; MongoDB's guards decide who owns an e-mail. Where there is a
suppression list, it is asked once for the recipients of all e-mails that are read together.

Promises: no more jobs are reserved than ``Slots`` has room for; none is read for which there is no
memory (``memory``). One that waits for memory for more than five seconds goes back to the tube,
where another process may be free. The writer calls ``read``, ``put_back`` and ``drop``, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from mailqueue.consumer.delivery import Delivery, Finish, Send, end_jobs
from mailqueue.consumer.memory import Memory
from mailqueue.consumer.shared import Shared
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import NORMAL
from mailqueue.queue.broker import BURIED, Holder, Job, Receiver, release_end
from mailqueue.store import suppressions
from mailqueue.store.document import Stored

# Seconds
RESERVE_TIMEOUT = 1
LEAST_LOOK = 0.002
IDLE_LOOK = 0.1  # between two looks whether a vendor may be asked again
LARGE_PATIENCE = 5.0  # how long a job is kept whose e-mail waits for memory
LARGE_LOOK = 0.02  # between two looks for that memory

BATCH = 256  # jobs reserved together, or results written together
NOT_NEEDED = ("content_hash", "updated_at", "overdue_at")  # for sending


class Fetcher:
    """Puts planned deliveries into the writer's inbox; keeps those too large for the memory now."""

    def __init__(self, shared: Shared) -> None:
        self._shared, self._store, self._slots = shared, shared.store, shared.slots
        self._inbox, self._stopping, self._clock = shared.inbox, shared.stopping, shared.clock
        self._memory = Memory(shared.rules.config.consumer.max_memory)
        self._most_large = shared.rules.config.consumer.concurrency
        self._large: deque[Delivery] = deque()  # read without content, until there is memory for it

    def fetch(self, receiver: Receiver) -> bool:
        """Reserve jobs and plan them; False: there was nothing to do.

        Raises ``QueueUnavailable`` and ``StoreUnavailable``; the jobs are back on the tube then.
        """
        wait, most = self._shared.router.intake()
        if not most:
            # A probe may be answered at once.
            self._stopping.wait(min(max(wait, LEAST_LOOK), IDLE_LOOK))
            return False
        self.read_large()
        room = self._slots.room(LARGE_LOOK if self._large else 1.0)
        if not room or self._stopping.is_set():
            return False
        # What no vendor could take now stays there.
        limit = int(min(room, BATCH, most))
        limits, began = self._shared.router.limits, self._clock()
        jobs = receiver.reserve(0, limit)
        limits.hungry = len(jobs) == limit
        if not jobs and not self._large:
            jobs = receiver.reserve(RESERVE_TIMEOUT)
        if jobs:
            self._slots.reserve(len(jobs))
            self._inbox.put(self.read([Delivery(job, self._clock()) for job in jobs]))
            if limits.hungry:
                limits.fetch_took(self._clock() - began)
            self.read_large()
        elif self._large:
            self._stopping.wait(LARGE_LOOK)
        return bool(jobs)

    def read(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Read their e-mails (again) and plan; returns those for which there is memory now.

        Raises ``StoreUnavailable``; the jobs are back on the tube then.
        """
        ids = [each.job.email_id for each in deliveries if each.job.email_id is not None]
        most = self._memory.share(len(ids))
        self._load(deliveries, most)
        large = [each for each in deliveries if each.stored and each.stored.size > most]
        small = [each for each in deliveries if each not in large] if large else deliveries
        for each in small:
            each.memory = self._memory.hold_small(each.stored.size) if each.stored else None
        self._plan(small)
        self._postpone(large)
        return small

    def _load(self, deliveries: Sequence[Delivery], most: int | None = None) -> None:
        """Read their e-mails, for a plan from the start; above ``most`` bytes without content."""
        ids = [each.job.email_id for each in deliveries if each.job.email_id is not None]
        try:
            documents = self._store.read(ids, NOT_NEEDED, most)
            suppressed = self._find_suppressed(documents.values())
        except StoreUnavailable:
            self.drop(deliveries)
            raise
        for each in deliveries:
            each.stored = documents.get(each.job.email_id) if each.job.email_id else None
            each.suppressed = suppressed
            each.memory = each.plan = each.finish = None

    def _find_suppressed(self, emails: Collection[Stored]) -> Collection[str]:
        """The entries of the suppression list that concern any of these e-mails."""
        if (entries := self._shared.rules.suppressions) is None:
            return ()
        keys = suppressions.keys_of([stored.document for stored in emails])
        now = next((stored.now for stored in emails), None)
        return entries.find(keys, now) if keys and now is not None else ()

    def _plan(self, deliveries: Sequence[Delivery]) -> None:
        """Give each its plan; what takes no write in this process is left to a person."""
        self._shared.router.refresh_limits()
        for each in deliveries:
            each.plan = self._shared.planner.plan(each)
            if self._store.unwritable and each.job.email_id in self._store.unwritable:
                self.give_back_permits([each])
                each.plan = Finish(BURIED)  # released, it would come again and again

    # Large e-mails -----------------------------------------------------------------------------

    def _postpone(self, large: Sequence[Delivery]) -> None:
        """They wait for memory, and take no sender's slot meanwhile."""
        for each in large:
            if len(self._large) < self._most_large:
                self._large.append(each)
                self._slots.reserve(-1)
            else:
                self.put_back([each], self._shared.router.bulkheads.delay())

    def read_large(self) -> None:
        """Read those for which there is memory now; those that wait for long go back."""
        with suppress(IndexError):  # no more, or another thread was faster
            while True:
                each = self._large.popleft()
                self._slots.reserve(1)
                memory = self._memory.hold_large(each.stored.size if each.stored else 0)
                if memory is not None:
                    self._load([each])
                    each.memory = memory
                    self._plan([each])
                    self._inbox.put([each])
                elif each.fetched_at < self._clock() - LARGE_PATIENCE:
                    self.put_back([each], self._shared.router.bulkheads.delay())
                else:
                    self._slots.reserve(-1)
                    self._large.appendleft(each)
                    return

    def stop(self) -> None:
        """Put back what still waits for memory."""
        with suppress(IndexError):
            while True:
                each = self._large.popleft()
                self._slots.reserve(1)
                self.put_back([each])

    # Giving back -------------------------------------------------------------------------------

    def put_back(
        self, deliveries: Collection[Delivery], delay: float = 0.0, *, bury: bool = False
    ) -> None:
        """Leave the jobs to other processes, or to a person."""
        for each in deliveries:
            priority = each.stored.job_priority if each.stored else NORMAL
            each.finish = Finish(BURIED if bury else release_end(priority, delay))
        self.give_back_permits(deliveries)
        end_jobs(deliveries)
        self._slots.reserve(-len(deliveries))

    def drop(self, deliveries: Collection[Delivery]) -> None:
        """Have the queue take the jobs back, with their priorities."""
        jobs: dict[Holder, list[Job]] = {}
        for each in deliveries:
            jobs.setdefault(each.job.holder, []).append(each.job)
        for holder, held in jobs.items():
            holder.give_back(held)
        self.give_back_permits(deliveries)
        self._slots.reserve(-len(deliveries))

    def give_back_permits(self, deliveries: Iterable[Delivery]) -> None:
        """They are not sent now: where one had a probe, another e-mail may probe."""
        for each in deliveries:
            if isinstance(send := each.plan, Send):
                send.router.give_back(send.permit)
