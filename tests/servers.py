"""The private servers as tests need them: to be disturbed, and with switches of their own.

``BreakableMongod`` knows MongoDB's test commands (``failCommand``); ``BreakableBeanstalkd`` can do
without its binlog, also from its next start on: set ``binlog``; ``BreakableRedis`` without its
append-only file: set ``aof``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from mailqueue.devserver import Beanstalkd, DevServers, Mongod
from mailqueue.devserver.process import HOST, Server, find_all

PASSWORD = "only-for-a-test"


class Breakable(Server):
    """A server that hangs and restarts when a test says so."""

    def restart(self) -> None:
        self.stop()
        self.start()

    def lose_data(self) -> None:
        """Kill it, and start it again with an empty folder."""
        self.kill()
        for path in Path(self._folder or "").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered until ``resume()``."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class BreakableMongod(Breakable, Mongod):
    """A mongod with test commands."""

    def __init__(self, *arguments: str) -> None:
        super().__init__("--setParameter", "enableTestCommands=1", *arguments)


class MongodWithUsers(BreakableMongod):
    """One that asks who you are. Its first user is made from this host, by ``create_user``."""

    def uri_of(self, user: str) -> str:
        return f"mongodb://{user}:{PASSWORD}@{self.address}/?replicaSet=rs0&authSource=admin"

    def create_user(self, user: str, *roles: dict[str, str] | str, by: str = "") -> None:
        uri = self.uri_of(by) if by else f"mongodb://{self.address}/?directConnection=true"
        client: MongoClient[dict[str, Any]]
        with MongoClient(uri) as client:
            client.admin.command("createUser", user, pwd=PASSWORD, roles=list(roles))

    def _options(self, folder: Path) -> Sequence[str]:
        key = folder / "key"
        key.write_text("only for a test")
        key.chmod(0o600)
        return (*super()._options(folder), "--keyFile", str(key))

    def _is_ready(self) -> bool:
        client: MongoClient[dict[str, Any]]
        with MongoClient(HOST, self.port, directConnection=True, timeoutMS=2000) as client:
            return begin_set(client, self.address)


def begin_set(client: MongoClient[dict[str, Any]], address: str) -> bool:
    """Make a new server a replica set of one; whether it is the primary already."""
    try:
        hello = client.admin.command("hello")
        if "setName" not in hello:
            member = {"_id": 0, "host": address}
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
        return bool(hello["isWritablePrimary"])
    except PyMongoError:
        return False


class BreakableBeanstalkd(Breakable, Beanstalkd):
    """A beanstalkd; one that has no binlog forgets its jobs when it ends."""

    def __init__(self, *arguments: str, binlog: bool = True) -> None:
        super().__init__(*arguments)
        self.binlog = binlog

    def _options(self, folder: Path) -> Sequence[str]:
        address, binlog = super()._options(folder)[:4], ("-b", str(folder), "-f0")
        return (*address, *binlog) if self.binlog else address


class BreakableRedis(Breakable):
    """A redis-server; one that has no append-only file forgets its data when it ends."""

    name = "redis-server"

    def __init__(self, *arguments: str, aof: bool = True) -> None:
        super().__init__(*arguments)
        self.aof = aof

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def _options(self, folder: Path) -> Sequence[str]:
        return (
            *("--bind", HOST, "--port", str(self.port), "--dir", str(folder), "--save", ""),
            *("--appendonly", "yes" if self.aof else "no", "--appendfsync", "always"),
        )

    def _is_ready(self) -> bool:
        # Without a client: with a password it would have to know it. PING fails while it loads.
        try:
            with socket.create_connection((HOST, self.port), 2.0) as connection:
                connection.sendall(b"INFO server\r\nPING\r\n")
                answer = connection.recv(65536)
        except OSError:
            return False
        is_ours = b"process_id:%d\r\n" % self.pid in answer and answer.endswith(b"+PONG\r\n")
        return is_ours or answer.startswith(b"-NOAUTH")


@dataclass(frozen=True, slots=True)
class BreakableServers(DevServers):
    """Both."""

    mongod: BreakableMongod
    beanstalkd: BreakableBeanstalkd


@contextmanager
def breakable_servers() -> Iterator[BreakableServers]:
    """Both servers, running; gone with their data when the block ends."""
    find_all(Mongod.name, Beanstalkd.name)
    with BreakableBeanstalkd() as beanstalkd, BreakableMongod() as mongod:
        yield BreakableServers(mongod, beanstalkd)
