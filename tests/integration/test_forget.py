"""``mailqueue forget``: afterwards nothing that is stored, said or logged names the person."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import CodecOptions, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.events import EventStore
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, EmailDict
from mailqueue.producer import Producer
from mailqueue.store import audit
from mailqueue.store.forgetting import FORGOTTEN, Person, email_write
from mailqueue.store.suppressions import Report, Suppressions
from mailqueue.vendors.events.source import EventType, VendorEvent
from tests.console import Console
from tests.integration.bench import MAIL, Bench, create_old_index

Document = dict[str, Any]
ANN, BOB = "Ann.Nemo+x@Bücher.example", "bob@example.org"
WIRE = "ann.nemo+x@xn--bcher-kva.example"
NAMES = ("ann.nemo", "nemo")
ALL_OVER: EmailDict = {
    **MAIL,
    "to": [f"Ann Nemo <{ANN}>", BOB],
    "cc": f"joann.nemo+x@{ANN.partition('@')[2]}".replace("joann.nemo", "joann.other"),
    "reply_to": f"Nemo <{ANN}>",
    "subject": f"For {ANN}",
    "text": f"Dear {WIRE.upper()}.",
    "html": f"<a href='https://x.org/?to={WIRE.replace('@', '%40')}'>",
    "headers": {"X-For": WIRE},
    "tags": [f"for {ANN.lower()}", "spring"],
    "metadata": {"user": ANN},
    "attachments": [{"filename": f"{WIRE}.txt", "content": WIRE.encode()}],
    "vendor_options": {"first": {"x": [{"y": ANN}]}},
}


@pytest.fixture
def config_mapping(config_mapping: Document) -> Document:
    return {**config_mapping, "suppression": {}}


@pytest.fixture
def bench(config: Config) -> Iterator[Bench]:
    made = Bench(config)
    made.store.ensure_indexes()
    yield made
    made.close()


def dump(emails: Collection[Document]) -> bytes:
    """The whole database, byte by byte."""
    options: Any = CodecOptions(document_class=RawBSONDocument)
    names = emails.database.list_collection_names()
    found: Any = (emails.database.get_collection(n, codec_options=options).find() for n in names)
    return b"".join(document.raw for each in found for document in each).lower()


def sent(bench: Bench, producer: Producer, *results: SendResult, **fields: Any) -> str:
    for vendor in bench.vendors.values():
        vendor.results = list(results)
    options = {name: fields.pop(name) for name in ("idempotency_key",) if name in fields}
    email: Any = {**ALL_OVER, **fields}
    email_id = producer.send(email, **options)
    bench.work()
    return email_id


def test_nothing_that_is_stored_said_or_logged_names_a_forgotten_person(
    bench: Bench,
    producer: Producer,
    emails: Collection[Document],
    console: Console,
    config: Config,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "mailqueue")
    yes = SendResult(outcome=Outcome.ACCEPTED, message_id=f"of {WIRE}", refused=(ANN,))
    ids = [
        sent(bench, producer, yes, idempotency_key=f"for {ANN}"),
        sent(bench, producer, SendResult(outcome=Outcome.REJECTED, detail=f"no {WIRE}")),
        sent(bench, producer, yes, envelope={"recipients": [ANN, BOB]}),
        sent(bench, producer, yes, to=BOB, reply_to=None),
    ]
    queued = producer.send(ALL_OVER)
    other = producer.send({**MAIL, "to": BOB})
    events = EventStore(config, bench.store)
    event = VendorEvent(
        type=EventType.BOUNCED_HARD,
        key="1",
        email_id=ids[0],
        recipient=WIRE,
        detail=f"<{WIRE}>: unknown",
    )
    events.record("first", [event])
    Suppressions(bench.store).add([Report(WIRE, "bounced", "first")])
    before = {d["_id"]: (d["unknowns"], d["counted"], len(d["attempts"])) for d in emails.find()}

    rehearsal = console("forget", ANN, "--dry-run")
    assert b"nemo" in dump(emails)
    answer = console("forget", ANN, "--yes", "--json")
    counts = {"emails": 5, "cancelled": 1, "events": 1, "suppressed": 1, "left": 0}
    assert (answer.code, answer.data) == (0, {"dry_run": False, **counts})
    assert "5 e-mails would be forgotten" in rehearsal.out
    again = console("forget", WIRE, "--yes", "--json")
    assert again.data == {"dry_run": False, **dict.fromkeys(counts, 0)}

    stored = dump(emails)
    said = f"{rehearsal.out}{rehearsal.err}{answer.out}{answer.err}{again.out}{caplog.text}"
    for name in NAMES:
        assert name.encode() not in stored
        assert name not in said.lower()
    assert emails.count_documents({}) == len(ids) + 2
    for document in emails.find({"_id": {"$ne": ObjectId(queued)}}):
        attempts = len(document["attempts"])
        assert before[document["_id"]] == (document["unknowns"], document["counted"], attempts)
    assert [p for s in bench.store.find({}, 99) for p in audit.problems(s)] == []
    document = emails.find_one({"_id": ObjectId(ids[0])}) or {}
    assert document["email"]["to"] == ["forgotten@forgotten.invalid", BOB]
    assert "joann.other" in document["email"]["cc"][0]
    assert set(document["email"]) == {"from", "to", "cc", "tags"}
    assert (emails.find_one({"_id": ObjectId(queued)}) or {})["status"] == "cancelled"
    assert (emails.find_one({"_id": ObjectId(other)}) or {})["email"]["text"] == "Hello"
    assert console("retry", ids[1]).code == 1


def test_who_is_on_the_list_stays_there_without_a_name(
    bench: Bench, producer: Producer, console: Console, emails: Collection[Document]
) -> None:
    Suppressions(bench.store).add([Report(WIRE, "bounced"), Report(BOB, "manual")])
    assert console("forget", ANN, "--yes").code == 0
    for _ in range(2):
        email_id = producer.send({**MAIL, "to": ANN})
        bench.work()
        status = producer.status(email_id)
        assert status is not None
        assert (status.status, status.reason) == ("failed", "suppressed")
    assert [e["address"][:7] for e in console.data("suppress", "list")["suppressed"]] == [
        BOB[:7],
        "sha256:",
    ]
    assert console("suppress", "list", ANN).code == 0
    export = console("suppress", "export").out
    assert "nemo" not in export
    assert console("suppress", "remove", ANN).code == 0
    email_id = producer.send({**MAIL, "to": ANN})
    bench.work()
    assert (emails.find_one({"_id": ObjectId(email_id)}) or {})["status"] == "sent"


def test_people_whose_keys_differ_by_their_addresses_alone_are_all_forgotten(
    bench: Bench, producer: Producer, console: Console, emails: Collection[Document]
) -> None:
    """An older version's unique index on keys would refuse the second of two that are alike."""
    create_old_index(emails)
    for address in (ANN, BOB):
        producer.send({**MAIL, "to": address}, idempotency_key=f"welcome {address}")
        bench.work()
    assert console("forget", ANN, BOB, "--yes").code == 0
    assert not any(name in dump(emails) for name in (b"nemo", BOB.encode()))


def test_a_callers_own_words_lose_an_address_to_which_more_is_joined(
    producer: Producer, console: Console, emails: Collection[Document]
) -> None:
    for word in (f"welcome-{WIRE}", f"x_{WIRE}.1", f"{WIRE}-2", f"%{WIRE}_"):
        email: Any = {**MAIL, "to": ANN, "tags": [f"for-{ANN}"]}
        producer.send(email, idempotency_key=word, request_id=word)
    assert console("forget", ANN, "--yes").code == 0
    assert b"nemo" not in dump(emails)


def test_other_people_of_an_email_stay_in_a_callers_own_words(
    producer: Producer, console: Console, emails: Collection[Document]
) -> None:
    """Their addresses may be longer than the one that is forgotten."""
    longer, abroad = "mary-bob@example.org", "bob@example.org.uk"
    email: Any = {**MAIL, "to": [BOB, f"Mary <{longer}>", abroad]}
    email["tags"] = [longer, f"for-{abroad}", f"x-{BOB}"]
    url = "https://app.example/?to=%2F{}&by={}"
    email_id = producer.send(email, callback_url=url.format("bob%40example.org", longer))
    producer.cancel(email_id)
    assert console("forget", BOB, "--yes").code == 0
    document = emails.find_one() or {}
    assert document["email"]["to"] == [FORGOTTEN, f"Mary <{longer}>", abroad]
    assert document["email"]["tags"] == [longer, f"for-{abroad}", f"x-{FORGOTTEN}"]
    assert document["callback_url"] == url.format(FORGOTTEN, longer)


def test_what_is_being_sent_is_left_and_forgotten_later(
    bench: Bench, producer: Producer, console: Console, emails: Collection[Document]
) -> None:
    producer.send({**MAIL, "to": ANN})
    bench.take()
    answer = console("forget", ANN, "--yes", "--json")
    assert (answer.code, answer.data["left"]) == (1, 1)
    bench.deliver()
    bench.settle()
    assert console("forget", ANN, "--yes").code == 0
    assert b"nemo" not in dump(emails)


def test_an_email_that_changes_meanwhile_is_left(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send({**MAIL, "to": ANN})
    bench.work()
    guard, update = email_write(emails.find_one() or {}, Person([Address.parse(ANN)]))
    emails.update_one({}, {"$set": {"status": "queued", "updated_at": datetime.now(UTC)}})
    assert emails.update_one(guard, update).matched_count == 0


def test_it_asks_first_and_reads_addresses_from_standard_input(
    bench: Bench, producer: Producer, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal; a script has said exactly whom, and there is nobody to ask."""
    producer.send({**MAIL, "to": ANN})
    wrong = console("forget", "nobody", ANN, "--yes")
    assert (wrong.code, wrong.err[:20]) == (2, "mailqueue: address 1")
    terminal = io.StringIO("n\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    refusal = console("forget", ANN)
    assert (refusal.code, "nothing was changed" in refusal.err) == (1, True)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{BOB}\n\n{ANN}\n"))
    assert console("forget", "-", "--json").data["cancelled"] == 1
    assert bench.asked == 0


@pytest.mark.parametrize(
    "text",
    [f"x {WIRE}.", f"<{WIRE}>", f"?a={WIRE}&b", f"mailto:{WIRE.upper()}?", f"{ANN}:", ANN.upper()],
)
def test_an_address_is_found_wherever_it_stands(text: str) -> None:
    person = Person([Address.parse(ANN)])
    assert person.is_named(text)
    assert person.is_in(text.encode())
    assert not person.is_named(person.without(text))


@pytest.mark.parametrize("text", [f"jo{WIRE}", f"jo.{WIRE}", f"{WIRE}.net", f"{WIRE}-x.net"])
def test_a_longer_address_is_another_persons(text: str) -> None:
    person = Person([Address.parse(ANN)])
    assert not person.is_named(text)
    assert not person.is_in(text.encode())
    assert person.without({"a": [text]}) == {"a": [text]}
