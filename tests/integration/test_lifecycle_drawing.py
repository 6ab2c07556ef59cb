"""docs/lifecycle.md against the code: the drawing and its sentences are what the writes really do.

Every write that the product can make is applied to a document in every status, on a real server.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import Status
from mailqueue.monitoring.conditions import Conditions
from mailqueue.monitoring.explanation import DAMAGED, explain
from mailqueue.store import document
from mailqueue.store.document import Stored
from tests.every_write import TOKEN, situations, writes
from tests.integration.bench import Bench

PAGE = (Path(__file__).parents[2] / "docs/lifecycle.md").read_text("utf-8")
Edge = tuple[str, str]


def drawn() -> set[Edge]:
    (drawing,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)[:1]
    return set(re.findall(r"^ +(\S+) --> ([^\s:]+):", drawing, re.MULTILINE))


def told() -> list[Edge]:
    """The first two cells of each row of the table; an empty one stands for the outside."""
    (table,) = re.findall(r"<!-- edge table -->\n(.*?)<!-- /", PAGE, re.DOTALL)
    cells = [[cell.strip(" `") or "[*]" for cell in row.split("|")] for row in table.splitlines()]
    return [(row[1], row[2]) for row in cells[2:] if row[3].endswith(".")]


@pytest.fixture
def made(emails: Collection[dict[str, Any]], bench: Bench) -> set[Edge]:
    """The changes of status that the writes make; what they leave can be explained."""
    found = set()
    email_id = ObjectId()
    for before in chain(situations(email_id), situations(email_id, token=TOKEN)):
        for guard, update in writes(before):
            emails.replace_one({"_id": before["_id"]}, before, upsert=True)
            if emails.update_many(guard, update).matched_count:
                after = emails.find_one({"_id": before["_id"]}) or {}
                found.add((before["status"], after["status"]))
                assert_is_explained(after, bench.config)
    return found


def assert_is_explained(after: dict[str, Any], config: Config) -> None:
    explanation = explain(Stored(after, datetime.now(UTC)), config, Conditions())
    texts = [explanation.summary, *(each.text for each in explanation.next)]
    assert DAMAGED not in texts
    assert not [text for text in texts if "None" in text or "{" in text]
    assert len(explanation.history) > 2  # it was handed in, and there was an attempt


def test_the_drawing_shows_the_changes_of_status_that_the_writes_make(
    made: set[Edge], bench: Bench
) -> None:
    pruned = {(str(status), "[*]") for status, _ in bench.sweeper._old(bench.store.now())}
    stored = ("[*]", document._NEW["status"])
    assert drawn() == {*made, *pruned, stored}


def test_every_edge_of_the_drawing_has_one_sentence() -> None:
    assert len(told()) == len(set(told()))
    assert set(told()) == drawn()


def test_every_status_is_drawn() -> None:
    assert {state for edge in drawn() for state in edge} == {*Status, "[*]"}
