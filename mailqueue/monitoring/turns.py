"""Whose turn it is when an e-mail is sent next, and why not another's, in sentences. Pure.

Decides: nothing itself. Which vendor may be asked is asked of ``rotation`` and ``control``, in the
order in which the router asks them, so that no rule stands here a second time.

Assumes: the number of an e-mail's job decides whose turn it is (``rotation.choose``), and no
document has that number. So all vendors whose turn it can be are named. Things stay as they are
until the e-mail is due. What a vendor's class of the user's own cannot carry is not known here.

Promises: as ``history``. ``Unreadable`` is raised where the document is damaged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from mailqueue.config import Config, VendorConfig
from mailqueue.lifecycle import decide
from mailqueue.lifecycle.outcomes import Pin, Reason, Snapshot, Status
from mailqueue.message import Email
from mailqueue.monitoring.conditions import Conditions
from mailqueue.monitoring.controls import control_text, end_of, state_text
from mailqueue.monitoring.sentence import Action, Sentence
from mailqueue.monitoring.words import clock, listed
from mailqueue.routing import control, rotation
from mailqueue.routing.limits import recipients
from mailqueue.routing.pace import AHEAD, NO_LIMIT, Pace, Promise
from mailqueue.routing.rotation import BUSY, Health, Permit
from mailqueue.store.control import DRAIN
from mailqueue.store.document import Stored
from mailqueue.vendors import limits

RESEND = "it is sent once more, if there is still time and a vendor for it"


def end_text(snapshot: Snapshot, reason: Reason) -> str:
    """What an end for this reason makes of the e-mail."""
    status = decide.end(snapshot, reason).status
    if status is Status.SENT:
        return "it ends as sent, and the recipients that are left count as refused."
    more = ", since a copy may have left" if status is Status.UNCERTAIN else ""
    return f"it ends as {status}{more}."


@dataclass(frozen=True)
class Turns:
    """The next choice of a vendor for one queued e-mail, which is due at ``at`` or is due."""

    stored: Stored
    config: Config
    conditions: Conditions
    at: datetime

    def sentences(self) -> Iterator[Sentence]:
        """Which vendor gets it, and why not the others."""
        if not self.config.vendors:
            yield Sentence("No vendor is configured here.")
        elif self._snapshot.pin is not None:
            yield self._pinned(self._snapshot.pin)
        elif hold := self._drain():
            yield self.held(hold)
        else:
            yield self._turn()
            yield from self._others()

    @property
    def has_vendor(self) -> bool:
        """Whether a vendor may be asked now."""
        return bool(self._names)

    @property
    def hold(self) -> str | None:
        """The hold that keeps it from all vendors."""
        if self.stored.is_held:
            return str(self.stored.document.get("hold"))
        return self.conditions.controls.hold_of(self._email, self._snapshot.priority)

    def _drain(self) -> str | None:
        """The hold under which it will be put, since no vendor of its is open."""
        if self._names:
            return None
        controls = self.conditions.controls
        hold = control.hold_of(self._carriers, self._askable, self._snapshot, None, controls)
        return None if hold is None else hold.name

    def held(self, name: str) -> Sentence:
        """Who lets it wait under this name."""
        controls = [c for c in self.conditions.controls.active.values() if c.hold == name]
        if name == DRAIN:
            controls = [each for each in controls if each.name in self._carriers] or controls
        if not controls:
            return Sentence("The hold is over: a sweeper puts the e-mail back in its next round.")
        texts = [control_text(each, self.stored.now) for each in controls]
        actions = tuple(map(end_of, controls))
        commands = listed([action.command for action in actions], "or")
        return Sentence(f"{' '.join(texts)} It waits for {commands}.", actions=actions)

    # What the choice stands on -------------------------------------------------------------------

    @cached_property
    def _email(self) -> Email:
        return self.stored.email

    @cached_property
    def _snapshot(self) -> Snapshot:
        return self.stored.snapshot()

    @cached_property
    def _health(self) -> Mapping[str, Health]:
        names = [vendor.name for vendor in self.config.vendors]
        return {n: self.conditions.health.get(n) or Health(name=n) for n in names}

    @cached_property
    def _configured(self) -> Sequence[VendorConfig]:
        """The vendors of its route."""
        route = self._snapshot.route
        return [v for v in self.config.vendors if route is None or v.name in route]

    @cached_property
    def _carriers(self) -> Sequence[str]:
        return [each.name for each in self._configured if self._obstacle(each) is None]

    @cached_property
    def _askable(self) -> Sequence[str]:
        controls = self.conditions.controls
        return control.open_to(self._carriers, self._snapshot, self._health, controls)

    def _obstacle(self, vendor: VendorConfig) -> str | None:
        """Why this vendor can never take what is left of it; None: it can."""
        if obstacle := limits.can_carry(vendor.type, self._email, vendor.options):
            return f"cannot carry it ({obstacle})"
        if vendor.rate is not None:
            pace, people = Pace.of(vendor.rate), recipients(self._email, self._snapshot)
            if pace.by_recipients and people > pace.most:
                return "has no budget for so many recipients"
        partial = limits.capacity(vendor.type).partial_recipients
        if self._snapshot.pending is not None and not partial:
            return "cannot send to some recipients only"
        return None

    @cached_property
    def _permits(self) -> Collection[Permit | None]:
        """What the rotation gives to the e-mail, whatever the number of its job."""
        # Shares do not matter here: every vendor has some.
        weights = dict.fromkeys(self._health, 1)
        times, spent = self.conditions.times, self.conditions.spent
        soon = self.at + timedelta(seconds=AHEAD)

        def promise(name: str, _: bool) -> Promise | None:  # as the rotation calls it
            return NO_LIMIT if times.get(name, soon) <= soon else None

        def permit(turn: int) -> Permit | None:
            return rotation.choose_in_time(
                lambda email, usable: rotation.choose(
                    turn, weights, usable, email, self._health, self.at.timestamp()
                ),
                promise,
                self._askable,
                self._snapshot,
                [name for name in self._askable if spent.get(name, self.at) > self.at],
            )

        return {permit(turn) for turn in range(len(weights))}

    @property
    def _names(self) -> Sequence[str]:
        """The vendors whose turn it can be, as they are configured."""
        names = {permit.vendor for permit in self._permits if permit is not None}
        return [name for name in self._health if name in names]

    @property
    def _usable(self) -> Sequence[str]:
        return [name for name in self._askable if name not in self._snapshot.round.refused]

    @cached_property
    def _waits(self) -> Mapping[str, float]:
        """Seconds after ``at`` until each usable vendor may be asked."""
        now, doubt = self.at.timestamp(), self._snapshot.in_doubt
        waits = rotation.waits(self._usable, self._health, now, doubt)
        return {name: max(wait, self._limit(name)) for name, wait in waits.items()}

    def _limit(self, name: str) -> float:
        """Seconds after ``at`` until the vendor's rate and its budgets let an e-mail go."""
        times, spent = self.conditions.times, self.conditions.spent
        end = max(self.at, times.get(name, self.at), spent.get(name, self.at))
        return (end - self.at).total_seconds()

    # Whose turn ----------------------------------------------------------------------------------

    def _turn(self) -> Sentence:
        if self._names:
            return self._one_of(self._names)
        if BUSY in self._permits:
            wait = min(map(self._limit, self._usable or self._askable), default=0.0)
            text = "Each vendor that may be asked has used up its rate or its budget"
            return Sentence(f"{text}, until {self._clock(wait)}.")
        if self._usable:
            return Sentence(self._next_look())
        route, refused = self._snapshot.route or (), self._snapshot.round.refused
        absent = [n for n in route if n not in self._health and n not in refused]
        if absent:
            text = f"Its route still has {listed(absent)}, not configured now"
            return Sentence(f"{text}: it looks again every 5 min.")
        text = end_text(self._snapshot, Reason.REFUSED_BY_ALL)
        return Sentence(f"No vendor is left that takes it: {text}")

    def _next_look(self) -> str:
        """When the next round may begin."""
        retry, current = self.config.retry, self._snapshot.round
        backoff = min(retry.cap, retry.base * 2.0 ** min(current.n, 63)) if current.tried else 0.0
        wait = max(1.0, backoff, min(self._waits.values(), default=0.0))
        return f"No vendor may be asked then: it looks again by {self._clock(wait)}."

    def _one_of(self, names: Sequence[str]) -> Sentence:
        probes = {permit.vendor for permit in self._permits if permit and permit.probe}
        text = f"As things are, it goes to {names[0]}."
        if len(names) > 1:
            text = f"As things are, it goes to {listed(names, 'or')}: "
            text += "they take turns, by the number of its job."
        weights = [str(v.weight) for v in self.config.vendors if v.name in names]
        if len(set(weights)) > 1:
            text += f" Their weights are {listed(weights)}."
        if probes:
            text += " That is a probe: it finds out whether the vendor works again."
        actions: list[Action] = []
        for name in names:
            if each := self.conditions.controls.active.get(f"vendor:{name}"):
                text += f" If it is the turn of {name}, it waits."
                text += f" {control_text(each, self.stored.now)}"
                actions.append(end_of(each))
        return Sentence(text, actions=tuple(actions))

    def _pinned(self, pin: Pin) -> Sentence:
        if pin.vendor in self._names:
            until = self._clock(pin.remaining, self.stored.now)
            text = f"It goes to {pin.vendor} again, under the same key, until {until}: "
            return Sentence(f"{text}only {pin.vendor} can tell whether it has the e-mail.")
        parks = self.config.delivery.on_unknown == "park" or self._snapshot.unknowns > 0
        then = "it ends as uncertain" if parks else RESEND
        text = f"{pin.vendor} is not asked under its key any more: its outcome stays unknown, and "
        return Sentence(f"{text}{then}.")

    # Why not the others --------------------------------------------------------------------------

    def _others(self) -> Iterator[Sentence]:
        for vendor in self._configured:
            if vendor.name not in self._names:
                yield self._against(vendor)

    def _against(self, vendor: VendorConfig) -> Sentence:
        """Why it is not the turn of this one."""
        name, current = vendor.name, self._snapshot.round
        if obstacle := self._obstacle(vendor):
            return Sentence(f"Not {name}: it {obstacle}.")
        if name in current.refused:
            return Sentence(f"Not {name}: it found this e-mail unsuitable.")
        if each := self.conditions.controls.active.get(f"drain:{name}"):
            text = f"Not {name}: {state_text(each, self.stored.now)}."
            return Sentence(text, actions=(end_of(each),))
        if not self._health[name].available:
            text = "Ask it again at once, if its trouble is over."
            action = Action(f"mailqueue vendors enable {name}", text)
            return Sentence(f"Not {name}: {self._unavailable(name)}.", actions=(action,))
        if name in current.tried:
            return Sentence(f"Not {name}: it was asked in this round.")
        if wait := self._limit(name):
            until = self._clock(wait)
            return Sentence(f"Not {name}: its rate or its budget is used up, until {until}.")
        return Sentence(f"Not {name}: a vendor that may work again is asked first.")

    def _unavailable(self, name: str) -> str:
        health = self._health[name]
        since = "" if health.since is None else f" since {self._time(health.since)}"
        why = f" ({health.reason})" if health.reason else ""
        again = f"; it is probed from {self._clock(self._waits[name])} on"
        return f"unavailable{since}{why}{again if self._waits.get(name) else ''}"

    def _clock(self, seconds: float, since: datetime | None = None) -> str:
        """The time so many seconds after ``at``."""
        return self._time((since or self.at).timestamp() + seconds)

    def _time(self, at: float) -> str:
        return clock(datetime.fromtimestamp(round(at, 3), UTC), self.stored.now)
