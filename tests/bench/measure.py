"""The tests: how each is measured. A measurement is one contender, once; it returns its figures.

A rate is taken in the middle of the work: workers are started on a backlog, the clock starts
``SETTLE`` seconds after their first e-mail, and stops after ``WINDOW`` seconds or with the last
e-mail. The harness only looks at the size of a file meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.contenders import Contender
from tests.bench.jobs import work
from tests.bench.vendor import WIDTH, HttpVendor

JOBS = Path(__file__).parent / "jobs"
SETTLE, WINDOW = 0.5, 2.0
ENQUEUE_SECONDS = 2.0
POST_SECONDS = 5
PATIENCE = 120.0
SMTP_MESSAGES = 5_000
EVENT_BATCHES, EVENT_CONNECTIONS = 400, 8
PINGS, PAUSE = 100, 0.03

Figures = dict[str, Any]


class Failed(Exception):
    """A contender did not do what it should; the text says what."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one contender runs: its Python, its broker, and a folder for what it counts."""

    contender: Contender
    python: Path
    broker: str
    folder: Path
    quick: bool = False

    @property
    def done(self) -> Path:
        return self.folder / "done"

    def environ(self, vendors: Sequence[HttpVendor], concurrency: int) -> dict[str, str]:
        counted = vendors[0].done if vendors else self.done
        return os.environ | {
            "BENCH_BROKER": self.broker,
            "BENCH_CONCURRENCY": str(concurrency),
            "BENCH_PROCESSES": str(self.contender.processes),
            "BENCH_URL": ",".join(vendor.url for vendor in vendors),
            "BENCH_DONE": str(counted),
            "MAILQUEUE_ENV": "production",  # of loopback
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def command(self, role: str, *arguments: object) -> list[str]:
        return [str(self.python), str(JOBS / self.contender.script), role, *map(str, arguments)]

    def run(
        self,
        role: str,
        *arguments: object,
        vendors: Sequence[HttpVendor] = (),
    ) -> Figures:
        """Have a role done; returns what it told."""
        done = subprocess.run(
            self.command(role, *arguments),
            env=self.environ(vendors, 8),
            check=False,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        if done.returncode:
            raise Failed(f"{self.contender.name} {role}: {done.stderr[-2000:]}")
        lines = done.stdout.strip().splitlines()
        told: Figures = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        return told

    @contextmanager
    def server(self, role: str = "serve") -> Iterator[tuple[int, int]]:
        """A server that takes e-mails, until the block ends; its port and its process's id."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        log = self.folder / "server.log"
        with log.open("wb") as out:
            command, environ = self.command(role, port), self.environ((), 8)
            process = subprocess.Popen(
                command, env=environ, stdout=out, stderr=out, start_new_session=True
            )
        try:
            if not _listens(port, process):
                raise Failed(f"{self.contender.name} serve: {log.read_text()[-2000:]}")
            yield port, process.pid
        finally:
            end(process)

    @contextmanager
    def workers(
        self, number: int, concurrency: int, vendors: Sequence[HttpVendor] = ()
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Workers, until the block ends."""
        log = self.folder / "worker.log"
        environ = self.environ(vendors, concurrency)
        with log.open("ab") as out:
            processes = [
                subprocess.Popen(
                    self.command("worker"),
                    env=environ,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
                for _ in range(number)
            ]
        try:
            yield processes
        finally:
            for process in processes:
                end(process)


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until it does; False: it ended, or takes too long."""
    give_up = time.perf_counter() + PATIENCE
    while time.perf_counter() < give_up and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.02)
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End a worker and whatever it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def count(file: Path) -> int:
    try:
        return file.stat().st_size // WIDTH
    except FileNotFoundError:
        return 0


def moments(file: Path) -> list[int]:
    """When each e-mail came, in ns of the monotonic clock."""
    data = file.read_bytes()
    return [int.from_bytes(data[at : at + WIDTH], "little") for at in range(0, len(data), WIDTH)]


def wait_for(file: Path, number: int, patience: float = PATIENCE) -> float:
    """The moment at which the file counts so many."""
    give_up = time.perf_counter() + patience
    while count(file) < number:
        if time.perf_counter() > give_up:
            raise Failed(f"only {count(file)} of {number} e-mails came within {patience:.0f} s")
        time.sleep(0.005)
    return time.perf_counter()


# Enqueue -----------------------------------------------------------------------------------------


def enqueue(place: Place, callers: int) -> Figures:
    """One e-mail at a time, by so many callers of one application."""
    place.run("prepare")
    return _rate(place.run("enqueue", callers, 0.5 if place.quick else ENQUEUE_SECONDS))


def bulk(place: Place) -> Figures:
    """The library's own way for many."""
    place.run("prepare")
    return _rate(place.run("bulk", 0.5 if place.quick else ENQUEUE_SECONDS))


def _rate(told: Figures) -> Figures:
    rate = told["count"] / told["seconds"]
    return {"value": rate, "unit": "e-mails/s", "cpu": told["cpu"]}


# Hand over by HTTP -------------------------------------------------------------------------------


def post(place: Place, connections: int) -> Figures:
    """One e-mail a request, over so many connections; what listens to nobody has as many tasks."""
    seconds = 1 if place.quick else POST_SECONDS
    place.run("prepare")
    if not place.contender.listens:
        return _rate(place.run("enqueue", connections, seconds))
    with place.server() as (port, pid):
        warm_up = _load(place, port, connections, 1)
        before = sum(map(processor_seconds, tree(pid)))
        told = _load(place, port, connections, seconds)
        seconds_used = sum(map(processor_seconds, tree(pid))) - before
        cpu = 1e6 * seconds_used / max(1, told["count"])
    stored = place.run("stored")["count"]
    if told["failed"] or stored < warm_up["count"] + told["count"]:
        answered = warm_up["count"] + told["count"]
        problem = f"{told['failed']} failed; {answered} answered, {stored} stored"
        raise Failed(f"{place.contender.name} post: {problem}")
    return _rate(told | {"cpu": cpu}) | {"p99": told["p99"]}


def _load(place: Place, port: int, connections: int, seconds: int) -> Figures:
    """wrk, with one thread of its own."""
    mails = place.folder / "mails"
    mails.write_text("".join(json.dumps(work.email(n)) + "\n" for n in range(500)))
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(JOBS / "post.lua")]
    command = ["wrk", *options, f"http://127.0.0.1:{port}", "--", str(mails)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return told


# Vendors' events ---------------------------------------------------------------------------------


def events(place: Place, size: int) -> Figures:
    """A vendor's events, so many in a signed request, each of an e-mail of its own."""
    batches = 40 if place.quick else EVENT_BATCHES
    place.run("prepare")
    place.run("fill", batches, size)
    with place.server() as (port, pid):
        before = processor_seconds(pid)
        told = place.run("load", port, EVENT_CONNECTIONS)
        cpu = 1e6 * (processor_seconds(pid) - before) / told["count"]
    stored = place.run("stored")["count"]
    if stored != told["count"]:
        raise Failed(f"{told['count']} events were answered, {stored} stored")
    return {"value": told["count"] / told["seconds"], "unit": "events/s", "cpu": cpu}


# Hand over by SMTP -------------------------------------------------------------------------------


def smtp(place: Place, sessions: int) -> Figures:
    """One message a connection, so many connections at a time, by Postfix's smtp-source."""
    from tests.postfix import missing

    if problem := missing():
        raise Failed(problem)
    if place.contender.server == "postfix":  # it runs already
        return _messages(place, int(place.broker.rpartition(":")[2]), sessions)
    place.run("prepare")
    with place.server("smtp") as (port, _):
        figures = _messages(place, port, sessions)
    stored, handed_over = place.run("stored")["count"], figures.pop("count")
    if stored != handed_over:
        raise Failed(f"{place.contender.name} smtp: {handed_over} taken, {stored} stored")
    return figures


def _messages(place: Place, port: int, sessions: int) -> Figures:
    from tests.postfix import smtp_source

    number = SMTP_MESSAGES // 5 if place.quick else SMTP_MESSAGES
    smtp_source(port, number // 5, sessions)  # connections and threads are there from now on
    began = time.perf_counter()
    smtp_source(port, number, sessions)
    seconds = time.perf_counter() - began
    return {"value": number / seconds, "unit": "e-mails/s", "count": number + number // 5}


# Work off a backlog ------------------------------------------------------------------------------


def rate(
    place: Place,
    expected: float,
    concurrency: int,
    vendors: Sequence[HttpVendor] = (),
    processes: int = 1,
) -> Figures:
    """How many a second; ``expected`` is a guess that makes the backlog long enough."""
    window = 1.0 if place.quick else WINDOW
    backlog = max(500, int(expected * (SETTLE + window) * 1.15))
    place.run("prepare")
    place.run("fill", backlog)
    return worked_off(place, backlog, window, concurrency, vendors, processes)


def worked_off(
    place: Place,
    backlog: int,
    window: float,
    concurrency: int,
    vendors: Sequence[HttpVendor] = (),
    processes: int = 1,
) -> Figures:
    file = vendors[0].done if vendors else place.done
    base = count(file)
    with place.workers(processes, concurrency, vendors):
        for n in range(processes):
            wait_for(file, base + n + 1)
        time.sleep(SETTLE)
        began, first, idle = time.perf_counter(), count(file), idle_seconds()
        last, now = first, began
        while now - began < window and last - base < backlog:
            time.sleep(0.005)
            last, now = count(file), time.perf_counter()
        seconds = now - began
        used = 1 - (idle_seconds() - idle) / (seconds * (os.cpu_count() or 1))
    return {"value": (last - first) / seconds, "unit": "e-mails/s", "used": 100 * used}


def idle_seconds() -> float:
    """Seconds that all cores of the machine together have been idle (proc(5))."""
    first, _, _ = Path("/proc/stat").read_text().partition("\n")
    idle, waiting = map(int, first.split()[4:6])
    return (idle + waiting) / os.sysconf("SC_CLK_TCK")


# Idle --------------------------------------------------------------------------------------------


def latency(place: Place, vendor: HttpVendor) -> Figures:
    """From the call to the vendor's receipt, one e-mail at a time."""
    place.run("prepare")
    pings = 20 if place.quick else PINGS
    with place.workers(1, 8, [vendor]) as _:
        place.run("ping", 3, 0.2, vendors=[vendor])  # until the worker is there and warm
        base = count(vendor.done)
        told = place.run("ping", pings, PAUSE, vendors=[vendor])
    came = moments(vendor.done)[base:]
    if len(came) != pings:
        raise Failed(f"{len(came)} e-mails came, {pings} were sent")
    took = sorted((at - sent) / 1e6 for at, sent in zip(came, told["sent"], strict=True))
    return {
        "value": median(took),
        "unit": "ms",
        "p95": took[int(pings * 0.95)],
        "p99": took[int(pings * 0.99)],
    }


def memory(place: Place, vendor: HttpVendor) -> Figures:
    """Time from the start of the process to the first e-mail, and what it takes up then."""
    place.run("prepare")
    place.run("fill", 1, vendors=[vendor])
    base = count(vendor.done)
    began = time.perf_counter()
    with place.workers(1, 16, [vendor]) as processes:
        first = wait_for(vendor.done, base + 1) - began
        time.sleep(1.0)
        size = sum(map(resident, tree(processes[0].pid)))
    return {"value": size, "unit": "MiB", "first": first}


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def processor_seconds(pid: int) -> float:
    """Seconds that the process has been on a processor (proc(5)), all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """MiB of the process in memory (RSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0  # a process that has just ended


# mailqueue alone ---------------------------------------------------------------------------------


def growth(place: Place, backlog: int) -> Figures:
    """The rate at which one process works off a backlog, with as many e-mails in the collection."""
    place.run("prepare")
    if backlog >= 10_000:
        place.run("fill", backlog)
        return worked_off(place, backlog, WINDOW, 8)
    with place.workers(1, 8) as (worker,):
        place.run("fill", backlog)
        wait_for(place.done, backlog)
        rates = [_paused_rate(place, worker.pid, backlog) for _ in range(5)]
    return {"value": median(rates), "unit": "e-mails/s"}


def _paused_rate(place: Place, pid: int, backlog: int) -> float:
    """A backlog so short that it must all be there before the worker may begin."""
    time.sleep(0.5)
    base = count(place.done)
    os.kill(pid, signal.SIGSTOP)
    place.run("fill", backlog)
    os.kill(pid, signal.SIGCONT)
    wait_for(place.done, base + backlog)
    came = moments(place.done)[base:]
    return (len(came) - 1) / ((came[-1] - came[0]) / 1e9)


def failover(place: Place, vendors: Sequence[HttpVendor]) -> Figures:
    """One of three vendors is killed in the middle; the rate after the first second, and waits."""
    place.run("prepare")
    place.run("fill", 9000, vendors=vendors)
    with place.workers(1, 64, vendors):
        wait_for(vendors[0].done, 1)
        time.sleep(1.0)
        healthy = _passed(vendors, 2.0)
        vendors[0].kill()
        time.sleep(1.0)
        after = _passed(vendors, 2.0)
    told = place.run("waits", vendors=vendors)
    return {"value": 100 * after / healthy, "unit": "% of the healthy rate", **told}


def _passed(vendors: Sequence[HttpVendor], seconds: float) -> float:
    began, first = time.perf_counter(), sum(count(vendor.done) for vendor in vendors)
    time.sleep(seconds)
    last = sum(count(vendor.done) for vendor in vendors)
    return (last - first) / (time.perf_counter() - began)
