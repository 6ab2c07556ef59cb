"""Looking at what is stored, with its content, and giving an e-mail another time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue import Email, InvalidEmail, Producer, Status, StoredEmail, StoreUnavailable
from mailqueue.config import Config
from mailqueue.consumer import Consumer
from mailqueue.devserver import Mongod
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.store import ids
from mailqueue.store.audit import problems
from tests.servers import BreakableServers
from tests.stage import Stage, letter

Document = dict[str, Any]
SOON = datetime(2100, 1, 1, 12, tzinfo=UTC)
LATER = SOON + timedelta(days=1)


@pytest.fixture
def producer(config: Config) -> Iterator[Producer]:
    with Producer(config) as made:
        yield made


def listed(emails: list[StoredEmail]) -> list[str]:
    return [each.id for each in emails]


# find and recent -----------------------------------------------------------------------------


def test_an_email_is_found_with_its_content_and_options(producer: Producer) -> None:
    mail = letter(1) | {"attachments": [{"filename": "a.txt", "content": b"abc"}]}
    email_id = producer.send(
        mail, priority="bulk", send_at=SOON, expires_at=LATER, idempotency_key="order-1"
    )
    stored = producer.find(email_id)
    assert stored is not None
    assert stored.id == email_id
    assert stored.email == Email.from_mapping(mail)
    assert (stored.priority, stored.expires_at, stored.idempotency_key) == (
        "bulk",
        LATER,
        "order-1",
    )
    assert stored.status == producer.status(email_id)
    assert stored.status.due_at == SOON


def test_an_email_is_found_by_its_uuid(producer: Producer) -> None:
    email_id = producer.send(letter(1))
    uuid = str(ids.to_uuid(email_id))
    assert UUID(uuid).version == 8
    stored = producer.find(uuid)
    assert stored is not None
    assert stored.id == email_id
    assert producer.reschedule(uuid, SOON)
    assert producer.cancel(uuid)


def test_what_is_not_there_is_not_found(producer: Producer) -> None:
    assert producer.find(str(ObjectId())) is None
    with pytest.raises(ValueError, match="24 hexadecimal"):
        producer.find("no id")


def test_an_email_whose_content_is_damaged_is_found_without_it(
    producer: Producer, emails: Collection[Document]
) -> None:
    email_id = producer.send(letter(1))
    emails.update_one({"_id": ObjectId(email_id)}, {"$set": {"email.to": 7, "priority": "x"}})
    stored = producer.find(email_id)
    assert stored is not None
    assert stored.email is None
    assert stored.priority == "normal"
    assert stored.status.status is Status.QUEUED


def test_pages_of_the_newest_follow_each_other_in_both_directions(producer: Producer) -> None:
    sent = [producer.send(letter(n)) for n in range(7)]
    newest_first = sent[::-1]
    first = listed(producer.recent(3))
    second = listed(producer.recent(3, after=first[-1]))
    third = listed(producer.recent(3, after=second[-1]))
    assert first + second + third == newest_first
    assert listed(producer.recent(3, before=third[0])) == second
    assert listed(producer.recent(3, before=second[0])) == first
    assert listed(producer.recent(2, before=third[0])) == second[1:]
    assert producer.recent(3, before=first[0]) == producer.recent(3, after=third[-1]) == []


def test_a_cursor_need_not_be_stored_any_more(
    producer: Producer, emails: Collection[Document]
) -> None:
    sent = [producer.send(letter(n)) for n in range(3)]
    emails.delete_one({"_id": ObjectId(sent[1])})
    assert listed(producer.recent(after=sent[1])) == [sent[0]]
    assert listed(producer.recent(before=sent[1])) == [sent[2]]


def test_the_list_leaves_out_what_may_be_large(producer: Producer) -> None:
    files = [{"filename": "a.txt", "content": b"x" * 2**20}]
    mail = {**letter(1), "html": "<p>Hi</p>", "attachments": files, "tags": ["autumn"]}
    producer.send(Email.from_mapping(mail))
    (listed,) = producer.recent()
    assert listed.email is not None
    assert (listed.email.text, listed.email.html, listed.email.attachments) == ("", None, ())
    assert (str(listed.email.to[0]), listed.email.tags) == (letter(1)["to"], ("autumn",))
    whole = producer.find(listed.id)
    assert whole is not None
    assert whole.email is not None
    assert len(whole.email.attachments) == 1


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1001}, {"after": "x"}])
def test_a_list_that_cannot_be_asked_for_is_refused(
    options: dict[str, Any], producer: Producer
) -> None:
    with pytest.raises(ValueError, match=r"limit|hexadecimal"):
        producer.recent(**options)


def test_a_list_has_one_cursor_only(producer: Producer) -> None:
    email_id = str(ObjectId())
    with pytest.raises(ValueError, match="exclude"):
        producer.recent(after=email_id, before=email_id)


# reschedule ----------------------------------------------------------------------------------


def test_an_email_is_given_another_time_and_another_job(
    producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    email_id = producer.send(letter(1), send_at=LATER)
    assert producer.reschedule(email_id, SOON)
    status = producer.status(email_id)
    assert status is not None
    assert status.due_at == SOON
    stored = emails.find_one({"_id": ObjectId(email_id)}) or {}
    assert stored["send_at"] == SOON
    assert stored["overdue_at"] == SOON + timedelta(seconds=900)
    assert depth(config.beanstalkd)["delayed"] == 2


def test_an_email_that_is_brought_forward_is_sent_now(stage: Stage) -> None:
    vendor = stage.vendor("first")
    (email_id,) = stage.send(send_at=LATER)
    assert Consumer(stage.config, burst=True).run() == 0
    assert vendor.calls == []
    assert stage.producer.reschedule(email_id, datetime.now(UTC))
    assert Consumer(stage.config, burst=True).run() == 0
    assert vendor.calls == [email_id]
    assert not stage.producer.reschedule(email_id, LATER)


def test_an_email_that_is_put_off_is_not_sent_by_its_first_job(stage: Stage) -> None:
    vendor = stage.vendor("first")
    (email_id,) = stage.send()
    assert stage.producer.reschedule(email_id, LATER)
    assert Consumer(stage.config, burst=True).run() == 0
    assert vendor.calls == []
    assert stage.jobs() == {"delayed": 2}


def test_a_rescheduled_email_passes_the_audit(stage: Stage) -> None:
    stage.vendor("first")
    (email_id,) = stage.send()
    assert stage.producer.reschedule(email_id, SOON)
    found = stage.producer._connections.storage().store.find({}, 9)
    assert [problem for each in found for problem in problems(each)] == []
    assert stage.producer.reschedule(email_id, datetime.now(UTC))
    assert Consumer(stage.config, burst=True).run() == 0
    found = stage.producer._connections.storage().store.find({}, 9)
    assert [problem for each in found for problem in problems(each)] == []


def test_what_has_ended_or_is_unknown_is_not_rescheduled(producer: Producer) -> None:
    email_id = producer.send(letter(1), send_at=LATER)
    assert producer.cancel(email_id)
    assert not producer.reschedule(email_id, SOON)
    assert not producer.reschedule(str(ObjectId()), SOON)


def test_a_time_that_send_would_refuse_is_refused(producer: Producer) -> None:
    email_id = producer.send(letter(1), send_at=LATER)
    for time in (datetime(2100, 1, 1), "tomorrow", None):  # noqa: DTZ001  # the test needs one
        with pytest.raises(InvalidEmail) as caught:
            producer.reschedule(email_id, time)  # type: ignore[arg-type]  # the test needs it
        assert caught.value.field == "send_at"


def test_an_email_is_rescheduled_while_beanstalkd_is_away(
    servers_to_break: BreakableServers, config_mapping: Document
) -> None:
    mongod, beanstalkd = servers_to_break.mongod, servers_to_break.beanstalkd
    config_mapping["mongodb"]["uri"] = mongod.uri
    config_mapping["beanstalkd"]["servers"] = [beanstalkd.address]
    with Producer(Config.from_mapping(config_mapping)) as producer:
        email_id = producer.send(letter(1), send_at=LATER)
        beanstalkd.kill()
        assert producer.reschedule(email_id, SOON)


# check_writable ------------------------------------------------------------------------------


def test_mongodb_that_takes_writes_is_writable(producer: Producer) -> None:
    producer.check_writable()
    producer.check_writable()


def test_mongodb_that_is_away_is_not_writable(
    servers_to_break: BreakableServers, config_mapping: Document
) -> None:
    mongod: Mongod = servers_to_break.mongod
    config_mapping["mongodb"] |= {"uri": mongod.uri, "timeout": 2}
    producer = Producer(Config.from_mapping(config_mapping))
    producer.check_writable()
    mongod.kill()
    with pytest.raises(StoreUnavailable):
        producer.check_writable()
    producer.close()
