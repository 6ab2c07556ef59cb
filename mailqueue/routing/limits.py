"""The vendors' limits as one process keeps them: send times in hand, and who is promised one.

Decides: when send times are reserved and how many; for how many e-mails there is room; how long
what finds no room is out of the way.

An e-mail that is planned for a limited vendor has a ``Promise``: so many of the times in hand are
spoken for. Which time it gets is decided when it goes: the most urgent e-mail has the next time.
Times are reserved in blocks, the larger the more are used, and before the last block ends. A time
that passes by more than ``pool.SLACK`` is not used any more: e-mails that are late in one process
would meet those that are on time in another.

Assumes: ``learn`` hears of the vendors' documents whenever they are read.

Promises: any thread may call. Only ``promise``, ``room`` and ``give_back`` do I/O, never under the
lock that the others take. A vendor without limits has nothing here.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, cast

from mailqueue.config import VendorConfig
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import Snapshot
from mailqueue.logs import event
from mailqueue.message import Email
from mailqueue.routing.pace import AHEAD, LOW, NO_LIMIT, SPENT, Pace, Promise, State
from mailqueue.routing.pool import Pool
from mailqueue.routing.reservations import (
    Reservations,
    grant_of,
    level_before,
    state_of,
)

logger = logging.getLogger(__name__)

# Seconds
COVER = 0.05  # of times for which e-mails are claimed together
LONGEST_PATH = 0.3
NEAR = 0.25  # for which an e-mail waits for its time, although another vendor could take it
LONGEST_WAIT = 900.0  # of a job that goes back to the queue
CLOCK_LASTS = 10.0
GIVE_BACK_EVERY = 0.5

PER_SECOND = 50  # e-mails that come back from their wait, for a vendor that has budgets only


class Path:
    """How long a part of the way takes: nearly the longest of late."""

    def __init__(self) -> None:
        self.seconds = 0.015

    def took(self, seconds: float) -> None:
        self.seconds = min(LONGEST_PATH, max(seconds, self.seconds * 0.95))


def _pool_of(promise: Promise) -> Pool:
    """The pool that gave it."""
    return cast("Pool", promise.pool)


def recipients(email: Email, snapshot: Snapshot) -> int:
    """How many are still to get it."""
    return len(email.recipients if snapshot.pending is None else snapshot.pending)


class Limits:
    """The limited vendors; falsy if there is none."""

    def __init__(
        self,
        reservations: Reservations,
        clock: Callable[[], float] = time.monotonic,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._reservations = reservations
        self._clock = clock
        self._rand = rand
        self._lock = threading.Lock()
        self._pools: Mapping[str, Pool] = {}  # replaced as a whole
        self._readings: deque[tuple[float, float]] = deque()  # of the server's clock
        self._ahead = time.time() - clock()
        self._back: dict[tuple[str, int], float] = {}  # by vendor and priority
        self._claim, self._fetch = Path(), Path()
        self.hungry = False  # the queue has more than was fetched last

    def rearrange(self, configs: Iterable[VendorConfig]) -> None:
        """The vendors are these from now on. What is promised of another pace is given back."""
        paces = {each.name: Pace.of(each.rate) for each in configs if each.rate is not None}
        before = self._pools
        self._pools = {
            name: before[name] if name in before and before[name].pace == pace else Pool(pace)
            for name, pace in paces.items()
        }

    def is_outdated(self, promise: Promise) -> bool:
        """Whether the vendor has other limits since, or none."""
        return promise.pool is not self._pools.get(promise.vendor)

    def __bool__(self) -> bool:
        return bool(self._pools)

    def __contains__(self, vendor: str) -> bool:
        return vendor in self._pools

    @property
    def names(self) -> Collection[str]:
        """The limited vendors."""
        return self._pools.keys()

    def fits(self, vendor: str, recipients: int) -> bool:
        """Whether an e-mail of so many recipients can ever go there."""
        pool = self._pools.get(vendor)
        return pool is None or self._units(pool, recipients) <= pool.pace.most

    @staticmethod
    def _units(pool: Pool, recipients: int) -> int:
        return max(1, recipients) if pool.pace.by_recipients else 1

    # The server's clock --------------------------------------------------------------------------

    def now(self) -> float:
        """The server's time, in seconds since the epoch."""
        return self._clock() + self._ahead

    def learn_clock(self, server: float) -> None:
        """The server's clock showed this, a moment ago."""
        # The reply was on its way for a while, so each reading is a little slow. The fastest of the
        # last seconds is the best; an older one may be of another server.
        with self._lock:
            now = self._clock()
            self._readings.append((now, server - now))
            while self._readings[0][0] < now - CLOCK_LASTS:
                self._readings.popleft()
            self._ahead = max(ahead for _, ahead in self._readings)

    def learn(self, document: Mapping[str, Any]) -> None:
        """What a vendor's document says, as it was read with the vendors' health."""
        self.learn_clock(document["now"].timestamp())
        pool = self._pools.get(str(document["_id"]).partition(":")[2])
        if pool is not None:
            with self._lock:
                pool.state = state_of(document)

    def fetch_took(self, seconds: float) -> None:
        """So long it took from the queue to the plan."""
        self._fetch.took(seconds)

    @property
    def lead(self) -> float:
        """Seconds before its time at which an e-mail is claimed."""
        return 0.01 + self._claim.seconds

    @property
    def horizon(self) -> float:
        """Seconds before its time at which an e-mail is fetched."""
        return self.lead + COVER + self._fetch.seconds

    # Promises ------------------------------------------------------------------------------------

    def promise(self, vendor: str, recipients: int, near: bool) -> Promise | None:
        """A promise for an e-mail that can go within a second, or soon (``near``); None: not now.

        Reserves times if there are too few.
        """
        if (pool := self._pools.get(vendor)) is None:
            return NO_LIMIT
        within = NEAR if near else AHEAD
        units = self._units(pool, recipients)
        if (promise := self._promise(pool, vendor, units, within)) is not None:
            return promise
        with pool.asking:  # another thread may just have reserved
            promise = self._promise(pool, vendor, units, within)
            if promise is not None or not self._ask(pool, vendor, units):
                return promise
        return self._promise(pool, vendor, units, within)

    def _promise(self, pool: Pool, vendor: str, units: int, within: float) -> Promise | None:
        with self._lock:
            now = self.now()
            pool.drop_passed(now)
            expected = pool.expected(units)
            if expected is None or expected > now + within:
                return None
            pool.promised += units
            pool.wanted = True
            return Promise(vendor, units, pool)

    def forgo(self, promise: Promise) -> None:
        """Its e-mail does not go, or not now: another may have the time."""
        if promise is NO_LIMIT:
            return
        with self._lock:
            pool = _pool_of(promise)
            if promise.sent_at is not None and not promise.over:
                pool.unused += promise.units
            self._end(pool, promise)
            promise.over = True

    def _end(self, pool: Pool, promise: Promise) -> None:
        if not promise.over and promise.sent_at is None:
            pool.promised -= promise.units
            pool.claiming -= promise.units * promise.claiming

    def to_claim(self, vendor: str) -> int:
        """The units whose time is near and for which no e-mail is claimed."""
        if (pool := self._pools.get(vendor)) is None:
            return 0
        with self._lock:
            now = self.now()
            pool.drop_passed(now)
            return pool.within(now, self.lead + COVER) - pool.claiming

    def claim_in(self, vendor: str) -> float:
        """Seconds until the next e-mail is to be claimed; infinite: no time is in hand for it."""
        if (pool := self._pools.get(vendor)) is None:
            return math.inf
        with self._lock:
            now = self.now()
            pool.drop_passed(now)
            if pool.claiming >= len(pool.times):
                return math.inf
            return max(0.0, pool.times[pool.claiming] - now - self.lead)

    def begin_claim(self, promise: Promise) -> None:
        """Its e-mail is claimed now."""
        with self._lock:
            if not promise.claiming and not promise.over:
                promise.claiming, promise.claim_at = True, self._clock()
                _pool_of(promise).claiming += promise.units

    def end_claim(self, promise: Promise) -> None:
        """It is claimed."""
        if promise.claim_at is not None:
            self._claim.took(self._clock() - promise.claim_at)
            promise.claim_at = None

    def next_in(self, vendor: str) -> float:
        """Seconds until the vendor's next time, or 0; infinite: none is in hand."""
        if (pool := self._pools.get(vendor)) is None:
            return math.inf
        with self._lock:
            now = self.now()
            pool.drop_passed(now)
            return max(0.0, pool.times[0] - now) if pool.times else math.inf

    def take(self, promise: Promise) -> bool:
        """Give it the next time, if that has come."""
        pool = _pool_of(promise)
        with self._lock:
            now = self.now()
            pool.drop_passed(now)
            if not pool.times or pool.times[0] > now:
                return False
            self._end(pool, promise)
            promise.sent_at = pool.times[0]
            pool.used += promise.units
            pool.fresh = 0
            for _ in range(min(promise.units, len(pool.times))):
                pool.times.popleft()
            return True

    def is_late(self, promise: Promise) -> bool:
        """Whether the time that it got has passed."""
        at = promise.sent_at
        return at is not None and self.now() > at + _pool_of(promise).slack

    def renew(self, promise: Promise) -> None:
        """Its time has passed: it waits for the next one."""
        pool = _pool_of(promise)
        with self._lock:
            pool.unused += promise.units
            pool.promised += promise.units
            pool.claiming += promise.units
            promise.claiming, promise.sent_at = True, None

    # Room ----------------------------------------------------------------------------------------

    def room(self, vendor: str) -> int:
        """For how many e-mails more a time comes in a moment; reserves times where mail waits.

        Where none is known to wait, and a time may be had, one: it may come.
        """
        if (pool := self._pools.get(vendor)) is None:  # a reload has just taken its limits away
            return 1
        with self._lock:
            now = self.now()
            pool.drop_passed(now)
            eager = self.hungry and pool.wanted
            needs = eager or pool.free < 0
            ends = not pool.times or pool.times[-1] < now + self.horizon
            ask = needs and (ends or pool.free < 0) and pool.may_ask(now)
        if ask:
            with pool.asking:
                self._ask(pool, vendor, 1)
        with self._lock:
            now = self.now()
            room = pool.within(now, self.horizon) - pool.promised
            if room <= 0 and not eager and pool.free <= 0:
                soon = pool.pace.next_time(pool.state, now) <= now + self.lead + COVER
                return int(soon and pool.may_ask(now))
            return max(0, room)

    def opens_in(self, vendor: str) -> float:
        """Seconds until it is worth to ask for room again."""
        if (pool := self._pools.get(vendor)) is None:
            return 0.0
        with self._lock:
            now = self.now()
            if pool.free > 0:
                return max(0.0, pool.times[pool.promised] - now - self.horizon + COVER)
            at = max(pool.rest_until, pool.ask_at(now))
            if not (self.hungry and pool.wanted):
                at = max(at, pool.pace.next_time(pool.state, now) - self.lead - COVER)
            elif pool.times:
                at = max(at, pool.times[-1] - self.horizon)
            return max(0.0, at - now)

    def closed_for(self, vendor: str) -> float:
        """Seconds until a budget that is used up is there again; 0: none is."""
        pool = self._pools.get(vendor)
        if pool is None or not pool.pace.budgets:
            return 0.0
        with self._lock:
            if pool.times:
                return 0.0
            now = self.now()
            ends = [window.until.timestamp() for _, window in pool.pace.spent(pool.state, now)]
            return max([0.0, *(end - now for end in ends)])

    def is_shut(self, vendor: str) -> bool:
        """Whether it has no room now, and will not be asked for any."""
        pool = self._pools.get(vendor)
        if pool is None:
            return False
        with self._lock:
            return pool.free <= 0 and not pool.may_ask(self.now())

    def delay(self, vendors: Collection[str], priority: int, recipients: int) -> float:
        """Seconds for which an e-mail for these vendors is out of the way of others.

        Each gets a time of its own, at the vendor's pace, and each class a line of its own.
        """
        pools = self._pools
        with self._lock:
            now = self.now()
            first = {
                name: self._first(pools[name], recipients, now) for name in vendors if name in pools
            }
            if not first:  # a reload has just taken their limits away
                return 1.0
            vendor = min(first, key=first.__getitem__)
            step = pools[vendor].pace.interval or 1 / PER_SECOND
            back = max(first[vendor], self._back.get((vendor, priority), 0.0) + step)
            back = self._back[vendor, priority] = min(back, now + LONGEST_WAIT)
            # It comes back in whole seconds; it waits for the rest of the time here.
            return max(1.0, math.floor(back - now))

    def _first(self, pool: Pool, recipients: int, now: float) -> float:
        """When an e-mail of so many recipients may go there."""
        units = self._units(pool, recipients)
        ends = [w.until.timestamp() for _, w in pool.pace.spent(pool.state, now, units)]
        return max([pool.pace.next_time(pool.state, now), *ends])

    # Reserving -----------------------------------------------------------------------------------

    def _ask(self, pool: Pool, vendor: str, units: int) -> bool:
        """Reserve times for so many units more, at least; False: there are none."""
        with self._lock:
            now = self.now()
            pool.drop_passed(now)
            need = max(1, units - max(0, pool.free))
            if not pool.may_ask(now):
                return False
            debt = 0 < pool.free < units
            want = self._want(pool, need, now)
        try:
            document = self._reservations.reserve(
                vendor, pool.pace, need, want, self.lead, now, debt=debt
            )
        except StoreUnavailable:
            with self._lock:
                pool.rest_until = self.now() + AHEAD
            return False
        return self._granted(pool, vendor, document)

    def _want(self, pool: Pool, need: int, now: float) -> int:
        """Twice as many as last time, or half if there were no e-mails for some of these.

        Few when a budget comes to its end: what one process has in hand then, others cannot use.
        """
        block = pool.block // 2 if pool.wasted else 2 * pool.block
        pool.block = max(1, min(pool.largest_block, block))
        pool.wanted = pool.used > 0 or not pool.wasted
        pool.used, pool.wasted = 0, False
        few = pool.pace.rest(pool.state, now) / 16
        return max(need - min(0, pool.free), int(min(pool.block, few)))

    def _granted(self, pool: Pool, vendor: str, document: Mapping[str, Any]) -> bool:
        grant, state = grant_of(document), state_of(document)
        self.learn_clock(grant.at)
        with self._lock:
            pool.state = state
            if not grant.units:
                # Where blocks are reserved, others have them all: many that ask again and again
                # would cost more calls than e-mails.
                rest = AHEAD * (0.5 + self._rand()) if pool.largest_block > 1 else 0.0
                pool.rest_until = self.now() + rest
                return False
            pool.times.extend(pool.pace.times(grant))
            pool.tat, pool.fresh = state.tat, grant.units
            pool.ends = {name: window.until for name, window in state.windows.items()}
        self._tell(vendor, pool.pace, document, state)
        return True

    def _tell(self, vendor: str, pace: Pace, document: Mapping[str, Any], state: State) -> None:
        """Say that a budget comes to its end, or is used up: once for each window."""
        for name, most in pace.budgets.items():
            window = state.windows[name]
            if window.level <= level_before(document, name):
                continue
            until = window.until.isoformat(timespec="seconds")
            facts = {"vendor": vendor, "budget": f"per_{name}", "used": window.used}
            facts |= {"limit": most, "until": until}
            if window.level >= SPENT:
                event(logger, logging.ERROR, "vendor.budget_spent", **facts)
            elif window.level >= LOW:
                event(logger, logging.WARNING, "vendor.budget_low", **facts)

    # Giving back ---------------------------------------------------------------------------------

    def _give_back_unused(self, pool: Pool, vendor: str, *, everything: bool = False) -> None:
        """Where a unit is worth it: it is a part of a budget, or it takes long until the next."""
        with self._lock:
            now = self.now()
            pool.drop_passed(now)
            if everything:
                pool.unused += len(pool.times)
                pool.times.clear()
            units = pool.unused
            valuable = pool.pace.budgets or pool.pace.interval > AHEAD
            if not valuable:
                pool.unused = units = 0
            late = everything or now - pool.gave_back_at >= GIVE_BACK_EVERY
            if not units or not late:
                return
            pool.unused, pool.gave_back_at = 0, now
            # Only the times of the last reservation, and only all of them: before others that were
            # used there is no place for one more.
            times = pool.fresh if not pool.times and pool.fresh <= units else 0
            tat, ends = pool.tat, pool.ends
        try:
            document = self._reservations.give_back(vendor, pool.pace, units, times, tat, ends)
        except StoreUnavailable:
            with self._lock:
                pool.unused += units
            return
        with self._lock:
            pool.state = state_of(document)

    def give_back(self, *, everything: bool = False) -> None:
        """Give back what was not used; ``everything`` that is in hand: this process stops."""
        for vendor, pool in self._pools.items():
            self._give_back_unused(pool, vendor, everything=everything)
