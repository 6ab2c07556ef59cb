"""An outbox in the middle of an application's own MongoDB transactions."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from mailqueue import EmailDict, InvalidEmail, Producer
from mailqueue.testing import Outbox

Document = dict[str, Any]
MAIL: EmailDict = {"from": "ann@example.com", "to": ["bob@example.org"], "text": "Hello"}
OTHER: EmailDict = {**MAIL, "text": "Something else"}


@pytest.fixture
def orders(emails: Collection[Document]) -> Collection[Document]:
    """The application's own; there before the transaction, as MongoDB likes it best."""
    return emails.database.create_collection(emails.name + "_orders")


def order(orders: Collection[Document], producer: Producer, session: ClientSession) -> str:
    orders.insert_one({"article": "A lamp"}, session=session)
    return producer.send(MAIL, idempotency_key="k", session=session)


def test_an_email_is_sent_when_its_transaction_is_committed(
    orders: Collection[Document], mongo_client: MongoClient[Document], mailqueue_outbox: Outbox
) -> None:
    producer = Producer(client=mongo_client)
    with producer.client.start_session() as session:
        with session.start_transaction():
            email_id = order(orders, producer, session)
            assert len(mailqueue_outbox) == 0
            assert producer.send(MAIL, idempotency_key="k", session=session) == email_id
        assert [item.id for item in mailqueue_outbox] == [email_id]
        assert producer.announce([email_id]) == 1
        again = session.with_transaction(lambda own: order(orders, producer, own))
        assert again == email_id
        with session.start_transaction(), pytest.raises(InvalidEmail, match="idempotency_key"):
            producer.send(OTHER, idempotency_key="k", session=session)
    assert orders.count_documents({}) == 2
    assert len(mailqueue_outbox) == 1


def test_an_email_is_not_sent_when_its_transaction_is_aborted(
    orders: Collection[Document], mongo_client: MongoClient[Document], mailqueue_outbox: Outbox
) -> None:
    producer = Producer(client=mongo_client)
    with mongo_client.start_session() as session:
        with suppress(ZeroDivisionError), session.start_transaction():
            order(orders, producer, session)
            raise ZeroDivisionError
        session.start_transaction()
        order(orders, producer, session)
    assert (len(mailqueue_outbox), orders.count_documents({})) == (0, 0)
    with mongo_client.start_session() as session:
        session.with_transaction(lambda own: order(orders, producer, own))
    assert len(mailqueue_outbox) == 1


def test_a_session_without_a_transaction_stores_at_once(
    mongo_client: MongoClient[Document], mailqueue_outbox: Outbox
) -> None:
    with mongo_client.start_session() as session:
        Producer(client=mongo_client).send(MAIL, session=session)
        assert len(mailqueue_outbox) == 1
