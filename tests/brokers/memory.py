"""The memory of this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailqueue.config import Config, Memory
from mailqueue.queue import memory
from tests.brokers.case import Case


class MemoryCase(Case):
    name = type = "memory"
    has_server = False
    is_shared = False

    def section(self, address: str, name: str) -> Mapping[str, Any]:
        return {"tube": name}

    def lose_jobs(self, config: Config) -> None:
        memory.forget_all()

    def put(self, config: Config, body: bytes, suffix: str = "") -> None:
        settings = config.broker
        assert isinstance(settings, Memory)
        memory.tube(settings.tube + suffix).put(body, 2**16)
