"""Taking e-mails: reserve their jobs, read them, choose vendors for those that can be claimed.

Decides: which jobs this process holds. ``fetch`` (a thread per beanstalkd server) reserves jobs and
reads their e-mails ahead of their claim, so that a sender that comes free has not to wait for that;
``look`` chooses vendors for as many as can be sent.

Assumes: a job is only a hint; MongoDB's guards decide who owns an e-mail. ``look`` and what follows
it are called by one thread.

Promises: no more e-mails are claimed than there are free senders, but for the few that ``senders``
allows ahead; a job that waits for a sender for more than a second goes back to the tube, where
another process may be free.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from bson import ObjectId

from mailqueue.config import Config
from mailqueue.document import Stored
from mailqueue.errors import StoreUnavailable
from mailqueue.record import NORMAL, SendResult
from mailqueue.routing import Routing
from mailqueue.senders import Senders
from mailqueue.store import Store
from mailqueue.transitions import Claim
from mailqueue.triage import Ending, Inquiry, Taking, Task, Triage, conclude, job_priority
from mailqueue.tube import Job, Tube

RESERVE_TIMEOUT = 1
PATIENCE = 1.0
BATCH = 256
CLAIM_TRIES = 3

Result = tuple[Task | Inquiry, SendResult | None]


@dataclass(slots=True)
class Waiting:
    """A job that waits for its claim, its e-mail as it was read (None: there is none)."""

    job: Job
    stored: Stored | None
    since: float
    tries: int = 0


@dataclass(slots=True)
class Looked:
    """What a look at waiting jobs came to; ``number`` senders were taken for it."""

    number: int
    taking: Taking
    waiting: list[Waiting] = field(default_factory=list)
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


class Taker:
    """Puts jobs with their e-mails into ``inbox``, and looks at those that wait."""

    def __init__(
        self,
        config: Config,
        store: Store,
        routing: Routing,
        senders: Senders,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._routing = routing
        self._triage = Triage(store.env, config.delivery, routing)
        self._senders = senders
        self._clock = clock
        self.stopping = threading.Event()
        self.inbox: queue.SimpleQueue[list[Waiting] | Result | None] = queue.SimpleQueue()
        self.waiting: deque[Waiting] = deque()

    # In a thread for each server ---------------------------------------------------------------

    def fetch(self, tube: Tube) -> bool:
        """Reserve jobs for the senders and read their e-mails; False: there was nothing to do.

        Raises ``QueueUnavailable`` and ``StoreUnavailable``; the jobs are back on the tube then.
        """
        idle_for = self._routing.idle_for()
        if idle_for:
            self.stopping.wait(min(idle_for, 1.0))
            return False
        room = self._senders.room(1.0)
        if not room or self.stopping.is_set():
            return False
        # Who probes takes one job, and leaves the others where they are.
        jobs = tube.reserve(0, min(room, BATCH) if idle_for is None else 1)
        if not jobs:
            jobs = tube.reserve(RESERVE_TIMEOUT)
        if jobs:
            self._senders.reserved(len(jobs))
            self.inbox.put(self._read([Waiting(job, None, self._clock()) for job in jobs]))
        return bool(jobs)

    def _read(self, waiting: list[Waiting]) -> list[Waiting]:
        """Read their e-mails (again)."""
        ids = [each.job.email_id for each in waiting if each.job.email_id is not None]
        try:
            stored = self._store.read(ids)
        except StoreUnavailable:
            self._drop(waiting)
            raise
        for each in waiting:
            each.stored = stored.get(each.job.email_id) if each.job.email_id else None
        return waiting

    # In the thread that writes -----------------------------------------------------------------

    def look(self) -> Looked:
        """Choose vendors for the jobs that wait, as far as senders are free."""
        if self.stopping.is_set():
            self._put_back(self.waiting)
            self.waiting.clear()
        looked = Looked(self._senders.take(len(self.waiting)), Taking(self._clock(), ObjectId()))
        looked.waiting = [self.waiting.popleft() for _ in range(looked.number)]
        stored = {each.stored.id: each.stored for each in looked.waiting if each.stored}
        try:
            for each in looked.waiting:
                seen = self._triage.look(each.job, stored, looked.tasks, looked.taking)
                looked.add(seen)
        except StoreUnavailable:
            self.failed(looked)
            raise
        self._lose_patience()
        return looked

    def _lose_patience(self) -> None:
        long_ago = self._clock() - PATIENCE
        if self.waiting and self.waiting[0].since < long_ago:
            late = [each for each in self.waiting if each.since < long_ago]
            self.waiting = deque(each for each in self.waiting if each.since >= long_ago)
            self._put_back(late)

    def claimed(
        self, looked: Looked, won: Collection[ObjectId], lost: Collection[ObjectId]
    ) -> tuple[list[Task | Inquiry], list[Waiting]]:
        """What may be sent now, and what another worker was faster at."""
        mine = [task for email_id, task in looked.tasks.items() if email_id in won]
        missed = [task for email_id, task in looked.tasks.items() if email_id not in won]
        self._give_back_probes(missed)
        jobs = {task.job for task in missed}
        jobs |= {e.job for e in looked.endings if e.change is not None and e.change.id in lost}
        ready: list[Task | Inquiry] = [*mine, *looked.inquiries]
        again = [each for each in looked.waiting if each.job in jobs]
        self._senders.give_back(looked.number - len(ready), looked.number - len(again))
        return ready, again

    def read_again(self, lost: Sequence[Waiting]) -> list[Waiting]:
        """Read what was lost, to look at it again; the third time it is left for a second.

        Raises ``StoreUnavailable``; the jobs are back on the tube then.
        """
        for each in lost:
            each.tries += 1
        self._put_back([each for each in lost if each.tries >= CLAIM_TRIES], 1.0)
        again = [each for each in lost if each.tries < CLAIM_TRIES]
        return self._read(again) if again else []

    def failed(self, looked: Looked) -> None:
        """Nothing is known of these claims; the jobs go back to the tube."""
        self._give_back_probes(looked.tasks.values())
        self._senders.give_back(looked.number, 0)
        self._drop(looked.waiting)

    def _put_back(self, waiting: Iterable[Waiting], delay: float = 0.0) -> None:
        """Let others have the jobs."""
        endings = [
            Ending(
                job=each.job,
                priority=job_priority(each.stored) if each.stored else NORMAL,
                delay=delay,
            )
            for each in waiting
        ]
        conclude(endings)
        self._senders.give_back(0, len(endings))

    def _drop(self, waiting: Sequence[Waiting]) -> None:
        """End the connections: the server takes the jobs back with their priorities."""
        for connection in {each.job.connection for each in waiting}:
            connection.close()
        self._senders.give_back(0, len(waiting))

    def _give_back_probes(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if task.probe is not None:
                self._routing.hear(task.record, None, task.generation, task.probe)
