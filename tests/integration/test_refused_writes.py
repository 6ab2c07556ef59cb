"""A write that MongoDB refuses is one e-mail's matter, and what left our hands stays known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId, encode
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email, EmailDict
from mailqueue.message.message import size
from mailqueue.producer import Producer
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.store import audit, ledger
from mailqueue.store.document import Stored
from mailqueue.vendors.answers import sanitize
from tests.integration.bench import (
    MAIL,
    WRITE_CONCERN_ERROR,
    Bench,
    Document,
    emptied,
    failing,
    object_ids,
    put,
)
from tests.logged import event

MIB = 1 << 20
LIMIT = 16 * MIB
PAST = datetime(2026, 1, 1, tzinfo=UTC)
LATER = SendResult(outcome=Outcome.DEFERRED, code="451")


def address(n: int) -> str:
    """As long as one can be: 254 octets."""
    return f"{n:04d}{'l' * 60}@{'d' * 61}.{'d' * 61}.{'d' * 60}.example"[:254]


def filled(emails: Collection[Document], email_id: ObjectId, size: int, where: str) -> None:
    """Let the document be this large, by what stands ``where``, in steps (for the cache)."""
    part = 0
    while (room := size - len(encode(one(emails, email_id)))) > 0:
        field = f"{where}{part}"
        room -= len(encode({field.rpartition(".")[2]: ""})) - len(encode({}))
        emails.update_one({"_id": email_id}, {"$set": {field: "x" * min(room, 3 * MIB)}})
        part += 1
    assert len(encode(one(emails, email_id))) == size


def tried_before(bench: Bench, producer: Producer, emails: Collection[Document]) -> ObjectId:
    """One that was put off once and is due again."""
    email_id = ObjectId(producer.send(MAIL))
    for vendor in bench.vendors.values():
        vendor.results = [LATER]
    bench.work()
    emails.update_one({"_id": email_id}, {"$set": {"due_at": None}})
    for vendor in bench.vendors.values():
        vendor.results = []
    return email_id


@pytest.fixture(autouse=True)
def warmed(emails: Collection[Document]) -> None:
    """A mongod with a small cache refuses a large write for a while, unless it grew up to that."""
    other = emails.database["warming"]
    for mib in (2, 4, 8, 12):
        other.insert_one({"x": "x" * (mib * MIB)})
    other.drop()


def one(emails: Collection[Document], email_id: ObjectId) -> Document:
    found = emails.find_one({"_id": email_id})
    assert found is not None
    return found


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [event(record) for record in caplog.records]


OLD_LINE = "attempts.0.filler"
ELSEWHERE = "filler"


def test_a_yes_that_has_no_room_is_sent_with_a_short_line_and_so_are_the_others(
    bench: Bench,
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    large = tried_before(bench, producer, emails)
    others = object_ids([producer.send(MAIL) for _ in range(5)])
    emptied(config)
    put(config, large, *others)
    assert bench.take()
    filled(emails, large, LIMIT, OLD_LINE)
    bench.deliver()
    bench.settle()
    assert {one(emails, other)["status"] for other in others} == {"sent"}
    found = one(emails, large)
    assert (found["status"], found["vendor_message_id"]) == ("sent", "vendor-id")
    (line,) = found["attempts"]
    assert (line["n"], line["outcome"], line["code"], line["cut"]) == (2, "accepted", "202", True)
    assert not any(depth(config.beanstalkd).values())
    assert not audit.problems(Stored(found, datetime.now(UTC)))
    assert told(caplog) == ["email.shortened"]  # and no outage


def test_what_has_no_room_for_a_claim_is_set_aside_and_the_others_are_sent(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    large = ObjectId(producer.send(MAIL))
    others = object_ids([producer.send(MAIL) for _ in range(5)])
    filled(emails, large, LIMIT - 60, ELSEWHERE)
    bench.work()
    assert {one(emails, other)["status"] for other in others} == {"sent"}
    found = one(emails, large)
    assert (found["status"], found["reason"]) == ("failed", "unreadable")
    assert not any(depth(config.beanstalkd).values())


def test_the_job_of_what_takes_no_write_at_all_is_buried_and_that_is_said_once(
    bench: Bench,
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    large = ObjectId(producer.send(MAIL))
    other = ObjectId(producer.send(MAIL))
    emails.update_one({"_id": large}, {"$unset": {"due_at": "", "overdue_at": ""}})
    filled(emails, large, LIMIT, ELSEWHERE)
    for _ in range(3):
        bench.work()
        bench.sweeper.sweep()
        put(config, large)
    bench.work()
    assert one(emails, other)["status"] == "sent"
    assert one(emails, large)["status"] == "queued"
    jobs = depth(config.beanstalkd)
    assert (jobs["ready"], jobs["reserved"], jobs["buried"]) == (0, 0, 4)
    assert told(caplog).count("email.write_refused") == 1


def test_a_write_that_may_not_last_is_repeated_and_no_refusal(
    bench: Bench, producer: Producer, mongo_client: MongoClient[Document], emails: Any
) -> None:
    email_id = ObjectId(producer.send(MAIL))
    with failing(mongo_client, "update", mode={"times": 1}, writeConcernError=WRITE_CONCERN_ERROR):
        bench.work()
    assert one(emails, email_id)["status"] == "sent"
    assert "cut" not in one(emails, email_id)["attempts"][0]


def test_a_late_yes_that_has_no_room_is_written_without_its_recipients(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    email_id = ObjectId(producer.send(MAIL))
    bench.take()
    filled(emails, email_id, LIMIT - 700, ELSEWHERE)
    people = tuple(address(n) for n in range(5))
    yes = SendResult(outcome=Outcome.ACCEPTED, code="202", message_id="m", refused=people)
    emails.update_one({"_id": email_id}, {"$set": {"status": "queued"}})
    bench.store.record_late_yes(email_id, 1, "first", yes, 5)
    found = one(emails, email_id)
    assert (found["status"], found["vendor_message_id"], found["refused"]) == ("sent", "m", [])


# The largest there can be -------------------------------------------------------------------------


def test_an_email_of_the_largest_size_with_the_fullest_ledger_fits(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    """1000 recipients with the longest addresses, some refused and the others put off by each of 50
    attempts that say as much as they can, a late yes beside them, and yet one more attempt.
    """
    people = [address(n) for n in range(1000)]
    mail: EmailDict = {**MAIL, "to": people, "text": ""}
    mail["text"] = "x" * (config.limits.max_size - size(Email.from_mapping(mail).to_mapping()))
    email_id = ObjectId(producer.send(mail))
    said = sanitize(
        SendResult(
            outcome=Outcome.ACCEPTED,
            code="\U0001f600" * 9999,
            detail="\U0001f600" * 9999,
            message_id="\U0001f600" * 9999,
            refused=tuple(people[:10]),
            pending=tuple(people[10:]),
        ),
        Email.from_mapping(mail),
    )
    for vendor in bench.vendors.values():
        vendor.results = [said]
    bench.work()
    emails.update_one({"_id": email_id}, {"$set": {"due_at": None}})
    (line,) = one(emails, email_id)["attempts"]
    lines = [{**line, "n": n, "token": n} for n in range(1, ledger.LENGTH + 1)]
    entry = {"n": 1, "verb": "mark_sent", "was": "uncertain", "reason": "refused_by_all"}
    fullest = {
        "attempts": lines,
        "lease": {"token": ledger.LENGTH},
        "interventions": [{**entry, "token": 1, "at": PAST, "nonce": email_id}] * 50,
        "idempotency_key": "k" * 1024,
        "late_accept": {"vendor": "first", "message_id": line["message_id"], "refused": people},
    }
    emails.update_one({"_id": email_id}, {"$set": fullest})
    put(config, email_id)
    bench.work()
    found = one(emails, email_id)
    assert [line["outcome"] for line in found["attempts"]] == ["accepted"] * ledger.LENGTH
    assert found["attempts"][-1]["n"] == ledger.LENGTH + 1
    assert "cut" not in found["attempts"][-1]
    assert LIMIT - len(encode(found)) > 64 * 1024
