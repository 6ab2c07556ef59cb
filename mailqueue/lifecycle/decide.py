"""What becomes of an e-mail: the one decision over statuses and outcomes. Pure.

Decides: after an attempt (or when no vendor could be asked) the next status of the e-mail, the
delay and priority of its job, what is held against the vendor, and how the next round starts.

Assumes: a ``Snapshot``, one consistent view of the e-mail document, with times already turned into
durations on the database server's clock, and the vendors' state beside it.

Promises: no I/O, no clock, no randomness but the ``rand`` that is handed in. Durations go out;
only ``store`` turns them into times. What is not known is ``unknown``. An e-mail ends without a
yes as ``failed`` only if surely no copy left our hands; otherwise it is ``uncertain``.

Who is to blame? A failed attempt is held against the vendor (it is closed) or against the e-mail
(it counts towards ``max_attempts``), never both: so an outage, however often it comes back, cannot
use up an e-mail's attempts; only ``give_up_after`` ends it. An answer that the e-mail's content may
have drawn is a hint: it closes the vendor only with those of other e-mails (see ``rotation``). A
vendor that refuses one e-mail after the other refuses us: what it says of the e-mails is not
believed (``refuses_all``), and they wait for somebody else, or for it to come to its senses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

from mailqueue.lifecycle.outcomes import (
    Decision,
    Outcome,
    Pin,
    Policy,
    Reason,
    Round,
    SendResult,
    Snapshot,
    Status,
    Suspension,
    VendorState,
    retry_priority,
)

Rand = Callable[[], float]
REFUSES_ALL = "refuses_all"
_FIRST = Round()
UNDECIDED_DELAY = 60.0
_NO_ROOM = 1.0  # seconds


def decide(
    record: Snapshot,
    result: SendResult | None,
    others: Sequence[VendorState],
    policy: Policy,
    rand: Rand,
) -> Decision:
    """Say what follows for an e-mail after ``result``; None: no vendor could be asked.

    ``others`` are all configured vendors that can carry the e-mail, with the time until each may
    be asked; that of ``record.vendor`` follows from the result where it is not among them. After a
    full yes they do not matter.
    ``rand`` gives a number in [0, 1).
    """
    if result is None:
        return _nobody_asked(record, others, policy, rand)
    if result.outcome is Outcome.ACCEPTED and not (
        result.pending or result.refused or result.quota_held
    ):
        return _sent(record)  # as nearly always: nothing else has to be looked at
    closing = vendor_closing(record, result, policy)
    if record.vendor is not None and all(state.name != record.vendor for state in others):
        others = (*others, VendorState(name=record.vendor, wait=_own_wait(closing, policy)))
    after = replace(
        record,
        counted=record.counted + _counts(record, result, closing),
        refused=_merged(record.refused, result.refused),
    )
    decision = _follow(after, result, others, policy, rand)
    return decision if closing is None else replace(decision, vendor_closing=closing)


def _follow(
    record: Snapshot,
    result: SendResult,
    others: Sequence[VendorState],
    policy: Policy,
    rand: Rand,
) -> Decision:
    if record.pin is not None and result.outcome is not Outcome.ACCEPTED:
        return _still_pinned(record, record.pin, result, others, policy, rand)
    match result.outcome:
        case Outcome.ACCEPTED:
            return _accepted(record, result, others, policy, rand)
        case Outcome.REJECTED:
            return end(record, Reason.REJECTED)
        case Outcome.UNSUITABLE:
            return _next_vendor(_refused_here(record), others, policy, rand)
        case Outcome.DEFERRED:
            return _end_round(record, others, policy, rand, at_least=_named(result, policy) or 0.0)
        case Outcome.THROTTLED if result.our_fault:
            return _no_room(record, others, policy)
        case Outcome.THROTTLED | Outcome.UNAVAILABLE | Outcome.MISCONFIGURED:
            return _next_vendor(record, others, policy, rand)
        case Outcome.UNKNOWN:
            return _unknown(record, others, policy, rand)
        case _:
            assert_never(result.outcome)


def believed(record: Snapshot, result: SendResult) -> SendResult:
    """What the answer proves. That a vendor has seen the key is a yes only after an unknown there:

    an earlier request that it refused may have used the key up, and then nothing was sent.
    """
    if result.replay and record.vendor not in record.unknown_at:
        return replace(result, outcome=Outcome.UNKNOWN, replay=False)
    return result


def refuses_all(result: SendResult) -> SendResult:
    """The answer of a vendor that refuses everything: the account's trouble, not the e-mail's."""
    return replace(
        result,
        outcome=Outcome.MISCONFIGURED,
        code=f"{REFUSES_ALL} {result.code}".strip(),
        content_suspect=True,
        refused=(),
        pending=(),
    )


def vendor_closing(record: Snapshot, result: SendResult, policy: Policy) -> Suspension | None:
    """What the outcome says about the vendor; None leaves its health as it is."""
    if result.our_fault:
        return None
    outcome, seconds = result.outcome, policy.unavailable_for
    if outcome is Outcome.ACCEPTED and result.quota_held:
        outcome = Outcome.MISCONFIGURED
    named = _named(result, policy)
    match outcome:
        case Outcome.ACCEPTED | Outcome.REJECTED | Outcome.UNSUITABLE | Outcome.DEFERRED:
            return None
        case Outcome.THROTTLED:
            seconds = policy.silent_throttle if named is None else named
        case Outcome.UNAVAILABLE | Outcome.UNKNOWN | Outcome.MISCONFIGURED:
            if result.code.startswith(REFUSES_ALL):
                seconds = min(seconds, policy.silent_throttle)
        case _:
            assert_never(outcome)
    return Suspension(
        seconds=seconds,
        reason=f"{outcome} {result.code}".strip(),
        named=named,
        of_content=result.may_be_content,
        in_doubt=result.may_be_content and record.in_doubt,
    )


def _named(result: SendResult, policy: Policy) -> float | None:
    """The pause that the vendor asked for; none at all would be an invitation to a hot loop."""
    seconds = result.retry_after
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, policy.least_pause), policy.max_wait)


def _own_wait(closing: Suspension | None, policy: Policy) -> float:
    """When the vendor just asked may be asked again, if nobody else is left: its early probe."""
    if closing is None or closing.of_content:
        return 0.0
    return min(closing.seconds, max(closing.named or 0.0, policy.probe_base))


def _counts(record: Snapshot, result: SendResult, closing: Suspension | None) -> bool:
    """True when the attempt counts towards ``max_attempts``: the vendor is not to blame.

    A hint counts for neither: whether the e-mail draws it everywhere or all vendors are down cannot
    be told, and no outage may use up an e-mail.
    """
    if result.outcome is Outcome.UNKNOWN:
        return record.pin is None
    if (result.outcome is Outcome.THROTTLED and result.our_fault) or _rest_at_once(record, result):
        return False
    return closing is None


def _sent(record: Snapshot) -> Decision:
    """All that was left has been taken."""
    return Decision(
        status=Status.SENT,
        priority=_priority(record),
        round=record.round,
        refused=record.refused,
        unknowns=record.unknowns,
        counted=record.counted + 1,
    )


def _accepted(
    record: Snapshot,
    result: SendResult,
    others: Sequence[VendorState],
    policy: Policy,
    rand: Rand,
) -> Decision:
    at_once = _rest_at_once(record, result)
    if record.pin is not None or record.pending is not None or result.pending:
        record = replace(record, pin=None, pending=result.pending or None)
    if not result.pending:
        return _decision(record, Status.SENT)
    if at_once:
        return _unless_over(record, policy, 0.0)
    return _end_round(record, others, policy, rand, at_least=_named(result, policy) or 0.0)


def _rest_at_once(record: Snapshot, result: SendResult) -> bool:
    """Whether the vendor took as many as it takes at a time, and takes the next without a pause.

    They get fewer with every transaction, else it is no more than a word.
    """
    if result.outcome is not Outcome.ACCEPTED or not result.pending or result.retry_after != 0:
        return False
    return record.pending is None or len(result.pending) < len(record.pending)


def _unknown(
    record: Snapshot, others: Sequence[VendorState], policy: Policy, rand: Rand
) -> Decision:
    """Repeat under the same key where that is safe, else resend once or park."""
    life = min(policy.pin_life, record.key_life) - record.key_age
    if record.vendor is not None and record.key is not None and life > 0:
        pin = Pin(vendor=record.vendor, key=record.key, remaining=life)
        return _decision(replace(record, pin=pin), Status.QUEUED)
    return _ordinary_unknown(record, others, policy, rand)


def _ordinary_unknown(
    record: Snapshot, others: Sequence[VendorState], policy: Policy, rand: Rand
) -> Decision:
    record = replace(record, pin=None, unknowns=record.unknowns + 1)
    if not policy.resend_unknown or record.unknowns > 1:
        return _decision(record, Status.UNCERTAIN, reason=Reason.UNKNOWN)
    again = _next_vendor(record, others, policy, rand)
    if not record.lookup or again.status.final:
        return again
    # A vendor that can be asked is asked first, once it may know the answer.
    return replace(again, delay=max(again.delay, policy.lookup_after))


def _still_pinned(
    record: Snapshot,
    pin: Pin,
    result: SendResult,
    others: Sequence[VendorState],
    policy: Policy,
    rand: Rand,
) -> Decision:
    """The same request under the same key got no yes: repeat it here until the pin ends."""
    delay = _jitter(policy.pin_base, pin.repeats, policy.cap, rand)
    delay = max(delay, _named(result, policy) or 0.0)
    said_no = result.outcome in (Outcome.REJECTED, Outcome.UNSUITABLE)
    if said_no or delay >= pin.remaining:
        return _ordinary_unknown(record, others, policy, rand)
    again = replace(record, pin=replace(pin, repeats=pin.repeats + 1))
    return _decision(again, Status.QUEUED, delay=delay)


def _nobody_asked(
    record: Snapshot, others: Sequence[VendorState], policy: Policy, rand: Rand
) -> Decision:
    if record.pin is not None:  # the pin ran out while the e-mail waited
        return _ordinary_unknown(replace(record, vendor=record.pin.vendor), others, policy, rand)
    if all(state.name in record.round.refused for state in others):
        return end(record, Reason.REFUSED_BY_ALL)
    return _end_round(record, others, policy, rand)


def _no_room(record: Snapshot, others: Sequence[VendorState], policy: Policy) -> Decision:
    """No connection came free at a vendor that works: as if it had not been its turn.

    Another is asked at once; is there none, the e-mail waits for a moment, in the same round.
    """
    tried = _merged(record.round.tried, (record.vendor,) if record.vendor else ())
    if not any(s.wait <= 0 and s.name not in (*tried, *record.round.refused) for s in others):
        return _unless_over(record, policy, _NO_ROOM)
    return _unless_over(replace(record, round=replace(record.round, tried=tried)), policy, 0.0)


def _refused_here(record: Snapshot) -> Snapshot:
    refused = _merged(record.round.refused, (record.vendor,) if record.vendor else ())
    return replace(record, round=replace(record.round, refused=refused))


def _next_vendor(
    record: Snapshot, others: Sequence[VendorState], policy: Policy, rand: Rand
) -> Decision:
    """Hand the e-mail to an untried vendor at once, or end the round when there is none."""
    refused = record.round.refused
    if all(state.name in refused for state in others):
        return end(record, Reason.REFUSED_BY_ALL)
    tried = _merged(record.round.tried, (record.vendor,) if record.vendor else ())
    if any(s.wait <= 0 and s.name not in tried and s.name not in refused for s in others):
        record = replace(record, round=replace(record.round, tried=tried))
        return _unless_over(record, policy, 0.0)
    return _end_round(record, others, policy, rand)


def _end_round(
    record: Snapshot,
    others: Sequence[VendorState],
    policy: Policy,
    rand: Rand,
    at_least: float = 0.0,
) -> Decision:
    """Start a new round after a pause: never at once, never before somebody may be asked."""
    asked = record.vendor is not None or bool(record.round.tried)
    pause = _jitter(policy.base, record.round.n, policy.cap, rand) if asked else 0.0
    waits = [s.wait for s in others if s.name not in record.round.refused]
    pause = max(pause, min(waits, default=policy.base), 0.0 if record.vendor else 1.0)
    fresh = replace(record.round, n=record.round.n + asked, tried=())
    pause = max(pause, at_least)
    return _unless_over(replace(record, round=fresh), policy, pause)


def _unless_over(record: Snapshot, policy: Policy, delay: float) -> Decision:
    """Queue the e-mail again unless its time or its attempts are used up."""
    if record.expires_in is not None and record.expires_in <= 0:
        return end(record, Reason.EXPIRED)
    if record.age >= policy.give_up_after:
        return end(record, Reason.GAVE_UP)
    if record.counted >= policy.max_attempts:
        return end(record, Reason.EXHAUSTED)
    return _decision(record, Status.QUEUED, delay=delay)


def end(record: Snapshot, reason: Reason) -> Decision:
    """End without a (further) yes; what may have left our hands is never called failed."""
    if record.pin is not None:
        record = replace(record, pin=None, unknowns=record.unknowns + 1)
    if record.unknowns:
        return _decision(record, Status.UNCERTAIN, reason=reason)
    if record.pending is not None:
        refused = _merged(record.refused, record.pending)
        return _decision(replace(record, pending=None, refused=refused), Status.SENT)
    return _decision(record, Status.FAILED, reason=reason)


def untouched(record: Snapshot) -> Decision:
    """The claim is given back and nothing was sent: the e-mail is queued as it was."""
    return replace(_decision(record, Status.QUEUED), priority=retry_priority(record.priority))


def undecided(record: Snapshot, result: SendResult) -> Decision:
    """What is right after ``result`` whatever the rules say: used when they cannot be asked.

    A yes stands, what may have left waits for a person, all else is tried again after a while.
    """
    if result.outcome is Outcome.ACCEPTED and not result.pending:
        return _decision(replace(record, pin=None, pending=None), Status.SENT)
    if result.outcome in (Outcome.ACCEPTED, Outcome.UNKNOWN):
        record = replace(record, pin=None, unknowns=record.unknowns + 1)
        return _decision(record, Status.UNCERTAIN, reason=Reason.UNKNOWN)
    return _decision(record, Status.QUEUED, delay=UNDECIDED_DELAY)


def _decision(
    record: Snapshot, status: Status, *, reason: str | None = None, delay: float = 0.0
) -> Decision:
    return Decision(
        status=status,
        priority=_priority(record),
        reason=reason,
        delay=delay,
        round=record.round,
        pin=record.pin,
        pending=record.pending,
        refused=record.refused,
        unknowns=record.unknowns,
        counted=record.counted,
    )


def _priority(record: Snapshot) -> int:
    """The job's: an e-mail that was tried goes before those that wait for their first try."""
    fresh = record.vendor is None and record.round == _FIRST
    return record.priority if fresh else retry_priority(record.priority)


def _jitter(base: float, step: int, cap: float, rand: Rand) -> float:
    """Full jitter: anything between nothing and the doubled base, at most ``cap``."""
    return float(rand() * min(cap, base * 2.0 ** min(step, 63)))


def _merged(known: tuple[str, ...], more: Sequence[str]) -> tuple[str, ...]:
    return (*known, *(name for name in more if name not in known))
