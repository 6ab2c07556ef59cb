"""What servers of applications do with a producer: fork, patch, time out, and end in the middle.

Each test runs such a program as a child; its journal holds what was acknowledged.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.devserver.process import dies_with_parent
from tests.faults.application import Journal, subject
from tests.faults.endings import ENDS
from tests.faults.pools import EACH, POOLS, TASKS, THREADS
from tests.faults.victims import REPO

Document = dict[str, Any]
ENDS_WITHIN = 60


class Program:
    """A program of ours, with a config and a journal."""

    def __init__(self, config: Path, journal: Path, emails: Collection[Document]) -> None:
        self.config, self._path, self._emails = config, journal, emails
        self.journal = Journal(journal)

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-m", f"tests.faults.{module}", *arguments]
        return subprocess.run(
            [*dies_with_parent(), *command, str(self.config), str(self._path)],
            cwd=REPO,
            check=False,
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN,
        )

    def acknowledged(self) -> set[str]:
        """The labels of what was acknowledged: each with an id of its own, stored under it."""
        lines = self.journal.acknowledged()
        ids = [ObjectId(email_id) for email_id, _ in lines]
        assert len(set(ids)) == len(ids)
        stored = {str(d["_id"]): d["email"]["subject"] for d in self._emails.find()}
        assert {i: subject(label) for i, label in lines}.items() <= stored.items()
        return {label for _, label in lines}


@pytest.fixture
def program(
    config: Config, config_mapping: Document, emails: Collection[Document], tmp_path: Path
) -> Program:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_mapping))
    path.chmod(0o600)
    return Program(path, tmp_path / "journal", emails)


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {package}")


def test_greenlets_whose_time_outs_strike_at_random_lose_nothing(program: Program) -> None:
    needs("gevent")
    done = program.run("greenlets")
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0
    patient = {f"greenlet-{which}-{n}" for which in range(0, 200, 2) for n in range(3)}
    assert patient | {"greenlet-last"} <= program.acknowledged()


@pytest.mark.parametrize("how", ENDS)
def test_what_was_acknowledged_while_the_process_ends_is_kept(program: Program, how: str) -> None:
    done = program.run("endings", how)
    ends = -signal.SIGTERM if how == "is terminated" else 0
    assert (done.returncode, done.stderr) == (ends, "")
    labels = program.acknowledged()
    late = {"atexit-early", "atexit-late", *(f"waited-thread-{n}" for n in (1, 3, 5))}
    assert labels >= {f"{kind}-4" for kind in ("daemon-0", "thread-1")}
    assert labels & late == (late if how in {"returns", "exits"} else set())


@pytest.mark.parametrize("kind", POOLS)
def test_the_processes_of_a_pool_store_what_they_are_given_ids_for(
    program: Program, kind: str
) -> None:
    done = program.run("pools", kind)
    assert (done.returncode, done.stderr) == (0, "")
    tasks = {f"task-{task}-{n}" for task in range(TASKS) for n in range(THREADS * EACH)}
    assert program.acknowledged() == tasks | {"parent-first", "parent-last"}


@contextmanager
def gunicorn(program: Program) -> Iterator[int]:
    """Its port, once it listens; three workers with four threads, forked from one that has sent."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        options = ["--preload", "--worker-class", "gthread", "--workers", "3", "--threads", "4"]
        command = [sys.executable, "-m", "gunicorn", "tests.faults.wsgi:application", *options]
        paths = {"CONFIG": str(program.config), "JOURNAL": str(program._path)}
        process = subprocess.Popen(
            [*dies_with_parent(), *command, "--bind", f"fd://{listener.fileno()}"],
            cwd=REPO,
            pass_fds=[listener.fileno()],
            env=os.environ | paths,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield listener.getsockname()[1]
            process.terminate()
            _, said = process.communicate(timeout=ENDS_WITHIN)
            assert (process.returncode, "Traceback" in said) == (0, False), said
        finally:
            process.kill()
            process.communicate()


def test_the_workers_of_a_web_server_store_what_they_are_given_ids_for(program: Program) -> None:
    needs("gunicorn")
    labels = [f"request-{number}" for number in range(120)]
    with gunicorn(program) as port, ThreadPoolExecutor(12) as pool:

        def request(label: str) -> tuple[str, str]:
            connection = HTTPConnection("127.0.0.1", port, timeout=ENDS_WITHIN)
            connection.request("GET", f"/{label}")
            worker, email_id = connection.getresponse().read().decode().split()
            connection.close()
            return worker, email_id

        answers = list(pool.map(request, labels))
    assert program.acknowledged() == {*labels, "preload"}
    assert {(i, label) for (_, i), label in zip(answers, labels, strict=True)} < set(
        program.journal.acknowledged()
    )
    assert len({worker for worker, _ in answers}) > 1
