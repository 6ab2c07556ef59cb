"""Amazon SQS, by moto's server.

moto keeps messages, delays, visibility and receive counts as SQS does. It knows no limit of
messages in flight and checks no permission, its numbers are exact, and a short request finds every
message. As it has all in memory, its queues are made anew when it starts again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import boto3.session
import pytest
import requests

from mailqueue.config import Config
from mailqueue.config.queue import Sqs
from mailqueue.queue.broker import INTAKE
from mailqueue.queue.sqs import client as sqs_client
from tests.brokers.case import Case
from tests.servers import Breakable

REGION = "eu-west-1"
ACCOUNT = "123456789012"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
KINDS = ("urgent", "normal", "callbacks", "intake")
MOTO_SERVER = str(Path(__file__).with_name("moto_server.py"))


class Moto(Breakable):
    """A server that speaks SQS, and keeps the names of its queues."""

    name = "moto_server"

    def __init__(self, *arguments: str) -> None:
        super().__init__(*arguments)
        self.queues: dict[str, Mapping[str, str]] = {}

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def start(self) -> Self:
        super().start()
        for name, attributes in self.queues.items():
            self.create(name, attributes)
        return self

    def create(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """A queue that outlives restarts; returns its URL."""
        self.queues[name] = attributes or {}
        reply = client(self.url).create_queue(QueueName=name, Attributes=dict(self.queues[name]))
        return str(reply["QueueUrl"])

    def _binary(self) -> Path:
        return Path(sys.executable)

    def _options(self, folder: Path) -> Sequence[str]:
        return ("-P", MOTO_SERVER, "-H", "127.0.0.1", "-p", str(self.port))

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/moto-api/", timeout=1).ok
        except requests.ConnectionError:
            return False


@cache
def client(url: str) -> Any:
    """Somebody else's."""
    return boto3.session.Session(
        aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION
    ).client("sqs", endpoint_url=url)


class SqsCase(Case):
    name = type = "sqs"
    has_classes = False  # only high before all others
    has_retries = False
    max_delay = 900.0
    outlives_kill = False  # moto forgets
    many, some = 300, 40  # moto is slow
    environ = CREDENTIALS
    servers: ClassVar[dict[str, Moto]] = {}

    def start(self) -> Breakable:
        server = Moto().start()
        self.servers[server.address] = server
        return server

    def section(self, address: str, name: str) -> Mapping[str, Any]:
        urls = {kind: f"http://{address}/{ACCOUNT}/{name}-{kind}" for kind in KINDS}
        return {"region": REGION, "endpoint_url": f"http://{address}", **urls}

    def create(self, config: Config) -> None:
        for url in _urls(config):
            address, name = url.split("/")[2], url.split("/")[-1]
            if server := self.servers.get(address):
                server.create(name)
            else:  # behind a proxy
                _client(config).create_queue(QueueName=name)

    def lose_jobs(self, config: Config) -> None:
        for url in _urls(config):
            _client(config).purge_queue(QueueUrl=url)

    def lose_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqs_client, "READ_TIMEOUT", 5)

    def put(self, config: Config, body: bytes, suffix: str = "") -> None:
        url = _settings(config).intake if suffix == INTAKE else _settings(config).normal
        # SQS takes no empty body, and none that is not text.
        text = body.decode("ascii", "backslashreplace").replace("\0", "0") or "empty"
        _client(config).send_message(QueueUrl=url, MessageBody=text)


def _settings(config: Config) -> Sqs:
    assert isinstance(config.queue, Sqs)
    return config.queue


def _urls(config: Config) -> list[str]:
    return [str(getattr(_settings(config), kind)) for kind in KINDS]


def _client(config: Config) -> Any:
    return client(str(_settings(config).endpoint_url))
