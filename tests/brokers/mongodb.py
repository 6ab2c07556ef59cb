"""MongoDB alone: the e-mails themselves are the queue."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import RETRY_PRIORITIES, overdue_after
from mailqueue.queue import mongodb
from mailqueue.queue.broker import Announcement
from mailqueue.store.document import SIMULATED
from mailqueue.store.reservations import Reservations
from mailqueue.store.store import Store
from tests.brokers.case import Case

Document = dict[str, Any]
_CLASSES = {retry: new for new, retry in RETRY_PRIORITIES.items()}


class Settling(Reservations):
    """Writes that e-mails ended before their jobs end, as a consumer does."""

    def end(self, ids_ended: Iterable[ObjectId]) -> None:
        ended = list(ids_ended)
        self._emails.update_many({"_id": {"$in": ended}}, {"$set": {"status": "sent"}})
        super().end(ended)


class SettlingStore(Store):
    def reservations(self, *, seconds: float, change_stream: bool) -> Reservations:
        return Settling(self, self.env, seconds=seconds, change_stream=change_stream)


class MongoDBCase(Case):
    name = type = "mongodb"
    has_depth = False
    has_foreign = False
    has_server = False  # MongoDB is the truth, too
    has_callbacks = False
    has_announcements = False

    def hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mongodb, "RESERVED_FOR", 2.0)

    def section(self, address: str, name: str) -> Mapping[str, Any]:
        return {}

    def create(self, config: Config) -> None:
        with closing(Store(config.mongodb, env=SIMULATED)) as store:
            store.ensure_indexes(reservations=True)

    def options(self, config: Config, stack: ExitStack) -> Mapping[str, Any]:
        store = SettlingStore(config.mongodb, env=SIMULATED)
        stack.callback(store.close)
        return {"store": store}

    def remove(self, config: Config) -> None:
        with collection(config) as emails:
            emails.drop()

    def lose_jobs(self, config: Config) -> None:
        with collection(config, ".reserved") as reserved:
            reserved.drop()

    def store(self, config: Config, announcements: Sequence[Announcement]) -> None:
        with collection(config) as emails:
            emails.insert_many(map(document, announcements))

    def put(self, config: Config, body: bytes, suffix: str = "") -> None:
        with collection(config, suffix) as events:
            events.insert_one({"event": json.loads(body)})


def document(announcement: Announcement) -> Document:
    """What a stored e-mail has of it."""
    priority, now = announcement.priority, datetime.now(UTC)
    new = _CLASSES.get(priority, priority)
    due_at = now + timedelta(seconds=announcement.delay)
    retried = new != priority
    return {
        "_id": announcement.email_id,
        "status": "queued",
        "env": SIMULATED,
        "priority": new,
        "due_at": due_at if announcement.delay else None,
        "overdue_at": due_at + timedelta(seconds=overdue_after(new)),
        "clock_from": now if retried else None,
    }


@contextmanager
def collection(config: Config, suffix: str = "") -> Iterator[Collection[Document]]:
    with MongoClient[Document](config.mongodb.uri, tz_aware=True) as client:
        yield client[config.mongodb.database][config.mongodb.collection + suffix]
