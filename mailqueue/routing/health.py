"""Vendor health, shared by all processes through MongoDB.

It is kept in ``<collection>.vendors``; a simulation has ``<collection>.vendors.simulated``.

Decides: when health is read (at most once a second) and how a change is written (compare and set).
What an answer or a probe changes is decided in ``rotation``.

Assumes: one document per vendor, which is replaced only if it is still the one that was read, as
``_CHANGING`` tells.

Promises: a suspension, or a suspicion, is written at once, so that one failure anywhere spares all;
a stale one changes nothing. A yes writes nothing unless the vendor is suspect; that ends then. One
process at a time holds a vendor's probe. Any thread may call.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from bson.errors import BSONError
from pymongo.errors import DuplicateKeyError

from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import Suspension
from mailqueue.logs import event
from mailqueue.routing import rotation
from mailqueue.routing.rotation import Health, Permit, Sign, Verdict
from mailqueue.store import control, ids
from mailqueue.store.control import Controls
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.mongo import majority_reads
from mailqueue.store.store import Store
from mailqueue.store.undecodable import read_each

logger = logging.getLogger(__name__)

REFRESH = 1.0
YES_LASTS = 60.0  # seconds
WAIT = 0.1  # for a reading that another thread has begun
_TIMES = (
    *("unavailable_until", "retry_after_until", "since", "probe_at", "probe_until"),
    *("hint_at", "last_resort_at"),
)
_SECONDS = ("probe_step", "hint_seconds")
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError)
_LARGEST = 2**31  # generation, and of seconds
# One of them changes with every write; null, or not there, in what an older version wrote.
# ``generation``: suspended or restored; ``probe_token``: a probe won, or given back; ``hint_at``: a
# hint noted, or the row cleared; ``proven`` and ``last_resort_at``: set while all else stays.
_CHANGING = ("_id", "generation", "probe_token", "hint_at", "proven", "last_resort_at")
_Change = Callable[[Health, float], Health | None]


class VendorHealth:
    """The health of the configured vendors, as this process knows it."""

    def __init__(
        self,
        store: Store,
        names: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
        env: str = PRODUCTION,
    ) -> None:
        self.store = store
        # A simulation suspends and restores nothing but its own vendors.
        suffix = ".vendors" if env == PRODUCTION else f".vendors.{env}"
        self.collection = store.collection(suffix)
        self._watched: dict[str, Callable[[Mapping[str, Any]], None]] = {}
        self._controls = store.collection(control.SUFFIX)
        self.controls = Controls()  # replaced as a whole
        self._controls_at = -math.inf  # when its reading began
        self._clock = clock
        self._lock = threading.Condition()
        self._reading = False
        # Replaced as a whole by every change, so that who reads it needs no lock and no copy
        self._health: Mapping[str, Health] = {name: Health(name=name) for name in names}
        self._unavailable: tuple[Mapping[str, Health], tuple[str, ...]] = {}, ()
        self._learned_at = dict.fromkeys(self._health, clock())
        self._server_ahead = time.time() - clock()
        self._read_at = -REFRESH
        self._yes_at = dict.fromkeys(self._health, -math.inf)

    def renew(self, names: Iterable[str]) -> VendorHealth:
        """The health of other vendors, with what is known of those that are among them. No I/O.

        This one is still good for the calls that are under way.
        """
        env = PRODUCTION if self.collection.name.endswith(".vendors") else SIMULATED
        new = VendorHealth(self.store, names, self._clock, env)
        with self._lock:
            for name in new._health.keys() & self._health.keys():
                new._health = {**new._health, name: self._health[name]}
                new._learned_at[name] = self._learned_at[name]
                new._yes_at[name] = self._yes_at[name]
        new.controls, new._server_ahead = self.controls, self._server_ahead
        return new

    def watch(self, document_id: str, learn: Callable[[Mapping[str, Any]], None]) -> None:
        """Read this document of the collection, too, whenever all are read, and tell ``learn``.

        It comes with the server's time, ``now``. Nothing is told while it is not there.
        """
        self._watched[document_id] = learn

    def now(self) -> float:
        """The server's time in seconds since the epoch, as of the last reading."""
        return self._clock() + self._server_ahead

    def read(self) -> Mapping[str, Health]:
        """Every vendor's health, at most a second old; while MongoDB is away, as it was before.

        What follows from it is written by MongoDB, so nothing comes of old health until it is back.
        """
        now = self._clock()
        if now - self._read_at >= REFRESH or self._reading:
            self._read(now)
        return self._health

    def _read(self, now: float) -> None:
        """One thread reads; the others wait a moment, then use what is known."""
        with self._lock:
            if now - self._read_at < REFRESH:
                self._lock.wait_for(lambda: not self._reading, WAIT)
                return
            self._reading, self._read_at = True, now
        try:
            self.refresh()
        except StoreUnavailable:
            logger.debug("vendors' health as it was")
        finally:
            with self._lock:
                self._reading = False
                self._lock.notify_all()

    @property
    def unavailable(self) -> tuple[str, ...]:
        """The vendors that are unavailable, as this process knows it. No I/O."""
        # For each e-mail that is planned: found out once for each state of the vendors.
        health, (origin, names) = self._health, self._unavailable
        if health is not origin:
            names = tuple([each.name for each in health.values() if not each.available])
            self._unavailable = health, names
        return names

    def current(self, name: str) -> Health:
        """The vendor's health as this process knows it. No I/O."""
        return self._health[name]

    def suspended_since(self, permit: Permit) -> bool:
        """Whether this process knows that the vendor was suspended after the ``permit``. No I/O."""
        health = self._health[permit.vendor]
        return not health.available and health.generation > permit.generation

    def refresh(self) -> Mapping[str, Health]:
        """Every vendor's health as it is now. Raises ``StoreUnavailable``."""
        began = self._clock()
        documents = self._find([*self._health, *self._watched], with_controls=True)
        self._learn_controls([each["control"] for each in documents if "control" in each], began)
        for health in self._parse(list(self._health), self._sort_out(documents)).values():
            self._learn(health, began)
        return self._health

    def look(self) -> tuple[Mapping[str, Health], Controls]:
        """The same, and what operators ask for, for who only looks. Raises ``StoreUnavailable``.

        Nothing is written or logged: a vendor whose document is damaged, or not there yet, is
        available.
        """
        documents = self._find([*self._health, *self._watched], with_controls=True)
        healths = {name: Health(name=name) for name in self._health}
        for document in self._sort_out(documents):
            with suppress(*_DAMAGE):
                healths[document["_id"]] = _from_document(document)
        return healths, control.controls_of(d["control"] for d in documents if "control" in d)

    def _sort_out(self, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The vendors' documents, from which the server's time is learnt; others are told of."""
        # The reply was on its way for a while, so the server's clock is taken for a little slower
        # than it is: a probe comes late rather than early.
        dated = [document for document in documents if "now" in document]
        for document in dated[:1]:
            self._server_ahead = document["now"].timestamp() - self._clock()
        for each in dated:
            if (learn := self._watched.get(each["_id"])) is not None:
                learn(each)
        return [each for each in dated if each["_id"] in self._health]

    def _learn_controls(self, documents: list[dict[str, Any]], at: float) -> None:
        """Keep what operators ask for, as it was read last, and log what is new of it."""
        after = control.controls_of(documents)
        with self._lock:
            before = self.controls.active
            if at < self._controls_at:  # readers may overtake each other
                return
            self._controls_at = at
            if after.active == before:
                return
            self.controls = after
        for name in sorted(after.active.keys() - before.keys()):
            by = after.active[name].by
            event(logger, logging.WARNING, "control.begun", control=name, by=by)
        for name in sorted(before.keys() - after.active.keys()):
            event(logger, logging.WARNING, "control.ended", control=name)

    def _learn(self, health: Health, at: float) -> None:
        """Keep what was read last (begun ``at``): readers may overtake each other.

        The generation does not tell: it starts again when somebody drops the collection.
        """
        with self._lock:
            if at >= self._learned_at[health.name]:
                self._health = {**self._health, health.name: health}
                self._learned_at[health.name] = at

    def _load(self, names: list[str], *, majority: bool = False) -> dict[str, Health]:
        return self._parse(names, self._sort_out(self._find(names, majority=majority)))

    def _find(
        self, names: list[str], *, majority: bool = False, with_controls: bool = False
    ) -> list[dict[str, Any]]:
        """The vendors' documents; in the same call what operators ask for, each as ``control``."""
        collection = majority_reads(self.collection) if majority else self.collection
        steps: list[dict[str, Any]] = [
            {"$match": {"_id": {"$in": names}}},
            {"$set": {"now": "$$NOW"}},
        ]
        union = {"$unionWith": {"coll": self._controls.name, "pipeline": control.ACTIVE}}
        with self.store.operation():
            try:
                return list(collection.aggregate([*steps, union] if with_controls else steps))
            # One document that cannot be decoded must not hide the others.
            except BSONError:
                controls = read_each(control.ACTIVE, self._controls) if with_controls else ()
                return [*read_each(steps, collection), *controls]

    def _parse(self, names: list[str], documents: list[dict[str, Any]]) -> dict[str, Health]:
        healths = {
            d["_id"]: health for d in documents if (health := self._parse_or_drop(d)) is not None
        }
        if len(healths) < len(names):
            self._create(set(names) - healths.keys())
            return self._load(names)
        return healths

    def _parse_or_drop(self, document: Mapping[str, Any]) -> Health | None:
        """None: it was damaged by hand, and is dropped, so that nothing is held against anybody."""
        try:
            return _from_document(document)
        except _DAMAGE:
            event(logger, logging.ERROR, "vendor.health_dropped", vendor=document["_id"])
            with self.store.operation():
                self.collection.delete_one({"_id": document["_id"]})
            return None

    def _create(self, names: set[str]) -> None:
        for name in names:
            with self.store.operation():
                try:
                    self.collection.insert_one(_to_document(Health(name=name)))
                except DuplicateKeyError:
                    logger.debug("another process was first")

    # Changes -----------------------------------------------------------------------------------

    def report(self, permit: Permit, verdict: Verdict, email_id: str = "") -> None:
        """Tell what came of a call under ``permit``. Raises ``StoreUnavailable``.

        No I/O where nothing can change: after a yes unless the vendor is suspect, and after a
        failure when the vendor was suspended since the permit.
        """
        name = permit.vendor
        if verdict is Sign.YES:
            self._yes_at[name] = self._clock()
        if permit.probe is None and not self._matters(permit, verdict):
            return
        quiet = max(self._yes_at.values()) <= self._clock() - YES_LASTS

        def change(health: Health, now: float) -> Health:
            yes_at = self._yes_at[name] + self._server_ahead
            return rotation.apply_verdict(
                health, permit, verdict, now, email_id=email_id, yes_at=yes_at, quiet=quiet
            )

        self._say(*self._change(name, change))

    def _matters(self, permit: Permit, verdict: Verdict) -> bool:
        """Whether the verdict on a call that was no probe can change the vendor's health."""
        name = permit.vendor
        if isinstance(verdict, Suspension):
            # What this process knows may be a second old. The rule is asked again with the stored
            # health.
            return self._health[name].generation <= permit.generation
        # Nearly every yes ends here, without a lock and without I/O.
        if verdict is not Sign.YES or not self._health[name].hints:
            return False
        with self._lock:
            health = self._health[name]
            suspect = bool(health.hints) and health.available
            if suspect:  # one thread writes it down
                self._health = {**self._health, name: rotation.clear_hints(health)}
        return suspect

    def confirm_hint(self, name: str, email_id: str) -> None:
        """Note that another vendor took an e-mail that drew a hint here: it was not the e-mail.

        Raises ``StoreUnavailable``.
        """
        self._say(
            *self._change(name, lambda health, now: rotation.confirm_hint(health, now, email_id))
        )

    def win_probe(self, name: str, lease: float, in_doubt: bool = False) -> Permit | None:
        """A permit that holds the vendor's probe for ``lease`` seconds; None: another holds it.

        An e-mail ``in_doubt`` may have to leave it to others for a while.
        """
        token = str(ids.new())
        _, after = self._change(
            name, lambda health, now: rotation.win_probe(health, now, lease, token, in_doubt)
        )
        return Permit(name, after.generation, token) if after.probe_token == token else None

    def enable(self, name: str) -> bool:
        """Make a vendor available by hand. False: it was."""
        before, after = self._change(name, lambda health, _: rotation.restore(health))
        return after is not before and not before.available

    def _change(self, name: str, change: _Change) -> tuple[Health, Health]:
        """Read, change, and write if nobody wrote in between; else once more from the start."""
        # A lost turn means that another process has written, so not all of them can be held up. The
        # rule is asked anew each time, because what it said may be wrong for the other's document:
        # a suspension finds the vendor suspended already, a probe finds that it is held. The
        # reading may be old (a plain read, no majority): then the swap matches nothing.
        while True:
            before = self._load([name])[name]
            after = change(before, self.now())
            if after is None or after == before or self._swap(before, after):
                after = before if after is None else after
                self._learn(after, self._clock())
                return before, after

    def _say(self, before: Health, after: Health) -> None:
        """Log what a change means to an operator; loudly what is new, lasts, or needs a person."""
        reason = after.reason or ""
        facts: dict[str, Any] = {"vendor": after.name, "reason": reason}
        if after.available and not before.available:
            away = round(self.now() - (before.since or self.now()))
            facts = {"vendor": after.name, "unavailable_for": away}
            event(logger, logging.WARNING, "vendor.restored", **facts)
        elif after.available and set(after.hints) - set(before.hints):
            event(logger, logging.INFO, "vendor.suspected", **facts)
        elif not after.available and after.generation != before.generation:
            until, since = after.unavailable_until or 0.0, after.since or 0.0
            facts |= {
                "unavailable_for": round(until - self.now()),
                "unavailable_since": _iso(since),
                "until": _iso(until),
            }
            loud = before.available or until - since > 3600
            loud = loud or reason.startswith("misconfigured")
            level = logging.ERROR if loud else logging.WARNING
            event(logger, level, "vendor.suspended", **facts)

    def _swap(self, before: Health, after: Health) -> bool:
        """Replace the document if it is still the one that was read; False: it is another by now.

        Every change also changes one of ``_CHANGING``, so these tell. A probe is won::

            {_id: "a", generation: 4, probe_token: null, probe_until: null, ...}
            {_id: "a", generation: 4, probe_token: "65f0...", probe_until: 12:02:00, ...}

        and while it is held, it fails::

            {_id: "a", generation: 5, probe_token: null, unavailable_until: 12:10:03, ...}
        """
        document, old = _to_document(after), _to_document(before)
        guard = {name: old[name] for name in _CHANGING}
        with self.store.operation():
            written = self.store.persist(lambda: self.collection.replace_one(guard, document))
        if written.matched_count:
            return True
        # A repeated write whose first reply was lost matches nothing: it may be ours all the same.
        # A probe's token is only ours, so two processes never both win it here. Any other change
        # that somebody wrote exactly so is as good as our own.
        mine = self._load([before.name], majority=True)[before.name]
        return mine == _from_document(document)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _to_document(health: Health) -> dict[str, Any]:
    document = asdict(health)
    document["_id"] = document.pop("name")
    document |= {"hints": list(health.hints), "proven": health.proven or None}
    for field in _TIMES:
        if document[field] is not None:
            at = datetime.fromtimestamp(document[field], UTC)
            document[field] = at.replace(microsecond=at.microsecond // 1000 * 1000)  # as stored
    return document


def _from_document(document: Mapping[str, Any]) -> Health:
    """Raises whatever reading a damaged one raises."""
    document = {"retry_after_until": document.get("named_until"), **document}  # an older version's
    values = {f.name: document.get(f.name, f.default) for f in fields(Health) if f.name != "name"}
    values |= {name: values[name].timestamp() for name in _TIMES if values[name] is not None}
    values |= {name: float(values[name] or 0.0) for name in _SECONDS}
    values |= {"hints": tuple(values["hints"] or ()), "proven": values["proven"] is True}
    texts = {type(values["reason"]), type(values["probe_token"]), *map(type, values["hints"])}
    numbers = (document["generation"], *(values[name] for name in _SECONDS))
    if not all(0 <= number < _LARGEST for number in numbers) or texts - {str, type(None)}:
        raise TypeError
    health = Health(name=document["_id"], **values)
    written = _to_document(health)
    if any(written[name] != document.get(name) for name in _CHANGING):
        raise ValueError  # what is not written so would never be found again
    return health
