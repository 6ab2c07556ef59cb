"""A storm over consumers, beanstalkd and a vendor, and a count of what came of every e-mail.

::

    python tests/storm.py --emails 20000 --seconds 600 --consumers 4 --seed 1 [--park]

Consumers are killed with SIGKILL and paused beyond their leases, beanstalkd is killed and restarted
with and without its binlog, one vendor fails half its calls in every way that there is. Then
everything is left alone until each e-mail has ended, and the vendors' own log (see
``faults/storm_vendor.py``) is held against what is stored.

Exit 1 when the promise is broken, when a planted piece of an e-mail or an API key is found in any
log or ledger line, or when the audit finds something. The seed decides who is hit, when and how;
what a process was doing at that moment, it cannot.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bson import ObjectId
from pymongo import MongoClient

from mailqueue import Producer
from mailqueue.config import Config
from mailqueue.devserver import DevServers, devservers
from mailqueue.errors import StoreUnavailable
from mailqueue.logs import Formatter
from mailqueue.private_server import dies_with_parent
from tests.faults.invariants import broken, resent, unknowns
from tests.faults.storm_vendor import VENDORS
from tests.faults.victims import ENDED, NO_SERVER, REPO, Storm, Victim

MARKER = "plantedmarker"
LEASE = 7.0
CONCURRENCY = 8
BEGIN_WITH = 0.25  # this part of the e-mails is there when the storm begins
PRIORITIES = ("high", "normal", "bulk")
SHOWN = 20

Document = dict[str, Any]


@dataclass
class Tally:
    """What came of it."""

    emails: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    unknowns: int = 0
    resent: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)


def settings(servers: DevServers, ports: dict[str, int], park: bool) -> Document:
    """A config with leases of seconds."""
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    keys: Document = {"type": "sendgrid", "api_key": f"SG.{MARKER}", "timeout": 2}
    entries = [{**keys, "name": name, "base_url": url} for name, url in urls.items()]
    return {
        "mongodb": {"uri": servers.mongod.uri, "database": "mailqueue_test_storm", "timeout": 2},
        "beanstalkd": {"servers": [servers.beanstalkd.address], "tube": "mailqueue_test_storm"},
        "vendors": entries,
        "failover": {"unavailable_for": 1},
        "retry": {"base": 0.2, "cap": 2},
        "delivery": {
            "on_unknown": "park" if park else "resend",
            "deadline": 2.5,
            "record": 1.5,
            "lease": LEASE,
            "ttr": 7,
        },
        "consumer": {"concurrency": CONCURRENCY, "sweep_every": 1},
    }


def letter(number: int) -> Document:
    return {
        "from": f"Ann {MARKER} <ann.{MARKER}@example.com>",
        "to": [f"Bob {MARKER} <reader{number}.{MARKER}@example.org>"],
        "subject": f"Number {number} {MARKER}",
        "text": f"Hello {MARKER}",
    }


class Application(threading.Thread):
    """Sends e-mails, evenly over the storm; repeats under the same key what was not acknowledged.

    ``ids`` are those that ``send()`` gave: these must be kept.
    """

    def __init__(self, config: Config, emails: int, seconds: float, rand: random.Random) -> None:
        super().__init__(name="application", daemon=True)
        self._config = config
        self._emails = emails
        self._seconds = seconds
        self._rand = rand
        self.ids: list[str] = []
        self.repeated = 0

    def run(self) -> None:
        began = time.monotonic()
        at_once = int(self._emails * BEGIN_WITH)
        with Producer(self._config) as producer:
            for number in range(self._emails):
                at = self._seconds * (number - at_once) / (self._emails - at_once)
                time.sleep(max(0.0, began + at - time.monotonic()))  # the pace of the application
                self.ids.append(self._send(producer, number))

    def _send(self, producer: Producer, number: int) -> str:
        options: Document = {
            "priority": self._rand.choice(PRIORITIES),
            "idempotency_key": f"number {number}",
        }
        if self._rand.random() < 0.1:
            options["send_at"] = datetime.now(UTC) + timedelta(seconds=2)
        while True:
            try:
                return producer.send(letter(number), **options)
            except StoreUnavailable:
                self.repeated += 1


@contextmanager
def vendors(folder: Path, seed: int, latency: float) -> Iterator[dict[str, int]]:
    """The vendors' process; their ports by name."""
    command = [sys.executable, "-m", "tests.faults.storm_vendor", str(folder / "accepted")]
    with (folder / "logs" / "vendors").open("wb") as log:
        process = subprocess.Popen(
            [*dies_with_parent(), *command, str(seed), str(latency)],
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        with process.stdout as answer:
            yield json.loads(answer.readline())
        process.terminate()
        assert process.wait(10) == 0, "the vendors' process did not end well"
    finally:
        process.kill()
        process.wait()


class Run:
    """One storm; ``folder`` holds its config, its logs and the vendors' log of copies."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._rand = random.Random(options.seed)
        self._folder = folder
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._config_file = folder / "config.json"
        self._victims: list[Victim] = []

    def run(self) -> tuple[Tally, Counter[str]]:
        options = self._options
        # So slow that the consumers are half busy: then a kill finds e-mails on their way.
        at_once = options.consumers * CONCURRENCY
        latency = min(0.5, 0.5 * at_once * options.seconds / options.emails)
        with (
            devservers() as servers,
            vendors(self._folder, options.seed, latency) as ports,
        ):
            assert tuple(ports) == VENDORS
            self._config_file.write_text(json.dumps(settings(servers, ports, options.park)))
            self._config_file.chmod(0o600)
            try:
                return self._run(servers)
            finally:
                for victim in self._victims:
                    victim.kill()

    def _run(self, servers: DevServers) -> tuple[Tally, Counter[str]]:
        config = Config.load(self._config_file)
        with MongoClient[Document](config.mongodb.uri, tz_aware=True) as client:
            emails = client[config.mongodb.database][config.mongodb.collection]
            application, counts = self._blow(config, servers)
            counts += self._settle(emails, application)
            tally = self._tally(emails, application.ids, config.delivery.on_unknown)
        said = ENDED.format("")
        tally.wrong += [c for c in counts if c.startswith(said) and c != ENDED.format(NO_SERVER)]
        tally.wrong += self._leaks()
        tally.wrong += self._audit()
        return tally, counts

    def _blow(self, config: Config, servers: DevServers) -> tuple[Application, Counter[str]]:
        options = self._options
        application = Application(config, options.emails, options.seconds, self._rand)
        for number in range(options.consumers):
            self._victims.append(Victim(self._config_file, self._logs / f"consumer{number}"))
        storm = Storm(self._victims, servers.beanstalkd, LEASE, random.Random(options.seed + 1))
        application.start()
        ends_at = time.monotonic() + options.seconds
        while time.monotonic() < ends_at:
            storm.blow()
            time.sleep(0.02)
        storm.calm()
        return application, storm.counts

    def _settle(self, emails: Any, application: Application) -> Counter[str]:
        """Leave everything alone until each e-mail has ended; then stop the consumers."""
        began = time.monotonic()
        gives_up_at = began + 60 + self._options.emails / 50
        moving = {"status": {"$in": ["queued", "sending"]}}
        while application.is_alive() or emails.find_one(moving, {"_id": 1}):
            if time.monotonic() > gives_up_at:
                break
            time.sleep(0.1)
        settling = Counter({"settling": round(time.monotonic() - began)})
        return settling + Counter(ENDED.format(code) for v in self._victims if (code := v.stop()))

    # What came of it ---------------------------------------------------------------------------

    def _tally(self, emails: Any, ids: Sequence[str], on_unknown: str) -> Tally:
        lines = (self._folder / "accepted").read_text().split()
        copies = Counter(lines[1::2])
        tally = Tally(emails=len(ids), copies=len(lines) // 2)
        missing = set(ids)
        for document in emails.find({}, {"email": 0}):
            email_id = str(document["_id"])
            missing.discard(email_id)
            tally.statuses[document["status"]] += 1
            tally.unknowns += unknowns(document)
            tally.resent += resent(document)
            problems = broken(document, copies.pop(email_id, 0), on_unknown)
            problems += [f"failed: {document.get('reason')}"] * (document["status"] == "failed")
            problems += ["a marker in the ledger"] * (MARKER in str(document["attempts"]))
            if problems:
                tally.wrong.append(f"{email_id}: {'; '.join(problems)}\n{_ledger(document)}")
            tally.lost += any(p.startswith(("lost", "failed", "has not")) for p in problems)
        tally.lost += len(missing) + (self._options.emails - len(ids))
        tally.wrong += [f"{email_id}: gone, though send() gave its id" for email_id in missing]
        tally.wrong += [f"{email_id}: a copy of what is not stored" for email_id in copies]
        return tally

    def _leaks(self) -> list[str]:
        found = (p for p in self._logs.iterdir() if MARKER in p.read_text(errors="replace").lower())
        return [f"{path.name}: holds a planted marker" for path in found]

    def _audit(self) -> list[str]:
        """What the product's own audit finds; without one: nothing."""
        if not (find_spec("mailqueue.audit") and find_spec("mailqueue.__main__")):
            return []
        done = subprocess.run(
            [sys.executable, "-m", "mailqueue", "audit", "--config", self._config_file],
            cwd=REPO,
            check=False,
            capture_output=True,
            text=True,
        )
        return [f"audit: {done.stdout}{done.stderr}"] if done.returncode else []


def _ledger(document: Document) -> str:
    lines = [
        f"    {line['token']} {line['vendor']} {line['outcome']} {line.get('code')}"
        f"{' late' if line.get('late') else ''} {line['started_at']:%H:%M:%S}"
        for line in document["attempts"]
    ]
    born = ObjectId(document["_id"]).generation_time
    return "\n".join([f"    {document['status']}, stored {born:%H:%M:%S}", *lines])


def report(tally: Tally, counts: Counter[str], seconds: float) -> str:
    """The table."""
    rows = {
        "e-mails": tally.emails,
        "consumers killed": counts["kills"],
        "consumers paused beyond the lease": counts["pauses"],
        "beanstalkd killed and restarted": counts["beanstalkd restarts"],
        "lost": tally.lost,
        "copies accepted": tally.copies,
        "unknown outcomes": tally.unknowns,
        "of these resent": tally.resent,
        "bound (e-mails + resent)": tally.emails + tally.resent,
        **{f"ended as {status}": n for status, n in sorted(tally.statuses.items())},
        "seconds": round(seconds),
        "of these settling": counts["settling"],
        "promises broken": len(tally.wrong),
    }
    rows |= {name: n for name, n in counts.items() if name.startswith(ENDED.format(""))}
    return "\n".join(f"| {name:<38} | {value:>7,} |" for name, value in rows.items())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill, pause and break; then count every copy.")
    parser.add_argument("--emails", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--consumers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--park", action="store_true", help="delivery.on_unknown = park")
    parser.add_argument("--keep", metavar="FOLDER", help="leave the logs there")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    os.environ["MAILQUEUE_ENV"] = "production"  # of loopback; the consumers inherit it
    with tempfile.TemporaryDirectory(prefix="mailqueue-storm-") as folder:
        if options.keep:
            Path(options.keep).mkdir(parents=True)
        run = Run(options, Path(options.keep or folder))
        _log_to(run)
        tally, counts = run.run()
    table = report(tally, counts, time.monotonic() - began)
    sys.stdout.write("\n".join([table, *tally.wrong[:SHOWN], ""]))
    return int(bool(tally.wrong or tally.lost))


def _log_to(run: Run) -> None:
    """What the application's side of mailqueue logs is searched for markers too."""
    handler = logging.FileHandler(run._logs / "application")
    handler.setFormatter(Formatter())
    logging.getLogger("mailqueue").addHandler(handler)
    logging.getLogger("mailqueue").setLevel(logging.INFO)
    logging.getLogger("mailqueue").propagate = False


if __name__ == "__main__":
    sys.exit(main())
