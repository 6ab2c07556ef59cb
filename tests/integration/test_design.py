"""docs/design.md against the code: fields, guards, clocks and limits are those that it has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.consumer import Consumer
from mailqueue.lifecycle.outcomes import PRIORITIES, RETRY_PRIORITIES, Status
from mailqueue.message import fields as keys
from mailqueue.producer import group_commit, submission
from mailqueue.routing import router
from mailqueue.routing.rotation import Health
from mailqueue.store import callbacks, content, deliveries, forgetting, holds, interventions, ledger
from mailqueue.store.callbacks import Settlement
from mailqueue.store.forgetting import Person
from mailqueue.store.ids import of_key
from mailqueue.store.indexes import FOR_RESERVATIONS, FOR_SEARCH, INDEXES
from mailqueue.store.interventions import Verb
from mailqueue.store.store import Store
from mailqueue.store.transitions import (
    Change,
    Claim,
    change_filter,
    claim_filter,
    late_yes_filter,
    look_up_filter,
)
from tests.every_write import SENT, TOKEN, full_writes, situations, writes
from tests.stage import DOWN, Stage, letter

PAGE = (Path(__file__).parents[2] / "docs/design.md").read_text("utf-8")
Document = dict[str, Any]


def table(name: str) -> list[list[str]]:
    """The cells of each row below the head."""
    (rows,) = re.findall(rf"<!-- {name} table -->\n(.*?)<!-- /", PAGE, re.DOTALL)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()[2:]]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def paths(document: Mapping[str, Any]) -> Iterator[str]:
    """Every field, those inside of others with the way to them; not those of the e-mail itself."""
    for name, value in document.items():
        inside = value if isinstance(value, list) else [value]
        mappings = [e for e in inside if isinstance(e, dict)] if name != "email" else []
        if not mappings:
            yield name
        for each in mappings:
            way = f"{name}[]" if isinstance(value, list) else name
            yield from (f"{way}.{path}" for path in paths(each))


def without_nothing(found: set[str]) -> set[str]:
    """Without those that are known from elsewhere to have fields of their own."""
    parents = {re.split(r"\[\]\.|\.", path)[0] for path in found if "." in path}
    return found - parents


def test_the_fields_of_an_email_are_those_that_the_writes_leave(
    emails: Collection[Document], store: Store
) -> None:
    found: set[str] = set()
    for before in situations(ObjectId()):
        email_id = before["_id"]
        for guard, update in [*writes(before), *full_writes(before)]:
            emails.replace_one({"_id": email_id}, before, upsert=True)
            emails.update_many(guard, update)
            store.mark_announced([email_id])
            found |= set(paths(emails.find_one({"_id": email_id}) or {}))
    told = {code for row in table("field") for code in codes(row[0])}
    assert told == without_nothing(found)


def tokens_since(created_at: datetime, email: Document) -> list[float]:
    """Those of the attempts and of the lease, counted from where they began: that time."""
    tokens = [line["token"] for line in email["attempts"]] + [email["lease"]["token"]]
    return [token - round(created_at.timestamp() * 1000) for token in tokens]


def test_the_example_is_what_is_stored_after_a_503_and_a_yes(stage: Stage) -> None:
    stage.vendor("sendgrid")
    stage.vendor("mailgun-eu", DOWN)
    # Neighbouring jobs begin with different vendors.
    ids = stage.producer.send_many(
        [letter(n) for n in range(2)], idempotency_keys=["welcome-4711", "welcome-4712"]
    )
    assert Consumer(stage.config, burst=True).run() == 0
    (stored,) = [d for d in map(stage.document, ids) if len(d["attempts"]) == 2]
    (example,) = re.findall(r"<!-- document: email -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    shown = json.loads(example)
    assert sorted(paths(shown)) == sorted(paths(stored))
    for line, real in zip(shown["attempts"], stored["attempts"], strict=True):
        timeless = {"started_at", "ended_at", "message_id", "token"}
        for name in line.keys() - timeless:
            assert (name, line[name]) == (name, real[name])
    for name in ("status", "priority", "round", "unknowns", "counted", "vendor"):
        assert shown[name] == stored[name]
    assert tokens_since(datetime.fromisoformat(shown["created_at"]), shown) == [1, 2, 2]
    assert tokens_since(stored["created_at"], stored) == [1, 2, 2]
    assert ObjectId(shown["_id"]) == of_key("production", shown["idempotency_key"])


def test_the_fields_of_a_vendors_health_are_those_that_are_stored(stage: Stage) -> None:
    stage.vendor("sendgrid")
    stage.send()
    assert Consumer(stage.config, burst=True).run() == 0
    told = [code for row in table("health") for code in codes(row[0])]
    assert sorted(told) == sorted(stage.health("sendgrid"))
    assert len(told) == len(fields(Health))


def test_the_fields_of_a_vendors_limits_are_those_that_are_stored(stage: Stage) -> None:
    stage.vendor("sendgrid")
    rate = {"per_minute": 6000, "gap": 0.01, "per_day": 9, "per_month": 9}
    stage.settings["vendors"][0]["rate"] = rate
    stage.send()
    assert Consumer(stage.config, burst=True).run() == 0
    names = [code for row in table("rate") for code in codes(row[0])]
    assert sorted(names) == sorted(stage.health("rate:sendgrid"))


def test_the_indexes_are_those_that_are_made() -> None:
    assert [codes(row[0]) for row in table("index")] == [
        [name] for name in (*INDEXES, *FOR_RESERVATIONS, *FOR_SEARCH)
    ]


def guarded(match: object) -> Iterator[str]:
    """The fields that a filter speaks of."""
    if isinstance(match, dict):
        yield from (name for name in match if not name.startswith("$"))
        nested = [value for name, value in match.items() if name.startswith("$")]
        yield from (field for value in nested for field in guarded(value))
    elif isinstance(match, list):
        yield from (field for value in match for field in guarded(value))
    elif isinstance(match, str) and re.fullmatch(r"\$\w[\w.]*", match):
        yield match.removeprefix("$")


def test_the_guards_are_those_of_the_code() -> None:
    email_id, nonce = ObjectId(), ObjectId()
    settlement = Change(id=email_id, token=TOKEN, decision=SENT, nonce=nonce)
    rescue = Change(id=email_id, token=TOKEN, decision=SENT, expired=True)
    queued = Change(id=email_id, token=TOKEN, decision=SENT, sending=False)
    filters = {
        "claim": claim_filter(Claim(id=email_id, token=TOKEN, vendor="a"), "simulated"),
        "settlement": change_filter(settlement),
        "rescue": change_filter(rescue),
        "end or hold of a queued e-mail": change_filter(queued),
        "late yes": late_yes_filter(email_id, TOKEN),
        "event, attempt under way": deliveries.open_attempt_write(email_id, TOKEN, None)[0],
        "event, outcome unknown": deliveries.unknown_attempt_write(
            email_id, TOKEN, "a", None, simulated=True
        )[0],
        "delivery": deliveries.delivery_filter([email_id], "a"),
        "callback claim": callbacks.claim_write([email_id], "simulated", nonce, 60)[0],
        "callback settlement": callbacks.settle_write(
            Settlement(email_id, "msg", TOKEN, nonce, "delivered", "200")
        )[0],
        "callback retry": callbacks.retry_write([email_id], ["failed"])[0],
        "looked up": look_up_filter(email_id, TOKEN),
        **{verb.value: interventions.guard(verb) for verb in Verb},
        "content": content.drop_write(
            [email_id], Status.SENT, {"env": "", "updated_at": {"$gte": 0, "$lt": 1}}
        )[0],
        "forget": forgetting.email_write(
            {"_id": 1, "status": "sent", "lease": {"token": 1}}, Person([])
        )[0],
        "put back": holds.put_back_filter([email_id]),
        "reschedule": interventions.reschedule_filter(email_id, datetime.now(UTC)),
    }
    told = {row[0]: sorted(codes(row[2])) for row in table("guard")}
    assert told == {name: sorted({*guarded(f)} - {"_id"}) for name, f in filters.items()}


def test_the_priorities_are_those_of_the_code() -> None:
    told = {codes(row[0])[0]: (int(row[1]), int(row[2])) for row in table("priority")}
    assert told == {name: (RETRY_PRIORITIES[new], new) for name, new in PRIORITIES.items()}


def test_the_clocks_are_those_of_the_configuration() -> None:
    config = Config()
    delivery = config.delivery
    assert [float(row[1]) for row in table("clock")] == [
        *(config.mongodb.timeout, delivery.deadline),
        *(delivery.settle_timeout, delivery.lease, delivery.ttr),
    ]


def test_the_limits_are_those_of_the_code() -> None:
    limits = [
        *(Config().limits.max_size, keys.MAX_ENTRIES, keys.MAX_ALTERNATIVES, keys.MAX_OPTIONS),
        *(submission.MAX_KEY_LENGTH, submission.MAX_PAGE),
        *(group_commit.MAX_BATCH, group_commit.MAX_BYTES),
        *(ledger.LENGTH, ledger.LISTED, router.REFUSALS_IN_A_ROW),
    ]
    assert [int(re.sub(r"\D", "", row[1])) for row in table("limit")] == limits
