"""Private Redis, RabbitMQ and PostgreSQL for the other contenders of a measurement.

Decides: how each is set up. ``Redis`` keeps nothing on disk, ``RedisAof`` syncs every write;
RabbitMQ has no plugins and an epmd of its own; PostgreSQL syncs every commit and runs as the user
``postgres`` when we are root, which it refuses to run as. ``get_missing`` decides which packages
bring them.

Assumes and promises: as ``mailqueue.devserver.process``. No epmd is left behind either: no Erlang
of ours may start one.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

from mailqueue.devserver.process import (
    HOST,
    HOW_TO_GET,
    STOP_TIMEOUT,
    Server,
    ServerDidNotStart,
    ServerNotFound,
    dies_with_parent,
    find,
)

ANSWERED_WITHIN = 2.0
POLICY = Path("/usr/sbin/policy-rc.d")

PACKAGES = {
    "redis-server": "redis-server",
    "rabbitmq-server": "rabbitmq-server",
    "postgres": "postgresql",
    "nginx": "nginx-light",
    "wrk": "wrk",
}
NEEDED = {**PACKAGES, "epmd": "erlang-base", "setpriv": "util-linux"}
HOW_TO_GET.update({name: (f"apt-get install {package}",) for name, package in NEEDED.items()})


def find_server(name: str) -> Path:
    """As ``find``, but first where Debian keeps PostgreSQL, and RabbitMQ without its ``su``."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(versions, key=lambda folder: float(folder.parent.name), reverse=True)
    folders = [*newest_first, "/usr/lib/rabbitmq/bin", os.environ.get("PATH", "")]
    return find(name, {**os.environ, "PATH": os.pathsep.join(map(str, folders))})


def get_missing() -> None:
    """Install what is not here, where that is ours to do; otherwise say how to."""
    missing = _missing()
    if missing and os.geteuid() == 0 and Path("/etc/debian_version").exists():
        _install([PACKAGES[name] for name in missing])
        missing = _missing()
    if missing:
        raise ServerNotFound("\n".join(missing.values()))


def _missing() -> dict[str, str]:
    missing = {}
    for name in PACKAGES:
        try:
            find_server(name)
        except ServerNotFound as problem:
            missing[name] = str(problem)
    return missing


def _install(packages: Sequence[str]) -> None:
    """What fails says so on stderr, and is still missing afterwards."""
    sys.stderr.write(f"Installing {', '.join(packages)} with apt-get; no service is started.\n")
    sys.stderr.flush()
    install = ("install", "--yes", "--no-install-recommends", *packages)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for command in (("update",), install):
            subprocess.run(("apt-get", *command), env=environ, stdout=sys.stderr, check=False)


@contextmanager
def _no_services() -> Iterator[None]:
    """Debian's own way to forbid a package to start its service; an existing policy stays."""
    try:
        with POLICY.open("x") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield
        return
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink()


class WithChildren(Server):
    """A server that forks: a SIGKILL goes to its children too, whatever session they are in."""

    def kill(self) -> None:
        with ExitStack() as clean_up:
            children = []
            # Until it is waited for, nobody else can have its id.
            if self._process is not None and self._process.returncode is None:
                for child in _descendants(self.pid):
                    with suppress(ProcessLookupError):
                        children.append(os.pidfd_open(child))
                        clean_up.callback(os.close, children[-1])
            super().kill()
            for child in children:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(child, signal.SIGKILL)
                select.select([child], [], [], STOP_TIMEOUT)


def _descendants(pid: int) -> Iterator[int]:
    """None where there is no Linux /proc."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from _descendants(child)


class Redis(WithChildren):
    """Redis that forgets everything when it ends."""

    name = "redis-server"
    durability: ClassVar[Sequence[str]] = ("--appendonly", "no")

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def _options(self, folder: Path) -> Sequence[str]:
        return (
            *("--bind", HOST, "--port", str(self.port), "--dir", str(folder)),
            *("--save", "", *self.durability),
        )

    def _is_ready(self) -> bool:
        # While it loads its file it answers INFO, but not PING.
        answer = _ask(self.port, b"PING\r\nINFO server\r\n")
        our_fault = re.search(rb"^process_id:%d\r$" % self.pid, answer, re.MULTILINE)
        return answer.startswith(b"+PONG") and our_fault is not None


class RedisAof(Redis):
    """Redis that has every write on disk before it answers."""

    durability = ("--appendonly", "yes", "--appendfsync", "always")


class Epmd(Server):
    """Erlang's port mapper, on a port of its own; without ``-daemon`` it stays our child."""

    name = "epmd"

    def _options(self, folder: Path) -> Sequence[str]:
        return ("-port", str(self.port), "-address", HOST)

    def _is_ready(self) -> bool:
        # NAMES_REQ, answered with the port it listens on.
        return _ask(self.port, b"\x00\x01n").startswith(self.port.to_bytes(4, "big"))


class RabbitMQ(WithChildren):
    """A RabbitMQ node without plugins, as apart from any other as if it had its own machine."""

    name = "rabbitmq-server"

    def __init__(self, *arguments: str) -> None:
        super().__init__(*arguments)
        self._epmd = Epmd()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.address}//"

    @property
    def node(self) -> str:
        return f"mailqueue-{self.port}@localhost"

    def start(self) -> Self:
        find_server(self.name)
        if not self._epmd.is_running:
            self._epmd.start()
        try:
            return super().start()
        except BaseException:
            self._epmd.close()
            raise

    def close(self) -> None:
        """The node first: one that misses its epmd would look for another."""
        super().close()
        self._epmd.close()

    def _binary(self) -> Path:
        return Path("/usr/bin/env")

    def _options(self, folder: Path) -> Sequence[str]:
        Path(folder, "plugins").write_text("[].\n")
        Path(folder, "rabbitmq.conf").write_text(f"listeners.tcp.default = {self.address}\n")
        settings = (f"{name}={value}" for name, value in self._settings(folder).items())
        return ("-i", *settings, str(find_server(self.name)))

    def _settings(self, folder: Path) -> dict[str, object]:
        """All of its environment, so that nobody's RABBITMQ_* or ERL_* reach it."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": folder,  # where the Erlang cookie is
            "ERL_EPMD_PORT": self._epmd.port,
            "ERL_FLAGS": "-start_epmd false",
            "ERL_CRASH_DUMP_SECONDS": 0,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": self.port + 1,
            "RABBITMQ_MNESIA_BASE": folder / "mnesia",
            "RABBITMQ_LOG_BASE": folder / "logs",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": folder / "pid",
            "RABBITMQ_GENERATED_CONFIG_DIR": folder / "generated",
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
            "RABBITMQ_CONFIG_FILE": folder / "rabbitmq.conf",
            # The three that a package may have put into /etc.
            "RABBITMQ_CONF_ENV_FILE": folder / "none.env",
            "RABBITMQ_CONFIG_FILES": folder / "none.d",
            "RABBITMQ_ADVANCED_CONFIG_FILE": folder / "none.config",
            # With this its shell becomes the Erlang VM: then the VM has the id that we signal, and
            # it is the VM that dies with us. The price is to say -noinput ourselves.
            "RABBITMQ_ALLOW_INPUT": "yes",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def _is_ready(self) -> bool:
        # Connection.Start names the cluster: as its first node, but with the host's full name.
        cluster = self.node.partition("@")[0].encode() + b"@"
        return cluster in _ask(self.port, b"AMQP\x00\x00\x09\x01")


class Postgres(Server):
    """PostgreSQL with one superuser, ``postgres``, who needs no password."""

    name = "postgres"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.address}/postgres"

    def stop(self) -> None:
        """SIGTERM would wait for the clients to leave."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """No checkpoint either, but it ends its children, which a SIGKILL leaves to themselves."""
        self._end(signal.SIGQUIT)

    def _binary(self) -> Path:
        return Path(self._command()[0])

    def _options(self, folder: Path) -> Sequence[str]:
        data = folder / "data"
        if not data.exists():
            self._make(data)
        return (
            *self._command()[1:],
            *("-D", str(data), "-k", str(folder), "-h", HOST, "-p", str(self.port)),
            *("-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "shared_buffers=256MB"),
            # Otherwise in /dev/shm, where it would stay when we are killed.
            *("-c", "dynamic_shared_memory_type=mmap"),
        )

    def _is_ready(self) -> bool:
        try:
            lines = Path(self._folder or "", "data", "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) == 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _make(self, data: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(data.parent, "postgres", "postgres")
        options = ("-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        made = subprocess.run(
            (*self._command("initdb"), *options), capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            shutil.rmtree(data, ignore_errors=True)
            raise ServerDidNotStart(f"initdb fails:\n{made.stdout}{made.stderr}")

    def _command(self, name: str = name) -> Sequence[str]:
        """The program, as a user who may run it."""
        program = (*dies_with_parent(), str(find_server(self.name).with_name(name)))
        if os.geteuid() != 0:
            return program
        # In this order: a change of the user makes the kernel forget whom to die with.
        user = ("--reuid", "postgres", "--regid", "postgres", "--clear-groups")
        return (str(find("setpriv")), *user, "--", *program)


SERVERS: dict[str, type[Redis | RabbitMQ | Postgres]] = {
    "redis": Redis,
    "redis-aof": RedisAof,
    "rabbitmq": RabbitMQ,
    "postgresql": Postgres,
}


def _ask(port: int, question: bytes) -> bytes:
    """The first packet of the answer, which on loopback is all that is looked at; empty if none."""
    try:
        with socket.create_connection((HOST, port), ANSWERED_WITHIN) as connection:
            connection.sendall(question)
            return connection.recv(65536)
    except OSError:
        return b""
