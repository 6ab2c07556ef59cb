"""An id is given only for an e-mail that a majority keeps, and that is the caller's own.

A primary that was cut off is played by a store that loses what it has written when the next one
takes over; a whole set of three is not needed to see what is believed then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, BulkWriteError, DuplicateKeyError

from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import Suspension
from mailqueue.producer import Producer
from mailqueue.producer.storage import Storage
from mailqueue.producer.submission import SendOptions, Submission
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.rotation import Permit
from mailqueue.store import ids
from mailqueue.store.document import SIMULATED
from mailqueue.store.store import Store
from tests.integration.bench import (
    MAIL,
    Document,
    LosesReplies,
    create_old_index,
    mails,
    object_ids,
)
from tests.integration.test_producer import Heard, client_of


class Deposed(Store):
    """The first try's reply is lost; the second finds what the next primary never had."""

    tries = 0

    def _write_new(self, documents: Sequence[Any], session: Any = None) -> None:
        self.tries += 1
        try:
            super()._write_new(documents, session)
        except (DuplicateKeyError, BulkWriteError):
            if self.tries == 2:
                self.emails.delete_many({"_id": {"$in": [d["_id"] for d in documents]}})
            raise
        if self.tries == 1:
            raise AutoReconnect("the reply was lost")


class HalfRefused(Store):
    """The first try stores one of its e-mails; another has a taken key, the rest no primary."""

    tries = 0

    def _write_new(self, documents: Sequence[Any], session: Any = None) -> None:
        self.tries += 1
        if self.tries > 1:
            return super()._write_new(documents, session)
        super()._write_new(documents[:1], session)
        taken = {"idempotency_key": documents[1]["idempotency_key"]}
        errors: list[Document] = [{"index": 1, "code": 11000, "keyValue": taken}]
        errors += [{"index": n, "code": 10107} for n in range(2, len(documents))]
        raise BulkWriteError({"writeErrors": errors})


class Forgets(Store):
    """What a first look at the keys finds, the next primary does not have."""

    looks = 0

    def _are_durable(self, stored: Sequence[Any]) -> bool:
        self.looks += 1
        if self.looks == 1:
            self.emails.delete_many({"_id": {"$in": [d["_id"] for d in stored]}})
        return super()._are_durable(stored)


Make = Callable[[type[Store]], Producer]


@pytest.fixture
def producing(config: Config) -> Iterator[Make]:
    """Producers on a store that plays a trick."""
    made: list[Producer] = []

    def make(kind: type[Store]) -> Producer:
        producer = Producer(config)
        opened = producer._connections.storage()
        opened.store.close()
        tricky = kind(config.mongodb, env=SIMULATED)
        for key in producer._connections.opened:
            producer._connections.opened[key] = Storage(tricky, opened.announcer)
        made.append(producer.connect())
        return producer

    yield make
    for producer in made:
        producer.close()


def send_one(producer: Producer) -> list[str]:
    return [producer.send(MAIL)]


def send_three(producer: Producer) -> list[str]:
    return producer.send_many(mails(3))


@pytest.mark.parametrize("send", [send_one, send_three])
def test_what_a_primary_had_that_was_cut_off_is_stored_again(
    producing: Make, emails: Collection[Document], send: Callable[[Producer], list[str]]
) -> None:
    given = send(producing(Deposed))
    assert set(emails.distinct("_id")) == set(object_ids(given))


def test_an_error_of_another_kind_beside_a_taken_key_loses_nothing(
    config: Config, emails: Collection[Document]
) -> None:
    store = HalfRefused(config.mongodb, env=SIMULATED)
    store.ensure_indexes()
    store.emails.insert_one({"idempotency_key": "taken"})
    create_old_index(store.emails)
    made: list[Document] = [{"_id": ids.new(), "nonce": ids.new()} for _ in range(4)]
    made[1]["idempotency_key"] = "taken"
    holders, refused = store.insert(made)
    assert (set(holders), refused) == ({"taken"}, {})
    store.close()
    assert {d["_id"] for d in made if "idempotency_key" not in d} <= set(emails.distinct("_id"))
    assert emails.count_documents({}) == 4


@pytest.mark.parametrize("many", [False, True])
def test_a_key_that_only_the_old_primary_knew_is_free(
    producing: Make, emails: Collection[Document], many: bool
) -> None:
    producer = producing(Forgets)
    producer.send(MAIL, idempotency_key="order-1")
    first = emails.distinct("nonce")
    if many:
        given = producer.send_many([MAIL, *mails(1)], idempotency_keys=["order-1", "order-2"])
    else:
        given = [producer.send(MAIL, idempotency_key="order-1")]
    assert set(emails.distinct("_id")) == set(object_ids(given))
    assert not set(first) & set(emails.distinct("nonce"))


# The id of another ------------------------------------------------------------------------------


@pytest.fixture
def taken(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An id that is an e-mail's already; the next that is read gets it too."""
    first = producer.send({**MAIL, "subject": "A stranger's"})
    of = Submission.of
    submissions: list[Submission] = []

    def the_same_id(
        email: Any, options: SendOptions, key: str | None, index: int | None = None
    ) -> Submission:
        submissions.append(of(email, options, key, index))
        if len(submissions) == 1:
            submissions[0].id = ObjectId(first)
        return submissions[-1]

    monkeypatch.setattr(Submission, "of", the_same_id)
    return first


@pytest.mark.parametrize("send", [send_one, send_three])
def test_the_id_of_anothers_email_is_never_given(
    producer: Producer,
    emails: Collection[Document],
    taken: str,
    send: Callable[[Producer], list[str]],
) -> None:
    before = emails.find_one({"_id": ObjectId(taken)})
    given = send(producer)
    assert taken not in given
    assert set(emails.distinct("_id")) == set(object_ids([taken, *given]))
    for stored in emails.find():
        assert stored["message_id"] == f"<{stored['_id']}@example.com>"
    assert emails.find_one({"_id": ObjectId(taken)}) == before


def test_of_two_calls_with_one_id_each_keeps_its_email_when_replies_are_lost(
    config: Config, emails: Collection[Document]
) -> None:
    store = LosesReplies(config.mongodb, env=SIMULATED)
    store.to_lose = 2
    one = {"_id": ids.new(), "nonce": ids.new(), "message_id": ""}
    other = one | {"nonce": ids.new()}
    store.insert([one])
    store.insert([other])
    store.close()
    nonces = {stored["_id"]: stored["nonce"] for stored in emails.find()}
    assert nonces == {one["_id"]: one["nonce"], other["_id"]: other["nonce"]}
    assert len(nonces) == 2


# Reading ----------------------------------------------------------------------------------------


def test_what_an_application_is_told_cannot_be_rolled_back(config: Config) -> None:
    heard = Heard()
    with client_of(config, event_listeners=[heard]) as client:
        with Producer(config, client=client) as producer:
            email_id = producer.send(MAIL)
            heard.commands.clear()
            producer.status(email_id)
            producer.cancel(email_id)
        reads = heard.named("aggregate") + heard.named("find")
    # The status, and what the e-mail is by now before and after the cancellation.
    assert [read["readConcern"] for read in reads] == [{"level": "majority"}] * 3


def test_a_change_of_health_whose_reply_was_lost_is_ours_only_if_a_majority_has_it(
    config: Config,
) -> None:
    heard = Heard()
    with client_of(config, event_listeners=[heard]) as client:
        store = LosesReplies(config.mongodb, env=SIMULATED, client=client)
        board = VendorHealth(store, ["first"])
        board.refresh()
        store.to_lose = 1
        board.report(Permit("first"), Suspension(seconds=60.0, reason="unavailable"))
        last = heard.named("aggregate")[-1]
        assert not board.read()["first"].available
    assert last["readConcern"] == {"level": "majority"}
