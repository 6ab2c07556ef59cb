"""Three mongods on a network of their own, which can be cut.

Each runs in a network namespace; a bridge joins them with this machine, so that clients see every
node. A node that is ``cut_off`` cannot reach the other two, nor they it, while clients still reach
all three: it goes on as primary until it notices, which is how writes come to be rolled back.

Needs root, iproute2 and a kernel that allows namespaces (see ``available``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from pymongo import MongoClient, ReadPreference
from pymongo.errors import PyMongoError

from tests.servers import BreakableMongod
from tests.waiting import wait_until

NAME = "rs0"
# Seconds without a word from the primary until another is elected. An old primary that is cut off
# steps down after as long a time.
ELECTION = 2.0
_SETTINGS = {"electionTimeoutMillis": int(ELECTION * 1000), "heartbeatIntervalMillis": 250}
_PORT = 27017

Document = dict[str, Any]


def ip(*words: str) -> None:
    """Run ``ip``; what it complains about is in the exception."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def available() -> str | None:
    """None, or why there can be no network of our own on this machine."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs iproute2"
    try:
        ip("netns", "add", f"probe{os.getpid()}")
    except RuntimeError as error:
        return f"needs network namespaces ({error})"
    ip("netns", "delete", f"probe{os.getpid()}")
    return None


def find_faketime() -> Path | None:
    """The library that shows a program another time."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


class Network:
    """A bridge of this machine, and hosts behind it. A context manager."""

    def __init__(self) -> None:
        self._number = os.getpid() % 250  # two runs at the same time have two networks
        self._bridge = f"mq{os.getpid()}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        ip("link", "add", self._bridge, "type", "bridge")
        self._stack.callback(ip, "link", "delete", self._bridge)
        ip("address", "add", f"{self.address(1)}/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def address(self, host: int) -> str:
        return f"10.213.{self._number}.{host}"

    def add_host(self, host: int) -> str:
        """One more host; returns its namespace."""
        namespace, cable = f"{self._bridge}-{host}", f"{self._bridge}v{host}"
        ip("netns", "add", namespace)
        self._stack.callback(ip, "netns", "delete", namespace)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip("link", "set", cable, "master", self._bridge, "up")
        ip("-n", namespace, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", namespace, "link", "set", device, "up")
        return namespace


class Node(BreakableMongod):
    """One member. It is killed, paused and restarted as any ``Breakable`` is."""

    def __init__(self, network: Network, number: int, folder: Path) -> None:
        super().__init__()
        self.host = network.address(10 + number)
        self.namespace = network.add_host(10 + number)
        self.number = number
        self.ahead = 0  # seconds of its clock, from its next start on; needs libfaketime
        self._launcher = folder / f"mongod{number}"

    @property
    def address(self) -> str:
        return f"{self.host}:{_PORT}"

    @cached_property
    def client(self) -> MongoClient[Document]:
        """For asking this very node."""
        return MongoClient(self.address, directConnection=True, timeoutMS=2000, tz_aware=True)

    def holds(self, email_id: Any, emails: str, database: str) -> bool:
        """Whether the document is on this node, be it a secondary."""
        collection = self.client[database].get_collection(
            emails, read_preference=ReadPreference.SECONDARY_PREFERRED
        )
        return collection.find_one({"_id": email_id}) is not None

    def _binary(self) -> Path:
        """It stays one process: each program takes the place of the one before."""
        program = super()._binary()
        self._launcher.write_text(
            f'#!/bin/sh\nexec ip netns exec {self.namespace} {self._clock()} "{program}" "$@"\n'
        )
        self._launcher.chmod(0o755)
        return self._launcher

    def _clock(self) -> str:
        if not self.ahead:
            return ""
        faketime = f"FAKETIME=+{self.ahead}s FAKETIME_DONT_FAKE_MONOTONIC=1"
        return f"env LD_PRELOAD={find_faketime()} {faketime}"

    def _options(self, folder: Path) -> Sequence[str]:
        self.port = _PORT
        return (
            *("--dbpath", str(folder), "--port", str(_PORT), "--bind_ip", self.host),
            *("--replSet", NAME, "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25"),
            *("--quiet", "--nounixsocket"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
        )

    def _is_ready(self) -> bool:
        try:
            return bool(self.client.admin.command("serverStatus")["pid"] == self.pid)
        except PyMongoError:
            return False

    def close(self) -> None:
        self.client.close()
        super().close()


class ReplicaSet:
    """A replica set of three. A context manager; it is left with all nodes up and joined."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.nodes = [Node(network, number, folder) for number in range(3)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                self._stack.enter_context(node)
            members = [{"_id": node.number, "host": node.address} for node in self.nodes]
            config = {"_id": NAME, "members": members, "settings": _SETTINGS}
            self.nodes[0].client.admin.command("replSetInitiate", config)
            self.until_whole()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def uri(self, **options: str) -> str:
        """What a user would put into ``mongodb.uri``."""
        hosts = ",".join(node.address for node in self.nodes)
        return f"mongodb://{hosts}/?{urlencode({'replicaSet': NAME, **options})}"

    # Who is who --------------------------------------------------------------------------------

    def primary(self, *, but: Node | None = None) -> Node:
        """The one node that says it is primary (and that others follow); ``but`` is not asked."""
        found = wait_until(lambda: self._primary(but), 30, "there is a primary")
        assert found is not None
        return found

    def _primary(self, but: Node | None) -> Node | None:
        others = [node for node in self.nodes if node is not but]
        nodes = [node for node in others if _hello(node).get("isWritablePrimary")]
        return nodes[0] if len(nodes) == 1 else None

    def until_whole(self) -> None:
        """Wait until one node is primary and the others follow it."""

        def whole() -> bool:
            primary = self._primary(None)
            if primary is None:
                return False
            try:
                status = primary.client.admin.command("replSetGetStatus")
            except PyMongoError:
                return False
            return sorted(m["stateStr"] for m in status["members"]) == [
                "PRIMARY",
                "SECONDARY",
                "SECONDARY",
            ]

        wait_until(whole, 60, "one primary and two secondaries")

    # Trouble -----------------------------------------------------------------------------------

    @contextmanager
    def cut_off(self, node: Node) -> Iterator[None]:
        """No packet of the node reaches the others while the block runs; clients reach all."""
        others = [other.host for other in self.nodes if other is not node]
        for host in others:
            ip("-n", node.namespace, "route", "add", "blackhole", host)
        try:
            yield
        finally:
            for host in others:
                ip("-n", node.namespace, "route", "delete", "blackhole", host)

    @contextmanager
    def paused(self, node: Node) -> Iterator[None]:
        """The node hangs while the block runs: connections stay open, nothing is answered."""
        node.pause()
        try:
            yield
        finally:
            node.resume()

    @contextmanager
    def killed(self, node: Node) -> Iterator[None]:
        """The node is killed, and started again at the end of the block."""
        node.kill()
        try:
            yield
        finally:
            node.start()


def _hello(node: Node) -> Mapping[str, Any]:
    try:
        return node.client.admin.command("hello")
    except PyMongoError:
        return {}
