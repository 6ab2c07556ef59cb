"""The storm's application: a pre-fork server, whose workers are killed, interrupted and re-entered.

::

    python -m tests.faults.application CONFIG JOURNAL EMAILS SECONDS WORKERS SEED

The producer is made, and used, before the first fork. Each worker sends from several threads; its
log handler sends an e-mail for each warning of mailqueue's, from inside the call that warned; a
timer's signal handler sends in the middle of whatever the main thread is at, and sometimes raises;
in the other threads an exception is raised now and then, at any step. Workers are killed with
SIGKILL, told to end with SIGTERM, and replaced.

Decides: what was acknowledged. Right after ``send()`` returned an id, ``id label`` is a line of the
journal; the label is in the subject. ``- word`` counts what else happened. Every number below
``EMAILS`` is sent until it was acknowledged; the even ones have a key, for the repeats.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import random
import secrets
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from mailqueue import Producer, reentrancy
from mailqueue.errors import StoreUnavailable
from mailqueue.logs import Formatter
from mailqueue.message import EmailDict
from tests.faults.victims import Schedule
from tests.interrupts import (
    KINDS,
    RAISED,
    Interrupt,
    interrupt,
    is_in_a_lock,
    is_running,
    was_interrupted,
)

MARKER = "plantedmarker"
BEGIN_WITH = 0.25  # this part of the e-mails is there when the storm begins
PRIORITIES = ("high", "normal", "bulk")
THREADS = 4  # of each worker, the main thread among them
KILL_EVERY, INTERRUPT_EVERY, ALARM_EVERY = 1.5, 0.05, 0.2
ENDS_WITHIN = 30.0
ENDED = "workers ended by themselves, exit {}"
HUNG = "workers that did not end"
FAILED = "the application failed"
CRASHED = "crashed"

Document = dict[str, Any]


def letter(label: str) -> EmailDict:
    return {
        "from": f"Ann {MARKER} <ann.{MARKER}@example.com>",
        "to": [f"Bob {MARKER} <{label}.{MARKER}@example.org>"],
        "subject": subject(label),
        "text": f"Hello {MARKER}",
        "tags": [("even", "odd")[len(label) % 2]],
    }


def subject(label: str) -> str:
    return f"{label} {MARKER}"


def is_keyed(number: int) -> bool:
    return number % 2 == 0


class Journal:
    """Lines that are whole and kept, whichever process ends when: each is one write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, email_id: str, label: str) -> None:
        os.write(self._file, f"{email_id} {label}\n".encode())

    def lines(self) -> list[tuple[str, str]]:
        words = self._path.read_text().split()
        return list(zip(words[::2], words[1::2], strict=True))

    def acknowledged(self) -> list[tuple[str, str]]:
        return [(email_id, label) for email_id, label in self.lines() if email_id != "-"]

    def counts(self) -> Counter[str]:
        """What else happened, and how many e-mails each kind of sender was acknowledged."""
        lines = self.lines()
        happened = Counter(label for email_id, label in lines if email_id == "-")
        return happened + Counter(
            label.split("-")[0] for email_id, label in lines if email_id != "-"
        )


@dataclass(frozen=True)
class Plan:
    """Which numbers are sent when, by which thread of which worker."""

    emails: int
    seconds: float
    workers: int
    seed: int
    began: float  # by the monotonic clock

    def due(self, number: int) -> float:
        at_once = int(self.emails * BEGIN_WITH)
        return self.began + self.seconds * (number - at_once) / (self.emails - at_once)

    def numbers(self, worker: int, thread: int) -> range:
        return range(worker * THREADS + thread, self.emails, self.workers * THREADS)

    def options(self, number: int) -> Document:
        """The same for each repeat."""
        rand = random.Random(f"{self.seed} {number}")
        options: Document = {"priority": rand.choice(PRIORITIES)}
        if is_keyed(number):
            options["idempotency_key"] = f"number {number}"
        if rand.random() < 0.1:
            options["send_at"] = datetime.now(UTC) + timedelta(seconds=2)
        return options


class MailsRecords(logging.Handler):
    """Writes each record to stderr, and mails the warnings."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker
        self.setFormatter(Formatter())

    def createLock(self) -> None:  # noqa: N802  # logging's name
        """None: a thread that is interrupted right behind its ``acquire`` would keep it."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        os.write(2, f"{self.format(record)}\n".encode())
        if record.levelno >= logging.WARNING:
            self._worker.send_another("log")


class Worker:
    """One worker, in the process that was forked for it."""

    def __init__(self, producer: Producer, journal: Journal, plan: Plan, which: int) -> None:
        self._producer, self._journal, self._plan, self._which = producer, journal, plan, which
        self._parent = os.getppid()
        self._told = False
        self._rand = random.Random(secrets.token_hex())

    def run(self) -> int:
        """As a web server's does: until its work is done or it is told to end."""
        signal.signal(signal.SIGTERM, self._terminate)
        faulthandler.enable()
        threading.excepthook = self._died
        sys.unraisablehook = lambda _: None  # or in a finalizer
        logger = logging.getLogger("mailqueue")
        logger.handlers = [MailsRecords(self)]
        threads = [threading.Thread(target=self._serve, args=(n,)) for n in range(1, THREADS)]
        for each in threads:
            each.start()
        threading.Thread(target=self._interrupt, args=(threads,), daemon=True).start()
        signal.signal(signal.SIGALRM, self._alarm)
        signal.setitimer(signal.ITIMER_REAL, ALARM_EVERY, ALARM_EVERY)
        try:
            with suppress(*RAISED):
                self._serve(0)
                while any(is_running(each) for each in threads) and not self._ends():
                    time.sleep(0.01)
        finally:
            self._told = True
            signal.setitimer(signal.ITIMER_REAL, 0)
        return 0

    def _ends(self) -> bool:
        return self._told or os.getppid() != self._parent

    def _terminate(self, _: int, __: FrameType | None) -> None:
        self._told = True
        sys.exit(0)

    def _alarm(self, _: int, frame: FrameType | None) -> None:
        if self._ends():
            return
        if self._rand.random() < 0.25 and not is_in_a_lock(frame):
            raise self._rand.choice(KINDS)
        if reentrancy.depth() < 2:  # the handler is interrupted, too
            self.send_another("signal")

    def _died(self, died: threading.ExceptHookArgs) -> None:
        """Some are interrupted where they catch nothing."""
        if not was_interrupted(died.exc_value):
            self._journal.write("-", CRASHED)
            threading.__excepthook__(died)

    def _interrupt(self, threads: Sequence[threading.Thread]) -> None:
        while not self._ends():
            time.sleep(self._rand.uniform(0, 2 * INTERRUPT_EVERY))
            interrupt(self._rand.choice(threads), self._rand.choice(KINDS))

    def _serve(self, thread: int) -> None:
        """Send one part of the numbers; what a killed worker did not come to comes first."""
        done = {label for _, label in self._journal.lines()}
        numbers = self._plan.numbers(self._which, thread)
        todo = deque(number for number in numbers if f"number-{number}" not in done)
        while todo and not self._ends():
            try:
                while todo and not self._ends():
                    self._send_in_time(todo[0])
                    todo.popleft()
            except StoreUnavailable:
                self._journal.write("-", "refused")
            except (Exception, Interrupt) as error:
                if not was_interrupted(error):
                    raise
                self._journal.write("-", "interrupted")

    def _send_in_time(self, number: int) -> None:
        while (early := self._plan.due(number) - time.monotonic()) > 0 and not self._ends():
            time.sleep(min(early, 0.02))
        if not self._ends():
            self._send(f"number-{number}", **self._plan.options(number))

    def _send(self, label: str, **options: Any) -> None:
        self._journal.write(self._producer.send(letter(label), **options), label)

    def send_another(self, kind: str) -> None:
        """In the middle of whatever this thread is at."""
        with suppress(StoreUnavailable):
            self._send(f"{kind}-{secrets.token_hex(8)}")


class Server:
    """The master: forks workers, ends them now and then, and replaces those that have work left."""

    def __init__(self, config: str, journal: str, plan: Plan) -> None:
        self._producer = Producer(config).connect()
        self._journal = Journal(Path(journal))
        self._plan = plan
        self._rand = random.Random(plan.seed)
        self._workers: dict[int, int] = {}
        self._told: dict[int, float] = {}
        self._counts = Counter[str]()
        self._schedule = Schedule(KILL_EVERY, self._end_one, self._rand)

    def run(self) -> Counter[str]:
        self._journal.write(self._producer.send(letter("master-1")), "master-1")
        for which in range(self._plan.workers):
            self._fork(which)
        ends_at = self._plan.began + self._plan.seconds
        while self._workers:
            if time.monotonic() < ends_at:
                self._schedule.look()
            self._look_for_hung()
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                self._replace(pid, os.waitstatus_to_exitcode(status))
            else:
                time.sleep(0.01)
        return self._counts

    def _fork(self, which: int) -> None:
        if (pid := os.fork()) == 0:
            sys.exit(Worker(self._producer, self._journal, self._plan, which).run())
        self._workers[pid] = which

    def _end_one(self) -> None:
        if pids := [pid for pid in self._workers if pid not in self._told]:
            pid, how = self._rand.choice(pids), self._rand.choice((signal.SIGKILL, signal.SIGTERM))
            os.kill(pid, how)
            self._told[pid] = time.monotonic()
            self._counts[how.name] += 1

    def _look_for_hung(self) -> None:
        for pid, told in self._told.items():
            if time.monotonic() > told + ENDS_WITHIN:
                os.kill(pid, signal.SIGABRT)  # its stacks go to the log
                self._counts[HUNG] += 1
                self._told[pid] = float("inf")

    def _replace(self, pid: int, code: int) -> None:
        which = self._workers.pop(pid)
        told = self._told.pop(pid, None) is not None
        # Told before it had a handler, it ends by the signal.
        if code and not (told and code in {-signal.SIGKILL, -signal.SIGTERM}):
            self._counts[ENDED.format(code)] += 1
        done = {label for _, label in self._journal.lines()}
        numbers = (n for t in range(THREADS) for n in self._plan.numbers(which, t))
        if any(f"number-{number}" not in done for number in numbers):
            self._fork(which)


def main(config: str, journal: str, emails: str, seconds: str, workers: str, seed: str) -> int:
    logging.getLogger("mailqueue").setLevel(logging.INFO)
    logging.getLogger("mailqueue").propagate = False
    plan = Plan(int(emails), float(seconds), int(workers), int(seed), time.monotonic())
    counts = Server(config, journal, plan).run()
    print(json.dumps(counts), flush=True)  # noqa: T201  # for the storm to read
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
