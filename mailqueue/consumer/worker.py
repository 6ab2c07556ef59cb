"""The worker: the thread roles of one process, put together. ``delivery`` tells the way."""

from __future__ import annotations

import time
from collections.abc import Callable

from mailqueue.config import Config
from mailqueue.consumer.delivery import Shared
from mailqueue.consumer.fetcher import Fetcher
from mailqueue.consumer.meter import Meter
from mailqueue.consumer.planner import Planner
from mailqueue.consumer.sender import Sender
from mailqueue.consumer.slots import Slots
from mailqueue.consumer.writer import Writer
from mailqueue.routing.router import Router
from mailqueue.store.store import Store


class Worker:
    """``fetcher.fetch`` is called by the fetcher threads, ``writer.turn`` by the writer's,
    ``sender.deliver`` by the senders'. ``stopping`` tells all of them to begin nothing more.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        router: Router,
        *,
        owner: str,
        clock: Callable[[], float] = time.monotonic,
        meter: Meter | None = None,
    ) -> None:
        slots = Slots(config.consumer.concurrency, clock)
        shared = Shared(config, store, router, slots, clock)
        self.inbox, self.slots, self.stopping = shared.inbox, shared.slots, shared.stopping
        planner = Planner(store.env, config.delivery.lease, router)
        self.fetcher = Fetcher(shared, planner)
        self.sender = Sender(shared, planner, meter)
        self.writer = Writer(shared, planner, self.fetcher, self.sender, owner)
