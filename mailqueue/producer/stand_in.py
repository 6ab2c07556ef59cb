"""What stands in for the servers while an application is tested (see ``mailqueue.testing``).

Decides: nothing. While ``present`` is set, each producer of this process asks it for its storage
and, if it is made then, for its configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mailqueue.config import Config

if TYPE_CHECKING:
    from mailqueue.producer.connections import Connections
    from mailqueue.producer.storage import Storage


class StandIn(Protocol):
    """Where the e-mails of all producers go instead."""

    def config(self, path: str | Path | None) -> Config:
        """The configuration of a producer that was given this path."""

    def storage(self, connections: Connections) -> Storage:
        """The storage of the producer that has these connections."""


present: StandIn | None = None


def load(config: Config | str | Path | None) -> Config:
    """The configuration of a new producer. Raises ``ConfigError``."""
    if isinstance(config, Config):
        return config
    return Config.load(config, secrets=False) if present is None else present.config(config)
