"""The store on a real mongod: claims, settlements, lost replies, and the yes that comes late."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config, MongoDB
from mailqueue.errors import ConfigError, StoreUnavailable
from mailqueue.lifecycle.decide import end, requeue_unsent
from mailqueue.lifecycle.outcomes import (
    NORMAL,
    Decision,
    Outcome,
    Pin,
    Reason,
    Round,
    SendResult,
    Status,
)
from mailqueue.message import Email
from mailqueue.message.message import content_hash
from mailqueue.store import document, ids
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.store import Store
from mailqueue.store.transitions import Change, Claim, Lease
from tests.integration.bench import (
    MAIL,
    WRITE_CONCERN_ERROR,
    Document,
    LosesReplies,
    failing,
    impatient,
)

YES = SendResult(outcome=Outcome.ACCEPTED, code="202", message_id="vendor-id")
NO = SendResult(outcome=Outcome.REJECTED, code="400")
UNHEARD = SendResult(outcome=Outcome.UNKNOWN, code="timeout", answered=False)
SENT = Decision(status=Status.SENT, priority=NORMAL)
FAILED = Decision(status=Status.FAILED, priority=NORMAL, reason=Reason.REJECTED)
AGAIN = Decision(status=Status.QUEUED, priority=512, unknowns=1, counted=1)


@pytest.fixture
def forgetful(config: Config) -> Iterator[LosesReplies]:
    made = LosesReplies(config.mongodb, env=SIMULATED)
    made.ensure_indexes()
    yield made
    made.close()


def stored(store: Store, n: int = 1, **fields: Any) -> list[ObjectId]:
    """E-mails as the producer stores them, but for ``fields``."""
    email = Email.from_mapping(MAIL)
    made = [
        document.new(
            email.to_mapping(),
            email_id=(email_id := ObjectId()),
            message_id=f"<{email_id}@example.com>",
            env=SIMULATED,
            content_hash=content_hash(email.to_mapping()),
            priority=NORMAL,
            now=datetime.now(UTC),
        )
        | fields
        for _ in range(n)
    ]
    store.insert(made)
    return [d["_id"] for d in made]


def claim(
    store: Store, *ids: ObjectId, token: int = 0, lease: float = 120, **more: Any
) -> set[ObjectId]:
    claims = [Claim(id=i, token=token, vendor="first", **more) for i in ids]
    _, won = store.write([], claims, lease=Lease(owner="me", nonce=ObjectId(), seconds=lease))
    return won


def changed(store: Store, change: Change) -> bool:
    """Whether that is written now."""
    written, _ = store.write([change], seconds=5)
    return written == {change.id}


def settle(store: Store, email_id: ObjectId, result: SendResult, decision: Decision) -> bool:
    change = Change(id=email_id, token=1, decision=decision, result=result, vendor="first")
    return changed(store, change)


def the(emails: Collection[Document]) -> Document:
    (found,) = emails.find()
    return found


def with_key(key: str) -> Document:
    """A new e-mail with this key, of a call of its own."""
    return document.new(
        Email.from_mapping(MAIL).to_mapping(),
        email_id=ids.of_key(SIMULATED, key),
        message_id="<1@example.com>",
        env=SIMULATED,
        content_hash="",
        priority=NORMAL,
        now=datetime.now(UTC),
        idempotency_key=key,
        nonce=ids.new(),
    )


# Inserting --------------------------------------------------------------------------------------


def test_what_is_there_under_our_own_id_is_stored(store: Store) -> None:
    email = stored(store)
    again = store.read(email)[email[0]].document
    made = {k: v for k, v in again.items() if k != "now"}
    assert store.insert([made]) == ({}, {})
    assert store.insert([made, {**made, "_id": ObjectId()}]) == ({}, {})


def test_taken_keys_are_told_and_the_rest_is_stored(
    store: Store, emails: Collection[Document]
) -> None:
    new = [with_key(f"order-{n}") for n in (1, 2)]
    store.insert([with_key("order-1")])
    first = the(emails)["_id"]
    holders, refused = store.insert(new)
    assert ({key: holder["_id"] for key, holder in holders.items()}, refused) == (
        {"order-1": first},
        {},
    )
    assert sorted(emails.distinct("idempotency_key")) == ["order-1", "order-2"]
    assert emails.count_documents({}) == 2


def test_refused_emails_are_told_beside_taken_keys_and_the_rest_is_stored(
    store: Store, emails: Collection[Document]
) -> None:
    store.insert([with_key("order-1")])
    emails.database.command("collMod", emails.name, validator={"status": "queued"})
    new = [with_key(f"order-{n}") for n in range(4)]
    new[2]["status"] = "odd"
    holders, refused = store.insert(new)
    assert (set(holders), refused) == ({"order-1"}, {new[2]["_id"]: 121})
    assert set(emails.distinct("idempotency_key")) == {"order-0", "order-1", "order-3"}


def test_an_insert_whose_reply_was_lost_stores_once(
    forgetful: LosesReplies, emails: Collection[Document]
) -> None:
    forgetful.to_lose = 2
    ids = stored(forgetful, 3)
    forgetful.to_lose = 1
    ids += stored(forgetful)
    assert set(emails.distinct("_id")) == set(ids)


def test_a_uri_that_cannot_be_used_is_not_quoted() -> None:
    both = "directConnection=true&loadBalanced=true"
    with pytest.raises(ConfigError) as caught:
        Store(MongoDB(uri=f"mongodb://u:secret@h/?{both}"), env=SIMULATED)
    assert "secret" not in str(caught.value)


# The claim --------------------------------------------------------------------------------------


def test_a_claim_takes_the_lease_and_opens_the_ledger_line(
    store: Store, emails: Collection[Document]
) -> None:
    (email_id,) = stored(store)
    assert claim(store, email_id, key="k", probe=True) == {email_id}
    found = the(emails)
    assert found["status"] == "sending"
    assert (found["lease"]["token"], found["lease"]["owner"]) == (1, "me")
    (line,) = found["attempts"]
    assert (line["n"], line["token"], line["vendor"], line["key"]) == (1, 1, "first", "k")
    assert line["probe"] is True
    assert line["ended_at"] is line["outcome"] is None
    lasts = found["lease"]["until"] - line["started_at"]
    assert lasts == timedelta(seconds=120)


def test_of_many_claimers_one_wins_each_email(config: Config, store: Store) -> None:
    ids = stored(store, 20)
    with ThreadPoolExecutor(8) as workers:
        won = list(workers.map(lambda _: claim(store, *ids), range(8)))
    assert sum(map(len, won)) == 20
    assert set().union(*won) == set(ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "sending"},
        {"status": "cancelled"},
        {"env": PRODUCTION},
        {"lease": {"token": 1}},
        {"due_at": datetime.now(UTC) + timedelta(hours=1)},
        {"expires_at": datetime.now(UTC) - timedelta(seconds=1)},
    ],
    ids=["sending", "cancelled", "other env", "token changed", "not due", "expired"],
)
def test_what_must_not_be_sent_is_not_claimed(store: Store, fields: Document) -> None:
    (bad,), (good,) = stored(store, **fields), stored(store)
    assert claim(store, bad, good) == {good}


@pytest.mark.parametrize("fields", [{"expires_at": None}, {"due_at": None}, {}])
def test_no_time_to_expire_means_never(store: Store, fields: Document) -> None:
    (email_id,) = stored(store, **fields)
    assert claim(store, email_id)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_claim_whose_reply_was_lost_is_won_exactly_once(
    forgetful: LosesReplies, emails: Collection[Document], lost: int
) -> None:
    ids = stored(forgetful, 3)
    forgetful.to_lose = lost
    assert claim(forgetful, *ids) == set(ids)
    assert claim(forgetful, *ids) == set()
    assert [len(d["attempts"]) for d in emails.find()] == [1, 1, 1]


def test_a_claim_that_another_won_is_not_taken_for_ours_when_replies_are_lost(
    forgetful: LosesReplies,
) -> None:
    ids = stored(forgetful, 2)
    assert claim(forgetful, ids[0])
    forgetful.to_lose = 1
    assert claim(forgetful, *ids) == {ids[1]}


def test_a_claim_that_cannot_be_confirmed_is_given_back_by_its_nonce(
    store: Store, mongo_client: MongoClient[Document], emails: Collection[Document]
) -> None:
    (email_id,) = stored(store)
    nonce = ObjectId()
    with (
        impatient(store),
        failing(mongo_client, "update", writeConcernError=WRITE_CONCERN_ERROR),
        pytest.raises(StoreUnavailable),
    ):
        store.write(
            [],
            [Claim(id=email_id, token=0, vendor="first")],
            lease=Lease(owner="me", nonce=nonce, seconds=120),
        )
    assert the(emails)["status"] == "sending"
    record = store.read([email_id])[email_id].snapshot()
    back = Change(id=email_id, token=1, nonce=nonce, decision=requeue_unsent(record))
    assert changed(store, back)
    found = the(emails)
    assert (found["status"], found["attempts"][0]["outcome"]) == ("queued", "not_started")
    assert (found["counted"], found["unknowns"]) == (0, 0)


def test_a_claim_of_another_is_not_given_back_by_my_nonce(store: Store) -> None:
    (email_id,) = stored(store)
    claim(store, email_id)
    record = store.read([email_id])[email_id].snapshot()
    back = Change(id=email_id, token=1, nonce=ObjectId(), decision=requeue_unsent(record))
    assert not changed(store, back)


def test_the_ledger_keeps_the_newest_fifty_lines(
    store: Store, emails: Collection[Document]
) -> None:
    lines = [{"n": n, "token": 0, "vendor": "first", "outcome": "deferred"} for n in range(1, 51)]
    (email_id,) = stored(store, attempts=lines)
    claim(store, email_id)
    ledger = the(emails)["attempts"]
    assert (len(ledger), ledger[0]["n"], ledger[-1]["n"]) == (50, 2, 51)


def test_what_the_reader_does_not_need_is_left_out(store: Store) -> None:
    email = stored(store)
    whole = store.read(email)[email[0]]
    part = store.read(email, ["created_at", "content_hash"])[email[0]]
    assert whole.document.keys() - part.document.keys() == {"created_at", "content_hash"}
    assert part.snapshot().priority == whole.snapshot().priority


def test_text_that_looks_like_a_field_is_taken_literally(
    store: Store, emails: Collection[Document]
) -> None:
    (email_id,) = stored(store)
    store.write(
        [],
        [Claim(id=email_id, token=0, vendor="$status", key="$$NOW")],
        lease=Lease(owner="$_id", nonce=ObjectId(), seconds=10),
    )
    odd = replace(
        YES, code="$code", detail="$$ROOT", message_id="$env", refused=("$x@example.org",)
    )
    done = replace(SENT, pending=("$y@example.org",), refused=("$x@example.org",))
    change = Change(id=email_id, token=1, decision=done, result=odd, vendor="$status")
    assert changed(store, change)
    found = the(emails)
    (line,) = found["attempts"]
    assert (line["vendor"], line["key"], line["code"], line["detail"]) == (
        "$status",
        "$$NOW",
        "$code",
        "$$ROOT",
    )
    assert found["pending"] == ["$y@example.org"]
    assert found["refused"] == line["refused"] == ["$x@example.org"]
    assert (found["vendor"], found["vendor_message_id"]) == ("$status", "$env")


# The settlement ---------------------------------------------------------------------------------


def test_a_yes_is_written_down_with_all_that_is_known(
    store: Store, emails: Collection[Document]
) -> None:
    (email_id,) = stored(store)
    claim(store, email_id)
    assert settle(store, email_id, YES, SENT)
    found = the(emails)
    assert (found["status"], found["vendor"], found["vendor_message_id"]) == (
        "sent",
        "first",
        "vendor-id",
    )
    assert found["lease"] == {"token": 1}
    assert found["simulated"] is True
    assert found["sent_at"] == found["attempts"][0]["ended_at"] == found["updated_at"]


def test_in_production_nothing_is_called_simulated(
    config: Config, emails: Collection[Document]
) -> None:
    real = Store(config.mongodb, env=PRODUCTION)
    (email_id,) = stored(real, env=PRODUCTION)
    claim(real, email_id)
    settle(real, email_id, YES, SENT)
    assert "simulated" not in the(emails)
    real.close()


def test_what_goes_on_keeps_its_round_its_pin_and_its_counts(
    store: Store, emails: Collection[Document]
) -> None:
    (email_id,) = stored(store)
    claim(store, email_id)
    decision = replace(
        AGAIN,
        delay=60.0,
        round=Round(n=2, tried=("first",), refused=("second",)),
        pin=Pin(vendor="first", key="k", remaining=30.0, repeats=1),
    )
    assert settle(store, email_id, UNHEARD, decision)
    found = the(emails)
    assert found["due_at"] - found["updated_at"] == timedelta(seconds=60)
    assert found["pin"]["until"] - found["updated_at"] == timedelta(seconds=30)
    read = store.read([email_id])[email_id]
    record = read.snapshot()
    assert (record.round, record.counted, record.unknowns) == (decision.round, 1, 1)
    assert record.pin is not None
    assert (record.pin.key, record.pin.repeats) == ("k", 1)
    assert 0 < read.due_in <= 60
    assert (read.status, read.leased_for, read.token) == (Status.QUEUED, 0.0, 1)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_settlement_whose_reply_was_lost_is_done_exactly_once(
    forgetful: LosesReplies, emails: Collection[Document], lost: int
) -> None:
    (email_id,) = stored(forgetful)
    claim(forgetful, email_id)
    forgetful.to_lose = lost
    assert settle(forgetful, email_id, UNHEARD, AGAIN)
    assert (the(emails)["unknowns"], the(emails)["counted"]) == (1, 1)


def test_a_change_of_a_queued_email_whose_reply_was_lost_counts_as_written(
    forgetful: LosesReplies, emails: Collection[Document]
) -> None:
    (email_id,) = stored(forgetful)
    record = forgetful.read([email_id])[email_id].snapshot()
    over = Change(id=email_id, token=0, decision=end(record, Reason.EXPIRED), sending=False)
    forgetful.to_lose = 1
    assert changed(forgetful, over)
    assert (the(emails)["status"], the(emails)["reason"]) == ("failed", "expired")


def test_a_worker_that_lost_its_lease_changes_nothing(
    store: Store, emails: Collection[Document]
) -> None:
    (email_id,) = stored(store)
    claim(store, email_id)
    emails.update_one({}, {"$set": {"lease.token": 2}})
    before = the(emails)
    assert not settle(store, email_id, NO, FAILED)
    assert the(emails) == before


def test_nothing_is_settled_that_does_not_exist(store: Store) -> None:
    assert not settle(store, ObjectId(), YES, SENT)


def test_a_lease_is_judged_by_the_servers_clock(store: Store, emails: Collection[Document]) -> None:
    """A rescue of an e-mail whose lease still runs is refused, whatever the rescuer believes."""
    (email_id,) = stored(store)
    claim(store, email_id, lease=120)
    rescue = Change(id=email_id, token=1, decision=AGAIN, result=UNHEARD, expired=True)
    assert not changed(store, rescue)
    emails.update_one({}, [{"$set": {"lease.until": {"$subtract": ["$$NOW", 1]}}}])
    assert store.read([email_id])[email_id].leased_for < 0
    assert changed(store, rescue)


# The yes that comes late ------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "failed", "uncertain", "cancelled"])
def test_a_late_yes_makes_sent_what_was_given_up(
    store: Store, emails: Collection[Document], status: str
) -> None:
    (email_id,) = stored(store)
    claim(store, email_id)
    settle(store, email_id, UNHEARD, replace(AGAIN, status=Status(status), reason="unknown"))
    store.record_late_yes(email_id, 1, "first", YES, 5)
    found = the(emails)
    assert (found["status"], found["reason"], found["vendor"]) == ("sent", None, "first")
    assert found["vendor_message_id"] == "vendor-id"
    (line,) = found["attempts"]
    assert (line["outcome"], line["late"], line["extra_copy"]) == ("accepted", True, False)


def test_a_late_yes_for_a_sent_email_is_noted_as_an_extra_copy(
    store: Store, emails: Collection[Document]
) -> None:
    (email_id,) = stored(store)
    claim(store, email_id)
    settle(store, email_id, UNHEARD, AGAIN)
    claim(store, email_id, token=1)
    assert changed(store, Change(id=email_id, token=2, decision=SENT, result=YES, vendor="second"))
    before = the(emails)
    store.record_late_yes(email_id, 1, "first", YES, 5)
    found = the(emails)
    assert [line.get("extra_copy") for line in found["attempts"]] == [True, None]
    assert {k: found[k] for k in ("status", "vendor", "sent_at")} == {
        k: before[k] for k in ("status", "vendor", "sent_at")
    }


@pytest.mark.parametrize(
    "result, decision", [(NO, FAILED), (UNHEARD, AGAIN), (None, replace(AGAIN, counted=0))]
)
def test_a_late_yes_wins_over_the_failure_of_the_worker_that_holds_the_lease(
    store: Store,
    emails: Collection[Document],
    result: SendResult | None,
    decision: Decision,
) -> None:
    (email_id,) = stored(store)
    claim(store, email_id)
    settle(store, email_id, UNHEARD, AGAIN)
    claim(store, email_id, token=1)
    store.record_late_yes(email_id, 1, "first", YES, 5)
    held = the(emails)
    assert held["status"] == "sending"
    assert held["late_accept"]["vendor"] == "first"
    change = Change(id=email_id, token=2, decision=decision, result=result, vendor="second")
    assert changed(store, change)
    found = the(emails)
    assert (found["status"], found["vendor"], found["vendor_message_id"]) == (
        "sent",
        "first",
        "vendor-id",
    )
    assert found["due_at"] is None


@pytest.mark.parametrize("expired", [False, True], ids=["by the worker", "by the sweeper"])
def test_a_yes_that_came_late_for_this_very_attempt_is_not_overwritten_as_unknown(
    store: Store, emails: Collection[Document], *, expired: bool
) -> None:
    """As after a pause of the whole process: the answer is read before its lateness is written."""
    (email_id,) = stored(store)
    claim(store, email_id, lease=-1)
    store.record_late_yes(email_id, 1, "first", YES, 5)
    unknown = replace(AGAIN, unknowns=1)
    change = Change(id=email_id, token=1, decision=unknown, result=UNHEARD, expired=expired)
    assert changed(store, change)
    found = the(emails)
    assert (found["status"], found["vendor"], found["unknowns"]) == ("sent", "first", 1)
    (line,) = found["attempts"]
    assert (line["outcome"], line["late"], line["message_id"]) == ("accepted", True, "vendor-id")


def test_a_late_yes_that_is_written_twice_changes_nothing_the_second_time(
    forgetful: LosesReplies, emails: Collection[Document]
) -> None:
    (email_id,) = stored(forgetful)
    claim(forgetful, email_id)
    settle(forgetful, email_id, UNHEARD, AGAIN)
    forgetful.to_lose = 1
    forgetful.record_late_yes(email_id, 1, "first", YES, 5)
    once = the(emails)
    forgetful.record_late_yes(email_id, 1, "first", YES, 5)
    assert the(emails) == once
    assert once["attempts"][0]["extra_copy"] is False


# Looking ----------------------------------------------------------------------------------------


def test_work_is_what_is_due_or_leased_of_my_own_kind(
    store: Store, emails: Collection[Document]
) -> None:
    assert not store.has_work()
    stored(store, env=PRODUCTION)
    stored(store, due_at=datetime.now(UTC) + timedelta(hours=1))
    stored(store, status="sent")
    assert not store.has_work()
    (email_id,) = stored(store)
    assert store.has_work()
    claim(store, email_id)
    assert store.has_work()


def test_the_servers_time_is_aware(store: Store) -> None:
    assert abs(store.now() - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_page_is_found_in_order_without_the_emails_content(store: Store) -> None:
    ids = stored(store, 5)
    page = store.find({"status": "queued"}, 3, "_id")
    assert [one.id for one in page] == ids[:3]
    assert all("email" not in one.document for one in page)


def test_a_read_that_fails_says_that_the_store_is_away(
    store: Store, mongo_client: MongoClient[Document]
) -> None:
    with (
        impatient(store),
        failing(mongo_client, "aggregate", "find", "count", closeConnection=True),
        pytest.raises(StoreUnavailable),
    ):
        store.read([ObjectId()])


def test_the_backlog_and_the_key_are_found_by_index(
    store: Store, mongo_client: MongoClient[Document], emails: Collection[Document]
) -> None:
    assert emails.index_information().keys() == {
        "_id_",
        "created_at_1__id_1",
        "status_1_env_1_due_at_1__id_1",
        "env_1_overdue_at_1",
        "status_1_env_1_expires_at_1",
        "status_1_env_1_updated_at_1",
    }
