"""``mailqueue smtp`` as a real child process, and clients for it."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from mailqueue.devserver.process import dies_with_parent
from tests.waiting import when_quiet

REPO = Path(__file__).parents[1]


def write_config(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The settings as a configuration file."""
    folder.mkdir(exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps(settings))
    file.chmod(0o600)
    return file


class SmtpService:
    """A context manager: entered when it listens, killed at the end. ``log``: what it wrote."""

    def __init__(
        self, settings: Mapping[str, Any], folder: Path, *arguments: str, **environ: str
    ) -> None:
        config = write_config(folder, settings)
        self._log = folder / "log"
        command = [sys.executable, "-m", "mailqueue", "smtp", "--config", str(config)]
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
        self.port = int(self.first_line.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
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
        """SIGKILL."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def hang_up(self) -> None:
        """SIGHUP."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.terminate()
        return self.wait()

    def wait(self) -> int:
        """The exit code, once it has ended by itself."""
        return self._process.wait(30)

    def client(self) -> smtplib.SMTP:
        """A connection of the standard library's client, greeted."""
        return smtplib.SMTP("127.0.0.1", self.port, timeout=30)

    def talk(self, timeout: float = 30) -> Talk:
        """A connection on which the test sends octets of its own."""
        return Talk(self.port, timeout)


class Talk:
    """Raw SMTP: a context manager that has read the greeting."""

    def __init__(self, port: int, timeout: float = 30) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        self.greeting = self.reply()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """TLS from here on."""
        self._file.close()
        self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self._file = self.sock.makefile("rb")

    def shut_down(self) -> None:
        """Say that nothing more will come, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def send(self, text: str | bytes) -> None:
        """The octets as they stand, whatever ends their lines."""
        self.sock.sendall(text.encode() if isinstance(text, str) else text)

    def reply(self) -> str:
        """The next reply, all its lines; empty: the server has closed the connection."""
        lines = []
        with suppress(ConnectionResetError):
            while line := self._file.readline().decode():
                lines.append(line.rstrip("\r\n"))
                if line[3:4] != "-":
                    break
        return "\n".join(lines)

    def say(self, *lines: str) -> str:
        """Each line with CR LF; returns the last reply."""
        reply = ""
        for line in lines:
            self.send(f"{line}\r\n")
            reply = self.reply()
        return reply

    def hand_over(
        self,
        text: str | bytes = "From: ann@example.com\r\nTo: bob@example.org\r\n\r\nHello\r\n",
        sender: str = "ann@example.com",
        *recipients: str,
    ) -> str:
        """One message; returns the reply to it."""
        self.say(f"MAIL FROM:<{sender}>")
        for recipient in recipients or ("bob@example.org",):
            self.say(f"RCPT TO:<{recipient}>")
        self.say("DATA")
        self.send(text)
        return self.say(".")
