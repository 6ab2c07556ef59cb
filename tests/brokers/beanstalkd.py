"""beanstalkd, with its binlog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import greenstalk

from mailqueue.config import Beanstalkd, Config
from tests.brokers.case import Case
from tests.servers import Breakable, BreakableBeanstalkd


class BeanstalkdCase(Case):
    name = type = "beanstalkd"

    def start(self) -> Breakable:
        return BreakableBeanstalkd("-f1000").start()  # a killed process loses nothing by that

    def restart(self, server: Breakable, *, keep: bool) -> None:
        """What was lost may come back at the next restart: its log is only not read."""
        assert isinstance(server, BreakableBeanstalkd)
        server.binlog = keep
        server.start()

    def section(self, address: str, name: str) -> Mapping[str, Any]:
        return {"servers": [address], "tube": name}

    def lose_jobs(self, config: Config) -> None:
        with _client(config) as client:
            for peek in (client.peek_ready, client.peek_delayed, client.peek_buried):
                while True:
                    try:
                        client.delete(peek())
                    except greenstalk.NotFoundError:
                        break

    def put(self, config: Config, body: bytes, suffix: str = "") -> None:
        with _client(config, suffix) as client:
            client.put(body)


def _client(config: Config, suffix: str = "") -> greenstalk.Client[bytes]:
    settings = config.broker
    assert isinstance(settings, Beanstalkd)
    name = settings.tube + suffix
    return greenstalk.Client(settings.addresses[0], encoding=None, use=name, watch=name)
