"""What the threads of a consumer share: the rules that follow from the configuration, and queues.

Decides: nothing. ``rules`` is replaced as a whole when the configuration is read again; whoever
uses it takes it anew for each e-mail. A delivery that was planned under older rules ends under
them, as far as its vendor's answer and health are concerned (``Send.router``).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mailqueue.config import Config
from mailqueue.consumer.delivery import Delivery
from mailqueue.consumer.planner import Planner
from mailqueue.consumer.reporter import Attempts
from mailqueue.consumer.slots import Slots
from mailqueue.consumer.staging import Staging
from mailqueue.routing.router import Router
from mailqueue.store.store import Store
from mailqueue.store.suppressions import Suppressions


@dataclass(frozen=True, slots=True)
class Rules:
    """What follows from a configuration."""

    config: Config
    router: Router
    planner: Planner
    suppressions: Suppressions | None

    @classmethod
    def of(cls, config: Config, store: Store, router: Router) -> Rules:
        """The rules of this configuration, whose vendors the ``router`` has."""
        suppressions = Suppressions.of(store, config.suppression)
        staging = None if config.staging is None else Staging(config.staging)
        return cls(config, router, Planner(store.env, router, staging), suppressions)


@dataclass(slots=True)
class Shared:
    """What the threads of one process share; any thread may use each part.

    ``inbox`` is the writer's: fetchers put what they planned there, senders what they finished.
    None says that no more comes. ``attempts``: what came of them, for the reporter.
    """

    rules: Rules
    store: Store
    slots: Slots
    clock: Callable[[], float]
    inbox: queue.SimpleQueue[Sequence[Delivery] | None] = field(default_factory=queue.SimpleQueue)
    stopping: threading.Event = field(default_factory=threading.Event)
    attempts: Attempts = field(default_factory=Attempts)

    @property
    def router(self) -> Router:
        """The router by now."""
        return self.rules.router

    @property
    def planner(self) -> Planner:
        """The planner by now."""
        return self.rules.planner
