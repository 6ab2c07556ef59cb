"""``POST /events/{vendor}``: what vendors tell of e-mails after their yes.

Decides: the answers. Whatever is authentic gets a 200 once it is stored, also what means nothing to
us: vendors repeat anything else for hours, and some give up an address that fails. What is not
authentic gets a 401, and nothing is stored. While MongoDB is away the answer is the one after which
that vendor repeats the event.

Assumes: a vendor's name in the address is that of an entry in ``vendors`` with ``events``. The
secret of that entry decides, never what a request says of itself.

Promises: no line in the log has an address, a secret or what was sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

from mailqueue.config import Config, is_production
from mailqueue.errors import StoreUnavailable
from mailqueue.events import EventStore
from mailqueue.http.calls import Call, Reply
from mailqueue.http.errors import Problem, not_found, retry_after
from mailqueue.http.limits import SMALL, Limits
from mailqueue.logs import event
from mailqueue.store import ids
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.store import Store
from mailqueue.vendors.events import load
from mailqueue.vendors.events.source import (
    Answer,
    Away,
    EventRequest,
    EventSource,
    Malformed,
    NotAuthentic,
)

THREADS = 32  # requests that wait for MongoDB at a time; they are written together
_CHALLENGE = (b"www-authenticate", b'Basic realm="mailqueue"')  # SNS waits for it
_STORED = Reply(200, b"{}")
T = TypeVar("T")
Story = tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]
_log = logging.getLogger(__name__)


class Events:
    """The handler for all vendors. It belongs to one event loop.

    Raises ``ConfigError`` where a vendor's secret is empty, and ``MissingExtra``.
    """

    def __init__(self, config: Config, limits: Limits) -> None:
        self._limits = limits
        self._opening = Lock()  # since Python 3.12 a cached_property has none
        self._with_indexes: EventStore | None = None
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Other vendors from the next request on. Raises as the class; then nothing is changed."""
        sources = {vendor.name: load(vendor) for vendor in config.vendors}
        self._sources: Mapping[str, EventSource] = {
            name: source for name, source in sources.items() if source is not None
        }
        self._config = config
        self.__dict__.pop("_event_store", None)  # made anew by the next event, for these vendors

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, "mailqueue-events")

    @cached_property
    def _mongodb(self) -> Store:
        env = PRODUCTION if is_production() else SIMULATED
        return Store(
            self._config.mongodb,
            env=env,
            callbacks=self._config.callbacks,
            retention=self._config.retention,
        )

    @cached_property
    def _event_store(self) -> EventStore:
        by_vendor_id = any(source.lacks_our_id for source in self._sources.values())
        return EventStore(self._config, self._mongodb, by_vendor_id=by_vendor_id)

    def _call(self, work: Callable[[EventStore], T]) -> T:
        """Do this with the store, which the first one opens. Raises ``StoreUnavailable``.

        While MongoDB is known to be away, one request finds out whether that is over; the others do
        not wait for it. Before that is known, none waits for another one.
        """
        with self._opening:
            mongodb, store = self._mongodb, self._event_store
        with mongodb.unless_away() if mongodb.is_away else nullcontext():
            if self._with_indexes is not store:
                store.ensure_indexes()  # without a lock: done twice, it is the same
                self._with_indexes = store
            return work(store)

    def close(self) -> None:
        """Finish what is being stored, and close the connections."""
        if "_threads" in self.__dict__:
            self._threads.shutdown()
        if "_mongodb" in self.__dict__:
            self._mongodb.close()

    async def of_email(self, email_id: str) -> Story:
        """The newest events of an e-mail, and how many there are of each type.

        Nothing where no vendor's events are received. Raises ``StoreUnavailable``.
        """
        if not self._sources:
            return [], {}
        object_id = ids.parse(email_id)
        return await asyncio.get_running_loop().run_in_executor(
            self._threads,
            self._call,
            lambda store: (store.of_email(object_id), store.tally(object_id)),
        )

    async def receive(self, call: Call) -> Reply:
        """``POST``, ``GET``, ``HEAD`` and ``OPTIONS`` of ``/events/{vendor}``."""
        source = self._sources.get(call.scope["path_params"]["vendor"])
        if source is None:
            raise not_found("No events are received for a vendor of this name.")
        if call.length is not None and call.length > source.longest:
            raise _too_large(source)
        with self._limits, self._limits.body(call.length) as reader:
            body = await call.read(reader)
            if len(body) > source.longest:
                raise _too_large(source)
            return await self._answer(source, _request(call, body))

    async def _answer(self, source: EventSource, request: EventRequest) -> Reply:
        """The whole way of a request: handshake, proof, events, store."""
        loop = asyncio.get_running_loop()
        try:
            if source.fetches or len(request.body) > SMALL:
                answer = await loop.run_in_executor(self._threads, _prove, source, request)
            else:
                answer = _prove(source, request)
            if answer is not None:
                return _reply(answer)
            await loop.run_in_executor(self._threads, self._record, source, request)
        except NotAuthentic as error:
            event(_log, logging.WARNING, "events.refused", vendor=source.vendor, reason=str(error))
            message = "The request is not shown to be the vendor's."
            raise Problem(401, "invalid_api_key", message, headers=[_CHALLENGE]) from None
        except Malformed as error:
            event(_log, logging.WARNING, "events.odd", vendor=source.vendor, reason=str(error))
        except (Away, StoreUnavailable) as error:
            reason = type(error).__name__
            event(_log, logging.WARNING, "events.postponed", vendor=source.vendor, reason=reason)
            raise _away(source) from None
        return _STORED

    def _record(self, source: EventSource, request: EventRequest) -> None:
        events = source.read(request)
        self._call(lambda store: store.record(source.vendor, events))


def _prove(source: EventSource, request: EventRequest) -> Answer | None:
    """The answer to what is no event; None: these are events, and the vendor's."""
    if (answer := source.greet(request)) is not None:
        return answer
    if request.method != "POST":
        return Answer(body=_STORED.body)
    source.verify(request)
    return source.confirm(request)


def _request(call: Call, body: bytes) -> EventRequest:
    return EventRequest(
        method=call.scope["method"],
        headers={name.decode("latin-1"): v.decode("latin-1") for name, v in call.headers.items()},
        body=body,
        now=datetime.now(UTC),
    )


def _reply(answer: Answer) -> Reply:
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in answer.headers.items()
    ]
    return Reply(answer.status, answer.body, answer.content_type.encode(), headers)


def _away(source: EventSource) -> Problem:
    status = source.away_status
    name = "rate_limit_exceeded" if status == 429 else "service_unavailable"
    message = "The events cannot be stored now. Send them again."
    return Problem(status, name, message, headers=[retry_after()])


def _too_large(source: EventSource) -> Problem:
    message = f"A request with events may have {source.longest} bytes."
    return Problem(413, "request_too_large", message)
