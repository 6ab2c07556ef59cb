"""Whose turn is it: vendor health as a value, and round robin over those available. Pure.

Decides: which vendor an e-mail goes to, whether that is a probe, how long a vendor without a turn
has to wait, and how a failure or a probe changes a vendor's health.

Assumes: times are seconds on the database server's clock (``now`` is handed in); the caller applies
a changed ``Health`` only if the stored one is still the one it was computed from.

Promises: a closed vendor is never chosen but for a probe; a late answer to a call begun before the
present generation changes nothing; only the holder of the probe opens a vendor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mailqueue.record import PROBE_STEP, Closing, Record

# Early probes come ever rarer, but not rarer than this: they run only while no vendor is left, and
# all mail waits for the first of them that succeeds.
PROBE_STEP_MAX = 60.0
PROBE_RESULT_WAIT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One vendor's health. Closed while ``unavailable_until`` is set, even when it has passed:
    from then on a probe may open it. ``probe_token`` holds the probe until ``probe_until``.
    """

    name: str
    generation: int = 0
    unavailable_until: float | None = None
    named_until: float | None = None
    reason: str | None = None
    since: float | None = None
    probe_at: float | None = None
    probe_step: float = 0.0
    probe_token: str | None = None
    probe_until: float | None = None

    @property
    def open(self) -> bool:
        """True when any e-mail may go to this vendor."""
        return self.unavailable_until is None


@dataclass(frozen=True, slots=True)
class Turn:
    """A configured vendor and how often it comes in the rotation."""

    name: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """The vendor whose turn it is; as a ``probe`` the caller must first win its slot."""

    vendor: str
    probe: bool = False


def choose(
    job_id: int,
    turns: Sequence[Turn],
    carriers: Collection[str],
    record: Record,
    health: Mapping[str, Health],
    now: float,
) -> Choice | None:
    """Choose for one e-mail among ``carriers`` (those that can carry it); None: nobody now.

    A vendor whose probe is due comes first, so that a healthy one is not left closed. A pinned
    e-mail goes to its vendor, open or not; when the pin has run out, to nobody: decide anew.
    """
    if record.pin is not None:
        holds = record.pin.remaining > 0 and record.pin.vendor in carriers
        return Choice(record.pin.vendor) if holds else None
    usable = [t for t in turns if t.name in carriers and t.name not in record.round.refused]
    alone = not any(health[t.name].open for t in usable)
    untried = [t for t in usable if t.name not in record.round.tried]
    due = [t.name for t in untried if probe_wait(health[t.name], now, alone) <= 0]
    if due:
        return Choice(due[job_id % len(due)], probe=True)
    listed = [t.name for t in untried if health[t.name].open for _ in range(t.weight)]
    return Choice(listed[job_id % len(listed)]) if listed else None


def waits(names: Collection[str], health: Mapping[str, Health], now: float) -> dict[str, float]:
    """For each of ``names`` (those the e-mail can use) the seconds until it may be asked."""
    alone = not any(health[name].open for name in names)
    return {name: max(0.0, _wait(health[name], now, alone)) for name in names}


def _wait(health: Health, now: float, alone: bool) -> float:
    return 0.0 if health.open else probe_wait(health, now, alone)


def probe_wait(health: Health, now: float, alone: bool) -> float:
    """Seconds until the vendor may be probed (<= 0: now); infinite for an open one.

    ``alone``: no vendor is left for the e-mail, so the early probe's time counts, which is never
    before a time that the vendor named itself.
    """
    if health.unavailable_until is None:
        return float("inf")
    at = health.unavailable_until
    if alone:
        at = min(at, max(health.probe_at or 0.0, health.named_until or 0.0))
    if health.probe_until is not None and health.probe_until > now:
        at = max(at, min(health.probe_until, now + PROBE_RESULT_WAIT))
    return at - now


def closed(health: Health, closing: Closing, now: float, generation: int) -> Health:
    """The health after a failed call that was begun in ``generation``; stale: unchanged.

    A pinned e-mail also asks a closed vendor: its failure must not put off or take a probe.
    """
    if generation != health.generation or closing.probe_only or not health.open:
        return health
    return _shut(health, closing, now, step=PROBE_STEP)


def probe_won(health: Health, now: float, lease: float, token: str) -> Health | None:
    """The health with its probe held by ``token`` for ``lease`` seconds; None: not (any more) due.

    Who lost the race must not probe right after the winner has failed.
    """
    if probe_wait(health, now, alone=True) > 0:
        return None
    return replace(health, probe_token=token, probe_until=now + lease)


def probe_failed(health: Health, closing: Closing, now: float, token: str) -> Health:
    """The health after the holder's probe failed: closed again, the next probe later."""
    if health.probe_token != token:
        return health
    step = min(PROBE_STEP_MAX, max(PROBE_STEP, health.probe_step * 2))
    if closing.probe_only:
        closing = replace(closing, seconds=step)
    return _shut(health, closing, now, step=step)


def probe_succeeded(health: Health, token: str) -> Health:
    """The health after the holder's probe was answered: open, as if nothing had been."""
    if health.probe_token != token:
        return health
    return Health(name=health.name, generation=health.generation + 1)


def probe_given_back(health: Health, token: str) -> Health:
    """The health after the holder sent nothing: another may probe at once."""
    if health.probe_token != token:
        return health
    return replace(health, probe_token=None, probe_until=None)


def _shut(health: Health, closing: Closing, now: float, step: float) -> Health:
    named = None if closing.named is None else now + closing.named
    return replace(
        health,
        generation=health.generation + 1,
        unavailable_until=max(health.unavailable_until or 0.0, now + closing.seconds),
        named_until=max(health.named_until or 0.0, named or 0.0) or None,
        reason=closing.reason,
        since=health.since if health.since is not None else now,
        probe_at=now + step,
        probe_step=step,
        probe_token=None,
        probe_until=None,
    )
