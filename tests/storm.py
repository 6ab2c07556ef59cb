"""A storm over consumers, the queue and a vendor, and a count of what came of every e-mail.

::

    python tests/storm.py --emails 20000 --seconds 600 --consumers 4 --seed 1 [--park] [--events]
    python tests/storm.py --queue redis --control
    sudo python tests/storm.py --replica-set

Consumers are killed with SIGKILL and paused beyond their leases, the queue's server (beanstalkd, or
that of ``--queue``) is killed and restarted with and without its jobs, one vendor fails half its
calls in every way that there is. The application is a pre-fork server, whose threads are killed,
interrupted and re-entered (see ``faults/application.py``). With ``--replica-set`` MongoDB has three
nodes, whose primary is killed, paused and cut off. With ``--events`` the vendors tell what became
of each copy, late, doubled and in any order (see ``faults/storm_events.py``), to a ``mailqueue
http`` that is killed, too, and a ``mailqueue responder``, killed as well, calls the application
back (see ``faults/storm_receiver.py``). With ``--control`` an operator holds, drains and reloads at
random (see ``faults/storm_control.py``). Then everything is left alone until each e-mail has ended,
and the vendors' own log (see ``faults/storm_vendor.py``) and the application's are held against
what is stored.

Exit 1 when the promise is broken, when a planted piece of an e-mail or an API key is found in any
log or ledger line, or when the audit finds something. The seed decides who is hit, when and how;
what a process was doing at that moment, it cannot.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pymongo import MongoClient

from mailqueue.config import Config
from mailqueue.devserver import Mongod
from mailqueue.devserver.process import dies_with_parent
from mailqueue.store.callbacks import STEPS
from tests.brokers.case import Case
from tests.brokers.cases import CASES
from tests.faults import application, storm_events, storm_receiver
from tests.faults.application import MARKER, Journal, is_keyed, subject
from tests.faults.invariants import broken, resent, settled, unknowns
from tests.faults.storm_control import Operator
from tests.faults.storm_vendor import VENDORS
from tests.faults.victims import ENDED, NO_SERVER, REPO, Primaries, Storm, Victim
from tests.replica_set import Network, ReplicaSet, available
from tests.servers import Breakable

# Seconds that bound a call to MongoDB; three nodes need as long as an election lasts. With the
# deadline, leases last for 8.7 s and 22.7 s.
ONE_NODE, THREE_NODES = 1.5, 5
DEADLINE = 2
CONCURRENCY = 8
SHOWN = 20
NAME = "mailqueue_test_storm"
KINDS = {case.name: case for case in CASES if case.is_shared}
TOLD = ("events", "requests", "repeats", "callbacks", "callbacks repeated")
# What no process may do by itself.
WRONG = (
    *(ENDED.format(""), application.ENDED.format("")),
    *(application.HUNG, application.FAILED, application.CRASHED),
)

Document = dict[str, Any]


@dataclass
class Tally:
    """What came of it."""

    emails: int = 0
    acknowledged: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    unknowns: int = 0
    resent: int = 0
    settled: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Servers:
    """MongoDB and the queue; ``replica_set`` where MongoDB has three nodes."""

    uri: str
    case: Case
    queue: Breakable | None
    replica_set: ReplicaSet | None = None

    def restart(self, keep: bool) -> None:
        """Start the queue's server again, with its jobs or without."""
        if self.queue is not None:
            self.case.restart(self.queue, keep=keep)


@contextmanager
def running(folder: Path, three_nodes: bool, case: Case) -> Iterator[Servers]:
    with ExitStack() as stack:
        queue = case.start()
        if queue is not None:
            stack.callback(queue.close)
        if three_nodes:
            network = stack.enter_context(Network())
            replica_set = stack.enter_context(ReplicaSet(network, folder))
            yield Servers(replica_set.uri(), case, queue, replica_set)
        else:
            yield Servers(stack.enter_context(Mongod()).uri, case, queue)


def settings(
    servers: Servers, ports: dict[str, int], park: bool, events: Document | None
) -> Document:
    """A config with leases of seconds; ``events``: how those of all vendors are verified."""
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    keys: Document = {"type": "sendgrid", "api_key": f"SG.{MARKER}", "timeout": 2}
    keys |= {} if events is None else {"events": events}
    entries = [{**keys, "name": name, "base_url": url} for name, url in urls.items()]
    timeout = THREE_NODES if servers.replica_set else ONE_NODE
    database = {"database": NAME, "timeout": timeout}
    address = servers.queue.address if servers.queue else ""
    return {
        "mongodb": {"uri": servers.uri, **database},
        "queue": {"type": servers.case.type, **servers.case.section(address, NAME)},
        "vendors": entries,
        "failover": {"unavailable_for": 1},
        "retry": {"base": 0.2, "cap": 2},
        "delivery": {"on_unknown": "park" if park else "resend", "deadline": DEADLINE},
        "consumer": {"concurrency": CONCURRENCY, "sweep_every": 1},
    }


class Application:
    """The pre-fork server, as a process; ``journal`` holds what it was acknowledged."""

    def __init__(self, config: Path, folder: Path, options: argparse.Namespace) -> None:
        self.journal = Journal(folder / "journal")
        numbers = options.emails, options.seconds, options.workers, options.seed
        command = [sys.executable, "-m", application.__name__, str(config), str(folder / "journal")]
        with (folder / "logs" / "application").open("wb") as log:
            self._process = subprocess.Popen(
                [*dies_with_parent(), *command, *map(str, numbers)],
                cwd=REPO,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> Counter[str]:
        """What became of its workers."""
        if self.is_alive():
            self._process.kill()
        answer, _ = self._process.communicate()
        code = self._process.returncode
        return Counter(json.loads(answer) if code == 0 else {application.FAILED: 1})


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


class Events:
    """The vendors' events: the process that tells them, and whom it tells."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        key = ec.generate_private_key(ec.SECP256R1())
        self._pem = folder / "events.pem"
        self._pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.settings = {"secret": base64.b64encode(public).decode()}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def service(self, config: Path) -> Victim:
        """``mailqueue http``; each of its lives has the same port."""
        arguments = ("http", "--port", str(self.port))
        return Victim(config, self._folder / "logs" / "http", "mailqueue", *arguments)

    def start(self, seed: int) -> None:
        """From now on each copy that a vendor took has its events."""
        url = f"http://127.0.0.1:{self.port}"
        arguments = map(str, (self._folder / "accepted", self._pem, url, seed))
        with (self._folder / "logs" / "events").open("wb") as log:
            self._process = subprocess.Popen(
                [*dies_with_parent(), sys.executable, "-m", storm_events.__name__, *arguments],
                cwd=REPO,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def end(self) -> Document:
        """Let all be told; returns what is to stand in the e-mails."""
        self._process.terminate()
        answer, _ = self._process.communicate(timeout=120)
        told: Document = json.loads(answer)
        return told

    def judge(self, document: Document, told: Document) -> list[str]:
        """What is wrong with an e-mail after its events."""
        email_id = str(document["_id"])
        problems = []
        expected = told["steps"].get(email_id)
        step = document.get("delivery", {}).get("0")
        if step != expected:
            problems.append(f"its delivery is {step}, its events say {expected}")
        for vendor in told["told_by"].get(email_id, ()):
            outcomes = {x["outcome"] for x in document["attempts"] if x["vendor"] == vendor}
            if "unknown" in outcomes and "accepted" not in outcomes:
                problems.append(f"{vendor} told of it, and its outcome is unknown still")
        return problems


class Callbacks:
    """The application as it is called back, and who calls it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        secret = f"whsec_{base64.b64encode(os.urandom(24)).decode()}"
        arguments = map(str, (folder / "heard", secret, seed))
        with (folder / "logs" / "receiver").open("wb") as log:
            self._process = subprocess.Popen(
                [*dies_with_parent(), sys.executable, "-m", storm_receiver.__name__, *arguments],
                cwd=REPO,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        url = f"http://127.0.0.1:{json.loads(self._process.stdout.readline())}/{MARKER}"
        own = {"secrets": [secret], "allow": ["127.0.0.1"], "timeout": 2, "concurrency": 32}
        self.settings: Document = {"url": url, **own}

    def service(self, config: Path) -> Victim:
        """``mailqueue responder``."""
        return Victim(config, self._folder / "logs" / "responder", "mailqueue", "responder")

    def end(self) -> Counter[str]:
        """What was heard, how often, by ``webhook-id`` and type."""
        self._process.kill()
        self._process.communicate()
        return Counter((self._folder / "heard").read_text().splitlines())

    def judge(self, document: Document, told: Document, heard: Counter[str]) -> list[str]:
        """What is wrong with what was heard of an e-mail."""
        entries = document.get("callbacks", [])
        types = Counter(entry["type"] for entry in entries)
        problems = [f"{e['id']} is {e['state']}" for e in entries if e["state"] != "delivered"]
        lines = [f"{entry['id']} {entry['type']}" for entry in entries]
        problems += [f"lost: {line} was not heard" for line in lines if not heard[line]]
        if types[end := f"email.{document['status']}"] != 1:
            problems.append(f"lost: {types[end]} callbacks of its end {end}")
        step = STEPS.get(told["steps"].get(str(document["_id"]), ""))
        if step and not types[step]:
            problems.append(f"lost: no callback of {step}")
        for line in lines:
            heard.pop(line, None)
        return problems


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
        self._events = Events(folder) if options.events else None
        self._callbacks = Callbacks(folder, options.seed + 4) if options.events else None

    def run(self) -> tuple[Tally, Counter[str]]:
        options = self._options
        # So slow that the consumers are half busy: then a kill finds e-mails on their way.
        at_once = options.consumers * CONCURRENCY
        latency = min(0.5, 0.5 * at_once * options.seconds / options.emails)
        with (
            running(self._folder, options.replica_set, KINDS[options.queue]) as servers,
            vendors(self._folder, options.seed, latency) as ports,
        ):
            assert tuple(ports) == VENDORS
            events = self._events.settings if self._events else None
            made = settings(servers, ports, options.park, events)
            made |= {"callbacks": self._callbacks.settings} if self._callbacks else {}
            self._config_file.write_text(json.dumps(made))
            self._config_file.chmod(0o600)
            try:
                return self._run(servers)
            finally:
                for victim in self._victims:
                    victim.kill()

    def _run(self, servers: Servers) -> tuple[Tally, Counter[str]]:
        config = Config.load(self._config_file)
        servers.case.create(config)
        with MongoClient[Document](config.mongodb.uri, tz_aware=True) as client:
            emails = client[config.mongodb.database][config.mongodb.collection]
            server, counts = self._blow(config, servers)
            counts += self._settle(emails, server)
            told = self._events.end() if self._events else None
            if self._callbacks:
                _wait_until_none(emails, {"callbacks.due_at": {"$exists": True}}, 90)
            counts += self._stop()
            heard = self._callbacks.end() if self._callbacks else Counter[str]()
            counts["callbacks"], counts["callbacks repeated"] = (
                len(heard),
                heard.total() - len(heard),
            )
            tally = self._tally(emails, server.journal, config.delivery.on_unknown, told, heard)
            counts += Counter(told["counts"] if told else {})
            counts += server.journal.counts()
        tally.wrong += [c for c in counts if c.startswith(WRONG) and c != ENDED.format(NO_SERVER)]
        tally.wrong += self._leaks()
        tally.wrong += self._audit()
        return tally, counts

    def _blow(self, config: Config, servers: Servers) -> tuple[Application, Counter[str]]:
        options = self._options
        module = "tests.faults.hurried" if options.hurry else "mailqueue.consumer"
        for number in range(options.consumers):
            log = self._logs / f"consumer{number}"
            self._victims.append(Victim(self._config_file, log, module))
        if self._events:
            self._victims.append(self._events.service(self._config_file))
            self._events.start(options.seed + 3)
        if self._callbacks:
            self._victims.append(self._callbacks.service(self._config_file))
        lease = config.delivery.lease
        storm = Storm(
            self._victims, servers.queue, servers.restart, lease, random.Random(options.seed + 1)
        )
        nodes = servers.replica_set
        primaries = Primaries(nodes, random.Random(options.seed + 2)) if nodes else None
        server = Application(self._config_file, self._folder, options)
        rand = random.Random(options.seed + 5)
        operator = Operator(self._config_file, self._victims, rand) if options.control else None
        if operator:
            operator.start()
        ends_at = time.monotonic() + options.seconds
        with primaries or nullcontext():
            while time.monotonic() < ends_at:
                storm.blow()
                time.sleep(0.02)
        storm.calm()
        if operator:
            operator.calm()
            storm.counts += operator.counts
        return server, storm.counts + (primaries.counts if primaries else Counter())

    def _settle(self, emails: Any, server: Application) -> Counter[str]:
        """Leave everything alone until each e-mail has ended."""
        began = time.monotonic()
        # The sweeper repeats an announcement that was lost after a minute.
        gives_up_at = began + 150 + self._options.emails / 50
        moving = {"status": {"$in": ["queued", "sending"]}}
        while server.is_alive() or emails.find_one(moving, {"_id": 1}):
            if time.monotonic() > gives_up_at:
                break
            time.sleep(0.1)
        return Counter({"settling": round(time.monotonic() - began)}) + server.end()

    def _stop(self) -> Counter[str]:
        return Counter(ENDED.format(code) for v in self._victims if (code := v.stop()))

    # What came of it ---------------------------------------------------------------------------

    def _tally(
        self,
        emails: Any,
        journal: Journal,
        on_unknown: str,
        told: Document | None,
        heard: Counter[str],
    ) -> Tally:
        lines = (self._folder / "accepted").read_text().split()
        copies = Counter(lines[1::2])
        acknowledged = dict(journal.acknowledged())
        tally = Tally(copies=len(lines) // 2, acknowledged=len(acknowledged))
        missing = set(acknowledged)
        for document in emails.find({}, {"email.text": 0}):
            email_id = str(document["_id"])
            missing.discard(email_id)
            tally.emails += 1
            tally.statuses[document["status"]] += 1
            tally.unknowns += unknowns(document)
            tally.resent += resent(document)
            tally.settled += settled(document)
            problems = broken(document, copies.pop(email_id, 0), on_unknown)
            if self._events and told is not None:
                problems += self._events.judge(document, told)
            if self._callbacks and told is not None:
                problems += self._callbacks.judge(document, told, heard)
            problems += [f"failed: {document.get('reason')}"] * (document["status"] == "failed")
            problems += ["a marker in the ledger"] * (MARKER in str(document["attempts"]))
            label = acknowledged.get(email_id)
            if label and document["email"]["subject"] != subject(label):
                problems.append(f"lost: another's id was given for {label}")
            if problems:
                tally.wrong.append(f"{email_id}: {'; '.join(problems)}\n{_ledger(document)}")
            tally.lost += any(p.startswith(("lost", "failed", "has not")) for p in problems)
        tally.lost += len(missing)
        tally.wrong += [f"{email_id}: gone, though send() gave its id" for email_id in missing]
        tally.wrong += [f"{email_id}: a copy of what is not stored" for email_id in copies]
        tally.wrong += [f"{line}: heard, and not noted" for line in heard]
        self._judge_journal(journal.acknowledged(), tally)
        return tally

    def _judge_journal(self, acknowledged: Sequence[tuple[str, str]], tally: Tally) -> None:
        """Every number was acknowledged, always by the same id where it has a key; no id twice."""
        labels: dict[str, set[str]] = {}
        ids: dict[str, set[str]] = {}
        for email_id, label in acknowledged:
            labels.setdefault(email_id, set()).add(label)
            ids.setdefault(label, set()).add(email_id)
        for number in range(self._options.emails):
            given = ids.get(f"number-{number}", set())
            tally.lost += not given
            if not given:
                tally.wrong.append(f"number {number} was never acknowledged")
            if is_keyed(number) and len(given) > 1:
                tally.wrong.append(f"number {number} has several ids for its key")
        tally.wrong += [f"{i}: of several e-mails" for i, known in labels.items() if len(known) > 1]

    def _leaks(self) -> list[str]:
        found = (p for p in self._logs.iterdir() if MARKER in p.read_text(errors="replace").lower())
        return [f"{path.name}: holds a planted marker" for path in found]

    def _audit(self) -> list[str]:
        """What the product's own audit finds; without one: nothing."""
        if not (find_spec("mailqueue.store.audit") and find_spec("mailqueue.__main__")):
            return []
        done = subprocess.run(
            [sys.executable, "-m", "mailqueue", "audit", "--config", self._config_file],
            cwd=REPO,
            check=False,
            capture_output=True,
            text=True,
        )
        return [f"audit: {done.stdout}{done.stderr}"] if done.returncode else []


def _wait_until_none(emails: Any, match: Document, seconds: float) -> None:
    gives_up_at = time.monotonic() + seconds
    while emails.find_one(match, {"_id": 1}) and time.monotonic() < gives_up_at:
        time.sleep(0.1)


def _ledger(document: Document) -> str:
    lines = [
        f"    {line['token']} {line['vendor']} {line['outcome']} {line.get('code')}"
        f"{' late' if line.get('late') else ''} {line['started_at']:%H:%M:%S}"
        for line in document["attempts"]
    ]
    born = document["created_at"]
    return "\n".join([f"    {document['status']}, stored {born:%H:%M:%S}", *lines])


def report(tally: Tally, counts: Counter[str], seconds: float) -> str:
    """The table."""
    rows = {
        "e-mails": tally.emails,
        "acknowledged": tally.acknowledged,
        "of these in log handlers": counts["log"],
        "of these in signal handlers": counts["signal"],
        "sends interrupted": counts["interrupted"],
        "sends refused (MongoDB away)": counts["refused"],
        "workers killed": counts["SIGKILL"],
        "workers told to end": counts["SIGTERM"],
        "consumers killed": counts["kills"],
        "consumers paused beyond the lease": counts["pauses"],
        "the queue killed and restarted": counts["queue restarts"],
        **{name: n for name, n in sorted(counts.items()) if name.startswith("primaries")},
        **{name: counts[name] for name in ("holds and drains", "reloads") if counts[name]},
        "lost": tally.lost,
        "copies accepted": tally.copies,
        "unknown outcomes": tally.unknowns,
        "of these a yes came late": tally.settled,
        "of these resent": tally.resent,
        "bound (e-mails + resent)": tally.emails + tally.resent,
        **{f"ended as {status}": n for status, n in sorted(tally.statuses.items())},
        **{name: counts[name] for name in TOLD if counts["events"]},
        "seconds": round(seconds),
        "of these settling": counts["settling"],
        "promises broken": len(tally.wrong),
    }
    rows |= {name: n for name, n in counts.items() if name.startswith(WRONG)}
    return "\n".join(f"| {name:<38} | {value:>7,} |" for name, value in rows.items())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill, pause and break; then count every copy.")
    parser.add_argument("--emails", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--consumers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="of the application")
    parser.add_argument("--queue", choices=KINDS, default="beanstalkd", help="which kind")
    parser.add_argument("--replica-set", action="store_true", help="three nodes (as root)")
    parser.add_argument("--hurry", action="store_true", help="look for lost jobs every 3 s, not 60")
    parser.add_argument("--park", action="store_true", help="delivery.on_unknown = park")
    parser.add_argument(
        "--events", action="store_true", help="vendors tell what became of it, and so do we"
    )
    text = "an operator holds, drains and reloads"
    parser.add_argument("--control", action="store_true", help=text)
    parser.add_argument("--keep", metavar="FOLDER", help="leave the logs there")
    options = parser.parse_args(arguments)
    if options.replica_set and (reason := available()):
        parser.error(f"a network of our own {reason}")
    began = time.monotonic()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the consumers, too, until they have a handler
    os.environ["MAILQUEUE_ENV"] = "production"  # of loopback; the consumers inherit it
    os.environ.update(KINDS[options.queue].environ)
    with tempfile.TemporaryDirectory(prefix="mailqueue-storm-") as folder:
        if options.keep:
            Path(options.keep).mkdir(parents=True)
        tally, counts = Run(options, Path(options.keep or folder)).run()
    table = report(tally, counts, time.monotonic() - began)
    sys.stdout.write("\n".join([table, *tally.wrong[:SHOWN], ""]))
    return int(bool(tally.wrong or tally.lost))


if __name__ == "__main__":
    sys.exit(main())
