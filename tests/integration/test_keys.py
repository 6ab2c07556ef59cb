"""An idempotency key is kept to one e-mail by its ``_id``, beside what older versions stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from mailqueue import Producer
from mailqueue.config import Config
from mailqueue.errors import InvalidEmail
from mailqueue.store import document, ids, paging
from mailqueue.store.document import CLOCK_TOKEN, PRODUCTION, SIMULATED
from mailqueue.store.store import Store
from tests.console import Console
from tests.integration.bench import (
    MAIL,
    OTHER_MAIL,
    Document,
    LosesReplies,
    create_old_index,
    mails,
)
from tests.integration.test_producer import Heard, client_of

KEY = "order-1"


def of_before(emails: Collection[Document], email_id: str) -> str:
    """The e-mail as an older version would have stored it; returns its id."""
    stored = emails.find_one_and_delete({"_id": ObjectId(email_id)})
    assert stored is not None
    old = {**stored, "_id": ids.new(), "lease": {"token": 0}}
    emails.insert_one(old)
    return str(old["_id"])


@pytest.fixture
def old(producer: Producer, emails: Collection[Document]) -> str:
    """The e-mail with ``KEY`` that an older version stored, with its index."""
    create_old_index(emails)
    email_id = of_before(emails, producer.send(MAIL, idempotency_key=KEY))
    producer.close()  # what it knows of the indexes is forgotten
    return email_id


# One e-mail for each key --------------------------------------------------------------------------


def test_a_key_names_its_emails_id_and_no_index(
    producer: Producer, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL, idempotency_key=KEY)
    assert email_id == str(ids.of_key(SIMULATED, KEY))
    assert producer.send_many([MAIL, MAIL], idempotency_keys=[KEY, KEY]) == [email_id] * 2
    assert not any("idempotency_key" in name for name in emails.index_information())
    with pytest.raises(InvalidEmail, match="idempotency_key"):
        producer.send(OTHER_MAIL, idempotency_key=KEY)
    assert emails.count_documents({}) == 1


def test_a_key_of_each_kind_of_producer_is_another_email(
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulated = producer.send(MAIL, idempotency_key=KEY)
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    with Producer(config) as other:
        real = other.send(OTHER_MAIL, idempotency_key=KEY)
        assert other.send_many(mails(1), idempotency_keys=["order-2"]) != [simulated]
    assert simulated != real
    assert {str(d["_id"]): d["env"] for d in emails.find({"idempotency_key": KEY})} == {
        simulated: SIMULATED,
        real: PRODUCTION,
    }


def test_a_new_key_is_one_insert_and_a_taken_one_is_read_by_its_id(config: Config) -> None:
    heard = Heard()
    with client_of(config, event_listeners=[heard]) as client:
        with Producer(config, client=client) as producer:
            heard.commands.clear()
            producer.send(MAIL, idempotency_key=KEY)
            assert [*map(next, map(iter, heard.commands))] == ["insert"]
            producer.send(MAIL, idempotency_key=KEY)
        assert [find["filter"].keys() for find in heard.named("find")] == [{"_id"}]
        (confirmed,) = heard.named("update")
        assert confirmed["updates"][0]["q"].keys() == {"_id", "nonce"}


def test_what_another_has_under_the_id_of_a_key_stays_and_the_key_gets_the_next_id(
    producer: Producer, emails: Collection[Document]
) -> None:
    """Of a collision, or stored by hand."""
    strange = {"_id": ids.of_key(SIMULATED, KEY), "idempotency_key": "another", "content_hash": ""}
    emails.insert_one(dict(strange))
    email_id = producer.send(MAIL, idempotency_key=KEY)
    assert email_id != str(strange["_id"])
    assert producer.send(MAIL, idempotency_key=KEY) == email_id
    assert producer.send_many([MAIL, MAIL], idempotency_keys=[KEY, "order-2"])[0] == email_id
    with pytest.raises(InvalidEmail, match="idempotency_key"):
        producer.send(OTHER_MAIL, idempotency_key=KEY)
    assert emails.find_one({"_id": strange["_id"]}) == strange
    assert emails.count_documents({}) == 3


def test_a_lost_reply_is_no_second_email_and_no_taken_key(
    config: Config, emails: Collection[Document]
) -> None:
    producer = Producer(config)
    storage = producer._connections.storage()
    storage.store.close()
    store = LosesReplies(config.mongodb, env=SIMULATED)
    object.__setattr__(storage, "store", store)
    store.to_lose = 2
    email_id = producer.send(MAIL, idempotency_key=KEY)
    store.to_lose = 1
    assert producer.send(MAIL, idempotency_key=KEY) == email_id
    assert emails.count_documents({}) == 1
    producer.close()


def test_after_it_was_pruned_a_key_is_new_and_nothing_that_vendors_remember_comes_again(
    producer: Producer, emails: Collection[Document]
) -> None:
    names = []
    for _ in range(2):
        email_id = producer.send(MAIL, idempotency_key=KEY)
        (stored,) = Store.read(producer._connections.storage().store, [ObjectId(email_id)]).values()  # type: ignore[arg-type]  # it is one
        names.append((stored.attempt_key, stored.document["message_id"]))
        assert stored.token >= CLOCK_TOKEN
        assert stored.incarnation == stored.document["nonce"]
        emails.delete_many({})
    first, second = names
    assert not set(first) & set(second)


# What older versions stored -----------------------------------------------------------------------


def test_a_key_of_an_older_version_gives_its_first_email_in_every_way(
    old: str, config: Config, emails: Collection[Document]
) -> None:
    with client_of(config) as client, Producer(config, client=client) as producer:
        assert producer.send(MAIL, idempotency_key=KEY) == old
        many = producer.send_many([MAIL, *mails(1)], idempotency_keys=[KEY, "order-2"])
        assert many[0] == old
        call = {"email": MAIL, "idempotency_key": KEY}
        assert producer.send_each([call]) == [old]  # type: ignore[list-item]  # its keys are right
        with client.start_session() as session, session.start_transaction():
            assert producer.send(MAIL, idempotency_key=KEY, session=session) == old
        with pytest.raises(InvalidEmail, match="idempotency_key"):
            producer.send(OTHER_MAIL, idempotency_key=KEY)
    assert emails.count_documents({}) == 2
    assert "idempotency_key_1" in emails.index_information()


def test_an_older_producer_beside_a_new_one_stores_no_second_email(
    old: str, config: Config, emails: Collection[Document]
) -> None:
    """Whoever is first: the old index knows the keys of both."""
    with Producer(config) as producer, ThreadPoolExecutor(8) as threads:
        sends = [threads.submit(producer.send, MAIL, idempotency_key=KEY) for _ in range(16)]
        assert {each.result() for each in sends} == {old}
        new = producer.send(MAIL, idempotency_key="order-2")
        (stored,) = emails.find({"_id": ObjectId(new)})
    with pytest.raises(OperationFailure, match="idempotency_key"):
        emails.insert_one({**stored, "_id": ids.new()})


def test_an_index_that_an_older_producer_makes_later_is_heeded(
    config: Config, emails: Collection[Document]
) -> None:
    with client_of(config) as client, Producer(config, client=client) as producer:
        producer.send(MAIL, idempotency_key="order-0")
        create_old_index(emails)
        stored = emails.find_one_and_delete({})
        assert stored is not None
        emails.insert_one({**stored, "_id": ids.new(), "idempotency_key": KEY})
        email_id = producer.send(MAIL, idempotency_key=KEY)
        with client.start_session() as session, session.start_transaction():
            assert producer.send(MAIL, idempotency_key=KEY, session=session) == email_id
    assert emails.count_documents({}) == 1


def test_without_the_index_of_before_no_key_is_looked_for_in_all_emails(
    old: str, config: Config, emails: Collection[Document]
) -> None:
    """Dropped under a producer that knew it."""
    with Producer(config) as producer:
        assert producer.send_many([MAIL, MAIL], idempotency_keys=[KEY, "order-2"])[0] == old
        emails.drop_index("idempotency_key_1")
        new = producer.send_many([MAIL, MAIL], idempotency_keys=[KEY, "order-3"])
    assert new[0] == str(ids.of_key(SIMULATED, KEY))


def test_the_index_of_before_is_made_again_where_its_emails_came_without_it(
    old: str, config: Config, emails: Collection[Document]
) -> None:
    """Restored from a dump, say."""
    emails.drop_indexes()
    with Producer(config) as producer:
        assert producer.send(MAIL, idempotency_key=KEY) == old
    assert "idempotency_key_1" in emails.index_information()


def test_doctor_says_when_no_email_needs_the_index_of_before_any_more(
    old: str, config: Config, emails: Collection[Document]
) -> None:
    store = Store(config.mongodb, env=SIMULATED)
    assert not store.keys.has_unused_index()
    emails.delete_many({})
    with Producer(config) as producer:
        producer.send(MAIL, idempotency_key=KEY)
    assert store.keys.has_unused_index()
    emails.drop_index("idempotency_key_1")
    assert not store.keys.has_unused_index()
    store.close()


# In order of time ---------------------------------------------------------------------------------


def test_emails_with_and_without_a_key_are_listed_by_their_age(
    producer: Producer, emails: Collection[Document]
) -> None:
    sent = [producer.send(MAIL, idempotency_key=None if n % 3 else f"order-{n}") for n in range(12)]
    newest = sent[::-1]
    pages = [producer.recent(5)]
    while pages[-1]:
        pages.append(producer.recent(5, after=pages[-1][-1].id))
    assert [each.id for page in pages for each in page] == newest
    assert [each.id for each in producer.recent(4, before=newest[6])] == newest[2:6]
    middle = ObjectId(newest[6])
    emails.delete_one({"_id": middle})
    if newest.index(str(middle)) % 3:  # an id that was made of the time
        assert [each.id for each in producer.recent(4, before=str(middle))] == newest[2:6]


def test_the_cursor_of_a_pruned_email_with_a_key_is_older_than_all(
    producer: Producer, emails: Collection[Document]
) -> None:
    first = producer.send(MAIL, idempotency_key=KEY)
    rest = [producer.send(MAIL) for _ in range(3)]
    emails.delete_one({"_id": ObjectId(first)})
    assert producer.recent(after=first) == []
    assert [each.id for each in producer.recent(2, before=first)] == rest[:2][::-1]


def test_a_page_is_read_by_the_index(
    producer: Producer, mongo_client: MongoClient[Document], emails: Collection[Document]
) -> None:
    middle = producer.send_many(mails(40), idempotency_keys=[f"order-{n}" for n in range(40)])[20]
    match = paging.beyond(ObjectId(middle), emails.find_one({"_id": ObjectId(middle)}), -1)
    explained = mongo_client[emails.database.name].command(
        "explain",
        {"find": emails.name, "filter": match, "sort": {"created_at": -1, "_id": -1}, "limit": 5},
        verbosity="executionStats",
    )
    assert explained["executionStats"]["totalKeysExamined"] <= 45
    assert "'SORT'" not in str(explained["queryPlanner"]["winningPlan"])


def test_the_command_lists_the_oldest_first_and_those_without_a_time_before_them(
    producer: Producer,
    emails: Collection[Document],
    console: Console,
) -> None:
    sent = [producer.send(MAIL, idempotency_key=f"order-{n}") for n in range(6)]
    emails.update_one({"_id": ObjectId(sent[3])}, {"$set": {"created_at": "yesterday"}})
    emails.update_one({"_id": ObjectId(sent[4])}, {"$unset": {"created_at": 1}})
    shown = [each["id"] for each in console.data("list")["emails"]]
    assert set(shown[:2]) == {sent[3], sent[4]}
    assert shown[2:] == [sent[n] for n in (0, 1, 2, 5)]


def test_a_clock_far_in_the_past_still_makes_a_token_that_says_so(
    producer: Producer, emails: Collection[Document]
) -> None:
    email = {"email_id": ids.new(), "message_id": "", "env": SIMULATED, "content_hash": ""}
    when = ids.time_of(ids.new()).replace(year=1980) + timedelta(0)
    made = document.new({}, priority=1, now=when, idempotency_key=KEY, nonce=ids.new(), **email)  # type: ignore[arg-type]  # as given
    assert made["lease"]["token"] == CLOCK_TOKEN
