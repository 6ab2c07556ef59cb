"""The senders: N threads, each with one e-mail at one vendor at a time.

Decides: whether a claimed e-mail is still sent (not when we stop, nor too late, nor through a
vendor that failed since the claim), and what becomes of a call that does not come back.

Assumes: the claim is stored; a vendor is another thread's own, or a class of the user's.

Promises: whatever a vendor raises is a result. The vendor's health hears of it before the slot is
free, so that the next e-mail does not go to a vendor that just failed. A yes is recorded even when
it comes after the call was given up.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from mailqueue import vendors
from mailqueue.config import VendorConfig
from mailqueue.consumer.delivery import Delivery, LookUp, Send
from mailqueue.consumer.meter import Meter
from mailqueue.consumer.pacer import Pacer
from mailqueue.consumer.shared import Shared
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.logs import event, place
from mailqueue.routing.bulkheads import Bulkheads, Call
from mailqueue.store.ledger import NOT_STARTED
from mailqueue.store.transitions import Claim
from mailqueue.tracing import Tracer
from mailqueue.vendors import answers
from mailqueue.vendors.base import Attempt, Vendor

logger = logging.getLogger(__name__)

LOOKUP_SECONDS = 10.0
IDLE = 2.0  # seconds, then an idle thread looks whether its vendors are still those to be used
OVERDUE = SendResult(outcome=Outcome.UNKNOWN, code="deadline", answered=False)
NOT_MADE = SendResult(outcome=Outcome.UNAVAILABLE, code="not_made", answered=False)


class Sender:
    """Takes claimed deliveries from its queue, and puts them into the writer's inbox with a result.

    ``deliver`` is called by the sender threads, ``put`` and ``recall`` by the writer, ``overdue``
    and ``close`` by the main thread.
    """

    def __init__(self, shared: Shared, meter: Meter | None = None) -> None:
        self._shared, self._store = shared, shared.store
        self._settle_timeout = shared.rules.config.delivery.settle_timeout
        self._slots, self._inbox = shared.slots, shared.inbox
        self._stopping, self._clock = shared.stopping, shared.clock
        self._meter, self._attempts = meter, shared.attempts
        self._tracer = Tracer.of(shared.rules.config.mongodb.collection)
        self._bulkheads: Bulkheads[Delivery] = shared.router.bulkheads
        self._limits = shared.router.limits
        self.queue: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        # When a sender last took a delivery up, or the queue was last empty
        self._progress_at = shared.clock()
        self._senders = shared.rules.config.consumer.concurrency
        self.pacer = Pacer(
            self._limits, self._bulkheads, shared.clock, self.queue.put, self._is_idle
        )

    # In the sender threads ---------------------------------------------------------------------

    def deliver(self, own: Mapping[str, Vendor]) -> bool:
        """Send the next e-mail through this thread's ``own`` vendors; False: no more come.

        One whose vendor is full is parked and holds no sender: another call of that vendor is
        under way, whose sender takes it up afterwards.
        """
        # What was parked for its vendor, or for its time, and may go now; else what is claimed next
        try:
            delivery = self._bulkheads.unpark() or self.pacer.pop() or self.queue.get(timeout=IDLE)
        except queue.Empty:
            return True
        if delivery is None:
            return False
        self._progress_at = self._clock()
        if isinstance(delivery.plan, LookUp):
            delivery.deadline = self._progress_at + LOOKUP_SECONDS
        elif not self._may_begin(delivery):
            # Settled without a result: nothing was sent, and the e-mail is queued again.
            self._finish(delivery, None)
            return True
        elif (promise := delivery.promise) is not None and self._limits.is_late(promise):
            self._limits.renew(promise)
            self.pacer.hold(delivery)
            return True
        call = self._bulkheads.begin(
            delivery.vendor, delivery, delivery.deadline, probe=delivery.probe
        )
        if call is None:
            self._slots.wake()
            return True
        return self._call(call, own)

    def _is_idle(self) -> bool:
        """Whether a sender waits for something to do."""
        return self._bulkheads.under_way + self.queue.qsize() < self._senders

    def _may_begin(self, delivery: Delivery) -> bool:
        if self._stopping.is_set() or self._clock() >= delivery.deadline:
            return False
        send, router = delivery.plan, self._shared.router
        if not isinstance(send, Send) or send.router.health.suspended_since(send.permit):
            return False
        if send.router is not router and not router.has_same_vendor(send.router, send.vendor):
            return False  # the configuration was read again, and has the vendor no more, or another
        return not router.is_closed(send.vendor, send.email, send.snapshot)

    def _call(self, call: Call[Delivery], own: Mapping[str, Vendor]) -> bool:
        """Call the vendor; False: it came back too late, another thread has this one's place."""
        delivery, result = call.what, None
        if isinstance(plan := delivery.plan, Send):
            attempt = _attempt(plan, delivery.deadline)
            if (tracer := self._tracer) is None:
                result = self._send(plan, attempt, own)
            else:
                result = self._send_in_span(tracer, delivery, plan, attempt, own)
        elif isinstance(plan, LookUp):
            result = self._look_up(plan, _attempt(plan, delivery.deadline), own)
        # False: the call was given up, and the delivery belongs to the thread in place.
        if self._bulkheads.end(call, measured=isinstance(plan, Send)):
            self._count(call, result)
            self._finish(delivery, result)
            return True
        if isinstance(plan, Send) and result and result.outcome is Outcome.ACCEPTED:
            self._record_late(plan.claim, result)
        return False

    def _send_in_span(
        self,
        tracer: Tracer,
        delivery: Delivery,
        send: Send,
        attempt: Attempt,
        own: Mapping[str, Vendor],
    ) -> SendResult | None:
        """The same, in a span that ``_finish`` ends. None: the tracer took too long."""
        delivery.hand_over = hand_over = threading.Lock()
        lines = send.stored.lines
        delivery.span = span = tracer.start(
            attempt.email_id,
            send.vendor,
            1 + (lines[-1].get("n") or 0 if lines else 0),
            send.stored.document.get("traceparent"),
            is_retry=any(line["outcome"] != NOT_STARTED for line in lines),
        )
        if not hand_over.acquire(blocking=False) or self._clock() >= delivery.deadline:
            return None
        with tracer.current(span):
            return self._send(send, attempt, own)

    def _send(self, send: Send, attempt: Attempt, own: Mapping[str, Vendor]) -> SendResult | None:
        try:
            vendor = own[send.vendor]
        except KeyError:  # removed from the configuration at this very moment: nothing was sent
            return None
        except BaseException as error:  # noqa: BLE001  # this thread's own could not be made
            _log_raised(attempt, send.vendor, error)
            return NOT_MADE
        try:
            if self._meter is None:
                answer = vendor.send(send.email, attempt)
            else:
                answer = self._meter.measure(lambda: vendor.send(send.email, attempt))
        except BaseException as error:  # noqa: BLE001  # whatever a vendor's class raises: not known
            _log_raised(attempt, send.vendor, error)
            return answers.from_exception(error)
        result = answers.sanitize(answer, send.email, vendor)
        return send.router.interpret(send.snapshot, send.vendor, attempt.email_id, result)

    def _look_up(
        self, look_up: LookUp, attempt: Attempt, own: Mapping[str, Vendor]
    ) -> SendResult | None:
        """A yes, if the vendor knows the e-mail. None proves nothing."""
        try:
            vendor = own[look_up.vendor]
            answer = vendor.lookup(look_up.email, attempt) if vendor.lookup is not None else None
        except BaseException as error:  # noqa: BLE001  # the e-mail is not to wait for a question
            _log_raised(attempt, look_up.vendor, error)
            return None
        result = answers.sanitize(answer, look_up.email, vendor)
        return result if result.outcome is Outcome.ACCEPTED else None

    def _count(self, call: Call[Delivery], result: SendResult | None) -> None:
        call.what.seconds = seconds = self._clock() - call.began
        if result is not None and isinstance(call.what.plan, Send):
            self._attempts.count((call.vendor, result.outcome, seconds))

    def _finish(self, delivery: Delivery, result: SendResult | None) -> None:
        """Report the result, free the slot, decide what follows, and hand it to the writer."""
        send = delivery.plan
        if isinstance(send, Send) and send.suppressed and result is not None:
            result = _with_suppressed(result, send.suppressed)
        delivery.result = result
        if isinstance(send, Send) and result is not None:
            # Before the slot is free: its next e-mail must not go to a vendor that just failed.
            send.router.report(send.permit, send.snapshot, result, str(send.stored.id))
        self._slots.done(delivery.vendor)
        delivery.finish = self._shared.planner.settle(delivery)
        # Another thread may give the tracer up at any time (``give_up``).
        span, tracer = delivery.span, self._tracer
        self._inbox.put([delivery])
        if span is not None and tracer is not None:  # last: the result is on its way
            outcome = NOT_STARTED if result is None else result.outcome.value
            tracer.end(span, outcome, "" if result is None else result.code)

    # Calls that do not come back, called by the main thread and by the thread in place -----------

    def overdue(self) -> list[Call[Delivery]]:
        """The calls that did not come back at their deadline: hand each to ``give_up``.

        The time that they are given beyond it is part of what is there to record a result.
        """
        return self._bulkheads.overdue(min(1.0, self._settle_timeout / 10))

    def give_up(self, call: Call[Delivery]) -> None:
        """Finish a call in the place of its thread, in time for the lease.

        That thread is no sender any more: it ends when the vendor comes back (``_call``).
        """
        delivery = call.what
        facts = {"id": str(delivery.job.email_id), "vendor": delivery.vendor}
        if (hand_over := delivery.hand_over) and hand_over.acquire(blocking=False):
            # The vendor was not asked, and will not be. No e-mail is to wait for this tracer again.
            self._tracer = None
            event(logger, logging.ERROR, "tracing.stopped", **facts)
            self._finish(delivery, None)
            return
        event(logger, logging.ERROR, "vendor.overran", **facts)
        result = OVERDUE if isinstance(delivery.plan, Send) else None
        self._count(call, result)
        self._finish(delivery, result)

    def _record_late(self, claim: Claim, result: SendResult) -> None:
        """A call that was given up was answered after all. A yes counts all the same."""
        try:
            seconds = self._settle_timeout
            self._store.record_late_yes(
                claim.id, claim.new_token, claim.vendor, result, seconds, claim.incarnation
            )
        except StoreUnavailable:
            facts = {"id": str(claim.id), "vendor": claim.vendor}
            event(logger, logging.ERROR, "results.not_recorded", **facts)

    # The queue ---------------------------------------------------------------------------------

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Hand out what is claimed; the writer calls."""
        if self.queue.empty():
            self._progress_at = self._clock()  # what waits begins to wait now
        for each in deliveries:
            if each.promise is None:
                self.queue.put(each)
            else:
                self.pacer.hold(each)

    def recall(self, patience: float) -> list[Delivery]:
        """Take back what has waited for ``patience`` seconds; the writer calls.

        That is what is parked for its vendor for so long, and the whole queue if no sender has
        taken a delivery up for so long.
        """
        # What is claimed is for this process only. Another one may have a free sender for it.
        late = [*self._bulkheads.recall(patience), *self.pacer.recall(patience)]
        if self._clock() - self._progress_at < patience:
            return late
        # Calls that take long hold all senders: what is queued would only wait for its deadline.
        ends = 0  # those that ``close`` has put for the senders
        with suppress(queue.Empty):
            while True:
                if (each := self.queue.get_nowait()) is None:
                    ends += 1
                    continue
                self._bulkheads.release(each.vendor)
                late.append(each)
        self._slots.wake()
        self.close(ends)
        return late

    def flush_spans(self, seconds: float) -> None:
        """Wait until the spans of all attempts are ended, for at most so long."""
        if (tracer := self._tracer) is not None:
            tracer.flush(seconds)

    def close(self, senders: int) -> None:
        """Tell so many senders that no more comes."""
        for _ in range(senders):
            self.queue.put(None)


class ThreadVendors(Mapping[str, Vendor]):
    """The vendors of one thread, each made when it is first needed.

    One that could be made at the start may fail here: that is an answer, and no end of the thread.
    ``configs``: which they are by now. It is asked before each use, so that a vendor that was
    changed or removed is closed by its own thread, and never during a call.
    """

    def __init__(self, configs: Callable[[], Sequence[VendorConfig]], *, simulated: bool) -> None:
        self._configs_now = configs
        self._configs: Sequence[VendorConfig] = configs()
        self._vendors: dict[str, Vendor] = {}
        self._simulated = simulated

    def __getitem__(self, name: str) -> Vendor:
        self.renew()
        if (vendor := self._vendors.get(name)) is None:
            config = {each.name: each for each in self._configs}[name]
            vendor = self._vendors[name] = vendors.load(config, simulated=self._simulated)
        return vendor

    def __iter__(self) -> Iterator[str]:
        return iter(self._vendors)

    def __len__(self) -> int:
        return len(self._vendors)

    def renew(self) -> None:
        """Close those that are not to be used any more."""
        configs = self._configs_now()
        if configs is self._configs:
            return
        self._configs = configs
        for name in [
            name for name, vendor in self._vendors.items() if vendor.config not in configs
        ]:
            _close(name, self._vendors.pop(name))

    def close(self) -> None:
        """Close those that were made."""
        for name, vendor in self._vendors.items():
            _close(name, vendor)


def _close(name: str, vendor: Vendor) -> None:
    try:
        vendor.close()
    except BaseException as error:  # noqa: BLE001  # the others are to be closed as well
        facts = {"vendor": name, "error": type(error).__name__, "at": place(error)}
        event(logger, logging.ERROR, "vendor.raised", **facts)


def _attempt(plan: Send | LookUp, deadline: float) -> Attempt:
    stored, send = plan.stored, plan if isinstance(plan, Send) else None
    incarnation = stored.incarnation if send is None else send.claim.incarnation
    return Attempt(
        nonce=None if incarnation is None else str(incarnation),
        email_id=str(stored.id),
        message_id=stored.document["message_id"],
        date=stored.date,
        key=None if send is None else send.attempt.key,
        recipients=None if send is None else send.recipients,
        deadline=deadline,
    )


def _with_suppressed(result: SendResult, people: tuple[str, ...]) -> SendResult:
    """Who was left out is refused, once the others have it, may have it, or never get it.

    After any other answer the e-mail is read again, and the list is asked again.
    """
    if result.outcome not in (Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.REJECTED):
        return result
    return replace(result, refused=(*people, *result.refused))


def _log_raised(attempt: Attempt, vendor: str, error: BaseException) -> None:
    facts = {"id": attempt.email_id, "vendor": vendor, "error": type(error).__name__}
    event(logger, logging.ERROR, "vendor.raised", **facts)
