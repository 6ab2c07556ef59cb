"""Are vendors' rates kept? Consumers as real processes, against servers of their own.

::

    python tests/rates.py                                 # all of it, about eight minutes
    python tests/rates.py --rate 1000 --processes 4       # one

For each rate and number of processes it prints: e-mails a second over ``--seconds``, the most in
any window of one second, and the reservations for each e-mail. A rate of 0: no limit, for
comparison; one below 1: its gap.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))

from pymongo import MongoClient  # noqa: E402  # after the path: this file is run as a script

from mailqueue import Producer  # noqa: E402
from mailqueue.config import Config  # noqa: E402
from mailqueue.devserver import Beanstalkd, Mongod  # noqa: E402
from mailqueue.devserver.process import dies_with_parent  # noqa: E402
from mailqueue.message import EmailDict  # noqa: E402
from tests.noting_vendor import TYPE, calls, most_within  # noqa: E402


@dataclass(frozen=True)
class Run:
    """What was measured."""

    asked: float
    processes: int
    rate: float
    most: int
    least_gap: float
    updates: float

    def __str__(self) -> str:
        return (
            f"{self.asked:g}/s asked, {self.processes} processes: {self.rate:.1f}/s,"
            f" {self.most} in one second at most, {self.least_gap * 1000:.1f} ms apart at least,"
            f" {self.updates:.3f} reservations an e-mail"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ["MAILQUEUE_ENV"] = "production"  # of the producer, too; nothing leaves this host
    options = _parser().parse_args(arguments)
    with _servers() as settings:
        for asked in options.rate:
            for processes in options.processes:
                rate = {"gap": 1 / asked} if 0 < asked < 1 else {"per_second": asked}
                _say(measure(settings, rate, asked, processes, options.seconds))
    return 0


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rate", type=float, nargs="*", default=[100, 1000, 0.5])
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=30)
    return parser


@contextmanager
def _servers() -> Iterator[dict[str, Any]]:
    with Mongod() as mongod, Beanstalkd() as beanstalkd:
        yield {
            "mongodb": {"uri": mongod.uri},
            "beanstalkd": {"servers": [beanstalkd.address]},
        }


def measure(
    settings: dict[str, Any], rate: dict[str, Any], asked: float, processes: int, seconds: float
) -> Run:
    """Let so many processes send as fast as they may, after a second to warm up."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder, "calls")
        file.touch()
        vendor = {"name": "paced", "type": TYPE, "options": {"file": str(file)}, "rate": rate}
        if not asked:
            del vendor["rate"]
        unique = f"mailqueue_test_rates_{time.time_ns()}"
        mapping = {
            "mongodb": settings["mongodb"] | {"database": unique},
            "beanstalkd": settings["beanstalkd"] | {"tube": unique},
            "vendors": [vendor],
        }
        client: MongoClient[Any] = stack.enter_context(MongoClient(settings["mongodb"]["uri"]))
        _enqueue(mapping, int((asked or 2000) * (seconds + 5)) + 20)
        path = Path(folder, "config.json")
        path.write_text(json.dumps(mapping))
        consumers = [stack.enter_context(_consumer(path)) for _ in range(processes)]
        while not (noted := calls(file)) or noted[-1].at < noted[0].at + 1:
            time.sleep(0.2)
        begin = _updates(client)
        began = time.time()
        time.sleep(seconds)
        ended, updates = time.time(), _updates(client) - begin
        for each in consumers:
            each.send_signal(signal.SIGTERM)
        noted = [call for call in calls(file) if began <= call.at < ended]
    times = [call.at for call in noted]
    gaps = [b - a for a, b in pairwise(times)]
    return Run(
        asked,
        processes,
        len(times) / (ended - began),
        most_within(times, 1.0),
        min(gaps, default=0.0),
        updates / max(1, len(times)),
    )


def _updates(client: MongoClient[Any]) -> int:
    """The reservations until now: nothing else here uses this command."""
    status = client.admin.command("serverStatus")
    return int(status["metrics"]["commands"]["findAndModify"]["total"])


def _enqueue(mapping: dict[str, Any], number: int) -> None:
    letter: EmailDict = {
        "from": "a@example.com",
        "to": "b@example.org",
        "subject": "s",
        "text": "t",
    }
    with Producer(Config.from_mapping(mapping)) as producer:
        for start in range(0, number, 2000):
            producer.send_many([letter] * min(2000, number - start))


@contextmanager
def _consumer(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "mailqueue.consumer", "--config", str(config)]
    environ = {**os.environ, "MAILQUEUE_ENV": "production"}
    process = subprocess.Popen(
        [*dies_with_parent(), *command], cwd=REPO, env=environ, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.terminate()
        _, errors = process.communicate()
        unusual = [line for line in errors.decode().splitlines() if " INFO " not in line]
        if unusual:
            _say(f"{len(unusual)} warnings, the first: {unusual[0]}")


if __name__ == "__main__":
    sys.exit(main())
