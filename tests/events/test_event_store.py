"""Vendors' events on a real mongod: stored once, merged in any order, settling what is unknown."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from bson import ObjectId

from mailqueue.config import Config
from mailqueue.events import EventStore
from mailqueue.lifecycle.outcomes import NORMAL, Decision, Outcome, SendResult, Status
from mailqueue.message import Email
from mailqueue.message.message import content_hash
from mailqueue.store import audit, document, ids
from mailqueue.store.document import SIMULATED
from mailqueue.store.store import Store
from mailqueue.store.transitions import Change, Claim, Lease
from mailqueue.vendors.events.source import EventType, VendorEvent

AT = datetime(2026, 5, 28, 20, 26, tzinfo=UTC)
YES = SendResult(outcome=Outcome.ACCEPTED, code="202", message_id="vendor-id")
UNKNOWN = SendResult(outcome=Outcome.UNKNOWN, code="timeout", answered=False)
SENT = Decision(status=Status.SENT, priority=NORMAL)
AGAIN = Decision(status=Status.QUEUED, priority=512, unknowns=1, counted=1)
PARKED = Decision(status=Status.UNCERTAIN, priority=NORMAL, unknowns=1, counted=1, reason="unknown")
TWO = ["Bob <bob@example.org>", "carol@bücher.example"]


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    made = Store(config.mongodb, env=SIMULATED)
    made.ensure_indexes()
    yield made
    made.close()


@pytest.fixture
def event_store(config: Config, store: Store) -> EventStore:
    made = EventStore(config, store, by_vendor_id=True)
    made.ensure_indexes()
    return made


def stored(store: Store, to: Sequence[str] = ("bob@example.org",)) -> ObjectId:
    email = Email(from_="ann@example.com", to=to, cc="dan@example.org", text="Hello").to_mapping()
    if len(to) == 1:
        del email["cc"]
    email_id = ids.new()
    store.insert(
        [
            document.new(
                email,
                email_id=email_id,
                message_id=f"<{email_id}@example.com>",
                env=SIMULATED,
                content_hash=content_hash(email),
                priority=NORMAL,
                now=datetime.now(UTC),
            )
        ]
    )
    return email_id


def claimed(store: Store, email_id: ObjectId, vendor: str = "first", token: int = 0) -> Lease:
    lease = Lease(owner="host:1", nonce=ids.new(), seconds=60)
    claim = Claim(id=email_id, token=token, vendor=vendor)
    assert store.write([], [claim], lease=lease)[1] == {email_id}
    return lease


def settled(
    store: Store,
    email_id: ObjectId,
    result: SendResult = YES,
    decision: Decision = SENT,
    token: int = 1,
) -> None:
    change = Change(id=email_id, token=token, decision=decision, result=result, vendor="first")
    assert store.write([change])[0] == {email_id}


def event(email_id: ObjectId | None, kind: EventType, key: str = "", **fields: Any) -> VendorEvent:
    own = None if email_id is None else str(email_id)
    usual: dict[str, Any] = {"recipient": "bob@example.org", "at": AT, "message_id": "vendor-id"}
    fields = usual | fields
    return VendorEvent(key=key or f"{kind}-{own}", type=kind, email_id=own, **fields)


def read(store: Store, email_id: ObjectId) -> dict[str, Any]:
    stored = store.find_whole(email_id)
    assert stored is not None
    assert list(audit.problems(stored, 60)) == []
    return dict(stored.document)


def sent(store: Store, to: Sequence[str] = ("bob@example.org",)) -> ObjectId:
    email_id = stored(store, to)
    claimed(store, email_id)
    settled(store, email_id)
    return email_id


# Stored once -------------------------------------------------------------------------------------


def test_an_event_is_stored_once_however_often_it_comes(
    store: Store, event_store: EventStore
) -> None:
    email_id = sent(store)
    for _ in range(10):
        event_store.record("first", [event(email_id, EventType.DELIVERED)] * 2)
    (one,) = event_store.of_email(email_id)
    assert (one["type"], one["vendor"], one["recipient"]) == (
        "delivered",
        "first",
        "bob@example.org",
    )
    assert one["at"] == AT
    assert read(store, email_id)["delivery"] == {"0": "delivered"}


def test_the_same_key_of_another_vendor_is_another_event(
    store: Store, event_store: EventStore
) -> None:
    email_id = sent(store)
    for vendor in ("first", "second"):
        event_store.record(vendor, [event(email_id, EventType.OPENED)])
    assert [each["vendor"] for each in event_store.of_email(email_id)] == ["first", "second"]


def test_an_event_of_an_unknown_e_mail_or_of_none_is_stored(
    store: Store, event_store: EventStore
) -> None:
    gone = ids.new()
    odd = VendorEvent(key="k", type=EventType.DELIVERED, email_id="\ud800", recipient="\ud800@x")
    event_store.record("first", [event(gone, EventType.DELIVERED), odd])
    assert len(event_store.of_email(gone)) == 1
    assert store.collection(".events").count_documents({"email_id": None}) == 1


def test_the_time_of_a_vendor_whose_clock_is_years_ahead_is_not_believed(
    store: Store, event_store: EventStore
) -> None:
    email_id = sent(store)
    event_store.record(
        "first", [event(email_id, EventType.DELIVERED, at=datetime(2099, 1, 1, tzinfo=UTC))]
    )
    (one,) = event_store.of_email(email_id)
    assert one["at"] == one["received_at"]


def test_the_events_of_many_requests_at_a_time_are_all_stored(
    store: Store, event_store: EventStore
) -> None:
    email_ids = [sent(store) for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        results = [
            pool.submit(
                event_store.record, "first", [event(each, EventType.DELIVERED, f"{each}-{number}")]
            )
            for each in email_ids
            for number in range(25)
        ]
        for result in results:
            result.result()
    assert [len(event_store.of_email(each)) for each in email_ids] == [25] * 4


def test_opens_are_counted_with_the_first_and_the_last_time_and_not_kept_in_the_e_mail(
    store: Store, event_store: EventStore
) -> None:
    email_id = sent(store)
    times = [AT + timedelta(minutes=n) for n in (2, 0, 1, 0)]
    for at in times:
        event_store.record("first", [event(email_id, EventType.OPENED, f"{email_id}{at}", at=at)])
    tally = event_store.tally(email_id)
    assert tally == {"opened": {"n": 3, "first": AT, "last": AT + timedelta(minutes=2)}}
    assert read(store, email_id)["delivery_marks"] == {"0": {"opened": True}}


# Merged ------------------------------------------------------------------------------------------


def test_events_of_a_recipient_end_in_the_same_state_in_any_order(
    store: Store, event_store: EventStore
) -> None:
    kinds = (
        EventType.SENT,
        EventType.DEFERRED,
        EventType.DELIVERED,
        EventType.OPENED,
        EventType.BOUNCED_HARD,
    )
    ends = []
    for order in permutations(kinds):
        email_id = sent(store)
        for kind in order:
            event_store.record("first", [event(email_id, kind)])
        found = read(store, email_id)
        ends.append((found["delivery"], found["delivery_marks"], found["delivery_summary"]))
    assert ends == [({"0": "bounced_hard"}, {"0": {"opened": True}}, "bounced")] * 120


def test_any_events_of_several_recipients_end_the_same_in_one_request_or_many(
    store: Store, event_store: EventStore
) -> None:
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    people = ("bob@example.org", "CAROL@xn--bcher-kva.example", "dan@example.org")
    for _ in range(10):
        chosen = [(rng.choice(list(EventType)), rng.choice(people)) for _ in range(8)]
        ends = []
        for _ in range(3):
            email_id = sent(store, TWO)
            events = [
                event(email_id, kind, f"{email_id}-{n}", recipient=person)
                for n, (kind, person) in enumerate(chosen)
            ]
            rng.shuffle(events)
            cut = rng.randrange(len(events))
            for part in (events[:cut], events[cut:], events[:2]):
                event_store.record("first", part)
            found = read(store, email_id)
            names = ("delivery", "delivery_marks", "delivery_summary")
            ends.append([found.get(name) for name in names])
        assert ends[0] == ends[1] == ends[2], seed


def test_the_summary_is_the_highest_step_or_a_complaint(
    store: Store, event_store: EventStore
) -> None:
    email_id = sent(store, TWO)
    seen = []
    for kind, person in [
        (EventType.DELIVERED, "bob@example.org"),
        (EventType.BOUNCED_SOFT, "carol@bücher.example"),
        (EventType.OPENED, "bob@example.org"),
        (EventType.COMPLAINED, "bob@example.org"),
    ]:
        event_store.record("first", [event(email_id, kind, recipient=person)])
        seen.append(read(store, email_id)["delivery_summary"])
    assert seen == ["delivered", "bounced", "bounced", "complained"]


def test_an_event_that_names_nobody_counts_only_for_a_single_recipient(
    store: Store, event_store: EventStore
) -> None:
    one, several = sent(store), sent(store, TWO)
    for each in (one, several):
        event_store.record("first", [event(each, EventType.DELIVERED, recipient=None)])
        event_store.record("first", [event(each, EventType.OPENED, recipient="eve@example.org")])
    assert read(store, one)["delivery"] == {"0": "delivered"}
    assert "delivery" not in read(store, several)


@pytest.mark.parametrize(
    "spelled",
    ["CAROL@xn--bcher-kva.example", "Carol <carol@bücher.example>", "<carol@bücher.example>"],
)
def test_a_recipient_is_found_and_stored_as_the_e_mail_has_it(
    spelled: str, store: Store, event_store: EventStore
) -> None:
    email_id = sent(store, TWO)
    event_store.record("first", [event(email_id, EventType.DELIVERED, recipient=spelled)])
    assert read(store, email_id)["delivery"] == {"1": "delivered"}
    (one,) = event_store.of_email(email_id)
    assert one["recipient"] == "carol@bücher.example"


def test_a_vendor_that_was_not_asked_to_send_an_e_mail_changes_nothing_in_it(
    store: Store, event_store: EventStore
) -> None:
    email_id = sent(store)
    before = read(store, email_id)
    event_store.record("second", [event(email_id, EventType.BOUNCED_HARD)])
    assert read(store, email_id) | {"now": 0} == before | {"now": 0}


def test_an_event_with_only_the_vendors_id_finds_its_e_mail(
    store: Store, event_store: EventStore
) -> None:
    email_id = sent(store)
    event_store.record("first", [event(None, EventType.COMPLAINED)])
    assert read(store, email_id)["delivery_summary"] == "complained"
    assert len(event_store.of_email(email_id)) == 1


def test_a_damaged_e_mail_takes_events_all_the_same(store: Store, event_store: EventStore) -> None:
    for damage in (
        {"attempts": "x"},
        {"attempts": [7]},
        {"email": 7},
        {"email.to": 7},
        {"delivery": 7},
        {"delivery": {"0": 7}, "delivery_marks": []},
        {"late_accept": 7},
    ):
        email_id = sent(store)
        store.emails.update_one({"_id": email_id}, {"$set": damage})
        event_store.record("first", [event(email_id, EventType.DELIVERED)])
        event_store.record("first", [event(email_id, EventType.OPENED)])
        assert len(event_store.of_email(email_id)) == 2


# Settling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [AGAIN, PARKED])
def test_an_event_makes_an_unknown_outcome_a_yes(
    store: Store, event_store: EventStore, decision: Decision
) -> None:
    email_id = stored(store)
    claimed(store, email_id)
    settled(store, email_id, UNKNOWN, decision)
    event_store.record("first", [event(email_id, EventType.DELIVERED)])
    found = read(store, email_id)
    assert (found["status"], found["vendor"], found["vendor_message_id"]) == (
        "sent",
        "first",
        "vendor-id",
    )
    assert found["attempts"][0]["outcome"] == "accepted"
    assert found["delivery"] == {"0": "delivered"}


@pytest.mark.parametrize("kind", [EventType.REJECTED, EventType.FAILED, EventType.UNKNOWN])
def test_a_vendor_that_dropped_the_e_mail_settles_nothing(
    store: Store, event_store: EventStore, kind: EventType
) -> None:
    email_id = stored(store)
    claimed(store, email_id)
    settled(store, email_id, UNKNOWN, AGAIN)
    event_store.record("first", [event(email_id, kind)])
    assert read(store, email_id)["status"] == "queued"


def test_an_event_of_one_recipient_settles_nothing_for_the_others(
    store: Store, event_store: EventStore
) -> None:
    """Of a vendor that decides about each recipient apart: it may have put the others off."""
    several, single = stored(store, TWO), stored(store)
    for each in (several, single):
        claimed(store, each)
        settled(store, each, UNKNOWN, AGAIN)
        event_store.record("first", [event(each, EventType.DELIVERED, proves_one=True)])
    statuses = [read(store, each)["status"] for each in (several, single)]
    assert statuses == ["queued", "sent"]
    assert read(store, several)["delivery"] == {"0": "delivered"}


def test_an_event_without_our_id_settles_nothing(store: Store, event_store: EventStore) -> None:
    email_id = stored(store)
    claimed(store, email_id)
    settled(store, email_id, UNKNOWN, AGAIN)
    store.emails.update_one({}, {"$set": {"attempts.0.message_id": "vendor-id"}})
    event_store.record("first", [event(None, EventType.DELIVERED)])
    found = read(store, email_id)
    assert (found["status"], found["delivery"]) == ("queued", {"0": "delivered"})


def test_an_event_that_comes_before_our_own_write_counts_if_the_outcome_is_unknown(
    store: Store, event_store: EventStore
) -> None:
    email_id = stored(store)
    claimed(store, email_id)
    event_store.record("first", [event(email_id, EventType.DELIVERED)])
    assert read(store, email_id)["status"] == "sending"
    settled(store, email_id, UNKNOWN, AGAIN)
    found = read(store, email_id)
    assert (found["status"], found["vendor"]) == ("sent", "first")
    assert (found["attempts"][0]["outcome"], found["attempts"][0]["late"]) == ("accepted", True)


def test_an_event_that_comes_before_our_own_write_leaves_the_vendors_own_answer(
    store: Store, event_store: EventStore
) -> None:
    """Some recipients are pending: they must still be sent to."""
    email_id = stored(store, TWO)
    claimed(store, email_id)
    event_store.record("first", [event(email_id, EventType.DELIVERED)])
    partial = SendResult(outcome=Outcome.ACCEPTED, code="200", pending=("dan@example.org",))
    pending = Decision(status=Status.QUEUED, priority=512, pending=("dan@example.org",), counted=1)
    settled(store, email_id, partial, pending)
    found = read(store, email_id)
    assert (found["status"], found["pending"]) == ("queued", ["dan@example.org"])
    assert found.get("late_accept") is None


def test_an_event_of_the_first_vendor_ends_an_e_mail_that_the_second_is_sending(
    store: Store, event_store: EventStore
) -> None:
    email_id = stored(store)
    claimed(store, email_id)
    settled(store, email_id, UNKNOWN, AGAIN)
    claimed(store, email_id, "second", token=1)
    event_store.record("first", [event(email_id, EventType.DELIVERED)])
    failed = SendResult(outcome=Outcome.UNAVAILABLE, code="503")
    settled(store, email_id, failed, AGAIN, token=2)
    found = read(store, email_id)
    assert (found["status"], found["vendor"]) == ("sent", "first")


@pytest.mark.parametrize("late", ["by its worker", "by an event"])
def test_an_event_settles_an_attempt_that_is_under_way_beside_a_late_yes_of_another(
    late: str, store: Store, event_store: EventStore
) -> None:
    """Both vendors have sent a copy, and the ledger says so in the end."""
    email_id = stored(store)
    claimed(store, email_id)
    settled(store, email_id, UNKNOWN, AGAIN)
    claimed(store, email_id, "second", token=1)
    if late == "by its worker":
        yes = SendResult(outcome=Outcome.ACCEPTED, code="200", message_id="a")
        store.record_late_yes(email_id, 1, "first", yes, 5)
    else:
        event_store.record("first", [event(email_id, EventType.DELIVERED)])
    event_store.record("second", [event(email_id, EventType.DELIVERED)])
    settled(store, email_id, UNKNOWN, PARKED, token=2)
    found = read(store, email_id)
    assert (found["status"], found["vendor"]) == ("sent", "first")
    first, second = found["attempts"]
    assert (first["outcome"], second["outcome"]) == ("accepted", "accepted")
    assert (second["late"], second["extra_copy"]) == (True, True)


@pytest.mark.parametrize("later", ["under way", "refused"])
def test_an_event_is_of_the_unknown_attempt_and_not_of_a_later_one(
    later: str, store: Store, event_store: EventStore
) -> None:
    """That one is refused: an event that came before that must not be lost with it."""
    email_id = stored(store)
    claimed(store, email_id)
    settled(store, email_id, UNKNOWN, AGAIN)
    claimed(store, email_id, token=1)
    if later == "under way":
        event_store.record("first", [event(email_id, EventType.DELIVERED)])
    settled(store, email_id, SendResult(outcome=Outcome.UNAVAILABLE, code="503"), AGAIN, token=2)
    if later == "refused":
        event_store.record("first", [event(email_id, EventType.DELIVERED)])
    found = read(store, email_id)
    assert found["status"] == "sent"
    assert [line["outcome"] for line in found["attempts"]] == ["accepted", "unavailable"]


def test_an_event_of_a_copy_that_was_accepted_settles_no_earlier_attempt(
    store: Store, event_store: EventStore
) -> None:
    email_id = stored(store)
    claimed(store, email_id)
    settled(store, email_id, UNKNOWN, AGAIN)
    claimed(store, email_id, token=1)
    settled(store, email_id, YES, replace(SENT, unknowns=1), token=2)
    event_store.record("first", [event(email_id, EventType.DELIVERED)])
    outcomes = [line["outcome"] for line in read(store, email_id)["attempts"]]
    assert outcomes == ["unknown", "accepted"]


def test_events_come_while_the_outcome_is_written_and_none_is_lost(
    store: Store, event_store: EventStore
) -> None:
    """Whatever comes first, an unknown outcome with an event ends as sent."""
    for _ in range(20):
        email_id = stored(store)
        claimed(store, email_id)
        with ThreadPoolExecutor(2) as pool:
            results = [
                pool.submit(settled, store, email_id, UNKNOWN, AGAIN),
                pool.submit(event_store.record, "first", [event(email_id, EventType.SENT)]),
            ]
            for result in results:
                result.result()
        assert read(store, email_id)["status"] == "sent"


def test_old_events_are_removed_by_mongodb(store: Store, event_store: EventStore) -> None:
    event_store.record("first", [event(None, EventType.OPENED)])
    (one,) = store.collection(".events").find()
    assert one["until"] - one["received_at"] == timedelta(days=30)
    names = store.collection(".events").index_information()
    assert names["until_1"]["expireAfterSeconds"] == 0
