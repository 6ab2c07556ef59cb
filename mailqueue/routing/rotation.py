"""Whose turn is it: vendor health as a value, and round robin over those available. Pure.

Decides: which vendor an e-mail goes to, whether that is a probe, how long a vendor without a turn
has to wait, and how an answer changes a vendor's health.

Content can draw the same failure everywhere, and must not suspend vendors that are well. So an
answer that may be the e-mail's own fault is a hint. Hints of two e-mails, with no yes between the
two, suspend the vendor if another vendor took one of these e-mails: so it was not the e-mail.
Without that proof it takes a row of ``HINTS`` e-mails, or of ``FEW`` where no vendor has said yes
lately, and they suspend it only until its next early probe. An unavailable vendor is judged alike:
after a probe that drew a hint the next e-mail may probe at once, up to the end of a row of
``HINTS``, or to a hint that comes ``ROW_SECONDS`` after the probe was due. An e-mail in doubt (it
drew such an answer, or was refused, before) gives no hints, and probes only where in
``LAST_RESORT`` seconds no other e-mail has.

Assumes: times are seconds on the database server's clock (``now`` is handed in); the caller applies
a changed ``Health`` only if the stored one is still the one it was computed from.

Promises: an unavailable vendor is chosen only for a probe, or for an e-mail pinned to it. A late
failure of a call begun before the present generation changes nothing. Only the holder of the probe
makes a vendor available. What is in one e-mail suspends no vendor, nor keeps it from others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from mailqueue.lifecycle.outcomes import PROBE_STEP, Snapshot, Suspension
from mailqueue.routing.pace import Promise

# Early probes come ever rarer, but not rarer than this: they run only while no vendor is left, and
# all mail waits for the first of them that succeeds.
PROBE_STEP_MAX = 60.0
PROBE_RESULT_WAIT = 5.0  # seconds until an e-mail looks again what came of another's probe
LAST_RESORT = 15.0  # seconds for which an e-mail in doubt leaves a due probe to others
HINTS, FEW = 10, 3  # hints without proof that suspend: usually, and if no vendor says yes
ROW_SECONDS = 5.0  # a probe's hint that comes so long after the probe was due suspends alone


# Why a generation: calls fail late. Two calls begin in generation 4. The first times out (5), and a
# probe restores the vendor (6). Then the second times out, which tells of a time that is over.
@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One vendor's health. Unavailable while ``unavailable_until`` is set, even when that passed.

    From then on a probe may make it available. ``probe_token`` holds the probe until
    ``probe_until``. ``hints`` are the e-mails that may have drawn failures themselves, with no yes
    since; the newest at ``hint_at``, good for ``hint_seconds``; ``proven``: another vendor took one
    of them. E-mails in doubt may probe from ``last_resort_at`` on, which the first that finds a
    probe due sets.
    """

    name: str
    generation: int = 0
    unavailable_until: float | None = None
    retry_after_until: float | None = None
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
    def available(self) -> bool:
        """True when any e-mail may go to this vendor."""
        return self.unavailable_until is None


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to ask a vendor once, given in this ``generation`` of its health.

    ``probe`` is the token of its probe, where the vendor is unavailable; ``WANTED``: it is still to
    be won. ``promise``: of a send time, where the vendor is limited. What came of the call is to be
    reported under the permit, or else the permit is to be given back.
    """

    vendor: str
    generation: int = 0
    probe: str | None = None
    promise: Promise | None = field(default=None, compare=False)


WANTED = "wanted"
FULL = Permit("")  # there are vendors to be asked, but each has all the calls that it may have
BUSY = Permit("", -1)  # or none of them has a send time now


class Sign(Enum):
    """What a call says about the vendor that did not fail; a ``Suspension`` if it did."""

    YES = "it took an e-mail"
    WORKS = "it answered as a vendor that works"
    NONE = "nothing was sent, or the fault was ours"


Verdict = Suspension | Sign


def choose(
    job_id: int,
    weights: Mapping[str, int],
    carriers: Collection[str],
    email: Snapshot,
    health: Mapping[str, Health],
    now: float,
) -> Permit | None:
    """Choose for one e-mail among ``carriers`` (those that can carry it); None: nobody now.

    A vendor comes as often as its weight says, in the order of ``weights``.

    A vendor whose probe is due comes first, so that one that is well again is found out; for an
    e-mail in doubt it comes last. A pinned e-mail goes to its vendor, available or not; when the
    pin has run out, to nobody: decide anew.
    """
    if email.pin is not None:
        name = email.pin.vendor
        holds = email.pin.remaining > 0 and name in carriers
        return Permit(name, health[name].generation) if holds else None
    usable = [name for name in weights if name in carriers and name not in email.round.refused]
    # An available vendor that was tried in this round counts here too: the next round can go there,
    # so there is no need for an early probe.
    early = not any(health[name].available for name in usable)
    untried = [name for name in usable if name not in email.round.tried]
    doubt = email.in_doubt
    due = [name for name in untried if probe_wait(health[name], now, early, doubt) <= 0]
    listed = [name for name in untried if health[name].available for _ in range(weights[name])]
    # The job's id stands for a counter that all processes would have to share.
    probe = bool(due) and not (doubt and listed)
    names = due if probe else listed
    if not names:
        return None
    name = names[job_id % len(names)]
    return Permit(name, health[name].generation, WANTED if probe else None)


# Why closed vendors are left out, and busy ones only passed over. A vendor whose budget is used up
# will not take an e-mail for hours, so it is as if it were not there: others get early probes. One
# that is busy has its next time in a moment: it counts as available.


def choose_in_time(
    choose: Callable[[Snapshot, Collection[str]], Permit | None],
    promise: Callable[[str, bool], Promise | None],
    carriers: Collection[str],
    email: Snapshot,
    closed: Collection[str],
) -> Permit | None:
    """The choice among vendors with limits, with the promise of a send time; ``BUSY``: later.

    ``choose`` chooses as if there were no limits. ``promise`` promises a time of a vendor: a near
    one, where another vendor may be asked instead, else one within a second; None: there is none.
    ``closed``: a budget of theirs is used up.
    """
    usable = carriers if email.pin is not None else [n for n in carriers if n not in closed]
    if carriers and not usable:
        return BUSY
    busy: dict[str, Permit] = {}
    while choice := choose(passing_over(email, busy), usable):
        if choice is FULL or choice.vendor in busy:
            break
        if time := promise(choice.vendor, True):
            return replace(choice, promise=time)
        busy[choice.vendor] = choice
    # No other vendor can take it now, so a time that is farther off is as good.
    for late in busy.values():
        if time := promise(late.vendor, False):
            return replace(late, promise=time)
    return choice if choice is FULL or not busy else BUSY


def passing_over(email: Snapshot, busy: Iterable[str]) -> Snapshot:
    """The e-mail as if it had been tried at these: for this choice only, it is not stored."""
    return replace(email, round=replace(email.round, tried=(*email.round.tried, *busy)))


def waits(
    names: Collection[str], health: Mapping[str, Health], now: float, in_doubt: bool = False
) -> dict[str, float]:
    """For each of ``names`` (those the e-mail can use) the seconds until it may be asked."""
    early = not any(health[name].available for name in names)
    wait = {name: probe_wait(health[name], now, early, in_doubt) for name in names}
    return {name: 0.0 if health[name].available else max(0.0, wait[name]) for name in names}


def probe_wait(health: Health, now: float, early: bool, in_doubt: bool = False) -> float:
    """Seconds until the vendor may be probed (<= 0: now); infinite for an available one.

    ``early``: no vendor is available for the e-mail, so it need not wait until the vendor's time is
    over: it may be the early probe, but never before a time that the vendor named itself. An e-mail
    ``in_doubt`` leaves the probe to others for a while.
    """
    if health.unavailable_until is None:
        return float("inf")
    at = health.unavailable_until
    if early:
        at = min(at, max(health.probe_at or 0.0, health.retry_after_until or 0.0))
    if in_doubt:
        at = max(at, min(health.last_resort_at or 0.0, now + LAST_RESORT))
    # Another's probe may take as long as its lease, but mostly is over in a moment: look again
    # soon. A holder that died never reports, so after ``probe_until`` the probe is free again.
    if health.probe_until is not None and health.probe_until > now:
        at = max(at, min(health.probe_until, now + PROBE_RESULT_WAIT))
    return at - now


def apply_verdict(
    health: Health,
    permit: Permit,
    verdict: Verdict,
    now: float,
    *,
    email_id: str = "",
    yes_at: float = 0.0,
    quiet: bool = False,
) -> Health:
    """The health after a call under ``permit``; unchanged where the call has nothing to say.

    ``yes_at``: when the caller last heard a yes of this vendor. ``quiet``: no vendor at all has
    said yes lately.
    """
    if permit.probe is not None:
        mine = permit.probe == health.probe_token
        return _apply_probe_verdict(health, verdict, now, email_id) if mine else health
    # A pinned e-mail also asks an unavailable vendor: that must not put off or take its probe.
    if not health.available:
        return health
    # A yes is not written while this process knows of no hint. If it came after the newest hint
    # that is stored now, it ends that row here.
    if (health.hint_at or 0.0) <= yes_at:
        health = clear_hints(health)
    if not isinstance(verdict, Suspension) or verdict.in_doubt:
        return health
    if permit.generation != health.generation:  # it was suspended, and restored, since
        return health
    if not verdict.is_hint:
        return suspend(health, verdict, now, PROBE_STEP)
    # Proof is another vendor's yes. Where no vendor gives any, fewer hints have to do.
    return _add_hint(health, verdict, now, email_id, PROBE_STEP, FEW if quiet else HINTS)


def _apply_probe_verdict(health: Health, verdict: Verdict, now: float, email_id: str) -> Health:
    """The health after its probe: available, suspended for longer, or free for another probe."""
    free = replace(health, probe_token=None, probe_until=None)
    if verdict is Sign.NONE:
        return free
    if not isinstance(verdict, Suspension):
        return restore(health)
    step = min(PROBE_STEP_MAX, max(PROBE_STEP, health.probe_step * 2))
    if not verdict.is_hint:
        return suspend(health, verdict, now, step)
    # It may be the e-mail's own fault: another e-mail may probe at once, one in doubt later.
    free = replace(free, last_resort_at=now + LAST_RESORT)
    if verdict.in_doubt:
        return free
    # Where mail is rare, ten e-mails take minutes, and each of them pays with its own back-off. So
    # a hint that comes long after the probe was due suspends at once.
    early = now < (health.unavailable_until or 0.0)
    late = -probe_wait(free, now, early=early) >= ROW_SECONDS
    return _add_hint(free, verdict, now, email_id, step, 1 if late else HINTS)


def restore(health: Health) -> Health:
    """Available, as if nothing had been."""
    return Health(name=health.name, generation=health.generation + 1)


def clear_hints(health: Health) -> Health:
    """The health without any suspicion."""
    if not health.hints:
        return health
    return replace(health, hints=(), hint_at=None, hint_seconds=0.0, proven=False, reason=None)


def confirm_hint(health: Health, now: float, email_id: str) -> Health:
    """The health when another vendor took an e-mail that drew a hint here: it was not the e-mail.

    An available vendor with one hint is ``proven``: the next e-mail's hint suspends it. With two it
    is suspended now, and an unavailable one with one already. While another probe is under way, the
    answer to that probe decides.
    """
    if email_id not in health.hints:
        return health
    if health.probe_token is not None or (health.available and len(health.hints) < 2):
        return replace(health, proven=True)
    step = PROBE_STEP if health.available else health.probe_step
    blame = Suspension(seconds=health.hint_seconds, reason=health.reason or "")
    return suspend(health, blame, now, step)


# Rule: the probe is mine if it is due and nobody holds it, in the document that I replace.
#   before  {generation: 4, probe_token: null, probe_until: null, unavailable_until: 12:00:00}
#   after   {generation: 4, probe_token: "A", probe_until: 12:02:01, unavailable_until: 12:00:00}
# Two processes read the first document, and both find the probe due. A's write matches, B's does
# not: the token is another by now. B reads again, finds that the probe is held or over, and chooses
# anew. B may probe at once only if A's probe drew a hint or was given back.


def win_probe(
    health: Health, now: float, lease: float, token: str, in_doubt: bool = False
) -> Health | None:
    """The health with its probe held by ``token`` for ``lease`` seconds; None: not (any more) due.

    It was due when the vendor was chosen. It is asked again here, since a process that has lost the
    race must not probe right after the winner's probe has failed.
    The first e-mail in doubt does not get the probe: it sets the time from which such e-mails may.
    """
    if probe_wait(health, now, early=True, in_doubt=in_doubt) > 0:
        return None
    if in_doubt and health.last_resort_at is None:
        return replace(health, last_resort_at=now + LAST_RESORT)
    return replace(health, probe_token=token, probe_until=now + lease)


# Rule: hints suspend the vendor once it is likely that no e-mail is to blame.
#   before   {generation: 4, hints: ["e1"], hint_at: 12:00:00, proven: null}
#   e2 503   {generation: 4, hints: ["e1", "e2"], hint_at: 12:00:02, proven: null}
#   e2 sent  {generation: 5, hints: [], unavailable_until: 12:10:03, probe_at: 12:00:08}
# The last line is ``confirm_hint``: another vendor took e2, so the answer was not its fault.


def _add_hint(
    health: Health, blame: Suspension, now: float, email_id: str, step: float, enough: int = HINTS
) -> Health:
    """The health with one more hint: at most one counts for each e-mail.

    After proof it suspends the vendor for its full time. Without proof a row of ``enough`` hints
    suspends it for ``step`` seconds only, until the early probe.
    """
    if email_id in health.hints:
        return health
    if health.proven:
        return suspend(health, blame, now, step)
    # A row stays after it has suspended the vendor: a yes elsewhere may still prove one of its
    # hints (``confirm_hint``). Once it is full, the next hint begins another.
    row = health.hints if len(health.hints) < HINTS else ()
    hints = (*row, email_id)
    if len(hints) >= enough:
        brief = replace(blame, seconds=min(blame.seconds, step))
        health = suspend(health, brief, now, step)
    return replace(
        health, hints=hints, hint_at=now, hint_seconds=blame.seconds, reason=blame.reason
    )


# Rule: calls begun before say nothing any more. A 429 with Retry-After: 60, at 12:00:00:
#   before  {generation: 4, unavailable_until: null, retry_after_until: null, probe_at: null}
#   after   {generation: 5, unavailable_until: 12:01:00, retry_after_until: 12:01:00,
#            probe_at: 12:00:05}, which waits for 12:01:00: the vendor named that time itself


def suspend(health: Health, blame: Suspension, now: float, step: float) -> Health:
    """Unavailable, with a new generation and nothing of what was before but the longest times."""
    pause_end = 0.0 if blame.retry_after is None else now + blame.retry_after
    return Health(
        name=health.name,
        generation=health.generation + 1,
        unavailable_until=max(health.unavailable_until or 0.0, now + blame.seconds),
        retry_after_until=max(health.retry_after_until or 0.0, pause_end) or None,
        reason=blame.reason,
        since=health.since if health.since is not None else now,
        probe_at=now + step,
        probe_step=step,
    )
