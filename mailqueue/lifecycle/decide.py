"""What becomes of an e-mail: the one decision over statuses and outcomes. Pure.

Decides: after an attempt (or when no vendor could be asked) the next status of the e-mail, the
delay and priority of its job, what is held against the vendor, and how the next round starts.

Assumes: a ``Case``, one consistent view of the e-mail document, with times already turned into
durations on the database server's clock, and the vendors' state beside it.

Promises: no I/O, no clock, no randomness but the ``rand`` that is handed in. Durations go out;
only ``store`` turns them into times. What is not known is ``unknown``. An e-mail ends without a
yes as ``failed`` only if surely no copy left our hands; otherwise it is ``uncertain``.

Who is to blame? A failed attempt is held against the vendor (``suspension``) or against the e-mail
(it counts towards ``max_attempts``). Only an unknown outcome is held against both. So an outage,
however often it comes back, cannot use up an e-mail's attempts; only ``give_up_after`` ends it. An
answer that the e-mail's content may have drawn is a hint: it suspends the vendor only together with
hints of other e-mails (see ``rotation``). A vendor that refuses one e-mail after the other refuses
us: its word about the e-mails does not count (``refuses_all``). They wait for another vendor, or
until it takes one again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, assert_never

from mailqueue.lifecycle.outcomes import (
    Case,
    CurrentAttempt,
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
    retry_priority,
)

Rand = Callable[[], float]
REFUSES_ALL = "refuses_all"
_FIRST = Round()
# Seconds
FALLBACK_DELAY = 60.0
_NO_ROOM = 1.0  # all our connections to the vendor are in use
_NOBODY_ASKED = 1.0  # an e-mail that came back at once would find nobody again, and turn for ever


class Decider:
    """The rules under a ``policy``. ``rand`` gives a number in [0, 1). Any thread may call."""

    def __init__(self, policy: Policy, rand: Rand) -> None:
        self._policy = policy
        self._rand = rand
        self._rules: Mapping[Outcome, Callable[[Case, SendResult], Decision]] = {
            Outcome.ACCEPTED: self._on_accepted,
            Outcome.REJECTED: self._on_rejected,
            Outcome.UNSUITABLE: self._on_unsuitable,
            Outcome.DEFERRED: self._on_deferred,
            Outcome.THROTTLED: self._on_throttled,
            Outcome.UNAVAILABLE: self._next_vendor,
            Outcome.MISCONFIGURED: self._next_vendor,
            Outcome.UNKNOWN: self._on_unknown,
        }

    def decide(self, case: Case, result: SendResult | None) -> Decision:
        """Say what follows for an e-mail after ``result``; None: no vendor could be asked.

        After a full yes ``case.waits`` do not matter, and may be empty.
        """
        if result is None:
            return self._unless_over(case.email, self._on_nobody_asked(case))
        accepted = result.outcome is Outcome.ACCEPTED
        if accepted and not (result.pending or result.refused or result.quota_held):
            return _sent(case.email)  # as nearly always: nothing else has to be looked at
        case, pin = self._after_attempt(case, result), case.email.pin
        # Only the pinned vendor knows the key. Any other vendor would make a second copy, so the
        # usual rules (the next vendor, a new round) do not hold while the pin lasts.
        if pin is not None and not accepted:
            decision = self._repeat_pinned(case, pin, result)
        else:
            decision = self._rules[result.outcome](case, result)
        return self._unless_over(case.email, decision)

    def _after_attempt(self, case: Case, result: SendResult) -> Case:
        """The case as the attempt leaves it, before any rule.

        The attempt is counted, refused recipients are noted, and the vendor's own wait follows from
        its answer where the case does not have it.
        """
        blame, waits = suspension(result, self._policy), dict(case.waits)
        for vendor in case.asked:
            waits.setdefault(vendor, self._own_wait(blame))
        counted = case.email.counted + _counts(case.email, result, blame)
        refused = _merge(case.email.refused, result.refused)
        return replace(case, waits=waits).with_email(counted=counted, refused=refused)

    def _own_wait(self, blame: Suspension | None) -> float:
        """Seconds until the early probe of the vendor that was just asked."""
        # A hint alone suspends no vendor, so this one may be asked again in the next round.
        if blame is None or blame.is_hint:
            return 0.0
        return min(blame.seconds, max(blame.retry_after or 0.0, self._policy.probe_base))

    # The rules, one for each outcome -----------------------------------------------------------

    def _on_accepted(self, case: Case, result: SendResult) -> Decision:
        """Only those who were put off are tried again, by a vendor that can send to a part."""
        rest = case.with_email(pin=None, pending=result.pending or None)
        if not result.pending:
            return _decision(rest, Status.SENT)
        if _rest_at_once(case.email, result):
            return _decision(rest, Status.QUEUED)
        return self._on_deferred(rest, result)

    def _on_rejected(self, case: Case, _: SendResult) -> Decision:
        """The e-mail itself is refused for good: other vendors would refuse it as well."""
        return _end(case, Reason.REJECTED)

    def _on_unsuitable(self, case: Case, _: SendResult) -> Decision:
        """Only this vendor cannot take it: remembered beyond the round, so that others can."""
        current = case.email.round
        current = replace(current, refused=_merge(current.refused, case.asked))
        return self._next_vendor(case.with_email(round=current))

    def _on_deferred(self, case: Case, result: SendResult) -> Decision:
        """The recipients' server wants us to wait, whichever vendor asks it: the round ends."""
        # The server of the recipient says no to whoever delivers there now. Another vendor at once
        # would most likely get the same answer, and would use up one more attempt.
        fresh, pause = self._new_round(case)
        pause = max(pause, _retry_after(result, self._policy) or 0.0)
        return _decision(case, Status.QUEUED, delay=pause, round=fresh)

    def _on_throttled(self, case: Case, result: SendResult) -> Decision:
        """The vendor is as good as down, unless only our own connections to it were all in use.

        Then it is passed over: another is asked at once. If there is none, the e-mail waits for a
        moment in the same round, since nothing was tried.
        """
        if not result.our_fault:
            return self._next_vendor(case)
        passed = replace(case.email.round, tried=_merge(case.email.round.tried, case.asked))
        if _has_untried(case, passed):
            return _decision(case, Status.QUEUED, round=passed)
        return _decision(case, Status.QUEUED, delay=_NO_ROOM)

    def _on_unknown(self, case: Case, _: SendResult) -> Decision:
        """A copy may have left. Under a key that the vendor knows a repeat makes no second one."""
        attempt = case.attempt
        if attempt is None or attempt.key is None:
            return self._resend(case)
        # The vendor counts a key's life from its first use, so a repeat does not make it longer.
        life = min(self._policy.pin_life, attempt.key_life) - attempt.key_age
        if life <= 0:  # the vendor may have forgotten it
            return self._resend(case)
        pin = Pin(vendor=attempt.vendor, key=attempt.key, remaining=life)
        return _decision(case, Status.QUEUED, pin=pin)

    def _repeat_pinned(self, case: Case, pin: Pin, result: SendResult) -> Decision:
        """The repeat got no yes: repeat again while the pin lasts.

        A no to the repeat says nothing about the first request: that stays unknown.
        """
        delay = self._backoff(self._policy.pin_base, pin.repeats)
        delay = max(delay, _retry_after(result, self._policy) or 0.0)
        # A vendor that refuses the repeat would most likely refuse the next one too. After the
        # pin's end it may have forgotten the key, and would take the repeat for a new e-mail.
        if result.outcome in (Outcome.REJECTED, Outcome.UNSUITABLE) or delay >= pin.remaining:
            return self._resend(case)
        again = replace(pin, repeats=pin.repeats + 1)
        return _decision(case, Status.QUEUED, delay=delay, pin=again)

    def _on_nobody_asked(self, case: Case) -> Decision:
        """The pin ended while the e-mail waited, no vendor is left, or none may be asked now."""
        pin = case.email.pin
        if pin is not None:
            return self._resend(replace(case, attempt=CurrentAttempt(vendor=pin.vendor)))
        if case.refused_by_all:
            return _end(case, Reason.REFUSED_BY_ALL)
        fresh, pause = self._new_round(case)
        return _decision(case, Status.QUEUED, delay=pause, round=fresh)

    # What several rules lead to ----------------------------------------------------------------

    def _resend(self, case: Case) -> Decision:
        """An unknown outcome that no key makes safe: one more copy at most, or none."""
        case = case.with_email(pin=None, unknowns=case.email.unknowns + 1)
        # Each unknown outcome may be a copy. The promise is two copies at most (one with "park"),
        # so nobody but a person may send it after that.
        if not self._policy.resend_unknown or case.email.unknowns > 1:
            return _decision(case, Status.UNCERTAIN, reason=Reason.UNKNOWN)
        decision = self._next_vendor(case)
        if decision.status.final or case.attempt is None or not case.attempt.lookup:
            return decision
        # A vendor that can be asked is asked before the resend, once it may know the answer.
        return replace(decision, delay=max(decision.delay, self._policy.lookup_after))

    def _next_vendor(self, case: Case, _: SendResult | None = None) -> Decision:
        """Hand the e-mail to an untried vendor at once; without one the round ends."""
        if case.refused_by_all:
            return _end(case, Reason.REFUSED_BY_ALL)
        onward, pause = case.email.round, 0.0
        onward = replace(onward, tried=_merge(onward.tried, case.asked))
        # All were asked in this round, or cannot be asked now. To ask them again at once would be a
        # hot loop over vendors that have just failed.
        if not _has_untried(case, onward):
            onward, pause = self._new_round(case)
        return _decision(case, Status.QUEUED, delay=pause, round=onward)

    def _new_round(self, case: Case) -> tuple[Round, float]:
        """The next round, and the seconds until it begins: the longest of three waits.

        The back-off of this round, if any vendor was tried in it; until some vendor may be asked;
        and a second if there was no attempt. A round without a try does not count in the back-off.
        """
        current = case.email.round
        tried = bool(case.asked or current.tried)
        usable = [wait for name, wait in case.waits.items() if name not in current.refused]
        pause = max(
            self._backoff(self._policy.base, current.n) if tried else 0.0,
            min(usable, default=self._policy.base),
            0.0 if case.asked else _NOBODY_ASKED,
        )
        return replace(current, n=current.n + int(tried), tried=()), pause

    def _unless_over(self, email: Snapshot, decision: Decision) -> Decision:
        """End what would be queued again when its time or its attempts are used up.

        Not while it is pinned: the repeats are short, and may yet tell that it was sent.
        """
        if decision.status is not Status.QUEUED or decision.pin is not None:
            return decision
        if email.expires_in is not None and email.expires_in <= 0:
            return _end_queued(decision, Reason.EXPIRED)
        if email.age >= self._policy.give_up_after:
            return _end_queued(decision, Reason.GAVE_UP)
        if decision.counted >= self._policy.max_attempts:
            return _end_queued(decision, Reason.EXHAUSTED)
        return decision

    def _backoff(self, base: float, step: int) -> float:
        """Seconds of back-off before a try: ``base`` doubled ``step`` times, at most ``cap``.

        Of that a random part ("full jitter"), so that e-mails that failed together come back apart.
        """
        return float(self._rand() * min(self._policy.cap, base * 2.0 ** min(step, 63)))


# What an answer means, whatever becomes of the e-mail --------------------------------------------


def resolve_replay(email: Snapshot, vendor: str, result: SendResult) -> SendResult:
    """What a yes proves that the vendor gave only because it has seen the key before.

    After an unknown outcome there, that the e-mail was sent. Else nothing: an earlier request that
    the vendor refused may have used the key up, so the outcome is unknown.
    """
    if result.replay and vendor not in email.unknown_vendors:
        return replace(result, outcome=Outcome.UNKNOWN, replay=False)
    return result


def refuses_all(result: SendResult) -> SendResult:
    """The answer of a vendor that refuses everything: the account's trouble, not the e-mail's."""
    # Ten bad addresses in a row look the same, so it stays a hint. Its refusals of recipients are
    # not believed either.
    return replace(
        result,
        outcome=Outcome.MISCONFIGURED,
        code=f"{REFUSES_ALL} {result.code}".strip(),
        content_suspect=True,
        refused=(),
        pending=(),
    )


def suspension(result: SendResult, policy: Policy, *, in_doubt: bool = False) -> Suspension | None:
    """What the outcome says about the vendor; None: nothing is held against it.

    ``in_doubt``: whether the e-mail itself may be why it was not taken before.
    """
    if result.our_fault:
        return None
    outcome, seconds = result.outcome, policy.unavailable_for
    if outcome is Outcome.ACCEPTED and result.quota_held:
        outcome = Outcome.MISCONFIGURED
    pause = _retry_after(result, policy)
    match outcome:
        case Outcome.ACCEPTED | Outcome.REJECTED | Outcome.UNSUITABLE | Outcome.DEFERRED:
            return None
        case Outcome.THROTTLED:
            seconds = policy.silent_throttle if pause is None else pause
        case Outcome.UNAVAILABLE | Outcome.UNKNOWN | Outcome.MISCONFIGURED:
            # The suspicion may be wrong (a list of bad addresses), so the vendor is soon probed.
            if result.code.startswith(REFUSES_ALL):
                seconds = min(seconds, policy.silent_throttle)
        case _:
            assert_never(outcome)
    return Suspension(
        seconds=seconds,
        reason=f"{outcome} {result.code}".strip(),
        retry_after=pause,
        is_hint=result.may_be_content,
        in_doubt=result.may_be_content and in_doubt,
    )


def _retry_after(result: SendResult, policy: Policy) -> float | None:
    """The pause that the vendor asked for; none at all would be an invitation to a hot loop."""
    seconds = result.retry_after
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, policy.least_pause), policy.max_wait)


def _counts(email: Snapshot, result: SendResult, blame: Suspension | None) -> bool:
    """True when the attempt counts towards ``max_attempts``: the vendor is not to blame.

    A hint counts for neither: whether the e-mail draws it everywhere or all vendors are down cannot
    be told, and no outage may use up an e-mail.
    """
    if result.outcome is Outcome.UNKNOWN:
        return email.pin is None  # its repeats are one attempt with the first
    if (result.outcome is Outcome.THROTTLED and result.our_fault) or _rest_at_once(email, result):
        return False
    return blame is None


def _rest_at_once(email: Snapshot, result: SendResult) -> bool:
    """Whether the vendor took as many as it takes at a time, and takes the next without a pause.

    They get fewer with every transaction, else it is no more than a word.
    """
    if result.outcome is not Outcome.ACCEPTED or not result.pending or result.retry_after != 0:
        return False
    return email.pending is None or len(result.pending) < len(email.pending)


# Decisions that need no policy -------------------------------------------------------------------


def end(email: Snapshot, reason: Reason) -> Decision:
    """End without a (further) yes; what may have left our hands is never called failed."""
    return _end(Case(email=email), reason)


def _end(case: Case, reason: Reason) -> Decision:
    return _end_queued(_decision(case, Status.QUEUED), reason)


def _end_queued(decision: Decision, reason: Reason) -> Decision:
    """End what would have been queued again.

    A pin stands for one more unknown outcome. After any, a copy may have left: ``uncertain``. Where
    some recipients have the e-mail, it is ``sent``, and those still pending count as refused.
    """
    decision = replace(decision, delay=0.0)
    # A pinned e-mail's unknown outcome is not counted yet, since a repeat may still clear it up.
    unknowns = decision.unknowns + (decision.pin is not None)
    if unknowns:
        return replace(
            decision, status=Status.UNCERTAIN, reason=reason, pin=None, unknowns=unknowns
        )
    if decision.pending is not None:
        refused = _merge(decision.refused, decision.pending)
        return replace(decision, status=Status.SENT, pending=None, refused=refused)
    status = Status.CANCELLED if reason is Reason.NOT_ALLOWED else Status.FAILED
    return replace(decision, status=status, reason=reason)


def requeue_unsent(email: Snapshot) -> Decision:
    """The claim is given back and nothing was sent: the e-mail is queued as it was."""
    decision = _decision(Case(email=email), Status.QUEUED)
    return replace(decision, priority=retry_priority(email.priority))


def fallback(email: Snapshot, result: SendResult) -> Decision:
    """What is right after ``result`` whatever the rules say: used when a bug keeps them silent.

    A yes stands, what may have left waits for a person, all else is tried again after a while.
    """
    case = Case(email=email)
    if result.outcome is Outcome.ACCEPTED and not result.pending:
        return _decision(case, Status.SENT, pin=None, pending=None)
    if result.outcome in (Outcome.ACCEPTED, Outcome.UNKNOWN):
        parked = case.with_email(pin=None, unknowns=email.unknowns + 1)
        return _decision(parked, Status.UNCERTAIN, reason=Reason.UNKNOWN)
    return replace(requeue_unsent(email), delay=FALLBACK_DELAY)


def _sent(email: Snapshot) -> Decision:
    """All that was left has been taken."""
    return Decision(
        status=Status.SENT,
        priority=retry_priority(email.priority),
        round=email.round,
        refused=email.refused,
        unknowns=email.unknowns,
        counted=email.counted + 1,
    )


def _decision(
    case: Case, status: Status, *, reason: str | None = None, delay: float = 0.0, **changes: Any
) -> Decision:
    """The decision, with these ``changes`` of the e-mail."""
    email = replace(case.email, **changes)
    # An e-mail that was tried goes before those that wait for their first try.
    fresh = case.attempt is None and email.round == _FIRST
    return Decision(
        status=status,
        priority=email.priority if fresh else retry_priority(email.priority),
        reason=reason,
        delay=delay,
        round=email.round,
        pin=email.pin,
        pending=email.pending,
        refused=email.refused,
        unknowns=email.unknowns,
        counted=email.counted,
    )


def _has_untried(case: Case, current: Round) -> bool:
    """Whether a vendor may be asked now that this round has not asked."""
    names = (*current.tried, *current.refused)
    return any(wait <= 0 and name not in names for name, wait in case.waits.items())


def _merge(first: tuple[str, ...], more: Sequence[str]) -> tuple[str, ...]:
    return (*first, *(name for name in more if name not in first))
