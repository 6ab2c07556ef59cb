"""The writer: one thread that writes for all. ``Writer.turn`` is the whole job on one screen.

Decides: what is claimed next, and what goes into a write: all that gathered while the last one was
under way. A durable write costs the journal's flush, about the same for one e-mail as for eight; so
results and claims share one. A lone e-mail waits for nobody.

Assumes: ``turn`` is called by one thread. MongoDB's guards decide who owns an e-mail.

Promises: nothing is sent without a stored claim; a job ends only after what its e-mail became is
stored; a yes is recorded even when the lease is lost; results are kept while MongoDB is away. Given
back unsent are: an e-mail whose claim could not be confirmed, one that was claimed for a vendor
that has failed since, and one that waits for a sender, or for its vendor to have a place, for more
than a second.
"""

from __future__ import annotations

import logging
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress

from bson import ObjectId

from mailqueue.config import Config
from mailqueue.consumer.delivery import Delivery, Finish, LookUp, Send, end_jobs
from mailqueue.consumer.fetcher import BATCH, Fetcher
from mailqueue.consumer.meter import Meter
from mailqueue.consumer.planner import release
from mailqueue.consumer.reporter import Reporter
from mailqueue.consumer.sender import Sender
from mailqueue.consumer.shared import Rules, Shared
from mailqueue.consumer.slots import Slots
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.logs import event
from mailqueue.queue import open_broker
from mailqueue.queue.broker import CALLBACKS, Announcement
from mailqueue.routing import bulkheads
from mailqueue.routing.router import Router
from mailqueue.store import ids
from mailqueue.store.store import Store
from mailqueue.store.transitions import Aside, Change, Lease

logger = logging.getLogger(__name__)

PATIENCE = 1.0  # seconds that an e-mail waits for a slot, for a sender, or for its vendor
GATHER = 0.005  # seconds for more results, where many are about to come
MAX_LOST = 3


class Writer:
    """Owns the ``inbox``, and the deliveries that wait for a slot.

    ``turn`` is called by the writer's thread, ``fetcher.fetch`` by those of the fetchers, and
    ``sender.deliver`` by the senders'. ``stopping`` tells all of them to begin nothing more.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        router: Router,
        *,
        owner: str,
        clock: Callable[[], float] = time.monotonic,
        meter: Meter | None = None,
    ) -> None:
        self._bulkheads = router.bulkheads
        self.slots = Slots(config.consumer.concurrency, self._bulkheads, clock)
        shared = Shared(Rules.of(config, store, router), store, self.slots, clock)
        self._shared = shared
        self.inbox, self.stopping = shared.inbox, shared.stopping
        self._config, self._store = config, store
        self._owner, self._clock = owner, clock
        self.fetcher = Fetcher(shared)
        self.sender = Sender(shared, meter)
        self.reporter = Reporter(shared, owner)
        self._pacer = self.sender.pacer
        # It need not remember what it could not put.
        self._callbacks = open_broker(config, keep=0, suffix=CALLBACKS)
        self.waiting: deque[Delivery] = deque()
        self.blocked = False  # some wait although slots are free: their vendor is full
        self._ending = False

    @property
    def rules(self) -> Rules:
        """Those that count by now; any thread may replace them, as a whole."""
        return self._shared.rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._shared.rules = rules

    def turn(self, seconds: float) -> bool:
        """Write what came of deliveries and claim the next, in one write; False: no more comes.

        ``finished`` are the deliveries whose change, if any, is to be written; ``claims`` are those
        to be sent. Raises ``StoreUnavailable`` after ``seconds``; the results are kept for the next
        turn.
        """
        self._recall()
        finished = self._drain()
        try:
            claims = self._choose_claims(finished)
            written, won = self._write(finished, claims, seconds)
            missed = self._hand_out(claims, won)
            # From here on ``finished`` is only what is not done: the jobs of the others have ended.
            finished, overtaken = self._end(finished, written)
            self._read_again([*missed, *overtaken])
            self._note_answers(finished, seconds)
        except StoreUnavailable:
            self._keep(finished)
            raise
        idle = self.inbox.empty() and not self.waiting and self._pacer.empty
        return not (self._ending and idle)

    @property
    def _patience(self) -> float:
        return 0.0 if self.stopping.is_set() else PATIENCE

    def _recall(self) -> None:
        """Give back what was claimed ahead of senders, or of vendors, that did not come free."""
        self._undo_claims(self.sender.recall(self._patience))

    # In ----------------------------------------------------------------------------------------

    def _drain(self) -> list[Delivery]:
        """What was finished meanwhile; where more will come in a moment, that too.

        At an empty inbox it waits: without a limit if nothing is claimed or waits, else until
        something may be late. Not at all if something can be claimed now; a moment, until the
        limits are computed anew, if that is only ``blocked``.
        """
        wait = None if self._bulkheads.idle and not self.waiting else PATIENCE
        if self._ending or (self.waiting and self.slots.free):
            wait = bulkheads.EVERY if self.blocked and not self._ending else 0.0
        if (claim_in := self._pacer.claim_in()) != math.inf:
            wait = claim_in if wait is None else min(wait, claim_in)
        finished: list[Delivery] = []
        with suppress(queue.Empty):
            self._sort(self.inbox.get(timeout=wait), finished)
            if self.slots.expects(1 + self.inbox.qsize()):
                time.sleep(GATHER)
            while len(finished) < BATCH:
                self._sort(self.inbox.get_nowait(), finished)
        return finished

    def _sort(self, message: Sequence[Delivery] | None, finished: list[Delivery]) -> None:
        if message is None:
            self._ending = True
            return
        for each in message:
            if isinstance(each.plan, Finish):
                each.finish = each.plan
            if each.finish is None and each.promise is not None:
                self.slots.reserve(-1)  # it waits for its time, and takes no place of others
                self._pacer.add(each)
            else:
                (self.waiting if each.finish is None else finished).append(each)

    # Claims ------------------------------------------------------------------------------------

    def _choose_claims(self, finished: list[Delivery]) -> list[Delivery]:
        """Choose what the next write claims: as many of those that wait as there are slots.

        What is not to be sent after all joins ``finished``. Two jobs of one e-mail make one claim.
        """
        self._put_back_late()
        due = self._pacer.due()
        self.slots.reserve(len(due))
        self.waiting.extendleft(reversed(due))
        # Those wait for their time without a slot, as many as have one.
        free = self.slots.free + len(due) if self.waiting else 0
        if free:
            self._shared.router.refresh_limits()
        claims: dict[ObjectId | None, Delivery] = {}
        blocked: list[Delivery] = []  # their vendor is full
        while self.waiting and len(claims) < free:
            each = self.waiting.popleft()
            self._plan_again(each, twice=each.job.email_id in claims)
            plan, vendor = each.plan, each.vendor
            if isinstance(plan, Finish):
                each.finish = plan
                finished.append(each)
            elif self._bulkheads.full(vendor) and not each.probe:
                blocked.append(each)
            else:
                claims[each.job.email_id] = each
                self._bulkheads.claim(vendor)
        self.slots.claim(len(claims))
        self.waiting.extendleft(reversed(blocked))
        self.blocked = bool(blocked)
        return list(claims.values())

    def _plan_again(self, each: Delivery, *, twice: bool) -> None:
        """Plan anew what cannot, or should not, be done any more as it was planned."""
        plan = each.plan
        if isinstance(plan, (Send, LookUp)) and twice:
            self.fetcher.give_back_permits([each])
            each.plan = release(plan.stored, self._config.delivery.lease)
        elif isinstance(plan, Send) and self._is_outdated(each, plan):
            self.fetcher.give_back_permits([each])
            each.plan = self._shared.planner.plan(each)
        elif isinstance(plan, LookUp) and self._bulkheads.full(plan.vendor):
            each.plan = self._shared.planner.put_off(plan.stored)

    def _is_outdated(self, each: Delivery, send: Send) -> bool:
        """Whether the vendor failed or was closed since, or another is to be preferred by now.

        The latter is looked at once in a while for each delivery, and noted in it.
        """
        permit = send.permit
        if send.router is not self._shared.router or send.router.health.suspended_since(permit):
            return True
        if self._shared.router.is_closed(permit.vendor, send.email, send.snapshot):
            return True
        if permit.probe is not None or not self._bulkheads.crowded(permit.vendor):
            return False
        now = self._clock()
        if now - each.planned_again_at < bulkheads.EVERY:  # what waits is not chosen all over
            return False
        each.planned_again_at = now
        return True

    def _put_back_late(self) -> None:
        """Put back what waits for too long; another process may be free."""
        since = self._clock() - self._patience
        if self.waiting and self.waiting[0].fetched_at <= since:
            late = [each for each in self.waiting if each.fetched_at <= since]
            self.waiting = deque(each for each in self.waiting if each.fetched_at > since)
            self.fetcher.put_back(late)
        if late := self._pacer.late(self._patience):
            self.slots.reserve(len(late))
            self.fetcher.put_back(late)

    # The write ---------------------------------------------------------------------------------
    #
    # One bulk write, durable as a whole, takes the results of this turn and the claims of the next
    # e-mails. ``Store.write`` says which it surely holds; a change or a claim that is not among
    # them was refused by its guard: another worker was faster, or owns the e-mail by now.
    #
    #   finished  [A: sending, token 3 -> sent]  [B: sending, token 1 -> queued, due in 30 s]
    #   claims    [C: queued, token 0 -> sending, token 1, mine until NOW + 120 s]
    #   written   {A, B}   won {C}    A's job is deleted, B's put back, C goes to a sender
    #
    # Nothing is known if it fails. So claims are undone, by the nonce of their lease, in a later
    # turn, and their jobs go back to the tube; results wait for the next turn, and writing them
    # twice changes nothing.

    def _write(
        self, finished: Sequence[Delivery], claims: Sequence[Delivery], seconds: float
    ) -> tuple[set[ObjectId], set[ObjectId]]:
        """Returns the ids of the changes that are written, and of the claims that are won."""
        lease = Lease(owner=self._owner, nonce=ids.new(), seconds=self._config.delivery.lease)
        # From before the write on, so that the deadline passes before the lease does.
        deadline = self._clock() + self._config.delivery.deadline
        for each in claims:
            each.lease, each.deadline = lease, deadline
        intents = [send.claim for each in claims if isinstance(send := each.plan, Send)]
        changes = [f.change for each in finished if (f := each.finish) and f.change is not None]
        if not changes and not intents:
            return set(), set()
        began = self._clock()
        try:
            result = self._store.write(changes, intents, lease=lease, seconds=seconds)
        except StoreUnavailable:  # they may be claimed all the same
            self._free_slots(claims)
            self.fetcher.drop(claims)
            self._undo_claims(claims)
            raise
        self.slots.write_took(self._clock() - began)
        return result

    def _keep(self, finished: Sequence[Delivery]) -> None:
        """Results are kept for the next turn; what was only planned goes back to the tube."""
        results = [each for each in finished if not isinstance(each.plan, Finish)]
        self.fetcher.drop([each for each in finished if isinstance(each.plan, Finish)])
        if results:
            self.inbox.put(results)

    # Out ---------------------------------------------------------------------------------------

    def _hand_out(self, claims: Sequence[Delivery], won: Collection[ObjectId]) -> list[Delivery]:
        """What is claimed goes to the senders; returns what another worker was faster at."""
        # A claim is lost if anything else was written first. Nothing was sent, so it is read again.
        missed = [
            each
            for each in claims
            if isinstance(send := each.plan, Send) and send.claim.id not in won
        ]
        self._free_slots(missed)
        self.sender.put([each for each in claims if each not in missed] if missed else claims)
        return missed

    def _end(
        self, finished: Sequence[Delivery], written: Collection[ObjectId]
    ) -> tuple[list[Delivery], list[Delivery]]:
        """End the jobs of what is written.

        Returns the results that are not done (the lease is lost, or a look-up is to be noted), and
        the plans whose change another worker made impossible.
        """
        durable: list[Delivery] = []
        results: list[Delivery] = []
        plans: list[Delivery] = []
        for each in finished:
            change = each.finish.change if each.finish else None
            if (change is None or change.id in written) and not isinstance(each.plan, LookUp):
                durable.append(each)
            else:
                (plans if isinstance(each.plan, Finish) else results).append(each)
        # Only now: with an earlier end, a lost write would leave an e-mail without a job.
        end_jobs(durable)
        self._announce_callbacks(durable)
        if plans_ended := sum(isinstance(each.plan, Finish) for each in durable):
            self.slots.reserve(-plans_ended)
        return results, plans

    def _announce_callbacks(self, durable: Sequence[Delivery]) -> None:
        """Say on the tube of callbacks that some are due; responders find them without it, too."""
        changes = (each.finish.change for each in durable if each.finish)
        ended = [
            change
            for change in changes
            if isinstance(change, Change) and change.decision.status.final
            if change.has_callback or self._store.noting.everyone
        ]
        if ended:
            self._callbacks.announce([Announcement(c.id, c.decision.priority) for c in ended])

    def _read_again(self, lost: Sequence[Delivery]) -> None:
        """Plan anew what another worker was faster at; the third time it is left for a second.

        Raises ``StoreUnavailable``; the jobs are back on the tube then.
        """
        self.fetcher.give_back_permits(lost)
        for each in lost:
            each.lost += 1
        too_often = [each for each in lost if each.lost >= MAX_LOST]
        for each in too_often:
            # The guard of an Aside is the damage itself: it may be of a kind that matches nothing.
            aside = isinstance(each.plan, Finish) and isinstance(each.plan.change, Aside)
            self.fetcher.put_back([each], 1.0, bury=aside)
        if again := [each for each in lost if each.lost < MAX_LOST]:
            self.inbox.put(self.fetcher.read(again))

    def _note_answers(self, results: Sequence[Delivery], seconds: float) -> None:
        """Note the answers that no settlement holds: to look-ups, and where the lease is lost.

        A yes always counts. Where the vendor does not know the e-mail, it may be sent again.
        """
        for each in results:
            plan, result = each.plan, each.result
            if not isinstance(plan, (Send, LookUp)):
                continue
            email_id, vendor, own = plan.stored.id, plan.vendor, plan.stored.incarnation
            if isinstance(plan, Send):
                event(logger, logging.WARNING, "lease.lost", **plan.stored.facts, vendor=vendor)
            if result is not None and result.outcome is Outcome.ACCEPTED:
                self._store.record_late_yes(email_id, plan.token, vendor, result, seconds, own)
            elif isinstance(plan, LookUp):
                self._store.record_look_up(email_id, plan.token, own)
            if isinstance(plan, Send):
                each.finish = release(plan.stored, 1.0)
        end_jobs(results)

    # Giving back -------------------------------------------------------------------------------

    def _free_slots(self, claims: Collection[Delivery]) -> None:
        """Give the slots of claims back; their jobs stay reserved."""
        for each in claims:
            self._bulkheads.release(each.vendor)
        self.slots.claim(-len(claims))

    def _undo_claims(self, deliveries: Iterable[Delivery]) -> None:
        """Undo claims of which nothing was sent, through the inbox, so that a turn writes it.

        A look-up has no claim; its job goes back to the tube.
        """
        for each in deliveries:
            each.finish = self._shared.planner.settle(each)
            if isinstance(each.plan, Send):
                self.inbox.put([each])
            else:
                end_jobs([each])

    def close(self) -> None:
        """Let ``turn`` come to its end; called by the main thread once the senders are gone.

        What they have left is recalled in the last turn: nothing is claimed after we stop, so no
        turn hands anything out after this.
        """
        self.inbox.put(None)
