"""A private mongod and a private beanstalkd: for development, for tests, for the quickstart.

::

    python -m mailqueue.devserver                 prints two config keys, runs until Ctrl-C
    python -m mailqueue.devserver --queue none    the same with MongoDB alone
    with devservers() as servers: ...             from code

Decides: how the two are set up. mongod is a replica set of one node, because only a replica set has
retryable writes and transactions; beanstalkd has a binlog. Both listen on 127.0.0.1 only.

Assumes and promises: as ``process``; they are gone, with their data, at the end.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from mailqueue.devserver.process import HOST, Server, find_all

ANSWER_TIMEOUT = 2.0


class Mongod(Server):
    """A replica set of one node, small and quiet."""

    name = "mongod"

    @property
    def uri(self) -> str:
        return f"mongodb://{self.address}/?replicaSet=rs0"

    def _options(self, folder: Path) -> Sequence[str]:
        return (
            *("--dbpath", str(folder), "--port", str(self.port), "--bind_ip", HOST),
            *("--replSet", "rs0", "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.5"),
            *("--quiet", "--nounixsocket"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # A single node has no other to hand over to before it stops.
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
        )

    def _is_ready(self) -> bool:
        if not _accepts(self.port):
            return False
        limit = int(ANSWER_TIMEOUT * 1000)
        client: MongoClient[dict[str, Any]]
        with MongoClient(HOST, self.port, directConnection=True, timeoutMS=limit) as client:
            try:
                if client.admin.command("serverStatus")["pid"] != self.pid:
                    return False
                hello = client.admin.command("hello")
                if "setName" not in hello:
                    one_node = {"_id": 0, "host": self.address}
                    client.admin.command("replSetInitiate", {"_id": "rs0", "members": [one_node]})
                return bool(hello["isWritablePrimary"])
            except PyMongoError:
                return False


class Beanstalkd(Server):
    """beanstalkd with a binlog: it keeps its jobs while it is down."""

    name = "beanstalkd"

    def _options(self, folder: Path) -> Sequence[str]:
        return ("-l", HOST, "-p", str(self.port), "-b", str(folder), "-f0")

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), ANSWER_TIMEOUT) as connection:
                connection.sendall(b"stats\r\n")
                answer = connection.recv(65536)
        except OSError:
            return False
        # The answer is one small packet on loopback. If it is cut, the next look decides.
        return re.search(rb"^pid: %d$" % self.pid, answer, re.MULTILINE) is not None


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=2):
            return True
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class DevServers:
    """The servers; ``config``: the two keys of ``config.json`` that lead to them."""

    mongod: Mongod
    beanstalkd: Beanstalkd | None

    @property
    def running(self) -> Sequence[Server]:
        """All of them."""
        return (self.mongod, self.beanstalkd) if self.beanstalkd else (self.mongod,)

    @property
    def config(self) -> dict[str, Any]:
        mongodb = {"mongodb": {"uri": self.mongod.uri}}
        if self.beanstalkd is None:
            return mongodb | {"queue": {"type": "mongodb"}}
        return mongodb | {"beanstalkd": {"servers": [self.beanstalkd.address]}}


@contextmanager
def devservers(*, queue: bool = True) -> Iterator[DevServers]:
    """Both servers, running; gone with their data when the block ends.

    Without ``queue``, MongoDB alone.
    """
    find_all(Mongod.name, *([Beanstalkd.name] if queue else []))
    with ExitStack() as stack:
        beanstalkd = stack.enter_context(Beanstalkd()) if queue else None
        yield DevServers(stack.enter_context(Mongod()), beanstalkd)
