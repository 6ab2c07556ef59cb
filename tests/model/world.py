"""The world around the product's pure functions: store, tube, health I/O, and what goes wrong.

Decides: every step that can follow a state, as docs/lifecycle.md and docs/design.md say: guarded
claim and settlement, late yes without guard, rescue of expired leases, relay, the probe's slot.

Assumes: a worker's steps are the moments between which others may act: reserve and choose, win the
probe, claim, send, tell health, settle and acknowledge. Time passes when nobody has anything to do;
that a process or the whole fleet is slow instead is a fault like a crash.

Promises: the product's functions decide (``Rules``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from mailqueue.lifecycle.decide import suspension
from mailqueue.lifecycle.outcomes import Decision, Status
from mailqueue.routing import rotation
from mailqueue.routing.rotation import Health, Permit, Sign
from tests.model.changes import (
    QUEUED,
    SENDING,
    again,
    blames,
    doing,
    late_yes,
    later,
    put,
    settled,
    taken,
    two_probes,
    with_door,
    with_email,
    with_works,
)
from tests.model.rules import Deciding, Step
from tests.model.states import (
    KINDS,
    LEASE,
    NOW,
    RESULTS,
    TICK,
    VENDORS,
    Door,
    Email,
    Idle,
    State,
    Work,
    door,
    health,
    snapshot,
)


def _asks(vendor: str, work: Work) -> bool:
    return work.vendor == vendor


class World(Deciding):
    """All steps from a state, under ``rules``."""

    def steps(self, state: State) -> Iterator[Step]:
        """Every step from ``state``; a fault is paid for. A paused worker keeps nobody waiting."""
        busy = any(isinstance(w, Work) and not w.paused for w in state.works)
        urgent = False
        for step in self._actions(state):
            urgent = urgent or not step.fault
            yield self._paid(step, state)
        for w, work in enumerate(state.works):
            if isinstance(work, Work) and work.paused:
                yield from (self._paid(step, state) for step in self._work(state, w, work))
        if not busy:
            yield from self._time(state, "slow" if urgent else "")

    def _actions(self, state: State) -> Iterator[Step]:
        for w, work in enumerate(state.works):
            if work in state.works[:w]:
                continue
            if isinstance(work, Idle):
                yield from self._reserve(state, w)
            elif not work.paused:
                yield from self._work(state, w, work)
        for i, email in enumerate(state.emails):
            yield from self._sweep(state, i, email)
            yield from self._mishaps(state, i, email)

    def _paid(self, step: Step, state: State) -> Step:
        if step.fault in ("", "free"):
            return step
        left = list(state.faults)
        left[KINDS.index("any")] -= 1
        left[KINDS.index(step.fault)] -= 1
        faults = tuple(left) if left[0] else (0,) * len(KINDS)
        return step._replace(state=step.state._replace(faults=faults))

    def _may(self, state: State, kind: str) -> bool:
        return state.faults[0] > 0 and state.faults[KINDS.index(kind)] > 0

    # The tube and time ---------------------------------------------------------------------------

    def _time(self, state: State, fault: str) -> Iterator[Step]:
        """Time passes, up to the next moment at which anything changes."""
        if fault and not self._may(state, fault):
            return
        timers = [
            left
            for e in state.emails
            for left in (e.due, e.lease, e.key_left, *e.pin[1:2], *e.jobs)
            if isinstance(left, int) and left > 0
        ]
        timers += [t for d in state.doors for t in (*d[:3], d.probe, d.resort) if t > 0]
        if timers:
            n = min(timers)
            yield self._paid(Step(f"{n} ticks pass", later(state, n), fault, n), state)

    def _mishaps(self, state: State, i: int, email: Email) -> Iterator[Step]:
        """A job is doubled or lost; the caller cancels."""
        if not email.final and len(email.jobs) < 2 and self._may(state, "tube"):
            yield Step(f"job of {i} doubled", with_email(state, i, put(email, 0)), "tube")
        if email.jobs and not email.final and self._may(state, "tube"):
            fewer = email._replace(jobs=email.jobs[1:])
            yield Step(f"job of {i} lost", with_email(state, i, fewer), "tube")
        if email.status == QUEUED and self._may(state, "cancel"):
            left = email.unknowns or email.pin
            end = Status.UNCERTAIN if left else Status.CANCELLED
            ended = email._replace(status=end.value, due=0)
            yield Step(f"{i} cancelled", with_email(state, i, ended), "cancel")

    def _sweep(self, state: State, i: int, email: Email) -> Iterator[Step]:
        """Rescue an expired lease; put a job that the tube has lost."""
        if email.status == SENDING and email.lease == 0:
            for decision in self.decide(state, email, "unknown, ours", email.vendor):
                rescued = settled(email, decision, "")
                if not rescued.final and not rescued.jobs:
                    rescued = put(rescued, 0)
                stale = with_works(state, lambda w: w.email == i, mine=False)
                yield Step(f"{i} rescued: {rescued.status}", with_email(stale, i, rescued))
        reserved = any(isinstance(w, Work) and w.email == i and w.job for w in state.works)
        waits = email.status == QUEUED and email.due == 0 and not email.jobs and not reserved
        if waits and self.rules.relay:
            yield Step(f"{i} put on the tube again", with_email(state, i, put(email, 0)))

    # A worker, step by step ----------------------------------------------------------------------

    def _reserve(self, state: State, w: int) -> Iterator[Step]:
        for i, email in enumerate(state.emails):
            if 0 in email.jobs and not (email.status == SENDING and email.lease == 0):
                taken = email._replace(jobs=email.jobs[1:])
                yield from self._choose(with_email(state, i, taken), w, i, taken)

    def _choose(self, state: State, w: int, i: int, email: Email) -> Iterator[Step]:
        """Read the e-mail; acknowledge, put back, or choose a vendor."""
        if email.final:
            yield Step(f"job of {i} deleted", state)
            return
        if email.lease or email.due:
            wait = email.lease or email.due
            yield Step(f"job of {i} put back", with_email(state, i, put(email, wait)))
            return
        seen = {n: health(n, d) for n, d in zip(VENDORS, state.doors, strict=True)}
        known = snapshot(email)
        choices = {
            self.rules.choose(job, self._weights, VENDORS, known, seen, NOW) for job in (0, 1)
        }
        for choice in sorted(choices - {None}, key=str):
            assert choice is not None
            at, probe = ("win", "wanted") if choice.probe else ("claim", "")
            work = Work(i, at, choice.vendor, probe)
            yield Step(f"{w} takes {i} for {work.vendor} {probe}", doing(state, w, work))
        if None in choices:
            yield from self._nobody(state, i, email)

    def _nobody(self, state: State, i: int, email: Email) -> Iterator[Step]:
        for decision in self.decide(state, email, "", None):
            wrong = ""
            if not decision.delay and decision.status is Status.QUEUED and not email.pin:
                wrong = "released at once without an attempt"
            after = settled(email, decision, "")
            after = after if after.final else put(after, after.due)
            label = f"nobody for {i}: {decision.status} {decision.reason or ''}, {after.due} ticks"
            wrong = wrong or self._end_is_wrong(after, decision)
            yield Step(label, with_email(state, i, after), wrong=wrong)

    def _work(self, state: State, w: int, work: Work) -> Iterator[Step]:
        step = {
            "win": self._win,
            "claim": self._claim,
            "send": self._send,
            "tell": self._tell,
            "settle": self._settle,
        }[work.at]
        yield from step(state, w, work)
        if work.at != "win" and self._may(state, "crash") and (work.at != "claim" or work.probe):
            yield Step(f"{w} crashes before {work.at}", self._crashed(state, w, work), "crash")
        if not work.paused and self._may(state, "pause"):
            held = doing(state, w, work._replace(paused=True))
            yield Step(f"{w} is paused before {work.at}", held, "pause")

    def _crashed(self, state: State, w: int, work: Work) -> State:
        """The connection closes: the job is ready at once. A probe's slot stays held."""
        if work.probe == "held":
            v = VENDORS.index(work.vendor)
            state = with_door(state, v, state.doors[v]._replace(orphan=True))
        return again(state, w, work)

    def _win(self, state: State, w: int, work: Work) -> Iterator[Step]:
        v = VENDORS.index(work.vendor)
        was = state.doors[v]
        now = health(work.vendor, was)
        doubt = snapshot(state.emails[work.email]).in_doubt
        won = self.rules.win_probe(now, NOW, LEASE * TICK, "held", doubt)
        if won is None:
            yield Step(f"{w} loses the probe of {work.vendor}", again(state, w, work))
            return
        if won.probe_token != "held" or won.probe_until == now.probe_until:
            left = with_door(state, v, door(won, was, orphan=was.orphan))
            yield Step(f"{w} leaves the probe of {work.vendor} to others", again(left, w, work))
            return
        early = rotation.probe_wait(now, NOW, early=True) > 0
        lost = with_works(
            state, lambda o: o.vendor == work.vendor and o.probe == "held", probe="lost"
        )
        after = doing(lost, w, work._replace(at="claim", probe="held", fresh=True))
        label = f"{w} wins the probe of {work.vendor}"
        wrong = "a probe before its time" if early else ""
        if doubt and (now.last_resort_at is None or now.last_resort_at > NOW):
            wrong = wrong or "a probe by an e-mail in doubt before others could"
        yield Step(label, with_door(after, v, door(won, was, orphan=False)), wrong=wrong)

    def _claim(self, state: State, w: int, work: Work) -> Iterator[Step]:
        i, email = work.email, state.emails[work.email]
        ready = email.status == QUEUED and email.due == 0 and work.mine
        if self.rules.claim_guarded and not ready:
            state = self._probe_back(state, work)
            yield Step(f"{w} loses the claim of {i}", again(state, w, work))
            return
        claimed = email._replace(
            status=SENDING, lease=LEASE, vendor=work.vendor, probe=bool(work.probe)
        )
        stale = with_works(state, lambda o: o.email == i, mine=False)
        after = doing(stale, w, work._replace(at="send", mine=True))
        yield Step(f"{w} claims {i}", with_email(after, i, claimed))

    def _probe_back(self, state: State, work: Work) -> State:
        if work.probe != "held" or not self.rules.gives_probe_back:
            return state
        v = VENDORS.index(work.vendor)
        held = health(work.vendor, state.doors[v])
        given = rotation.apply_verdict(held, self._permit(work, held), Sign.NONE, NOW)
        return with_door(state, v, door(given, state.doors[v], orphan=False))

    def _send(self, state: State, w: int, work: Work) -> Iterator[Step]:
        """The vendor answers; a worker that was paused past its lease may notice."""
        always = self.scenario.always.get((work.email, work.vendor))
        normal = always or "yes"
        answers = [(normal, "")]
        if always is None:
            answers += [(a, "free") for a in self.scenario.free]
            if self._may(state, "answer"):
                answers += [(a, "answer") for a in self.scenario.answers]
        for answer, fault in answers:
            sent = with_email(
                state,
                work.email,
                taken(state.emails[work.email], work.vendor in self.scenario.keyed, answer),
            )
            after = doing(sent, w, work._replace(at="tell", answer=answer))
            wrong = two_probes(after, work)
            yield Step(f"{w} sends {work.email} to {work.vendor}: {answer}", after, fault, 0, wrong)
        if work.paused:
            yield self._too_late(state, w, work)

    def _too_late(self, state: State, w: int, work: Work) -> Step:
        state = self._probe_back(state, work)
        email = state.emails[work.email]
        if work.mine and email.status == SENDING:
            state = with_email(state, work.email, email._replace(status=QUEUED, lease=0, vendor=""))
        return Step(f"{w} is too late to send {work.email}", again(state, w, work))

    # After the answer ----------------------------------------------------------------------------

    def _tell(self, state: State, w: int, work: Work) -> Iterator[Step]:
        """Health hears the outcome: compare and set on what was read or the probe's token."""
        v, email = VENDORS.index(work.vendor), state.emails[work.email]
        was = state.doors[v]
        before = health(work.vendor, was)
        after = self._heard(state, before, work)
        next_ = self._proven(doing(state, w, work._replace(at="settle")), work)
        truth = self._drew(was, work, email)
        wrong = self._hint_is_wrong(before, after, work, bool(was.drew) and not truth.drew)
        if after == before:
            next_ = with_door(next_, v, was._replace(drew=truth.drew, shown=truth.shown))
            yield Step(f"{w} has nothing to tell of {work.vendor}", next_, wrong=wrong)
            return
        if before.available and not after.available:
            names = tuple(sorted({*email.suspended, work.vendor}))
            next_ = with_email(next_, work.email, email._replace(suspended=names))
        changed = after.generation != before.generation
        if changed:
            next_ = with_works(next_, lambda o: o.vendor == work.vendor, fresh=False)
            next_ = with_works(
                next_, lambda o: o.vendor == work.vendor and o.probe != "", probe="lost"
            )
        next_ = with_door(next_, v, door(after, truth, orphan=was.orphan and not changed))
        label = f"{w} {'restores' if after.available else 'suspends'} {work.vendor}"
        label = label if changed else f"{w} tells of {work.vendor}"
        wrong = wrong or self._telling_is_wrong(next_, before, after, work)
        yield Step(label, next_, wrong=wrong)

    def _heard(self, state: State, before: Health, work: Work) -> Health:
        in_doubt, result = snapshot(state.emails[work.email]).in_doubt, RESULTS[work.answer]
        held = suspension(result, self.scenario.policy, in_doubt=in_doubt)
        verdict = held or (Sign.YES if work.answer == "yes" else Sign.WORKS)
        return self.rules.after(
            before,
            self._permit(work, before),
            verdict,
            NOW,
            email_id=str(work.email),
            yes_at=NOW if verdict is Sign.YES else 0.0,
        )

    def _permit(self, work: Work, now: Health) -> Permit:
        generation = now.generation if work.fresh else now.generation - 1
        return Permit(work.vendor, generation, work.probe or None)

    def _proven(self, state: State, work: Work) -> State:
        """A yes shows of the vendors that failed in this round that it was not the e-mail."""
        email = state.emails[work.email]
        failed = {*email.hint_vendors} & {*email.tried} if work.answer == "yes" else set()
        for u, name in enumerate(VENDORS):
            was = state.doors[u]
            if name not in failed or not (was.drew or was.hints):
                continue
            before = health(name, was)
            after = self.rules.confirm_hint(before, NOW, str(work.email))
            shown = was.shown or work.email in was.drew
            truth = was._replace(shown=shown)
            if after.generation != before.generation:
                truth = was._replace(drew=(), shown=False)
            state = with_door(state, u, door(after, truth, orphan=was.orphan))
            if after.generation != before.generation:
                state = with_works(state, partial(_asks, name), fresh=False)
        return state

    def _drew(self, was: Door, work: Work, email: Email) -> Door:
        """The e-mails that drew a failure which may be their own, till a yes."""
        known, result = snapshot(email), RESULTS[work.answer]
        fresh, probe = was._replace(drew=(), shown=False), work.probe == "held"
        if not (probe or (not work.probe and was.available)):
            return was
        if work.answer == "yes":
            return fresh
        if suspension(result, self.scenario.policy) is None or not (probe or work.fresh):
            return fresh if probe else was
        if not result.may_be_content:
            return fresh
        if known.in_doubt:
            return was
        drew = tuple(sorted({*was.drew, work.email}))
        return fresh if len(drew) > 1 and was.shown else was._replace(drew=drew)

    def _hint_is_wrong(self, before: Health, after: Health, work: Work, second: bool) -> str:
        """What one e-mail drew suspends nobody for long; what two did, does."""
        if not RESULTS[work.answer].may_be_content:
            return ""
        until, was = after.unavailable_until or 0.0, before.unavailable_until or 0.0
        if second:
            gone = until >= NOW + min(TICK, self.scenario.policy.unavailable_for)
            return "" if gone else "still available after a second e-mail"
        if before.available and not after.available:
            return "suspended by what may be the e-mails' own fault"
        if until > max(was, NOW + after.probe_step):
            return "kept unavailable by what one e-mail drew"
        return ""

    def _telling_is_wrong(self, state: State, before: Health, after: Health, work: Work) -> str:
        changed = after.generation != before.generation
        if changed and not work.fresh and work.probe != "held":
            return "the answer to a call begun before the last change has changed the vendor"
        if after.available and not before.available and work.probe != "held":
            return "restored without a probe"
        if before.probe_token and not after.probe_token and work.probe != "held":
            return "the probe's slot was taken from its holder"
        email = state.emails[work.email]
        doubt = snapshot(email).in_doubt or RESULTS[work.answer].may_be_content
        if not after.available and rotation.probe_wait(after, NOW, early=True, in_doubt=doubt) <= 0:
            return "unavailable, but its probe is due at once"
        poison = self.scenario.always.get((work.email, work.vendor)) == "5xx"
        if poison and len(email.suspended) > 1:
            return "one e-mail suspended two vendors"
        return ""

    def _settle(self, state: State, w: int, work: Work) -> Iterator[Step]:
        """One write guarded by the token, then the job; a late yes has no guard."""
        email = state.emails[work.email]
        mine = work.mine and email.status == SENDING
        if not mine and self.rules.settle_guarded:
            if work.answer == "yes":
                state = with_email(state, work.email, late_yes(email))
            label = f"{w} has lost the lease of {work.email}: {work.answer}"
            yield Step(label, again(state, w, work))
            return
        failed = RESULTS[work.answer]
        for decision in self.decide(state, email, work.answer, work.vendor):
            after = settled(email, decision, work.vendor if blames(failed) else "")
            wrong = self._end_is_wrong(after, decision)
            if not work.mine:
                wrong = wrong or "settled over another worker's lease"
            if not after.final and work.job:
                after = put(after, after.due)
            done = with_email(doing(state, w, Idle()), work.email, after)
            label = f"{w} settles {work.email}: {after.status}, {after.due} ticks"
            yield Step(label, done, wrong=wrong)
            if self._may(state, "crash") and work.job:
                kept = after._replace(jobs=put(email, 0).jobs)
                crashed = with_email(doing(state, w, Idle()), work.email, kept)
                yield Step(f"{label}, then crashes", crashed, "crash", 0, wrong)

    def _end_is_wrong(self, email: Email, decision: Decision) -> str:
        if email.status == Status.FAILED and not self.scenario.may_fail:
            return f"failed ({decision.reason}) through an outage"
        return ""
