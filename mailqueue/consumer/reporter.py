"""The reporter: counts attempts, and writes down every ten seconds that this process lives.

Decides: when it is written, and what becomes of the counts while MongoDB is away: they are kept.
What was written without an acknowledgement is written again as it was, so that nothing counts
twice; what was counted meanwhile waits for its turn.

Assumes: ``beat`` and ``close`` are called by one thread at a time.

Promises: at most one write in ``EVERY`` seconds, and one at the end. To count costs less than a
microsecond, and no lock. Trouble here is nobody's: e-mails are sent all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mailqueue import __version__
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.logs import Once, event, place
from mailqueue.store.stats import Counts, Heartbeat, Stats, Tally

if TYPE_CHECKING:
    from mailqueue.consumer.shared import Shared

logger = logging.getLogger(__name__)

EVERY = 10.0  # seconds
AT_THE_END = 2.0  # seconds for the last write: who stops the process is waiting


class Attempts:
    """What came of attempts. ``count`` takes a vendor, an outcome and the seconds of the call."""

    def __init__(self) -> None:
        self._new: list[tuple[str, Outcome, float]] = []
        self.count: Callable[[tuple[str, Outcome, float]], None] = self._new.append

    def take(self) -> dict[tuple[str, str], Tally]:
        """What was counted since the last time."""
        # No lock: a list's methods are one step each. Not a new list: a thread may be about to
        # append to this one.
        attempts = self._new[:]
        del self._new[: len(attempts)]
        by_kind: dict[tuple[str, str], list[float]] = {}
        for vendor, outcome, seconds in attempts:
            by_kind.setdefault((vendor, outcome.value), []).append(seconds)
        return {kind: Tally.over(seconds) for kind, seconds in by_kind.items()}


class Reporter:
    """One per process."""

    def __init__(self, shared: Shared, owner: str) -> None:
        self._shared, self._owner = shared, owner
        self._stats = Stats(shared.store, shared.store.env)
        self._totals: dict[tuple[str, str], Tally] = {}
        self._in_doubt: Counts | None = None  # it was written, and no acknowledgement came
        self._beat_at = -EVERY
        self._is_indexed = self._is_refused = False
        self._once = Once()

    @property
    def is_due(self) -> bool:
        """Whether so much time has passed since the last write."""
        return self._shared.clock() - self._beat_at >= EVERY

    def beat(self, seconds: float | None = None) -> None:
        """Write that this process lives, and what it counted. Never raises.

        It takes ``seconds`` at most; None: ``mongodb.timeout``.
        """
        self._beat_at = self._shared.clock()
        self._gather()
        with self._ignoring_errors(seconds):
            if not self._is_indexed:
                self._say_refused(self._stats.ensure_index())
                self._is_indexed = True
            self._write([self._in_doubt or self._next()])

    def close(self) -> None:
        """Write what was counted, and that this process lives no longer. Never raises."""
        self._gather()
        with self._ignoring_errors(AT_THE_END):
            self._write([self._in_doubt, self._next()], last=True)

    @contextmanager
    def _ignoring_errors(self, seconds: float | None) -> Iterator[None]:
        """What goes wrong in the block concerns nobody: the counts are kept."""
        try:
            with self._shared.store.operation(seconds=seconds):
                yield
        except StoreUnavailable:
            logger.debug("the counts are kept")
        except Exception as error:  # noqa: BLE001  # a bug of ours must not stop the e-mails
            facts = {"error": type(error).__name__, "at": place(error)}
            event(logger, self._once.level(facts["at"]), "stats.not_written", **facts)

    def _gather(self) -> None:
        for kind, tally in self._shared.attempts.take().items():
            self._totals[kind] = self._totals.get(kind, Tally()) + tally

    def _next(self) -> Counts | None:
        """What was never written yet; from now on it may have been."""
        if not self._totals:
            return None
        now = datetime.fromtimestamp(self._shared.router.health.now(), UTC)
        totals, self._totals = self._totals, {}
        self._in_doubt = Counts(now.replace(second=0, microsecond=0), totals)
        return self._in_doubt

    def _write(self, counts: Sequence[Counts | None], *, last: bool = False) -> None:
        rules = self._shared.rules
        beat = Heartbeat(
            owner=self._owner,
            in_flight=rules.router.bulkheads.under_way,
            version=__version__,
            env=self._shared.store.env,
            vendors=tuple(vendor.name for vendor in rules.config.vendors),
        )
        refused = self._stats.write(beat, [one for one in counts if one is not None], last=last)
        if not self._say_refused(refused):
            self._in_doubt = None

    def _say_refused(self, code: int | None) -> bool:
        """Log once that MongoDB does not take it."""
        if code is not None and not self._is_refused:
            self._is_refused = True
            event(logger, logging.WARNING, "stats.refused", code=code)
        return code is not None
