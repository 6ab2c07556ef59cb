"""Who consumes now, and what came of the attempts: heartbeats and counters.

Decides: how both are written down, in ``<collection>.stats``, and how they are added up.

Assumes: nobody decides anything about an e-mail by what stands here; it is for observers. A process
writes its counts under a nonce, and repeats them under the same one until MongoDB takes them.

Promises: raises ``StoreUnavailable``. What a process has written counts once, also if the reply is
lost (as long as fewer than ``MARKS`` other writes to the same document come in between), and a
majority has it, so that no counter ever goes back. Not exact is: a process that is killed takes
with it what it counted since its last write, ten seconds at most; a count stands in the minute of
its write; an attempt whose process was killed is never counted. Damage hides nothing else.

::

    _id  at  in_flight  version  env  vendors          a heartbeat; ``_id`` is the consumer's name
    _id  total  env  vendor  outcomes  marks           all attempts at a vendor: ``total`` is true
    _id  at  env  vendor  outcomes  marks              those of one minute, which begins ``at``
    outcomes {OUTCOME: {seconds, counts {BOUND: n}}}   how many calls took up to so many
                                                       milliseconds, and how long all together
    marks                                              the nonces of the newest writes
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from math import inf
from typing import Any, Self

from bson import ObjectId
from pymongo import DeleteOne, UpdateOne
from pymongo.errors import OperationFailure

from mailqueue.store import ids
from mailqueue.store.document import Document
from mailqueue.store.indexes import EPOCH
from mailqueue.store.ledger import array
from mailqueue.store.mongo import Mongo, majority_reads, readable, refusals, write_errors

SUFFIX = ".stats"
KEPT = timedelta(days=1)
MARKS = 100
_UNAUTHORIZED = 13
ALIVE = 60.0  # seconds: a consumer whose heartbeat is older is not there any more
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds; and what took longer
_NAMES = (*(f"le_{round(1000 * bound)}" for bound in BOUNDS), "more")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a consumer said of itself ``at``: how many e-mails it had ``in_flight``, and so on."""

    owner: str
    in_flight: int
    version: str
    env: str
    vendors: tuple[str, ...]
    at: datetime = EPOCH  # the server's time, which it gets there

    @property
    def host(self) -> str:
        """Where it runs."""
        return self.owner.partition(":")[0]

    @classmethod
    def of(cls, document: Document) -> Self:
        """The heartbeat in a document; raises ``TypeError`` for what is none."""
        owner, at, version, env = (document.get(n) for n in ("_id", "at", "version", "env"))
        vendors, in_flight = document.get("vendors"), document.get("in_flight")
        texts = (owner, version, env, *(vendors if isinstance(vendors, list) else [None]))
        if not isinstance(at, datetime) or not all(isinstance(text, str) for text in texts):
            raise TypeError
        return cls(
            str(owner), int(_number(in_flight)), str(version), str(env), tuple(texts[3:]), at
        )

    @property
    def fields(self) -> dict[str, Any]:
        """What is written down, beside the server's time."""
        names = {name: getattr(self, name) for name in ("in_flight", "version", "env")}
        return {**names, "vendors": list(self.vendors)}


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
    def over(cls, seconds: Sequence[float]) -> Self:
        """Of calls that took so long."""
        ordered = sorted(seconds)
        ends = [0, *(bisect_right(ordered, bound) for bound in BOUNDS), len(ordered)]
        return cls(tuple(end - begin for begin, end in pairwise(ends)), sum(ordered))

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


@dataclass(frozen=True, slots=True)
class Counts:
    """What a process counted, to be written down in the ``minute`` under one ``nonce``."""

    minute: datetime
    totals: Totals
    nonce: ObjectId = field(default_factory=ids.new)


class Stats:
    """The heartbeats and counters of one installation, for one kind of consumer (``env``)."""

    def __init__(self, mongo: Mongo, env: str) -> None:
        self._mongo, self._env = mongo, env
        self.collection = readable(mongo.collection(SUFFIX))

    # Writing -----------------------------------------------------------------------------------

    def ensure_index(self) -> int | None:
        """Create the index by which heartbeats and minutes are removed after a day.

        Returns MongoDB's error code if it refuses.
        """
        seconds = round(KEPT.total_seconds())
        return self._try(lambda: self.collection.create_index("at", expireAfterSeconds=seconds))

    def _try(self, write: Callable[[], object]) -> int | None:
        """Return the code of what is no outage, and does not pass: we may not, or a validator."""
        with self._mongo.operation():
            try:
                write()
            except OperationFailure as error:
                if error.code != _UNAUTHORIZED and not refusals(error):
                    raise
                codes = [each.get("code") for each in write_errors(error)]
                return (codes or [error.code])[0] or 0
        return None

    # Heartbeat: any → now
    #
    # Rule: a consumer replaces its own; nobody else writes it.
    #
    #   before  {_id: "web-1:7:65f1…", at: NOW - 10 s, in_flight: 3, …}
    #   after   {_id: "web-1:7:65f1…", at: NOW, in_flight: 5, version: "1.0", env: "production",
    #            vendors: ["ses"]}
    #
    # Count: any → more
    #
    # Rule: a count is added unless the nonce of its write is among the marks: then an earlier try,
    # whose reply was lost, has added it.
    #
    #   before  {_id: "total:production:ses", outcomes: {accepted: {seconds: 1.5, counts:
    #            {le_100: 20}}}, marks: [N1]}
    #   after   {_id: "total:production:ses", outcomes: {accepted: {seconds: 1.7, counts:
    #            {le_100: 22}}}, marks: [N1, N2]}

    def write(self, beat: Heartbeat, counts: Sequence[Counts], *, last: bool = False) -> int | None:
        """One write: the sign of life, and what was counted. ``last``: it lives no longer.

        Returns MongoDB's error code if it refuses.
        """
        mine = {"_id": beat.owner}
        now = {"$set": beat.fields, "$currentDate": {"at": True}}
        sign = DeleteOne(mine) if last else UpdateOne(mine, now, upsert=True)
        operations = [sign, *(each for one in counts for each in self._count(one))]
        return self._try(lambda: self.collection.bulk_write(operations, ordered=False))

    def _count(self, counts: Counts) -> Iterator[UpdateOne]:
        """The updates of a vendor's two documents."""
        for vendor in {vendor for vendor, _ in counts.totals}:
            tallies = {o: tally for (v, o), tally in counts.totals.items() if v == vendor}
            minute = f"minute:{self._env}:{vendor}:{counts.minute:%Y-%m-%dT%H:%M}"
            of = {"env": self._env, "vendor": {"$literal": vendor}}
            for id_, fields in (
                (f"total:{self._env}:{vendor}", {**of, "total": True}),
                (minute, {**of, "at": counts.minute}),
            ):
                update = _count_update(tallies, counts.nonce, fields)
                yield UpdateOne({"_id": id_}, update, upsert=True)

    # Reading -----------------------------------------------------------------------------------

    def consumers(self, within: float = ALIVE) -> list[Heartbeat]:
        """The consumers that gave a sign of life within so many seconds, by name."""
        match = {"env": self._env, "in_flight": {"$exists": True}, "$expr": _is_newer(within)}
        beats = []
        for document in self._find({"at": {"$type": "date"}, **match}):
            try:
                beats.append(Heartbeat.of(document))
            except TypeError:
                continue
        return sorted(beats, key=lambda each: each.owner)

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
            if isinstance(document["at"], datetime):  # no list of times, nor one beyond all
                minutes.setdefault(document["at"], []).append(document)
        return [Minute(at, _sums(minutes[at])) for at in sorted(minutes)]

    def _find(self, match: Mapping[str, Any]) -> list[dict[str, Any]]:
        with self._mongo.operation():
            return list(majority_reads(self.collection).find(match, {"marks": 0}))


def _count_update(
    tallies: Mapping[str, Tally], nonce: ObjectId, fields: Mapping[str, Any]
) -> list[dict[str, Any]]:
    numbers: dict[str, float] = {}
    for outcome, tally in tallies.items():
        numbers[f"outcomes.{outcome}.seconds"] = tally.seconds
        for name, number in zip(_NAMES, tally.counts, strict=True):
            if number:
                numbers[f"outcomes.{outcome}.counts.{name}"] = number
    sums = {
        path: {"$add": [_or_zero(f"${path}"), {"$cond": ["$is_new", number, 0]}]}
        for path, number in numbers.items()
    }
    marks = {"$slice": [{"$concatArrays": [array("$marks"), [nonce]]}, -MARKS]}
    return [
        {"$set": {"is_new": {"$not": [{"$in": [nonce, array("$marks")]}]}}},
        {"$set": {**fields, **sums, "marks": {"$cond": ["$is_new", marks, "$marks"]}}},
        {"$unset": "is_new"},
    ]


def _or_zero(path: str) -> dict[str, Any]:
    sound = [{"$isNumber": path}, {"$gte": [path, 0]}, {"$lt": [path, inf]}]
    return {"$cond": [{"$and": sound}, path, 0]}


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
    """A number from zero on; 0 for damage."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return 0.0
    return float(value) if 0 <= value < inf else 0.0
