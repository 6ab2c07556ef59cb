"""No queue: consumers ask MongoDB what is due, and producers have nothing to announce.

Other programs put their events into the collection ``<collection>.intake``.

Decides: how often an idle consumer asks.

Assumes: whoever receives has a ``DueEmails``. It finds and reserves; the driver stays there.

Promises: as ``broker``. A reservation is as good as a job, and as bad: it may be lost or doubled.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from bson import ObjectId

from mailqueue.config import MongoDBQueue
from mailqueue.errors import ConfigError, QueueUnavailable, StoreUnavailable
from mailqueue.queue.broker import LONGEST, Announcement, End, Event, Job, Options, turns

POLL = 0.05, 0.06  # seconds between two looks, at random: processes must not look all together
RESERVED_FOR = 15.0  # seconds at most: the claim follows at once, unless a vendor is asked first
POLL_WATCHING = 0.5  # where a change stream tells what is new: for what becomes due by the clock


class Reservations(Protocol):
    """What is asked of the store. Every method raises ``StoreUnavailable``."""

    @property
    def watching(self) -> bool: ...
    def reserve(self, limit: int) -> Sequence[ObjectId]: ...
    def wait(self, seconds: float) -> None: ...
    def end(self, ids_ended: Iterable[ObjectId]) -> None: ...
    def put_off(self, delays: Mapping[ObjectId, float]) -> None: ...
    def bury(self, email_ids: Collection[ObjectId]) -> None: ...
    def close(self) -> None: ...


class Events(Protocol):
    """The collection of events. Every method raises ``StoreUnavailable``."""

    def reserve(self, limit: int) -> Mapping[str, bytes | None]: ...
    def delete(self, names: Collection[str]) -> None: ...
    def bury(self, names: Collection[str], note: str) -> None: ...
    def give_back(self) -> None: ...
    def depth(self) -> Mapping[str, int]: ...


class DueEmails(Protocol):
    """The store, as far as the queue uses it."""

    def reservations(self, *, seconds: float, change_stream: bool) -> Reservations: ...
    def events(self) -> Events: ...


class MongoDBBroker:
    """``store``: where a consumer finds what is due; None: nothing is received here.

    ``ttr``: seconds after which a reserved e-mail comes to another. Here it is much less: once an
    e-mail is claimed, its lease is what keeps others away.
    """

    max_delay = float(LONGEST)

    def __init__(self, settings: MongoDBQueue, ttr: float, store: DueEmails | None = None) -> None:
        self._settings, self._store = settings, store
        self._seconds = min(ttr, RESERVED_FOR)

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Nothing is to be done: that the e-mail is stored says all."""
        return announcements

    def receivers(self) -> Sequence[DueReceiver]:
        """One, or none: what is due besides e-mails is found by who looks for it."""
        if self._store is None:
            return ()
        reservations = self._store.reservations(
            seconds=self._seconds, change_stream=self._settings.change_stream
        )
        return (DueReceiver(reservations),)

    def depth(self) -> None:
        """There is no queue."""

    def close(self) -> None:
        """Nothing is open here."""


class DueReceiver:
    """Reserves due e-mails as jobs, and ends them. One thread reserves, any may end."""

    name = "mongodb"
    place = "the e-mails in MongoDB"

    def __init__(self, reservations: Reservations) -> None:
        self._reservations = reservations
        self._turns = turns()

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        """Wait up to ``timeout`` whole seconds for an e-mail; with it come up to ``limit`` in all.

        An empty list: nothing is due. Raises ``QueueUnavailable``.
        """
        give_up_at = time.monotonic() + timeout
        with _as_a_queue():
            while True:
                email_ids = self._reservations.reserve(limit)
                remaining = give_up_at - time.monotonic()
                if email_ids or remaining <= 0:
                    return [Job(email_id, next(self._turns), self) for email_id in email_ids]
                self._reservations.wait(min(remaining, self._pause()))

    def _pause(self) -> float:
        watching = self._reservations.watching
        return POLL_WATCHING if watching else random.uniform(*POLL)  # noqa: S311  # no secret

    def end(self, ends: Mapping[Job, End]) -> None:
        """End reservations. Raises ``QueueUnavailable``: they end by themselves."""
        by_word: dict[str, dict[ObjectId, float]] = {}
        for job, end in ends.items():
            if job.email_id is not None:
                by_word.setdefault(end.word, {})[job.email_id] = end.delay
        with _as_a_queue():
            self._reservations.end(by_word.get("delete", ()))
            self._reservations.put_off(by_word.get("release", {}))
            self._reservations.bury(by_word.get("bury", ()))

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Let anybody have these at once; while MongoDB is away, when the reservations end."""
        with suppress(StoreUnavailable):
            self._reservations.put_off({job.email_id: 0.0 for job in jobs if job.email_id})

    def close(self) -> None:
        """Give back what is still reserved."""
        with suppress(StoreUnavailable):
            self._reservations.close()


class DocumentEvents:
    """Events that other programs inserted as documents. One thread uses it."""

    name = "mongodb"
    place = "the collection of events in MongoDB"

    def __init__(self, events: Events) -> None:
        self._events = events

    def reserve(self, timeout: int, limit: int = 1) -> list[Event]:
        """As ``DueReceiver.reserve``; an event's key follows from its ``_id``."""
        give_up_at = time.monotonic() + timeout
        with _as_a_queue():
            while True:
                events = self._events.reserve(limit)
                remaining = give_up_at - time.monotonic()
                if events or remaining <= 0:
                    return [
                        Event(name, body or b"", f"intake:mongodb:{name}", handle=name)
                        for name, body in events.items()
                    ]
                time.sleep(min(remaining, random.uniform(*POLL)))  # noqa: S311  # no secret

    def end(self, events: Sequence[Event], how: End) -> None:
        """Delete them, or mark them as buried."""
        names = [event.handle for event in events]
        with suppress(StoreUnavailable):
            if how.word == "delete":
                self._events.delete(names)
            else:
                self._events.bury(names, how.note)

    def give_back(self) -> None:
        """Let anybody have what is reserved here; while MongoDB is away, a little later."""
        with suppress(StoreUnavailable):
            self._events.give_back()

    def close(self) -> None:
        """Give back what is reserved."""
        self.give_back()


def open_broker(settings: MongoDBQueue, options: Options) -> MongoDBBroker:
    """See ``queue.Kind``."""
    return MongoDBBroker(settings, options.ttr, None if options.suffix else options.store)


def open_events(_: MongoDBQueue, options: Options) -> Sequence[DocumentEvents]:
    """See ``queue.Kind``."""
    if options.store is None:
        raise ConfigError(["queue.type: mongodb has the events beside the e-mails"])
    return [DocumentEvents(options.store.events())]


def events_depth(_: MongoDBQueue, options: Options) -> dict[str, int] | None:
    """See ``queue.Kind``."""
    return None if options.store is None else dict(options.store.events().depth())


@contextmanager
def _as_a_queue() -> Iterator[None]:
    """The store says once that MongoDB is away; to who reserves, the queue is."""
    try:
        yield
    except StoreUnavailable as error:
        raise QueueUnavailable(str(error)) from None
