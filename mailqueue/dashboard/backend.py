"""What the pages read: the store, its events, the queue.

Promises: nothing is connected to before a page needs it. Any thread may call. If MongoDB does not
answer, that is known within ``PATIENCE``; who asks within ``PAUSE`` from then on is told at once,
so that pages that wait for a thread do not wait for MongoDB one after the other. Of the queue one
page at a time asks, in a thread of its own, and none waits longer than ``QUEUE_PATIENCE`` for it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import cached_property
from math import inf
from threading import Lock, Thread

from mailqueue.config import Config, is_production
from mailqueue.errors import StoreUnavailable
from mailqueue.events import EventStore
from mailqueue.monitoring.overview import look_at_queue
from mailqueue.queue import open_broker
from mailqueue.queue.broker import Broker
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.store import Store

PATIENCE = 1.5  # seconds
PAUSE = 1.0  # seconds
QUEUE_PATIENCE = 1.0  # seconds
QUEUE_FRESH = 2.0  # seconds for which pages believe the last look at the queue


class Backend:
    """The connections of all pages. ``config``: the one that counts now."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._lock = Lock()
        self._away_until = -inf  # by the monotonic clock
        self._queue_error: Future[str] | None = None  # of the last look, which may go on
        self._queue_looked_at = -inf

    @cached_property
    def _store(self) -> Store:
        return Store(
            self.config.mongodb,
            env=PRODUCTION if is_production() else SIMULATED,
            callbacks=self.config.callbacks,
            retention=self.config.retention,
        )

    @property
    def store(self) -> Store:
        """The e-mails. Raises ``StoreUnavailable`` if MongoDB does not answer now."""
        with self._lock:
            store = self._store
        if time.monotonic() < self._away_until:
            raise StoreUnavailable("MongoDB: does not answer")
        try:
            store.check_reachable(PATIENCE)
        except StoreUnavailable:
            self._away_until = time.monotonic() + PAUSE
            raise
        return store

    @property
    def events(self) -> EventStore:
        """What vendors told of them."""
        return EventStore(self.config, self.store)

    @cached_property
    def _broker(self) -> Broker:
        return open_broker(self.config)

    @property
    def broker(self) -> Broker:
        """The way to the consumers."""
        with self._lock:
            return self._broker

    def queue_error(self) -> str:
        """Why the queue is not reached, as of ``QUEUE_FRESH`` seconds ago; empty: it is."""
        with self._lock:
            look = self._queue_error
            is_old = time.monotonic() - self._queue_looked_at >= QUEUE_FRESH
            if look is None or (look.done() and is_old):
                look = Future()
                # Raises where the system has no room for it: then the next page begins a look.
                Thread(target=self._look_at_queue, args=(look,), daemon=True).start()
                self._queue_error, self._queue_looked_at = look, time.monotonic()
        try:
            return look.result(QUEUE_PATIENCE)
        except TimeoutError:
            return f"no answer within {QUEUE_PATIENCE:g} s"

    def _look_at_queue(self, look: Future[str]) -> None:
        try:
            look.set_result(look_at_queue(self.config)[1])
        except Exception as error:  # noqa: BLE001  # a bug is the page's, which waits for it
            look.set_exception(error)

    def close(self) -> None:
        """Close what was opened."""
        for name in ("_store", "_broker"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()
