"""Vendor health on a real mongod: what one process learns, all know within a second."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import encode
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import Suspension
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.rotation import FEW, HINTS, Permit, Sign
from mailqueue.store.document import SIMULATED
from mailqueue.store.store import Store
from tests.damage import damaged
from tests.integration.bench import Document, LosesReplies
from tests.logged import event

DOWN = Suspension(seconds=600, reason="unavailable dns")
HINT = Suspension(seconds=600, reason="unavailable 503", is_hint=True)
LEASE = 120.0


def failed(
    board: VendorHealth, name: str, held: Suspension, generation: int = 0, email_id: str = ""
) -> None:
    """A call that was begun in this generation has failed."""
    board.report(Permit(name, generation), held, email_id)


class Clock:
    """The local clock: it stands still, and is as far ahead as the test says."""

    def __init__(self) -> None:
        self._now = time.monotonic()
        self.ahead = 0.0

    def __call__(self) -> float:
        return self._now + self.ahead


@pytest.fixture
def flaky(config: Config) -> Iterator[LosesReplies]:
    made = LosesReplies(config.mongodb, env=SIMULATED)
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(flaky: LosesReplies, clock: Clock) -> VendorHealth:
    return VendorHealth(flaky, ["first", "second"], clock)


@pytest.fixture
def its_clock() -> Clock:
    return Clock()


@pytest.fixture
def other(config: Config, its_clock: Clock) -> Iterator[VendorHealth]:
    """The board of another process, which has ``its_clock``."""
    store = LosesReplies(config.mongodb, env=SIMULATED)
    yield VendorHealth(store, ["first", "second"], its_clock)
    store.close()


@pytest.fixture
def vendors(config: Config, mongo_client: MongoClient[Document]) -> Collection[Document]:
    database = mongo_client[config.mongodb.database]
    return database[config.mongodb.collection + ".vendors"]


def aged(vendors: Collection[Document], seconds: float) -> None:
    """Let time pass for what is written down."""
    fields = (
        *("unavailable_until", "retry_after_until", "since", "probe_at", "probe_until"),
        *("hint_at", "last_resort_at"),
    )
    earlier = {
        field: {
            "$cond": [
                {"$gt": [f"${field}", None]},
                {"$subtract": [f"${field}", seconds * 1000]},
                None,
            ]
        }
        for field in fields
    }
    vendors.update_many({}, [{"$set": earlier}])


def test_every_vendor_is_available_at_first(
    board: VendorHealth, vendors: Collection[Document]
) -> None:
    assert all(health.available for health in board.read().values())
    assert sorted(vendors.distinct("_id")) == ["first", "second"]


def test_a_vendor_that_one_process_suspends_is_left_alone_by_all_within_a_second(
    board: VendorHealth, other: VendorHealth, its_clock: Clock
) -> None:
    assert other.read()["first"].available
    failed(board, "first", DOWN)
    assert not board.read()["first"].available
    its_clock.ahead += 1.0
    assert not other.read()["first"].available
    assert other.read()["second"].available


def test_health_is_read_at_most_once_a_second(
    board: VendorHealth, other: VendorHealth, clock: Clock
) -> None:
    board.read()
    failed(other, "first", DOWN)
    assert board.read()["first"].available
    clock.ahead += 1.0
    assert not board.read()["first"].available


def test_a_failure_of_a_call_begun_before_the_suspension_changes_nothing(
    board: VendorHealth, other: VendorHealth, vendors: Collection[Document]
) -> None:
    failed(board, "first", DOWN)
    before = vendors.find_one({"_id": "first"})
    failed(other, "first", Suspension(seconds=3000, reason="late"))
    failed(board, "first", Suspension(seconds=3000, reason="late"))
    assert vendors.find_one({"_id": "first"}) == before


def test_of_many_failures_at_once_one_suspends(
    board: VendorHealth, other: VendorHealth, vendors: Collection[Document]
) -> None:
    with ThreadPoolExecutor(8) as threads:
        boards = [board, other] * 8
        list(threads.map(lambda b: failed(b, "first", DOWN), boards))
    (stored,) = vendors.find({"_id": "first"})
    assert stored["generation"] == 1


def test_one_email_that_fails_in_each_of_two_processes_suspends_the_vendor(
    board: VendorHealth, other: VendorHealth
) -> None:
    other.read()
    for each in (board, other):
        each.report(Permit("second"), Sign.YES)
    failed(board, "first", HINT, 0, "one")
    assert board.read()["first"].available
    failed(other, "first", HINT, 0, "one")
    assert other.read()["first"].available, "the same e-mail again"
    failed(other, "first", HINT, 0, "two")
    assert other.read()["first"].available, "both may draw it anywhere"
    board.confirm_hint("first", "a stranger")
    assert board.read()["first"].available
    board.confirm_hint("first", "one")
    assert not board.read()["first"].available
    assert board.read()["first"].reason == "unavailable 503"


def test_an_email_that_another_vendor_took_has_the_next_that_fails_suspend_the_vendor(
    board: VendorHealth, other: VendorHealth
) -> None:
    failed(board, "first", HINT, 0, "one")
    other.confirm_hint("first", "one")
    assert other.read()["first"].available
    failed(board, "first", HINT, 0, "two")
    assert not board.read()["first"].available


def test_where_no_vendor_has_said_yes_for_a_minute_a_few_emails_suspend_one(
    board: VendorHealth, clock: Clock
) -> None:
    board.report(Permit("second"), Sign.YES)
    clock.ahead += 59
    for n in range(FEW):
        failed(board, "first", HINT, 0, str(n))
    assert board.current("first").available
    clock.ahead += 2
    failed(board, "first", HINT, 0, "last")
    health = board.current("first")
    assert not health.available
    assert (health.unavailable_until or 0.0) - board.now() < 10, "nothing is proven"


def test_one_email_that_fails_in_each_of_several_processes_suspends_the_vendor_without_proof(
    board: VendorHealth, other: VendorHealth
) -> None:
    for each in (board, other):
        each.report(Permit("second"), Sign.YES)
    for n in range(HINTS):
        assert board.read()["first"].available
        failed((board, other)[n % 2], "first", HINT, 0, str(n))
    board.refresh()
    assert not board.read()["first"].available


def test_a_yes_in_between_ends_the_suspicion_for_all_with_one_write(
    board: VendorHealth, other: VendorHealth, flaky: LosesReplies, vendors: Collection[Document]
) -> None:
    failed(board, "first", HINT, 0, "one")
    writes = Counter[str]()
    flaky.persist = counted(flaky.persist, writes)  # type: ignore[method-assign]  # looks on
    for _ in range(5):
        board.report(Permit("first"), Sign.YES)
        board.report(Permit("second"), Sign.YES)
    assert writes == {"persist": 1}
    failed(other, "first", HINT, 0, "two")
    (stored,) = vendors.find({"_id": "first"})
    assert (stored["hints"], stored["unavailable_until"]) == (["two"], None)


def counted(method: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        calls["persist"] += 1
        return method(*args)

    return call


def test_a_yes_that_this_process_heard_counts_before_it_knows_of_the_suspicion(
    board: VendorHealth, other: VendorHealth, vendors: Collection[Document]
) -> None:
    """Health is read once a second only; in a second of much mail two e-mails may fail."""
    other.read()
    failed(board, "first", HINT, 0, "one")
    aged(vendors, 0.5)
    other.report(Permit("first"), Sign.YES)
    failed(other, "first", HINT, 0, "two")
    assert other.read()["first"].available
    assert board.read()["first"].available


def test_a_late_yes_does_not_vouch_for_an_unavailable_vendor(
    board: VendorHealth, vendors: Collection[Document]
) -> None:
    failed(board, "first", DOWN)
    aged(vendors, 601)
    permit = board.win_probe("first", LEASE)
    assert permit is not None
    board.report(permit, HINT, "three")
    before = vendors.find_one({"_id": "first"})
    board.report(Permit("first"), Sign.YES)
    assert vendors.find_one({"_id": "first"}) == before


def test_an_email_in_doubt_leaves_the_probe_to_the_others_of_all_processes_first(
    board: VendorHealth, other: VendorHealth, vendors: Collection[Document]
) -> None:
    failed(board, "first", DOWN)
    aged(vendors, 601)
    assert board.win_probe("first", LEASE, in_doubt=True) is None
    assert other.win_probe("first", LEASE, in_doubt=True) is None
    permit = other.win_probe("first", LEASE)
    assert permit is not None
    other.report(permit, Sign.NONE)
    aged(vendors, 15)
    assert board.win_probe("first", LEASE, in_doubt=True) is not None


def test_what_an_older_or_a_newer_version_wrote_is_read(
    board: VendorHealth, vendors: Collection[Document]
) -> None:
    failed(board, "first", DOWN)
    vendors.update_many(
        {}, {"$unset": {"hints": "", "hint_at": "", "proven": "", "last_resort_at": ""}}
    )
    vendors.update_many({}, {"$rename": {"retry_after_until": "named_until"}})
    named = datetime.now(UTC).replace(microsecond=0)
    vendors.update_many({}, {"$set": {"mood": "gloomy", "named_until": named}})
    board.refresh()
    assert not board.read()["first"].available
    assert board.read()["first"].retry_after_until == named.timestamp()
    assert board.enable("first")
    failed(board, "second", HINT, 0, "one")
    board.confirm_hint("second", "one")
    failed(board, "second", HINT, 0, "two")
    assert not board.read()["second"].available


def test_nobody_probes_before_the_time(board: VendorHealth, clock: Clock) -> None:
    failed(board, "first", DOWN)
    assert board.win_probe("first", LEASE) is None
    assert board.win_probe("second", LEASE) is None


def test_of_many_that_want_the_probe_one_wins(
    board: VendorHealth, other: VendorHealth, vendors: Collection[Document]
) -> None:
    failed(board, "first", DOWN)
    aged(vendors, 601)
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda b: b.win_probe("first", LEASE), [board, other] * 8))
    assert len([permit for permit in won if permit]) == 1
    for each in (board, other):
        each.refresh()
    assert board.read()["first"].probe_token == other.read()["first"].probe_token


def test_the_probe_that_is_answered_restores_the_vendor_for_all(
    board: VendorHealth,
    other: VendorHealth,
    its_clock: Clock,
    vendors: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed(board, "first", DOWN)
    assert not other.read()["first"].available
    aged(vendors, 601)
    permit = board.win_probe("first", LEASE)
    assert permit is not None
    board.report(permit, Sign.WORKS)
    assert board.read()["first"].available
    its_clock.ahead += 1.0
    assert other.read()["first"].available
    assert [event(r) for r in caplog.records if r.name == "mailqueue.routing.health"][
        -1
    ] == "vendor.restored"


def test_the_probe_that_fails_suspends_the_vendor_again(
    board: VendorHealth, vendors: Collection[Document]
) -> None:
    failed(board, "first", DOWN)
    aged(vendors, 601)
    permit = board.win_probe("first", LEASE)
    assert permit is not None
    board.report(permit, DOWN)
    health = board.read()["first"]
    assert not health.available
    assert health.probe_token is None
    assert health.generation == 2
    assert board.win_probe("first", LEASE) is None


def test_a_probe_that_was_never_ended_can_be_won_again_after_its_lease(
    board: VendorHealth, other: VendorHealth, vendors: Collection[Document]
) -> None:
    """The prober was killed: the vendor must not stay unavailable for ever."""
    failed(board, "first", DOWN)
    aged(vendors, 601)
    lost = board.win_probe("first", LEASE)
    assert other.win_probe("first", LEASE) is None
    aged(vendors, LEASE + 1)
    permit = other.win_probe("first", LEASE)
    assert permit is not None
    assert permit != lost
    assert lost is not None
    board.report(lost, Sign.WORKS)
    board.refresh()
    assert not board.read()["first"].available
    other.report(permit, Sign.WORKS)
    assert other.read()["first"].available


def test_a_probe_that_is_given_back_can_be_won_at_once(
    board: VendorHealth, other: VendorHealth, vendors: Collection[Document]
) -> None:
    failed(board, "first", DOWN)
    aged(vendors, 601)
    permit = board.win_probe("first", LEASE)
    assert permit is not None
    board.report(permit, Sign.NONE)
    assert other.win_probe("first", LEASE) is not None


@pytest.mark.parametrize("stranger", ["", "000000000000000000000000"])
def test_only_the_holder_of_the_probe_restores_a_vendor(
    board: VendorHealth, vendors: Collection[Document], stranger: str
) -> None:
    failed(board, "first", DOWN)
    before = vendors.find_one({"_id": "first"})
    for verdict in (*Sign, DOWN, HINT):
        board.report(Permit("first", 1, stranger), verdict)
    assert vendors.find_one({"_id": "first"}) == before


@pytest.mark.parametrize("lost", [1, 2])
def test_a_change_whose_reply_was_lost_happens_exactly_once(
    board: VendorHealth, flaky: LosesReplies, vendors: Collection[Document], lost: int
) -> None:
    board.read()
    flaky.to_lose = lost
    failed(board, "first", DOWN)
    (stored,) = vendors.find({"_id": "first"})
    assert stored["generation"] == 1
    aged(vendors, 601)
    flaky.to_lose = lost
    assert board.win_probe("first", LEASE) is not None


def test_the_vendors_that_are_unavailable_are_those_of_now(board: VendorHealth) -> None:
    states = [board.unavailable]
    for name in ("first", "second"):
        failed(board, name, DOWN)
        states.append(board.unavailable)
    board.enable("first")
    assert [*states, board.unavailable] == [(), ("first",), ("first", "second"), ("second",)]


def test_a_person_can_enable_a_vendor_by_hand(board: VendorHealth, other: VendorHealth) -> None:
    failed(board, "first", DOWN)
    assert other.enable("first") is True
    assert other.enable("second") is False
    board.refresh()
    assert board.read()["first"].available


def test_times_are_the_servers(board: VendorHealth, clock: Clock) -> None:
    """A process whose clock is a day ahead does not probe earlier."""
    clock.ahead = 86_400.0
    board.read()
    assert abs(board.now() - datetime.now(UTC).timestamp()) < 60
    failed(board, "first", DOWN)
    until = board.read()["first"].unavailable_until
    assert until is not None
    closed_until = datetime.fromtimestamp(until, UTC)
    assert abs(closed_until - datetime.now(UTC) - timedelta(seconds=600)) < timedelta(seconds=60)


def test_a_suspension_is_said_loudly_and_so_is_one_that_lasts(
    board: VendorHealth, vendors: Collection[Document], caplog: pytest.LogCaptureFixture
) -> None:
    failed(board, "first", DOWN)
    for seconds in (601, 3601):
        aged(vendors, seconds)
        permit = board.win_probe("first", LEASE)
        assert permit is not None
        board.report(permit, DOWN)
    levels = [r.levelno for r in caplog.records if event(r) == "vendor.suspended"]
    assert levels == [logging.ERROR, logging.WARNING, logging.ERROR]


def test_a_collection_that_somebody_drops_leaves_every_vendor_available(
    board: VendorHealth, vendors: Collection[Document], clock: Clock
) -> None:
    """The generation starts again then; what was read last is what counts."""
    failed(board, "first", Suspension(seconds=600, reason="unavailable 503"), 0)
    assert not board.read()["first"].available
    vendors.drop()
    clock.ahead += 2
    assert board.read()["first"].available
    assert board.win_probe("first", 120) is None, "there is nothing to probe"


def test_a_simulation_neither_sees_nor_enables_productions_vendors(
    board: VendorHealth, other: VendorHealth, config: Config
) -> None:
    failed(board, "first", Suspension(seconds=600, reason="unavailable 503"), 0)
    store = Store(config.mongodb, env=SIMULATED)
    simulated = VendorHealth(store, ["first", "second"], env=SIMULATED)
    assert simulated.read()["first"].available
    simulated.enable("first")
    store.close()
    other.refresh()
    assert not other.read()["first"].available


def test_a_damaged_document_of_a_vendor_ends_nobody_and_can_be_written_again(
    flaky: LosesReplies, config: Config, vendors: Collection[Document]
) -> None:
    now = datetime.now(UTC)
    times = dict.fromkeys(("unavailable_until", "retry_after_until", "since", "probe_at"), now)
    rest = {"probe_until": now, "probe_step": 5.0, "probe_token": "t", "reason": "r"}
    hints = {"hints": ["x"], "hint_seconds": 5.0, "hint_at": None, "last_resort_at": None}
    sound = {"_id": "x", "generation": 1, "proven": None, **times, **rest, **hints}
    documents = [{**d, "_id": f"{n}"} for n, (_, d) in enumerate(damaged(sound))]
    vendors.insert_many(documents)
    board = VendorHealth(flaky, [document["_id"] for document in documents])
    board.refresh()
    assert len(board.read()) == len(documents)
    # Else nobody would ever find what was read, to replace it.
    assert {type(stored.get("proven")) for stored in vendors.find()} == {bool, type(None)}
    for document in documents[:: len(documents) // 40]:
        board.enable(document["_id"])
        generation = board.read()[document["_id"]].generation
        failed(board, document["_id"], DOWN, generation)
        assert not board.read()[document["_id"]].available


@pytest.mark.parametrize("field", ["probe_step", "hint_seconds"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300, -1.0])
def test_a_vendor_is_suspended_for_no_time_that_is_none(
    field: str, value: float, board: VendorHealth, vendors: Collection[Document]
) -> None:
    past = datetime.now(UTC)
    suspended = {"unavailable_until": past, "since": past, "hints": ["one"], "generation": 1}
    vendors.update_one({"_id": "first"}, {"$set": {**suspended, field: value}}, upsert=True)
    board.confirm_hint("first", "one")
    assert board.read()["first"].available


def test_a_document_of_a_vendor_that_cannot_be_decoded_ends_nobody(
    board: VendorHealth, other: VendorHealth, vendors: Collection[Document]
) -> None:
    failed(board, "second", DOWN)
    other.refresh()
    vendors.delete_one({"_id": "first"})
    raw = encode({"_id": "first", "generation": 0, "reason": "?"})
    vendors.insert_one(RawBSONDocument(raw.replace(b"?", b"\xff")))
    for each in (board, other):
        each.refresh()
        assert each.read()["first"].available
        assert not each.read()["second"].available
    failed(board, "first", DOWN)
    assert not board.read()["first"].available
