"""The state of an installation, read at once: for ``doctor``, the metrics and the dashboard.

Decides: what is read, how much it may cost, and what is said where it would cost more.

Assumes: a ``Store`` of the kind (``env``) that is asked about; all numbers are of that kind, unless
they say otherwise. All times are the database server's.

Promises: nothing is written, and nothing logged but an outage. All together lasts no longer than
``mongodb.timeout`` and the queue's own time-outs. Each read has an index: ``(status, env, due_at)``
serves what is queued or sent now, ``(status, env, updated_at)`` what ended, ``(env,
callbacks.due_at)`` and ``(env, callbacks.state)`` the callbacks that are due, failed or gone (those
delivered have none, and are not counted); heartbeats, counters, vendors and controls are small
collections. Of each status so many are counted as ``COUNTED`` and ``ENDED`` say.

Of which class the oldest due e-mail is stands in no index: where more than ``WINDOW`` wait, the
oldest of a class is late by at least so much, and a class behind a long backlog of another may be
left out. Of ``high`` it is always exact if there is the index ``HIGH_INDEX``, in which no other
e-mail is. ``mailqueue metrics`` makes it, and those of callbacks, which a responder makes too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.errors import OperationFailure, PyMongoError

from mailqueue.config import Config, VendorConfig
from mailqueue.errors import MissingExtra, QueueUnavailable
from mailqueue.lifecycle.outcomes import HIGH, PRIORITIES, Reason, Status
from mailqueue.queue import open_broker
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.pace import Pace
from mailqueue.routing.reservations import Usage, document_id
from mailqueue.routing.rotation import Health, probe_wait
from mailqueue.store import callbacks
from mailqueue.store.control import DRAIN, Control, Controls
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.indexes import EPOCH
from mailqueue.store.mongo import within
from mailqueue.store.stats import ALIVE, Heartbeat, Stats
from mailqueue.store.store import Store

DAY = timedelta(days=1)
WINDOW = 1000  # e-mails, of which the class is looked at
SAMPLE = 200  # e-mails that ended last, whose callbacks are looked at where no index has them
BAND = timedelta(days=60)  # no e-mail is due for longer
PATIENCE = 1.0  # seconds for one look at them
COUNTED = 1_000_000  # e-mails that go on are counted up to this: a third of a second
ENDED = 100_000  # and those that have ended
BUILD = 3600.0  # seconds
HIGH_INDEX = ("env", "due_at", "updated_at")


@dataclass(frozen=True, slots=True)
class Oldest:
    """The e-mail that has waited for the longest time, and for how long."""

    id: ObjectId
    since: datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What is ``used`` of a vendor's ``limit``, ``until`` a new one begins."""

    used: int
    limit: int
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorState:
    """A vendor. ``probe_wait``: seconds until an e-mail may try it; None: it is available.

    ``probing``: one is trying it now. ``rate_wait``: seconds until its limits let the next e-mail
    go; None: it has none. ``budgets``: by ``day`` and ``month``. ``drained``, ``held``: by whom.
    """

    name: str
    type: str
    available: bool
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    probing: bool = False
    probe_wait: float | None = None
    drained: Control | None = None
    held: Control | None = None
    rate_wait: float | None = None
    budgets: Mapping[str, Budget] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What was so ``at`` one time, for the kind ``env``.

    ``oldest_due``: by class (``high``, …); None: none is due; a class that is missing was not found
    out. ``emails``: by status. ``estimated``: those of them that are so many at least, since they
    were not counted further. ``other_env``: queued e-mails of the other kind.
    ``failed``, ``ended``: e-mails that failed, and that were sent or failed, within a day.
    Those that failed because all their recipients are suppressed are none of them: so it should be.
    Of those that failed, and of those that were sent, ``ENDED`` are counted at most.
    ``callback_oldest``: the callback that has been due for longest; where there is no index, of the
    ``SAMPLE`` e-mails that ended last.
    ``queue``: jobs by state; empty: there is no queue beside MongoDB; None: it was not reached, and
    ``queue_error`` says why. ``callbacks``: by state; empty: there is no index to count them by.
    ``consumers``: those that live. ``controls``: what operators hold and drain.
    """

    at: datetime
    env: str
    oldest_due: Mapping[str, Oldest | None]
    emails: Mapping[Status, int]
    estimated: frozenset[Status]
    other_env: int
    failed: int
    ended: int
    uncertain_oldest: Oldest | None
    vendors: tuple[VendorState, ...]
    controls: Controls
    consumers: tuple[Heartbeat, ...]
    callbacks: Mapping[str, int]
    callback_oldest: Oldest | None = None
    queue: Mapping[str, int] | None = None
    queue_error: str = ""

    @property
    def knows_oldest_due(self) -> bool:
        """Whether it was found out of each class."""
        return self.oldest_due.keys() >= PRIORITIES.keys()

    @classmethod
    def read(cls, config: Config, store: Store, seconds: float | None = None) -> Overview:
        """Read all of it, MongoDB's part in ``seconds`` at most (``mongodb.timeout``).

        Raises ``StoreUnavailable``; the queue may be away (``queue_error``).
        """
        # One clock for all: the operations inside have no time of their own.
        with store.operation(seconds=seconds):
            overview = cls._of_mongodb(config, store)
        queue, queue_error = look_at_queue(config)
        return replace(overview, queue=queue, queue_error=queue_error)

    @classmethod
    def _of_mongodb(cls, config: Config, store: Store) -> Overview:
        now = store.now()
        read = _Reader(store, store.env, now)
        emails = read.count_each()
        lately = {"updated_at": {"$gte": now - DAY}}
        mishap = {"reason": {"$ne": Reason.SUPPRESSED.value}}
        failed = read.count(_of(store.env, Status.FAILED) | lately | mishap, ENDED)
        sent = read.count(_of(store.env, Status.SENT) | lately, ENDED)
        states, controls = vendor_states(config, store)
        return cls(
            at=now,
            env=store.env,
            oldest_due=read.oldest_due(),
            emails=emails,
            estimated=frozenset(s for s, number in emails.items() if number >= _most(s)),
            other_env=read.count(_of(_other(store.env), Status.QUEUED)),
            failed=failed,
            ended=failed + sent,
            uncertain_oldest=read.oldest_uncertain(),
            vendors=states,
            controls=controls,
            consumers=tuple(Stats(store, store.env).consumers(ALIVE)),
            callbacks=(by_state := read.callbacks()),
            callback_oldest=read.oldest_callback() if by_state.get(callbacks.DUE, 1) else None,
        )


def oldest_due(store: Store, env: str) -> Mapping[str, Oldest | None]:
    """That of an ``Overview``, for the kind ``env``. Raises ``StoreUnavailable``."""
    with store.operation():
        return _Reader(store, env, store.now()).oldest_due()


def vendor_states(
    config: Config, store: Store, env: str | None = None
) -> tuple[tuple[VendorState, ...], Controls]:
    """The configured vendors, and what operators hold and drain. Raises ``StoreUnavailable``.

    ``env``: those of that kind, not of the store's: a simulation has vendors of its own.
    """
    routing = Routing.read(config, store, env or store.env)
    return tuple(_vendor(vendor, routing) for vendor in config.vendors), routing.controls


@dataclass(frozen=True, slots=True)
class Routing:
    """What the choice of a vendor depends on, at the server's time ``now``.

    ``health``: of each configured vendor. ``limits``: what is used of the rate and the budgets of
    those that have one.
    """

    health: Mapping[str, Health]
    controls: Controls
    limits: Mapping[str, Mapping[str, Any]]
    now: float

    @classmethod
    def read(cls, config: Config, store: Store, env: str) -> Routing:
        """For e-mails of one kind. Raises ``StoreUnavailable``."""
        health = VendorHealth(store, [vendor.name for vendor in config.vendors], env=env)
        usages = {v.name: Usage(Pace.of(v.rate)) for v in config.vendors if v.rate is not None}
        for name, usage in usages.items():
            health.watch(document_id(name), usage.learn)
        healths, controls = health.look()
        now = health.now()
        limits = {name: usage.shown(now) for name, usage in usages.items()}
        return cls(healths, controls, limits, now)


def _vendor(config: VendorConfig, routing: Routing) -> VendorState:
    health, controls, now = routing.health[config.name], routing.controls, routing.now
    limits = routing.limits.get(config.name, {"wait": None, "budgets": {}})
    # While no vendor is available, probes come earlier.
    early = not any(each.available for each in routing.health.values())
    return VendorState(
        name=config.name,
        type=config.type,
        available=health.available,
        reason=health.reason,
        since=_time(health.since),
        until=_time(health.unavailable_until),
        probing=health.probe_until is not None and health.probe_until > now,
        probe_wait=None if health.available else probe_wait(health, now, early=early),
        drained=controls.active.get(f"{DRAIN}:{config.name}"),
        held=controls.active.get(f"vendor:{config.name}"),
        rate_wait=limits["wait"],
        budgets={
            name.removeprefix("per_"): Budget(b["used"], b["limit"], b["until"])
            for name, b in limits["budgets"].items()
        },
    )


def _time(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def look_at_queue(config: Config) -> tuple[Mapping[str, int] | None, str]:
    """The ``queue`` and ``queue_error`` of an overview, in the queue's own time-outs."""
    try:
        with closing(open_broker(config, keep=0)) as broker:
            return broker.depth() or {}, ""
    except (QueueUnavailable, MissingExtra) as error:
        return None, str(error)


def _of(env: str, status: Status) -> dict[str, Any]:
    return {"status": status.value, "env": env}


def _other(env: str) -> str:
    return SIMULATED if env == PRODUCTION else PRODUCTION


_CLASSES: Mapping[float, str] = {priority: name for name, priority in PRIORITIES.items()}
_SINCE = {"since": "$since", "id": "$_id"}  # compared in this order


def ensure_indexes(store: Store) -> None:
    """Create ``HIGH_INDEX`` and those of callbacks, unless we may only read.

    In a large collection that takes minutes, in which nobody else has to wait. Raises
    ``StoreUnavailable``.
    """
    with store.operation(seconds=BUILD), suppress(OperationFailure):
        for fields, partial in {HIGH_INDEX: _HIGH, **callbacks.INDEXES}.items():
            names = [(name, 1) for name in fields]
            store.emails.create_index(names, partialFilterExpression=partial)


_HIGH: Mapping[str, Any] = {"status": Status.QUEUED.value, "priority": HIGH}


def _class(priority: Any) -> str | None:
    """Its name; None: the priority is damaged."""
    return _CLASSES.get(priority) if isinstance(priority, int | float) else None


def _most(status: Status) -> int:
    return ENDED if status.final else COUNTED


class _Reader:
    """Reads of e-mails, each bounded by itself; they raise the driver's exceptions."""

    def __init__(self, store: Store, env: str, now: datetime) -> None:
        self._emails, self._env, self._now = store.emails, env, now
        self._indexes = [tuple(index["key"]) for index in self._emails.list_indexes()]

    def count(self, match: Mapping[str, Any], limit: int = COUNTED) -> int:
        """How many match, counted up to the limit."""
        return self._emails.count_documents(match, limit=limit)

    def count_each(self) -> dict[Status, int]:
        """The e-mails of each status. Of many that were sent the number is an estimate."""
        numbers = {each: self.count(_of(self._env, each), _most(each)) for each in Status}
        if numbers[Status.SENT] >= ENDED:
            # All that there are, as MongoDB's own statistics say, less the others.
            others = sum(self.count(_of(_other(self._env), each), _most(each)) for each in Status)
            others += sum(numbers.values()) - numbers[Status.SENT]
            estimate = self._emails.estimated_document_count() - others
            numbers[Status.SENT] = max(ENDED, estimate)
        return numbers

    # The class of an e-mail stands in no index. Most have no ``due_at``: they are due since they
    # were stored, and read by ``_id``. That begins with the time, unless it follows from a key:
    # those are in no order, so the first of them are a sample, and the others begin at BAND.

    def oldest_due(self) -> dict[str, Oldest | None]:
        """The longest due e-mail of each class, among the first ``WINDOW`` of each kind."""
        oldest: dict[str, Oldest | None] = {}
        is_complete = True
        band = {"_id": {"$gte": ObjectId.from_datetime(self._now - BAND)}}
        dated = {"due_at": {"$gt": EPOCH, "$lte": self._now}}
        for match, since in (
            (dated, "$due_at"),
            ({"due_at": None}, "$updated_at"),
            ({"due_at": None} | band, "$updated_at"),
        ):
            window, is_whole = self._window(match, since)
            for name, each in window.items():
                oldest[name] = max(each, oldest.get(name) or each, key=lambda o: o.seconds)
            is_complete &= is_whole
        if is_complete:
            oldest = {name: oldest.get(name) for name in PRIORITIES}
        elif HIGH_INDEX in self._indexes:
            oldest["high"] = self._oldest_high(dated)
        return oldest

    def _oldest_high(self, dated: Mapping[str, Any]) -> Oldest | None:
        """The longest due e-mail of the class ``high``, by the index of its own."""
        hint = [(field, 1) for field in HIGH_INDEX]
        firsts = []
        for match, since in ((dated, "due_at"), ({"due_at": None}, "updated_at")):
            mine = {**_HIGH, "env": self._env, **match}
            document = self._emails.find_one(mine, [since], sort=[(since, 1)], hint=hint)
            if document is not None:
                firsts.append(self._age(document["_id"], document.get(since)))
        return max(firsts, key=lambda each: each.seconds, default=None)

    def _window(self, match: Mapping[str, Any], since: str) -> tuple[dict[str, Oldest], bool]:
        """The oldest of each class in it, and whether it has all that match."""
        number = {"$sum": 1}
        # In a damaged e-mail it may be anything, also a time before all that there can be.
        is_time = {"$and": [{"$eq": [{"$type": since}, "date"]}, {"$gt": [since, EPOCH]}]}
        steps: list[dict[str, Any]] = [
            {"$match": {**_of(self._env, Status.QUEUED), **match}},
            {"$sort": {"due_at": 1, "_id": 1}},
            {"$limit": WINDOW},
            {"$set": {"since": {"$cond": [is_time, since, self._now]}}},
            {"$group": {"_id": "$priority", "number": number, "oldest": {"$min": _SINCE}}},
        ]
        if (groups := self._aggregate(steps)) is None:
            return {}, False
        window = {
            name: self._age(group["oldest"]["id"], group["oldest"]["since"])
            for group in groups
            if (name := _class(group["_id"])) is not None
        }
        return window, sum(group["number"] for group in groups) < WINDOW

    def _aggregate(self, steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """What they come to; None: that takes too long."""
        try:
            with within(PATIENCE):
                return list(self._emails.aggregate(steps))
        except PyMongoError as error:
            if not error.timeout or not Store.time_left():
                raise
            return None

    def _age(self, email_id: ObjectId, since: Any) -> Oldest:
        if not isinstance(since, datetime):  # damaged
            since = self._now
        return Oldest(email_id, since, max(0.0, round((self._now - since).total_seconds(), 3)))

    def oldest_uncertain(self) -> Oldest | None:
        """The one that has waited for a person for the longest time."""
        match, field = _of(self._env, Status.UNCERTAIN), "updated_at"
        document = self._emails.find_one(match, [field], sort=[(field, 1)])
        return None if document is None else self._age(document["_id"], document.get(field))

    def oldest_callback(self) -> Oldest | None:
        """The callback that has been due for longest; None: none is due yet."""
        if callbacks.INDEX not in self._indexes:
            return self._oldest_callback_of_sample()
        match = {"env": self._env, callbacks.DUE_AT: {"$lte": self._now}}
        document = self._emails.find_one(match, [callbacks.DUE_AT], sort=[(callbacks.DUE_AT, 1)])
        return None if document is None else self._callback_age(document)

    def _oldest_callback_of_sample(self) -> Oldest | None:
        """The same, without an index: nobody has ever asked which callbacks are due."""
        ended = {"env": self._env, "status": {"$in": [s.value for s in Status if s.final]}}
        steps: list[dict[str, Any]] = [
            {"$match": ended},
            {"$sort": {"updated_at": -1}},
            {"$limit": SAMPLE},
            {"$match": {callbacks.DUE_AT: {"$lte": self._now}}},
            {"$project": {callbacks.DUE_AT: 1}},
        ]
        ages = map(self._callback_age, self._aggregate(steps) or ())
        return max(ages, key=lambda each: each.seconds, default=None)

    def _callback_age(self, document: Mapping[str, Any]) -> Oldest:
        entries = document["callbacks"]  # one object may stand for the list, and be damaged
        times = [entry.get("due_at") for entry in entries if isinstance(entry, Mapping)]
        oldest = min((at for at in times if isinstance(at, datetime)), default=None)
        return self._age(document["_id"], oldest)

    def callbacks(self) -> dict[str, int]:
        """The e-mails that have a callback in a state, if a responder has made the index."""
        mine = {"env": self._env}
        counts = {}
        if callbacks.INDEX in self._indexes:
            due = mine | {callbacks.DUE_AT: {"$exists": True}}
            counts[callbacks.DUE] = self.count(due)
        if callbacks.TROUBLE_INDEX in self._indexes:
            for state in callbacks.TROUBLE:
                counts[state] = self.count(mine | {"callbacks.state": state})
        return counts
