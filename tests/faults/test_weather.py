"""beanstalkd, MongoDB and the vendors fail in every way; producers and consumers recover alone."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect

from mailqueue.errors import StoreUnavailable
from mailqueue.queue.beanstalkd import tube
from mailqueue.routing import rotation
from tests.faults.conftest import Application, all_is_well, consuming
from tests.faults.proxy import Proxy, Spoil, cut, drip, intact
from tests.servers import BreakableServers
from tests.stage import TAKEN, Stage
from tests.vendor_servers import Received, Reply, Wire
from tests.waiting import wait_until

Document = dict[str, Any]
READ_TIMEOUT = 2.0
MONGODB_TIMEOUT = 1.0
TO_SPARE = 5.0  # seconds beyond it that a busy machine may take; the driver's own is 30


class ImpatientConnection(tube.Connection):
    def __init__(self, server: str, name: str, timeout: float = READ_TIMEOUT) -> None:
        super().__init__(server, name, timeout)


@contextmanager
def behind_a_proxy(stage: Stage) -> Iterator[Proxy]:
    """beanstalkd is reached through a proxy."""
    with Proxy(stage.config.beanstalkd.addresses[0]) as proxy:
        stage.settings["beanstalkd"] = {**stage.settings["beanstalkd"], "servers": [proxy.address]}
        yield proxy


# --- beanstalkd


@pytest.mark.parametrize("binlog", [True, False])
def test_beanstalkd_is_killed_and_comes_back_with_its_jobs_or_without(
    binlog: bool, outdoors: Stage, broken_servers: BreakableServers
) -> None:
    server = broken_servers.beanstalkd
    server.binlog = binlog
    server.restart()
    with consuming(outdoors), Application(outdoors) as application:
        for _ in range(2):
            application.sends(20)
            server.kill()
            application.sends(10)
            server.start()
        application.sends(10)
    with consuming(outdoors):
        all_is_well(outdoors, application.ids)
    assert application.raised == 0


def test_send_returns_while_beanstalkd_drains(
    outdoors: Stage, broken_servers: BreakableServers
) -> None:
    server = broken_servers.beanstalkd
    try:
        with consuming(outdoors), Application(outdoors) as application:
            application.sends(10)
            os.kill(server.pid, signal.SIGUSR1)
            application.sends(20)
            server.restart()
            application.sends(10)
    finally:
        server.restart()
    with consuming(outdoors):
        all_is_well(outdoors, application.ids)
    assert application.raised == 0


def test_send_returns_while_beanstalkd_is_out_of_memory(outdoors: Stage) -> None:
    with behind_a_proxy(outdoors) as proxy, consuming(outdoors):
        with Application(outdoors) as application:
            application.sends(10)
            proxy.refusal = b"OUT_OF_MEMORY\r\n"
            application.sends(20)
            wait_until(lambda: proxy.refused)
            proxy.refusal = None
        all_is_well(outdoors, application.ids)
    assert application.raised == 0


def test_beanstalkd_hangs_and_recovers(
    outdoors: Stage, broken_servers: BreakableServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tube, "Connection", ImpatientConnection)
    with consuming(outdoors), Application(outdoors) as application:
        application.sends(10)
        broken_servers.beanstalkd.pause()
        try:
            application.sends(10)
        finally:
            broken_servers.beanstalkd.resume()
        application.sends(10)
    with consuming(outdoors):
        all_is_well(outdoors, application.ids)
    assert application.raised == 0


@pytest.mark.parametrize("spoil", [drip, cut(random.Random(1))], ids=["drip", "cut"])
def test_replies_of_beanstalkd_come_byte_by_byte_or_are_cut(spoil: Spoil, outdoors: Stage) -> None:
    with behind_a_proxy(outdoors) as proxy, consuming(outdoors):
        proxy.spoil = spoil
        with Application(outdoors) as application:
            application.sends(60)
        assert proxy.spoilt
        proxy.spoil = intact
        all_is_well(outdoors, application.ids)
    assert application.raised == 0


# --- MongoDB


@pytest.fixture
def hurried(outdoors: Stage) -> Stage:
    """Whoever waits for MongoDB soon gives up."""
    outdoors.settings["mongodb"]["timeout"] = MONGODB_TIMEOUT
    return outdoors


def step_down(client: MongoClient[Document]) -> None:
    try:
        client.admin.command("replSetStepDown", 1, secondaryCatchUpPeriodSecs=0, force=True)
    except AutoReconnect:
        return  # older servers close the connection


def test_the_primary_steps_down_every_few_seconds(
    outdoors: Stage, broken_servers: BreakableServers
) -> None:
    with consuming(outdoors):
        with (
            MongoClient[Document](broken_servers.mongod.uri, retryWrites=False) as client,
            Application(outdoors) as application,
        ):
            for _ in range(3):
                application.sends(20)
                step_down(client)
            application.sends(20)
        all_is_well(outdoors, application.ids, unknown=True)


COMMANDS = ("insert", "update", "find", "aggregate", "delete", "findAndModify", "count", "hello")
WRITES = ("insert", "update", "delete", "findAndModify")
# Not the codes of a changed primary: the driver would wait for the server's news of it, which do
# not come. ``test_the_primary_steps_down_every_few_seconds`` has the real thing.
FAILURES: dict[str, Document] = {
    "time limit exceeded": {"errorCode": 262},
    "internal error": {"errorCode": 1},
    "connection closed": {"closeConnection": True},
    "majority timed out": {
        "writeConcernError": {"code": 64, "errmsg": "timed out", "errInfo": {"wtimeout": True}}
    },
}


@contextmanager
def failing(client: MongoClient[Document], command: str, failure: Document) -> Iterator[None]:
    """The next five of our commands of this name fail, or those while the block runs."""
    data = {"failCommands": [command], "appName": "mailqueue", **failure}
    client.admin.command("configureFailPoint", "failCommand", mode={"times": 5}, data=data)
    try:
        yield
    finally:
        client.admin.command("configureFailPoint", "failCommand", mode="off")


@pytest.mark.parametrize("failure", FAILURES)
def test_each_of_our_commands_fails_for_a_while(
    failure: str, outdoors: Stage, broken_servers: BreakableServers
) -> None:
    with (
        MongoClient[Document](broken_servers.mongod.uri) as client,
        consuming(outdoors),
    ):
        with Application(outdoors) as application:
            for command in WRITES if failure == "majority timed out" else COMMANDS:
                with failing(client, command, FAILURES[failure]):
                    application.sends(15)
        all_is_well(outdoors, application.ids, unknown=True)


def test_mongodb_dies_and_stays_away(hurried: Stage, broken_servers: BreakableServers) -> None:
    """What ``send()`` said before is kept; while MongoDB is away it raises within its time-out."""
    with consuming(hurried):
        with Application(hurried) as application:
            application.sends(30)
            broken_servers.mongod.kill()
            began = time.monotonic()
            application.is_refused()
            took = time.monotonic() - began
            application.is_refused()
            broken_servers.mongod.start()
            application.sends(20)
        all_is_well(hurried, application.ids, unknown=True)
    assert took < MONGODB_TIMEOUT + TO_SPARE


def test_mongodb_hangs_and_recovers(hurried: Stage, broken_servers: BreakableServers) -> None:
    """Every call of an application raises within its time-out."""
    with consuming(hurried):
        with Application(hurried) as application:
            application.sends(10)
            broken_servers.mongod.pause()
            try:
                application.is_refused()
                for call in (hurried.producer.status, hurried.producer.cancel):
                    began = time.monotonic()
                    with pytest.raises(StoreUnavailable):
                        call(application.ids[-1])
                    assert time.monotonic() - began < MONGODB_TIMEOUT + TO_SPARE
            finally:
                broken_servers.mongod.resume()
            application.sends(10)
        all_is_well(hurried, application.ids, unknown=True)


# --- all vendors


@dataclass(frozen=True)
class Refusal(Reply):
    """Notes when it was given."""

    at: list[float] = field(default_factory=list)

    def __call__(self, wire: Wire, request: Received) -> None:
        self.at.append(time.monotonic())
        super().__call__(wire, request)

    def too_early(self, step: float) -> list[int]:
        """The calls that came before their row of probes; each pause is twice the one before."""
        return [
            n
            for n, at in enumerate(list(self.at))
            if at - self.at[0] < 0.7 * step * (2 ** (n // rotation.HINTS) - 1)
        ]


def test_all_vendors_are_down_for_long_and_one_returns(
    outdoors: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds stand for minutes: rows of probes come ever rarer, and nothing else moves."""
    step, rows, many = 0.3, 3, 200
    monkeypatch.setattr(rotation, "PROBE_STEP", step)
    monkeypatch.setattr(rotation, "LAST_RESORT", 3 * step)
    outdoors.settings["failover"] = {"unavailable_for": 600}
    first, second = outdoors.vendors
    first.reply, second.reply = probed = [Refusal(503), Refusal(503)]
    before = _moved(outdoors)
    with consuming(outdoors, concurrency=1):
        outdoors.send(many)
        wait_until(lambda: all(len(v.at) > rows * rotation.HINTS for v in probed), 60)
        moved = _moved(outdoors) - before
        assert [vendor.too_early(step) for vendor in probed] == [[], []]
        assert all(document["counted"] == 0 for document in outdoors.emails.find())
        assert moved < 10 * (many + sum(len(vendor.at) for vendor in probed)), "a hot loop"

        first.reply = TAKEN
        wait_until(lambda: first.accepted, 20, "the vendor's return is noticed")
        outdoors.until(0.6 * many * step, sent=many)  # one with each probe would take longer
    assert not +second.accepted
    all_is_well(outdoors, [])


def _moved(stage: Stage) -> int:
    """How often a job was asked for or put back so far."""
    with stage.tube() as connection:
        stats = connection.stats()
    return int(stats["cmd-reserve-with-timeout"]) + int(stats["cmd-release"])
