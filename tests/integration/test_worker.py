"""The worker, step by step on real servers: what it does about a job, by what its e-mail is now."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.errors import QueueUnavailable, StoreUnavailable
from mailqueue.lifecycle.outcomes import NORMAL, Outcome, Round, SendResult, Snapshot, Suspension
from mailqueue.producer import Producer
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.routing.rotation import Permit
from mailqueue.store.document import PRODUCTION, SIMULATED, Stored
from mailqueue.store.store import Store
from tests.integration.bench import (
    DOWN,
    MAIL,
    NO_CONNECTION,
    UNHEARD,
    YES,
    Bench,
    Document,
    LosesReplies,
    failing,
    impatient,
    mails,
    next_delayed,
    put,
    ready,
    ready_ids,
)
from tests.logged import event

NO = SendResult(outcome=Outcome.REJECTED, code="400")
LATER = SendResult(outcome=Outcome.DEFERRED, code="451")


@pytest.fixture
def other(config: Config) -> Iterator[Bench]:
    """Another consumer."""
    made = Bench(config)
    yield made
    made.close()


def the(emails: Collection[Document]) -> Document:
    (found,) = emails.find()
    return found


def no_job_left(config: Config) -> bool:
    return not any(depth(config.beanstalkd).values())


def rewritten(emails: Collection[Document], **fields: Any) -> None:
    """Write into the document what time, or another process, would have written."""
    emails.update_many({}, {"$set": fields})


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


# The way through --------------------------------------------------------------------------------


def test_an_email_is_sent_recorded_and_its_job_deleted(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL)
    bench.work()
    assert (the(emails)["status"], len(the(emails)["attempts"])) == ("sent", 1)
    assert bench.asked == 1
    (attempt,) = bench.vendors[the(emails)["vendor"]].asked
    assert (attempt.email_id, attempt.message_id) == (email_id, f"<{email_id}@example.com>")
    assert no_job_left(config)


def test_each_attempt_has_the_same_message_id_and_date(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send({**MAIL, "headers": {"Message-ID": "<order-4711@shop.example>"}})
    later = datetime(2036, 1, 2, tzinfo=UTC)
    rewritten(emails, send_at=later)  # it is due now
    for vendor in bench.vendors.values():
        vendor.results = [DOWN]
    bench.work()
    bench.work()
    attempts = [attempt for vendor in bench.vendors.values() for attempt in vendor.asked]
    assert len(attempts) > 1
    told = {(attempt.message_id, attempt.date) for attempt in attempts}
    assert told == {("<order-4711@shop.example>", later)}


def test_nothing_is_sent_before_the_claim_is_stored_nor_deleted_before_the_end_is(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    assert bench.take()
    assert the(emails)["status"] == "sending"
    assert the(emails)["attempts"][0]["outcome"] is None
    assert bench.asked == 0
    bench.deliver()
    assert bench.asked == 1
    assert the(emails)["status"] == "sending"
    assert depth(config.beanstalkd)["reserved"] == 1
    bench.settle()
    assert the(emails)["status"] == "sent"
    assert no_job_left(config)


def test_what_was_claimed_for_a_vendor_that_fails_meanwhile_is_not_sent_there(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    """Several e-mails may be claimed for it before the first has failed."""
    for _ in range(6):
        producer.send(MAIL)
    bench.take()
    for vendor in bench.vendors.values():
        vendor.results = [NO_CONNECTION]
    bench.deliver()
    bench.settle()
    assert [len(vendor.asked) for vendor in bench.vendors.values()] == [1, 1]
    outcomes = Counter(document["attempts"][0]["outcome"] for document in emails.find())
    assert outcomes == {"unavailable": 2, "not_started": 4}


def test_an_email_whose_vendor_fails_between_the_choice_and_the_claim_goes_to_another(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send_many(mails(6))
    bench.worker.fetcher.fetch(bench.tube)
    bench.board.report(Permit("first"), Suspension(seconds=600, reason="unavailable"))
    bench.settle()
    assert emails.count_documents({"status": "sending"}) == 6
    assert emails.distinct("attempts.vendor") == ["second"]


def test_no_more_is_claimed_than_there_are_free_senders(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send_many(mails(40))
    bench.take()
    assert emails.count_documents({"status": "sending"}) == config.consumer.concurrency
    for _ in range(3):
        bench.deliver()
        bench.settle()
        if ready(config):
            bench.take()
    assert emails.count_documents({"status": "sent"}) == 40


def test_a_failed_email_goes_to_the_other_vendor_at_once_and_before_what_is_new(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    first = producer.send(MAIL)
    for vendor in bench.vendors.values():
        vendor.results = [NO_CONNECTION]
    bench.work()
    producer.send(MAIL)
    jobs = ready(config)
    assert (jobs[0].body, jobs[0].priority) == (first, 32_768)
    (down,) = [name for name, health in bench.board.read().items() if not health.available]
    assert the_one(emails, first)["round"]["tried"] == [down]
    bench.vendors = {name: vendor for name, vendor in bench.vendors.items() if name != down} | {
        down: bench.vendors[down]
    }
    for vendor in bench.vendors.values():
        vendor.results = []
    bench.work()
    assert the_one(emails, first)["status"] == "sent"
    assert the_one(emails, first)["vendor"] != down


def the_one(emails: Collection[Document], email_id: str) -> Document:
    found = emails.find_one({"_id": ObjectId(email_id)})
    assert found is not None
    return found


def test_a_retry_that_has_to_wait_is_delayed_at_its_retry_priority(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send(MAIL, priority="bulk")
    for vendor in bench.vendors.values():
        vendor.results = [LATER]
    bench.work()
    job = next_delayed(config)
    assert job is not None
    assert (job.priority, job.delay) == (524_288, 15)
    assert the(emails)["due_at"] > datetime.now(UTC)


def test_a_vendor_that_raises_leaves_an_unknown_and_is_not_blamed(
    bench: Bench, producer: Producer, emails: Collection[Document], caplog: pytest.LogCaptureFixture
) -> None:
    producer.send(MAIL)
    for vendor in bench.vendors.values():
        vendor.results = [RuntimeError("bob@example.org")]
    bench.work()
    (line,) = the(emails)["attempts"]
    assert (line["outcome"], line["code"]) == ("unknown", "raised_RuntimeError")
    assert the(emails)["unknowns"] == 1
    assert all(health.available for health in bench.board.read().values())
    assert "bob@example.org" not in caplog.text


def test_what_was_claimed_too_late_is_given_back_unsent_and_counts_as_nothing(
    config: Config, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    bench = Bench(config)
    bench.take()
    bench.worker.sender._clock = lambda: 1e12
    bench.deliver()
    bench.settle()
    assert bench.asked == 0
    found = the(emails)
    assert (found["status"], found["counted"], found["unknowns"]) == ("queued", 0, 0)
    assert found["attempts"][0]["outcome"] == "not_started"
    assert [job.priority for job in ready(config)] == [32_768]
    bench.close()


def test_what_waits_for_a_sender_for_long_is_given_back_unsent(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL)
    bench.take()
    bench.worker.sender._progress_at -= 5
    bench.worker._recall()
    bench.settle()
    assert the(emails)["status"] == "queued"
    assert the(emails)["attempts"][0]["outcome"] == "not_started"
    assert (ready_ids(config), bench.asked) == ([email_id], 0)


def test_a_question_that_waits_for_a_sender_for_long_is_left_to_others(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    """The vendor of an unknown outcome is asked first; here no sender came free for that."""
    for vendor in bench.vendors.values():
        vendor.results = [UNHEARD]
    bench.answer_lookups()
    email_id = producer.send(MAIL)
    bench.work()
    emails.update_one({}, {"$set": {"due_at": None}})
    put(config, email_id)
    bench.take()
    assert bench.worker.sender.queue.qsize() == 1
    bench.worker.sender._progress_at -= 5
    bench.worker._recall()
    assert bench.worker.sender.queue.empty()
    assert ready_ids(config) == [email_id]
    assert "looked_up" not in the(emails)["attempts"][0]


def test_what_is_claimed_when_we_stop_is_given_back_unsent(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    ids = producer.send_many(mails(3))
    bench.take()
    bench.worker.stopping.set()
    bench.deliver()
    bench.settle()
    assert bench.asked == 0
    assert emails.distinct("status") == ["queued"]
    assert sorted(ready_ids(config)) == sorted(ids)
    assert bench.take() is False


def test_what_no_sender_has_begun_is_recalled_and_the_senders_end_all_the_same(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    ids = producer.send_many(mails(3))
    bench.take()
    bench.worker.stopping.set()
    bench.worker.sender.close(2)
    bench.worker.close()
    while bench.worker.turn(5):
        pass
    assert emails.distinct("status") == ["queued"]
    assert sorted(ready_ids(config)) == sorted(ids)
    assert [bench.worker.sender.deliver(bench.vendors) for _ in range(2)] == [False, False]
    assert bench.asked == 0


# No match: what becomes of the job (docs/design.md#jobs) ------------------------------------------


@pytest.mark.parametrize("status", ["sent", "failed", "uncertain", "cancelled"])
def test_the_job_of_an_email_that_has_ended_is_deleted(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document], status: str
) -> None:
    producer.send(MAIL)
    rewritten(emails, status=status)
    bench.work()
    assert no_job_left(config)
    assert bench.asked == 0


def test_the_job_of_a_leased_email_waits_until_the_lease_ends(
    bench: Bench, other: Bench, producer: Producer, config: Config
) -> None:
    email_id = producer.send(MAIL)
    bench.take()
    put(config, email_id)
    other.work()
    job = next_delayed(config)
    assert job is not None
    assert 110 <= job.delay <= 120
    assert other.asked == 0
    bench.deliver()
    bench.settle()
    assert bench.asked == 1


def test_the_job_of_an_email_that_is_not_due_waits_until_it_is(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    rewritten(emails, due_at=ago(-300))
    bench.work()
    job = next_delayed(config)
    assert job is not None
    assert (job.priority, bench.asked) == (65_536, 0)
    assert 290 <= job.delay <= 300


@pytest.mark.parametrize("unknowns, status", [(0, "failed"), (1, "uncertain")])
def test_an_expired_email_is_ended_and_its_job_deleted(
    bench: Bench,
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    unknowns: int,
    status: str,
) -> None:
    producer.send(MAIL)
    rewritten(emails, expires_at=ago(1), unknowns=unknowns)
    bench.work()
    assert (the(emails)["status"], the(emails)["reason"]) == (status, "expired")
    assert no_job_left(config)
    assert bench.asked == 0


def test_the_email_of_another_environment_is_left_alone_for_a_minute_and_said_loudly(
    bench: Bench,
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    producer.send(MAIL)
    rewritten(emails, env=PRODUCTION)
    before = the(emails)
    bench.work()
    job = next_delayed(config)
    assert job is not None
    assert job.delay == 60
    assert the(emails) == before
    assert "email.skipped" in [event(r) for r in caplog.records if r.levelname == "ERROR"]


def test_a_job_without_an_email_is_deleted_and_that_is_said(
    bench: Bench, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    put(config, ObjectId())
    bench.work()
    assert no_job_left(config)
    assert "job.orphaned" in map(event, caplog.records)


def test_a_foreign_job_is_buried_which_is_said_and_the_others_go_on(
    bench: Bench,
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(config, b"what is this?", priority=1)
    producer.send(MAIL)
    bench.work()
    assert the(emails)["status"] == "sent"
    assert depth(config.beanstalkd)["buried"] == 1
    assert "job.buried" in map(event, caplog.records)


def test_what_needs_no_vendor_is_ended_also_where_the_worker_stops_before_its_turn(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    emails.update_one({}, {"$unset": {"priority": ""}})
    put(config, b"what is this?")
    bench.worker.fetcher.fetch(bench.tube)
    bench.worker.stopping.set()
    while not bench.worker.inbox.empty():
        bench.worker.turn(5)
    assert depth(config.beanstalkd)["buried"] == 1
    assert the(emails)["reason"] == "unreadable"
    assert ready(config) == []


def test_an_email_that_cannot_be_read_fails_for_a_person_to_see_and_the_others_go_on(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    broken = producer.send(MAIL, priority="high")
    emails.update_one({"_id": ObjectId(broken)}, {"$set": {"email": {"nonsense": 1}}})
    good = producer.send(MAIL)
    bench.work()
    assert the_one(emails, good)["status"] == "sent"
    assert the_one(emails, broken)["status"] == "failed"
    assert the_one(emails, broken)["reason"] == "unreadable"


def test_a_job_that_is_there_twice_sends_once(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL)
    put(config, email_id, email_id)
    bench.work()
    assert bench.asked == 1
    assert the(emails)["status"] == "sent"


def test_a_job_that_is_fetched_again_before_its_claim_sends_once(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL)
    bench.worker.fetcher.fetch(bench.tube)
    put(config, email_id)
    bench.worker.fetcher.fetch(bench.tube)
    bench.settle()
    assert the(emails)["lease"]["token"] == 1
    bench.deliver()
    bench.settle()
    assert bench.asked == 1
    assert the(emails)["status"] == "sent"


class Races(Store):
    """Another worker is faster, ``times`` times, between the reading and the writing."""

    times = 0
    meanwhile: Callable[[], object]

    def read(self, *given: Any) -> dict[ObjectId, Stored]:
        found = super().read(*given)
        if self.times > 0:
            self.times -= 1
            self.meanwhile()
        return found


@pytest.fixture
def racing(config: Config, producer: Producer, emails: Collection[Document]) -> Iterator[Bench]:
    store = Races(config.mongodb, env=SIMULATED)
    store.meanwhile = lambda: emails.update_many({}, {"$inc": {"lease.token": 1}})
    made = Bench(config, store)
    yield made
    made.close()


@pytest.mark.parametrize("times", [1, 2])
def test_an_email_whose_token_changed_is_looked_at_again(
    racing: Bench, producer: Producer, emails: Collection[Document], times: int
) -> None:
    producer.send(MAIL)
    assert isinstance(racing.store, Races)
    racing.store.times = times
    racing.work()
    assert the(emails)["status"] == "sent"
    assert the(emails)["lease"]["token"] == times + 1


def test_after_three_lost_races_the_job_is_left_for_a_second(
    racing: Bench, producer: Producer, config: Config
) -> None:
    producer.send(MAIL)
    assert isinstance(racing.store, Races)
    racing.store.times = 3
    racing.work()
    job = next_delayed(config)
    assert job is not None
    assert (job.delay, racing.asked) == (1, 0)


def test_an_end_that_another_was_faster_to_write_frees_the_job_all_the_same(
    racing: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    rewritten(emails, expires_at=ago(1))
    assert isinstance(racing.store, Races)
    racing.store.times = 1
    racing.work()
    assert the(emails)["status"] == "failed"
    assert no_job_left(config)


def test_the_next_claimer_rescues_an_expired_lease(
    bench: Bench, other: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL)
    bench.take()
    rewritten(emails, **{"lease.until": ago(1)})
    put(config, email_id)
    other.work()
    found = the(emails)
    assert (found["status"], found["unknowns"]) == ("queued", 1)
    assert found["attempts"][0]["code"] == "lease_expired"
    other.work()
    assert the(emails)["status"] == "sent"


# Leases that are lost ---------------------------------------------------------------------------


def rescued_meanwhile(bench: Bench, other: Bench, emails: Collection[Document]) -> None:
    """While ``bench`` sends, its lease ends and the sweeper of ``other`` finds the e-mail."""

    def meanwhile() -> None:
        rewritten(emails, **{"lease.until": ago(1)})
        other.sweeper.sweep()

    for vendor in bench.vendors.values():
        vendor.meanwhile = meanwhile


def test_a_yes_that_comes_after_the_lease_was_lost_counts(
    bench: Bench, other: Bench, producer: Producer, emails: Collection[Document], config: Config
) -> None:
    producer.send(MAIL)
    rescued_meanwhile(bench, other, emails)
    bench.work()
    assert (the(emails)["status"], the(emails)["attempts"][0]["late"]) == ("sent", True)
    other.work()
    assert other.asked == 0


def test_a_no_that_comes_after_the_lease_was_lost_changes_nothing(
    bench: Bench, other: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    rescued_meanwhile(bench, other, emails)
    for vendor in bench.vendors.values():
        vendor.results = [NO]
    bench.work()
    found = the(emails)
    assert (found["status"], found["unknowns"]) == ("queued", 1)
    other.work()
    assert the(emails)["status"] == "sent"


@pytest.mark.parametrize("result", [NO, UNHEARD])
def test_a_late_yes_wins_over_the_failure_of_the_worker_that_sends_meanwhile(
    bench: Bench, other: Bench, producer: Producer, emails: Collection[Document], result: SendResult
) -> None:
    producer.send(MAIL)
    rescued_meanwhile(bench, other, emails)
    bench.take()
    bench.deliver()
    for vendor in other.vendors.values():
        vendor.results = [result]
    other.take()
    assert the(emails)["lease"]["token"] == 2
    bench.settle()
    assert the(emails)["status"] == "sending"
    other.deliver()
    other.settle()
    found = the(emails)
    assert (found["status"], found["vendor_message_id"]) == ("sent", "vendor-id")
    assert other.asked == 1


# Servers that fail in the middle ----------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 2])
def test_lost_replies_neither_double_nor_lose_an_email(
    config: Config, producer: Producer, emails: Collection[Document], lost: int
) -> None:
    store = LosesReplies(config.mongodb, env=SIMULATED)
    bench = Bench(config, store)
    producer.send_many(mails(5))
    store.to_lose = lost
    bench.take()
    bench.deliver()
    store.to_lose = lost
    bench.settle()
    assert emails.distinct("status") == ["sent"]
    assert bench.asked == 5
    assert no_job_left(config)
    bench.close()


def test_a_claim_that_cannot_be_confirmed_is_given_back_and_nothing_is_sent(
    config: Config,
    producer: Producer,
    emails: Collection[Document],
    mongo_client: MongoClient[Document],
) -> None:
    bench = Bench(config)
    bench.board.refresh()
    email_id = producer.send(MAIL)
    with (
        impatient(bench.store),
        failing(mongo_client, "update", writeConcernError={"code": 64, "errmsg": "wtimeout"}),
        pytest.raises(StoreUnavailable),
    ):
        bench.take()
    assert the(emails)["status"] == "sending"
    assert bench.worker.sender.queue.empty()
    bench.settle()
    found = the(emails)
    assert (found["status"], found["attempts"][0]["outcome"]) == ("queued", "not_started")
    assert ready_ids(config) == [email_id]
    bench.work()
    assert the(emails)["status"] == "sent"
    bench.close()


def test_a_result_that_cannot_be_stored_is_kept_until_it_can(
    bench: Bench,
    producer: Producer,
    config: Config,
    emails: Collection[Document],
    mongo_client: MongoClient[Document],
) -> None:
    producer.send(MAIL)
    bench.take()
    bench.deliver()
    with failing(mongo_client, "update", closeConnection=True), pytest.raises(StoreUnavailable):
        bench.worker.turn(0.3)
    assert the(emails)["status"] == "sending"
    assert depth(config.beanstalkd)["reserved"] == 1
    bench.settle()
    assert the(emails)["status"] == "sent"
    assert no_job_left(config)


def test_a_result_is_kept_while_it_cannot_be_decided_what_follows(
    bench: Bench, producer: Producer, emails: Collection[Document], mongo_client: MongoClient[Any]
) -> None:
    """MongoDB goes away during a call, and vendors' health was read too long ago."""
    producer.send(MAIL)
    bench.take()
    bench.store.timeout = 0.3
    bench.board._read_at = float("-inf")
    with failing(mongo_client, "aggregate", closeConnection=True):
        bench.deliver()
    assert the(emails)["status"] == "sending"
    bench.settle()
    assert the(emails)["status"] == "sent"


def test_without_mongodb_the_jobs_go_back_to_the_tube(
    bench: Bench, producer: Producer, config: Config, mongo_client: MongoClient[Document]
) -> None:
    bench.board.refresh()
    ids = producer.send_many(mails(3))
    bench.store.timeout = 0.3
    with failing(mongo_client, "aggregate", closeConnection=True), pytest.raises(StoreUnavailable):
        bench.take()
    assert sorted(ready_ids(config)) == sorted(ids)


def test_a_job_that_cannot_be_deleted_is_deleted_when_it_comes_again(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    bench.take()
    bench.deliver()
    bench.tube.close()
    bench.settle()
    assert the(emails)["status"] == "sent"
    bench.tube = type(bench.tube)(config.beanstalkd.servers[0], config.beanstalkd.tube)
    bench.work()
    assert bench.asked == 1
    assert no_job_left(config)


def test_without_beanstalkd_taking_says_so(bench: Bench) -> None:
    bench.tube.server = "127.0.0.1:1"
    with pytest.raises(QueueUnavailable):
        bench.take()


# Probes -----------------------------------------------------------------------------------------


def unavailable_for_long(bench: Bench, *names: str) -> None:
    """These vendors are unavailable, and their probe is due."""
    bench.board.refresh()
    collection = bench.store.collection(".vendors")
    past = ago(5)
    for name in names:
        fields = {"unavailable_until": past, "since": past, "probe_at": past, "generation": 1}
        collection.update_one({"_id": name}, {"$set": {**fields, "probe_step": 5.0}})
    bench.board.refresh()


def test_a_probe_is_one_email_and_its_yes_opens_the_vendor(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send_many(mails(6))
    unavailable_for_long(bench, "first")
    bench.take()
    bench.deliver()
    assert len(bench.vendors["first"].asked) == 1
    bench.settle()
    assert bench.board.read()["first"].available
    assert emails.distinct("status") == ["sent"]


def test_when_all_are_closed_a_prober_takes_a_single_job(
    bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    producer.send_many(mails(6))
    unavailable_for_long(bench, "first", "second")
    bench.take()
    assert emails.count_documents({"status": "sending"}) == 1
    assert depth(config.beanstalkd)["ready"] == 5


def test_a_lost_claim_gives_the_probe_back(racing: Bench, producer: Producer) -> None:
    producer.send(MAIL)
    unavailable_for_long(racing, "first", "second")
    assert isinstance(racing.store, Races)
    racing.store.times = 3
    racing.work()
    racing.board.refresh()
    assert all(health.probe_token is None for health in racing.board.read().values())


def test_a_probe_that_was_not_sent_is_given_back(bench: Bench, producer: Producer) -> None:
    producer.send(MAIL)
    unavailable_for_long(bench, "first")
    bench.take()
    assert bench.board.read()["first"].probe_token is not None
    bench.worker.stopping.set()
    bench.deliver()
    bench.settle()
    assert bench.board.read()["first"].probe_token is None


def test_a_probe_that_was_not_claimed_is_given_back(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(MAIL)
    unavailable_for_long(bench, "first")
    bench.worker.fetcher.fetch(bench.tube)
    assert bench.board.read()["first"].probe_token is not None
    bench.worker.stopping.set()
    bench.settle()
    assert bench.board.read()["first"].probe_token is None
    assert the(emails)["attempts"] == []


def test_nobody_reserves_while_no_vendor_may_be_asked(
    bench: Bench, producer: Producer, config: Config
) -> None:
    producer.send(MAIL)
    for name in bench.vendors:
        bench.routing.report(Permit(name), EMAIL, DOWN, "")
    bench.worker.stopping.set()  # it would wait for up to a second, but not when we stop
    assert bench.take() is False
    assert depth(config.beanstalkd) == {"ready": 1, "reserved": 0, "delayed": 0, "buried": 0}


EMAIL = Snapshot(priority=NORMAL)


@pytest.mark.parametrize("tried", [(), ("first",)])
def test_a_yes_proves_of_a_vendor_only_what_it_answered_in_the_same_round(
    bench: Bench, tried: tuple[str, ...]
) -> None:
    """An earlier round's failure may be of an outage that is over."""
    server_error = SendResult(outcome=Outcome.UNAVAILABLE, code="503")
    bench.routing.report(Permit("first"), EMAIL, server_error, "one")
    later = replace(EMAIL, hint_vendors=frozenset({"first"}), round=Round(n=1, tried=tried))
    bench.routing.report(Permit("second"), later, SendResult(outcome=Outcome.ACCEPTED), "one")
    bench.board.refresh()
    assert bench.board.current("first").hints == ("one",)
    assert bench.board.current("first").proven == bool(tried)


def test_a_lost_lease_is_said(
    bench: Bench,
    other: Bench,
    producer: Producer,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
) -> None:
    producer.send(MAIL)
    rescued_meanwhile(bench, other, emails)
    caplog.set_level(logging.WARNING)
    bench.work()
    assert {"lease.expired", "lease.lost"} <= {event(r) for r in caplog.records}


def test_changes_and_claims_of_many_emails_are_one_write_each(
    bench: Bench, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.send_many(mails(10))
    writes: list[tuple[int, int]] = []
    write = bench.store.write

    def counted(changes: Any, claims: Any = (), **options: Any) -> Any:
        writes.append((len(changes), len(claims)))
        return write(changes, claims, **options)

    monkeypatch.setattr(bench.store, "write", counted)
    bench.work()
    assert writes == [(0, 10), (10, 0)]
    assert YES.message_id
