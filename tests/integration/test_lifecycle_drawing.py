"""docs/lifecycle.md against the code: the drawing and its sentences are what the writes really do.

Every write that the product can make is applied to a document in every status, on a real server;
which decisions there are is found by asking ``decide`` about every outcome in every situation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue import document, interventions
from mailqueue.document import SIMULATED
from mailqueue.interventions import Verb
from mailqueue.lifecycle import decide, end, undecided, untouched
from mailqueue.record import (
    NORMAL,
    Decision,
    Outcome,
    Pin,
    Policy,
    Reason,
    Record,
    Round,
    SendResult,
    Status,
    VendorState,
)
from mailqueue.transitions import (
    Change,
    Claim,
    Write,
    change_writes,
    claim_writes,
    late_yes_filter,
    late_yes_update,
)
from tests.integration.bench import Bench

PAGE = (Path(__file__).parents[2] / "docs/lifecycle.md").read_text("utf-8")
TOKEN = 3
YES = SendResult(outcome=Outcome.ACCEPTED, message_id="id")
Edge = tuple[str, str]


def drawn() -> set[Edge]:
    (drawing,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)[:1]
    return set(re.findall(r"^ +(\S+) --> ([^\s:]+):", drawing, re.MULTILINE))


def told() -> list[Edge]:
    """The first two cells of each row of the table; an empty one stands for the outside."""
    (table,) = re.findall(r"<!-- edge table -->\n(.*?)<!-- /", PAGE, re.DOTALL)
    cells = [[cell.strip(" `") or "[*]" for cell in row.split("|")] for row in table.splitlines()]
    return [(row[1], row[2]) for row in cells[2:] if row[3].endswith(".")]


def decisions(*, sending: bool) -> set[Status]:
    """The statuses that can follow an attempt, or that nobody could be asked."""
    pin = Pin(vendor="a", key="k", remaining=600)
    records = [
        Record(
            priority=NORMAL,
            age=age,
            expires_in=expires_in,
            counted=counted,
            unknowns=unknowns,
            round=Round(refused=refused),
            pin=pinned,
            pending=pending,
            vendor="a" if sending else None,
        )
        for age, expires_in, counted, unknowns, refused, pinned, pending in product(
            *((0.0, 1e9), (None, 0.0), (0, 25), (0, 1), ((), ("a", "b"))),
            *((None, pin), (None, ("x@example.org",))),
        )
    ]
    results = [
        SendResult(outcome=outcome, pending=pending, ours=ours)
        for outcome, pending, ours in product(Outcome, ((), ("x@example.org",)), (False, True))
    ]
    policies = [Policy(), Policy(resend_unknown=False)]
    others = [VendorState(name="a"), VendorState(name="b")]
    found: set[Status] = set()
    for record, policy in product(records, policies):
        for result in results if sending else [None]:
            found.add(decide(record, result, others, policy, lambda: 0.5).status)
        if sending:
            found |= {undecided(record, result).status for result in results}
            found.add(untouched(record).status)
        else:
            found.add(end(record, Reason.EXPIRED).status)
    return found


def writes(email_id: ObjectId) -> Iterator[Write]:
    """Every write that can change the status of an e-mail."""
    nonce = ObjectId()
    yield from claim_writes([Claim(id=email_id, token=TOKEN, vendor="a")], SIMULATED, "", nonce, 9)
    for sending in (True, False):
        for status in decisions(sending=sending):
            decision = Decision(status=status, priority=NORMAL)
            result = YES if status is Status.SENT else None
            change = Change(
                id=email_id, token=TOKEN, decision=decision, sending=sending, result=result
            )
            yield from change_writes([change], simulated=True)
    yield late_yes_filter(email_id, TOKEN), late_yes_update(TOKEN, "a", YES, simulated=True)
    for verb in Verb:
        guard = {"_id": email_id, **interventions.guard(verb)}
        yield guard, interventions.update(verb, nonce)


def situations(email_id: ObjectId) -> Iterator[dict[str, Any]]:
    """A document in every status, with and without traces of a copy."""
    now = datetime.now(UTC)
    made = document.new(
        {"from": "a@example.com", "to": ["b@example.org"], "text": ""},
        email_id=email_id,
        message_id="<m@example.com>",
        env=SIMULATED,
        content_hash="",
        priority=NORMAL,
        now=now,
    )
    line = {"n": 1, "token": TOKEN, "vendor": "a", "started_at": now, "ended_at": None}
    late = {"vendor": "a", "message_id": "id", "refused": [], "token": TOKEN - 1, "at": now}
    lease = {"token": TOKEN, "until": now + timedelta(minutes=1)}
    for status, unknowns, known in product(Status, (0, 1), (None, late)):
        yield {
            **made,
            "status": status.value,
            "unknowns": unknowns,
            "lease": lease,
            "attempts": [{**line, "outcome": None}],
            **({"late_accept": known} if known and status is Status.SENDING else {}),
        }


@pytest.fixture
def made(emails: Collection[dict[str, Any]]) -> set[Edge]:
    """The changes of status that the writes make."""
    found = set()
    for before in situations(ObjectId()):
        for guard, update in writes(before["_id"]):
            emails.replace_one({"_id": before["_id"]}, before, upsert=True)
            if emails.update_many(guard, update).matched_count:
                after = emails.find_one({"_id": before["_id"]}) or {}
                found.add((before["status"], after["status"]))
    return found


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
