"""What an operator does in a storm: holds, drains and reloads at random, by the command line.

Decides: what is asked for, and when.

Assumes: the consumers read the file that is written here, and SIGHUP is ignored where they start.

Promises: after ``calm()`` nothing is held or drained, and the configuration is the first one.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from mailqueue import cli
from tests.faults.victims import Victim

TRIES = 30


class Operator:
    """One person, in a thread of their own. ``counts`` says how often what was done."""

    def __init__(self, file: Path, victims: Sequence[Victim], rand: random.Random) -> None:
        self._file, self._victims, self._rand = file, victims, rand
        self._settings: dict[str, Any] = json.loads(file.read_text())
        self._names: list[str] = []  # of the vendors that are configured now
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._held: set[tuple[str, ...]] = set()
        self.counts = Counter[str]()

    def start(self) -> None:
        self._names = [vendor["name"] for vendor in self._settings["vendors"]]
        self._thread.start()

    def calm(self) -> None:
        """Undo everything."""
        self._enough.set()
        self._thread.join()
        for each in list(self._held):
            self._undo(each)
        self._reload(self._settings["vendors"])

    def _work(self) -> None:
        while not self._enough.wait(self._rand.uniform(0.0, 0.5)):
            if self._rand.random() < 0.3:
                number = self._rand.randint(1, len(self._settings["vendors"]))
                vendors = self._rand.sample(self._settings["vendors"], number)
                self._reload([{**v, "weight": self._rand.randint(1, 5)} for v in vendors])
            elif self._held and self._rand.random() < 0.5:
                self._undo(self._rand.choice(sorted(self._held)))
            else:
                self._hold()

    def _hold(self) -> None:
        name = self._rand.choice(self._names)
        control = self._rand.choice(
            [
                *(("--all",), ("--vendor", name), ("drain", name)),
                *(("--tag", "even"), ("--priority", "normal")),
            ]
        )
        if control[0] == "drain":
            self._command("vendors", *control, "--reason", "storm")
        else:
            self._command("hold", *control, "--reason", "storm")
        self._held.add(control)
        self.counts["holds and drains"] += 1

    def _undo(self, control: tuple[str, ...]) -> None:
        verb = (
            ("vendors", "undrain", control[1]) if control[0] == "drain" else ("release", *control)
        )
        self._command(*verb)
        self._held.discard(control)

    def _command(self, *arguments: str) -> None:
        """Until MongoDB answers."""
        for _ in range(TRIES):
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as problems:
                code = cli.main(["--config", str(self._file), *arguments])
            if code in (0, 1):
                return
            time.sleep(1)
        raise AssertionError(f"{arguments}: {problems.getvalue()}")

    def _reload(self, vendors: Sequence[dict[str, Any]]) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({**self._settings, "vendors": vendors}))
        new.chmod(0o600)
        new.replace(self._file)
        self._names = [vendor["name"] for vendor in vendors]
        for victim in self._victims:
            victim.signal(signal.SIGHUP)
        self.counts["reloads"] += 1
