"""What the next step of an e-mail depends on, beside the e-mail itself: vendors, holds, consumers.

Decides: what is read of it, once for one explanation.

Promises: nothing is written. The queue is looked at only for an e-mail that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import Status
from mailqueue.monitoring.overview import Routing
from mailqueue.routing.rotation import Health
from mailqueue.store.control import Controls
from mailqueue.store.document import PRODUCTION, SIMULATED, Stored
from mailqueue.store.stats import ALIVE, Stats
from mailqueue.store.store import Store


@dataclass(frozen=True, slots=True)
class Conditions:
    """How things stand now, for e-mails of one kind (``env``).

    ``health``: of each configured vendor. ``times``: when a vendor with a rate has its next
    send time. ``spent``: of these vendors a budget is used up until then.
    ``consumers``: the kind of each that gave a sign of life within ``ALIVE``, by the name that its
    leases have; None: that is not known. ``queue_error``: why the queue was not reached; empty: it
    was, or nobody asked.
    """

    health: Mapping[str, Health] = field(default_factory=dict)
    controls: Controls = field(default_factory=Controls)
    times: Mapping[str, datetime] = field(default_factory=dict)
    spent: Mapping[str, datetime] = field(default_factory=dict)
    consumers: Mapping[str, str] | None = None
    queue_error: str = ""

    @classmethod
    def read(
        cls, config: Config, store: Store, stored: Stored, queue_error: Callable[[], str]
    ) -> Self:
        """As they are now, for this e-mail. Raises ``StoreUnavailable``.

        ``queue_error``: looks at the queue; what it returns is kept.
        """
        env = PRODUCTION if stored.document.get("env") == PRODUCTION else SIMULATED
        is_queued = stored.document.get("status") == Status.QUEUED
        routing = Routing.read(config, store, env)
        spent = {
            name: max(budget["until"] for budget in full)
            for name, limit in routing.limits.items()
            if (full := [b for b in limit["budgets"].values() if b["used"] >= b["limit"]])
        }
        return cls(
            health=routing.health,
            controls=routing.controls,
            times={
                name: datetime.fromtimestamp(routing.now + limit["wait"], UTC)
                for name, limit in routing.limits.items()
            },
            spent=spent,
            consumers={
                beat.owner: beat.env
                for kind in (PRODUCTION, SIMULATED)
                for beat in Stats(store, kind).consumers(ALIVE)
            },
            queue_error=queue_error() if is_queued else "",
        )
