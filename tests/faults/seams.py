"""Where a process of the crash tests ends: subclasses that ``os._exit`` before or after one call.

Decides: the places at which the outside is touched, by name. ``crash_at("before:claim")`` lets this
process end at the first such call; nothing of it is known to the product.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from bson import ObjectId

from mailqueue.callbacks import due, poster, responder
from mailqueue.callbacks import server as callbacks_server
from mailqueue.callbacks.event import Callback
from mailqueue.consumer import consumer
from mailqueue.errors import QueueUnavailable
from mailqueue.events import event_store
from mailqueue.lifecycle.outcomes import SendResult
from mailqueue.message import Email
from mailqueue.producer import storage
from mailqueue.queue.beanstalkd import events, tube
from mailqueue.queue.broker import Announcement, Broker, End, Job
from mailqueue.store import store, suppressions
from mailqueue.store.transitions import Aside, Change, Claim
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.sendgrid import SendGrid

CRASHED = 99

_point = ""


def crash_at(point: str) -> None:
    """Have this process end at ``point``: ``before:`` or ``after:`` and the place."""
    global _point  # noqa: PLW0603  # the vendors' class is found by its name, nothing is handed in
    _point = point
    consumer.Store = CrashingStore  # type: ignore[attr-defined]  # imported there
    storage.Store = CrashingStore  # type: ignore[attr-defined]  # the same
    store.Store = CrashingStore  # type: ignore[misc]  # a class is replaced
    event_store.Suppressions = CrashingSuppressions  # type: ignore[attr-defined]  # imported there
    tube.Connection = CrashingConnection  # type: ignore[misc]  # the same
    events.Connection = CrashingConnection  # type: ignore[attr-defined]  # imported there
    callbacks_server.DueCallbacks = CrashingCallbacks  # type: ignore[attr-defined]  # the same
    responder.Poster = CrashingPoster  # type: ignore[attr-defined]  # the same


def crash_at_port(point: str) -> None:
    """As ``crash_at``, whatever kind of queue it is: the places are those of the queue's port."""
    crash_at(point)
    for module in (consumer, storage):
        vars(module)["open_broker"] = _opening(module.open_broker)


def _opening(open_broker: Callable[..., Broker]) -> Callable[..., Broker]:
    def opened(*arguments: Any, **options: Any) -> Broker:
        broker = open_broker(*arguments, **options)
        _wrap(type(broker), "announce", "put")
        for receiver in broker.receivers():
            _wrap(type(receiver), "reserve", "reserve")
        return broker

    return opened


def _wrap(kind: type[Any], method: str, place: str) -> None:
    """Have a method of the kind's own class end the process before or after it."""
    real = getattr(kind, method)
    if hasattr(real, "touches"):
        return

    def touching(self: Any, *arguments: Any) -> Any:
        where = next(iter(arguments[0].values())).word if method == "end" else place
        if _point == f"before:{where}":
            os._exit(CRASHED)
        result = real(self, *arguments)
        if _point == f"after:{where}" and (result or method != "reserve"):
            os._exit(CRASHED)
        if method == "reserve":
            for job in result:
                _wrap(type(job.holder), "end", "")
        return result

    touching.touches = True  # type: ignore[attr-defined]  # of ours
    setattr(kind, method, touching)


@contextmanager
def _touching(place: str) -> Iterator[None]:
    if _point == f"before:{place}":
        os._exit(CRASHED)
    yield
    if _point == f"after:{place}":
        os._exit(CRASHED)


class CrashingStore(store.Store):
    def insert(self, documents: Sequence[dict[str, Any]], session: Any = None) -> Any:
        with _touching("insert"):
            return super().insert(documents, session)

    def write(
        self, changes: Sequence[Change | Aside], claims: Sequence[Claim] = (), **options: Any
    ) -> tuple[set[ObjectId], set[ObjectId]]:
        expired = any(isinstance(change, Change) and change.expired for change in changes)
        place = "claim" if claims else "rescue" if expired else "settle"
        with _touching(place):
            return super().write(changes, claims, **options)


class CrashingSuppressions(suppressions.Suppressions):
    def add(
        self,
        reports: Iterable[suppressions.Report],
        written: Callable[[int], None] | None = None,
    ) -> None:
        with _touching("suppress"):
            super().add(reports, written)

    def lift(self, source: str, entries: Collection[str], at: datetime) -> None:
        with _touching("lift"):
            super().lift(source, entries, at)


class CrashingConnection(tube.Connection):
    def put(self, announcements: Sequence[Announcement], ttr: int) -> None:
        with _touching("put"):
            super().put(announcements, ttr)
        if _point == "lost:put":
            crash_at("")
            self.close()
            raise QueueUnavailable("beanstalkd: the reply is lost")

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        if _point == "before:reserve":
            os._exit(CRASHED)
        jobs = super().reserve(timeout, limit)
        if jobs and _point == "after:reserve":
            os._exit(CRASHED)
        return jobs

    def end(self, ends: Mapping[Job, End]) -> None:
        (end,) = {end.word for end in ends.values()}
        with _touching(end):
            super().end(ends)


class CrashingCallbacks(due.DueCallbacks):
    def claim(self, email_ids: Sequence[ObjectId]) -> list[Callback]:
        with _touching("claim"):
            return super().claim(email_ids)

    def settle(self, callback: Callback, state: str, code: str, wait: float = 0.0) -> float:
        with _touching("settle"):
            return super().settle(callback, state, code, wait)


class CrashingPoster(poster.Poster):
    def post(self, *arguments: Any, **options: Any) -> poster.Answer:
        with _touching("post"):
            return super().post(*arguments, **options)


class CrashingVendor(SendGrid):
    """Named in the configuration as a class of the user's own."""

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        with _touching("send"):
            return super().send(email, attempt)
