"""Changes of a state: pure, and without a guard; the world looks before it makes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailqueue.lifecycle.outcomes import Decision, SendResult, Status
from tests.model.states import KEY_LIFE, TAKEN, Door, Email, Idle, State, Work, ticks

QUEUED, SENDING, SENT = Status.QUEUED.value, Status.SENDING.value, Status.SENT.value


def with_email(state: State, i: int, email: Email) -> State:
    emails, works, doors, faults = state
    return State((*emails[:i], email, *emails[i + 1 :]), works, doors, faults)


def doing(state: State, w: int, work: Work | Idle) -> State:
    emails, works, doors, faults = state
    return State(emails, (*works[:w], work, *works[w + 1 :]), doors, faults)


def with_door(state: State, v: int, door: Door) -> State:
    return state._replace(doors=(*state.doors[:v], door, *state.doors[v + 1 :]))


def with_works(state: State, which: Callable[[Work], bool], **changes: Any) -> State:
    works = tuple(
        w._replace(**changes) if isinstance(w, Work) and which(w) else w for w in state.works
    )
    return state._replace(works=works)


def put(email: Email, delay: int) -> Email:
    return email._replace(jobs=tuple(sorted((*email.jobs, delay))))


def again(state: State, w: int, work: Work) -> State:
    """The worker starts anew with its job: it is as good as on the tube."""
    email = state.emails[work.email]
    state = with_email(state, work.email, put(email, 0) if work.job else email)
    return doing(state, w, Idle())


def late_yes(email: Email) -> Email:
    if email.status == SENDING:
        return email._replace(late_accept=True)
    return email._replace(status=SENT, due=0, pin=())


def blames(result: SendResult) -> bool:
    return result.may_be_content


def settled(email: Email, decision: Decision, hint_vendor: str) -> Email:
    """Write the decision down; a late yes in the meantime wins."""
    pin: tuple[str | int, ...] = ()
    if decision.pin:
        pin = (decision.pin.vendor, ticks(decision.pin.remaining), min(1, decision.pin.repeats))
    end = SENT if email.late_accept else decision.status.value
    resent = decision.unknowns > email.unknowns and end == QUEUED
    return email._replace(
        status=end,
        due=ticks(decision.delay) if end == QUEUED else 0,
        lease=0,
        vendor="",
        probe=False,
        counted=decision.counted,
        unknowns=decision.unknowns,
        rounds=min(1, decision.round.n),
        tried=tuple(sorted(decision.round.tried)),
        refused=tuple(sorted(decision.round.refused)),
        hint_vendors=tuple(sorted({*email.hint_vendors, hint_vendor} - {""})),
        pin=pin,
        resent=email.resent + resent,
    )


def later(state: State, n: int) -> State:
    """``n`` ticks later; the tube has taken back the jobs of those who are paused."""

    def left(timer: int) -> int:
        return max(0, timer - n) if timer > 0 else timer

    emails = []
    for email in state.emails:
        pin = email.pin
        if pin:
            pin = (pin[0], left(int(pin[1])), pin[2])
        key = left(email.key_left) or -1
        emails.append(
            email._replace(
                due=left(email.due),
                lease=left(email.lease),
                jobs=tuple(left(job) for job in email.jobs),
                pin=pin,
                key_left=key,
                key_taken=email.key_taken and key > 0,
            )
        )
    doors = tuple(_door_later(d, left) for d in state.doors)
    after = state._replace(emails=tuple(emails), doors=doors)
    for work in state.works:
        if isinstance(work, Work) and work.job:
            i = work.email
            after = with_email(after, i, put(after.emails[i], 0))
    return with_works(after, lambda w: w.paused, job=False)


def _door_later(d: Door, left: Callable[[int], int]) -> Door:
    moved = d._replace(
        until=left(d.until),
        named=left(d.named),
        at=left(d.at),
        probe=left(d.probe),
        resort=left(d.resort),
    )
    return moved._replace(probe=-1, orphan=False) if d.orphan and not moved.probe else moved


def taken(email: Email, keyed: bool, answer: str) -> Email:
    """What the vendor really took; one that knows the key takes no second copy."""
    yes = answer in TAKEN
    if not keyed:
        return email._replace(copies=email.copies + yes)
    fresh = email.key_left < 0
    known = email.key_taken and not fresh
    return email._replace(
        copies=email.copies + (yes and not known),
        key_left=KEY_LIFE if fresh else email.key_left,
        key_taken=known or yes,
    )


def two_probes(state: State, work: Work) -> str:
    probing = [
        w
        for w in state.works
        if isinstance(w, Work)
        and w.vendor == work.vendor
        and w.probe in ("held", "lost")
        and w.at in ("send", "tell")
        and not w.paused
    ]
    return "two probes of one vendor at a time" if len(probing) > 1 else ""
