"""Reaching MongoDB: how a write becomes durable, how long it is repeated, how trouble is named.

Decides: the write concern (majority and journaled, always both), how long a call may take
(``within``: one clock for all that it does), what follows while MongoDB is known to be away, and
after which of the driver's exceptions an idempotent write is repeated. It is after those of an
outage. It is not if MongoDB refuses what the write would make of a document.

Promises: a write that returns is durable. A driver's exception becomes ``StoreUnavailable``, except
inside the caller's own transaction.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TypeVar

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    OperationFailure,
    PyMongoError,
    WriteError,
)
from pymongo.read_concern import ReadConcern
from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from mailqueue.config import MongoDB
from mailqueue.errors import ConfigError, StoreUnavailable
from mailqueue.logs import event
from mailqueue.outage import Outage
from mailqueue.store import uri

logger = logging.getLogger(__name__)

T = TypeVar("T")
_NOT_ENCODED = (BSONError, UnicodeError, OverflowError)
_DURABLE = WriteConcern(w="majority", j=True)
_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    tzinfo=UTC,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # a date beyond year 9999 is no error
)
DUPLICATE = 11000
NO_SUCH_INDEX = 2  # BadValue: what a read with a hint says if the index is not there
_UNIQUE = frozenset({"_id", "idempotency_key"})  # of our own unique indexes, old ones too
PROBE = 0.8  # seconds
DOUBT = 30.0  # seconds of an outage after which the driver knows better than a quick look
_DEADLINE: ContextVar[float] = ContextVar("deadline", default=math.inf)  # of the present call
# Write errors that do not speak of the document, so that the write may pass the next time: the
# server was interrupted, is not the primary any more, is out of time or space, is overloaded, takes
# no writes now, or does not know us. Not 388: a document that is too large for the whole cache of
# the storage engine fits no better the next time.
_PASSING = frozenset(
    {1, 6, 7, 8, 13, 18, 24, 46, 50, 63, 64, 79, 89, 91, 96, 112, 133, 134, 146, 150, 189, 202}
    | {225, 237, 246, 249, 251, 261, 262, 279, 290, 292, 355, 358, 365, 371, 384, 391, 402, 406}
    | {407, 412, 433, 9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031}
)


def connect(settings: MongoDB, **options: Any) -> MongoClient[dict[str, Any]]:
    """A client that has not connected yet; ``mongodb.timeout`` bounds its search for a server.

    Its defaults are durable, so a caller's own transaction on it is, too. ``options`` are the
    driver's.
    """
    if weak := uri.weak_options(settings.uri):
        event(logger, logging.WARNING, "mongodb.options_ignored", options=",".join(weak))
    try:
        return MongoClient(
            uri.without_weak_options(settings.uri),
            appname="mailqueue",
            w="majority",
            journal=True,
            retryWrites=True,
            serverSelectionTimeoutMS=round(settings.timeout * 1000),
            connectTimeoutMS=round(min(5.0, settings.timeout) * 1000),
            **options,
        )
    except (ConfigurationError, ValueError) as error:  # the text may quote the URI
        raise ConfigError([f"mongodb.uri: cannot be used ({type(error).__name__})"]) from None
    except OSError:  # before anything is connected: a file
        names = " or ".join(uri.files(settings.uri)) or "a file"
        raise ConfigError([f"mongodb.uri: {names} cannot be read as a PEM file"]) from None


class NotDurable(PyMongoError):
    """What was read is not durable yet: write it again."""


def _weak_concern(client: MongoClient[dict[str, Any]]) -> list[str]:
    """The options by which a caller's client asks for less than a majority's journal."""
    concern = client.write_concern.document
    durable = {"w": "majority", "j": True}
    return [key for key, value in durable.items() if concern.get(key, value) != value]


class Mongo:
    """A client, the collections of one installation, and how they are reached."""

    def __init__(
        self,
        settings: MongoDB,
        client: MongoClient[dict[str, Any]] | None = None,
        outage: Outage | None = None,
    ) -> None:
        self.timeout = settings.timeout
        self.client = connect(settings) if client is None else client
        self._own_client = client is None
        if client is not None and (weak := _weak_concern(client)):
            # Our own writes do not use it; a transaction that the caller commits does.
            event(logger, logging.WARNING, "mongodb.transactions_weakened", options=",".join(weak))
        self._database = self.client.get_database(
            settings.database, codec_options=_OPTIONS, read_preference=ReadPreference.PRIMARY
        )  # whatever the URI prefers: what was just written decides
        self._name = settings.collection
        self._outage = outage or Outage("mongodb")

    def collection(self, suffix: str) -> Collection[dict[str, Any]]:
        """``emails`` or one beside it (``.vendors``, ``.leases``), written durably."""
        return self._database.get_collection(self._name + suffix, write_concern=_DURABLE)

    def close(self) -> None:
        """Close the connections, unless the client was the caller's own."""
        if self._own_client:
            self.client.close()

    def now(self) -> datetime:
        """The server's time."""
        with self.operation():
            local: datetime = self._database.command("hello")["localTime"]
            return local if local.tzinfo else local.replace(tzinfo=UTC)

    @contextmanager
    def operation(
        self, session: ClientSession | None = None, seconds: float | None = None
    ) -> Iterator[None]:
        """End operations that last, together, longer than ``seconds`` (``mongodb.timeout``).

        A nested one has no time of its own: a call has one clock, whatever it repeats.
        The driver's exceptions become ours; those inside the caller's own transaction, and its
        time, are the caller's.
        """
        limit = within(seconds or self.timeout) if session is None else nullcontext()
        try:
            with limit:
                yield
        except PyMongoError as error:
            if session is not None:
                raise
            self._outage.begin(_description(error))
            # A traceback that went on to the driver's error would quote the document in it.
            raise StoreUnavailable(_description(error)) from None
        self._outage.end()

    def estimate(self, suffix: str = "") -> int:
        """About how many documents a collection has; it costs nothing."""
        with self.operation():
            return self.collection(suffix).estimated_document_count()

    # Writable: any → the same, later
    #
    # Rule: a document of its own takes a write to which a majority agrees. Nobody reads it.
    #
    #   before  {_id: "writable", at: NOW - 10 s}
    #   after   {_id: "writable", at: NOW}

    def check_writable(self) -> None:
        """Return if MongoDB takes durable writes, else raise ``StoreUnavailable``."""
        with self.operation():
            update = [{"$set": {"at": "$$NOW"}}]
            self.collection(".leases").update_one({"_id": "writable"}, update, upsert=True)

    def check_reachable(self, seconds: float) -> None:
        """Return if MongoDB answers within ``seconds``, else raise ``StoreUnavailable``."""
        with self.operation(seconds=seconds):
            self.client.admin.command("ping")

    def start_clock(self, seconds: float = math.inf) -> None:
        """Give all that follows in this context ``mongodb.timeout`` together, or fewer seconds."""
        deadline = time.monotonic() + min(seconds, self.timeout)
        _DEADLINE.set(min(deadline, _DEADLINE.get()))

    @staticmethod
    def time_left() -> float:
        """Seconds that the present call still has."""
        return max(0.0, _DEADLINE.get() - time.monotonic())

    @property
    def is_away(self) -> bool:
        """Whether MongoDB is known not to answer; one late call does not tell that."""
        return self._outage.duration > 0 and self._outage.silence > self.timeout / 2

    @contextmanager
    def unless_away(self) -> Iterator[None]:
        """While MongoDB is known to be away, let one caller at a time find out if that is over.

        The other callers do not wait for that: they get ``StoreUnavailable`` at once. The one that
        looks gets it within a second if nothing answers; else it goes on in the time that it has.
        """
        if not self._outage.claim(self.timeout):
            raise StoreUnavailable("MongoDB: does not answer")
        try:
            self._look()
            yield
        finally:
            self._outage.release()

    def _look(self) -> None:
        """Return if MongoDB answers.

        After ``DOUBT`` seconds of an outage a look that fails is not believed if the driver's own
        monitor sees the server: then only the application's connections are slow to make.
        """
        try:
            with within(PROBE):
                self.client.admin.command("ping")
        except PyMongoError as error:
            sees_server = self.client.topology_description.has_writable_server()
            if self._outage.duration < DOUBT or not sees_server:
                raise StoreUnavailable(_description(error)) from None

    def persist(self, write: Callable[[], T]) -> T:
        """Repeat ``write``, an idempotent one, until it is acknowledged, while there is time."""
        try:
            return write()
        except PyMongoError:  # the usual case needs nothing of what follows
            if time.monotonic() >= _DEADLINE.get():
                raise
        retrying = Retrying(
            stop=lambda state: time.monotonic() + state.upcoming_sleep >= _DEADLINE.get(),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            retry=retry_if_exception_type(PyMongoError),
            reraise=True,
        )
        return retrying(write)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give everything inside ``seconds`` together; a nested limit cannot add to them."""
    now = time.monotonic()
    deadline = min(_DEADLINE.get(), now + seconds)
    token = _DEADLINE.set(deadline)
    try:
        with pymongo.timeout(max(deadline - now, 0.001)):  # 0 would mean no end
            yield
    finally:
        _DEADLINE.reset(token)


def majority_reads(collection: Collection[dict[str, Any]]) -> Collection[dict[str, Any]]:
    """The same collection; its reads find only what a majority has, which cannot be rolled back."""
    return collection.with_options(read_concern=ReadConcern("majority"))


def readable(collection: Collection[dict[str, Any]]) -> Collection[dict[str, Any]]:
    """The same collection; what is no text in it is replaced, and hides nothing else.

    The driver decodes a reply as a whole, and no server checks what programs store as text.
    """
    options = collection.codec_options.with_options(unicode_decode_error_handler="replace")
    return collection.with_options(codec_options=options)


def refusals(error: Exception) -> list[int] | None:
    """The updates of a bulk write that fail however often they are repeated.

    None: it is an outage, or some of the operations may pass yet. An empty list: it could not be
    encoded, which says of none of them that it was written.
    """
    if isinstance(error, _NOT_ENCODED):
        return []
    if not isinstance(error, BulkWriteError) or error.details.get("writeConcernErrors"):
        return None
    errors = write_errors(error)
    passing = any(e.get("code", 1) in _PASSING for e in errors)
    return None if passing or not errors else [e["index"] for e in errors]


def write_errors(error: PyMongoError) -> list[dict[str, Any]]:
    """The write errors inside a driver's exception."""
    if isinstance(error, WriteError):
        return [{"index": 0, **(error.details or {})}]
    if isinstance(error, BulkWriteError):
        return list(error.details.get("writeErrors", ()))
    return []


def keys_refused(error: PyMongoError) -> list[str]:
    """The idempotency keys that an older version's unique index has already."""
    values = [e.get("keyValue", {}) for e in write_errors(error) if e.get("code") == DUPLICATE]
    return [value["idempotency_key"] for value in values if "idempotency_key" in value]


def no_such_index(error: OperationFailure) -> bool:
    """Whether a read failed since the index that it named is not there."""
    return error.code == NO_SUCH_INDEX


def refused_inserts(error: PyMongoError) -> dict[int, int]:
    """The documents of an insert that are refused however often it is repeated: place and code.

    By a validator, say, or a unique index of the operator's own. Our own unique indexes refuse none
    for good: what they say is looked into.
    """
    return {
        e["index"]: code
        for e in write_errors(error)
        if (code := e.get("code", 1)) not in _PASSING
        and not (code == DUPLICATE and _UNIQUE.issuperset(e.get("keyPattern", ())))
    }


def _description(error: PyMongoError) -> str:
    """The kind of trouble; the driver's own text may quote the URI or a document."""
    code = getattr(error, "code", None)
    return f"MongoDB: {type(error).__name__}" + (f" ({code})" if code else "")
