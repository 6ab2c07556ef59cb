"""The queue in memory: what is its own, beside what each kind promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bson import ObjectId

from mailqueue import Config, cli
from mailqueue.queue import open_broker
from mailqueue.queue.broker import INTAKE, Announcement
from mailqueue.queue.memory import tube
from mailqueue.testing import put_event
from tests.brokers.conftest import end, reserved
from tests.forks import in_a_child


def named(name: str) -> Config:
    return Config(queue={"type": "memory", "tube": name})


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    vendor = {"name": "a", "type": "smtp", "host": "127.0.0.1"}
    path.write_text(json.dumps({"queue": {"type": "memory"}, "vendors": [vendor]}))
    return str(path)


def test_the_first_job_of_a_tube_is_number_0() -> None:
    """So the first e-mail is offered to the first vendor."""
    broker = open_broker(named(f"mailqueue_test_{ObjectId()}"))
    broker.announce([Announcement(ObjectId(), 1), Announcement(ObjectId(), 2)])
    (receiver,) = broker.receivers()
    assert [job.turn for job in receiver.reserve(0, 5)] == [0, 1]


def test_who_names_another_tube_has_other_jobs() -> None:
    name = f"mailqueue_test_{ObjectId()}"
    open_broker(named(name)).announce([Announcement(ObjectId(), 1)])
    assert (open_broker(named(f"{name}-2")).depth() or {})["ready"] == 0
    assert (open_broker(named(name)).depth() or {})["ready"] == 1


def test_a_late_end_does_not_end_the_job_that_another_has_by_now() -> None:
    jobs = tube(f"mailqueue_test_{ObjectId()}")
    jobs.put(b"x", 1)
    ((late, _),) = jobs.reserve(0, 1, ttr=-1)  # its time is over at once
    ((held, _),) = jobs.reserve(0, 1, ttr=60)
    assert held.number == late.number
    jobs.end(late, None)
    assert jobs.depth()["reserved"] == 1


def test_a_command_refuses_a_queue_that_nobody_else_is_in(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "mailqueue.consumer", "--config", file]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 2
    assert "queue.type: memory is of one process" in run.stderr
    for verb in ("intake", "sweep"):
        assert cli.main(["--config", file, verb]) != 0
        assert "queue.type: memory is of one process" in capsys.readouterr().err


def test_an_event_of_a_test_comes_to_the_intake_of_its_tube() -> None:
    name = f"mailqueue_test_{ObjectId()}"
    put_event(b"{}", name)
    assert tube(name + INTAKE).depth()["ready"] == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_begins_with_an_empty_queue() -> None:
    name = f"mailqueue_test_{ObjectId()}"
    broker = open_broker(named(name))
    broker.announce([Announcement(ObjectId(), 1)])
    assert in_a_child(lambda: str((broker.depth() or {})["ready"])) == "0"
    (receiver,) = broker.receivers()
    jobs = reserved(receiver)
    assert len(jobs) == 1
    end(jobs)
