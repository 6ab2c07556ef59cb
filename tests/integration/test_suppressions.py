"""Who gets no e-mail any more: the list on a real mongod, and what a consumer does with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config, Suppression
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email, EmailDict
from mailqueue.producer import Producer
from mailqueue.producer.status import EmailStatus
from mailqueue.store import audit, ids
from mailqueue.store.interventions import Verb
from mailqueue.store.suppressions import Report, Suppressions
from tests.damage import MARK, undecodable
from tests.integration.bench import DOWN, MAIL, UNHEARD, Bench, failing
from tests.integration.test_failover import consuming
from tests.stage import Stage

Document = dict[str, Any]
AT = datetime(2026, 5, 28, 20, 26, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
ANN, BOB = "ann@example.net", "bob@example.net"
TWO: EmailDict = {**MAIL, "to": [ANN, BOB]}


@pytest.fixture
def config_mapping(config_mapping: Document) -> Document:
    return {**config_mapping, "suppression": {}}


@pytest.fixture
def bench(config: Config) -> Iterator[Bench]:
    made = Bench(config)
    made.store.ensure_indexes()
    yield made
    made.close()


@pytest.fixture
def suppressions(bench: Bench) -> Suppressions:
    return Suppressions(bench.store, ("bounced", "complained"))


@pytest.fixture
def entries(config: Config, mongo_client: MongoClient[Document]) -> Collection[Document]:
    """The list as it is stored."""
    return mongo_client[config.mongodb.database][f"{config.mongodb.collection}.suppressed"]


class Post:
    """An application, one consumer that works step by step, and what its vendors were handed."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench = bench
        self.producer = Producer(bench.config)
        self.sent: list[tuple[Email, tuple[str, ...] | None]] = []
        for vendor in bench.vendors.values():
            monkeypatch.setattr(vendor, "send", self._recorded(vendor.send))

    def _recorded(self, send: Any) -> Any:
        def record(email: Email, attempt: Any) -> SendResult:
            self.sent.append((email, attempt.recipients))
            result: SendResult = send(email, attempt)
            return result

        return record

    def send(self, email: EmailDict) -> str:
        email_id = self.producer.send(email)
        self.bench.work()
        return email_id

    def status(self, email_id: str) -> EmailStatus:
        status = self.producer.status(email_id)
        assert status is not None
        return status

    def document(self, email_id: str) -> Document:
        stored = self.bench.store.find_whole(ObjectId(email_id))
        assert stored is not None
        assert audit.problems(stored) == []
        return dict(stored.document)

    def answer(self, *results: SendResult) -> None:
        """Let the next attempts have these results, whichever vendor makes them."""
        for vendor in self.bench.vendors.values():
            vendor.results = list(results)


@pytest.fixture
def post(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    made = Post(bench, monkeypatch)
    yield made
    made.producer.close()


# The list -----------------------------------------------------------------------------------------


def report(entry: str = ANN, reason: str = "bounced", source: str = "ses", **more: Any) -> Report:
    return Report(entry, reason, source, **{"at": AT, **more})


def test_an_entry_is_stored_as_it_is_documented(
    suppressions: Suppressions, entries: Collection[Document]
) -> None:
    suppressions.add([report()])
    assert list(entries.find()) == [
        {"_id": ANN, "reason": "bounced", "source": "ses", "at": AT, "until": None}
    ]


def test_reports_in_any_order_and_number_come_to_the_same(
    suppressions: Suppressions, entries: Collection[Document]
) -> None:
    reports = [
        report(),
        report(at=LATER),
        report(reason="complained"),
        report(source="postmark", reason="complained"),
    ]
    ends = []
    for order in permutations(reports):
        entries.delete_many({})
        for each in (*order, *order):
            suppressions.add([each])
        (document,) = entries.find()
        others = document.pop("others")
        del document["_id"]
        ends.append(sorted(map(str, [document, *others])))
    assert all(end == ends[0] for end in ends)
    assert len(ends[0]) == 3


def test_reports_of_one_call_are_brought_together(
    suppressions: Suppressions, entries: Collection[Document]
) -> None:
    suppressions.add([report(), report(source="postmark"), report(BOB)])
    assert entries.count_documents({}) == 2
    assert [d["source"] for d in entries.find_one({"_id": ANN})["others"]] == ["postmark"]  # type: ignore[index]  # it is there


def test_a_vendor_takes_back_only_what_it_reported_itself_until_then(
    suppressions: Suppressions, entries: Collection[Document]
) -> None:
    suppressions.add([report(), report(reason="complained"), report(source="postmark")])
    suppressions.add([report(BOB), report("carol@example.net", at=LATER)])
    for _ in range(2):
        suppressions.lift("ses", [ANN, BOB, "carol@example.net"], AT)
        documents = {document["_id"]: document for document in entries.find()}
        assert documents.keys() == {ANN, "carol@example.net"}
        assert documents[ANN]["source"] == "postmark"
        assert "others" not in documents[ANN]
    suppressions.lift("postmark", [ANN], LATER)
    assert entries.count_documents({"_id": ANN}) == 0


def test_only_the_reasons_that_are_configured_count_and_those_of_a_person(
    bench: Bench, suppressions: Suppressions
) -> None:
    suppressions.add([report("u@x.org", "unsubscribed"), report("m@x.org", "manual"), report()])
    keys = ["u@x.org", "m@x.org", ANN]
    assert suppressions.find(keys, AT) == {"m@x.org", ANN}
    assert Suppressions(bench.store).find(keys, AT) == {"m@x.org"}
    suppressions.add([report("u@x.org", "complained", "postmark")])
    assert suppressions.find(keys, AT) == set(keys)


def test_an_entry_holds_until_its_time(suppressions: Suppressions) -> None:
    suppressions.add([report(until=LATER)])
    assert suppressions.find([ANN], LATER - timedelta(seconds=1)) == {ANN}
    assert suppressions.find([ANN], LATER) == set()
    suppressions.add([report(source="manual", reason="manual")])
    assert suppressions.find([ANN], LATER) == {ANN}


@pytest.mark.parametrize(
    "damage",
    [
        *({"reason": None}, {"reason": ["bounced"]}, {"others": 7}, {"others": [7, {}]}),
        *({"reason": MARK}, {"source": MARK}),
    ],
)
def test_a_damaged_entry_stops_no_consumer(
    suppressions: Suppressions, entries: Collection[Document], damage: Document
) -> None:
    entry = {"_id": ANN, "reason": "bounced", **damage}
    entries.insert_one(undecodable(entry) if MARK in damage.values() else entry)
    suppressions.find([ANN], AT)
    suppressions.add([report()])
    assert suppressions.find([ANN], AT) == {ANN}


def test_more_keys_than_fit_into_one_question_are_asked_for(suppressions: Suppressions) -> None:
    suppressions.add([report(), report(BOB)])
    keys = [ANN, *(f"{'x' * 50}{n}@example.org" for n in range(45_000)), BOB]
    assert suppressions.find(keys, AT) == {ANN, BOB}


def test_a_consumer_process_sends_to_the_others_through_an_http_vendor(
    stage: Stage, suppressions: Suppressions
) -> None:
    vendor = stage.vendor("first")
    suppressions.add([report("@example.net")])
    people = {"to": "Ann <ann@example.net>", "cc": ["carol@example.org"], "bcc": BOB}
    email_id = stage.producer.send(Email.from_mapping({**MAIL, **people}))
    alone = stage.producer.send({**MAIL, "to": ANN})
    with consuming(stage):
        stage.until(sent=1, failed=1)
    assert (vendor.calls, stage.status(alone).reason) == ([email_id], "suppressed")
    (request,) = vendor.requests
    assert request.json["personalizations"] == [{"to": [{"email": "carol@example.org"}]}]
    assert stage.status(email_id).refused == (ANN, BOB)


# In the consumer ----------------------------------------------------------------------------------


def test_an_email_to_suppressed_people_only_fails_and_is_never_sent(
    post: Post, suppressions: Suppressions
) -> None:
    suppressions.add([report(), report("@example.org")])
    email_id = post.send({**MAIL, "to": "Ann <Ann@Example.net>", "cc": "bob@EXAMPLE.org"})
    status = post.status(email_id)
    assert (status.status, status.reason, status.attempts) == ("failed", "suppressed", ())
    assert status.refused == ("Ann@Example.net", "bob@EXAMPLE.org")
    assert post.sent == []
    post.document(email_id)


def test_the_email_goes_on_to_the_others(post: Post, suppressions: Suppressions) -> None:
    suppressions.add([report()])
    email_id = post.send(TWO)
    status = post.status(email_id)
    assert (status.status, status.reason) == ("sent", None)
    assert status.refused == (ANN,)
    ((email, recipients),) = post.sent
    assert [person.address for person in email.recipients] == [BOB]
    assert recipients is None  # any vendor can carry it
    (line,) = post.document(email_id)["attempts"]
    assert (line["suppressed"], line["refused"]) == ([ANN], [ANN])


@pytest.mark.parametrize("reason", ["unsubscribed"])
def test_a_reason_that_does_not_count_stops_nothing(
    post: Post, suppressions: Suppressions, reason: str
) -> None:
    suppressions.add([report(reason=reason)])
    assert post.status(post.send(TWO)).refused == ()


def test_the_list_is_asked_again_for_each_attempt(post: Post, suppressions: Suppressions) -> None:
    """A person may have removed an entry meanwhile; then nobody was refused."""
    suppressions.add([report()])
    post.answer(DOWN)
    email_id = post.send(TWO)
    assert post.status(email_id).refused == ()
    suppressions.remove([ANN])
    post.answer()
    post.bench.work()
    assert (post.status(email_id).status, post.status(email_id).refused) == ("sent", ())
    assert [len(email.recipients) for email, _ in post.sent] == [1, 2]


def test_who_is_put_off_and_then_suppressed_is_not_sent_to(
    post: Post, suppressions: Suppressions
) -> None:
    """Some recipients have it: the e-mail is sent, and those who were left out are refused."""
    to = [ANN, BOB, "carol@example.net"]
    post.answer(SendResult(outcome=Outcome.ACCEPTED, pending=(ANN, BOB), retry_after=0))
    email_id = post.send({**MAIL, "to": to})
    suppressions.add([report()])
    post.answer()
    post.bench.work()
    assert post.sent[-1][1] == (BOB,)
    document = post.document(email_id)
    assert (document["status"], document["refused"], document["pending"]) == ("sent", [ANN], None)


def test_if_all_who_were_put_off_are_suppressed_the_email_is_sent(
    post: Post, suppressions: Suppressions
) -> None:
    post.answer(SendResult(outcome=Outcome.ACCEPTED, pending=(ANN,), retry_after=0))
    email_id = post.send(TWO)
    suppressions.add([report()])
    post.bench.work()
    document = post.document(email_id)
    assert (document["status"], document["refused"]) == ("sent", [ANN])
    assert len(post.sent) == 1


def test_what_may_have_left_is_never_called_failed(post: Post, suppressions: Suppressions) -> None:
    post.answer(UNHEARD)
    email_id = post.send({**MAIL, "to": ANN})
    suppressions.add([report()])
    post.bench.work()
    document = post.document(email_id)
    assert (document["status"], document["reason"]) == ("uncertain", "suppressed")
    assert len(post.sent) == 1


def test_a_person_removes_the_entry_and_retries(post: Post, suppressions: Suppressions) -> None:
    suppressions.add([report()])
    email_id = post.send({**MAIL, "to": ANN})
    for remove, end in ((False, "failed"), (True, "sent")):
        if remove:
            assert suppressions.remove([ANN, BOB]) == {ANN}
        assert post.bench.store.intervene([ObjectId(email_id)], Verb.RETRY, ids.new())
        post.producer.announce([email_id])
        post.bench.work()
        assert post.status(email_id).status == end
    assert post.document(email_id)["refused"] is None


@contextmanager
def questions(entries: Collection[Document]) -> Iterator[list[Document]]:
    """What mongod is asked about the list meanwhile, by anybody."""
    asked: list[Document] = []
    entries.database.command("profile", 2)
    yield asked
    entries.database.command("profile", 0)
    asked += entries.database["system.profile"].find({"ns": entries.full_name})


def test_the_list_is_asked_once_for_a_batch(
    post: Post, suppressions: Suppressions, entries: Collection[Document]
) -> None:
    suppressions.add([report()])
    post.producer.send_many([TWO] * 20)
    with questions(entries) as asked:
        post.bench.work()
    assert len(asked) == 1
    assert {len(email.recipients) for email, _ in post.sent} == {1}


def test_while_the_list_cannot_be_read_nothing_is_sent_or_lost(
    post: Post,
    suppressions: Suppressions,
    mongo_client: MongoClient[Document],
    entries: Collection[Document],
) -> None:
    suppressions.add([report()])
    email_id = post.producer.send(TWO)
    how = {"errorCode": 50, "namespace": entries.full_name}
    with failing(mongo_client, "find", **how), pytest.raises(StoreUnavailable):
        post.bench.take()
    assert (post.status(email_id).status, post.sent) == ("queued", [])
    post.bench.work()
    assert (post.status(email_id).status, post.status(email_id).refused) == ("sent", (ANN,))


def test_the_list_outlives_the_emails(post: Post, suppressions: Suppressions) -> None:
    suppressions.add([report()])
    email_id = post.send(TWO)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    chosen = {"_id": ObjectId(email_id)}
    post.bench.store.emails.update_one(chosen, {"$set": {"updated_at": long_ago}})
    post.bench.sweeper.run_once()
    assert post.producer.status(email_id) is None
    assert suppressions.find([ANN], AT) == {ANN}


def test_without_the_section_the_list_is_not_read(
    config_mapping: Document, config: Config, entries: Collection[Document]
) -> None:
    off = Config.from_mapping({k: v for k, v in config_mapping.items() if k != "suppression"})
    bench = Bench(off)
    Suppressions(bench.store, ("bounced",)).add([report()])
    with Producer(off) as producer:
        email_id = producer.send({**MAIL, "to": ANN})
        with questions(entries) as asked:
            bench.work()
        status = producer.status(email_id)
    assert status is not None
    assert (status.status, asked) == ("sent", [])
    bench.close()
    assert config.suppression == Suppression(apply=("bounced", "complained"))
