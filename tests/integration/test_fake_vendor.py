"""The whole way in a test's own process: a consumer, vendors with a script, a queue in memory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import greenstalk
import pytest

from mailqueue import Config, ConfigError, Consumer, EmailDict, EmailStatus, Producer
from mailqueue.message import Email
from mailqueue.testing import FakeVendor, MemoryQueue
from mailqueue.vendors import Attempt, Outcome, SendResult, load

MAIL: EmailDict = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "subject": "Hi",
    "text": "Hello",
}


@pytest.fixture
def queue() -> Iterator[MemoryQueue]:
    with MemoryQueue() as queue:
        yield queue


@pytest.fixture
def configured(config: Config, queue: MemoryQueue) -> Config:
    """A database of this test's own, and the queue in memory."""
    return config.replace(beanstalkd={"servers": [queue.address]})


def drain(config: Config, vendors: Sequence[FakeVendor], *emails: EmailDict) -> list[EmailStatus]:
    """Send e-mails, consume until nothing is due, and see where they stand."""
    config = config.replace(vendors=[vendor.config for vendor in vendors])
    with Producer(config) as producer:
        ids = producer.send_many(emails or [MAIL])
        assert Consumer(config, burst=True).run() == 0
        statuses = [producer.status(each) for each in ids]
    return [status for status in statuses if status is not None]


def test_when_one_vendor_is_down_the_next_one_sends(configured: Config) -> None:
    first, second = FakeVendor("first", "unavailable"), FakeVendor("second")
    (status,) = drain(configured, [first, second])
    attempts = [(attempt.vendor, attempt.outcome) for attempt in status.attempts]
    assert attempts == [("first", "unavailable"), ("second", "accepted")]
    assert (status.status, status.vendor) == ("sent", "second")
    assert [email.subject for email in second.accepted] == ["Hi"]
    assert (len(first.calls), first.accepted) == (1, [])


def test_a_vendor_that_is_down_is_left_alone_by_the_emails_that_follow(configured: Config) -> None:
    first, second = FakeVendor("first", "unavailable"), FakeVendor("second")
    drain(configured.replace(consumer={"concurrency": 1}), [first, second], *[MAIL] * 20)
    assert len(first.calls) < 5
    assert len(second.accepted) == 20


def test_an_email_that_is_rejected_has_failed(configured: Config) -> None:
    (status,) = drain(configured, [FakeVendor("first", "rejected")])
    assert (status.status, status.reason) == ("failed", "rejected")


def test_after_an_unknown_outcome_it_is_sent_once_more_or_waits_for_a_person(
    configured: Config,
) -> None:
    (status,) = drain(configured, [FakeVendor("first", "unknown"), FakeVendor("second")])
    assert (status.status, status.unknowns) == ("sent", 1)
    parking = configured.replace(delivery={"on_unknown": "park"})
    (status,) = drain(parking, [FakeVendor("third", "unknown")])
    assert (status.status, status.attempts[0].outcome) == ("uncertain", "unknown")


def test_an_answer_may_be_a_result_or_a_function(configured: Config) -> None:
    def by_subject(email: Email, attempt: Attempt) -> SendResult:
        assert len(attempt.email_id) == 24
        is_wanted = email.subject == "Hi"
        return SendResult(outcome=Outcome.ACCEPTED if is_wanted else Outcome.REJECTED, code="x")

    refused = SendResult(outcome=Outcome.ACCEPTED, code="250", refused=("bob@example.org",))
    mail: EmailDict = {**MAIL, "to": ["bob@example.org", "eve@example.org"]}
    (status,) = drain(configured, [FakeVendor("first", refused)], mail)
    assert status.refused == ("bob@example.org",)
    statuses = drain(configured, [FakeVendor("first", by_subject)], MAIL, {**MAIL, "subject": "X"})
    assert [status.status for status in statuses] == ["sent", "failed"]


def test_a_script_is_followed_and_its_last_answer_is_repeated(configured: Config) -> None:
    fake = FakeVendor("first", "accepted", "rejected")
    drain(configured.replace(consumer={"concurrency": 1}), [fake], *[MAIL] * 3)
    assert [call.outcome for call in fake.calls] == ["accepted", "rejected", "rejected"]


def test_a_word_that_is_no_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match='did you mean "unavailable"'):
        FakeVendor("first", "unavailible")


def test_a_fake_vendor_cannot_be_made_in_production() -> None:
    fake = FakeVendor("first")
    (entry,) = Config(vendors=[fake.config]).vendors
    assert load(entry, simulated=True).name == "first"
    with pytest.raises(ConfigError, match="sends nothing: not for production"):
        load(entry, simulated=False)


def test_other_processes_have_no_script(configured: Config) -> None:
    """What is not known is never a yes."""
    entry = FakeVendor("first").config
    code = """if True:
        import json, sys
        from mailqueue.vendors import Attempt, VendorConfig, load
        from mailqueue import Config, Email
        (entry,) = Config(vendors=[json.loads(sys.argv[1])]).vendors
        email = Email(from_="a@example.com", to="b@example.org", text="")
        attempt = Attempt(email_id="0" * 24, message_id="<1@example.com>", deadline=1.0)
        print(load(entry, simulated=True).send(email, attempt).code)
    """
    command = [sys.executable, "-c", code, json.dumps(entry)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    assert run.stdout == "no_script\n"


# The queue: a client of beanstalkd finds what it knows -------------------------------------------

Client: TypeAlias = "greenstalk.Client[str]"


@pytest.fixture
def client(queue: MemoryQueue) -> Iterator[Client]:
    host, port = queue.address.split(":")
    with greenstalk.Client((host, int(port)), use="t", watch="t") as client:
        yield client


def test_jobs_come_by_priority_and_then_by_age(client: Client) -> None:
    for priority, body in ((7, "late"), (3, "urgent"), (7, "later"), (9, "last")):
        client.put(body, priority=priority)
    assert [client.reserve(0).body for _ in range(4)] == ["urgent", "late", "later", "last"]
    with pytest.raises(greenstalk.TimedOutError):
        client.reserve(0)


def test_a_job_is_delayed_released_buried_and_deleted(client: Client, queue: MemoryQueue) -> None:
    client.put("soon", delay=1)
    assert queue.depth() == {"delayed": 1}
    job = client.reserve(5)
    assert queue.depth() == {"reserved": 1}
    client.release(job, priority=1, delay=0)
    job = client.reserve(0)
    client.bury(job)
    assert queue.depth() == {"buried": 1}
    client.put("another")
    job = client.reserve(0)
    client.delete(job)
    with pytest.raises(greenstalk.NotFoundError):
        client.delete(job)
    assert client.stats_tube("t")["current-jobs-buried"] == 1


def test_a_job_comes_back_when_its_connection_or_its_time_to_run_is_over(
    client: Client, queue: MemoryQueue
) -> None:
    host, port = queue.address.split(":")
    client.put("mine", ttr=1)
    with greenstalk.Client((host, int(port)), watch="t") as other:
        job = other.reserve(0)
        assert client.reserve(5).id == job.id  # after a second
        client.put("yours")
        assert other.reserve(0).body == "yours"
    assert client.reserve(5).body == "yours"


def test_what_is_no_command_gets_an_answer(queue: MemoryQueue) -> None:
    host, port = queue.address.split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"hello\r\n")
        assert sock.recv(100) == b"UNKNOWN_COMMAND\r\n"


def test_a_queue_that_is_not_in_use_has_no_address() -> None:
    with pytest.raises(RuntimeError, match="not in use"):
        _ = MemoryQueue().address
