"""One job, from reserve to delete.

Everyone should be able to recite it::

    reserve → read, choose vendor → claim (intent and lease, one durable write)
    → vendor.send under the deadline → health hears the outcome → decide
    → settle (one durable write guarded by the token) → delete or release the job

Three roles do this, each in threads of its own (``consumer`` starts them). The *taker* (one per
beanstalkd server) reserves and claims as many e-mails as there are free senders; the *senders*
each send one; the *settler* records what came of them. A taker and the settler handle in one
write whatever has gathered while their last write was under way: durable writes of concurrent
e-mails are merged, and a lone e-mail waits for nobody.

Assumes: a job is only a hint; MongoDB's guards decide who owns an e-mail.

Promises: nothing is sent without a recorded claim; a job is deleted only after the e-mail's end is
stored; a yes is recorded even when the lease is lost; an e-mail whose claim could not be confirmed
is given back unsent.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from bson import ObjectId

from mailqueue import lifecycle
from mailqueue.config import Config
from mailqueue.document import Stored
from mailqueue.errors import StoreUnavailable, Unavailable
from mailqueue.record import Outcome, SendResult
from mailqueue.routing import Routing
from mailqueue.store import Store
from mailqueue.transitions import Change
from mailqueue.triage import Ending, Inquiry, Task, Triage, job_priority, quietly
from mailqueue.tube import Connection, End, Job, Tube
from mailqueue.vendors.base import Attempt, Vendor

logger = logging.getLogger(__name__)

RESERVE_TIMEOUT = 1
BATCH = 256
CLAIM_TRIES = 3
LOOKUP_SECONDS = 10.0

Result = tuple[Task | Inquiry, SendResult | None]


class Worker:
    """The work of one process. ``take``, ``deliver`` and ``settle`` are called by its threads."""

    def __init__(
        self,
        config: Config,
        store: Store,
        routing: Routing,
        *,
        owner: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._store = store
        self._routing = routing
        self._triage = Triage(store.env, config.delivery, routing)
        self._owner = owner
        self._clock = clock
        self._free = threading.Semaphore(config.consumer.concurrency)
        self.stopping = threading.Event()
        self.tasks: queue.SimpleQueue[Task | Inquiry | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()

    # Taking ------------------------------------------------------------------------------------

    def take(self, tube: Tube) -> bool:
        """Reserve and claim what the free senders can take; False: there was nothing to do.

        Raises ``QueueUnavailable`` and ``StoreUnavailable``; the jobs are back on the tube then.
        """
        idle_for = self._routing.idle_for()
        if idle_for:
            self.stopping.wait(min(idle_for, 1.0))
            return False
        if not self._free.acquire(timeout=1.0):
            return True
        held, claimed = 1, 0
        try:
            # The slot may have come free because we stop: then nothing more is reserved.
            if self.stopping.is_set():
                return False
            while idle_for is None and held < BATCH and self._free.acquire(blocking=False):
                held += 1
            jobs = tube.reserve(0, held)
            if not jobs:  # then one slot is enough to wait with: the others serve other tubes
                if held > 1:
                    self._free.release(held - 1)
                held = 1
                jobs = tube.reserve(RESERVE_TIMEOUT)
            claimed = self._take(jobs) if jobs else 0
            return bool(jobs)
        finally:
            if held > claimed:
                self._free.release(held - claimed)

    def _take(self, jobs: list[Job]) -> int:
        """Claim the e-mails of these jobs and hand them to the senders; returns how many."""
        try:
            tasks = self._claimed(jobs)
        except StoreUnavailable:
            jobs[0].connection.close()  # the server takes the jobs back with their priorities
            raise
        for task in tasks:
            self.tasks.put(task)
        return len(tasks)

    def _claimed(self, jobs: list[Job]) -> list[Task | Inquiry]:
        """Claim; what another worker was faster at is looked at again, then left for a second."""
        won: list[Task | Inquiry] = []
        lost: list[tuple[Job, Stored]] = []
        try:
            for _ in range(CLAIM_TRIES):
                tasks, lost = self._claim_once(jobs)
                won += tasks
                jobs = [job for job, _ in lost]
                if not jobs:
                    return won
        except StoreUnavailable:
            self._give_back(won)
            raise
        for job, seen in lost:
            quietly(partial(job.release, job_priority(seen), 1.0))
        return won

    def _claim_once(
        self, jobs: Sequence[Job]
    ) -> tuple[list[Task | Inquiry], list[tuple[Job, Stored]]]:
        """Look at the e-mails and claim those whose turn it is; returns those won, and lost."""
        began = self._clock()
        stored = self._store.read([job.email_id for job in jobs if job.email_id is not None])
        tasks: dict[ObjectId, Task] = {}
        endings: list[Ending] = []
        inquiries: list[Inquiry] = []
        try:
            for job in jobs:
                seen = self._triage.look(job, stored, tasks, began)
                if isinstance(seen, Task):
                    tasks[seen.stored.id] = seen
                elif isinstance(seen, Inquiry):
                    inquiries.append(seen)
                elif seen is not None:
                    endings.append(seen)
            changed = self._conclude(endings)
        except StoreUnavailable:
            self._give_back_probes(tasks.values())
            raise
        won = self._claim(list(tasks.values())) if tasks else []
        mine = {task.stored.id for task in won}
        lost = [task.job for task in tasks.values() if task.stored.id not in mine]
        lost += [ending.job for ending in changed]
        return [*won, *inquiries], [(job, stored[job.email_id]) for job in lost if job.email_id]

    def _claim(self, tasks: Sequence[Task]) -> list[Task]:
        nonce = ObjectId()
        tasks = [replace(task, nonce=nonce) for task in tasks]
        lease = self._config.delivery.lease
        try:
            won = self._store.claim(
                [task.claim for task in tasks], owner=self._owner, nonce=nonce, lease=lease
            )
        except StoreUnavailable:
            self._give_back(tasks)  # they may be claimed all the same
            raise
        self._give_back_probes(task for task in tasks if task.stored.id not in won)
        return [task for task in tasks if task.stored.id in won]

    def _give_back_probes(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if task.probe is not None:
                self._routing.hear(task.record, None, task.generation, task.probe)

    def _give_back(self, tasks: Iterable[Task | Inquiry]) -> None:
        """Let the settler undo claims of which nothing was sent."""
        for task in tasks:
            if isinstance(task, Task):
                self.results.put((task, None))

    def give_back_waiting(self) -> None:
        """Give back what no sender has begun, once no more is claimed."""
        while not self.tasks.empty():
            task = self.tasks.get()
            if task is not None:
                self._give_back([task])

    # Sending -----------------------------------------------------------------------------------

    def deliver(self, vendors: Mapping[str, Vendor]) -> bool:
        """Send the next claimed e-mail through this thread's ``vendors``; False: no more come."""
        task = self.tasks.get()
        if task is None:
            return False
        result: SendResult | None = None
        if isinstance(task, Inquiry):
            result = self._ask(task, vendors[task.vendor])
        elif not self.stopping.is_set() and self._clock() < task.deadline:
            result = self._send(task, vendors[task.record.vendor or ""])
            # Before the slot is free: its next e-mail must not go to a vendor that just failed.
            self._routing.hear(task.record, result, task.generation, task.probe)
        self.results.put((task, result))
        self._free.release()
        return True

    def _send(self, task: Task, vendor: Vendor) -> SendResult:
        attempt = Attempt(
            email_id=str(task.stored.id),
            message_id=task.stored.document["message_id"],
            key=task.record.key,
            recipients=task.record.pending,
            deadline=task.deadline,
        )
        try:
            return lifecycle.believed(task.record, vendor.send(task.email, attempt))
        except Exception as error:  # noqa: BLE001  # a bug of ours or of the user's own vendor: not known
            facts = {"id": attempt.email_id, "vendor": vendor.name, "error": type(error).__name__}
            logger.error("vendor.raised", extra={"facts": facts})
            code = f"raised_{type(error).__name__}"
            return SendResult(outcome=Outcome.UNKNOWN, code=code, answered=False, ours=True)

    def _ask(self, inquiry: Inquiry, vendor: Vendor) -> SendResult | None:
        """Ask the vendor of an unknown outcome. None proves nothing."""
        attempt = Attempt(
            email_id=str(inquiry.stored.id),
            message_id=inquiry.stored.document["message_id"],
            deadline=self._clock() + LOOKUP_SECONDS,
        )
        try:
            found: SendResult | None = vendor.lookup(inquiry.email, attempt)
        except Exception as error:  # noqa: BLE001  # the e-mail is not to wait for a question
            facts = {"id": attempt.email_id, "vendor": vendor.name, "error": type(error).__name__}
            logger.error("vendor.raised", extra={"facts": facts})
            return None
        return found if found and found.outcome is Outcome.ACCEPTED else None

    # Settling ----------------------------------------------------------------------------------

    def settle(self, seconds: float) -> bool:
        """Record what came of the e-mails sent meanwhile; False: no more come.

        Raises ``StoreUnavailable`` after ``seconds``; the results are kept for the next call.
        """
        batch: list[Result] = []
        more = True
        while more and len(batch) < BATCH and (not batch or not self.results.empty()):
            result = self.results.get()
            more = result is not None
            if result is not None:
                batch.append(result)
        try:
            self._settle(batch, seconds)
        except StoreUnavailable:
            for result in batch:
                self.results.put(result)
            if not more:
                self.results.put(None)
            raise
        return more

    def _settle(self, batch: Sequence[Result], seconds: float) -> None:
        sent = [(task, result) for task, result in batch if isinstance(task, Task)]
        for task, result in sent:
            if result is None:
                self._routing.hear(task.record, None, task.generation, task.probe)
        settled = [self._settled(task, result) for task, result in sent]
        lost = self._conclude(settled, seconds)
        for (task, result), ending in zip(sent, settled, strict=True):
            if ending in lost:
                self._lease_lost(task, result, seconds)
        for inquiry, found in batch:
            if isinstance(inquiry, Inquiry):
                self._answered(inquiry, found, seconds)

    def _answered(self, inquiry: Inquiry, found: SendResult | None, seconds: float) -> None:
        """The vendor knows the e-mail: a late yes. It does not: it may be sent again."""
        if found is not None:
            self._store.late_yes(inquiry.stored.id, inquiry.token, inquiry.vendor, found, seconds)
        else:
            self._store.looked_up(inquiry.stored.id, inquiry.token)
        quietly(partial(inquiry.job.release, job_priority(inquiry.stored), 0.0))

    def _settled(self, task: Task, result: SendResult | None) -> Ending:
        if result is None:
            decision = lifecycle.untouched(replace(task.record, vendor=None))
        else:
            decision = self._routing.decide(task.record, result, task.carriers)
        change = Change(
            id=task.stored.id,
            token=task.stored.token + 1,
            nonce=task.nonce,
            decision=decision,
            result=result,
            vendor=task.record.vendor,
        )
        return Ending.of(task.job, decision, change)

    def _conclude(self, endings: Sequence[Ending], seconds: float | None = None) -> list[Ending]:
        """Write the changes in one bulk write, then end the jobs; returns those not written."""
        changes = [ending.change for ending in endings if ending.change is not None]
        written: set[ObjectId] = set()
        if changes:
            written = self._store.change(changes, seconds or self._store.timeout)
        lost = []
        ends: dict[Connection, dict[int, End]] = {}
        for ending in endings:
            if ending.change is not None and ending.change.id not in written:
                lost.append(ending)
            else:
                ends.setdefault(ending.job.connection, {})[ending.job.id] = ending.end
        for connection, jobs in ends.items():
            quietly(partial(connection.finish, jobs))
        return lost

    def _lease_lost(self, task: Task, result: SendResult | None, seconds: float) -> None:
        """Another worker owns the e-mail by now. A yes counts all the same."""
        vendor = task.record.vendor or ""
        facts = {"id": str(task.stored.id), "vendor": vendor}
        logger.warning("lease.lost", extra={"facts": facts})
        if result is not None and result.outcome is Outcome.ACCEPTED:
            token = task.stored.token + 1
            self._store.late_yes(task.stored.id, token, vendor, result, seconds)
        quietly(partial(task.job.release, job_priority(task.stored), 1.0))
