"""Finding e-mails by recipient and tag, with the index and without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.message import Address
from mailqueue.producer import Producer
from mailqueue.store import audit, search
from mailqueue.store.indexes import FOR_SEARCH
from mailqueue.store.store import Store
from tests.console import Console
from tests.integration.bench import MAIL

Document = dict[str, Any]
ANN = "ann@bücher.example"


@pytest.fixture(params=[False, True], ids=["scan", "index"])
def config_mapping(config_mapping: Document, request: pytest.FixtureRequest) -> Document:
    return {**config_mapping, "retention": {"searchable": request.param}}


@pytest.fixture
def producer(config: Config) -> Iterator[Producer]:
    with Producer(config) as made:
        made.connect()
        yield made


def found(console: Console, *options: str) -> list[str]:
    return [each["id"] for each in console.data("list", *options)["emails"]]


def test_an_email_is_found_by_each_recipient_however_it_is_written(
    producer: Producer, console: Console
) -> None:
    forms: list[Any] = [
        {"to": [f"Ann <{ANN}>", "bob@example.org"]},
        {"cc": "ANN@xn--bcher-kva.EXAMPLE"},
        {"bcc": ANN},
        {"to": "bob@example.org", "envelope": {"recipients": [ANN]}},
    ]
    ids = [producer.send({**MAIL, "to": "x@example.org", **form}) for form in forms]
    for other in (f"jo{ANN}", f"{ANN}.net", f'"{ANN}"@example.org', f"'{ANN}' <x@example.org>"):
        producer.send({**MAIL, "to": other})
    for spelling in (ANN, ANN.upper(), f"Somebody <{ANN}>", "ann@xn--bcher-kva.example"):
        assert found(console, "--to", spelling) == ids
    assert found(console, "--to", "nobody@example.org") == []
    wrong = console("list", "--to", "nobody")
    assert (wrong.code, "nobody" in wrong.err) == (2, False)


def test_filters_go_together_and_choose_what_is_changed(
    producer: Producer, console: Console, emails: Collection[Document]
) -> None:
    ids = [producer.send({**MAIL, "to": ANN, "tags": tag}) for tag in ("a", "b", "b")]
    assert found(console, "--tag", "b") == ids[1:]
    assert found(console, "--to", ANN, "--tag", "b", "--status", "queued") == ids[1:]
    assert console("cancel", "--to", ANN, "--tag", "a").code == 0
    assert (emails.find_one({"_id": ObjectId(ids[0])}) or {})["status"] == "cancelled"


def test_what_is_older_than_the_index_is_found_as_well(
    config: Config, console: Console, emails: Collection[Document]
) -> None:
    with Producer(config.replace(retention={})) as before:
        old = before.send({**MAIL, "to": ANN})
    with Producer(config) as producer:
        new = producer.send({**MAIL, "to": ANN})
    assert found(console, "--to", ANN) == [old, new]


def test_only_what_is_configured_costs_something(
    producer: Producer, config: Config, emails: Collection[Document], console: Console
) -> None:
    email_id = producer.send({**MAIL, "to": [f"Ann <{ANN}>", ANN.upper()], "tags": "a"})
    document = emails.find_one() or {}
    names = {" ".join(name for name, _ in i["key"]) for i in emails.index_information().values()}
    if not config.retention.searchable:
        assert "recipients" not in document
        assert not names & FOR_SEARCH.keys()
        return
    assert document["recipients"] == ["ann@xn--bcher-kva.example"]
    assert names >= FOR_SEARCH.keys()
    assert "xn--" not in console("show", email_id, "--json").out
    person = Address.parse(ANN)
    for match in (search.match(person, indexed=True), {"email.tags": "a"}):
        plan = emails.find(match).sort("created_at", 1).explain()
        assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"])
    store = Store(config.mongodb, env="simulated")
    assert [p for stored in store.find({}, 9) for p in audit.problems(stored)] == []
    store.close()
