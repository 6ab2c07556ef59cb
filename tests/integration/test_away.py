"""While MongoDB does not answer nobody waits beyond its time, and soon nobody waits at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import Decision, Status
from mailqueue.message import EmailDict
from mailqueue.producer import Producer
from mailqueue.producer.group_commit import LARGE
from mailqueue.producer.storage import Storage
from mailqueue.store import mongo
from mailqueue.store.document import SIMULATED
from mailqueue.store.store import Store
from mailqueue.store.transitions import Change
from tests.integration.bench import MAIL, Document, failing, impatient, mails, object_ids
from tests.integration.test_producer import NOBODY, Heard, client_of, store_of
from tests.servers import BreakableServers

TIMEOUT = 4.0
TO_SPARE = 3.5  # seconds that a busy machine may take beside; less than another time-out
THREADS = 24
SOMEBODY = str(ObjectId("65f0a1b2c3d4e5f6a7b8c9d0"))


def takes(call: Callable[[], object]) -> tuple[float, StoreUnavailable]:
    """How long a call takes to say that MongoDB is away."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        call()
    return time.monotonic() - began, caught.value


@pytest.fixture
def hasty(servers_to_break: BreakableServers) -> Iterator[Producer]:
    """A producer on servers that can be paused."""
    settings = servers_to_break.config
    mapping = {
        "mongodb": {**settings["mongodb"], "timeout": TIMEOUT},
        "beanstalkd": {**settings["beanstalkd"], "tube": "mailqueue_test_away"},
    }
    with Producer(Config.from_mapping(mapping)) as made:
        made.send(MAIL)
        yield made


def goes_away(producer: Producer) -> None:
    """As far as the producer knows."""
    producer._connections.outage.begin("Timeout")
    producer._connections.outage._last_answer = -inf


def test_when_mongodb_hangs_every_thread_raises_in_its_own_time_and_then_at_once(
    hasty: Producer, servers_to_break: BreakableServers
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: hasty.send(MAIL),
        lambda: hasty.send_many(mails(2), idempotency_keys=["order-1", "order-2"]),
        lambda: hasty.status(SOMEBODY),
        lambda: hasty.cancel(SOMEBODY),
        lambda: hasty.announce([SOMEBODY]),
    ]
    servers_to_break.mongod.pause()
    try:
        with ThreadPoolExecutor(THREADS) as threads:
            waited = list(threads.map(lambda _: takes(lambda: hasty.send(MAIL)), range(THREADS)))
        known = [takes(call)[0] for call in calls]
    finally:
        servers_to_break.mongod.resume()
    assert max(seconds for seconds, _ in waited) < TIMEOUT + TO_SPARE
    assert len({error.ids_unknown for _, error in waited}) == THREADS
    assert all(len(error.ids_unknown) == 1 for _, error in waited)
    assert max(known) < 1 + TO_SPARE / 2
    assert hasty.send(MAIL)
    assert hasty.status(SOMEBODY) is None


def test_all_that_one_call_does_has_one_clock(config: Config) -> None:
    """A repeat does not begin a new one, nor does the look at what came of a lost reply."""
    uri = f"mongodb://{NOBODY}/?directConnection=true"
    away = config.replace(mongodb=replace(config.mongodb, uri=uri, timeout=TIMEOUT))
    producers = [Producer(away) for _ in range(3)]
    store = Store(away.mongodb, env=SIMULATED)
    decision = Decision(status=Status.FAILED, priority=512, reason="expired")
    change = Change(id=ObjectId(SOMEBODY), token=0, decision=decision, sending=False)
    calls: list[Callable[[], object]] = [
        lambda: producers[0].send(MAIL, idempotency_key="order-1"),
        lambda: producers[1].send_many(mails(2)),
        lambda: producers[2].cancel(SOMEBODY),
        lambda: store.write([change]),
    ]
    with ThreadPoolExecutor(len(calls)) as threads:
        assert all(s < TIMEOUT + TO_SPARE for s, _ in threads.map(takes, calls))
    store.close()
    for producer in producers:
        producer.close()


def test_while_one_looks_whether_it_is_over_the_others_do_not_try(config: Config) -> None:
    heard = Heard()
    with client_of(config, event_listeners=[heard]) as client:
        producer = Producer(config, client=client).connect()
        goes_away(producer)
        assert producer._connections.outage.claim(60)
        heard.commands.clear()
        with pytest.raises(StoreUnavailable) as caught:
            producer.send(MAIL)
        assert len(caught.value.ids_unknown) == 1
        assert heard.commands == []
        producer._connections.outage.release()
        assert producer.send(MAIL)
        assert [next(iter(command)) for command in heard.commands] == ["ping", "insert"]
        producer.send(MAIL)
        assert len(heard.named("ping")) == 1
        producer.close()


@pytest.mark.parametrize("for_long", [False, True])
def test_a_look_that_is_too_slow_is_not_believed_for_long(
    producer: Producer,
    mongo_client: MongoClient[Document],
    monkeypatch: pytest.MonkeyPatch,
    for_long: bool,
) -> None:
    """To make the application's own connection may take longer than a second."""
    producer.send(MAIL)
    monkeypatch.setattr(mongo, "PROBE", 0.05)
    monkeypatch.setattr(mongo, "DOUBT", 0.0 if for_long else 60.0)
    goes_away(producer)
    with failing(mongo_client, "ping", blockConnection=True, blockTimeMS=200):
        if for_long:
            assert producer.send(MAIL)
        else:
            with pytest.raises(StoreUnavailable):
                producer.send(MAIL)


def test_a_call_that_is_late_where_others_are_served_is_no_outage(producer: Producer) -> None:
    """Of many large e-mails, say: whoever comes last has no time left, and fails."""
    producer.send(MAIL)
    producer._connections.outage.begin("Timeout")
    assert producer._connections.outage.claim(60)
    assert producer.send(MAIL)


def test_a_failed_try_leaves_the_next_to_the_next_caller(
    config: Config, mongo_client: MongoClient[Document]
) -> None:
    with Producer(config) as producer, impatient(store_of(producer), 1.0):
        with failing(mongo_client, "insert", closeConnection=True):
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    producer.send(MAIL)
        assert producer.send(MAIL)


# Large e-mails ----------------------------------------------------------------------------------


class Slow(Store):
    """Takes its time for what is large."""

    begun, let_go = threading.Event(), threading.Event()

    def insert(self, documents: Any, session: Any = None) -> Any:
        if any(len(document["email"]["text"]) > LARGE for document in documents):
            self.begun.set()
            assert self.let_go.wait(30)
        return super().insert(documents, session)


def test_a_small_email_does_not_wait_behind_a_large_one(
    producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    ((key, storage),) = producer._connections.opened.items()
    slow = Slow(config.mongodb, env=SIMULATED, client=storage.store.client)
    producer._connections.opened[key] = Storage(slow, storage.announcer)
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(producer.send, {**MAIL, "text": "x" * (LARGE + 1)})
        assert Slow.begun.wait(10)
        small = producer.send(MAIL)
        assert not large.done()
        Slow.let_go.set()
        given = object_ids([small, large.result(10)])
    assert set(emails.distinct("_id")) == set(given)
    storage.store.close()


def test_large_emails_are_stored_a_few_to_a_write(config: Config) -> None:
    heard = Heard()
    large: EmailDict = {**MAIL, "text": "x" * (6 * 2**20)}
    with client_of(config, event_listeners=[heard]) as client:
        with Producer(config, client=client) as producer:
            ids = producer.send_many([large] * 5 + [MAIL] * 3)
        stored = client[config.mongodb.database][config.mongodb.collection]
        assert set(stored.distinct("_id")) == set(object_ids(ids))
    assert [len(command["documents"]) for command in heard.named("insert")] == [2, 2, 4]
