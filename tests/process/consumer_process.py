"""The consumer and the services as real child processes, and the service manager they talk to."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.request import urlopen

from mailqueue.devserver.process import dies_with_parent
from tests.waiting import wait_until, when_quiet

REPO = Path(__file__).parents[2]


class OwnProcess:
    """A process of ours with these settings; ``folder`` is its own.

    A context manager: entered when the process has said READY, and gone at the end whatever
    happened. What it wrote is printed then, for pytest to show when the test failed.
    """

    COMMAND: ClassVar[Sequence[str]]
    LAUNCHER: ClassVar[Sequence[str]] = ()  # the program that starts Python

    def __init__(
        self, settings: Mapping[str, Any], folder: Path, *arguments: str, **environ: str
    ) -> None:
        folder.mkdir()
        self._log = folder / "log"
        address = str(folder / "notify")
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(address)
        self._manager.setblocking(False)
        self._heard: list[str] = []
        config = folder / "config.json"
        config.write_text(json.dumps(settings))
        config.chmod(0o600)
        module = [sys.executable, "-m", *self.COMMAND, "--config", str(config)]
        surroundings = {"MAILQUEUE_ENV": "production", "NOTIFY_SOCKET": address, **environ}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*dies_with_parent(), *self.LAUNCHER, *module, *arguments],
                cwd=REPO,
                env={**os.environ, **surroundings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        try:
            self.wait_for("READY=1")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._manager.close()
        print(self.output)  # noqa: T201  # pytest shows it when the test failed

    def wait_for(self, state: str) -> None:
        """Wait until the service manager was told this."""
        wait_until(lambda: state in self.heard() or not self.running, 60, what=state)
        assert state in self.heard(), f"ended before it said {state}:\n{self.output}"

    def heard(self) -> list[str]:
        """All that the service manager was told until now."""
        try:
            while True:
                self._heard.append(self._manager.recv(4096).decode())
        except BlockingIOError:
            return self._heard

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        read = partial(self._log.read_text, errors="replace")
        return when_quiet(read, lambda: not self.running)

    def said(self, event: str) -> list[str]:
        """The lines of its log about this event."""
        return [line for line in self.output.splitlines() if f" {event}" in line]

    def signal(self, *numbers: signal.Signals) -> None:
        """These, one right after the other."""
        for number in numbers:
            self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM, once."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: it stands still, its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def exit_code(self, timeout: float = 60) -> int:
        """Wait for its end."""
        return self._process.wait(timeout)

    def stop(self) -> int:
        """SIGTERM, and wait for the end."""
        self.terminate()
        return self.exit_code()


class ConsumerProcess(OwnProcess):
    """``python -m mailqueue.consumer``."""

    COMMAND = ("mailqueue.consumer",)


class IntakeProcess(OwnProcess):
    """``mailqueue intake``."""

    COMMAND = ("mailqueue", "intake")


class HttpProcess(OwnProcess):
    """``mailqueue http`` on any port."""

    COMMAND = ("mailqueue", "http", "--port", "0")

    @cached_property  # it looks through the log
    def port(self) -> int:
        found = re.search(
            r"^mailqueue http: listening on http://127.0.0.1:(\d+)$", self.output, re.MULTILINE
        )
        assert found, self.output
        return int(found[1])

    @property
    def memory(self) -> int:
        """The most memory that it has had, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s*(\d+) kB", status)
        assert found
        return int(found[1]) * 1024


class ResponderProcess(OwnProcess):
    """``mailqueue responder``."""

    COMMAND = ("mailqueue", "responder")


class MetricsProcess(OwnProcess):
    """``mailqueue metrics`` on any port."""

    COMMAND = ("mailqueue", "metrics", "--port", "0")

    @cached_property  # it looks through the log
    def url(self) -> str:
        found = re.search(r"^mailqueue metrics: listening on (\S+)$", self.output, re.MULTILINE)
        assert found, self.output
        return found[1]

    def scrape(self) -> str:
        """What a scrape gets."""
        with urlopen(self.url, timeout=20) as answer:  # our own process
            text: str = answer.read().decode()
        return text
