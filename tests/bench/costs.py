"""What one e-mail costs each program: the figures behind the sums in docs/scaling.md.

::

    python tests/bench/costs.py               10,000 e-mails of 1 KB (a minute)
    python tests/bench/costs.py --emails 500  a smoke test

Two phases on servers of its own: an application of 32 threads sends, then one consumer works the
backlog off, with a vendor in its process that says yes at once. In each phase the processor time of
every program is read from /proc, the bytes that MongoDB has journaled and replicated (oplog) from
its own counters, and both are divided by the e-mails. A vendor's HTTP request is not in it.

Processor time says how many e-mails a core can bear. It hangs on the machine, but little on what
else runs there, other than a rate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "tests" / "bench")]

from pymongo import MongoClient  # noqa: E402  # the path is set above

from mailqueue import Producer  # noqa: E402  # the same
from mailqueue.config import Config  # noqa: E402  # the same
from tests.bench.measure import processor_seconds  # noqa: E402  # the same
from tests.bench.run import RoomyMongod, UsualBeanstalkd  # noqa: E402  # the same

THREADS = 32
EMAIL = {
    "from": "Shop <shop@example.com>",
    "to": ["ann@example.org"],
    "subject": "Your receipt",
    "text": "Thank you. " * 80,
}


class Costs:
    """Counters of the programs, read at the begin and the end of a phase."""

    def __init__(self, client: MongoClient[dict[str, Any]], processes: Mapping[str, int]) -> None:
        self._client, self._processes = client, processes

    def read(self, own: str = "") -> dict[str, float]:
        numbers = {name: processor_seconds(pid) for name, pid in self._processes.items()}
        if own:
            numbers[own] = processor_seconds(os.getpid())
        log = self._client.admin.command("serverStatus")["wiredTiger"]["log"]
        oplog = self._client.local.command("collStats", "oplog.rs")["size"]
        return numbers | {
            "journal": log["log bytes written"],
            "oplog": oplog,
            "syncs": log["log sync operations"],
        }

    @contextmanager
    def phase(self, name: str, emails: int, own: str = "") -> Iterator[None]:
        """Print what the block cost, an e-mail."""
        before, began = self.read(own), time.monotonic()
        yield
        seconds, after = time.monotonic() - began, self.read(own)
        print(f"{name}: {emails / seconds:,.0f} e-mails/s", flush=True)  # noqa: T201  # its output
        for key, value in after.items():
            each = (value - before[key]) / emails
            text = f"{each:,.2f}" if key == "syncs" else f"{each:,.0f} bytes"
            shown = text if key in {"journal", "oplog", "syncs"} else f"{1e6 * each:,.0f} µs"
            print(f"  {key:<12}{shown}", flush=True)  # noqa: T201  # the same


def send(config: Mapping[str, Any], emails: int) -> None:
    with (
        Producer(Config.from_mapping(config, secrets=False)) as producer,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        for _ in threads.map(lambda _: producer.send(EMAIL), range(emails)):  # type: ignore[arg-type]  # a mapping
            pass


def wait_until_sent(client: MongoClient[dict[str, Any]], emails: int) -> None:
    collection = client["mailqueue"]["emails"]
    while collection.count_documents({"status": "sent"}) < emails:
        time.sleep(0.1)


@contextmanager
def consumer(config: Mapping[str, Any], folder: Path) -> Iterator[int]:
    """A consumer's process id."""
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO / 'tests/bench/jobs'}"}
    environment |= {"MAILQUEUE_ENV": "production", "BENCH_DONE": str(folder / "done")}
    command = [sys.executable, "-m", "mailqueue.consumer", "--config", str(file)]
    with subprocess.Popen(command, env=environment) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def measure(emails: int, folder: Path) -> None:
    with UsualBeanstalkd() as beanstalkd, RoomyMongod() as mongod:
        config: dict[str, Any] = {
            "mongodb": {"uri": mongod.uri},
            "beanstalkd": {"servers": [beanstalkd.address]},
            "vendors": [{"name": "ticking", "type": "ours:Ticking"}],
        }
        servers = {"mongod": mongod.pid, "beanstalkd": beanstalkd.pid}
        with MongoClient[dict[str, Any]](mongod.uri) as client:
            send(config, 200)  # the connections, the indexes, the first pages
            costs = Costs(client, servers)
            with costs.phase("send() by 32 threads", emails, "application"):
                send(config, emails)
            with consumer(config, folder) as pid:
                wait_until_sent(client, 200)
                costs = Costs(client, servers | {"consumer": pid})
                before = client["mailqueue"]["emails"].count_documents({"status": "sent"})
                with costs.phase("worked off by one consumer", emails - before):
                    wait_until_sent(client, emails + 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--emails", type=int, default=10_000)
    with tempfile.TemporaryDirectory(prefix="costs-") as folder:
        measure(parser.parse_args().emails, Path(folder))


if __name__ == "__main__":
    os.environ["MAILQUEUE_ENV"] = "production"
    main()
