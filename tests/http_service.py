"""``mailqueue http`` as a real child process, and a client that shows what it answers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mailqueue.devserver.process import dies_with_parent
from mailqueue.service import keys
from tests.waiting import when_quiet

REPO = Path(__file__).parents[1]
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """What the service answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def pointers(self) -> list[str]:
        """The places of the request that an error names."""
        return [error["pointer"] for error in self.json["errors"]]


class HttpService:
    """A context manager: entered when it listens, gone at the end. ``log``: what it wrote."""

    def __init__(
        self, settings: Mapping[str, Any], folder: Path, *arguments: str, **environ: str
    ) -> None:
        folder.mkdir(exist_ok=True)
        config = folder / "config.json"
        config.write_text(json.dumps(settings))
        config.chmod(0o600)
        self._log = folder / "log"
        command = [sys.executable, "-m", "mailqueue", "http", "--config", str(config)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*dies_with_parent(), *command, "--port", "0", *arguments],
                cwd=REPO,
                env={**os.environ, "MAILQUEUE_ENV": "production", **environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> Self:
        assert self._process.stdout
        self.first_line = self._process.stdout.readline()
        if not self.first_line:
            self.__exit__()
            raise AssertionError(f"ended before it listened: {self.log}")
        self.url = self.first_line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # one that is killed tells no coverage
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
        print(self.log)  # noqa: T201  # pytest shows it when the test failed

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return when_quiet(self._log.read_text, lambda: self._process.poll() is not None)

    @property
    def resident(self) -> int:
        """Bytes of memory that it takes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(timeout=60)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        secret: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; a body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent: dict[str, str] = {}
        if body is not None:
            sent["Content-Type"] = JSON
        if secret is not None:
            sent["Authorization"] = f"Bearer {secret}"
        octets = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, octets, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


@dataclass(frozen=True)
class Key:
    """An API key: its secret, and its entry in ``http.keys``."""

    secret: str
    entry: dict[str, Any]

    @classmethod
    def new(cls, name: str, *scope: str, senders: tuple[str, ...] = ()) -> Key:
        secret = keys.new_secret()
        entry = {"name": name, "sha256": keys.digest_of(secret), "from": list(senders)}
        return cls(secret, {**entry, "scope": list(scope or ("send", "read", "operate"))})
