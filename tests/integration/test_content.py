"""What an e-mail says is dropped when it is sent, or some days after its end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.errors import InvalidEmail
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import EmailDict
from mailqueue.producer import Producer
from mailqueue.store import audit
from mailqueue.store.content import CONTENT
from tests.console import Console
from tests.every_write import situations, writes
from tests.integration.bench import MAIL, Bench

Document = dict[str, Any]
FULL: EmailDict = {
    **MAIL,
    "html": "<p>Hello</p>",
    "attachments": [{"filename": "a.txt", "content": b"secret"}],
    "alternatives": [{"content_type": "text/x-web", "content": "secret"}],
}
REFUSED = SendResult(outcome=Outcome.REJECTED)


@pytest.fixture
def config_mapping(config_mapping: Document) -> Document:
    return {**config_mapping, "retention": {"content": "until_sent", "content_days": 7}}


def content_of(document: Document) -> set[str]:
    return set(CONTENT) & set(document["email"])


def test_no_write_leaves_a_sent_email_with_its_content(emails: Collection[Document]) -> None:
    """Whoever records the yes; and nobody else drops anything."""
    email_id, sent, others = ObjectId(), 0, 0
    for situation in situations(email_id):
        whole = {**situation, "email": {**situation["email"], "html": "x", "attachments": []}}
        for guard, update in writes(whole):
            emails.replace_one({"_id": email_id}, whole, upsert=True)
            was_sent = whole["status"] == "sent"
            if not emails.update_one(guard, update).matched_count:
                continue
            (after,) = emails.find()
            if after["status"] == "sent" and not was_sent:
                sent += 1
                assert content_of(after) == set()
                assert after["content_dropped_at"] is not None
                assert after["email"]["to"] == whole["email"]["to"]
            elif after["status"] != "sent" and after.get("content_dropped_at") is None:
                others += 1
                assert after["email"] == whole["email"]
    assert sent > 20
    assert others > 20


@pytest.fixture
def worker(config: Config) -> Iterator[Bench]:
    bench = Bench(config)
    bench.store.ensure_indexes()
    yield bench
    bench.close()


def answer(bench: Bench, *results: SendResult) -> None:
    for vendor in bench.vendors.values():
        vendor.results = list(results)


def test_a_sent_email_has_no_content_and_its_key_still_counts(
    worker: Bench, producer: Producer, emails: Collection[Document], console: Console
) -> None:
    email_id = producer.send(FULL, idempotency_key="k")
    worker.work()
    document = emails.find_one() or {}
    assert (document["status"], content_of(document)) == ("sent", set())
    assert b"secret" not in str(document).encode()
    assert producer.send(FULL, idempotency_key="k") == email_id
    with pytest.raises(InvalidEmail):
        producer.send(MAIL, idempotency_key="k")
    answer = console("retry", email_id)
    assert (answer.code, "is sent, and its content is no longer stored" in answer.err) == (1, True)
    assert "content_dropped_at" in console("show", email_id).out
    assert console("show", email_id, "--content").code == 0
    (stored,) = worker.store.read([ObjectId(email_id)]).values()
    assert (stored.email.text, stored.email.subject) == (None, "Hi")
    (found,) = worker.store.find({}, 9)
    assert audit.problems(found) == []


def test_an_email_that_may_be_sent_again_keeps_its_content(
    worker: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    answer(worker, REFUSED)
    producer.send(FULL)
    worker.work()
    document = emails.find_one() or {}
    assert (document["status"], content_of(document)) == ("failed", set(CONTENT))


def test_a_person_who_marks_an_email_as_sent_drops_its_content(
    worker: Bench, producer: Producer, emails: Collection[Document], console: Console
) -> None:
    answer(worker, REFUSED)
    email_id = producer.send(FULL)
    worker.work()
    assert console("mark-sent", email_id).code == 0
    assert content_of(emails.find_one() or {}) == set()


def test_what_waits_for_a_person_is_kept_but_loses_its_content_after_some_days(
    worker: Bench, producer: Producer, emails: Collection[Document], console: Console
) -> None:
    ids = [producer.send(FULL) for _ in range(3)]
    emails.update_many({}, {"$set": {"status": "uncertain", "reason": "unknown", "unknowns": 1}})
    old = datetime.now(UTC) - timedelta(days=8)
    emails.update_many({"_id": {"$ne": ObjectId(ids[2])}}, {"$set": {"updated_at": old}})
    assert worker.sweeper.preview()["dropped"] == 2
    assert worker.sweeper.sweep()["dropped"] == 2
    assert worker.sweeper.sweep()["dropped"] == 0
    contents = {str(d["_id"]): content_of(d) for d in emails.find()}
    assert contents == {ids[0]: set(), ids[1]: set(), ids[2]: set(CONTENT)}
    refusal = console("retry", ids[0])
    assert (refusal.code, "its content is no longer stored" in refusal.err) == (1, True)
    assert console("retry", ids[2]).code == 0
    assert console("mark-sent", ids[0]).code == 0
    assert (emails.find_one({"_id": ObjectId(ids[1])}) or {})["status"] == "uncertain"


def test_content_is_kept_unless_it_is_configured(config: Config, producer: Producer) -> None:
    bench = Bench(config.replace(retention={}))
    producer.send(FULL)
    bench.work()
    assert content_of(bench.store.emails.find_one() or {}) == set(CONTENT)
    assert "dropped" not in bench.sweeper.preview()
    bench.close()
