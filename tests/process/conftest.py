"""Consumers as child processes; none is left at the end of a test, even of one that failed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import TEST_PREFIX
from tests.process.consumer_process import ConsumerProcess
from tests.servers import BreakableServers
from tests.stage import Stage

Consumers = Callable[..., ConsumerProcess]


@pytest.fixture
def swaks() -> str:
    """The path of swaks, "Swiss Army Knife for SMTP"; without it the test is skipped."""
    return program("swaks")


def program(name: str) -> str:
    """The path of a program that tests/run.sh installs; without it the test is skipped."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        missing = f"no {name} here: tests/run.sh installs it on Debian and Ubuntu"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Consumers]:
    """Start a consumer on a stage: ``run(stage, "--burst", MAILQUEUE_ENV="")``. Not yet ready."""
    numbers = count(1)
    with ExitStack() as stack:

        def start(stage: Stage, *arguments: str, **environ: str) -> ConsumerProcess:
            folder = tmp_path / f"consumer{next(numbers)}"
            process = ConsumerProcess(stage.settings, folder, *arguments, **environ)
            stack.push(process)
            return process

        yield start


@pytest.fixture
def ready(run: Consumers) -> Consumers:
    """The same, and wait until it is ready."""

    def start(stage: Stage, *arguments: str, **environ: str) -> ConsumerProcess:
        process = run(stage, *arguments, **environ)
        process.wait_for("READY=1")
        return process

    return start


@pytest.fixture
def fragile_stage(
    servers_to_break: BreakableServers, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """A stage on servers of its own, to be broken."""
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    unique = TEST_PREFIX + uuid4().hex
    settings = servers_to_break.config
    settings["mongodb"] |= {"database": unique, "collection": TEST_PREFIX + "emails"}
    settings["beanstalkd"] |= {"tube": unique}
    with Stage(settings) as stage:
        yield stage
