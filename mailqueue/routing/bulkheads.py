"""The calls under way, and how many senders each vendor may hold: one that hangs starves no other.

Decides: whether an e-mail may go to the vendor whose turn it is, now. The rule, as in a ship whose
bulkheads keep one hole from sinking it:

* While no other vendor is available, a vendor may hold all senders.
* Else it may hold its share of them, by weight among those available (at least half of an equal
  part: a vendor of little weight may be the only one that takes certain e-mails).
* One that answers quickly may take what it needs, but leaves the others a quarter: one in whose
  calls nothing takes longer than ``QUICK``, as of late and under way, or (up to ``LONG``) than
  twice what is usual with the quickest: where all are alike, none starves another. A vendor that
  has not answered yet is not known to be quick.
* One that takes so many calls at a time only (``most``) has no use for more senders.
* One whose call takes long already (``LONG``, or several times what is usual with it) is passed
  over where another can be asked, before that call has failed.

What is limited are the calls under way. For a vendor that is quick as many e-mails more may be
claimed ahead as it has lately answered in ``AHEAD``. One that a sender takes up while its vendor is
full is parked, and the sender free for others; it goes when a call of its vendor is over.

An e-mail for whose vendor all that may be is claimed goes to another that it has not tried. Where
there is none, it waits here if the vendor is quick; else its job goes back to the tube for a
moment, the longer the more there are of its kind: what cannot go is not in the way of what can.
Probes are one at a time anyway and have no limit.

Decides also: which call is given up. A vendor that does not come back at its deadline (a class of
the user's own) keeps its thread; but what it was given is recorded in time, as unknown, and another
thread takes the sender's place. There are never more of those threads than senders.

Promises: any thread may call; no I/O; a call costs a microsecond, and a look at all of them is
taken twenty times a second.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

What = TypeVar("What")

QUICK = 0.5  # seconds
LONG = 2.0
TIMES_LONGER = 4
EVERY = 0.05
AHEAD = 0.2
NEWEST = 0.25  # the weight of the newest call in what is usual
PER_SECOND = 50  # so many e-mails come back from their wait
LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a vendor's calls take: as of late (None: none has ended), and the oldest so far.

    ``quickest``: as of late, with the quickest of those available.
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
        """Whether a call that is under way takes long already."""
        return self.oldest > max(LONG, TIMES_LONGER * (self.usual or 0.0))


def limit(number: int, weight: int, others: Collection[int], pace: Pace) -> float:
    """How many of ``number`` senders a vendor may hold beside available ``others`` (weights)."""
    if number == 1 or not others:
        return math.inf
    if pace.quick:
        return number - number // 4
    share = math.ceil(number * weight / (weight + sum(others)))
    fair = number // (2 * (1 + len(others)))
    return max(1, fair, min(share, number - max(1, number // 4)))


@dataclass(slots=True, eq=False)
class Call(Generic[What]):
    """One call, its end by ``time.monotonic``, and the thread that it keeps."""

    vendor: str
    what: What
    began: float
    deadline: float
    thread: threading.Thread = field(default_factory=threading.current_thread)


class Bulkheads(Generic[What]):
    """The e-mails claimed for each vendor, and its calls under way, with ``number`` senders."""

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
        self._calls: dict[str, dict[Call[What], None]] = {name: {} for name in weights}
        self._parked: dict[str, deque[tuple[float, What]]] = {}  # by vendor, none empty
        self._ended = dict.fromkeys(weights, 0)  # calls, since they were last counted
        self._counted_at = -math.inf
        self._given_up: set[Call[What]] = set()
        self._usual: dict[str, float] = {}
        self._limits: dict[str, float] = dict.fromkeys(weights, math.inf)
        self._most_claimed = self._limits
        self._long: frozenset[str] = frozenset()
        self._quick: frozenset[str] = frozenset()
        self._available: Collection[str] = ()
        self._looked_at = -math.inf
        self._last_back = -math.inf

    # Who may have a sender ---------------------------------------------------------------------

    def look(self, available: Callable[[], Collection[str]]) -> None:
        """Look around, if that is due: how the calls go, and who is ``available``."""
        now = self._clock()
        if now - self._looked_at < EVERY:
            return
        self._looked_at = now
        there = self._available = available()
        quickest = min((self._usual[name] for name in there if name in self._usual), default=0.0)
        paces = {name: replace(self.pace(name), quickest=quickest) for name in self._weights}
        self._limits = {
            name: min(
                self._most.get(name, math.inf),
                limit(
                    self._number,
                    weight,
                    [self._weights[other] for other in there if other != name],
                    paces[name],
                ),
            )
            for name, weight in self._weights.items()
        }
        self._long = frozenset(name for name, pace in paces.items() if pace.long)
        self._quick = frozenset(name for name, pace in paces.items() if pace.quick)
        self._look_ahead(now)

    def _look_ahead(self, now: float) -> None:
        with self._lock:
            ended, self._ended = self._ended, dict.fromkeys(self._weights, 0)
        looks = AHEAD / max(EVERY, now - self._counted_at)
        self._counted_at = now
        self._most_claimed = {
            name: most + (looks * ended[name] if name in self._quick else 0)
            for name, most in self._limits.items()
        }

    def pace(self, vendor: str) -> Pace:
        """How its calls go."""
        with self._lock:
            oldest = next(iter(self._calls[vendor]), None)
            age = 0.0 if oldest is None else self._clock() - oldest.began
            return Pace(self._usual.get(vendor), age)

    def full(self, vendor: str) -> bool:
        """Whether as much is claimed for it as may be."""
        return self._claimed[vendor] >= self._most_claimed[vendor]

    def crowded(self, vendor: str) -> bool:
        """Whether another is to be preferred."""
        return self.full(vendor) or vendor in self._long

    def moves(self, vendor: str) -> bool:
        """Whether one that is full will not be in a moment, so that its e-mails wait here.

        It is quick, or all are full: then there is nobody to leave a sender to.
        """
        return vendor in self._quick or all(map(self.full, self._available))

    def wait(self) -> float:
        """Seconds for which an e-mail that finds every vendor full is out of the way."""
        with self._lock:
            now = self._clock()
            self._last_back = max(now, self._last_back) + 1 / PER_SECOND
            return min(LONGEST_WAIT, 1.0 + self._last_back - now)

    @property
    def idle(self) -> bool:
        """Whether nothing is claimed for anyone."""
        return not any(self._claimed.values())

    def taken(self, vendor: str) -> None:
        """An e-mail is to be claimed for the vendor."""
        with self._lock:
            self._claimed[vendor] += 1

    def given_back(self, vendor: str) -> None:
        """It is not the vendor's any more."""
        with self._lock:
            self._claimed[vendor] -= 1

    # The calls ---------------------------------------------------------------------------------

    def begin(
        self, vendor: str, what: What, deadline: float, *, probe: bool = False
    ) -> Call[What] | None:
        """A call of this thread begins; None: its vendor is full, and ``what`` is parked."""
        call = Call(vendor, what, self._clock(), deadline)
        with self._lock:
            if not probe and self._holds_all(vendor):
                self._parked.setdefault(vendor, deque()).append((call.began, what))
                return None
            self._calls[vendor][call] = None
        return call

    def _holds_all(self, vendor: str) -> bool:
        return len(self._calls[vendor]) >= self._limits[vendor]

    def unpark(self) -> What | None:
        """What has waited for longest, of a vendor that is not full any more; vendors take turns.

        A sender asks when its call is over, so that nothing is forgotten: while something is
        parked, calls of its vendor are under way.
        """
        if not self._parked:
            return None
        with self._lock:
            for vendor, line in self._parked.items():
                if not self._holds_all(vendor):
                    del self._parked[vendor]
                    _, what = line.popleft()
                    if line:
                        self._parked[vendor] = line
                    return what
        return None

    def take_back(self, seconds: float) -> list[What]:
        """What was parked so long ago; it is not its vendor's any more."""
        since = self._clock() - seconds
        late: list[What] = []
        with self._lock:
            for vendor, line in list(self._parked.items()):
                while line and line[0][0] <= since:
                    late.append(line.popleft()[1])
                    self._claimed[vendor] -= 1
                if not line:
                    del self._parked[vendor]
        return late

    def end(self, call: Call[What], *, telling: bool) -> bool:
        """It is over; False: it was given up. ``telling``: its time says how the vendor is."""
        with self._lock:
            if call in self._given_up:
                self._given_up.discard(call)
                return False
            del self._calls[call.vendor][call]
            self._ended[call.vendor] += 1
            if telling:
                self._learn(call)
            return True

    def _learn(self, call: Call[What]) -> None:
        took = self._clock() - call.began
        usual = self._usual.get(call.vendor, took)
        self._usual[call.vendor] = now = usual + NEWEST * (took - usual)
        known = call.vendor in self._quick
        if (now <= QUICK and not known) or (now > LONG and known):
            self._looked_at = -math.inf  # much has changed: look again

    def overdue(self, grace: float) -> list[Call[What]]:
        """Give up the calls whose deadline passed ``grace`` seconds ago; returns them."""
        last = self._clock() - grace
        with self._lock:
            over = [c for calls in self._calls.values() for c in calls if c.deadline < last]
            over = over[: self._number - len(self._given_up)]
            for call in over:
                del self._calls[call.vendor][call]
                self._learn(call)
            self._given_up.update(over)
        return over
