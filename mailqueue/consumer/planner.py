"""What to do about one delivery: before it is sent (``plan``), and after it was (``settle``).

Decides: whether the e-mail of a reserved job is sent (``Send``: through which vendor), is asked for
first (``LookUp``), or what else follows (``Finish``: a change to write, then the end of the job).

Assumes: the document was just read; the claim's guard will tell if it has changed since.

Promises: any thread may call; no e-mail is changed here. One e-mail stops no other: what cannot be
decoded ends as ``unreadable``; a bug of ours is said, with its place, and puts the e-mail off. The
probe that a ``Send`` has won belongs to it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from mailqueue.consumer.delivery import Delivery, Finish, LookUp, Plan, Send
from mailqueue.consumer.staging import Staging, is_redirected
from mailqueue.errors import Unreadable
from mailqueue.lifecycle import decide
from mailqueue.lifecycle.outcomes import Decision, Reason, SendResult, Snapshot, Status
from mailqueue.logs import Once, event, place
from mailqueue.message import Address, Email
from mailqueue.queue.broker import BURIED, DELETED, Job, release_end
from mailqueue.routing.control import Hold
from mailqueue.routing.limits import recipients
from mailqueue.routing.rotation import Permit
from mailqueue.routing.router import LEASE_EXPIRED, Later, Router
from mailqueue.store import suppressions
from mailqueue.store.document import Stored
from mailqueue.store.transitions import Aside, Change, Claim

logger = logging.getLogger(__name__)

# Seconds. A job that is released at once would come again and again.
OTHER_ENV_DELAY = 60.0
BUG_DELAY = 60.0


class Planner:
    """Plans for consumers of one kind (``env``)."""

    def __init__(self, env: str, router: Router, staging: Staging | None = None) -> None:
        self._env = env
        self._router = router
        self._staging = staging
        self._bugs = Once()
        self._odd_jobs = Once()  # whoever reaches the tube may put as many as they like

    # Before ------------------------------------------------------------------------------------

    def plan(self, delivery: Delivery) -> Plan:
        """What is to be done; a ``Send`` that is planned again gets another vendor, if any."""
        stored, before = delivery.stored, delivery.plan
        if stored is None:
            return self._without_email(delivery.job)
        try:
            # One that was planned by a router that is replaced by now is planned from the start.
            if isinstance(before, Send) and before.router is self._router:
                email, snapshot, carriers = before.email, before.snapshot, before.carriers
                people = before.suppressed
                return self._route(delivery.job, stored, email, snapshot, carriers, people)
            return self._not_now(stored) or self._plan_due(delivery, stored)
        except Unreadable as error:
            return Finish(DELETED, set_aside(stored, error))
        except Exception as error:  # noqa: BLE001  # a bug of ours must not end an e-mail
            facts = {**stored.facts, "error": type(error).__name__, "at": place(error)}
            event(logger, self._bugs.level(facts["at"]), "email.not_planned", **facts)
            return release(stored, BUG_DELAY)

    def _without_email(self, job: Job) -> Finish:
        if job.email_id is None:
            event(logger, self._odd_jobs.level(job.turn), "job.buried", job=job.turn)
            return Finish(BURIED)
        level = self._odd_jobs.level(job.email_id)
        event(logger, level, "job.orphaned", id=str(job.email_id))
        return Finish(DELETED)

    def _not_now(self, stored: Stored) -> Finish | None:
        """What follows where the e-mail is not to be sent now."""
        if stored.env != self._env:
            event(logger, logging.ERROR, "email.skipped", **stored.facts, env=stored.env)
            return release(stored, OTHER_ENV_DELAY)
        if (status := stored.status).final:
            return Finish(DELETED)
        if status is Status.SENDING:
            return self._leased(stored)
        if stored.expires_in is not None and stored.expires_in <= 0:
            return _finish(end_queued(stored, decide.end(stored.snapshot(), Reason.EXPIRED)))
        if stored.due_in <= 0:
            return None
        # Who ends a hold announces what it kept: until then the e-mail needs no job.
        return Finish(DELETED) if stored.is_held else release(stored, stored.due_in)

    def _leased(self, stored: Stored) -> Finish:
        # Another worker has it. The job stays until the lease is over, in case that worker dies.
        if stored.leased_for > 0:
            return release(stored, stored.leased_for)
        return _finish(rescue(stored, self._router.after_expired_lease(stored, stored.email)))

    def _plan_due(self, delivery: Delivery, stored: Stored) -> Plan:
        email, snapshot, outside = self._stage(stored.email, stored.snapshot())
        if email is None:
            return self._end_unsent(stored, snapshot, outside, Reason.NOT_ALLOWED)
        line = stored.line_to_look_up if snapshot.unknown_vendors else None
        if line is not None and self._router.can_look_up(line["vendor"]):
            return LookUp(stored=stored, email=email, vendor=line["vendor"], token=line["token"])
        people: tuple[str, ...] = ()
        if delivery.suppressed:
            people = _suppressed(email, snapshot, delivery.suppressed)
            if people and len(people) == len(_recipients(email, snapshot)):
                return self._end_unsent(stored, snapshot, outside + people, Reason.SUPPRESSED)
            if people and snapshot.pending is None:
                email = email.without(people)
        carriers = self._router.carriers(email, snapshot)
        return self._route(delivery.job, stored, email, snapshot, carriers, outside + people)

    def _stage(
        self, email: Email, snapshot: Snapshot
    ) -> tuple[Email | None, Snapshot, tuple[str, ...]]:
        """The e-mail as a staging installation may send it, to whom; and whom that leaves out."""
        if self._staging is None:
            return email, snapshot, ()
        return self._staging.apply(email, snapshot)

    def _end_unsent(
        self, stored: Stored, snapshot: Snapshot, people: tuple[str, ...], reason: Reason
    ) -> Finish:
        """Nobody is left to send to: all of them are refused."""
        refused = tuple(dict.fromkeys((*snapshot.refused, *people)))
        decision = decide.end(replace(snapshot, refused=refused), reason)
        return _finish(end_queued(stored, decision))

    def _route(
        self,
        job: Job,
        stored: Stored,
        email: Email,
        snapshot: Snapshot,
        carriers: Sequence[str],
        suppressed: tuple[str, ...],
    ) -> Send | Finish:
        """Choose the vendor whose turn it is."""
        people = recipients(email, snapshot) if self._router.limits else 1
        hold = self._router.hold_of(email, snapshot)
        permit = hold or self._router.choose(job.turn, carriers, snapshot, people)
        if isinstance(permit, Hold):
            return _held(stored, snapshot, permit)
        if permit is None:
            nobody = self._router.decide(snapshot, None, None, carriers)
            return _finish(end_queued(stored, nobody))
        if isinstance(permit, Later):
            return release(stored, permit.seconds)
        # After an unknown outcome the same key again: under a new one it may make a copy.
        key = snapshot.pin.key if snapshot.pin is not None else stored.attempt_key
        attempt = self._router.attempt(stored, permit.vendor, key)
        claim = _claim(stored, permit, attempt.key, suppressed, self._router.health.unavailable)
        if self._staging is not None and is_redirected(email):
            claim = replace(claim, redirected=True)
        return Send(
            stored=stored,
            email=email,
            snapshot=snapshot,
            attempt=attempt,
            carriers=carriers,
            permit=permit,
            suppressed=suppressed,
            router=self._router,
            claim=claim,
        )

    def put_off(self, stored: Stored) -> Finish:
        """Out of the way of what can be sent now."""
        return release(stored, self._router.bulkheads.delay())

    # After -------------------------------------------------------------------------------------

    def settle(self, delivery: Delivery) -> Finish:
        """What follows from the ``result``; without one the permit is given back."""
        send = delivery.plan
        if isinstance(send, LookUp):
            # The writer notes the answer; then the e-mail is read and planned anew.
            return release(send.stored, 0.0)
        if not isinstance(send, Send) or delivery.lease is None:
            raise TypeError(send)
        if delivery.result is None:
            send.router.give_back(send.permit)
            decision = decide.requeue_unsent(send.snapshot)
        else:
            decision = self._decide(send, delivery.result)
        return _finish(
            Change(
                id=send.stored.id,
                token=send.token,
                incarnation=send.claim.incarnation,
                nonce=delivery.lease.nonce,
                decision=decision,
                result=delivery.result,
                vendor=send.vendor,
                has_callback=send.stored.has_callback,
                request_id=send.stored.request_id,
                seconds=delivery.seconds,
            )
        )

    def _decide(self, send: Send, result: SendResult) -> Decision:
        """What follows; where a bug of ours says nothing, what is surely right."""
        try:
            return send.router.decide(send.snapshot, send.attempt, result, send.carriers)
        except Exception as error:  # noqa: BLE001  # what left our hands must be recorded
            facts = {**send.stored.facts, "error": type(error).__name__, "at": place(error)}
            event(logger, logging.ERROR, "email.not_decided", **facts)
            return decide.fallback(send.snapshot, result)


def _recipients(email: Email, snapshot: Snapshot) -> tuple[str, ...]:
    """Who is still to get it."""
    if snapshot.pending is not None:
        return snapshot.pending
    return tuple([person.address for person in email.recipients])


def _suppressed(email: Email, snapshot: Snapshot, entries: Collection[str]) -> tuple[str, ...]:
    """Those of them who are on the suppression list."""
    recipients = _recipients(email, snapshot)
    return tuple([a for a in recipients if suppressions.is_suppressed(Address("", a), entries)])


def set_aside(stored: Stored, error: Unreadable) -> Change | Aside:
    """The change that ends what can never be sent, so that a person sees it.

    As far as the document can be read it is an ordinary end; otherwise an ``Aside``.
    """
    event(logger, logging.ERROR, "email.unreadable", **stored.facts, error=str(error))
    with suppress(Unreadable):  # what the ordinary end needs may be damaged, too
        snapshot, expired = stored.snapshot(), stored.leased_for <= 0
        if stored.status is Status.QUEUED:
            return end_queued(stored, decide.end(snapshot, Reason.UNREADABLE))
        if expired:
            unknown = replace(snapshot, pin=None, unknowns=snapshot.unknowns + 1)
            return rescue(stored, decide.end(unknown, Reason.UNREADABLE))
    document = stored.document
    names = ("status", "lease", "nonce")
    guard = {name: {"$eq": document[name]} for name in names if name in document}
    return Aside(id=stored.id, guard=guard)


def rescue(stored: Stored, decision: Decision) -> Change:
    """The change that ends an expired lease."""
    return Change(
        id=stored.id,
        token=stored.token,
        incarnation=stored.incarnation,
        decision=decision,
        result=LEASE_EXPIRED,
        vendor=stored.last_vendor,
        expired=True,
        has_callback=stored.has_callback,
        request_id=stored.request_id,
    )


def end_queued(stored: Stored, decision: Decision) -> Change:
    """The change of an e-mail that is queued, and is not to be sent now."""
    return Change(
        id=stored.id,
        token=stored.token,
        incarnation=stored.incarnation,
        decision=decision,
        sending=False,
        has_callback=stored.has_callback,
        request_id=stored.request_id,
    )


def _held(stored: Stored, snapshot: Snapshot, hold: Hold) -> Finish:
    """The e-mail waits without a job, until somebody ends the hold and announces it."""
    decision = decide.requeue_unsent(snapshot)
    change = replace(end_queued(stored, decision), hold=hold.name)
    return Finish(DELETED, change)


def release(stored: Stored, delay: float) -> Finish:
    """Put the job back; nothing is written."""
    return Finish(release_end(stored.job_priority, delay))


def _claim(
    stored: Stored,
    permit: Permit,
    key: str | None,
    suppressed: tuple[str, ...],
    unavailable: tuple[str, ...],
) -> Claim:
    """The claim of an e-mail as it was read, for the vendor of the permit."""
    if permit.vendor in unavailable:  # a probe, or a repeat under a key
        unavailable = tuple([name for name in unavailable if name != permit.vendor])
    return Claim(
        id=stored.id,
        token=stored.token,
        incarnation=stored.incarnation,
        vendor=permit.vendor,
        key=key,
        probe=permit.probe is not None,
        suppressed=suppressed,
        unavailable=unavailable,
    )


def _finish(change: Change) -> Finish:
    """Write the change; then release the job of an e-mail that is queued again, or delete it."""
    decision = change.decision
    again = decision.status is Status.QUEUED
    return Finish(release_end(decision.priority, decision.delay) if again else DELETED, change)
