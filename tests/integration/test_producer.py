"""The producer on a real mongod and beanstalkd: what an application may rely on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from bson import ObjectId
from pymongo import MongoClient, ReadPreference
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError
from pymongo.monitoring import CommandListener, CommandStartedEvent

from mailqueue.config import Beanstalkd as BeanstalkdConfig
from mailqueue.config import Config
from mailqueue.devserver import Mongod
from mailqueue.errors import ConfigError, InvalidEmail, StoreUnavailable
from mailqueue.lifecycle.outcomes import Status
from mailqueue.message import Email, EmailDict
from mailqueue.producer import Priority, Producer
from mailqueue.producer.storage import Storage
from mailqueue.queue import announcer
from mailqueue.store import ids as identities
from mailqueue.store.ids import to_uuid
from mailqueue.store.store import Store
from tests.forks import in_a_child
from tests.integration.bench import (
    MAIL,
    OTHER_MAIL,
    WRITE_CONCERN_ERROR,
    Document,
    failing,
    impatient,
    mails,
    next_delayed,
    object_ids,
    ready,
    ready_ids,
)
from tests.logged import event
from tests.servers import BreakableBeanstalkd, BreakableServers

NOBODY = "127.0.0.1:1"  # nothing listens there
TO_SPARE = 5.0  # seconds beyond a time-out that a busy machine may take; the driver's own is 30


class Heard(CommandListener):
    """The commands that a client sent."""

    def __init__(self) -> None:
        self.commands: list[Document] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(dict(event.command))

    def succeeded(self, event: object) -> None: ...

    def failed(self, event: object) -> None: ...

    def named(self, name: str) -> list[Document]:
        return [command for command in self.commands if name in command]


@contextmanager
def client_of(config: Config, **options: Any) -> Iterator[MongoClient[Document]]:
    with MongoClient[Document](config.mongodb.uri, appname="mailqueue", **options) as client:
        yield client


def store_of(producer: Producer) -> Store:
    return cast("Store", producer._connections.storage().store)


def with_timeout(config: Config, seconds: float, **more: Any) -> Config:
    return config.replace(mongodb=replace(config.mongodb, timeout=seconds, **more))


# Storing ----------------------------------------------------------------------------------------


def test_an_email_is_journaled_by_a_majority_before_send_returns(config: Config) -> None:
    heard = Heard()
    with client_of(config, event_listeners=[heard]) as client:
        with Producer(config, client=client) as producer:
            producer.send(MAIL)
        (insert,) = heard.named("insert")
    assert insert["writeConcern"] == {"w": "majority", "j": True}


def test_the_id_of_a_stored_email_is_on_the_tube(
    producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL)
    assert len(email_id) == 24
    assert emails.distinct("_id") == [ObjectId(email_id)]
    assert ready_ids(config) == [email_id]


def test_a_new_document_is_complete(producer: Producer, emails: Collection[Document]) -> None:
    email_id = producer.send(MAIL, idempotency_key="order-1")
    (stored,) = emails.find()
    assert stored["email"] == MAIL
    assert stored["status"] == "queued"
    assert stored["env"] == "simulated"
    assert str(stored["_id"]) == email_id == str(identities.of_key("simulated", "order-1"))
    assert stored["message_id"] == f"<{stored['nonce']}@example.com>"
    assert stored["idempotency_key"] == "order-1"
    assert stored["lease"] == {"token": stored["created_at"].timestamp() * 1000}
    assert stored["attempts"] == []
    assert stored["created_at"] == stored["updated_at"]
    assert stored["clock_from"] is None


def test_a_producer_in_production_stamps_its_emails_so(
    config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    with Producer(config) as producer:
        producer.send(MAIL)
    assert emails.distinct("env") == ["production"]


def test_a_mapping_an_email_and_an_email_message_are_stored_alike(
    producer: Producer, emails: Collection[Document]
) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "Ann <ann@example.com>", "bob@example.org"
    message["Subject"] = "Hi"
    message.set_content("Hello", cte="8bit")
    message.set_payload("Hello")
    producer.send_many([MAIL, Email.from_mapping(MAIL), message])
    assert len(emails.distinct("content_hash")) == 1


def test_many_emails_are_stored_500_to_a_write_and_their_ids_come_in_order(config: Config) -> None:
    heard = Heard()
    with client_of(config, event_listeners=[heard]) as client:
        with Producer(config, client=client) as producer:
            ids = producer.send_many(iter(mails(1201)))
        stored = client[config.mongodb.database][config.mongodb.collection]
        subjects = {d["_id"]: d["email"]["subject"] for d in stored.find()}
    assert [subjects[i] for i in object_ids(ids)] == [f"Number {n}" for n in range(1201)]
    assert [len(c["documents"]) for c in heard.named("insert")] == [500, 500, 201]
    assert sorted(ready_ids(config)) == sorted(ids)


def test_no_emails_are_no_work(producer: Producer, emails: Collection[Document]) -> None:
    assert producer.send_many([]) == []
    assert emails.count_documents({}) == 0


def test_one_bad_email_among_many_is_named_and_none_is_stored(
    producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    with pytest.raises(InvalidEmail, match=r"emails\[2\]\.to") as caught:
        producer.send_many([*mails(2), {**MAIL, "to": []}])
    assert (caught.value.field, caught.value.index) == ("to", 2)
    assert emails.count_documents({}) == 0
    assert ready(config) == []


NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001  # on purpose
AWARE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "arguments, field",
    [
        ({"priority": "urgent"}, "priority"),
        ({"send_at": NAIVE}, "send_at"),
        ({"send_at": "2030-01-01"}, "send_at"),
        ({"send_at": date(2030, 1, 1)}, "send_at"),
        ({"expires_at": NAIVE}, "expires_at"),
        ({"send_at": AWARE, "expires_at": AWARE}, "expires_at"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "x" * 513}, "idempotency_key"),
        ({"idempotency_key": "a\0b"}, "idempotency_key"),
        ({"idempotency_key": 7}, "idempotency_key"),
    ],
)
def test_a_bad_argument_is_named_and_nothing_is_stored(
    producer: Producer, emails: Collection[Document], arguments: Document, field: str
) -> None:
    with pytest.raises(InvalidEmail) as caught:
        producer.send(MAIL, **arguments)
    assert (caught.value.field, caught.value.index) == (field, None)
    assert emails.count_documents({}) == 0


def test_the_number_of_keys_must_be_the_number_of_emails(producer: Producer) -> None:
    with pytest.raises(InvalidEmail, match="idempotency_keys"):
        producer.send_many(mails(2), idempotency_keys=["only one"])


def validated(emails: Collection[Document]) -> None:
    """The operator's validator does not take one subject."""
    rule = {"email.subject": {"$ne": "Number 1"}}
    emails.database.command("collMod", emails.name, validator=rule)


def unique(emails: Collection[Document]) -> None:
    """The operator's index lets a subject occur once, and it is there."""
    emails.insert_one({"email": {"subject": "Number 1"}})
    emails.create_index("email.subject", unique=True)


@pytest.mark.parametrize("refuse", [validated, unique])
def test_an_email_that_mongodb_refuses_is_named_and_concerns_no_other(
    refuse: Callable[[Collection[Document]], None],
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    refuse(emails)
    good, bad, last = mails(3)
    there = emails.count_documents({})
    with pytest.raises(InvalidEmail) as raised:
        producer.send(bad)
    assert (raised.value.field, raised.value.index) == ("email", None)
    with pytest.raises(InvalidEmail) as raised:
        producer.send_many([good, bad, last])
    assert (raised.value.field, raised.value.index) == ("email", 1)
    assert emails.count_documents({}) == there + 2
    assert len(ready(config)) == 2
    assert caplog.records == []


def test_an_email_that_no_configured_vendor_could_carry_is_refused(config: Config) -> None:
    vendor = {"name": "grid", "type": "sendgrid", "api_key": "x"}
    picky = Config.from_mapping({**_mapping(config), "vendors": [vendor]})
    producer = Producer(picky)
    with pytest.raises(InvalidEmail) as caught:
        producer.send({**MAIL, "to": ["bób@example.org"]})
    assert caught.value.field == "email"
    assert "bób" not in str(caught.value)
    producer.close()


def _mapping(config: Config) -> Document:
    return {
        "mongodb": {"uri": config.mongodb.uri, "database": config.mongodb.database},
        "beanstalkd": {"servers": list(config.beanstalkd.servers), "tube": config.beanstalkd.tube},
    }


def test_a_producer_reads_its_config_from_a_file(tmp_path: Path, config: Config) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"vendors": [{"name": "a", "type": "sendgrid", "api_key": "${NO_SUCH}"}]}')
    assert Producer(str(file)).config.vendors[0].name == "a"
    file.write_text('{"nonsense": 1}')
    with pytest.raises(ConfigError, match="nonsense"):
        Producer(file)


# Announcing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "priority, number", [("high", 2048), ("normal", 65_536), ("bulk", 1_048_576)]
)
def test_a_job_has_the_priority_of_its_class(
    producer: Producer, config: Config, priority: Priority, number: int
) -> None:
    email_id = producer.send(MAIL, priority=priority)
    (job,) = ready(config)
    assert (job.body, job.priority, job.ttr) == (email_id, number, config.delivery.ttr)


def test_what_is_urgent_leaves_the_tube_first(producer: Producer, config: Config) -> None:
    sent = {p: producer.send(MAIL, priority=p) for p in ("bulk", "normal", "high")}
    assert ready_ids(config) == [sent["high"], sent["normal"], sent["bulk"]]


def test_an_email_for_later_is_delayed_until_then(
    producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    until = at + timedelta(hours=1)
    email_id = producer.send(MAIL, send_at=at, expires_at=until)
    (stored,) = emails.find()
    assert (stored["due_at"], stored["expires_at"]) == (at, until)
    assert ready(config) == []
    job = next_delayed(config)
    assert job is not None
    assert job.body == email_id
    assert 3590 <= job.delay <= 3600


def test_times_in_any_zone_mean_the_same_moment(
    producer: Producer, emails: Collection[Document]
) -> None:
    zone = datetime.now().astimezone().tzinfo
    at = datetime(2031, 5, 5, 12, tzinfo=zone)
    producer.send(MAIL, send_at=at)
    assert (
        emails.distinct("due_at") == [at.astimezone(UTC).replace(tzinfo=None)]
        or (emails.find_one() or {})["due_at"] == at
    )


def test_a_time_that_has_passed_means_at_once(producer: Producer, config: Config) -> None:
    email_id = producer.send(MAIL, send_at=datetime.now(UTC) - timedelta(days=1))
    assert ready_ids(config) == [email_id]


def test_send_returns_while_beanstalkd_is_away_and_the_id_is_announced_afterwards(
    config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer.Announcer, "REST", 0.0)
    monkeypatch.setattr(announcer.Announcer, "REST_MAX", 0.0)
    with BreakableBeanstalkd(binlog=False) as own:
        away = config.replace(beanstalkd=replace(config.beanstalkd, servers=(own.address,)))
        with Producer(away) as producer:
            first = producer.send(MAIL)
            own.stop()
            second = producer.send(MAIL)
            third = producer.send(MAIL, priority="high")
            own.start()
            assert ready_ids(away) == []
            fourth = producer.send(MAIL)
        assert ready_ids(away) == [third, fourth, second]
    assert emails.count_documents({}) == len({first, second, third, fourth})


def test_an_application_without_beanstalkd_still_stores(
    config: Config, emails: Collection[Document]
) -> None:
    alone = config.replace(beanstalkd=BeanstalkdConfig(servers=(NOBODY,), tube="mailqueue_test_"))
    with Producer(alone) as producer:
        ids = producer.send_many(mails(3))
    assert set(object_ids(ids)) == set(emails.distinct("_id"))


# Looking and cancelling -------------------------------------------------------------------------


def test_the_status_of_a_new_email_is_queued(producer: Producer) -> None:
    email_id = producer.send(MAIL)
    status = producer.status(email_id)
    assert status is not None
    assert (status.id, status.status, status.attempts) == (email_id, Status.QUEUED, ())
    assert status.created_at.tzinfo is not None


def test_an_email_that_does_not_exist_has_no_status_and_is_not_cancelled(
    producer: Producer,
) -> None:
    assert producer.status(str(ObjectId())) is None
    assert producer.cancel(str(ObjectId())) is False


@pytest.mark.parametrize("bad", ["", "123", "x" * 24, None, 7])
def test_a_malformed_id_is_a_value_error(producer: Producer, bad: Any) -> None:
    ask: Callable[[Any], object]
    for ask in (producer.status, producer.cancel, lambda i: producer.announce([i])):
        with pytest.raises(ValueError, match="24 hexadecimal"):
            ask(bad)


def test_an_id_may_be_written_as_a_uuid(producer: Producer) -> None:
    email_id = producer.send(MAIL)
    uuid = str(to_uuid(email_id))
    status = producer.status(uuid)
    assert status is not None
    assert status.id == email_id
    assert producer.announce([uuid]) == 1
    assert producer.cancel(uuid)


def test_a_queued_email_can_be_cancelled_and_cancelling_again_is_harmless(
    producer: Producer,
) -> None:
    email_id = producer.send(MAIL)
    assert producer.cancel(email_id) is True
    assert producer.cancel(email_id) is True
    status = producer.status(email_id)
    assert status is not None
    assert (status.status, status.reason) == (Status.CANCELLED, "cancelled")


@pytest.mark.parametrize("status", ["sending", "sent", "failed", "uncertain"])
def test_what_is_not_queued_cannot_be_cancelled(
    producer: Producer, emails: Collection[Document], status: str
) -> None:
    email_id = producer.send(MAIL)
    emails.update_one({}, {"$set": {"status": status}})
    assert producer.cancel(email_id) is False
    assert emails.distinct("status") == [status]


@pytest.mark.parametrize("left", [{"unknowns": 1}, {"pin": {"vendor": "first"}}])
def test_cancelling_what_may_have_left_makes_it_uncertain(
    producer: Producer, emails: Collection[Document], left: Document
) -> None:
    email_id = producer.send(MAIL)
    emails.update_one({}, {"$set": left})
    assert producer.cancel(email_id) is False
    (stored,) = emails.find()
    assert (stored["status"], stored["reason"]) == ("uncertain", "cancelled")


def test_what_some_recipients_have_got_is_never_called_cancelled(
    producer: Producer, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL)
    emails.update_one({}, {"$set": {"pending": ["bob@example.org"]}})
    assert producer.cancel(email_id) is False
    assert emails.distinct("status") == ["queued"]


# The idempotency key ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(Status))
def test_the_same_key_and_content_give_the_first_id_whatever_its_status(
    producer: Producer, config: Config, emails: Collection[Document], status: Status
) -> None:
    first = producer.send(MAIL, idempotency_key="order-1")
    emails.update_one({}, {"$set": {"status": status.value}})
    assert producer.send(MAIL, idempotency_key="order-1") == first
    assert producer.send_many([MAIL], idempotency_keys=["order-1"]) == [first]
    assert emails.count_documents({}) == 1
    assert ready_ids(config) == [first]


def test_the_same_key_with_another_content_is_refused(
    producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(MAIL, idempotency_key="order-1")
    with pytest.raises(InvalidEmail) as caught:
        producer.send(OTHER_MAIL, idempotency_key="order-1")
    assert caught.value.field == "idempotency_key"
    assert emails.count_documents({}) == 1


def test_a_key_counts_from_the_first_send_on_without_connect(
    config: Config, emails: Collection[Document]
) -> None:
    """The unique index must be there before the first key, whoever is the first to need it."""
    producer = Producer(config)
    with ThreadPoolExecutor(50) as callers:
        barrier = threading.Barrier(50)

        def call(_: int) -> str:
            barrier.wait()
            return producer.send(MAIL, idempotency_key="order-1")

        ids = set(callers.map(call, range(50)))
    producer.close()
    assert len(ids) == 1
    assert emails.distinct("_id") == object_ids(ids)


def test_fifty_callers_with_many_keys_store_one_email_for_each(
    producer: Producer, emails: Collection[Document]
) -> None:
    keys = [f"order-{n}" for n in range(10)]
    with ThreadPoolExecutor(10) as callers:
        answers = list(
            callers.map(lambda _: producer.send_many([MAIL] * 10, idempotency_keys=keys), range(50))
        )
    assert all(ids == answers[0] for ids in answers)
    assert emails.count_documents({}) == 10


def test_the_same_key_twice_in_one_call_is_one_email(
    producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    keys = ["order-1", None, "order-1", "order-2"]
    ids = producer.send_many([MAIL] * 4, idempotency_keys=keys)
    assert ids[0] == ids[2]
    assert len(set(ids)) == 3
    assert emails.count_documents({}) == 3
    assert sorted(ready_ids(config)) == sorted(set(ids))


def test_the_same_key_twice_in_one_call_with_other_content_is_refused(
    producer: Producer, emails: Collection[Document]
) -> None:
    with pytest.raises(InvalidEmail) as caught:
        producer.send_many([MAIL, OTHER_MAIL], idempotency_keys=["order-1", "order-1"])
    assert caught.value.field == "idempotency_key"
    assert emails.count_documents({}) == 0


def test_a_key_that_was_used_for_another_content_lets_none_of_many_be_stored(
    producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(MAIL, idempotency_key="order-600")
    keys = [f"order-{n}" for n in range(601)]
    with pytest.raises(InvalidEmail) as caught:
        producer.send_many([OTHER_MAIL] * 601, idempotency_keys=keys)
    assert (caught.value.field, caught.value.index) == ("idempotency_key", 600)
    assert emails.count_documents({}) == 1


def test_a_key_that_is_taken_for_another_content_meanwhile_keeps_no_other_email_from_the_store(
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the look-up of the keys and the first of two writes."""
    keys = [f"order-{n}" for n in range(600)]
    look_up = producer._connections.storage().store.by_key
    looks = []

    def too_early(keys: list[str], session: ClientSession | None = None) -> Document:
        looks.append(keys)
        found = look_up(keys, session)
        if len(looks) == 2:
            producer.send(OTHER_MAIL, idempotency_key="order-7")
        return found

    monkeypatch.setattr(producer._connections.storage().store, "by_key", too_early)
    with pytest.raises(InvalidEmail) as caught:
        producer.send_many([MAIL] * 600, idempotency_keys=keys)
    assert (caught.value.field, caught.value.index) == ("idempotency_key", 7)
    assert sorted(emails.distinct("idempotency_key")) == sorted(keys)
    assert len(ready(config)) == 600


def test_some_known_and_some_new_keys_in_one_call(
    producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    known = producer.send(MAIL, idempotency_key="order-1")
    ids = producer.send_many([MAIL, MAIL], idempotency_keys=["order-1", "order-2"])
    assert ids[0] == known
    assert emails.count_documents({}) == 2
    assert sorted(ready_ids(config)) == sorted(ids)


def test_a_key_that_appears_between_the_look_up_and_the_insert_gives_the_first_id(
    producer: Producer, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = producer.send(MAIL, idempotency_key="order-1")
    asked = []
    look_up = producer._connections.storage().store.by_key

    def too_early(keys: list[str], session: ClientSession | None = None) -> Document:
        asked.append(keys)
        return {} if len(asked) == 1 else look_up(keys, session)

    monkeypatch.setattr(producer._connections.storage().store, "by_key", too_early)
    ids = producer.send_many([MAIL, MAIL], idempotency_keys=["order-1", "order-2"])
    assert ids[0] == first
    assert emails.count_documents({}) == 2


def test_an_id_is_never_given_for_an_email_that_is_not_stored(
    producer: Producer, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first e-mail of a key is pruned between the failed insert and the look at it."""
    producer.send(MAIL, idempotency_key="order-1")
    store: Any = producer._connections.storage().store
    look = store._confirm_new
    looks = []

    def after_pruning(*given: Any) -> Any:
        looks.append(given)
        emails.delete_many({})
        return look(*given)

    monkeypatch.setattr(store, "_confirm_new", after_pruning)
    email_id = producer.send(OTHER_MAIL, idempotency_key="order-1")
    (stored,) = emails.find()
    assert (str(stored["_id"]), stored["email"]["subject"]) == (email_id, OTHER_MAIL["subject"])
    assert len(looks) == 1


def test_the_key_is_found_where_the_application_reads_from_secondaries(
    config: Config, emails: Collection[Document]
) -> None:
    """A secondary may be behind; what was stored is looked up where it is written."""
    with client_of(config, read_preference=ReadPreference.SECONDARY) as client:
        producer = Producer(with_timeout(config, 1.0), client=client).connect()
        first = producer.send(MAIL, idempotency_key="order-1")
        assert producer.send(MAIL, idempotency_key="order-1") == first
        assert producer.status(first) is not None
        producer.close()
    assert emails.count_documents({}) == 1


def test_repeating_with_the_key_after_a_lost_reply_gives_the_id_that_was_not_known(
    config: Config, emails: Collection[Document], mongo_client: MongoClient[Document]
) -> None:
    with Producer(config) as producer:
        with (
            impatient(store_of(producer)),
            failing(mongo_client, "insert", "update", writeConcernError=WRITE_CONCERN_ERROR),
            pytest.raises(StoreUnavailable) as caught,
        ):
            producer.send(MAIL, idempotency_key="order-1")
        (unknown,) = caught.value.ids_unknown
        assert producer.send(MAIL, idempotency_key="order-1") == unknown
    assert emails.distinct("_id") == [ObjectId(unknown)]


# The caller's own transaction -------------------------------------------------------------------


@pytest.fixture
def application(config: Config) -> Iterator[tuple[Producer, MongoClient[Document]]]:
    """A producer on the application's own client."""
    with client_of(config, tz_aware=True) as client, Producer(config, client=client) as producer:
        yield producer, client


Application = tuple[Producer, MongoClient[Document]]


def test_an_email_of_a_committed_transaction_is_stored_and_announced_by_hand(
    application: Application, config: Config, emails: Collection[Document]
) -> None:
    producer, client = application
    with client.start_session() as session, session.start_transaction():
        email_id = producer.send(MAIL, session=session)
        more = producer.send_many(mails(2), priority="high", session=session)
        assert emails.count_documents({}) == 0
        assert producer.announce([email_id]) == 0
        assert ready(config) == []
    assert emails.count_documents({}) == 3
    assert ready(config) == []
    assert producer.announce([email_id, *more]) == 3
    assert ready_ids(config) == [*more, email_id]
    assert [job.priority for job in ready(config)] == [2048, 2048, 65_536]


def test_an_email_of_an_aborted_transaction_never_was(
    application: Application, config: Config, emails: Collection[Document]
) -> None:
    producer, client = application
    with client.start_session() as session:
        session.start_transaction()
        email_id = producer.send(MAIL, idempotency_key="order-1", session=session)
        session.abort_transaction()
    assert producer.status(email_id) is None
    assert producer.announce([email_id]) == 0
    assert emails.count_documents({}) == 0
    assert producer.send(MAIL, idempotency_key="order-1") == email_id
    assert emails.count_documents({}) == 1


def test_a_transaction_that_is_run_twice_stores_its_emails_once(
    application: Application, emails: Collection[Document]
) -> None:
    producer, client = application
    runs = []

    def work(session: ClientSession) -> str:
        runs.append(producer.send(MAIL, idempotency_key="order-1", session=session))
        if len(runs) == 1:
            error = OperationFailure("try again", 112)
            error._add_error_label("TransientTransactionError")
            raise error
        return runs[-1]

    with client.start_session() as session:
        email_id = session.with_transaction(work)
    assert len(runs) == 2
    assert emails.distinct("_id") == [ObjectId(email_id)]


def test_the_same_key_twice_in_one_transaction_is_one_email(
    application: Application, emails: Collection[Document]
) -> None:
    producer, client = application
    with client.start_session() as session, session.start_transaction():
        first = producer.send(MAIL, idempotency_key="order-1", session=session)
        assert producer.send(MAIL, idempotency_key="order-1", session=session) == first
        with pytest.raises(InvalidEmail, match="idempotency_key"):
            producer.send(OTHER_MAIL, idempotency_key="order-1", session=session)
    assert emails.distinct("_id") == [ObjectId(first)]


def test_a_key_known_before_the_transaction_gives_the_first_id(
    application: Application, emails: Collection[Document]
) -> None:
    producer, client = application
    first = producer.send(MAIL, idempotency_key="order-1")
    with client.start_session() as session, session.start_transaction():
        assert producer.send(MAIL, idempotency_key="order-1", session=session) == first
    assert emails.count_documents({}) == 1


def test_two_transactions_with_the_same_key_store_one_email(
    application: Application, emails: Collection[Document]
) -> None:
    """The loser's error says that its transaction may be run again; then it finds the key."""
    producer, client = application
    with client.start_session() as one, client.start_session() as other:
        one.start_transaction()
        first = producer.send(MAIL, idempotency_key="order-1", session=one)
        other.start_transaction()
        with pytest.raises(PyMongoError) as caught:
            producer.send(MAIL, idempotency_key="order-1", session=other)
        assert caught.value.has_error_label("TransientTransactionError")
        other.abort_transaction()
        one.commit_transaction()
        assert (
            other.with_transaction(
                lambda s: producer.send(MAIL, idempotency_key="order-1", session=s)
            )
            == first
        )
    assert emails.count_documents({}) == 1


def test_driver_errors_pass_through_in_the_callers_transaction(
    application: Application, mongo_client: MongoClient[Document]
) -> None:
    producer, client = application
    with client.start_session() as session, session.start_transaction():
        with failing(mongo_client, "insert", closeConnection=True), pytest.raises(AutoReconnect):
            producer.send(MAIL, session=session)
        session.abort_transaction()
    with client.start_session() as session, session.start_transaction():
        with failing(mongo_client, "find", errorCode=11601), pytest.raises(OperationFailure):
            producer.send(MAIL, idempotency_key="order-1", session=session)
        session.abort_transaction()


def test_the_applications_client_is_left_open(application: Application) -> None:
    producer, client = application
    producer.close()
    assert client.admin.command("ping")["ok"]
    assert producer.client is client


# A server that is away --------------------------------------------------------------------------


def test_without_mongodb_send_raises_in_time_and_says_what_is_not_known(config: Config) -> None:
    uri = f"mongodb://{NOBODY}/?replicaSet=rs0"
    producer = Producer(with_timeout(config, 0.4, uri=uri))
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        producer.send(MAIL)
    assert time.monotonic() - began < 0.4 + TO_SPARE
    assert len(caught.value.ids_unknown) == 1
    assert caught.value.ids_stored == ()
    assert NOBODY not in str(caught.value)
    with pytest.raises(StoreUnavailable):
        producer.connect()
    producer.close()


def test_when_mongodb_hangs_every_call_raises_in_time(servers_to_break: BreakableServers) -> None:
    mapping = {
        "mongodb": {
            "uri": servers_to_break.mongod.uri,
            "database": "mailqueue_test_hanging",
        },
        "beanstalkd": {**servers_to_break.config["beanstalkd"], "tube": "mailqueue_test_hanging"},
    }
    with Producer(Config.from_mapping(mapping)) as producer:
        email_id = producer.send(MAIL, idempotency_key="order-1")
        calls: list[Callable[[], object]] = [
            lambda: producer.send(MAIL),
            lambda: producer.send(MAIL, idempotency_key="order-1"),
            lambda: producer.send_many(mails(2), idempotency_keys=["order-1", "order-2"]),
            lambda: producer.status(email_id),
            lambda: producer.cancel(email_id),
            lambda: producer.announce([email_id]),
            producer.connect,
        ]
        servers_to_break.mongod.pause()
        try:
            for call in calls:
                began = time.monotonic()
                with impatient(store_of(producer), 0.5), pytest.raises(StoreUnavailable):
                    call()
                assert time.monotonic() - began < 0.5 + TO_SPARE
        finally:
            servers_to_break.mongod.resume()
        status = producer.status(email_id)
        assert status is not None
        assert status.status in (Status.QUEUED, Status.CANCELLED)


def test_when_mongodb_goes_away_in_the_middle_of_many_it_says_what_is_stored(
    config: Config, emails: Collection[Document], mongo_client: MongoClient[Document]
) -> None:
    with (
        Producer(with_timeout(config, 2.0)) as producer,
        failing(mongo_client, "insert", mode={"skip": 1}, closeConnection=True),
        pytest.raises(StoreUnavailable) as caught,
    ):
        producer.send_many(mails(1100))
    assert len(caught.value.ids_stored) == len(caught.value.ids_unknown) == 500
    assert emails.distinct("_id") == object_ids(caught.value.ids_stored)


def test_of_emails_that_do_not_depend_on_each_other_it_says_of_each_whether_it_is_stored(
    config: Config, emails: Collection[Document], mongo_client: MongoClient[Document]
) -> None:
    bad: EmailDict = {"from": "x"}
    with (
        Producer(with_timeout(config, 2.0)) as producer,
        failing(mongo_client, "insert", mode={"skip": 1}, closeConnection=True),
    ):
        results = producer.send_each({"email": mail} for mail in [*mails(1100), bad])
    ids = [each for each in results if isinstance(each, str)]
    errors = [each for each in results if isinstance(each, StoreUnavailable)]
    assert (len(ids), emails.distinct("_id")) == (500, object_ids(ids))
    assert [len(error.ids_unknown) for error in errors] == [1] * 500 + [0] * 100
    assert isinstance(results[-1], InvalidEmail)
    assert results[-1].index == 1100


@pytest.mark.parametrize(
    "fault",
    [
        {"closeConnection": True},
        {"writeConcernError": WRITE_CONCERN_ERROR},
        {"writeConcernError": {"code": 262, "errmsg": "no time"}},
        {"errorCode": 262, "errorLabels": ["RetryableWriteError"]},
        {"errorCode": 50},
    ],
    ids=["closed", "wtimeout", "stored but no time", "no time", "too late"],
)
@pytest.mark.parametrize("times", [1, 2])
def test_a_fault_on_the_way_to_the_store_is_overcome_and_the_email_stored_once(
    producer: Producer,
    emails: Collection[Document],
    mongo_client: MongoClient[Document],
    fault: Document,
    times: int,
) -> None:
    with failing(mongo_client, "insert", "update", mode={"times": times}, **fault):
        email_id = producer.send(MAIL)
    with failing(mongo_client, "insert", "update", mode={"times": times}, **fault):
        more = producer.send_many(mails(3))
    assert set(emails.distinct("_id")) == {ObjectId(i) for i in (email_id, *more)}


def test_an_outage_is_said_once_and_so_is_its_end(
    config: Config, caplog: pytest.LogCaptureFixture, mongo_client: MongoClient[Document]
) -> None:
    with Producer(config) as producer:
        with (
            impatient(store_of(producer)),
            failing(mongo_client, "insert", "find", closeConnection=True),
        ):
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    producer.send(MAIL)
        producer.send(MAIL)
        producer.send(MAIL)
    said = [event(record) for record in caplog.records if record.name == "mailqueue.outage"]
    assert said == ["server.lost", "server.recovered"]
    assert "example" not in caplog.text


# Threads, forks, closing ------------------------------------------------------------------------


def test_thirty_two_threads_share_one_producer(
    producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    barrier = threading.Barrier(32)

    def send(n: int) -> list[str]:
        barrier.wait()
        ids = [producer.send({**MAIL, "subject": f"{n}"}) for _ in range(10)]
        return ids + producer.send_many(mails(5))

    with ThreadPoolExecutor(32) as threads:
        ids = [email_id for of_one in threads.map(send, range(32)) for email_id in of_one]
    assert len(set(ids)) == 480
    assert set(emails.distinct("_id")) == set(object_ids(ids))
    assert sorted(ready_ids(config)) == sorted(ids)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_producer_works_before_and_after_a_fork_in_parent_and_child(
    config: Config, emails: Collection[Document]
) -> None:
    """As a pre-fork web server does it: each process opens its own connections."""
    with Producer(config) as producer:
        ids = [producer.send(MAIL, idempotency_key="before")]
        ids.append(in_a_child(lambda: producer.send(MAIL)))
        ids.append(producer.send(MAIL))
        ids.append(in_a_child(lambda: producer.send(MAIL, idempotency_key="before")))
        ids += in_a_child(lambda: ",".join(producer.send_many(mails(3)))).split(",")
        ids.append(producer.send(MAIL))
    assert ids[3] == ids[0]
    assert set(emails.distinct("_id")) == set(object_ids(ids))
    assert sorted(ready_ids(config)) == sorted(set(ids))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_producer_that_was_made_but_not_used_before_the_fork(
    config: Config, emails: Collection[Document]
) -> None:
    producer = Producer(config)
    child = in_a_child(lambda: producer.send(MAIL))
    parent = producer.send(MAIL)
    producer.close()
    assert set(emails.distinct("_id")) == set(object_ids([child, parent]))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_closing_in_a_child_leaves_the_parents_connections_alone(
    config: Config, emails: Collection[Document]
) -> None:
    with Producer(config) as producer:
        first = producer.send(MAIL)

        def close() -> str:
            producer.close()
            return "closed"

        assert in_a_child(close) == "closed"
        second = producer.send(MAIL)
    assert sorted(ready_ids(config)) == sorted([first, second])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_connects_does_not_lock_the_child(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Producer(config)
    connecting, forked = threading.Event(), threading.Event()
    parent, open_storage = os.getpid(), Storage.open

    def open_slowly(*args: Any) -> Storage:
        if os.getpid() == parent:
            connecting.set()
            forked.wait(30)
        return open_storage(*args)

    monkeypatch.setattr(Storage, "open", open_slowly)
    thread = threading.Thread(target=producer.connect)
    thread.start()
    assert connecting.wait(30)
    child = in_a_child(lambda: producer.send(MAIL))
    forked.set()
    thread.join()
    assert producer.status(child) is not None
    producer.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_of_pre_forked_children_store_what_they_are_given_ids_for(
    config: Config, emails: Collection[Document]
) -> None:
    """Of a server that made its producer, and used it, before it forked; all begin at once."""

    def serve() -> str:
        begin = threading.Barrier(4)

        def request(_: int) -> list[str]:
            begin.wait(10)
            return [producer.send(MAIL) for _ in range(5)]

        with ThreadPoolExecutor(4) as threads:
            return ",".join(email_id for ids in threads.map(request, range(4)) for email_id in ids)

    with Producer(config) as producer:
        producer.send(MAIL)
        with ThreadPoolExecutor(3) as pool:
            children = list(pool.map(in_a_child, [serve] * 3))
    ids = [email_id for child in children for email_id in child.split(",")]
    assert len(set(ids)) == 60
    assert set(object_ids(ids)) < set(emails.distinct("_id"))
    assert emails.count_documents({}) == 61


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_given_the_number_of_an_ancestor_opens_its_own_connections(
    producer: Producer, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = producer.send(MAIL)
    number = os.getpid()

    def send() -> str:
        monkeypatch.setattr(os, "getpid", lambda: number)
        opened = len(producer._connections.opened)
        email_id = producer.send(MAIL)
        assert len(producer._connections.opened) == opened + 1
        return email_id

    child = in_a_child(send)
    assert sorted(ready_ids(config)) == sorted([first, child])


def test_a_closed_producer_opens_anew_when_it_is_used_again(producer: Producer) -> None:
    first = producer.send(MAIL)
    producer.quit()
    producer.close()
    assert producer.status(first) is not None


def test_the_context_manager_connects_and_closes(config: Config, mongod: Mongod) -> None:
    with Producer(config) as producer:
        email_id = producer.send(MAIL)
        client = producer.client
    with pytest.raises(PyMongoError):
        client.admin.command("ping")
    assert email_id


def test_the_largest_email_has_room_in_the_cache_of_a_server_for_development(
    producer: Producer,
) -> None:
    """With the indexes: of 256 MiB its insertion took too much, however often it was repeated."""
    producer.connect()
    content = os.urandom(int(14.9 * 2**20))
    assert producer.send({**MAIL, "attachments": [{"filename": "x.bin", "content": content}]})
