"""The states of the model: two e-mails, two workers, two vendors, and what may still go wrong.

Decides: what is remembered of e-mail document, job, worker and vendor health, in ticks of
``TICK`` seconds from now. A token or generation is no number here but "still the newest one" or
not, a passed time is 0, so that the states are finite without a bound on depth.

Promises: all values are tuples of plain values; ``canonical`` maps states that differ in names only
to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from mailqueue.lifecycle.decide import refuses_all
from mailqueue.lifecycle.outcomes import (
    NORMAL,
    CurrentAttempt,
    Outcome,
    Pin,
    Policy,
    Round,
    SendResult,
    Snapshot,
    Status,
)
from mailqueue.routing.rotation import Health

TICK = 5.0
NOW = 1000 * TICK
LEASE = 2
KEY_LIFE = 4  # ticks that the vendor remembers a key; half of it is used
VENDORS = ("A", "B")
KINDS = ("any", "answer", "crash", "pause", "tube", "slow", "cancel")

POLICY = Policy(
    max_attempts=3,
    give_up_after=1e9,
    base=TICK,
    cap=2 * TICK,
    unavailable_for=3 * TICK,
    max_wait=3 * TICK,
    silent_throttle=2 * TICK,
    pin_base=TICK,
    pin_life=2 * TICK,
)

RESULTS = {
    "yes": SendResult(outcome=Outcome.ACCEPTED),
    "refuses all": refuses_all(SendResult(outcome=Outcome.REJECTED)),
    "refused connection": SendResult(outcome=Outcome.UNAVAILABLE, answered=False),
    "5xx": SendResult(outcome=Outcome.UNAVAILABLE),
    "throttled": SendResult(outcome=Outcome.THROTTLED),
    "throttled until": SendResult(outcome=Outcome.THROTTLED, retry_after=3 * TICK),
    "throttled for 0 s": SendResult(outcome=Outcome.THROTTLED, retry_after=0.0),
    "misconfigured": SendResult(outcome=Outcome.MISCONFIGURED),
    "deferred": SendResult(outcome=Outcome.DEFERRED),
    "unsuitable": SendResult(outcome=Outcome.UNSUITABLE),
    "rejected": SendResult(outcome=Outcome.REJECTED),
    "unknown, not taken": SendResult(outcome=Outcome.UNKNOWN, answered=False),
    "unknown, taken": SendResult(outcome=Outcome.UNKNOWN, answered=False),
    "unknown, ours": SendResult(outcome=Outcome.UNKNOWN, answered=False, our_fault=True),
}
TAKEN = ("yes", "unknown, taken")
OUTAGE = ("refused connection", "5xx", "throttled", "throttled until")


FINAL = {status.value for status in Status if status.final}


class Email(NamedTuple):
    """One document, its jobs that nobody has reserved, and what the vendors really took."""

    status: str = Status.QUEUED.value
    due: int = 0
    lease: int = 0
    vendor: str = ""
    probe: bool = False
    late_accept: bool = False
    counted: int = 0
    unknowns: int = 0
    rounds: int = 0
    tried: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    hint_vendors: tuple[str, ...] = ()
    pin: tuple[str | int, ...] = ()  # vendor, ticks left, repeats
    jobs: tuple[int, ...] = (0,)  # the delay of each
    copies: int = 0
    resent: int = 0
    key_left: int = -1  # ticks that the key is remembered; -1: not used yet
    key_taken: bool = False
    suspended: tuple[str, ...] = ()  # vendors, because of this e-mail

    @property
    def final(self) -> bool:
        return self.status in FINAL


class Work(NamedTuple):
    """What a worker is about to do for e-mail ``email``; ``at`` names its next step."""

    email: int
    at: str
    vendor: str = ""
    probe: str = ""  # "", "wanted", "held", "lost"
    fresh: bool = True  # the vendor's generation is the one seen
    mine: bool = True  # the e-mail's token is the one seen or won
    answer: str = ""
    job: bool = True  # the reservation still holds
    paused: bool = False


class Idle(NamedTuple):
    """A worker without a job."""


class Door(NamedTuple):
    """A vendor's health; -1 is null."""

    until: int = -1
    named: int = -1
    at: int = -1
    step: int = 0
    probe: int = -1  # ticks that the probe's slot is held; -1: free
    orphan: bool = False  # its holder died
    resort: int = -1  # ticks until e-mails in doubt may probe
    hints: tuple[int, ...] = ()  # e-mails
    holds: int = 0  # ticks that the newest hint would suspend for
    proven: bool = False
    drew: tuple[int, ...] = ()  # the truth: who drew a failure here, till a yes or suspension
    shown: bool = False  # the truth: another vendor took one of them

    @property
    def available(self) -> bool:
        return self.until < 0


class State(NamedTuple):
    """Everything. ``faults`` is what may still go wrong, by kind."""

    emails: tuple[Email, ...]
    works: tuple[Work | Idle, ...]
    doors: tuple[Door, ...]
    faults: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is explored: how much of which kind may go wrong, and what the e-mails are like.

    An answer of ``free`` may come as often as it likes, one of ``answers`` costs a fault of kind
    "answer". ``always`` maps (e-mail, vendor) to the answer that this vendor always gives. No
    e-mail may end as ``failed`` unless ``may_fail``; all end in time unless ``endless``. Where
    nothing is wrong but with e-mails (``well``), no vendor is ever suspended.
    """

    name: str
    faults: dict[str, int] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    always: dict[tuple[int, str], str] = field(default_factory=dict)
    emails: int = 2
    workers: int = 2
    policy: Policy = POLICY
    keyed: tuple[str, ...] = ()
    may_fail: bool = False
    endless: bool = False
    well: bool = False

    def start(self) -> State:
        return State(
            emails=(Email(),) * self.emails,
            works=(Idle(),) * self.workers,
            doors=(Door(),) * len(VENDORS),
            faults=tuple(self.faults.get(kind, 0) for kind in KINDS),
        )


def ticks(seconds: float) -> int:
    """Seconds as ticks, rounded up: 0 stays at once, anything else takes time."""
    return -int(-seconds // TICK)


@cache
def health(name: str, door: Door) -> Health:
    """The product's value for a door, at the time ``NOW``."""

    def at(left: int) -> float | None:
        return None if left < 0 else NOW + left * TICK

    return Health(
        name=name,
        unavailable_until=at(door.until),
        retry_after_until=at(door.named),
        probe_at=at(door.at),
        probe_step=door.step * TICK,
        probe_token=None if door.probe < 0 else "held",
        probe_until=at(door.probe),
        hints=tuple(map(str, door.hints)),
        hint_at=NOW if door.hints else None,
        hint_seconds=door.holds * TICK,
        proven=door.proven,
        last_resort_at=at(door.resort),
    )


def door(health: Health, was: Door, *, orphan: bool) -> Door:
    """The door for a value of the product; beyond its first doubling the step stays the same."""

    def left(at: float | None) -> int:
        return -1 if at is None else ticks(max(0.0, at - NOW))

    probe = left(health.probe_until)
    return Door(
        until=left(health.unavailable_until),
        named=left(health.retry_after_until),
        at=left(health.probe_at),
        step=min(1, ticks(health.probe_step)),
        probe=probe,
        orphan=orphan and probe >= 0,
        resort=left(health.last_resort_at),
        hints=tuple(sorted(map(int, health.hints))),
        holds=ticks(health.hint_seconds),
        proven=health.proven,
        drew=was.drew,
        shown=was.shown,
    )


def snapshot(email: Email) -> Snapshot:
    """What the decision needs, as ``document`` makes it of the stored e-mail."""
    pin = None
    if email.pin:
        name, left, repeats = email.pin
        pin = Pin(vendor=str(name), key="key", remaining=int(left) * TICK, repeats=int(repeats))
    return Snapshot(
        priority=NORMAL,
        counted=email.counted,
        unknowns=email.unknowns,
        round=Round(n=email.rounds, tried=email.tried, refused=email.refused),
        pin=pin,
        hint_vendors=frozenset(email.hint_vendors),
    )


def attempt(email: Email, vendor: str, keyed: bool) -> CurrentAttempt:
    """The attempt at this vendor, as ``Router`` makes it."""
    if not keyed:
        return CurrentAttempt(vendor=vendor)
    half = max(0, email.key_left - KEY_LIFE // 2)
    return CurrentAttempt(vendor=vendor, key="key", key_life=half * TICK)


def canonical(state: State, swap_emails: bool, swap_vendors: bool) -> State:
    """The least of the states that differ from this one in names only.

    The e-mails are compared first, and mostly say already which that is: only the states that have
    the least e-mails are made at all.
    """
    emails = {(False, False): state.emails}
    if swap_vendors:
        emails[False, True] = tuple(map(_email_swapped, state.emails))
    if swap_emails:
        emails |= {(True, vendors): found[::-1] for (_, vendors), found in emails.items()}
    least = min(emails.values())
    return min(_form(state, *swaps) for swaps, found in emails.items() if found == least)


def _form(state: State, swap_emails: bool, swap_vendors: bool) -> State:
    emails, works, doors, faults = state
    form = State(emails, tuple(sorted(works)), doors, faults)
    form = _vendors_swapped(form) if swap_vendors else form
    return _emails_swapped(form) if swap_emails else form


def _emails_swapped(state: State) -> State:
    works = [_work_of_other(w) if isinstance(w, Work) else w for w in state.works]
    named = any(door.hints or door.drew for door in state.doors)
    doors = tuple(map(_door_swapped, state.doors)) if named else state.doors
    return State(state.emails[::-1], tuple(sorted(works)), doors, state.faults)


@cache
def _door_swapped(door: Door) -> Door:
    hints, drew = (tuple(sorted(1 - i for i in who)) for who in (door.hints, door.drew))
    return door._replace(hints=hints, drew=drew)


def _vendors_swapped(state: State) -> State:
    works = [_work_swapped(w) if isinstance(w, Work) else w for w in state.works]
    emails = tuple(_email_swapped(email) for email in state.emails)
    return State(emails, tuple(sorted(works)), state.doors[::-1], state.faults)


def _other(name: str) -> str:
    return {"A": "B", "B": "A"}.get(name, "")


@cache
def _work_of_other(work: Work) -> Work:
    return work._replace(email=1 - work.email)


@cache
def _work_swapped(work: Work) -> Work:
    return work._replace(vendor=_other(work.vendor))


@cache
def _email_swapped(email: Email) -> Email:
    def others(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted(map(_other, names)))

    return email._replace(
        vendor=_other(email.vendor),
        tried=others(email.tried),
        refused=others(email.refused),
        hint_vendors=others(email.hint_vendors),
        suspended=others(email.suspended),
    )
