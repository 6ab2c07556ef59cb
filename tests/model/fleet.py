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
    Decision,
    Outcome,
    Policy,
    SendResult,
    Snapshot,
    VendorState,
)
from mailqueue.routing import rotation
from mailqueue.routing.health import YES_LASTS
from mailqueue.routing.rotation import Health, WeightedVendor

Answers = Callable[[str, str, float], SendResult]  # vendor, e-mail, time
YES = SendResult(outcome=Outcome.ACCEPTED)
DOWN = SendResult(outcome=Outcome.UNAVAILABLE, code="503")
POLICY = Policy()
LEASE = 120.0


class Fleet:
    """Sends e-mails through ``names`` until nothing is due any more, or time is up."""

    def __init__(self, names: Iterable[str], answers: Answers, policy: Policy = POLICY) -> None:
        self.health = {name: Health(name=name) for name in names}
        self.closed_for = dict.fromkeys(self.health, 0.0)
        self.calls: Counter[str] = Counter()
        self.probes: Counter[str] = Counter()
        self.ends: dict[str, Decision] = {}
        self._turns = [WeightedVendor(name) for name in self.health]
        self._answers, self._policy = answers, policy
        self._rand = random.Random(12)
        self._queue: list[tuple[float, int, int, str, Snapshot]] = []
        self._n, self._now = 0, 0.0
        self._yes_at = -YES_LASTS

    def send(self, email: str, at: float, record: Snapshot | None = None) -> None:
        """Let an e-mail be due ``at`` this time."""
        self._n += 1
        again = int(record is None)  # retries first
        entry = (at, again, self._n, email, record or Snapshot(priority=NORMAL))
        heapq.heappush(self._queue, entry)

    def run(self, until: float) -> None:
        """Up to this time."""
        while self._queue and self._queue[0][0] <= until:
            at, _, n, email, record = heapq.heappop(self._queue)
            self._pass(at)
            self._deal_with(email, record, n)
        self._pass(until)

    def _pass(self, now: float) -> None:
        for name, health in self.health.items():
            self.closed_for[name] += 0.0 if health.open else now - self._now
        self._now = now

    def _deal_with(self, email: str, record: Snapshot, n: int) -> None:
        chosen = self._chosen(record, n)
        result = None
        if chosen is not None:
            vendor, token = chosen
            record = replace(record, vendor=vendor)
            result = self._answers(vendor, email, self._now)
            self.calls[vendor] += 1
            self.probes[email] += token is not None
            self._tell(email, record, result, token)
        decision = self._decide(record, result)
        if decision.status.final:
            self.ends[email] = decision
            return
        drew = {record.vendor or ""} if result is not None and result.may_be_content else set()
        after = replace(
            record,
            round=decision.round,
            counted=decision.counted,
            failed_at=record.failed_at | drew,
            vendor=None,
        )
        self.send(email, self._now + decision.delay, after)

    def _chosen(self, record: Snapshot, n: int) -> tuple[str, str | None] | None:
        job = self._rand.randrange(1 << 30)
        for _ in self.health:
            choice = rotation.choose(
                job, self._turns, [*self.health], record, self.health, self._now
            )
            if choice is None:
                return None
            if not choice.probe:
                return choice.vendor, None
            won = rotation.probe_won(
                self.health[choice.vendor], self._now, LEASE, str(n), record.in_doubt
            )
            self.health[choice.vendor] = won or self.health[choice.vendor]
            if won is not None and won.probe_token == str(n):
                return choice.vendor, str(n)
        return None

    def _tell(self, email: str, record: Snapshot, result: SendResult, token: str | None) -> None:
        name = record.vendor or ""
        health, now = self.health[name], self._now
        closing = decide.vendor_closing(record, result, self._policy)
        if token and closing:
            after = rotation.probe_failed(health, closing, now, token, email)
        elif token:
            after = rotation.probe_succeeded(health, token)
        elif closing:
            quiet = self._yes_at <= now - YES_LASTS
            after = rotation.closed(health, closing, now, health.generation, email, quiet=quiet)
        else:
            after = rotation.vouched(health, health.hints)
        self.health[name] = after
        if result.outcome is Outcome.ACCEPTED:
            self._yes_at = now
            for other in record.failed_at.intersection(record.round.tried):
                self.health[other] = rotation.convicted(self.health[other], now, email)

    def _decide(self, record: Snapshot, result: SendResult | None) -> Decision:
        doubt = record.in_doubt or (result is not None and result.may_be_content)
        usable = [name for name in self.health if name not in record.round.refused]
        waits = rotation.waits(usable, self.health, self._now, doubt)
        others = [VendorState(name=name, wait=waits.get(name, 0.0)) for name in self.health]
        return decide.decide(record, result, others, self._policy, self._rand.random)
