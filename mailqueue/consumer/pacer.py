"""E-mails of limited vendors, which wait for a send time: until they are claimed, and after.

Decides: which e-mail is claimed for a time that is near, and which goes when it comes: of those
that are there the most urgent one. So an e-mail that comes late overtakes what waits.

Assumes: each delivery has a ``Promise``. The writer calls ``add``, ``due``, ``late``,
``claim_in`` and ``recall``, the senders ``hold`` and ``pop``, and a thread of its own ``run``.

Promises: what waits here holds no slot and no sender, and is claimed only a moment before its time,
so that the deadline of its attempt is not eaten. Nothing waits for long after its time.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable
from itertools import count

from mailqueue.consumer.delivery import Delivery
from mailqueue.routing.bulkheads import Bulkheads
from mailqueue.routing.limits import Limits
from mailqueue.routing.pace import AHEAD

# Seconds
PATIENCE = 1.0
BUSY_LOOK = 0.02
_Line = list[tuple[int, int, float, Delivery]]  # a heap: priority, order, since when


class Pacer:
    """Two lines for each limited vendor: of planned deliveries, and of claimed ones."""

    def __init__(
        self,
        limits: Limits,
        bulkheads: Bulkheads[Delivery],
        clock: Callable[[], float],
        send: Callable[[Delivery], None],
        is_idle: Callable[[], bool],
    ) -> None:
        self._limits, self._bulkheads, self._clock = limits, bulkheads, clock
        self._send, self._is_idle = send, is_idle
        self._planned: dict[str, _Line] = {}
        self._claimed: dict[str, _Line] = {}
        self._order = count()
        self._changed = threading.Condition()
        self._closed = False

    # Before the claim, by the writer -------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether nothing waits here."""
        return not any(self._planned.values()) and not any(self._claimed.values())

    def add(self, delivery: Delivery) -> None:
        """It is planned, and waits until its time is near."""
        self._push(self._planned, delivery)

    def claim_in(self) -> float:
        """Seconds until something here is to be claimed, or has waited for too long."""
        return min(
            (
                min(self._limits.claim_in(name), PATIENCE)
                for name, line in self._planned.items()
                if line
            ),
            default=math.inf,
        )

    def due(self) -> list[Delivery]:
        """Those to be claimed now, the most urgent first."""
        due: list[Delivery] = []
        for name, line in self._planned.items():
            units = self._limits.to_claim(name) if line else 0
            while line and units > 0:
                delivery = heapq.heappop(line)[-1]
                if (promise := delivery.promise) is not None:
                    self._limits.begin_claim(promise)
                    units -= promise.units
                due.append(delivery)
        return due

    def late(self, patience: float) -> list[Delivery]:
        """Those that have waited for so long after their time: not claimed, and to be put back."""
        return [d for line in self._planned.values() if line for d in self._late(line, patience)]

    def _late(self, line: _Line, patience: float) -> list[Delivery]:
        since = self._clock() - (AHEAD + patience if patience else 0.0)
        late = {entry[-1] for entry in line if entry[2] <= since or self._is_outdated(entry[-1])}
        if late:
            line[:] = [entry for entry in line if entry[-1] not in late]
            heapq.heapify(line)
        return list(late)

    def _is_outdated(self, delivery: Delivery) -> bool:
        """Whether the configuration was read again, and has other limits."""
        return (promise := delivery.promise) is not None and self._limits.is_outdated(promise)

    # After the claim -----------------------------------------------------------------------------

    def hold(self, delivery: Delivery) -> None:
        """It is claimed, and goes when its time comes."""
        self._bulkheads.wait()
        if (promise := delivery.promise) is not None:
            self._limits.end_claim(promise)
        with self._changed:
            self._push(self._claimed, delivery)
            self._changed.notify()

    def _push(self, lines: dict[str, _Line], delivery: Delivery) -> None:
        priority = delivery.stored.job_priority if delivery.stored else 0
        entry = (priority, next(self._order), self._clock(), delivery)
        heapq.heappush(lines.setdefault(delivery.vendor, []), entry)

    def run(self) -> None:
        """Send what waits, each at its time, until ``close``."""
        with self._changed:
            while not self._closed:
                wait = self._wait()
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                elif self._is_idle() and (delivery := self._pop()) is not None:
                    self._send(delivery)
                else:
                    self._changed.wait(BUSY_LOOK)  # a sender that comes free takes it by itself

    def send_next(self) -> bool:
        """Without ``run``: wait until the next may go, and send it. False: no time is in hand."""
        while (wait := self._wait()) is not None and wait < PATIENCE:
            time.sleep(wait)
            if (delivery := self._pop()) is not None:
                self._send(delivery)
                return True
        return False

    def pop(self) -> Delivery | None:
        """What may go now; for a sender that comes free."""
        if not any(self._claimed.values()):
            return None
        with self._changed:
            return self._pop()

    def _wait(self) -> float | None:
        """Seconds until the next may go, or is to be looked at again. None: nothing waits."""
        lines = self._claimed.items()
        waits = [min(self._limits.next_in(name), PATIENCE) for name, line in lines if line]
        return min(waits, default=None)

    def _pop(self) -> Delivery | None:
        for line in self._claimed.values():
            promise = line[0][-1].promise if line else None
            if promise is not None and self._limits.take(promise):
                self._bulkheads.go()
                return heapq.heappop(line)[-1]
        return None

    def recall(self, patience: float) -> list[Delivery]:
        """Take back the claimed ones that have waited for so long after their time."""
        if not any(self._claimed.values()):
            return []
        with self._changed:
            late = [d for line in self._claimed.values() for d in self._late(line, patience)]
        for delivery in late:
            self._bulkheads.go()
            self._bulkheads.release(delivery.vendor)
        return late

    def close(self) -> None:
        """End ``run``."""
        with self._changed:
            self._closed = True
            self._changed.notify()
