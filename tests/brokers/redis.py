"""Redis, with a log that is written at each command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from redis import Redis as Client

from mailqueue.config import Config, Redis
from mailqueue.queue.broker import INTAKE
from tests.brokers.case import Case
from tests.servers import Breakable, BreakableRedis


class RedisCase(Case):
    name = type = "redis"

    def start(self) -> Breakable:
        return BreakableRedis().start()

    def section(self, address: str, name: str) -> Mapping[str, Any]:
        return {"url": f"redis://{address}/0", "tube": name}

    def remove(self, config: Config) -> None:
        self._delete(config)

    def lose_jobs(self, config: Config) -> None:
        self._delete(config, but=b":reserved")

    def hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mailqueue.queue.redis.events.IDLE", 1)

    def put(self, config: Config, body: bytes, suffix: str = "") -> None:
        settings = redis_settings(config)
        with Client.from_url(settings.url) as client:
            if suffix == INTAKE:
                client.xadd(settings.tube + suffix, {"event": body})
            else:
                client.zadd(f"{{{settings.tube}{suffix}}}:normal", {body: 0})

    def _delete(self, config: Config, but: bytes = b"\0") -> None:
        settings = redis_settings(config)
        with Client.from_url(settings.url) as client:
            for key in client.scan_iter(f"*{settings.tube}*"):
                if not key.endswith(but):
                    client.delete(key)


def redis_settings(config: Config) -> Redis:
    """The section of this kind."""
    settings = config.broker
    assert isinstance(settings, Redis)
    return settings
