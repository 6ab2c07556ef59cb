"""What the storm does to processes: kills, pauses, restarts, by a seeded schedule.

Decides: who is hit, when and how. Assumes: called from one thread, the one that starts them all.
Promises: after ``calm()`` every process runs again; after ``close()`` none is left.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from mailqueue.devserver.process import dies_with_parent
from tests.replica_set import ELECTION, ReplicaSet
from tests.servers import Breakable

REPO = Path(__file__).resolve().parents[2]
KILL_EVERY, PAUSE_EVERY, RESTART_EVERY = 2.0, 12.0, 15.0
ENDS_WITHIN = 60.0
ENDED = "consumers ended by themselves, exit {}"
NO_SERVER = 3  # what a consumer may end with: the queue was away when it started


class Victim:
    """A consumer or service: started again whenever it was killed. Its lives write one log."""

    def __init__(
        self, config: Path, log: Path, module: str = "mailqueue.consumer", *arguments: str
    ) -> None:
        self._command = [sys.executable, "-m", module, *arguments, "--config", str(config)]
        self._log = log
        self.resume_at: float | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*dies_with_parent(), *self._command],
                cwd=REPO,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def pause(self, until: float) -> None:
        self.resume_at = until
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.resume_at = None
        self._process.send_signal(signal.SIGCONT)

    @property
    def exit_code(self) -> int | None:
        """None: it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(ENDS_WITHIN)


class Schedule:
    """The next moment of one kind of disturbance."""

    def __init__(self, every: float, act: Callable[[], None], rand: random.Random) -> None:
        self._every = every
        self._act = act
        self._rand = rand
        self._plan()

    def _plan(self) -> None:
        self._at = time.monotonic() + self._every * self._rand.uniform(0.3, 1.7)

    def look(self) -> None:
        if time.monotonic() >= self._at:
            self._act()
            self._plan()


class Storm:
    """Disturbs the consumers and the queue. ``counts`` says how often what was done.

    ``server``: of the queue, None where it has none of its own; ``restart`` starts it again, with
    its jobs (True) or without.
    """

    def __init__(
        self,
        victims: list[Victim],
        server: Breakable | None,
        restart: Callable[[bool], None],
        lease: float,
        rand: random.Random,
    ) -> None:
        self._victims = victims
        self._server, self._restart = server, restart
        self._lease = lease
        self._rand = rand
        self._server_back_at: float | None = None
        self.counts = Counter[str]()
        self._schedules = [
            Schedule(KILL_EVERY, self._kill, rand),
            Schedule(PAUSE_EVERY, self._pause, rand),
            Schedule(RESTART_EVERY, self._stop_server, rand),
        ]

    def blow(self) -> None:
        """Do what is due now."""
        now = time.monotonic()
        for victim in self._victims:
            if victim.resume_at is not None and now >= victim.resume_at:
                victim.resume()
            elif victim.exit_code is not None:
                self.counts[ENDED.format(victim.exit_code)] += 1
                victim.start()
        if self._server_back_at is not None and now >= self._server_back_at:
            self._start_server()
        for schedule in self._schedules:
            schedule.look()

    def calm(self) -> None:
        """Everything runs again."""
        for victim in self._victims:
            if victim.resume_at is not None:
                victim.resume()
            if victim.exit_code is not None:
                victim.start()
        if self._server_back_at is not None:
            self._start_server()

    def _awake(self) -> list[Victim]:
        return [victim for victim in self._victims if victim.resume_at is None]

    def _kill(self) -> None:
        if awake := self._awake():
            victim = self._rand.choice(awake)
            victim.kill()
            victim.start()
            self.counts["kills"] += 1

    def _pause(self) -> None:
        """Beyond its lease; never all at once, else nothing happens meanwhile."""
        awake = self._awake()
        if len(awake) > 1:
            beyond = self._lease + self._rand.uniform(0.2, 3.0)
            self._rand.choice(awake).pause(time.monotonic() + beyond)
            self.counts["pauses"] += 1

    def _stop_server(self) -> None:
        if self._server is not None and self._server_back_at is None:
            self._server.kill()
            self._server_back_at = time.monotonic() + self._rand.uniform(0.1, 2.0)
            self.counts["queue restarts"] += 1

    def _start_server(self) -> None:
        """Now with its jobs, now without; of some kinds old ones come back later."""
        self._restart(self._rand.random() < 0.5)
        self._server_back_at = None


class Primaries:
    """Disturbs a replica set's primary while the block runs, in a thread of its own.

    ``counts`` says how often what was done. At its end the set is whole.
    """

    TROUBLES = ("killed", "paused", "cut_off")

    def __init__(self, replica_set: ReplicaSet, rand: random.Random) -> None:
        self._replica_set = replica_set
        self._rand = rand
        self._enough = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.counts = Counter[str]()

    def __enter__(self) -> Self:
        self._running = self._pool.submit(self._disturb)
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        with self._pool:
            self._running.result()

    def _disturb(self) -> None:
        while not self._enough.wait(self._rand.uniform(1, 5)):
            trouble = self._rand.choice(self.TROUBLES)
            primary = self._replica_set.primary()
            with getattr(self._replica_set, trouble)(primary):
                self.counts[f"primaries {trouble.replace('_', ' ')}"] += 1
                self._enough.wait(self._rand.uniform(0.5, 3 * ELECTION))
            self._replica_set.until_whole()
