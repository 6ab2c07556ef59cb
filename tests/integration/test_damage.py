"""Whatever stands in one document is that e-mail's matter: it is set aside, the others go on."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.callbacks.due import DueCallbacks
from mailqueue.cli import main
from mailqueue.config import Callbacks, Config
from mailqueue.message import EmailDict
from mailqueue.producer import Producer
from mailqueue.queue.beanstalkd.broker import BeanstalkdBroker, depth
from mailqueue.queue.broker import Announcement
from mailqueue.store.callbacks import DELIVERED
from mailqueue.store.store import Store
from mailqueue.store.transitions import Aside
from tests.damage import MARK, damaged, undecodable
from tests.integration.bench import MAIL, Bench, Document, object_ids
from tests.logged import event

PAST = datetime(2026, 1, 1, tzinfo=UTC)
FULL_MAIL: EmailDict = {
    **MAIL,
    "cc": ["cc@example.org"],
    "reply_to": ["Re <re@example.org>"],
    "headers": {"X-A": "b"},
    "tags": ["t"],
    "metadata": {"m": "v"},
    "vendor_options": {"first": {"o": 1}},
    "html": "<p>Hello</p>",
    "attachments": [{"filename": "a.txt", "content": b"a", "content_type": "text/plain"}],
}
LINE = {
    "n": 1,
    "token": 1,
    "vendor": "first",
    "key": None,
    "probe": False,
    "started_at": PAST,
    "ended_at": PAST,
    "outcome": "deferred",
    "code": "451",
    "detail": "",
    "message_id": None,
    "answered": True,
    "refused": [],
    "pending": [],
}
OPEN = {name: LINE[name] for name in ("n", "token", "vendor", "key", "probe", "started_at")}

EVENT = {"message_id": "m", "at": PAST}


def queued(producer: Producer, emails: Collection[Document]) -> Document:
    """One that was tried once, with all that a queued e-mail may have."""
    email_id = ObjectId(producer.send(FULL_MAIL, idempotency_key=str(ObjectId())))
    found = emails.find_one_and_delete({"_id": email_id})
    assert found is not None
    del found["idempotency_key"]
    return found | {
        "lease": {"token": 1},
        "attempts": [LINE],
        "round": {"n": 1, "tried": ["second"], "refused": ["third"]},
        "pin": None,
        "clock_from": datetime.now(UTC),
        "overdue_at": PAST,
        "send_at": PAST,
        "expires_at": datetime.now(UTC) + timedelta(days=1),
        "announced": {"at": PAST, "n": 1},
        "counted": 1,
        "refused": ["cc@example.org"],
    }


def sending(producer: Producer, emails: Collection[Document]) -> Document:
    """One whose lease is over."""
    lease = {"token": 1, "owner": "dead", "nonce": ObjectId(), "until": PAST}
    attempts = [OPEN | {"ended_at": None, "outcome": None}]
    more = {"status": "sending", "lease": lease, "attempts": attempts}
    return queued(producer, emails) | more


def ended(producer: Producer, emails: Collection[Document]) -> Document:
    """One that was sent long ago."""
    more = {"status": "sent", "updated_at": PAST, "sent_at": PAST, "overdue_at": None}
    return queued(producer, emails) | more


def unanswered(producer: Producer, emails: Collection[Document]) -> Document:
    """One whose vendor is asked about it first."""
    more = {"attempts": [LINE | {"outcome": "unknown"}], "unknowns": 1}
    return queued(producer, emails) | more


def pinned(producer: Producer, emails: Collection[Document]) -> Document:
    """One that is to be repeated at its vendor, with recipients put off."""
    pin = {"vendor": "first", "key": "k", "until": datetime.now(UTC) + timedelta(hours=1)}
    more = {"pin": {**pin, "repeats": 0}, "pending": ["bob@example.org"]}
    return queued(producer, emails) | more


@pytest.fixture
def bench(config: Config, producer: Producer) -> Iterator[Bench]:
    """One that takes many e-mails at a time."""
    made = Bench(config.replace(consumer=replace(config.consumer, concurrency=256)))
    yield made
    made.close()


def passed(bench: Bench) -> None:
    """Whatever a consumer does about what is there."""
    bench.sweeper.sweep()
    while bench.take():
        bench.deliver()
        bench.settle()


def test_no_damage_in_one_email_keeps_another_from_being_sent(
    bench: Bench,
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is said once, or twice: by the sweeper, and by who had its job at that moment."""
    caplog.set_level(logging.ERROR, "mailqueue")
    ends = ("updated_at", "sent_at", "lease", "attempts", "unknowns")
    asked = ("message_id", "attempts", "email", "created_at", "counted")
    fields: Any = {queued: (), sending: (), pinned: ("pin", "pending")}
    fields |= {ended: ends, unanswered: asked}
    bench.answer_lookups()
    all_of_them = [
        (made, damage)
        for made, only in fields.items()
        for damage in damaged(made(producer, emails), *only, few=True)
    ]
    what = {d["_id"]: (made, said) for made, (said, d) in all_of_them}
    emails.insert_many([document for _, (_, document) in all_of_them])
    emails.insert_many([d for made in fields for d in strangely_known(made(producer, emails))])
    healthy = object_ids([producer.send(MAIL) for _ in range(5)])
    announced(config, what)
    passed(bench)
    assert emails.count_documents({"_id": {"$in": healthy}, "status": "sent"}) == 5
    jobs = depth(config.beanstalkd)
    assert (jobs["ready"], jobs["reserved"], jobs["buried"]) == (0, 0, 0)
    statuses = {d["_id"]: d["status"] for d in emails.find(EMAILS, {"status": 1})}
    aside = set(emails.distinct("_id", {"reason": "unreadable"}))
    for email_id, (made, said) in what.items():
        place, _, value = said.partition(" is ")
        unsure = ("uncertain",) if made is not queued else ("failed", "uncertain")
        assert statuses.get(email_id, "pruned") in (unsure if email_id in aside else ENDS), said
        if made is not ended and place in NEEDED and value not in HARMLESS.get(place, ()):
            assert email_id in aside, said
    said_of = Counter(facts(r)["id"] for r in caplog.records if "id" in facts(r))
    assert aside <= set(map(ObjectId, said_of))
    assert max(said_of[str(email_id)] for email_id in aside) <= 2
    assert {event(r) for r in caplog.records} <= {"email.unreadable", "job.orphaned"}


EMAILS = {"_id": {"$type": "objectId"}}
ENDS = ("sent", "queued", "failed", "uncertain", "pruned")
NEEDED = ("status", "env", "email", "lease", "attempts", "round", "counted", "unknowns")
HARMLESS = {
    "counted": ["a number"],
    "unknowns": ["a number"],
    "attempts": ["an empty list"],
}


def strangely_known(document: Document) -> Iterator[Document]:
    """The same under ids of other kinds."""
    number = int.from_bytes(document["_id"].binary, "big") % 2**40
    for email_id in (number, str(number), {"number": number}, str(number).encode()):
        yield document | {"_id": email_id}


def announced(config: Config, ids: Iterable[ObjectId]) -> None:
    """Put a job for each."""
    announcer = BeanstalkdBroker(config.beanstalkd, config.delivery.ttr)
    announcer.announce([Announcement(email_id, 65_536) for email_id in ids])
    announcer.close()


def facts(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = record.__dict__["facts"]
    return found


# What becomes of it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "was, becomes",
    [
        ({}, "failed"),
        ({"attempts": [LINE]}, "failed"),
        ({"attempts": None}, "uncertain"),
        ({"attempts": [LINE | {"outcome": "unknown"}]}, "uncertain"),
        ({"attempts": [LINE | {"outcome": "accepted"}]}, "uncertain"),
        ({"attempts": [OPEN]}, "uncertain"),
        ({"unknowns": 1}, "uncertain"),
        ({"unknowns": "x"}, "uncertain"),
        ({"pin": {}}, "uncertain"),
        ({"pending": []}, "uncertain"),
        ({"late_accept": "x"}, "uncertain"),
        ({"status": "sending"}, "uncertain"),
        ({"status": "x"}, "uncertain"),
        ({"status": "sending", "late_accept": {"vendor": "first", "message_id": "m"}}, "sent"),
        ({"status": "sending", "attempts": [OPEN | {"event": EVENT}]}, "sent"),
        ({"status": "sent", "sent_at": PAST}, "sent"),
        ({"status": "cancelled"}, "cancelled"),
    ],
    ids=str,
)
def test_it_failed_only_if_surely_no_copy_left(
    was: Document, becomes: str, store: Store, producer: Producer, emails: Collection[Document]
) -> None:
    email_id = ObjectId(producer.send(MAIL))
    emails.update_one({"_id": email_id}, {"$set": was | {"counted": None}})
    aside = Aside(id=email_id, guard={"lease": {"$eq": {"token": 0}}})
    written, _ = store.write([aside])
    found = emails.find_one({"_id": email_id})
    assert found is not None
    assert found["status"] == becomes
    assert (email_id in written) == (was.get("status") not in ("sent", "cancelled"))
    if was.get("status") == "sending" and becomes == "sent":
        assert (found["vendor"], found["vendor_message_id"]) == ("first", "m")


def test_what_was_mended_in_the_meantime_is_not_set_aside(
    store: Store, producer: Producer, emails: Collection[Document]
) -> None:
    email_id = ObjectId(producer.send(MAIL))
    for guard in ({"lease": {"$eq": None}}, {"status": {"$eq": "x"}}):
        assert store.write([Aside(id=email_id, guard=guard)]) == (set(), set())
    found = emails.find_one({"_id": email_id})
    assert found is not None
    assert found["status"] == "queued"


# What cannot be decoded at all --------------------------------------------------------------------

PLACES: Mapping[str, Callable[[Document], None]] = {
    "email": lambda d: d["email"].update(subject=MARK),
    "message_id": lambda d: d.update(message_id=MARK),
    "status": lambda d: d.update(status=MARK),
    "lease": lambda d: d["lease"].update(owner=MARK),
    "attempts": lambda d: d.update(attempts=[{**d["attempts"][0], "vendor": MARK}]),
    "reason": lambda d: d.update(reason=MARK),
    "the vendor's id": lambda d: d.update(vendor_message_id=MARK),
    "a name": lambda d: d.update({MARK: 1}),
    "the address of callbacks": lambda d: d.update(callback_url=MARK),
}


def stored_undecodable(made: Document, emails: Collection[Document]) -> dict[ObjectId, str]:
    """One for each place."""
    places = {}
    for name, put_there in PLACES.items():
        document = deepcopy(made) | {"_id": ObjectId()}
        put_there(document)
        emails.insert_one(undecodable(document))
        places[document["_id"]] = name
    return places


@pytest.mark.parametrize("made", [queued, sending])
def test_what_cannot_be_decoded_is_set_aside_and_the_others_are_sent(
    made: Any, bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    places = stored_undecodable(made(producer, emails), emails)
    healthy = object_ids([producer.send(MAIL) for _ in range(3)])
    announced(config, places)
    passed(bench)
    assert emails.count_documents({"_id": {"$in": healthy}, "status": "sent"}) == 3
    aside = {"status": {"$in": ["failed", "uncertain"]}, "reason": "unreadable"}
    left = [
        name
        for one, name in places.items()
        if not emails.find_one({"_id": one, **aside}, {"_id": 1})
    ]
    assert left == []
    jobs = depth(config.beanstalkd)
    assert (jobs["ready"], jobs["reserved"]) == (0, 0)


def test_callbacks_of_what_cannot_be_decoded_are_posted_as_all_others(
    config: Config, producer: Producer, emails: Collection[Document]
) -> None:
    """Its end as ``unreadable`` is told, too: the responder must not die of it."""
    times = {"at": PAST, "due_at": PAST, "since": PAST}
    entry = {"id": "msg_1", "type": "email.failed", "state": "due", "token": 0, "tries": 0, **times}
    sound = queued(producer, emails) | {"callbacks": [entry], "callback_url": "https://a.example"}
    places = stored_undecodable(sound, emails)
    with closing(Store(config.mongodb, env=producer.env)) as store:
        due = DueCallbacks(store, Callbacks(), 60.0)
        assert due.find(100, ()).keys() == places.keys()
        callbacks = due.claim(list(places))
        assert {each.stored.id for each in callbacks} == places.keys()
        for each in callbacks:
            assert json.loads(due.body(each))["type"] == "email.failed"
            assert due.settle(each, DELIVERED, "200") == 0
        assert due.find(100, ()) == {}
        entry["id"] = "msg_2"
        sound["callbacks"].append(entry | {"id": "msg_3"})
        emails.insert_many([d for _, d in damaged(sound, "callbacks", "callback_url")])
        found = due.find(10_000, ())
        assert len(due.claim(list(found))) > len(found) / 2


def test_a_callback_in_which_something_is_no_text_is_posted_and_settled(
    config: Config, producer: Producer, emails: Collection[Document]
) -> None:
    """The code of an earlier try, say. Without a sound id nothing is posted: it could not end."""
    times = {"at": PAST, "due_at": PAST, "since": PAST}
    entry = {"id": "msg_1", "type": "email.sent", "state": "due", "token": 0, "tries": 0, **times}
    sound = queued(producer, emails) | {"callback_url": "https://a.example"}
    for each in (entry | {"code": MARK}, entry | {"id": 5}):
        document = sound | {"_id": ObjectId(), "callbacks": [each], "subject": MARK}
        emails.insert_one(undecodable(document))
    with closing(Store(config.mongodb, env=producer.env)) as store:
        due = DueCallbacks(store, Callbacks(), 60.0)
        (callback,) = due.claim(list(due.find(100, ())))
        assert due.settle(callback, DELIVERED, "200") == 0
        assert emails.count_documents({"callbacks.state": DELIVERED}) == 1


# Whoever looks at it ------------------------------------------------------------------------------


def test_an_application_can_ask_for_and_cancel_what_is_damaged(
    producer: Producer, emails: Collection[Document]
) -> None:
    sound = queued(producer, emails)
    documents = [d for _, d in damaged(sound, few=True)][::7]
    emails.insert_many(documents)
    places = stored_undecodable(sound, emails)
    for email_id in [*(d["_id"] for d in documents), *places]:
        assert producer.status(str(email_id)) is not None
        producer.cancel(str(email_id))
    assert emails.count_documents({"status": "queued"}) < len(documents) / 4


def test_a_person_can_look_at_and_change_what_is_damaged(
    config: Config,
    config_mapping: Document,
    producer: Producer,
    emails: Collection[Document],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config_mapping))
    sound = queued(producer, emails) | {"status": "failed", "reason": "rejected"}
    documents = [d for _, d in damaged(sound, few=True)]
    emails.insert_many(documents)
    places = stored_undecodable(sound, emails)

    def told(*words: str) -> tuple[int, str]:
        code = main([*words, "--config", str(file)])
        return code, capsys.readouterr().out

    for form in ([], ["--json"]):
        code, out = told("list", "--limit", "9999", *form)
        assert code == 0
        assert all(str(d["_id"]) in out for d in documents)
        for email_id in [*places, *(d["_id"] for d in documents[::40])]:
            assert told("show", str(email_id), *form)[0] == 0
            assert told("show", str(email_id), "--content", *form)[0] == 0
        assert told("audit", *form)[0] == 1
        assert told("stats", *form)[0] == 0
    told("retry", "--status", "failed", "--yes")
    assert emails.count_documents({"status": "queued"}) > len(documents) / 2
    told("retry", *map(str, [d["_id"] for d in documents[:20]]))
