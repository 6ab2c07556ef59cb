"""A fleet at work on a clock of its own: the product's rules, vendors in memory, no I/O.

Decides: the order of events. An e-mail comes to a vendor when it is due, retries first, and the
answer comes at once. What the vendors answer is a function of the test. Job ids are random, as
where several consumers and producers share a tube.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from mailqueue.lifecycle import decide
from mailqueue.lifecycle.outcomes import (
    NORMAL,
    Case,
    CurrentAttempt,
    Decision,
    Outcome,
    Policy,
    SendResult,
    Snapshot,
)
from mailqueue.routing import rotation
from mailqueue.routing.health import YES_LASTS
from mailqueue.routing.rotation import Health, Permit, Sign

Answers = Callable[[str, str, float], SendResult]  # vendor, e-mail, time
YES = SendResult(outcome=Outcome.ACCEPTED)
DOWN = SendResult(outcome=Outcome.UNAVAILABLE, code="503")
POLICY = Policy()
LEASE = 120.0


class Fleet:
    """Sends e-mails through ``names`` until nothing is due any more, or time is up."""

    def __init__(self, names: Iterable[str], answers: Answers, policy: Policy = POLICY) -> None:
        self.health = {name: Health(name=name) for name in names}
        self.unavailable_for = dict.fromkeys(self.health, 0.0)
        self.calls: Counter[str] = Counter()
        self.probes: Counter[str] = Counter()
        self.ends: dict[str, Decision] = {}
        self._weights = dict.fromkeys(self.health, 1)
        self._answers, self._policy = answers, policy
        self._rand = random.Random(12)
        self._decider = decide.Decider(policy, self._rand.random)
        self._queue: list[tuple[float, int, int, str, Snapshot]] = []
        self._n, self._now = 0, 0.0
        self._yes_at = -YES_LASTS

    def send(self, email: str, at: float, seen: Snapshot | None = None) -> None:
        """Let an e-mail be due ``at`` this time."""
        self._n += 1
        again = int(seen is None)  # retries first
        entry = (at, again, self._n, email, seen or Snapshot(priority=NORMAL))
        heapq.heappush(self._queue, entry)

    def run(self, until: float) -> None:
        """Up to this time."""
        while self._queue and self._queue[0][0] <= until:
            at, _, n, email, seen = heapq.heappop(self._queue)
            self._pass(at)
            self._deal_with(email, seen, n)
        self._pass(until)

    def _pass(self, now: float) -> None:
        for name, health in self.health.items():
            self.unavailable_for[name] += 0.0 if health.available else now - self._now
        self._now = now

    def _deal_with(self, email: str, seen: Snapshot, n: int) -> None:
        permit = self._permit(seen, n)
        result, drew = None, set[str]()
        if permit is not None:
            result = self._answers(permit.vendor, email, self._now)
            self.calls[permit.vendor] += 1
            self.probes[email] += permit.probe is not None
            self._report(permit, email, seen, result)
            drew = {permit.vendor} if result.may_be_content else drew
        decision = self._decide(seen, permit, result)
        if decision.status.final:
            self.ends[email] = decision
            return
        after = replace(
            seen,
            round=decision.round,
            counted=decision.counted,
            hint_vendors=seen.hint_vendors | drew,
        )
        self.send(email, self._now + decision.delay, after)

    def _permit(self, seen: Snapshot, n: int) -> Permit | None:
        job = self._rand.randrange(1 << 30)
        for _ in self.health:
            choice = rotation.choose(
                job, self._weights, [*self.health], seen, self.health, self._now
            )
            if choice is None:
                return None
            health = self.health[choice.vendor]
            if not choice.probe:
                return choice
            won = rotation.win_probe(health, self._now, LEASE, str(n), seen.in_doubt)
            self.health[choice.vendor] = won or health
            if won is not None and won.probe_token == str(n):
                return Permit(choice.vendor, won.generation, str(n))
        return None

    def _report(self, permit: Permit, email: str, seen: Snapshot, result: SendResult) -> None:
        held = decide.suspension(result, self._policy, in_doubt=seen.in_doubt)
        accepted = result.outcome is Outcome.ACCEPTED
        self.health[permit.vendor] = rotation.apply_verdict(
            self.health[permit.vendor],
            permit,
            held or (Sign.YES if accepted else Sign.WORKS),
            self._now,
            email_id=email,
            yes_at=self._now if accepted else 0.0,
            quiet=self._yes_at <= self._now - YES_LASTS,
        )
        if accepted:
            self._yes_at = self._now
            for other in seen.hint_vendors.intersection(seen.round.tried):
                self.health[other] = rotation.confirm_hint(self.health[other], self._now, email)

    def _decide(self, seen: Snapshot, permit: Permit | None, result: SendResult | None) -> Decision:
        doubt = seen.in_doubt or (result is not None and result.may_be_content)
        usable = [name for name in self.health if name not in seen.round.refused]
        waits = rotation.waits(usable, self.health, self._now, doubt)
        waits = {name: waits.get(name, 0.0) for name in self.health}
        attempt = CurrentAttempt(vendor=permit.vendor) if permit else None
        return self._decider.decide(Case(email=seen, attempt=attempt, waits=waits), result)
