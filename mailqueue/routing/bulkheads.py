"""Limits how many calls of one vendor are under way, so that one that hangs starves no other.

Decides: whether an e-mail may go to the vendor whose turn it is, now. The name is a ship's: its
bulkheads keep one hole from sinking it. The rules, for a process with a number of slots:

* While no other vendor is available, a vendor may have all slots.
* Otherwise it has its share by weight among the available ones, but at least half of an equal part:
  a vendor of little weight may be the only one that takes certain e-mails.
* A quick vendor may have three quarters. Quick means that no call takes longer than ``QUICK``, of
  late and under way, or (up to ``LONG``) than twice what is usual with the quickest vendor. So
  where all are alike, none starves another. A vendor that has not answered yet is not quick.
* The last free slots, up to half of all, are reserved for available vendors that have few calls:
  together the others have a quarter, each at least one. So two that begin to hang at the same
  moment, each quick until then, do not have all slots between them.
* A vendor that takes only so many calls at a time (``most``) has no use for more slots.
* A vendor whose oldest call takes long already (``LONG``, or ``TIMES_LONGER`` times the usual) is
  passed over where another can be asked, before that call has failed.

The limit is on calls. For a quick vendor as many e-mails more may be claimed ahead as it answered
in ``AHEAD`` seconds. A claimed e-mail that a sender takes up while its vendor has no place is
parked, and the sender is free for others; it goes when a call of its vendor is over.

An e-mail whose vendor is full goes to another that it has not tried. Where there is none, it waits
here if the vendor is quick. Otherwise its job goes back to the tube for a moment, the longer the
more there are of its kind: what cannot go is not in the way of what can. Probes are one at a time
anyway and have no limit.

Decides also which call is given up. A vendor that does not come back at its deadline (a class of
the user's own) keeps its thread. What it was given is recorded in time, as unknown, and another
thread takes the place. There are never more of those threads than slots.

Promises: any thread may call; no I/O; a call costs a microsecond. The limits are computed at most
twenty times a second.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

T = TypeVar("T")

# Seconds; the first ones are explained above
QUICK = 0.5
LONG = 2.0
AHEAD = 0.2
EVERY = 0.05  # between two computations of the limits
LONGEST_WAIT = 60.0  # of a job that goes back to the tube since every vendor is full

TIMES_LONGER = 4
NEWEST = 0.25  # the weight of the newest call in what is usual
PER_SECOND = 50  # so many e-mails come back from their wait


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a vendor's calls take: ``usual`` of late (None: none has ended), the ``oldest`` call
    under way so far, and what is usual with the ``quickest`` available vendor.
    """

    usual: float | None = None
    oldest: float = 0.0
    quickest: float = 0.0

    @property
    def quick(self) -> bool:
        """Whether it is known to answer quickly."""
        bound = max(QUICK, min(LONG, 2 * self.quickest))
        return self.usual is not None and max(self.usual, self.oldest) <= bound

    @property
    def long(self) -> bool:
        """Whether a call under way takes long already."""
        return self.oldest > max(LONG, TIMES_LONGER * (self.usual or 0.0))


def limit(number: int, weight: int, others: Collection[int], pace: Pace) -> float:
    """How many of ``number`` slots a vendor may have beside available ``others`` (weights)."""
    # One slot cannot be shared. With nobody else to ask, free slots would help no one.
    if number == 1 or not others:
        return math.inf
    if pace.quick:
        return number - number // 4
    share = math.ceil(number * weight / (weight + sum(others)))
    fair = number // (2 * (1 + len(others)))
    return max(1, fair, min(share, number - max(1, number // 4)))


@dataclass(slots=True, eq=False)
class Call(Generic[T]):
    """One call, its end by ``time.monotonic``, and the thread that it keeps."""

    vendor: str
    what: T
    began: float
    deadline: float
    thread: threading.Thread = field(default_factory=threading.current_thread)


class Bulkheads(Generic[T]):
    """The e-mails claimed for each vendor, and its calls under way, with ``number`` slots."""

    def __init__(
        self,
        number: int,
        weights: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
        most: Mapping[str, int] | None = None,
    ) -> None:
        self._number = number
        self._most = most or {}
        self._weights = weights
        self._clock = clock
        self._lock = threading.Lock()
        self._claimed = dict.fromkeys(weights, 0)
        self.busy = 0  # how many of them are not parked
        # A dict keeps the order in which the calls began, so the first is the oldest.
        self._calls: dict[str, dict[Call[T], None]] = {name: {} for name in weights}
        self._parked: dict[str, deque[tuple[float, T]]] = {}  # by vendor, none empty
        self._given_up: set[Call[T]] = set()
        self._usual: dict[str, float] = {}
        self._ended = dict.fromkeys(weights, 0)  # calls, since ``_counted_at``
        self._refreshed_at = self._counted_at = self._last_back = -math.inf
        # Of the last refresh
        self._available: Collection[str] = ()
        self._call_limits: dict[str, float] = dict.fromkeys(weights, math.inf)
        self._claim_limits = self._call_limits
        self._reserved_each = 1  # slots that an available vendor always finds
        self._quick: frozenset[str] = frozenset()
        self._long: frozenset[str] = frozenset()

    def rearrange(self, weights: Mapping[str, int], most: Mapping[str, int]) -> None:
        """Other vendors, or other numbers, from now on; what is claimed and called goes on."""
        with self._lock:
            for name in weights:
                self._claimed.setdefault(name, 0)
                self._calls.setdefault(name, {})
                self._ended.setdefault(name, 0)
            without_limit = dict.fromkeys(weights, math.inf)
            self._call_limits = without_limit | self._call_limits
            self._claim_limits = without_limit | self._claim_limits
            self._weights, self._most = weights, most
            self._refreshed_at = -math.inf

    # Whose turn it may be ----------------------------------------------------------------------

    def refresh_limits(self, available: Callable[[], Collection[str]]) -> None:
        """Compute the limits anew, if that is due, from the calls and who is ``available``."""
        now = self._clock()
        if now - self._refreshed_at < EVERY:
            return
        self._refreshed_at = now
        self._available = available()
        self._reserved_each = max(1, self._number // 4 // max(1, len(self._available) - 1))
        usual = (self._usual[name] for name in self._available if name in self._usual)
        quickest = min(usual, default=0.0)
        paces = {name: replace(self.pace(name), quickest=quickest) for name in self._weights}
        limits = {name: self._limit(name, pace) for name, pace in paces.items()}
        # A vendor that was removed keeps its limit, as long as something is claimed for it. And one
        # that a reload adds at this moment must not lose it.
        with self._lock:
            self._call_limits = self._call_limits | limits
        self._quick = frozenset(name for name, pace in paces.items() if pace.quick)
        self._long = frozenset(name for name, pace in paces.items() if pace.long)
        self._refresh_claim_limits(now)

    def _limit(self, vendor: str, pace: Pace) -> float:
        weights = self._weights
        others = [weights.get(name, 0) for name in self._available if name != vendor]
        share = limit(self._number, weights.get(vendor, 1), others, pace)
        return min(self._most.get(vendor, math.inf), share)

    def _refresh_claim_limits(self, now: float) -> None:
        """Beside its calls, claim for a quick vendor what it will answer in ``AHEAD`` seconds."""
        with self._lock:
            ended, self._ended = self._ended, dict.fromkeys(self._claimed, 0)
            times = AHEAD / max(EVERY, now - self._counted_at)
            self._counted_at = now
            self._claim_limits = {
                name: most + (times * ended[name] if name in self._quick else 0)
                for name, most in self._call_limits.items()
            }

    def pace(self, vendor: str) -> Pace:
        """How its calls go."""
        with self._lock:
            oldest = next(iter(self._calls[vendor]), None)
            age = 0.0 if oldest is None else self._clock() - oldest.began
            return Pace(self._usual.get(vendor), age)

    def full(self, vendor: str) -> bool:
        """Whether as much is claimed for it as may be."""
        # No lock: a count that is old by a moment moves the limit by an e-mail or two.
        return self._claimed[vendor] >= self._claim_limits[vendor]

    def crowded(self, vendor: str) -> bool:
        """Whether another is to be preferred."""
        return self.full(vendor) or vendor in self._long

    def worth_waiting(self, vendor: str) -> bool:
        """Whether a full vendor will have a place in a moment, so that its e-mails wait here.

        It is quick, or all are full: then there is nobody to leave a slot to.
        """
        return vendor in self._quick or all(map(self.full, self._available))

    def delay(self) -> float:
        """Seconds for which an e-mail that finds every vendor full is out of the way."""
        with self._lock:
            # Each e-mail gets a time of its own, so that they come back one after the other and do
            # not find every vendor full together.
            now = self._clock()
            self._last_back = max(now, self._last_back) + 1 / PER_SECOND
            return min(LONGEST_WAIT, 1.0 + self._last_back - now)

    # What is claimed ---------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is claimed for anyone."""
        return not any(self._claimed.values())

    @property
    def under_way(self) -> int:
        """The number of calls."""
        return sum(map(len, self._calls.values()))

    def claim(self, vendor: str) -> None:
        """An e-mail is to be claimed for the vendor."""
        with self._lock:
            self._claimed[vendor] += 1
            self.busy += 1

    def release(self, vendor: str) -> None:
        """It is not the vendor's any more."""
        with self._lock:
            self._claimed[vendor] -= 1
            self.busy -= 1

    def wait(self) -> None:
        """A claimed e-mail waits for its time, and is busy no more, until it may ``go``."""
        with self._lock:
            self.busy -= 1

    def go(self) -> None:
        """Its time has come."""
        with self._lock:
            self.busy += 1

    # Calls -------------------------------------------------------------------------------------

    def begin(
        self, vendor: str, what: T, deadline: float, *, probe: bool = False
    ) -> Call[T] | None:
        """A call of this thread begins; None: its vendor has no place, and ``what`` is parked."""
        call = Call(vendor, what, self._clock(), deadline)
        with self._lock:
            # It is claimed already: to give it back would cost a write now, and another claim
            # later. In the line it costs no thread, so a vendor that hangs holds only the senders
            # of its own calls.
            if not probe and self._has_no_place(vendor):
                self._parked.setdefault(vendor, deque()).append((call.began, what))
                self.busy -= 1
                return None
            self._calls[vendor][call] = None
        return call

    def _has_no_place(self, vendor: str) -> bool:
        """Whether it has all its calls, or the slots that are left are reserved for others.

        Nothing is reserved from a vendor that has fewer calls than are reserved for each: what is
        parked always has calls of its vendor before it, whose end brings a sender back to it.
        """
        calls = len(self._calls[vendor])
        if calls >= self._call_limits[vendor]:
            return True
        if calls < self._reserved_each:
            return False
        # 16 slots, three vendors, 2 reserved for each. Two hang with 7 calls each: the last 2 slots
        # are for the third, however many e-mails of the two wait. Where there are more vendors than
        # slots, the reserve would be everything, so it is half at most.
        others = (len(self._calls[name]) for name in self._available if name != vendor)
        reserved = sum(max(0, self._reserved_each - number) for number in others)
        free = self._number - sum(map(len, self._calls.values()))
        return reserved > 0 and free <= min(reserved, self._number // 2)

    def end(self, call: Call[T], *, measured: bool) -> bool:
        """It is over; False: it was given up. ``measured``: its time tells the vendor's pace."""
        with self._lock:
            if call in self._given_up:
                self._given_up.discard(call)
                return False
            del self._calls[call.vendor][call]
            self._ended[call.vendor] += 1
            if measured:
                self._measure(call)
            return True

    def _measure(self, call: Call[T]) -> None:
        seconds = self._clock() - call.began
        before = self._usual.get(call.vendor, seconds)
        self._usual[call.vendor] = usual = before + NEWEST * (seconds - before)
        was_quick = call.vendor in self._quick
        if (usual <= QUICK and not was_quick) or (usual > LONG and was_quick):
            self._refreshed_at = -math.inf  # much has changed: do not wait for the next refresh

    def overdue(self, grace: float) -> list[Call[T]]:
        """Give up the calls whose deadline passed ``grace`` seconds ago; returns them."""
        last = self._clock() - grace
        with self._lock:
            over = [c for calls in self._calls.values() for c in calls if c.deadline < last]
            over = over[: self._number - len(self._given_up)]
            for call in over:
                del self._calls[call.vendor][call]
                # It counts as slow. Else a vendor whose calls never end would stay as quick as it
                # was.
                self._measure(call)
            self._given_up.update(over)
        return over

    # What is parked ----------------------------------------------------------------------------

    def unpark(self) -> T | None:
        """What was parked first, of a vendor that has a place again; vendors take turns.

        A sender asks when its call is over. So nothing is forgotten: while something is parked,
        calls of its vendor are under way.
        """
        if not self._parked:
            return None
        with self._lock:
            for vendor, line in self._parked.items():
                if not self._has_no_place(vendor):
                    # Out, and in again at the end of the dict: so the next sender takes of another
                    # vendor.
                    del self._parked[vendor]
                    _, what = line.popleft()
                    if line:
                        self._parked[vendor] = line
                    self.busy += 1
                    return what
        return None

    def recall(self, seconds: float) -> list[T]:
        """What was parked so long ago; it is not its vendor's any more."""
        since = self._clock() - seconds
        late: list[T] = []
        with self._lock:
            for vendor, line in list(self._parked.items()):
                while line and line[0][0] <= since:
                    late.append(line.popleft()[1])
                    self._claimed[vendor] -= 1
                if not line:
                    del self._parked[vendor]
        return late
