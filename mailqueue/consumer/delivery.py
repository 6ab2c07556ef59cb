"""One e-mail's way through this process, as the one value that travels.

::

    Fetcher   reserves a job, reads its e-mail, plans     sets stored, suppressed, memory, plan
    Writer    claims it, in one durable write for many    sets lease, deadline
    Sender    sends it through one vendor and decides     sets span, seconds, result, finish
    Writer    writes the change, then ends the job

Decides: nothing. Assumes: one thread at a time has a ``Delivery``; it passes from one to the next
through a queue, so its fields need no lock.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from mailqueue.consumer.memory import Held
from mailqueue.errors import QueueUnavailable
from mailqueue.lifecycle.outcomes import CurrentAttempt, SendResult, Snapshot
from mailqueue.lifecycle.values import value
from mailqueue.logs import event
from mailqueue.message import Email
from mailqueue.queue.broker import End, Holder, Job
from mailqueue.routing.pace import NO_LIMIT, Promise
from mailqueue.routing.rotation import Permit
from mailqueue.routing.router import Router
from mailqueue.store.document import Stored
from mailqueue.store.transitions import Aside, Change, Claim, Lease

if TYPE_CHECKING:
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)


@value
class Send:
    """Write the ``claim``, then send the e-mail under ``permit`` to one of the ``carriers``.

    ``router`` gave the permit, and hears what came of it: another may be in its place by then.
    """

    stored: Stored
    email: Email
    snapshot: Snapshot
    attempt: CurrentAttempt
    carriers: Sequence[str]  # the vendors that can take it
    permit: Permit
    claim: Claim
    router: Router = field(repr=False)
    suppressed: tuple[str, ...] = field(default=(), repr=False)  # left out of this attempt

    @property
    def vendor(self) -> str:
        """Who is asked."""
        return self.permit.vendor

    @property
    def token(self) -> int:
        """That of the attempt."""
        return self.claim.new_token

    @property
    def recipients(self) -> tuple[str, ...] | None:
        """The addresses that the attempt goes to. None: all of ``email``."""
        pending = self.snapshot.pending
        if pending is None or not self.suppressed:
            return pending
        return tuple([address for address in pending if address not in self.suppressed])


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """Ask the vendor of an unknown outcome, of the attempt ``token``, whether it has the e-mail."""

    stored: Stored
    email: Email
    vendor: str
    token: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Write ``change``, if there is one; once it is written, the job has this ``end``."""

    end: End
    change: Change | Aside | None = None
    vendor: ClassVar[str] = ""


Plan: TypeAlias = Send | LookUp | Finish


@dataclass(slots=True, eq=False)
class Delivery:
    """From the job's reserve to the job's end.

    ``result`` None with a ``finish``: nothing was sent, or the look-up found nothing.
    ``lost`` counts how often another worker was faster. ``planned_again_at``: when it was last
    looked at whether another vendor is to be preferred by now.
    """

    job: Job
    fetched_at: float
    # The fetcher's
    stored: Stored | None = None
    suppressed: Collection[str] = field(default=(), repr=False)  # entries of the suppression list
    # Freed when nothing refers to it any more: keep no delivery for longer than needed.
    memory: Held | None = field(default=None, repr=False)
    plan: Plan | None = None
    # The writer's
    planned_again_at: float = -math.inf
    lease: Lease | None = None
    deadline: float = 0.0
    lost: int = 0
    # The sender's
    seconds: float | None = None  # that the vendor's call took
    # Where attempts are traced. ``hand_over`` is for one to acquire, once: the thread that sends,
    # or the one that gives up a tracer that hangs before the vendor was asked.
    span: Span | None = field(default=None, repr=False)
    hand_over: threading.Lock | None = field(default=None, repr=False)
    result: SendResult | None = None
    finish: Finish | None = None

    @property
    def vendor(self) -> str:
        """Who is to be asked, if anybody is."""
        return "" if self.plan is None else self.plan.vendor

    @property
    def promise(self) -> Promise | None:
        """Of a send time, where its vendor is limited."""
        promise = self.plan.permit.promise if isinstance(self.plan, Send) else None
        return promise if promise is not NO_LIMIT else None

    @property
    def probe(self) -> bool:
        """Whether it is its vendor's probe."""
        return isinstance(self.plan, Send) and self.plan.permit.probe is not None


def end_jobs(deliveries: Iterable[Delivery]) -> None:
    """End the jobs as ``finish`` says, those of a holder together.

    A job that cannot be ended comes again.
    """
    # A job can only be ended where it is reserved: in beanstalkd, on one connection.
    ends: dict[Holder, dict[Job, End]] = {}
    for each in deliveries:
        if each.finish is not None:
            ends.setdefault(each.job.holder, {})[each.job] = each.finish.end
    for holder, jobs in ends.items():
        try:
            holder.end(jobs)
        except QueueUnavailable as error:
            event(logger, logging.INFO, "job.not_ended", error=str(error))
