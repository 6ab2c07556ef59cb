"""Who consumes now, and what came of the attempts: heartbeats and counters.

Decides: how both are written down, in ``<collection>.stats``.

Assumes: nobody decides anything about an e-mail by what stands here; it is for observers.

Promises: raises ``StoreUnavailable``. Damage in one document hides no other.

::

    _id  at  in_flight  version  env  vendors        a heartbeat; ``_id`` is the consumer's name
    _id  total  env  vendor  outcomes                all attempts at a vendor: ``total`` is true
    _id  at  env  vendor  outcomes                   those of one minute, which begins ``at``
    outcomes {OUTCOME: {seconds, counts {BOUND: n}}}  of how many the call took up to so many
                                                     milliseconds, and how long all took together
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from mailqueue.store.document import Document
from mailqueue.store.mongo import Mongo

SUFFIX = ".stats"
ALIVE = 60.0  # seconds: a consumer whose heartbeat is older is not there any more
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds; and what took longer
_NAMES = (*(f"{round(1000 * bound)}" for bound in BOUNDS), "more")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a consumer said of itself ``at``: how many e-mails it had ``in_flight``, and so on."""

    owner: str
    at: datetime
    in_flight: int
    version: str
    env: str
    vendors: tuple[str, ...]

    @property
    def host(self) -> str:
        """Where it runs."""
        return self.owner.partition(":")[0]

    @classmethod
    def of(cls, document: Document) -> Self:
        """The heartbeat in a document; raises ``TypeError`` or ``ValueError`` for what is none."""
        owner, at, version, env = (document.get(n) for n in ("_id", "at", "version", "env"))
        vendors, in_flight = document.get("vendors"), document.get("in_flight")
        texts = (owner, version, env, *(vendors if isinstance(vendors, list) else [None]))
        if not isinstance(at, datetime) or not all(isinstance(text, str) for text in texts):
            raise TypeError
        return cls(str(owner), at, int(in_flight or 0), str(version), str(env), tuple(texts[3:]))


@dataclass(frozen=True, slots=True)
class Tally:
    """Attempts: how many took up to each of ``BOUNDS``, or longer; and ``seconds`` together."""

    counts: tuple[int, ...] = (0,) * len(_NAMES)
    seconds: float = 0.0

    @property
    def number(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Tally(counts, self.seconds + other.seconds)

    @classmethod
    def of(cls, entry: Any) -> Self:
        """From a document; what is damaged in it counts as not there."""
        fields = entry if isinstance(entry, Mapping) else {}
        counts = fields.get("counts")
        counts = counts if isinstance(counts, Mapping) else {}
        numbers = tuple(int(_number(counts.get(name))) for name in _NAMES)
        return cls(numbers, _number(fields.get("seconds")))


Totals = Mapping[tuple[str, str], Tally]
"""By the vendor's name and the outcome."""


@dataclass(frozen=True, slots=True)
class Minute:
    """The attempts of the minute that began ``at``."""

    at: datetime
    totals: Totals


class Stats:
    """The heartbeats and counters of one installation, for one kind of consumer (``env``)."""

    def __init__(self, mongo: Mongo, env: str) -> None:
        self._mongo, self._env = mongo, env
        self.collection = mongo.collection(SUFFIX)

    def consumers(self, within: float = ALIVE) -> list[Heartbeat]:
        """The consumers that gave a sign of life within so many seconds, by name."""
        match = {"env": self._env, "in_flight": {"$exists": True}, "$expr": _is_newer(within)}
        beats = []
        for document in self._find({"at": {"$type": "date"}, **match}):
            try:
                beats.append(Heartbeat.of(document))
            except (TypeError, ValueError):
                continue
        return sorted(beats, key=lambda beat: beat.owner)

    def totals(self) -> Totals:
        """All attempts that were counted since the installation began."""
        return _sums(self._find({"total": True, "env": self._env}))

    def minutes(self, since: datetime) -> list[Minute]:
        """The attempts of each minute that began at this time or later, oldest first.

        A minute without any is left out. They are kept for a day.
        """
        match = {"at": {"$gte": since}, "env": self._env, "outcomes": {"$exists": True}}
        minutes: dict[datetime, list[Document]] = {}
        for document in self._find(match):
            minutes.setdefault(document["at"].replace(tzinfo=UTC), []).append(document)
        return [Minute(at, _sums(minutes[at])) for at in sorted(minutes)]

    def _find(self, match: Mapping[str, Any]) -> list[dict[str, Any]]:
        with self._mongo.operation():
            return list(self.collection.find(match))


def _is_newer(seconds: float) -> dict[str, Any]:
    return {"$gte": ["$at", {"$subtract": ["$$NOW", round(seconds * 1000)]}]}


def _sums(documents: Sequence[Document]) -> Totals:
    sums: dict[tuple[str, str], Tally] = {}
    for document in documents:
        vendor, outcomes = document.get("vendor"), document.get("outcomes")
        for outcome, entry in outcomes.items() if isinstance(outcomes, Mapping) else ():
            key = str(vendor), str(outcome)
            sums[key] = sums.get(key, Tally()) + Tally.of(entry)
    return sums


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
