"""A round of the sweeper looks at pages, not at collections, and counts in the index.

The server explains every query of a round at the moment at which the sweeper sends it: once with
something of everything to do, and once when all is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from mailqueue.config import Config
from mailqueue.consumer import sweeper
from mailqueue.consumer.sweeper import PAGE
from mailqueue.store import document
from mailqueue.store.store import Store
from tests.integration.bench import MAIL, Bench

Document = dict[str, Any]
NOW = datetime.now(UTC)
LONG_AGO, AGO = NOW - timedelta(days=400), NOW - timedelta(hours=2)
LATER = NOW + timedelta(days=1)
MANY, FEW = 600, 150  # of each kind; a few are more than a page
QUERIES = {"find", "aggregate", "count"}
NOT_PART_OF_IT = {"lsid", "txnNumber", "maxTimeMS", "readConcern"}
ONE_MORE = 2  # keys that the server may look at to see that a range ends


@dataclass(frozen=True)
class Query:
    """What one query of the sweeper costs the server."""

    asked: str
    limit: int | None
    ids: int | None
    counts: bool
    stages: frozenset[str]
    keys: int
    documents: int
    returned: int
    announced: int

    @property
    def of_leases(self) -> bool:
        return "$lease.until" in self.asked

    @property
    def of_relay(self) -> bool:
        return "announced.at" in self.asked


class Explainer(CommandListener):
    """Has each query of e-mails explained, by a client of its own, before it is sent."""

    def __init__(self, config: Config, client: MongoClient[Document]) -> None:
        self.database = client[config.mongodb.database]
        self.emails = self.database[config.mongodb.collection]
        self.queries: list[Query] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in QUERIES and self.emails.name == event.command[event.command_name]:
            self.queries.append(self.explained(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing to keep."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to keep."""

    def explained(self, command: Mapping[str, Any]) -> Query:
        asked = {k: v for k, v in command.items() if k[0] != "$" and k not in NOT_PART_OF_IT}
        found = self.database.command({"explain": asked, "verbosity": "executionStats"})
        (stats,) = [part for part in parts(found) if "totalDocsExamined" in part]
        steps = {name: how for step in asked["pipeline"] for name, how in step.items()}
        ids = steps["$match"].get("_id")
        return Query(
            asked=str(asked),
            limit=steps.get("$limit"),
            ids=len(ids["$in"]) if ids else None,
            counts="$group" in steps,
            stages=frozenset(part["stage"] for part in parts(stats) if "stage" in part),
            keys=stats["totalKeysExamined"],
            documents=stats["totalDocsExamined"],
            returned=stats["nReturned"],
            announced=self.emails.count_documents({"announced.at": {"$gte": NOW}}),
        )


def parts(value: object) -> Iterator[Mapping[str, Any]]:
    """Every object inside a value."""
    if isinstance(value, Mapping):
        yield value
        for each in value.values():
            yield from parts(each)
    elif isinstance(value, list):
        for each in value:
            yield from parts(each)


def lease(until: datetime) -> Document:
    line = {"n": 1, "token": 1, "vendor": "first", "started_at": AGO, "outcome": None}
    return {
        "status": "sending",
        "lease": {"token": 1, "owner": "another", "until": until},
        "attempts": [line],
        "overdue_at": None,
    }


KINDS: list[tuple[int, Document]] = [
    (MANY, {"due_at": None, "overdue_at": LATER}),
    (MANY, {"due_at": AGO, "overdue_at": LATER}),
    (FEW, {"due_at": None, "overdue_at": AGO}),
    (MANY, {"due_at": None, "overdue_at": LATER, "announced": {"at": NOW, "n": 1}}),
    (3 * MANY, {"due_at": LATER, "overdue_at": LATER}),
    (MANY, {"due_at": LATER, "overdue_at": LATER, "expires_at": LATER}),
    (FEW, {"due_at": AGO, "overdue_at": LATER, "expires_at": AGO}),
    (MANY, lease(LATER)),
    (FEW, lease(AGO)),
    *[
        (n, {"status": status, "updated_at": at, "overdue_at": None})
        for status in ("sent", "failed", "cancelled")
        for n, at in ((MANY, NOW), (FEW, LONG_AGO))
    ],
]


def emails() -> Iterator[Document]:
    """Some of every kind; ``overdue_at`` is there only where it says when."""
    for number, kind in KINDS:
        for _ in range(number):
            email_id = ObjectId()
            made = document.new(
                MAIL,
                email_id=email_id,
                message_id=f"<{email_id}@example.com>",
                env=document.SIMULATED,
                content_hash="",
                priority=65_536,
                now=NOW,
            )
            made |= kind
            if made["overdue_at"] is None:
                del made["overdue_at"]
            yield made


def rounds(
    config: Config, mongo_client: MongoClient[Document], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Query]]:
    """What two rounds ask of a collection with thousands of e-mails.

    The second one announces nothing again, however long the first one took.
    """
    monkeypatch.setattr(sweeper, "ANNOUNCED_LATELY", timedelta(hours=1))
    explainer = Explainer(config, mongo_client)
    client: MongoClient[Document]
    with MongoClient(config.mongodb.uri, event_listeners=[explainer]) as client:
        bench = Bench(config, Store(config.mongodb, env=document.SIMULATED, client=client))
        bench.store.ensure_indexes()
        bench.store.emails.insert_many(emails())
        done = bench.sweeper.sweep()
        assert (done["rescued"], done["expired"], done["pruned"]) == (FEW, FEW, 3 * FEW)
        assert done["announced"] >= 2 * MANY
        yield explainer.queries.copy()
        explainer.queries.clear()
        assert not any(bench.sweeper.sweep().values())
        yield explainer.queries
        bench.close()


@pytest.fixture
def config_mapping(config_mapping: Document) -> Document:
    """A round may take as long as it takes here: on a busy machine none is cut short."""
    return config_mapping | {"consumer": {"sweep_every": 3600}}


ROUNDS = ("everything to do", "nothing left to do")
_asked: dict[str, list[Query]] = {}  # what every test looks at is asked for once


@pytest.fixture(params=ROUNDS)
def queries(
    request: pytest.FixtureRequest,
    config: Config,
    mongo_client: MongoClient[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> list[Query]:
    """What a round asks."""
    if not _asked:
        _asked.update(zip(ROUNDS, rounds(config, mongo_client, monkeypatch), strict=True))
    return _asked[request.param]


def test_a_round_never_reads_a_collection_through_nor_sorts_it_in_memory(
    queries: list[Query],
) -> None:
    assert sum(query.of_leases for query in queries) == 1
    assert sum(query.of_relay for query in queries) == 1
    assert len(queries) >= 9
    for query in queries:
        assert not query.stages & {"COLLSCAN", "SORT"}, query


def test_every_query_says_how_much_it_wants_at_most(queries: list[Query]) -> None:
    for query in queries:
        if query.ids is None:
            assert query.limit, query
            assert query.returned <= query.limit, query
        else:
            assert 0 < query.ids <= PAGE, query
            assert query.documents <= query.ids, query


def test_the_backlog_is_counted_in_the_index_and_no_further_than_what_is_counted(
    queries: list[Query],
) -> None:
    counts = [query for query in queries if query.counts]
    assert counts
    for query in counts:
        assert query.documents == 0, query
        assert query.keys <= query.returned + ONE_MORE, query


def test_a_page_looks_only_at_what_it_returns(queries: list[Query]) -> None:
    """But for two: the relay passes over what it announced just now, the rescue what is leased."""
    pages = [query for query in queries if not query.counts and query.ids is None]
    assert len(pages) >= 6
    for query in pages:
        passed_over = query.announced if query.of_relay else MANY if query.of_leases else 0
        assert query.documents <= query.returned + passed_over, query
        assert query.keys <= query.documents + ONE_MORE, query
