"""An e-mail is found by its ``_id`` alone: what sharding by a hash of it needs.

Every command that the way of an e-mail takes is recorded, and explained by a mongod that has the
index ``{_id: "hashed"}``. Without a router this shows the shape of the commands: which ids each
names, and that it looks at no other e-mail.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection
from pymongo.monitoring import CommandListener

from mailqueue import Producer
from mailqueue.store import mongo
from mailqueue.store.document import PRODUCTION
from mailqueue.store.store import Store
from tests.faults.conftest import consuming
from tests.stage import DOWN, Stage, letter
from tests.waiting import wait_until

Document = dict[str, Any]
FOR_ALL = "sweeper"
"""The thread that searches for e-mails whose ids it does not know, on behalf of all processes."""


@dataclass(frozen=True, slots=True)
class Command:
    """One part of a command: a filter, or the document of an insert."""

    thread: str
    verb: str
    match: Mapping[str, Any]


@dataclass
class Recorder(CommandListener):
    """The commands to one collection."""

    collection: str
    commands: list[Command] = field(default_factory=list)

    def started(self, event: Any) -> None:
        verb, command = event.command_name, event.command
        if command.get(verb) != self.collection:
            return
        thread = threading.current_thread().name
        self.commands += [Command(thread, verb, part) for part in _parts(verb, command)]

    def succeeded(self, event: Any) -> None:
        """Nothing to note."""

    def failed(self, event: Any) -> None:
        """The same."""


def _parts(verb: str, command: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if verb == "insert":
        return list(command["documents"])
    if verb in {"update", "delete"}:
        return [each["q"] for each in command[f"{verb}s"]]
    if verb == "aggregate":
        return [command["pipeline"][0].get("$match", {})]
    if verb == "find":
        return [command["filter"]]
    return [] if verb in {"createIndexes", "listIndexes", "drop"} else [{"unknown": verb}]


def ids_in(match: Mapping[str, Any]) -> list[ObjectId]:
    """The ids that a filter names; none if it could match any e-mail."""
    named = match.get("_id")
    return [named] if isinstance(named, ObjectId) else list(dict(named or {}).get("$in", []))


@pytest.fixture
def recorder(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(stage.config.mongodb.collection)
    stage.emails.create_index([("_id", "hashed")])
    # Whoever makes the indexes looks once for e-mails of an earlier version.
    with closing(Store(stage.config.mongodb, env=PRODUCTION, callbacks=None)) as store:
        store.ensure_indexes()
    monkeypatch.setattr(mongo, "connect", partial(mongo.connect, event_listeners=[recorder]))
    return recorder


@pytest.fixture
def commands(stage: Stage, recorder: Recorder) -> list[Command]:
    """The commands of e-mails that are sent, repeated, cancelled, moved, and that fail over."""
    first = stage.vendor("first")
    first.reply = DOWN
    stage.vendor("second")
    stage.settings["consumer"] = {"sweep_every": 0.5}
    with Producer(stage.config) as producer:
        ids = [producer.send(letter(0)), producer.send(letter(1), idempotency_key="k")]
        assert producer.send(letter(1), idempotency_key="k") == ids[1]
        ids += producer.send_many([letter(number) for number in range(2, 8)])
        assert producer.cancel(producer.send(letter(8)))
        later = producer.send(letter(9), send_at=datetime.now(UTC) + timedelta(hours=1))
        assert producer.reschedule(later, datetime.now(UTC))
        with consuming(stage):
            wait_until(lambda: stage.statuses() == {"sent": 9, "cancelled": 1}, what="all ended")
    return recorder.commands


def test_each_command_on_an_emails_way_names_its_id(commands: list[Command]) -> None:
    verbs = {each.verb for each in commands if each.thread != FOR_ALL}
    assert {"insert", "update", "aggregate"} <= verbs
    hot = [each for each in commands if each.thread != FOR_ALL]
    assert [each for each in hot if not ids_in(each.match)] == []


def test_what_is_written_for_all_emails_names_their_ids(commands: list[Command]) -> None:
    """The sweeper searches, and then writes to what it found."""
    written = [each for each in commands if each.verb in {"update", "delete"}]
    assert written
    assert [each for each in written if not ids_in(each.match)] == []


def test_each_of_these_commands_looks_at_no_other_email(
    commands: list[Command], emails: Collection[Document]
) -> None:
    matches = [each.match for each in commands if each.thread != FOR_ALL and each.verb != "insert"]
    for match in matches:
        explained = emails.database.command(
            "explain", {"find": emails.name, "filter": match}, verbosity="executionStats"
        )
        assert explained["executionStats"]["totalDocsExamined"] <= len(ids_in(match)), match


def test_no_index_is_unique_but_that_of_the_id(
    commands: list[Command], emails: Collection[Document]
) -> None:
    """MongoDB could not keep another one over several shards."""
    assert commands
    indexes = emails.index_information()
    assert {name for name, index in indexes.items() if index.get("unique")} == set()
