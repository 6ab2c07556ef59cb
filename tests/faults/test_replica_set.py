"""What ``send()`` acknowledged is there after the primary was killed, paused or cut off."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pytest
from bson import ObjectId
from pymongo import MongoClient, WriteConcern
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from mailqueue.devserver import Beanstalkd
from mailqueue.errors import StoreUnavailable
from tests.conftest import TEST_PREFIX
from tests.faults.conftest import IMPATIENT, consuming
from tests.faults.invariants import broken
from tests.logged import event
from tests.replica_set import Network, Node, ReplicaSet, available, find_faketime
from tests.stage import Stage, letter
from tests.waiting import wait_until

Document = dict[str, Any]

# What would make a write be acknowledged before it is kept, or a read tell what is not, if it
# were obeyed.
WEAK = {
    "w": "1",
    "journal": "false",
    "wtimeoutMS": "1",
    "retryWrites": "false",
    "readConcernLevel": "local",
    "readPreference": "secondaryPreferred",
}


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    if reason := available():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"a network of our own {reason}")
    folder: Path = tmp_path_factory.mktemp("replica_set")
    with Network() as network, ReplicaSet(network, folder) as made:
        yield made


@pytest.fixture
def on_three_nodes(
    replica_set: ReplicaSet, beanstalkd: Beanstalkd, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """A stage on the replica set, whole at the beginning, with two vendors."""
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    replica_set.until_whole()
    unique = TEST_PREFIX + uuid4().hex
    emails = {"database": unique, "collection": TEST_PREFIX + "emails"}
    settings: Document = {
        "mongodb": {"uri": replica_set.uri(), "timeout": 5, **emails},
        "beanstalkd": {"servers": [beanstalkd.address], "tube": unique},
        **IMPATIENT,
    }
    with Stage(settings) as stage:
        stage.vendor("first"), stage.vendor("second")
        yield stage


class Applications:
    """Threads that send in every way while the block runs.

    ``kept`` are the e-mails that were acknowledged: id -> number of the letter.
    """

    def __init__(self, stage: Stage) -> None:
        self.kept: dict[str, int] = {}
        self.refused = 0
        self._producer = stage.producer
        self._numbers = count()
        self._enough = threading.Event()
        self._ways: list[Callable[[], None]] = [
            self._send,
            self._send,
            self._send_many,
            self._send_with_a_key,
            self._send_in_a_transaction,
        ]
        self._pool = ThreadPoolExecutor(len(self._ways))

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(self._repeat, way) for way in self._ways]
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        with self._pool:
            for running in self._running:
                running.result(60)

    def _repeat(self, way: Callable[[], None]) -> None:
        while not self._enough.wait(0.002):  # their pace
            try:
                way()
            except (StoreUnavailable, PyMongoError):  # the driver's in a transaction of one's own
                self.refused += 1

    def _send(self) -> None:
        number = next(self._numbers)
        self.kept[self._producer.send(letter(number))] = number

    def _send_many(self) -> None:
        numbers = [next(self._numbers) for _ in range(20)]
        ids = self._producer.send_many([letter(number) for number in numbers])
        self.kept |= dict(zip(ids, numbers, strict=True))

    def _send_with_a_key(self) -> None:
        """As who repeats a call of which it does not know whether it worked."""
        number = next(self._numbers)
        key = f"key-{number}"
        try:
            first = self._producer.send(letter(number), idempotency_key=key)
            self.kept[first] = number
        finally:
            again = self._producer.send_many([letter(number)], idempotency_keys=[key])
            self.kept[again[0]] = number

    def _send_in_a_transaction(self) -> None:
        number = next(self._numbers)
        with self._producer.client.start_session() as session, session.start_transaction():
            email_id = self._producer.send(letter(number), session=session)
        self.kept[email_id] = number
        self._producer.announce([email_id])

    def send(self, number: int) -> None:
        """Wait until so many more were acknowledged."""
        goal = len(self.kept) + number
        wait_until(lambda: len(self.kept) >= goal, 60, f"{number} more are acknowledged")


def all_are_kept(stage: Stage, applications: Applications, primary: Node) -> None:
    """Every acknowledged e-mail is stored by a majority, with its own content, and ends.

    The primary itself is asked: the stage goes by the URI, which may prefer secondaries.
    """
    everything = primary.client[stage.emails.database.name][stage.emails.name]
    emails = everything.with_options(read_concern=ReadConcern("majority"))
    open_ones = {"status": {"$nin": ["sent", "uncertain"]}}
    wait_until(lambda: not emails.count_documents(open_ones), 60, "all e-mails have ended")
    stored = {str(document["_id"]): document for document in emails.find()}
    lost = applications.kept.keys() - stored.keys()
    assert not lost, f"{len(lost)} of {len(applications.kept)}"
    for email_id, number in applications.kept.items():
        assert stored[email_id]["email"]["subject"] == f"Number {number}"
    for email_id, document in stored.items():
        assert broken(document, stage.copies[email_id]) == [], document["attempts"]


# With five seconds calls outlast the election. Where the primary does not answer, they wait for
# their timeout, and then for the end of their leases.
@pytest.mark.parametrize(
    "trouble, timeout, uri",
    [("killed", 5, WEAK), ("paused", 2.5, {}), ("cut_off", 2.5, {}), ("cut_off", 2.5, WEAK)],
)
def test_what_was_acknowledged_is_kept_when_the_primary_is(
    trouble: str, timeout: float, uri: Document, on_three_nodes: Stage, replica_set: ReplicaSet
) -> None:
    mongodb = on_three_nodes.settings["mongodb"]
    special = {"uri": replica_set.uri(**uri), "timeout": timeout}
    on_three_nodes.settings["mongodb"] = {**mongodb, **special}
    with consuming(on_three_nodes), Applications(on_three_nodes) as applications:
        applications.send(100)
        primary = replica_set.primary()
        with getattr(replica_set, trouble)(primary):
            replica_set.primary(but=primary)
            applications.send(100)
        replica_set.until_whole()
        applications.send(100)
    with consuming(on_three_nodes):
        all_are_kept(on_three_nodes, applications, replica_set.primary())


def repeat(send: Callable[[], list[str]]) -> list[str]:
    """As an application does that was told to try again."""
    while True:
        with suppress(StoreUnavailable):
            return send()


def test_an_email_that_will_be_rolled_back_does_not_answer_for_its_key(
    on_three_nodes: Stage, replica_set: ReplicaSet
) -> None:
    """The old primary still tells of it, and is asked: it does not know yet that it is cut off."""
    stage, producer = on_three_nodes, on_three_nodes.producer.connect()
    doomed = stage.document(producer.send(letter(1), idempotency_key="another-key"))
    doomed |= {"_id": ObjectId(), "idempotency_key": "the-key"}
    old = replica_set.primary()
    with replica_set.cut_off(old):
        emails = old.client[stage.emails.database.name][stage.emails.name]
        emails.with_options(write_concern=WriteConcern(w=1)).insert_one(doomed)
        (email_id,) = repeat(lambda: producer.send_many([letter(1)], idempotency_keys=["the-key"]))
    replica_set.until_whole()
    assert stage.emails.find_one({"_id": doomed["_id"]}) is None, "it was not rolled back"
    assert producer.status(email_id) is not None
    assert producer.send(letter(1), idempotency_key="the-key") == email_id


@pytest.fixture
def node_ahead(on_three_nodes: Stage, replica_set: ReplicaSet) -> Iterator[Node]:
    """A secondary whose clock goes forty seconds ahead."""
    if find_faketime() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("libfaketime is not there")
    primary = replica_set.primary()
    node = next(each for each in replica_set.nodes if each is not primary)
    node.ahead = 40
    node.restart()
    replica_set.until_whole()
    yield node
    node.ahead = 0
    node.restart()


def test_hosts_whose_clocks_differ_by_more_than_a_lease_bears_are_told(
    on_three_nodes: Stage,
    node_ahead: Node,
    replica_set: ReplicaSet,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an election, leases would end early by the other clock: a copy could be sent.

    To end the sessions, the primary is asked at once, also where it was not the last to be asked.
    """
    primary = replica_set.primary()
    hosts = sorted(replica_set.nodes, key=lambda node: node is not primary)
    monkeypatch.setattr(MongoClient, "nodes", [(node.host, node.port) for node in hosts])
    assert node_ahead.ahead > on_three_nodes.config.delivery.margin
    caplog.set_level(logging.DEBUG, "pymongo.serverSelection")
    with consuming(on_three_nodes):
        pass
    seconds = [
        vars(r)["facts"]["seconds"] for r in caplog.records if event(r) == "mongodb.clocks_differ"
    ]
    assert len(seconds) == 1
    # "At least": what the hosts' answers took is left out.
    assert on_three_nodes.config.delivery.margin < seconds[0] <= 40.1
    looked_for = [message for message in caplog.messages if "endSessions" in message]
    assert looked_for
    assert not [message for message in looked_for if "Server selection failed" in message]
