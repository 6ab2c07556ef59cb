"""Where an e-mail goes and what follows from the answer, with the vendors as they are configured.

Decides: nothing itself. It brings the pure rules (``rotation``, ``lifecycle``) together with the
configured vendors, what each can carry, and their shared health.

Assumes: the ``vendors`` that are handed in never send; they are asked what they offer.

Promises: who reports a call before asking for the decision gets one that already counts without
the vendor that just failed.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mailqueue.config import Config
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle import decide
from mailqueue.lifecycle.decide import Decider
from mailqueue.lifecycle.outcomes import (
    Case,
    CurrentAttempt,
    Decision,
    Outcome,
    Policy,
    SendResult,
    Snapshot,
)
from mailqueue.logs import Once, event, place
from mailqueue.message import Email
from mailqueue.routing import rotation
from mailqueue.routing.bulkheads import Bulkheads
from mailqueue.routing.control import Hold, hold_of, open_to
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.limits import LONGEST_WAIT, Limits, recipients
from mailqueue.routing.pace import NO_LIMIT
from mailqueue.routing.reservations import Reservations, document_id
from mailqueue.routing.rotation import BUSY, FULL, Health, Permit, Sign, Verdict
from mailqueue.store.document import Stored
from mailqueue.vendors import answers
from mailqueue.vendors import limits as capacities
from mailqueue.vendors.base import LOCAL_CODES, Vendor

logger = logging.getLogger(__name__)

REFUSALS_IN_A_ROW = 10
CLOSED_LOOK = 1.0  # seconds between two looks whether an operator has opened what is closed
ABSENT_LOOK = 300.0  # seconds between two looks whether a vendor of a route is configured again
JITTER = 0.1  # seconds at most, after a time that a vendor named
# The process died or hung, which is no fault of the vendor.
LEASE_EXPIRED = SendResult(
    outcome=Outcome.UNKNOWN, code="lease_expired", answered=False, our_fault=True
)


def policy(config: Config) -> Policy:
    """The numbers of the configuration that decide."""
    return Policy(
        max_attempts=config.retry.max_attempts,
        give_up_after=config.retry.give_up_after,
        base=config.retry.base,
        cap=config.retry.cap,
        resend_unknown=config.delivery.on_unknown == "resend",
        unavailable_for=config.failover.unavailable_for,
        max_wait=config.failover.max_wait,
    )


@dataclass(frozen=True, slots=True)
class Later:
    """There are vendors to be asked, but none of them now: look again in so many ``seconds``."""

    seconds: float


class VendorBroken(Exception):
    """No vendor can carry the e-mail, but the class of one raised when it was asked whether it can.

    So it is not known that none can, and the e-mail must not end for that.
    """


def _call_limits(config: Config) -> dict[str, int]:
    """The most calls under way at vendors with a bound on connections.

    Twice the bound: as many e-mails again may wait for a connection.
    """
    smtp = (vendor for vendor in config.vendors if vendor.type == "smtp")
    return {each.name: 2 * n for each in smtp if (n := each.keys.get("connections")) is not None}


class Router:
    """The configured vendors and the rules over them. Any thread may call."""

    def __init__(
        self,
        config: Config,
        health: VendorHealth,
        vendors: Mapping[str, Vendor],
        rand: Callable[[], float] = random.random,
        bulkheads: Bulkheads[Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.health = health
        self._weights = {vendor.name: vendor.weight for vendor in config.vendors}
        self._vendors = vendors
        offers = {name: answers.seconds(_offer(v, "key_life")) for name, v in vendors.items()}
        # The seconds for which a key is surely known: half of what the vendor says
        self._key_lives = {name: life / 2 for name, life in offers.items() if life is not None}
        self._lookups = {name for name, v in vendors.items() if _offer(v, "lookup") is not None}
        self.bulkheads: Bulkheads[Any] = bulkheads or Bulkheads(
            config.consumer.concurrency, self._weights, most=_call_limits(config)
        )
        self._configs = {vendor.name: vendor for vendor in config.vendors}
        if limits is None:
            limits = Limits(Reservations(health.store, health.collection))
        self.limits = limits
        self.limits.rearrange(config.vendors)
        for name in self.limits.names:
            health.watch(document_id(name), self.limits.learn)
        self._probe_lease = config.delivery.lease
        self._policy = policy(config)
        self._decider = Decider(self._policy, rand)
        self._rand = rand
        self._refusals: dict[str, set[str]] = {}
        self._refusing = threading.Lock()  # guards the sets
        self._once = Once()

    def renew(self, config: Config, vendors: Mapping[str, Vendor]) -> Router:
        """The router of another configuration, that goes on where this one is. No I/O.

        This one is still good for what was begun under it. The slots are those of both.
        """
        health = self.health.renew(vendors)
        new = Router(config, health, vendors, self._rand, self.bulkheads, self.limits)
        refusals = dict(self._refusals)  # other threads change it meanwhile
        new._refusals |= {n: ids for n, ids in refusals.items() if n in vendors}
        new._refusing = self._refusing
        self.bulkheads.rearrange(new._weights, _call_limits(config))
        return new

    @property
    def is_shut(self) -> bool:
        """Whether an operator lets everything wait, or a budget that is used up does."""
        controls = self.health.controls
        spent = {name for name in self.limits.names if self.limits.closed_for(name)}
        return controls.everything or (controls.closed | spent).issuperset(self._vendors)

    def has_same_vendor(self, other: Router, name: str) -> bool:
        """Whether this vendor has the same settings for the other router."""
        mine = self._configs.get(name)
        return mine is not None and mine == other._configs.get(name)

    def carriers(self, email: Email, snapshot: Snapshot) -> list[str]:
        """The vendors that can take this e-mail, or what a partial yes has left of it."""
        broken: list[str] = []
        able = [name for name in self._on_route(snapshot) if self._can_carry(name, email, broken)]
        if self.limits:
            people = recipients(email, snapshot)
            able = [name for name in able if self.limits.fits(name, people)]
        if snapshot.pending is not None:
            types = {name: self._vendors[name].config.type for name in able}
            able = [name for name in able if capacities.capacity(types[name]).partial_recipients]
        if broken and not able:  # the e-mail is not to end because of that
            raise VendorBroken(f"can_carry of {', '.join(broken)} raised")
        return able

    def _on_route(self, snapshot: Snapshot) -> Iterable[str]:
        """The vendors that it may go to."""
        route = snapshot.route
        return self._vendors if route is None else [n for n in self._vendors if n in route]

    def _can_carry(self, name: str, email: Email, broken: list[str]) -> bool:
        """A vendor whose class raises counts as unable; said once for each place where it does."""
        vendor = self._vendors[name]
        try:
            return vendor.can_carry(email) is None
        except BaseException as error:  # noqa: BLE001  # it may be a class of the user's own
            broken.append(vendor.name)
            facts = {"vendor": vendor.name, "error": type(error).__name__, "at": place(error)}
            level = self._once.level(*facts.values())
            event(logger, level, "vendor.raised", **facts)
            return False

    def hold_of(self, email: Email, snapshot: Snapshot) -> Hold | None:
        """The hold that keeps it from every vendor."""
        if not (controls := self.health.controls):
            return None
        name = controls.hold_of(email, snapshot.priority)
        return None if name is None else Hold(name)

    def is_closed(self, vendor: str, email: Email, snapshot: Snapshot) -> bool:
        """Whether an operator has closed the way to the vendor since it was chosen. No I/O."""
        if not (controls := self.health.controls):
            return False
        closed = controls.held_vendors if snapshot.pin is not None else controls.closed
        return vendor in closed or controls.hold_of(email, snapshot.priority) is not None

    def choose(
        self, turn: int, carriers: Sequence[str], email: Snapshot, people: int = 1
    ) -> Permit | Hold | Later | None:
        """Leave to ask the vendor whose turn it is, its probe and a send time won where needed.

        ``people``: the recipients that it goes to. None: nobody may be asked now; a ``Hold``: not
        before its end.
        """
        for _ in range(len(carriers) + 1):  # each probe may be lost to another process
            health = self.health.read()
            controls = self.health.controls
            askable = open_to(carriers, email, health, controls) if controls else carriers
            permit = self._choice(turn, askable, email, health, people)
            if controls and (hold := hold_of(carriers, askable, email, permit, controls)):
                return hold
            if permit is FULL:
                return Later(self.bulkheads.delay())
            if permit is BUSY:
                return Later(self._wait_for_time(askable, email, people))
            if permit is None or permit.probe is None:
                return permit
            try:
                won = self.health.win_probe(permit.vendor, self._probe_lease, email.in_doubt)
            except StoreUnavailable:
                self._forgo(permit)
                return Later(self.bulkheads.delay())
            if won is not None:
                return replace(won, promise=permit.promise)
            self._forgo(permit)
        return None

    def _choice(
        self,
        turn: int,
        carriers: Sequence[str],
        email: Snapshot,
        health: Mapping[str, Health],
        people: int,
    ) -> Permit | None:
        """The choice of ``rotation``, with the promise of a send time of a limited vendor."""
        if not self.limits:
            return self._uncrowded(turn, carriers, email, health)
        limits, held = self.limits, self.health.controls.held_vendors  # who is held needs no time
        return rotation.choose_in_time(
            lambda email, usable: self._uncrowded(turn, usable, email, health),
            lambda name, near: NO_LIMIT if name in held else limits.promise(name, people, near),
            carriers,
            email,
            [name for name in carriers if limits.closed_for(name)],
        )

    def _wait_for_time(self, carriers: Sequence[str], email: Snapshot, people: int) -> float:
        """Seconds until an e-mail looks again whose vendors have no send time."""
        available = [h.name for h in self._askable().values() if h.available]
        if available and all(map(self.limits.is_shut, available)) and self._probe_in() > 0:
            return 0.0  # nothing is fetched before one of them has a time: it is in nobody's way
        others = () if email.pin is not None else (*email.round.tried, *email.round.refused)
        limited = [name for name in carriers if name in self.limits]
        names = [name for name in limited if name not in others]
        return self.limits.delay(names or limited, email.priority, people)

    def _uncrowded(
        self, turn: int, carriers: Collection[str], email: Snapshot, health: Mapping[str, Health]
    ) -> Permit | None:
        """The choice of ``rotation``; another, if there is one, where a vendor is crowded."""
        now = self.health.now()
        choice = rotation.choose(turn, self._weights, carriers, email, health, now)
        if choice is None or choice.probe or not self.bulkheads.crowded(choice.vendor):
            return choice
        held = self.health.controls.held_vendors  # their e-mails wait: they take no others'
        # "Tried" is for this choice only and is not stored. Without the busy vendors among the
        # carriers, it may seem that no vendor is available, and an unavailable one would get an
        # early probe. As "refused" they would put the e-mail in doubt.
        # First among those that are not crowded, then among those that are at least not full.
        for is_busy in (self.bulkheads.crowded, self.bulkheads.full):
            # The pure rule knows no busy vendors: they are passed over as if they had been tried.
            others = (*filter(is_busy, self._vendors), *held)
            without_busy = rotation.passing_over(email, others)
            other = rotation.choose(turn, self._weights, carriers, without_busy, health, now)
            if other is not None and not self.bulkheads.full(other.vendor):
                return other
        return choice if self.bulkheads.worth_waiting(choice.vendor) else FULL

    def refresh_limits(self) -> None:
        """Compute anew how many calls each vendor may have, if that is due. Cheap."""
        self.bulkheads.refresh_limits(lambda: [h.name for h in self._with_budget()])

    def _askable(self) -> Mapping[str, Health]:
        """The health of the vendors that no operator has closed."""
        health, controls = self.health.read(), self.health.controls
        if not controls:
            return health
        return {name: h for name, h in health.items() if name not in controls.closed}

    def _with_budget(self) -> list[Health]:
        """Of these the available ones whose budget is not used up."""
        health = self._askable().values()
        return [h for h in health if h.available and not self.limits.closed_for(h.name)]

    def intake(self) -> tuple[float, float]:
        """Seconds until jobs are worth reserving, and for how many there is room then.

        Jobs that no vendor could take now stay where they are, in their order.
        """
        vendors = self._with_budget()
        self.limits.give_back()
        if self.health.controls.everything:
            return CLOSED_LOOK, 0
        if any(each.name not in self.limits for each in vendors):
            return 0.0, math.inf
        probe = self._probe_in()
        # A probe is for one e-mail.
        room = sum(self.limits.room(each.name) for each in vendors) + (probe <= 0)
        if room:
            return 0.0, room
        return min([probe, *(self.limits.opens_in(each.name) for each in vendors)]), 0

    def _probe_in(self) -> float:
        """Seconds until an unavailable vendor may be probed."""
        health, now = self._askable(), self.health.now()
        # Where a budget is used up, others are probed as if that vendor were not there.
        names = [name for name in health if not self.limits.closed_for(name)]
        waits = rotation.waits(names, health, now).items()
        return min(
            (wait for name, wait in waits if not health[name].available), default=CLOSED_LOOK
        )

    def decide(
        self,
        email: Snapshot,
        attempt: CurrentAttempt | None,
        result: SendResult | None,
        carriers: Sequence[str],
    ) -> Decision:
        """What follows for the e-mail, as the vendors' health is now."""
        if result is not None and result.outcome is Outcome.ACCEPTED and not result.pending:
            # The usual case: no other vendor will be asked, so it need not be known which could.
            return self._decider.decide(Case(email=email, attempt=attempt), result)
        health = self.health.read()
        refused = set(email.round.refused)
        doubt = email.in_doubt or (result is not None and result.may_be_content)
        if result is not None and result.outcome is Outcome.UNSUITABLE and attempt is not None:
            refused.add(attempt.vendor)  # it may be available, but is of no use to this e-mail
        usable = [name for name in carriers if name not in refused]
        closed = self.health.controls.drained.intersection(usable)
        askable = [name for name in usable if name not in closed]
        # The e-mail will be in doubt when it comes back, so it waits as one that is.
        waits = dict.fromkeys(carriers, 0.0)
        waits |= rotation.waits(askable, health, self.health.now(), doubt or bool(refused))
        # A vendor of its route that is not configured (any more) may come back: it does not end.
        absent = [n for n in email.route or () if n not in self._vendors and n not in refused]
        waits |= dict.fromkeys(absent, math.inf if usable else ABSENT_LOOK)
        # For drained vendors alone it does not wait here, but under a hold: see ``choose``.
        waits |= dict.fromkeys(closed, math.inf if askable else CLOSED_LOOK)
        for name in askable if self.limits else ():
            # A vendor whose budget is used up is as good as unavailable: the round ends without it.
            waits[name] = max(waits[name], min(LONGEST_WAIT, self.limits.closed_for(name)))
        return self._decider.decide(Case(email=email, attempt=attempt, waits=waits), result)

    def after_expired_lease(self, stored: Stored, email: Email) -> Decision:
        """What follows for an e-mail whose lease ran out: its outcome is not known."""
        snapshot, line = stored.snapshot(), stored.open_line
        attempt = None if line is None else self.attempt(stored, line["vendor"], line.get("key"))
        try:
            carriers = self.carriers(email, snapshot)
        except VendorBroken:  # asked again before it is sent
            carriers = list(self._on_route(snapshot))
        return self.decide(snapshot, attempt, LEASE_EXPIRED, carriers)

    # What came of a call -----------------------------------------------------------------------

    def interpret(
        self, email: Snapshot, vendor: str, email_id: str, result: SendResult
    ) -> SendResult:
        """The result that an answer is worth, given what this e-mail and others got there before.

        Two answers are not believed. A yes to a key that was seen before: see
        ``decide.resolve_replay``. And a no of a vendor that refuses one e-mail after the other,
        with no yes between: it refuses us. From the ``REFUSALS_IN_A_ROW``-th on its no ends no
        e-mail, and the vendor is suspended. A list of addresses that are all bad looks the same;
        then the first e-mail that the vendor takes restores it.
        """
        result = decide.resolve_replay(email, vendor, result)
        if result.outcome is Outcome.ACCEPTED:
            self._refusals.pop(vendor, None)
            return result
        was_asked = result.code not in LOCAL_CODES
        refused = was_asked and result.outcome in (Outcome.REJECTED, Outcome.UNSUITABLE)
        if refused and self._refuses_all(vendor, email_id, result):
            return decide.refuses_all(result)
        return result

    def _refuses_all(self, vendor: str, email_id: str, result: SendResult) -> bool:
        """Note the refusal of one more e-mail, and say whether it is one too many."""
        in_a_row = self._refusals.setdefault(vendor, set())
        with self._refusing:  # so that one e-mail is the last of the row, and says so
            new = email_id not in in_a_row and len(in_a_row) < REFUSALS_IN_A_ROW
            if new:
                in_a_row.add(email_id)
        if len(in_a_row) < REFUSALS_IN_A_ROW:  # here; another process may have counted as many
            return decide.REFUSES_ALL in (self.health.current(vendor).reason or "")
        if new:
            facts = {"vendor": vendor, "in_a_row": REFUSALS_IN_A_ROW, "code": result.code}
            event(logger, logging.ERROR, "vendor.refused_all", **facts)
        return True

    def report(self, permit: Permit, email: Snapshot, result: SendResult, email_id: str) -> None:
        """Tell the vendors' health what came of an attempt under ``permit``."""
        accepted = result.outcome is Outcome.ACCEPTED
        try:
            self.health.report(permit, self._verdict(email, result), email_id)
            if accepted:
                # Those of this round: an answer of an earlier round is too old to blame a vendor.
                for other in email.hint_vendors.intersection(email.round.tried, self._vendors):
                    self.health.confirm_hint(other, email_id)
        except StoreUnavailable:
            # The e-mail's own result counts, and is still to be recorded. Health that is not
            # written costs some calls: the next failure writes it, and a probe that nobody reported
            # ends by its lease.
            event(logger, logging.WARNING, "vendor.health_not_written", vendor=permit.vendor)

    def give_back(self, permit: Permit) -> None:
        """Nothing was sent under it: another may have the probe, and the send time, at once."""
        self._forgo(permit)
        if permit.probe is None:
            return
        try:
            self.health.report(permit, Sign.NONE)
        except StoreUnavailable:
            event(logger, logging.WARNING, "vendor.health_not_written", vendor=permit.vendor)

    def _forgo(self, permit: Permit) -> None:
        if permit.promise is not None:
            self.limits.forgo(permit.promise)

    def _verdict(self, email: Snapshot, result: SendResult) -> Verdict:
        """What the answer says about the vendor.

        Where it named a time, a moment is added, so that not all processes come back in step.
        """
        if result.our_fault:
            return Sign.NONE
        blame = decide.suspension(result, self._policy, in_doubt=email.in_doubt)
        if blame is None:
            return Sign.YES if result.outcome is Outcome.ACCEPTED else Sign.WORKS
        if blame.retry_after is None:
            return blame
        more = self._rand() * JITTER
        return replace(blame, seconds=blame.seconds + more, retry_after=blame.retry_after + more)

    # What a vendor offers against copies -------------------------------------------------------

    def can_look_up(self, name: str) -> bool:
        """Whether this vendor can be asked if it has an e-mail."""
        return name in self._lookups

    def attempt(self, stored: Stored, vendor: str, key: str | None) -> CurrentAttempt:
        """An attempt of the e-mail under ``key``, with what the vendor offers."""
        age, life = stored.key_age(vendor, key), self._key_lives.get(vendor)
        # The ledger may name a vendor, or hold a key, that the configuration no longer knows. Then
        # a repeat under the key is not safe.
        if life is None:
            return CurrentAttempt(vendor=vendor, lookup=self.can_look_up(vendor))
        lookup = self.can_look_up(vendor)
        return CurrentAttempt(vendor=vendor, key=key, key_life=life, key_age=age, lookup=lookup)


def _offer(vendor: Vendor, name: str) -> Any:
    """What a vendor offers; where its class raises when it is asked, it offers nothing."""
    try:
        return getattr(vendor, name, None)
    except BaseException:  # noqa: BLE001  # it may be a property of the user's own
        return None
