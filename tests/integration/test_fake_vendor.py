"""The whole way in a test's own process: a consumer, vendors with a script, a queue in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from mailqueue import Config, ConfigError, Consumer, EmailDict, EmailStatus, Producer
from mailqueue.message import Email
from mailqueue.testing import FakeVendor
from mailqueue.vendors import Attempt, Outcome, SendResult, load

MAIL: EmailDict = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "subject": "Hi",
    "text": "Hello",
}


@pytest.fixture
def configured(config: Config) -> Config:
    """A database of this test's own, and a queue in memory."""
    return config.replace(queue={"type": "memory", "tube": config.mongodb.database})


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
