"""What the next step of an e-mail depends on, beside the e-mail itself: vendors, holds, consumers.

Decides: what is read of it, once for one explanation.

Promises: nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from mailqueue.config import Config
from mailqueue.monitoring.overview import Routing
from mailqueue.routing.rotation import Health
from mailqueue.store.control import Controls
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.stats import ALIVE, Stats
from mailqueue.store.store import Store


@dataclass(frozen=True, slots=True)
class Conditions:
    """How things stand now, for e-mails of one kind (``env``).

    ``health``: of each configured vendor. ``times``: when a vendor with a rate has its next
    send time. ``spent``: of these vendors a budget is used up until then.
    ``consumers``: the kind of each that gave a sign of life within ``ALIVE``, by the name that its
    leases have; None: that is not known.
    """

    health: Mapping[str, Health] = field(default_factory=dict)
    controls: Controls = field(default_factory=Controls)
    times: Mapping[str, datetime] = field(default_factory=dict)
    spent: Mapping[str, datetime] = field(default_factory=dict)
    consumers: Mapping[str, str] | None = None

    @classmethod
    def read(cls, config: Config, store: Store, env: str) -> Self:
        """As they are now. Raises ``StoreUnavailable``."""
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
        )
