"""Parts of the product on the tests' own servers, closed after each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailqueue.config import Config
from mailqueue.producer import Producer
from mailqueue.store.document import SIMULATED
from mailqueue.store.store import Store
from tests.console import Console
from tests.integration.bench import Bench


@pytest.fixture
def producer(config: Config) -> Iterator[Producer]:
    with Producer(config) as made:
        yield made


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    made = Store(config.mongodb, env=SIMULATED)
    made.ensure_indexes()
    yield made
    made.close()


@pytest.fixture
def bench(config: Config, producer: Producer) -> Iterator[Bench]:
    """A consumer whose steps the test takes; the producer has made the indexes."""
    made = Bench(config)
    yield made
    made.close()


@pytest.fixture
def console(
    config: Config,
    config_mapping: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Console:
    """An operator's shell; a test may configure it anew."""
    made = Console(tmp_path / "config.json", capsys)
    made.configure(config_mapping)
    return made
