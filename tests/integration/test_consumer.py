"""The consumer's own part: how it begins, what ends it, what it answers to the shell."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mailqueue.config import Config
from mailqueue.config.dicts import MongoDBDict
from mailqueue.consumer import Consumer
from mailqueue.consumer.__main__ import main
from mailqueue.errors import QueueUnavailable, StoreUnavailable
from mailqueue.queue.broker import Receiver
from mailqueue.store.store import Store
from tests.logged import event

NOWHERE: MongoDBDict = {"uri": "mongodb://127.0.0.1:1/?replicaSet=rs0", "timeout": 0.3}


class Buggy(Consumer):
    """A consumer whose fetcher dies of a bug."""

    def _fetch(self, receiver: Receiver) -> NoReturn:
        raise ZeroDivisionError


@pytest.fixture
def file(config_mapping: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config of this test as a file; the handlers of signals stay pytest's."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    place = tmp_path / "config.json"
    place.write_text(json.dumps(config_mapping))
    place.chmod(0o600)
    return place


def rewritten(file: Path, **sections: Any) -> Path:
    file.write_text(json.dumps({**json.loads(file.read_text()), **sections}))
    return file


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_of_a_bug_ends_the_process_with_1_and_says_so(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """Others take its work; a consumer that went on would only look alive."""
    assert Buggy(config).run() == 1
    assert "consumer.thread_died" in map(event, caplog.records)


def test_a_consumer_that_cannot_reach_mongodb_says_so_at_once(config: Config) -> None:
    away = config.replace(mongodb=NOWHERE)
    with pytest.raises(StoreUnavailable):
        Consumer(away).run()


def test_a_consumer_that_cannot_reach_beanstalkd_says_so_at_once(config: Config) -> None:
    away = config.replace(beanstalkd={"servers": ["127.0.0.1:1"], "tube": config.beanstalkd.tube})
    with pytest.raises(QueueUnavailable):
        Consumer(away).run()


def test_the_command_answers_0_when_a_burst_is_done(config: Config, file: Path) -> None:
    assert main(["--config", str(file), "--burst", "--concurrency", "2"]) == 0


def test_the_command_answers_2_to_a_bad_config_and_prints_every_problem(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewritten(file, consumer={"concurency": 1}, retry={"base": "soon"})
    assert main(["--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert "consumer.concurency" in said
    assert "retry.base" in said


def test_the_command_answers_3_when_it_cannot_connect(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(rewritten(file, mongodb=NOWHERE))]) == 3
    assert "could not connect: MongoDB" in capsys.readouterr().err


def test_a_burst_does_not_end_while_nobody_knows_whether_there_is_work(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Iterator[StoreUnavailable | bool] = iter([StoreUnavailable("away"), True, False])

    def has_work(_: Store, **_options: bool) -> bool:
        answer = next(answers)
        if isinstance(answer, StoreUnavailable):
            raise answer
        return answer

    monkeypatch.setattr(Store, "has_work", has_work)
    assert Consumer(config, burst=True).run() == 0
    assert next(answers, None) is None
