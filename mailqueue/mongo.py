"""Reaching MongoDB: how a write becomes durable, how long it is repeated, how trouble is named.

Decides: the write concern (majority and journaled, always both), and which of the driver's
exceptions an idempotent write is repeated for.

Promises: a write that returns is durable. A driver's exception becomes ``StoreUnavailable``, but
for those that say something about a key, and those inside the caller's own transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, TypeVar

import pymongo
from bson.codec_options import CodecOptions
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, ConfigurationError, DuplicateKeyError, PyMongoError
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from mailqueue.config import MongoDB
from mailqueue.errors import ConfigError, StoreUnavailable
from mailqueue.outage import Outage

T = TypeVar("T")
_DURABLE = WriteConcern(w="majority", j=True)
_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
_DUPLICATE = 11000


def connect(settings: MongoDB) -> MongoClient[dict[str, Any]]:
    """A client that has not connected yet; ``mongodb.timeout`` bounds its search for a server."""
    try:
        return MongoClient(
            settings.uri,
            appname="mailqueue",
            serverSelectionTimeoutMS=round(settings.timeout * 1000),
            connectTimeoutMS=round(min(5.0, settings.timeout) * 1000),
        )
    except (ConfigurationError, ValueError) as error:  # the text may quote the URI
        raise ConfigError([f"mongodb.uri: cannot be used ({type(error).__name__})"]) from None


class Mongo:
    """A client, the collections of one installation, and how they are reached."""

    def __init__(
        self, settings: MongoDB, client: MongoClient[dict[str, Any]] | None = None
    ) -> None:
        self.timeout = settings.timeout
        self.client = connect(settings) if client is None else client
        self._own_client = client is None
        self._database = self.client.get_database(
            settings.database, codec_options=_OPTIONS, read_preference=ReadPreference.PRIMARY
        )  # whatever the URI prefers: what was just written decides
        self._name = settings.collection
        self._outage = Outage("mongodb")

    def collection(self, suffix: str) -> Collection[dict[str, Any]]:
        """``emails`` or one beside it (``.vendors``, ``.leases``), written durably."""
        return self._database.get_collection(self._name + suffix, write_concern=_DURABLE)

    def close(self) -> None:
        """Close the connections, unless the client was the caller's own."""
        if self._own_client:
            self.client.close()

    def now(self) -> datetime:
        """The server's time."""
        with self.reached():
            local: datetime = self._database.command("hello")["localTime"]
            return local if local.tzinfo else local.replace(tzinfo=UTC)

    @contextmanager
    def reached(
        self, session: ClientSession | None = None, seconds: float | None = None
    ) -> Iterator[None]:
        """End operations that last, together, longer than ``seconds`` (``mongodb.timeout``).

        The driver's exceptions become ours, but for those that say something about a key; those
        inside the caller's own transaction, and its time, are the caller's.
        """
        limit = pymongo.timeout(seconds or self.timeout) if session is None else nullcontext()
        try:
            with limit:
                yield
        except PyMongoError as error:
            if session is not None or duplicates(error):
                raise
            self._outage.began(_said(error))
            # A traceback that went on to the driver's error would quote the document in it.
            raise StoreUnavailable(_said(error)) from None
        self._outage.over()

    def persist(self, write: Callable[[], T], seconds: float) -> T:
        """Repeat ``write``, an idempotent one, until it is acknowledged, for up to ``seconds``."""
        with pymongo.timeout(seconds):
            try:
                return write()
            except PyMongoError as error:  # the usual case needs nothing of what follows
                if not _may_pass(error):
                    raise
            again = Retrying(
                stop=stop_before_delay(seconds),
                wait=wait_random_exponential(multiplier=0.05, max=1.0),
                retry=retry_if_exception(_may_pass),
                reraise=True,
            )
            return again(write)


def _may_pass(error: BaseException) -> bool:
    """A key that was there already will be there the next time, too."""
    return isinstance(error, PyMongoError) and not duplicates(error)


def write_errors(error: PyMongoError) -> list[dict[str, Any]]:
    """The write errors inside a driver's exception."""
    if isinstance(error, DuplicateKeyError):
        return [dict(error.details or {})]
    if isinstance(error, BulkWriteError):
        return list(error.details.get("writeErrors", ()))
    return []


def duplicates(error: PyMongoError, field: str = "idempotency_key") -> list[Any]:
    """The values of a unique ``field`` that were already there."""
    return [
        e["keyValue"][field]
        for e in write_errors(error)
        if e.get("code") == _DUPLICATE and field in e.get("keyValue", ())
    ]


def _said(error: PyMongoError) -> str:
    """The kind of trouble; the driver's own text may quote the URI or a document."""
    code = getattr(error, "code", None)
    return f"MongoDB: {type(error).__name__}" + (f" ({code})" if code else "")
