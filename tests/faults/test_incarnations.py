"""An id that follows from a key comes again after its e-mail was pruned, and nothing is mixed up.

Whatever a process still holds of the earlier e-mail does nothing to the later one; even if a clock
went back, so that both have the same tokens. What tells them apart then is the nonce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from mailqueue.config import Config
from mailqueue.consumer.planner import end_queued, rescue, set_aside
from mailqueue.errors import Unreadable
from mailqueue.events.event_store import EventStore
from mailqueue.lifecycle.decide import end
from mailqueue.lifecycle.outcomes import NORMAL, Decision, Outcome, Reason, SendResult, Status
from mailqueue.store import document, ids
from mailqueue.store.document import PRODUCTION, Stored
from mailqueue.store.store import Store
from mailqueue.store.transitions import Change, Claim, Lease
from mailqueue.vendors.events.source import EventType, VendorEvent
from tests.stage import letter

KEY = "welcome-4711"
ID = ids.of_key(PRODUCTION, KEY)
THEN = datetime.now(UTC) - timedelta(days=40)
YES = SendResult(outcome=Outcome.ACCEPTED, code="202", message_id="m")
UNKNOWN = SendResult(outcome=Outcome.UNKNOWN)
QUEUED = Decision(status=Status.QUEUED, priority=NORMAL)
FAILED = Decision(status=Status.FAILED, reason=Reason.REJECTED, priority=NORMAL)
Act = Callable[["Shelf"], object]


class Shelf:
    """One place in the store, where the e-mails of one key follow each other."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store(config.mongodb, env=PRODUCTION)
        self.earlier: Stored

    def put(self, at: datetime, **fields: Any) -> Stored:
        """A new e-mail with the key, in the place of the one before."""
        self.store.emails.delete_many({})
        made = document.new(
            letter(1),
            email_id=ID,
            message_id="<m@example.com>",
            env=PRODUCTION,
            content_hash="",
            priority=NORMAL,
            now=at,
            idempotency_key=KEY,
            nonce=ids.new(),
            callback_url="https://example.com/hook",
        )
        self.store.insert([{**made, **fields}])
        return self.now

    @property
    def now(self) -> Stored:
        (stored,) = self.store.read([ID]).values()
        return stored

    def claim(self, stored: Stored, seconds: float = 60) -> Lease | None:
        lease = Lease(owner="me", nonce=ids.new(), seconds=seconds)
        intent = Claim(
            id=ID,
            token=stored.token,
            incarnation=stored.incarnation,
            vendor="first",
            key=stored.attempt_key,
        )
        _, won = self.store.write([], [intent], lease=lease)
        return lease if won else None

    def change(self, stored: Stored, token: int, decision: Decision, **more: Any) -> bool:
        own = {"incarnation": stored.incarnation, "vendor": "first", **more}
        change = Change(id=ID, token=token, decision=decision, **own)
        return bool(self.store.write([change], seconds=5)[0])

    def later(self, at: datetime, steps: str) -> None:
        """The e-mail that has the key now: new, being sent, its lease over, or unknown."""
        stored = self.put(at)
        if steps == "new":
            return
        lease = self.claim(stored, -1 if steps == "over" else 60)
        assert lease is not None
        if steps == "unknown":
            known = {"result": UNKNOWN, "nonce": lease.nonce}
            assert self.change(stored, stored.token + 1, QUEUED, **known)

    def event(self, type_: EventType, at: datetime) -> None:
        """Of the earlier e-mail, with our id."""
        event = VendorEvent(
            key=str(ids.new()), type=type_, email_id=str(ID), at=at, recipient=None, message_id="m"
        )
        EventStore(self.config, self.store).record("first", [event])


@pytest.fixture
def shelf(config: Config) -> Iterator[Shelf]:
    made = Shelf(config)
    yield made
    made.store.close()


def claim(shelf: Shelf) -> None:
    assert shelf.claim(shelf.earlier) is None


def settle(shelf: Shelf) -> None:
    earlier = shelf.earlier
    # Its own nonce of the lease would do; without it the guard has to.
    assert not shelf.change(earlier, earlier.token + 1, FAILED, result=YES)


def rescue_it(shelf: Shelf) -> None:
    change = rescue(shelf.earlier, QUEUED)
    own = {"result": change.result, "expired": True}
    assert not shelf.change(shelf.earlier, shelf.earlier.token + 1, FAILED, **own)


def end_it(shelf: Shelf) -> None:
    ending = end_queued(shelf.earlier, end(shelf.earlier.snapshot(), Reason.EXPIRED))
    assert shelf.store.write([ending], seconds=5)[0] == set()


def put_aside(shelf: Shelf) -> None:
    damaged = {**shelf.earlier.document, "lease": shelf.now.document["lease"], "round": 7}
    damaged["attempts"] = "?"
    aside = set_aside(Stored(damaged, shelf.now.now), Unreadable("round"))
    shelf.store.write([aside], seconds=5)


def late_yes(shelf: Shelf) -> None:
    earlier = shelf.earlier
    shelf.store.record_late_yes(ID, earlier.token + 1, "first", YES, 5, earlier.incarnation)


def look_up(shelf: Shelf) -> None:
    shelf.store.record_look_up(ID, shelf.earlier.token + 1, shelf.earlier.incarnation)


def old_delivery(shelf: Shelf) -> None:
    shelf.event(EventType.DELIVERED, THEN + timedelta(hours=1))


def opening(shelf: Shelf) -> None:
    """It may come at any time, and proves nothing."""
    shelf.event(EventType.OPENED, datetime.now(UTC))


@pytest.mark.parametrize("clock", ["on", "back", "stands"])
@pytest.mark.parametrize(
    "steps, act",
    [
        ("new", claim),
        ("new", end_it),
        ("new", put_aside),
        ("sending", settle),
        ("sending", late_yes),
        ("sending", old_delivery),
        ("over", rescue_it),
        ("unknown", late_yes),
        ("unknown", look_up),
        ("unknown", old_delivery),
    ],
)
def test_what_is_left_of_a_pruned_email_does_nothing_to_the_next_one_of_its_key(
    steps: str, act: Act, clock: str, shelf: Shelf
) -> None:
    shelf.earlier = shelf.put(THEN)
    at = {
        "on": THEN + timedelta(days=40),
        "back": THEN - timedelta(days=1),
        "stands": THEN,
    }[clock]
    shelf.later(at, steps)
    before = shelf.now.document
    assert (before["_id"], before["status"]) == (
        ID,
        "sending" if steps in ("sending", "over") else "queued",
    )
    act(shelf)
    assert {**shelf.now.document, "now": 0} == {**before, "now": 0}


def test_a_sweeper_that_found_the_pruned_email_does_not_delete_the_next_one(shelf: Shelf) -> None:
    """That one has ended, too, under the same id; by the server's clock, not long ago."""
    stored = shelf.put(THEN)
    lease = shelf.claim(stored)
    assert lease is not None
    sent = Decision(status=Status.SENT, priority=NORMAL)
    assert shelf.change(stored, stored.token + 1, sent, result=YES, nonce=lease.nonce)
    shelf.store.emails.update_one({"_id": ID}, {"$unset": {"callbacks": 1}})
    long_ago = {"updated_at": {"$lt": THEN + timedelta(days=30)}}
    assert shelf.store.delete([ID], Status.SENT, long_ago) == 0
    assert shelf.store.delete([ID], Status.SENT) == 1


def test_an_opening_of_a_pruned_email_does_not_make_an_unknown_outcome_a_yes(shelf: Shelf) -> None:
    shelf.put(THEN)
    shelf.later(datetime.now(UTC), "unknown")
    opening(shelf)
    assert shelf.now.status is Status.QUEUED


def test_a_delivery_of_this_email_makes_an_unknown_outcome_a_yes(shelf: Shelf) -> None:
    shelf.later(datetime.now(UTC), "unknown")
    shelf.event(EventType.DELIVERED, datetime.now(UTC))
    assert shelf.now.status is Status.SENT


def test_each_guard_lets_its_own_email_pass(shelf: Shelf) -> None:
    """Else the tests above would hold for nothing."""
    stored = shelf.put(THEN)
    lease = shelf.claim(stored)
    assert lease is not None
    assert shelf.now.token == stored.token + 1
    (line,) = shelf.now.lines
    assert (line["token"], line["key"]) == (stored.token + 1, str(stored.incarnation))
    assert shelf.change(stored, stored.token + 1, QUEUED, result=UNKNOWN, nonce=lease.nonce)
    assert shelf.now.document["lease"] == {"token": stored.token + 1}
    shelf.store.record_look_up(ID, stored.token + 1, stored.incarnation)
    shelf.store.record_late_yes(ID, stored.token + 1, "first", YES, 5, stored.incarnation)
    assert shelf.now.status is Status.SENT


def test_the_callbacks_of_two_emails_of_one_key_have_different_ids(shelf: Shelf) -> None:
    """A receiver drops an id that it has seen."""
    ids_seen = []
    for at in (THEN, THEN):
        stored = shelf.put(at)
        ending = end_queued(stored, end(stored.snapshot(), Reason.EXPIRED))
        shelf.store.write([ending], seconds=5)
        (entry,) = shelf.now.document["callbacks"]
        ids_seen.append(entry["id"])
    assert len(set(ids_seen)) == 2


def test_claims_and_settlements_of_many_keys_are_one_update_and_each_keeps_its_token(
    config: Config,
) -> None:
    from mailqueue.store.callbacks import Noting
    from mailqueue.store.merging import change_writes, claim_writes

    store = Store(config.mongodb, env=PRODUCTION)
    documents = [
        document.new(
            letter(1),
            email_id=ids.of_key(PRODUCTION, f"order-{n}"),
            message_id=f"<{n}@example.com>",
            env=PRODUCTION,
            content_hash="",
            priority=NORMAL,
            now=THEN + timedelta(seconds=n),
            idempotency_key=f"order-{n}",
            nonce=ids.new(),
        )
        for n in range(5)
    ]
    store.insert(documents)
    read = store.read([d["_id"] for d in documents])
    claims = [
        Claim(id=s.id, token=s.token, incarnation=s.incarnation, vendor="a", key=s.attempt_key)
        for s in read.values()
    ]
    lease = Lease(owner="me", nonce=ObjectId(), seconds=60)
    assert len([*claim_writes(claims, PRODUCTION, lease)]) == 1
    # One of them was claimed since it was read, and so has another token.
    store.write([], [claims[3]], lease=Lease(owner="other", nonce=ObjectId(), seconds=60))
    assert store.write([], claims, lease=lease)[1] == {c.id for c in claims} - {claims[3].id}
    changes = [
        Change(
            id=c.id,
            token=c.new_token,
            incarnation=c.incarnation,
            nonce=lease.nonce,
            decision=Decision(status=Status.SENT, priority=NORMAL),
            result=SendResult(outcome=Outcome.ACCEPTED, message_id=f"m{c.new_token}"),
            vendor="a",
        )
        for c in claims
    ]
    assert len([*change_writes(changes, Noting(), simulated=False)]) == 1
    assert store.write(changes)[0] == {c.id for c in claims} - {claims[3].id}
    for claim in claims[:3]:
        stored = store.read([claim.id])[claim.id].document
        (line,) = stored["attempts"]
        assert stored["lease"] == {"token": claim.new_token}
        assert (line["token"], line["key"]) == (claim.new_token, claim.key)
        assert stored["vendor_message_id"] == f"m{claim.new_token}"
    store.close()
