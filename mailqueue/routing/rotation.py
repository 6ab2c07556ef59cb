"""Whose turn is it: vendor health as a value, and round robin over those available. Pure.

Decides: which vendor an e-mail goes to, whether that is a probe, how long a vendor without a turn
has to wait, and how a failure or a probe changes a vendor's health.

Content can draw the same failure everywhere, and must not close vendors that are well. So an answer
that may be the e-mail's own fault is a hint. Hints of two e-mails, with no yes between the two,
close the vendor if another vendor took one of these e-mails: so it was not the e-mail. Without that
proof it takes a row of ``HINTS`` e-mails, or of ``FEW`` where no vendor has said yes lately, and
they close it only until its next early probe. A closed vendor is judged alike: after a probe that
drew a hint the next e-mail may probe at once, up to the end of a row of ``HINTS``. An e-mail in
doubt (it drew such an answer, or was refused, before) gives no hints, and probes only where in
``LAST_RESORT`` seconds no other e-mail has.

Assumes: times are seconds on the database server's clock (``now`` is handed in); the caller applies
a changed ``Health`` only if the stored one is still the one it was computed from.

Promises: a closed vendor is never chosen but for a probe; a late answer to a call begun before the
present generation changes nothing; only the holder of the probe opens a vendor. What is in one
e-mail closes no vendor, nor keeps it closed for others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mailqueue.lifecycle.outcomes import PROBE_STEP, Snapshot, Suspension

# Early probes come ever rarer, but not rarer than this: they run only while no vendor is left, and
# all mail waits for the first of them that succeeds.
PROBE_STEP_MAX = 60.0
PROBE_RESULT_WAIT = 5.0
LAST_RESORT = 15.0
HINTS, FEW = 10, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One vendor's health. Closed while ``unavailable_until`` is set, even when it has passed:
    from then on a probe may open it. ``probe_token`` holds the probe until ``probe_until``.
    ``hints`` are the e-mails that may have drawn failures themselves, with no yes since; the newest
    at ``hint_at``, good for ``hint_seconds``; ``proven``: another vendor took one of them. E-mails
    in doubt may probe from ``last_resort_at`` on, which the first that finds a probe due sets.
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
    hints: tuple[str, ...] = ()
    hint_at: float | None = None
    hint_seconds: float = 0.0
    proven: bool = False
    last_resort_at: float | None = None

    @property
    def open(self) -> bool:
        """True when any e-mail may go to this vendor."""
        return self.unavailable_until is None


@dataclass(frozen=True, slots=True)
class WeightedVendor:
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
    turns: Sequence[WeightedVendor],
    carriers: Collection[str],
    record: Snapshot,
    health: Mapping[str, Health],
    now: float,
) -> Choice | None:
    """Choose for one e-mail among ``carriers`` (those that can carry it); None: nobody now.

    A vendor whose probe is due comes first, so that a healthy one is not left closed; for an e-mail
    in doubt it comes last. A pinned e-mail goes to its vendor, open or not; when the pin has run
    out, to nobody: decide anew.
    """
    if record.pin is not None:
        holds = record.pin.remaining > 0 and record.pin.vendor in carriers
        return Choice(record.pin.vendor) if holds else None
    usable = [t for t in turns if t.name in carriers and t.name not in record.round.refused]
    alone = not any(health[t.name].open for t in usable)
    untried = [t for t in usable if t.name not in record.round.tried]
    doubt = record.in_doubt
    due = [t.name for t in untried if probe_wait(health[t.name], now, alone, doubt) <= 0]
    listed = [t.name for t in untried if health[t.name].open for _ in range(t.weight)]
    if due and not (doubt and listed):
        return Choice(due[job_id % len(due)], probe=True)
    return Choice(listed[job_id % len(listed)]) if listed else None


def waits(
    names: Collection[str], health: Mapping[str, Health], now: float, in_doubt: bool = False
) -> dict[str, float]:
    """For each of ``names`` (those the e-mail can use) the seconds until it may be asked."""
    alone = not any(health[name].open for name in names)
    wait = {name: probe_wait(health[name], now, alone, in_doubt) for name in names}
    return {name: 0.0 if health[name].open else max(0.0, wait[name]) for name in names}


def probe_wait(health: Health, now: float, alone: bool, in_doubt: bool = False) -> float:
    """Seconds until the vendor may be probed (<= 0: now); infinite for an open one.

    ``alone``: no vendor is left for the e-mail, so the early probe's time counts, which is never
    before a time that the vendor named itself. One ``in_doubt`` leaves it to others for a while.
    """
    if health.unavailable_until is None:
        return float("inf")
    at = health.unavailable_until
    if alone:
        at = min(at, max(health.probe_at or 0.0, health.named_until or 0.0))
    if in_doubt:
        at = max(at, min(health.last_resort_at or 0.0, now + LAST_RESORT))
    if health.probe_until is not None and health.probe_until > now:
        at = max(at, min(health.probe_until, now + PROBE_RESULT_WAIT))
    return at - now


def closed(
    health: Health,
    closing: Suspension,
    now: float,
    generation: int,
    email_id: str = "",
    *,
    quiet: bool = False,
    yes_at: float = 0.0,
) -> Health:
    """The health after a failed call that was begun in ``generation``; stale: unchanged.

    ``quiet``: no vendor has said yes lately; ``yes_at``: when the caller last heard one here.
    A pinned e-mail also asks a closed vendor: its failure must not put off or take a probe.
    """
    if generation != health.generation or closing.in_doubt or not health.open:
        return health
    if not closing.of_content:
        return _shut(health, closing, now, PROBE_STEP)
    if (health.hint_at or 0.0) <= yes_at:
        health = _without_hints(health)
    return _hinted(health, closing, now, email_id, PROBE_STEP, FEW if quiet else HINTS)


def _hinted(
    health: Health, closing: Suspension, now: float, email_id: str, step: float, most: int = HINTS
) -> Health:
    """One hint more: it closes after proof, and as the ``most``-th of a row, but for a ``step``."""
    if email_id in health.hints:
        return health
    if health.proven:
        return _shut(health, closing, now, step)
    row = health.hints if len(health.hints) < HINTS else ()
    hints = (*row, email_id)
    if len(hints) >= most:
        brief = replace(closing, seconds=min(closing.seconds, step))
        health = _shut(health, brief, now, step)
    return replace(
        health, hints=hints, hint_at=now, hint_seconds=closing.seconds, reason=closing.reason
    )


def vouched(health: Health, hints: Collection[str]) -> Health:
    """The health after a yes that came while ``hints`` were all that spoke against the vendor."""
    if not health.open or not set(health.hints) <= set(hints):
        return health
    return _without_hints(health)


def convicted(health: Health, now: float, email_id: str) -> Health:
    """The health when another vendor took an e-mail that just failed here: it was not the e-mail.

    The failure of a probe is as much as that of two e-mails: it had been closed before. While
    another probe is under way, that one tells.
    """
    if email_id not in health.hints:
        return health
    if health.probe_token is not None or (health.open and len(health.hints) < 2):
        return replace(health, proven=True)
    step = PROBE_STEP if health.open else health.probe_step
    closing = Suspension(seconds=health.hint_seconds, reason=health.reason or "")
    return _shut(health, closing, now, step)


def _without_hints(health: Health) -> Health:
    if not health.hints:
        return health
    return replace(health, hints=(), hint_at=None, hint_seconds=0.0, proven=False, reason=None)


def probe_won(
    health: Health, now: float, lease: float, token: str, in_doubt: bool = False
) -> Health | None:
    """The health with its probe held by ``token`` for ``lease`` seconds; None: not (any more) due.

    Who lost the race must not probe right after the winner has failed. The first e-mail in doubt
    does not get it, but lets others of its kind know when they may.
    """
    if probe_wait(health, now, alone=True, in_doubt=in_doubt) > 0:
        return None
    if in_doubt and health.last_resort_at is None:
        return replace(health, last_resort_at=now + LAST_RESORT)
    return replace(health, probe_token=token, probe_until=now + lease)


def probe_failed(
    health: Health, closing: Suspension, now: float, token: str, email_id: str = ""
) -> Health:
    """The health after the holder's probe failed: closed again, the next probe later.

    What may be the e-mail's own fault leaves the next probe to another e-mail, at once.
    """
    if health.probe_token != token:
        return health
    step = min(PROBE_STEP_MAX, max(PROBE_STEP, health.probe_step * 2))
    if not closing.of_content:
        return _shut(health, closing, now, step)
    free = replace(probe_given_back(health, token), last_resort_at=now + LAST_RESORT)
    return free if closing.in_doubt else _hinted(free, closing, now, email_id, step)


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


def _shut(health: Health, closing: Suspension, now: float, step: float) -> Health:
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
        hints=(),
        hint_at=None,
        hint_seconds=0.0,
        proven=False,
        last_resort_at=None,
    )
