"""Events on a real beanstalkd, e-mails in a real MongoDB: what is deleted, buried, kept."""

from __future__ import annotations

import itertools
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any, cast

import greenstalk
import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.devserver import Beanstalkd
from mailqueue.errors import QueueUnavailable, StoreUnavailable
from mailqueue.intake import intake as intake_module
from mailqueue.intake.event import read
from mailqueue.intake.intake import Intake
from mailqueue.producer.connections import Connections
from mailqueue.producer.submission import Outcome, Submission
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.queue.beanstalkd.events import EventTube
from mailqueue.queue.broker import DELETED, INTAKE, End
from mailqueue.store.document import SIMULATED
from mailqueue.store.store import Store
from tests.conftest import TEST_PREFIX
from tests.integration.bench import MAIL, OTHER_MAIL, failing, impatient, ready_ids
from tests.logged import event as event_of
from tests.servers import BreakableBeanstalkd, BreakableServers

KEYS_TUBE = TEST_PREFIX + "keys"
Document = dict[str, Any]
Put = Callable[..., int]
TTR = 60


@pytest.fixture
def client(config: Config) -> Iterator[greenstalk.Client[bytes]]:
    """Another program, at the tube of the events."""
    name = config.beanstalkd.tube + INTAKE
    address = config.beanstalkd.addresses[0]
    with greenstalk.Client(address, encoding=None, use=name, watch=name) as connection:
        yield connection


@pytest.fixture
def put(client: greenstalk.Client[bytes]) -> Put:
    """Put an event: ``put(email=…, priority=…)``, or its bytes."""

    def put_event(body: bytes | None = None, ttr: int = TTR, **event: Any) -> int:
        return client.put(json.dumps(event).encode() if body is None else body, ttr=ttr)

    return put_event


@pytest.fixture
def start(config: Config) -> Iterator[Callable[..., Intake]]:
    """Another process's intake, as it were; the threads of a process have one each."""
    with ExitStack() as stack:

        def start_one(config: Config = config) -> Intake:
            connections = stack.enter_context(closing(Connections(config, SIMULATED, None)))
            connections.storage().store.ensure_indexes()
            server, name = config.beanstalkd.servers[0], config.beanstalkd.tube
            return Intake(stack.enter_context(closing(EventTube(server, name))), connections)

        yield start_one


@pytest.fixture
def intake(start: Callable[..., Intake]) -> Intake:
    return start()


def jobs(config: Config) -> dict[str, int]:
    """Events by state, those of no number left out."""
    return {state: n for state, n in depth(config.beanstalkd, INTAKE).items() if n}


def flush(intake: Intake) -> None:
    """Wait until the server has ended what was to end."""
    intake.receiver.close()


# Stored -------------------------------------------------------------------------------------------


def test_an_event_becomes_an_email_that_is_announced_and_then_it_is_deleted(
    config: Config, intake: Intake, put: Put, emails: Collection[Document]
) -> None:
    put(email=MAIL, priority="high", idempotency_key="welcome-4711")
    assert intake.turn() == 1
    flush(intake)
    (stored,) = emails.find()
    assert (stored["status"], stored["idempotency_key"]) == ("queued", "welcome-4711")
    assert (stored["priority"], stored["env"]) == (2048, SIMULATED)
    assert stored["email"]["subject"] == MAIL["subject"]
    assert jobs(config) == {}
    assert ready_ids(config) == [str(stored["_id"])]
    assert intake.counts == {"stored": 1, "repeated": 0, "buried": 0}


def test_all_events_that_are_ready_are_stored_in_one_write(
    intake: Intake, put: Put, emails: Collection[Document], mongo_client: MongoClient[Document]
) -> None:
    for number in range(50):
        put(email={**MAIL, "subject": str(number)})
    mongo_client[emails.database.name].command("profile", 2)
    assert intake.turn() == 50
    mongo_client[emails.database.name].command("profile", 0)
    writes = list(emails.database["system.profile"].find({"command.insert": emails.name}))
    assert len(writes) == 1
    assert emails.count_documents({}) == 50


def test_two_events_that_are_alike_are_two_emails(
    intake: Intake, put: Put, emails: Collection[Document]
) -> None:
    put(email=MAIL)
    put(email=MAIL)
    intake.turn()
    assert emails.count_documents({}) == 2


def test_two_events_with_one_key_are_one_email_in_the_same_write_and_later(
    config: Config, intake: Intake, put: Put, emails: Collection[Document]
) -> None:
    for _ in range(2):
        put(email=MAIL, idempotency_key="a")
    intake.turn()
    put(email=MAIL, idempotency_key="a")
    intake.turn()
    flush(intake)
    assert emails.count_documents({}) == 1
    assert jobs(config) == {}
    assert intake.counts == {"stored": 1, "repeated": 2, "buried": 0}


def test_an_event_that_comes_again_makes_no_second_email(
    config: Config, start: Callable[..., Intake], put: Put, emails: Collection[Document]
) -> None:
    """Its process was killed between the write and the delete."""
    put(email=MAIL)
    killed = start()
    events = killed.receiver.reserve(0, 10)
    killed.receiver.give_back()
    assert len(events) == 1
    first, second = start(), start()
    # The first stores it; its connection breaks before it can say so.
    first.receiver.end = lambda *_: None  # type: ignore[method-assign]  # it never gets there
    first.turn()
    first.receiver.give_back()
    assert jobs(config) == {"ready": 1}
    second.turn()
    flush(second)
    assert emails.count_documents({}) == 1
    assert jobs(config) == {}
    assert second.counts == {"stored": 0, "repeated": 1, "buried": 0}


@pytest.mark.parametrize("seconds", [0.4, -0.4])
def test_an_event_that_comes_again_when_its_age_says_another_hour_makes_no_second_email(
    config: Config,
    start: Callable[..., Intake],
    put: Put,
    emails: Collection[Document],
    seconds: float,
) -> None:
    """It was put at a full hour. Its age lacks up to a second, so a reader may find either hour."""
    put(email=MAIL)
    put(email=MAIL)
    full_hour = 1_800_000_000.0
    intakes = []
    for now in (full_hour + seconds, full_hour - seconds):
        server, name = config.beanstalkd.servers[0], config.beanstalkd.tube
        clock = itertools.repeat(now).__next__
        intakes.append(replace(start(), receiver=EventTube(server, name, clock=clock)))
    killed, other = intakes
    killed.receiver.end = lambda *_: None  # type: ignore[method-assign]  # it never gets there
    killed.turn()
    killed.receiver.give_back()
    other.turn()
    flush(other)
    assert emails.count_documents({}) == 2
    assert other.counts == {"stored": 0, "repeated": 2, "buried": 0}
    assert jobs(config) == {}


def test_an_event_whose_time_to_run_is_over_makes_no_second_email(
    config: Config, start: Callable[..., Intake], put: Put, emails: Collection[Document]
) -> None:
    """A second, the least there is: the server says that it is nearly over, at once."""
    for number in range(3):
        put(email={**MAIL, "subject": str(number)}, ttr=1)
    slow, other = start(), start()
    events = slow.receiver.reserve(0, 10)
    assert events
    for turn in itertools.count():
        if other.counts.total() >= 3:
            break
        if turn == 15:  # the server was seen to keep one for long
            slow.receiver.give_back()
        assert turn < 30, "an event was lost"
        other.turn()
    slow.receiver.end(events, DELETED)
    flush(slow)
    flush(other)
    assert emails.count_documents({}) == 3
    assert jobs(config) == {}


# Keys ---------------------------------------------------------------------------------------------


def put_on(server: Beanstalkd, *bodies: bytes) -> None:
    name = KEYS_TUBE + INTAKE
    with greenstalk.Client(("127.0.0.1", server.port), encoding=None, use=name) as client:
        for body in bodies:
            client.put(body)


def keys(server: Beanstalkd, how: End | None = None) -> list[str]:
    """The keys of the events that are on this server; these end if ``how`` says so."""
    # In the middle of an hour: near its edge there are two keys.
    clock = itertools.repeat(1_800_001_800.0).__next__
    with closing(EventTube(server.address, KEYS_TUBE, clock=clock)) as events:
        reserved = events.reserve(0, 10)
        if how:
            events.end(reserved, how)
        return [event.key for event in reserved]


@pytest.mark.parametrize("binlog", [True, False])
def test_the_key_of_a_job_is_the_same_whenever_it_comes_and_of_no_other_job(binlog: bool) -> None:
    with BreakableBeanstalkd(binlog=binlog) as server:
        put_on(server, b"{}", b"{}", b"other")
        first = keys(server)
        assert len(set(first)) == 3
        assert sorted(keys(server)) == sorted(first)


def test_the_same_number_on_another_server_is_another_job() -> None:
    with BreakableBeanstalkd() as one, BreakableBeanstalkd() as other:
        for server in (one, other):
            put_on(server, b"{}")
        assert keys(one) != keys(other)


def test_a_job_that_outlives_its_server_keeps_its_key() -> None:
    """The server's instance has another id then: it cannot be part of the key."""
    with BreakableBeanstalkd() as server:
        put_on(server, b"{}")
        before = keys(server)
        server.kill()
        server.start()
        assert keys(server) == before


def test_without_a_binlog_a_job_of_the_same_number_after_a_restart_is_another() -> None:
    with BreakableBeanstalkd(binlog=False) as server:
        put_on(server, b"{}")
        before = keys(server)
        server.restart()
        put_on(server, b"{}")
        after = keys(server)
        assert before[0].rpartition(":")[2] == after[0].rpartition(":")[2] == "1"
        assert before != after


def test_with_an_empty_binlog_a_job_of_the_same_number_after_two_restarts_is_another() -> None:
    """Such a server counts from 1 again, as if it had none."""
    with BreakableBeanstalkd() as server:
        put_on(server, b"first")
        before = keys(server, DELETED)
        server.restart()
        server.restart()
        put_on(server, b"second")
        after = keys(server)
        assert before[0].split(":")[-3] == after[0].split(":")[-3] == "1"
        assert before != after


def test_a_job_of_the_same_number_and_content_is_another_an_hour_later() -> None:
    with BreakableBeanstalkd() as server:
        put_on(server, b"{}")
        now, found = time.time(), set()
        for hours in range(3):
            clock = itertools.repeat(now + 3600 * hours).__next__
            with closing(EventTube(server.address, KEYS_TUBE, clock=clock)) as events:
                found |= {event.key for event in events.reserve(0, 10)}
        assert len(found) == 3


# Buried -------------------------------------------------------------------------------------------


def test_what_is_not_valid_is_buried_and_logged_with_its_field_and_the_others_are_stored(
    config: Config,
    intake: Intake,
    put: Put,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "eve@example.org"
    put(email=MAIL)
    bad = put(email={**MAIL, "to": [secret, "no address of " + secret]})
    worse = put(b'{"email": ' + secret.encode())
    put(email=OTHER_MAIL)
    with caplog.at_level(logging.ERROR, "mailqueue"):
        assert intake.turn() == 4
    flush(intake)
    assert emails.count_documents({}) == 2
    assert jobs(config) == {"buried": 2}
    assert intake.counts == {"stored": 2, "repeated": 0, "buried": 2}
    assert {event_of(record) for record in caplog.records} == {"event.buried"}
    facts = [vars(record)["facts"] for record in caplog.records]
    assert [(each["job"], each["field"]) for each in facts] == [(bad, "to[1]"), (worse, "event")]
    assert secret not in caplog.text


def test_a_buried_event_is_stored_once_its_cause_is_gone_and_it_is_kicked(
    config: Config,
    intake: Intake,
    put: Put,
    client: greenstalk.Client[bytes],
    emails: Collection[Document],
) -> None:
    """A key that was used for another e-mail, which is pruned one day."""
    put(email=MAIL, idempotency_key="a")
    intake.turn()
    put(email=OTHER_MAIL, idempotency_key="a")
    intake.turn()
    flush(intake)
    assert jobs(config) == {"buried": 1}
    emails.delete_many({})
    assert client.kick(10) == 1
    intake.turn()
    flush(intake)
    (stored,) = emails.find()
    assert stored["email"]["subject"] == OTHER_MAIL["subject"]
    assert jobs(config) == {}


def test_a_key_that_was_used_for_another_email_buries_the_event(
    config: Config,
    intake: Intake,
    put: Put,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(email=MAIL, idempotency_key="a")
    put(email=OTHER_MAIL, idempotency_key="a")  # in the same write
    intake.turn()
    flush(intake)
    assert emails.count_documents({}) == 1
    assert jobs(config) == {"buried": 1}
    (facts,) = [vars(r)["facts"] for r in caplog.records if event_of(r) == "event.buried"]
    assert facts["field"] == "idempotency_key"


def test_an_email_that_is_too_large_or_that_no_vendor_carries_is_buried(
    config_mapping: Document,
    start: Callable[..., Intake],
    put: Put,
    config: Config,
) -> None:
    intake = start(config.replace(limits={"max_size": 1000}))
    put(email={**MAIL, "text": "x" * 2000})
    intake.turn()
    flush(intake)
    assert jobs(config) == {"buried": 1}


def test_an_event_that_mongodb_refuses_is_buried_alone(
    config: Config,
    intake: Intake,
    put: Put,
    emails: Collection[Document],
    mongo_client: MongoClient[Document],
) -> None:
    """A validator of the operator's own."""
    rule = {"email.subject": {"$ne": "forbidden"}}
    mongo_client[emails.database.name].command("collMod", emails.name, validator=rule)
    for subject in ("one", "forbidden", "two"):
        put(email={**MAIL, "subject": subject})
    intake.turn()
    flush(intake)
    assert {each["email"]["subject"] for each in emails.find()} == {"one", "two"}
    assert jobs(config) == {"buried": 1}


def test_an_event_that_draws_a_bug_is_buried_alone(
    config: Config,
    intake: Intake,
    put: Put,
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write = Connections.write

    def failing_write(self: Connections, submissions: list[Submission]) -> list[Outcome]:
        if any(each.email.subject == "write" for each in submissions):
            raise KeyError("write")
        return write(self, submissions)

    def failing_read(body: bytes, key: str) -> Submission:
        submission = read(body, key)
        if submission.email.subject == "read":
            raise KeyError("read")
        return submission

    monkeypatch.setattr(Connections, "write", failing_write)
    monkeypatch.setattr(intake_module, "read", failing_read)
    for subject in ("one", "read", "write", "two"):
        put(email={**MAIL, "subject": subject})
    intake.turn()
    flush(intake)
    assert {each["email"]["subject"] for each in emails.find()} == {"one", "two"}
    assert jobs(config) == {"buried": 2}
    assert caplog.text.count("KeyError") == 2


def test_an_event_beyond_the_bound_is_buried_and_does_not_break_the_connection(
    config_mapping: Document, start: Callable[..., Intake], config: Config
) -> None:
    """Of a server that was told to take larger jobs."""
    with Beanstalkd("-z", "1000000") as server:
        config = config.replace(
            beanstalkd={"servers": [server.address], "tube": config.beanstalkd.tube}
        )
        intake = start(config)
        name = config.beanstalkd.tube + INTAKE
        with greenstalk.Client(("127.0.0.1", server.port), encoding=None, use=name) as client:
            client.put(json.dumps({"email": {**MAIL, "text": "x" * 70_000}}).encode())
            client.put(json.dumps({"email": MAIL}).encode())
        assert intake.turn() == 2
        flush(intake)
        assert jobs(config) == {"buried": 1}
        assert intake.counts["stored"] == 1


# Kept ---------------------------------------------------------------------------------------------


def test_while_mongodb_is_away_events_stay_on_the_tube_with_their_priorities(
    config: Config,
    intake: Intake,
    put: Put,
    client: greenstalk.Client[bytes],
    emails: Collection[Document],
    mongo_client: MongoClient[Document],
) -> None:
    store = cast("Store", intake.connections.storage().store)
    number = client.put(json.dumps({"email": MAIL}).encode(), priority=7)
    put(b"not valid")  # nothing is buried either: an outage is no time for verdicts
    with impatient(store), failing(mongo_client, "insert", errorCode=13):
        with pytest.raises(StoreUnavailable):
            intake.turn()
        assert jobs(config) == {"ready": 2}
        assert client.stats_job(number)["pri"] == 7
    intake.turn()
    flush(intake)
    assert emails.count_documents({}) == 1
    assert jobs(config) == {"buried": 1}


def test_an_insert_whose_reply_was_lost_makes_one_email(
    config: Config,
    intake: Intake,
    put: Put,
    emails: Collection[Document],
    mongo_client: MongoClient[Document],
) -> None:
    put(email=MAIL)
    with failing(mongo_client, "insert", closeConnection=True, mode={"times": 1}):
        intake.turn()
    flush(intake)
    assert emails.count_documents({}) == 1
    assert jobs(config) == {}


def test_after_beanstalkd_was_restarted_events_are_stored_again(
    servers_to_break: BreakableServers, start: Callable[..., Intake], config: Config
) -> None:
    server = servers_to_break.beanstalkd
    name = config.beanstalkd.tube
    there = config.replace(beanstalkd={"servers": [server.address], "tube": name})
    intake = start(there)
    intake.receiver.reserve(0)
    server.kill()
    with pytest.raises(QueueUnavailable):
        intake.turn()
    server.start()
    with greenstalk.Client(("127.0.0.1", server.port), use=name + INTAKE) as client:
        client.put(json.dumps({"email": MAIL}))
    assert intake.turn() == 1
    flush(intake)
    assert jobs(there) == {}


class Waits(threading.Event):
    """How long it was waited for, until it is set after ten times; no time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        if len(self.seconds) == 10:
            self.set()
        return self.is_set()


def test_between_two_tries_during_an_outage_there_is_a_pause_that_grows_up_to_five_seconds(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def away(_: Intake) -> int:
        tries.append(1)
        raise StoreUnavailable("MongoDB: away")

    monkeypatch.setattr(Intake, "turn", away)
    random.seed(1)
    stopping = Waits()
    intake.run(stopping)
    assert len(tries) == len(stopping.seconds) + 1 == 11
    assert all(0 <= each <= 5 for each in stopping.seconds)
    assert sum(stopping.seconds[5:]) > sum(stopping.seconds[:5])
