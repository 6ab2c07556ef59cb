"""MongoDB alone: what no other kind of queue has."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.consumer import Consumer
from mailqueue.consumer.consumer import build_sweeper
from mailqueue.errors import QueueUnavailable
from mailqueue.intake.intake import BATCH, Intake
from mailqueue.lifecycle.outcomes import BULK, HIGH, NORMAL
from mailqueue.producer.connections import Connections
from mailqueue.queue import mongodb, open_broker, open_events
from mailqueue.queue.broker import DELETED, Announcement, Job, Receiver, release_end
from mailqueue.store import reservations
from mailqueue.store.document import SIMULATED
from mailqueue.store.reservations import Reservations
from mailqueue.store.store import Store
from tests.brokers.conftest import end, ids, reserved
from tests.brokers.mongodb import document
from tests.damage import MARK, undecodable
from tests.logged import event
from tests.servers import BreakableMongod
from tests.stage import DOWN, Stage
from tests.waiting import wait_until

Document = dict[str, Any]


@pytest.fixture
def config_mapping(config_mapping: Document) -> Document:
    return config_mapping | {"queue": {"type": "mongodb"}}


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    with closing(Store(config.mongodb, env=SIMULATED)) as made:
        made.ensure_indexes(reservations=True)
        yield made


def receiver_of(store: Store, config: Config) -> Receiver:
    """One more consumer's side."""
    (made,) = open_broker(config, store=store).receivers()
    return made


def announced(
    emails: Collection[Document], number: int = 1, priority: int = NORMAL, delay: float = 0.0
) -> list[Announcement]:
    made = [Announcement(ObjectId(), priority, delay) for _ in range(number)]
    emails.insert_many(map(document, made))
    return made


# Finding ----------------------------------------------------------------------------------------


def plans(store: Store, limit: int) -> Iterator[Document]:
    """How MongoDB makes each of the look-ups by which a consumer finds what is due."""
    asked: list[Sequence[Document]] = []
    made = reservations.Reservations(store, SIMULATED, seconds=15, change_stream=False)

    class Asked:
        name = store.emails.name

        def aggregate(self, steps: Sequence[Document], **_: Any) -> Sequence[Document]:
            asked.append(steps)
            return []

    made._emails = Asked()  # type: ignore[assignment]  # all that is used of it
    made._find_due(limit)
    ((*first, second, third, _, _),) = asked
    others = [step["$unionWith"]["pipeline"] for step in (second, third)]
    for steps in (first, *others):
        command = {"aggregate": store.emails.name, "pipeline": list(steps), "cursor": {}}
        plan = store.emails.database.command("explain", command, verbosity="executionStats")
        yield (plan["stages"][0]["$cursor"] if "stages" in plan else plan)["executionStats"]


def test_to_find_what_is_due_reads_no_document_and_nothing_of_what_is_due_later(
    store: Store, emails: Collection[Document]
) -> None:
    for priority in (HIGH, NORMAL, BULK, 512):
        announced(emails, 200, priority)
        announced(emails, 500, priority, delay=3600)
    past = {"due_at": datetime.now(UTC) - timedelta(minutes=1)}
    emails.update_many({"due_at": None, "priority": NORMAL}, {"$set": past})
    for plan in plans(store, 100):
        assert plan["nReturned"] == 100
        assert plan["totalKeysExamined"] <= 110
        assert plan["totalDocsExamined"] == 0


def test_within_a_class_what_is_due_for_longest_comes_first_with_a_due_time_or_without(
    store: Store, config: Config, emails: Collection[Document]
) -> None:
    made = [document(each) for each in [Announcement(ObjectId(), NORMAL)] * 6]
    now = datetime.now(UTC)
    for age, each in enumerate(made):
        each["_id"] = ObjectId()
        each["overdue_at"] -= timedelta(seconds=age)
        each["due_at"] = now - timedelta(seconds=age) if age % 2 else None
    emails.insert_many(made)
    jobs = reserved(receiver_of(store, config), 6)
    assert ids(jobs) == [each["_id"] for each in reversed(made)]


def test_a_damaged_email_keeps_no_other_from_being_found(
    store: Store, config: Config, emails: Collection[Document]
) -> None:
    made = announced(emails, 4)
    for each, damage in zip(
        made,
        ({"overdue_at": "soon"}, {"priority": None}, {"due_at": "now"}, {"clock_from": 7}),
        strict=True,
    ):
        emails.update_one({"_id": each.email_id}, {"$set": damage})
    for identity in ("of another program", {"a": 1}, 7):
        emails.insert_one({**document(made[0]), "_id": identity})
    whole = announced(emails, 2)
    jobs = reserved(receiver_of(store, config), 6)
    assert {*ids(jobs)} == {*ids(made), *ids(whole)}


# Reserving --------------------------------------------------------------------------------------


def test_a_reservation_leaves_the_email_as_it_is(
    store: Store, config: Config, emails: Collection[Document]
) -> None:
    announced(emails, 3)
    before = list(emails.find())
    receiver = receiver_of(store, config)
    jobs = reserved(receiver, 3)
    end(jobs[:1], release_end(NORMAL, 1.0))
    receiver.close()
    assert list(emails.find()) == before


def test_a_busy_process_reserves_ahead_and_gives_back_what_it_does_not_need_soon(
    store: Store, config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    announced(emails, 30)
    monkeypatch.setattr(reservations, "HASTE", 60.0)  # however slow the machine is
    busy, other = receiver_of(store, config), receiver_of(store, config)
    assert len(busy.reserve(0, 5)) == 5
    assert len(busy.reserve(0, 5)) == 5  # five more are ahead
    assert len(other.reserve(0, 30)) == 15
    monkeypatch.setattr(reservations, "FRESH", 0.0)
    monkeypatch.setattr(reservations, "HASTE", 0.0)
    assert len(busy.reserve(0, 1)) == 1  # the five are given back
    assert len(other.reserve(0, 30)) == 4
    busy.close()
    assert len(other.reserve(0, 30)) == 11


def test_what_a_killed_process_left_is_deleted_by_the_others(
    store: Store, config: Config, emails: Collection[Document]
) -> None:
    left_over = store.collection(".reserved")
    past = datetime.now(UTC) - timedelta(seconds=1)
    (email,) = announced(emails)
    dead = ObjectId()
    left_over.insert_many(
        [{"_id": each, "by": dead, "until": past} for each in (email.email_id, ObjectId())]
    )
    receiver = receiver_of(store, config)
    assert ids(reserved(receiver)) == [email.email_id]
    assert left_over.count_documents({"by": dead}) == 0


def test_the_sweeper_does_not_put_back_in_line_what_waits_for_long(
    store: Store, config: Config, emails: Collection[Document]
) -> None:
    announced(emails)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    emails.update_many({}, {"$set": {"overdue_at": long_ago}})
    before = list(emails.find())
    with build_sweeper(config) as sweeper:
        assert sweeper.preview()["announced"] == 0
        assert sweeper.sweep()["announced"] == 0
        sweeper.close()
    assert list(emails.find()) == before


def put_off(store: Store, emails: Collection[Document], number: int) -> None:
    """So many e-mails that are due, and that other processes have put off."""
    until = datetime.now(UTC) + timedelta(minutes=1)
    made = announced(emails, number)
    store.collection(".reserved").insert_many(
        [{"_id": each.email_id, "by": None, "until": until} for each in made]
    )


def test_a_crowd_that_waits_for_a_slow_vendor_keeps_no_other_email_from_being_found(
    store: Store, config: Config, emails: Collection[Document]
) -> None:
    put_off(store, emails, 20_100)
    made = announced(emails)
    assert ids(reserved(receiver_of(store, config), 1)) == ids(made)


def test_to_look_past_a_crowd_takes_a_part_of_the_time_only(
    store: Store, config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_off(store, emails, 5)
    monkeypatch.setattr(reservations, "CROWD", 5)
    monkeypatch.setattr(reservations, "REST", 1e9)
    looks = count_looks(monkeypatch)
    assert receiver_of(store, config).reserve(1) == []
    assert len(looks) == 1


def count_looks(monkeypatch: pytest.MonkeyPatch) -> Sequence[int]:
    """Grows with each look for what is due."""
    looks: list[int] = []
    look = Reservations._look

    def counted(self: Reservations, limit: int) -> Sequence[ObjectId]:
        looks.append(limit)
        return look(self, limit)

    monkeypatch.setattr(Reservations, "_look", counted)
    return looks


def test_a_consumer_sends_everything_and_leaves_nothing_behind(stage: Stage) -> None:
    first, second = stage.vendor("first", DOWN), stage.vendor("second")
    email_ids = [*stage.send(20), *stage.send(priority="high")]
    assert Consumer(stage.config, burst=True).run() == 0
    assert second.accepted == dict.fromkeys(email_ids, 1)
    assert first.calls
    collections = stage.emails.database
    assert collections[f"{stage.emails.name}.reserved"].count_documents({}) == 0


def test_while_mongodb_is_away_the_queue_is_and_comes_back_with_it() -> None:
    with BreakableMongod() as server, ExitStack() as stack:
        mapping: Document = {"mongodb": {"uri": server.uri, "timeout": 1}}
        config = Config.from_mapping(mapping | {"queue": {"type": "mongodb"}, "vendors": []})
        store = stack.enter_context(closing(Store(config.mongodb, env=SIMULATED)))
        store.ensure_indexes(reservations=True)
        emails = announced(store.emails, 2)
        receiver = receiver_of(store, config)
        jobs = reserved(receiver, 1)
        server.stop()
        with pytest.raises(QueueUnavailable):
            receiver.reserve(0)
        with pytest.raises(QueueUnavailable):
            end(jobs, release_end(NORMAL, 0.0))
        receiver.close()
        server.start()
        wait_until(lambda: store.client.admin.command("ping")["ok"], what="MongoDB is back")
        end(jobs, release_end(NORMAL, 0.0))
        assert {*ids(reserved(receiver, 2))} == {*ids(emails)}


# Waking -----------------------------------------------------------------------------------------


def test_a_change_stream_wakes_a_consumer_that_would_not_look_for_long(
    store: Store, config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongodb, "POLL", (3600.0, 3600.0))
    watching = config.replace(queue={"type": "mongodb", "change_stream": True})
    receiver = receiver_of(store, watching)
    assert receiver.reserve(1) == []
    later = threading.Timer(0.5, announced, [emails])
    later.start()
    assert len(receiver.reserve(20)) == 1
    later.join()
    receiver.close()


def test_a_stream_that_broke_for_good_is_opened_anew(
    store: Store, config: Config, emails: Collection[Document], caplog: pytest.LogCaptureFixture
) -> None:
    receiver = receiver_of(store, config.replace(queue={"type": "mongodb", "change_stream": True}))
    assert receiver.reserve(1) == []
    jobs: list[Job] = []
    waits = threading.Thread(target=lambda: jobs.extend(receiver.reserve(20)))
    waits.start()
    admin = store.client.admin
    reading = {"ns": f"{emails.database.name}.{emails.name}", "op": "getmore"}

    def is_killed() -> bool:
        ops = list(admin.aggregate([{"$currentOp": {}}, {"$match": reading}]))
        return any(admin.command("killOp", op=op["opid"])["ok"] for op in ops)

    wait_until(is_killed, what="it is killed while it waits")
    made = announced(emails)
    waits.join()
    assert ids(jobs) == ids(made)
    assert "queue.not_watched" not in [event(record) for record in caplog.records]
    receiver.close()


def test_a_stream_that_ended_with_its_collection_is_no_reason_to_look_without_a_pause(
    store: Store, config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = receiver_of(store, config.replace(queue={"type": "mongodb", "change_stream": True}))
    assert receiver.reserve(1) == []
    looks = count_looks(monkeypatch)
    emails.drop()
    assert receiver.reserve(2) == []
    assert len(looks) < 15
    receiver.close()


class Standalone(BreakableMongod):
    """No replica set."""

    def _options(self, folder: Path) -> Sequence[str]:
        options = list(super()._options(folder))
        place = options.index("--replSet")
        return options[:place] + options[place + 2 :]

    @property
    def uri(self) -> str:
        return f"mongodb://{self.address}"

    def _is_ready(self) -> bool:
        with MongoClient[Document](self.uri, serverSelectionTimeoutMS=500) as client:
            try:
                return bool(client.admin.command("ping")["ok"])
            except Exception:  # noqa: BLE001  # not yet
                return False


def test_where_there_is_no_change_stream_that_is_said_once_and_the_consumer_asks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Standalone() as server, ExitStack() as stack:
        queue = {"type": "mongodb", "change_stream": True}
        config = Config.from_mapping({"mongodb": {"uri": server.uri}, "queue": queue})
        store = stack.enter_context(closing(Store(config.mongodb, env=SIMULATED)))
        receiver = receiver_of(store, config)
        assert receiver.reserve(1) == []
        assert receiver.reserve(1) == []
        emails = announced(store.emails)
        assert ids(receiver.reserve(30)) == ids(emails)
    assert [event(record) for record in caplog.records] == ["queue.not_watched"]


# Events -----------------------------------------------------------------------------------------

MAIL = {"from": "ann@example.com", "to": ["bob@example.org"], "subject": "Hi", "text": "Hello"}


@pytest.fixture
def events(config: Config, emails: Collection[Document]) -> Collection[Document]:
    return emails.database[config.mongodb.collection + ".intake"]


@pytest.fixture
def intake(config: Config, store: Store) -> Iterator[Intake]:
    with closing(Connections(config, SIMULATED, None)) as connections:
        (receiver,) = open_events(config, store=store)
        yield Intake(receiver, connections)


def test_an_event_is_an_object_or_its_text_and_is_gone_when_its_email_is_stored(
    intake: Intake, events: Collection[Document], emails: Collection[Document]
) -> None:
    send_at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    file = {"filename": "order.txt", "content": b"\x00\xff", "content_type": "text/plain"}
    email = MAIL | {"subject": "object", "attachments": [file]}
    events.insert_one({"event": {"email": email, "send_at": send_at}})
    events.insert_one({"event": json.dumps({"email": MAIL | {"subject": "text"}})})
    assert intake.turn() == 2
    assert events.count_documents({}) == 0
    first, second = emails.find().sort("email.subject", 1)
    assert first["email"]["attachments"][0]["content"] == b"\x00\xff"
    assert first["send_at"] == send_at
    assert second["email"]["subject"] == "text"


def test_an_event_that_is_inserted_again_under_its_id_makes_no_second_email(
    intake: Intake, events: Collection[Document], emails: Collection[Document]
) -> None:
    for identity in ("order 4711", 7, {"a": 1}, ObjectId()):
        for _ in range(2):
            events.insert_one({"_id": identity, "event": {"email": MAIL}})
            assert intake.turn() == 1
    assert emails.count_documents({}) == 4
    assert intake.counts == {"stored": 4, "repeated": 4, "buried": 0}


@pytest.mark.parametrize(
    "value,problem",
    [
        ({"email": MAIL | {"to": ["nobody"]}}, "to[0]: is not a valid"),
        ({"email": MAIL | {"text": "x" * 70_000}}, ""),
        ({"email": MAIL | {"text": "x" * 1_000_000}}, ""),
        ("no JSON", ""),
        (None, ""),
        (ObjectId(), ""),
    ],
    ids=["field", "large", "very large", "no JSON", "nothing", "no object"],
)
def test_what_is_not_valid_stays_and_says_what_is_wrong_and_keeps_no_other_back(
    intake: Intake,
    events: Collection[Document],
    emails: Collection[Document],
    value: Any,
    problem: str,
) -> None:
    events.insert_one({"event": value})
    events.insert_one({"event": {"email": MAIL}})
    assert intake.turn() == 2
    assert emails.count_documents({}) == 1
    (buried,) = events.find()
    assert buried["event"] == value
    assert buried["buried"]["problem"].startswith(problem)
    assert buried["buried"]["problem"]
    assert "reserved" not in buried
    assert intake.counts["buried"] == 1
    events.update_one({}, {"$unset": {"buried": ""}, "$set": {"event": {"email": MAIL}}})
    assert intake.turn() == 1
    assert events.count_documents({}) == 0


def test_an_event_whose_id_is_no_text_keeps_no_other_back(
    intake: Intake, events: Collection[Document], emails: Collection[Document]
) -> None:
    """Nobody can ask for it by its id: the driver does not encode what it has decoded."""
    events.insert_many(undecodable({"_id": f"{MARK}{i}", "event": {}}) for i in range(BATCH))
    events.insert_one(undecodable({"_id": 1, "event": {"email": MAIL | {"subject": MARK}}}))
    events.insert_one({"event": {"email": MAIL}})
    assert intake.turn() == 2
    assert emails.count_documents({}) == 1
    assert events.count_documents({}) == BATCH + 1


def test_an_event_that_a_killed_process_had_is_taken_up_again(
    config: Config, store: Store, intake: Intake, events: Collection[Document]
) -> None:
    events.insert_one({"event": {"email": MAIL}})
    (killed,) = open_events(config, store=store)
    assert len(killed.reserve(0, 9)) == 1
    assert intake.receiver.reserve(0, 9) == []
    over = datetime.now(UTC) - timedelta(seconds=1)
    events.update_one({}, {"$set": {"reserved.until": over}})
    assert intake.turn() == 1
    killed.end([], DELETED)
    assert events.count_documents({}) == 0
