"""Vendor health, shared by all processes through MongoDB.

It is kept in ``<collection>.vendors``; a simulation has ``<collection>.vendors.simulated``.

Decides: when health is read (at most once a second) and how a change is written (compare and set).
What a failure or a probe changes is decided in ``rotation``.

Assumes: one document per vendor; its ``generation`` and ``probe_token`` change with every write, so
that they tell whether the document is still the one that was read.

Promises: a closing is written at once, so that one failure anywhere spares all; a stale one
changes nothing. One process at a time holds a vendor's probe. Any thread may call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from pymongo.errors import DuplicateKeyError

from mailqueue import ids, rotation
from mailqueue.document import PRODUCTION
from mailqueue.mongo import kept
from mailqueue.record import Closing
from mailqueue.rotation import Health
from mailqueue.store import Store

logger = logging.getLogger(__name__)

REFRESH = 1.0
WAIT = 0.1  # for a reading that another thread has begun
_TIMES = ("unavailable_until", "named_until", "since", "probe_at", "probe_until")
_LARGEST = 2**31  # generation
_Change = Callable[[Health, float], Health | None]


class HealthBoard:
    """The health of the configured vendors, as this process knows it."""

    def __init__(
        self,
        store: Store,
        names: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
        env: str = PRODUCTION,
    ) -> None:
        self._store = store
        # A simulation opens and closes nothing but its own vendors.
        suffix = ".vendors" if env == PRODUCTION else f".vendors.{env}"
        self._collection = store.collection(suffix)
        self._clock = clock
        self._lock = threading.Condition()
        self._reading = False
        self._known = {name: Health(name=name) for name in names}
        self._known_at = dict.fromkeys(self._known, clock())
        self._server_ahead = time.time() - clock()
        self._read_at = -REFRESH

    def now(self) -> float:
        """The server's time in seconds since the epoch, as of the last reading."""
        return self._clock() + self._server_ahead

    def read(self) -> Mapping[str, Health]:
        """Every vendor's health, at most a second old. Raises ``StoreUnavailable``."""
        with self._lock:
            fresh = self._clock() - self._read_at < REFRESH
            if not fresh:
                self._read_at = self._clock()  # one thread reads
                self._reading = True
            elif self._reading:  # the others wait a moment, then use what is known
                self._lock.wait_for(lambda: not self._reading, WAIT)
            if fresh:
                return dict(self._known)
        try:
            self.refresh()
        finally:
            with self._lock:
                self._reading = False
                self._lock.notify_all()
        with self._lock:
            return dict(self._known)

    def closed_since(self, name: str, generation: int) -> bool:
        """Whether this process knows that the vendor was closed after ``generation``. No I/O."""
        known = self._known[name]
        return not known.open and known.generation > generation

    def refresh(self) -> None:
        """Read every vendor's health now."""
        began = self._clock()
        for health in self._load(list(self._known)).values():
            self._learn(health, began)

    def _learn(self, health: Health, at: float) -> None:
        """Keep what was read last (begun ``at``): readers may overtake each other.

        The generation does not tell: it starts again when somebody drops the collection.
        """
        with self._lock:
            if at >= self._known_at[health.name]:
                self._known[health.name] = health
                self._known_at[health.name] = at

    def _load(self, names: list[str], *, majority: bool = False) -> dict[str, Health]:
        collection = kept(self._collection) if majority else self._collection
        with self._store.reached():
            documents = list(
                collection.aggregate(
                    [{"$match": {"_id": {"$in": names}}}, {"$set": {"now": "$$NOW"}}]
                )
            )
        for document in documents[:1]:
            self._server_ahead = document["now"].timestamp() - self._clock()
        found = {d["_id"]: health for d in documents if (health := self._sound(d)) is not None}
        if len(found) < len(names):
            self._create(set(names) - found.keys())
            return self._load(names)
        return found

    def _sound(self, document: Mapping[str, Any]) -> Health | None:
        """None: it was damaged by hand, and is dropped, so that nothing is held against anybody."""
        try:
            return _from_document(document)
        except (LookupError, TypeError, ValueError, AttributeError):
            logger.error("vendor.health_dropped", extra={"facts": {"vendor": document["_id"]}})
            with self._store.reached():
                self._collection.delete_one({"_id": document["_id"]})
            return None

    def _create(self, names: set[str]) -> None:
        for name in names:
            with self._store.reached():
                try:
                    self._collection.insert_one(_to_document(Health(name=name)))
                except DuplicateKeyError:
                    logger.debug("another process was first")

    # Changes -----------------------------------------------------------------------------------

    def closed(self, name: str, closing: Closing, generation: int) -> None:
        """Close a vendor after a failed call that was begun in ``generation``."""
        if self._known[name].generation > generation:
            return  # it was closed since: no need to ask
        before, after = self._change(
            name, lambda health, now: rotation.closed(health, closing, now, generation)
        )
        if after is not before:
            _say_closed(after, closing, newly=before.open)

    def win_probe(self, name: str, lease: float) -> str | None:
        """Take the vendor's probe for ``lease`` seconds; its token, or None: another holds it."""
        token = str(ids.new())
        _, after = self._change(
            name, lambda health, now: rotation.probe_won(health, now, lease, token)
        )
        return token if after.probe_token == token else None

    def probe_failed(self, name: str, closing: Closing, token: str) -> None:
        """The probe failed: close the vendor again."""
        before, after = self._change(
            name, lambda health, now: rotation.probe_failed(health, closing, now, token)
        )
        if after is not before:
            _say_closed(after, closing, newly=False)

    def probe_succeeded(self, name: str, token: str) -> None:
        """The probe was answered: open the vendor."""
        before, after = self._change(
            name, lambda health, _: rotation.probe_succeeded(health, token)
        )
        if after.open and not before.open:
            away = self.now() - (before.since or self.now())
            logger.warning("vendor.opened", extra={"facts": {"vendor": name, "away": round(away)}})

    def probe_given_back(self, name: str, token: str) -> None:
        """Nothing was sent: let another probe."""
        self._change(name, lambda health, _: rotation.probe_given_back(health, token))

    def opened(self, name: str) -> bool:
        """Open a vendor by hand. False: it was open."""
        before, after = self._change(
            name,
            lambda health, _: Health(name=name, generation=health.generation + 1),
        )
        return after is not before and not before.open

    def _change(self, name: str, change: _Change) -> tuple[Health, Health]:
        """Read, change, and write if nobody wrote in between; else once more from the start."""
        while True:
            before = self._load([name])[name]
            after = change(before, self.now())
            if after is None or after == before or self._swapped(before, after):
                after = before if after is None else after
                self._learn(after, self._clock())
                return before, after

    def _swapped(self, before: Health, after: Health) -> bool:
        seen = {
            "_id": before.name,
            "generation": before.generation,
            "probe_token": before.probe_token,
        }
        document = _to_document(after)
        with self._store.reached():
            written = self._store.persist(lambda: self._collection.replace_one(seen, document))
        if written.matched_count:
            return True
        # A repeated write whose first reply was lost matches nothing: it may be ours all the same.
        mine = self._load([before.name], majority=True)[before.name]
        return mine == _from_document(document)


def _say_closed(health: Health, closing: Closing, newly: bool) -> None:
    until, since = health.unavailable_until or 0.0, health.since or 0.0
    facts = {
        "vendor": health.name,
        "reason": closing.reason,
        "closed_for": round(closing.seconds),
        "closed_since": datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds"),
        "until": datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds"),
    }
    loud = newly or until - since > 3600 or closing.reason.startswith("misconfigured")
    logger.log(logging.ERROR if loud else logging.WARNING, "vendor.closed", extra={"facts": facts})


def _to_document(health: Health) -> dict[str, Any]:
    document = asdict(health)
    document["_id"] = document.pop("name")
    for field in _TIMES:
        if document[field] is not None:
            at = datetime.fromtimestamp(document[field], UTC)
            document[field] = at.replace(microsecond=at.microsecond // 1000 * 1000)  # as stored
    return document


def _from_document(document: Mapping[str, Any]) -> Health:
    """Raises whatever reading a damaged one raises."""
    given = {f.name: document.get(f.name, f.default) for f in fields(Health) if f.name != "name"}
    given |= {name: given[name].timestamp() for name in _TIMES if given[name] is not None}
    given["probe_step"] = float(given["probe_step"])
    texts = {type(given["reason"]), type(given["probe_token"])}
    if not 0 <= document["generation"] < _LARGEST or texts - {str, type(None)}:
        raise TypeError
    return Health(name=document["_id"], **given)
