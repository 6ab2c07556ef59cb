"""What SQS alone can do to a queue, and what is asked of it."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from bson import ObjectId

from mailqueue import reentrancy
from mailqueue.cli import queues
from mailqueue.config import Config, Sqs
from mailqueue.errors import ConfigError, QueueUnavailable
from mailqueue.intake.event import read
from mailqueue.intake.intake import Intake
from mailqueue.lifecycle.outcomes import BULK, HIGH, NORMAL, RETRY_HIGH, RETRY_NORMAL
from mailqueue.monitoring.finding import Level
from mailqueue.producer.connections import Connections
from mailqueue.queue import events_depth, open_broker, open_events
from mailqueue.queue.broker import (
    BURIED,
    CALLBACKS,
    INTAKE,
    STATES,
    Announcement,
    release_end,
)
from mailqueue.queue.sqs import client as sqs_client
from mailqueue.queue.sqs.broker import SqsBroker
from mailqueue.queue.sqs.receiver import SqsReceiver
from mailqueue.store.document import PRODUCTION
from tests.brokers.conftest import Servers, end, ids, reserved
from tests.brokers.sqs import KINDS, REGION, Moto, SqsCase, client
from tests.forks import in_a_child
from tests.process.consumer_process import ConsumerProcess
from tests.stage import DOWN, Stage, letter
from tests.waiting import wait_until

TTR = 60


@pytest.fixture(scope="module")
def moto(queue_servers: Servers) -> Moto:
    server = queue_servers.of(SqsCase())
    assert isinstance(server, Moto)
    return server


@pytest.fixture
def settings(moto: Moto) -> Sqs:
    """Queues of this test's own."""
    name = f"mailqueue_test_{uuid4().hex}"
    return Sqs(
        region=REGION,
        endpoint_url=moto.url,
        **{kind: moto.create(f"{name}-{kind}") for kind in KINDS},
    )


@pytest.fixture
def broker(settings: Sqs) -> Iterator[SqsBroker]:
    with closing(SqsBroker(settings, TTR)) as made:
        yield made


@pytest.fixture
def receiver(broker: SqsBroker) -> Iterator[SqsReceiver]:
    (made,) = broker.receivers()
    with closing(made):
        yield made


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Mapping[str, Any]]]:
    """What is asked of SQS, in order."""
    calls: list[tuple[str, Mapping[str, Any]]] = []
    call = sqs_client.Clients.call

    def note(self: Any, operation: str, wait: int = 0, **parameters: Any) -> Any:
        calls.append((operation, parameters))
        return call(self, operation, wait, **parameters)

    monkeypatch.setattr(sqs_client.Clients, "call", note)
    return calls


def emails(number: int = 1, priority: int = NORMAL, delay: float = 0.0) -> list[Announcement]:
    return [Announcement(ObjectId(), priority, delay) for _ in range(number)]


# Urgent and normal --------------------------------------------------------------------------------


def test_high_emails_and_their_retries_come_before_all_others(
    broker: SqsBroker, receiver: SqsReceiver
) -> None:
    others = [each for priority in (BULK, NORMAL, RETRY_NORMAL) for each in emails(4, priority)]
    urgent = [each for priority in (HIGH, RETRY_HIGH) for each in emails(4, priority)]
    broker.announce([*others, *urgent])
    jobs = receiver.reserve(0, 10) + receiver.reserve(0, 10)
    assert set(ids(jobs[:8])) == set(ids(urgent))
    assert set(ids(jobs[8:])) == set(ids(others))


@pytest.mark.parametrize("priority", [HIGH, NORMAL])
def test_who_waits_gets_a_job_of_either_queue_as_it_comes(
    priority: int, broker: SqsBroker, receiver: SqsReceiver
) -> None:
    assert receiver.reserve(0) == []
    assert receiver.reserve(1) == []
    (email,) = emails(1, priority)
    broker.announce([email])
    assert ids(receiver.reserve(30)) == [email.email_id]


def test_an_urgent_email_is_seen_while_normal_ones_keep_coming(
    broker: SqsBroker, receiver: SqsReceiver
) -> None:
    """The urgent queue was empty, so it is waited at in the background."""
    assert receiver.reserve(1) == []
    broker.announce(emails(30))
    (urgent,) = emails(1, HIGH)
    broker.announce([urgent])
    jobs = reserved(receiver, 31)
    assert urgent.email_id in ids(jobs)


def test_an_idle_receiver_asks_each_queue_once_in_a_poll(
    receiver: SqsReceiver, requests: list[tuple[str, Mapping[str, Any]]]
) -> None:
    """Each request costs money: a consumer calls ``reserve`` two times a second."""
    for _ in range(3):
        assert receiver.reserve(0, 16) == []
        assert receiver.reserve(1) == []
    asked = [parameters["WaitTimeSeconds"] for _, parameters in requests]
    assert asked.count(0) == 2  # once each, at the start
    assert asked.count(1) <= 2 * 4  # a poll is a second in tests


def test_a_message_that_a_poll_brings_after_the_end_is_given_back(
    broker: SqsBroker, receiver: SqsReceiver
) -> None:
    receiver.reserve(1)
    receiver.reserve(0)  # the polls go on
    broker.announce(emails(2))
    receiver.close()
    (other,) = broker.receivers()
    assert len(reserved(other, 2)) == 2
    other.close()


# Ends -------------------------------------------------------------------------------------------


def test_a_release_is_a_new_message_so_that_no_receive_counts(
    broker: SqsBroker, receiver: SqsReceiver, settings: Sqs
) -> None:
    """A redrive policy would take an e-mail's job away that waits for a vendor."""
    broker.announce(emails())
    for _ in range(3):
        end(reserved(receiver), release_end(RETRY_HIGH, 0))
    receiver.close()
    reply = client(str(settings.endpoint_url)).receive_message(
        QueueUrl=settings.urgent, AttributeNames=["ApproximateReceiveCount"]
    )
    (message,) = reply["Messages"]
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert broker.depth() == {"ready": 0, "reserved": 1, "delayed": 0, "buried": 0}


def test_what_waits_for_longer_than_sqs_can_leaves_the_queue_to_the_sweeper(
    broker: SqsBroker, receiver: SqsReceiver
) -> None:
    assert broker.announce(emails(1, delay=901)) == ()
    broker.announce(emails(2))
    one, other = reserved(receiver, 2)
    end([one], release_end(NORMAL, 900))
    end([other], release_end(NORMAL, 901))
    assert broker.depth() == {"ready": 0, "reserved": 0, "delayed": 1, "buried": 0}


def test_many_jobs_end_in_requests_of_ten(
    broker: SqsBroker, receiver: SqsReceiver, requests: list[tuple[str, Mapping[str, Any]]]
) -> None:
    broker.announce(emails(25))
    jobs = reserved(receiver, 25)
    end(jobs[:20])
    end(jobs[20:], BURIED)
    batches = [(name, len(p["Entries"])) for name, p in requests if "Entries" in p]
    assert batches == [
        *([("send_message_batch", n) for n in (10, 10, 5)]),
        *([("delete_message_batch", 10)] * 2),
        ("change_message_visibility_batch", 5),
    ]


# Partial failures and outages -------------------------------------------------------------------


def refuse(monkeypatch: pytest.MonkeyPatch, operation: str, refused: Callable[[str], bool]) -> None:
    """Have a batch fail for the entries of which this holds, by their body or receipt."""
    call = sqs_client.Clients.call

    def some(self: Any, name: str, wait: int = 0, **parameters: Any) -> Any:
        if name != operation:
            return call(self, name, wait, **parameters)
        entries = parameters["Entries"]
        bad = [e for e in entries if refused(e.get("MessageBody") or e["ReceiptHandle"])]
        good = [e for e in entries if e not in bad]
        if good:
            call(self, name, wait, **{**parameters, "Entries": good})
        return {"Failed": [{"Id": e["Id"], "Code": "InternalError"} for e in bad]}

    monkeypatch.setattr(sqs_client.Clients, "call", some)


def test_what_a_batch_does_not_take_is_kept_and_goes_with_the_next_announcement(
    settings: Sqs, receiver: SqsReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    broker = SqsBroker(settings, TTR, clock=lambda: now)
    page = emails(25)
    bad = {str(each.email_id) for each in page[3:5]}
    with monkeypatch.context() as context:
        refuse(context, "send_message_batch", bad.__contains__)
        on_queue = broker.announce(page)
    assert {str(each.email_id) for each in page} - {str(e.email_id) for e in on_queue} == bad
    now += 2
    (last,) = emails()
    broker.announce([last])
    broker.close()
    assert set(ids(reserved(receiver, 26))) == set(ids([*page, last]))


def test_a_job_whose_successor_is_not_taken_stays(
    broker: SqsBroker, receiver: SqsReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.announce(emails())
    jobs = reserved(receiver)
    refuse(monkeypatch, "send_message_batch", lambda _: True)
    end(jobs, release_end(NORMAL, 0))
    assert broker.depth() == {"ready": 0, "reserved": 1, "delayed": 0, "buried": 0}


def test_an_outage_costs_the_caller_one_try_and_is_logged_once(
    caplog: pytest.LogCaptureFixture, requests: list[tuple[str, Mapping[str, Any]]]
) -> None:
    nowhere = "http://127.0.0.1:1"
    settings = Sqs(
        region=REGION, urgent=f"{nowhere}/1/u", normal=f"{nowhere}/1/n", endpoint_url=nowhere
    )
    broker = SqsBroker(settings, TTR)
    with caplog.at_level(logging.INFO, "mailqueue"):
        for _ in range(5):
            assert broker.announce(emails(30)) == []
        with pytest.raises(QueueUnavailable, match="sqs: EndpointConnectionError"):
            broker.receivers()[0].reserve(0)
        with pytest.raises(QueueUnavailable):
            broker.depth()
    assert [name for name, _ in requests].count("send_message_batch") == 1
    assert [r.getMessage() for r in caplog.records] == [
        'server.lost server="sqs eu-west-1" error="sqs: EndpointConnectionError"'
    ]


def test_a_server_that_hangs_is_lost_once_however_often_nothing_comes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nothing came while it is waited for is no answer."""
    monkeypatch.setattr(sqs_client, "READ_TIMEOUT", 1)
    with Moto() as server, caplog.at_level(logging.INFO, "mailqueue"):
        urls = {kind: server.create(kind) for kind in ("urgent", "normal")}
        broker = SqsBroker(Sqs(region=REGION, endpoint_url=server.url, **urls), TTR)
        (receiver,) = broker.receivers()
        assert receiver.reserve(1) == []
        server.pause()
        failed = 0
        while failed < 2:
            try:
                assert receiver.reserve(1) == []
            except QueueUnavailable:
                failed += 1
        assert [record.getMessage().split()[0] for record in caplog.records] == ["server.lost"]
        server.resume()
        # The requests that nobody waits for any more may be given a message, too.
        wait_until(lambda: broker.announce(emails()) and receiver.reserve(1), 60)
        assert caplog.records[-1].getMessage().startswith("server.recovered")
        receiver.close()


def test_the_backlog_goes_out_once_the_server_is_back(
    monkeypatch: pytest.MonkeyPatch, requests: list[tuple[str, Mapping[str, Any]]]
) -> None:
    with Moto() as server:
        urls = {kind: server.create(kind) for kind in ("urgent", "normal")}
        settings = Sqs(region=REGION, endpoint_url=server.url, **urls)
        now = time.monotonic()
        broker = SqsBroker(settings, TTR, clock=lambda: now)
        page = emails(15)
        server.kill()
        assert broker.announce(page) == []
        server.start()
        now += 31
        (last,) = emails()
        broker.announce([last])
        (receiver,) = broker.receivers()
        assert set(ids(reserved(receiver, 16))) == set(ids([*page, last]))
        server.pause()  # an answer that does not come ends the waiting
        monkeypatch.setattr(sqs_client, "READ_TIMEOUT", 1)
        other = SqsBroker(settings, TTR)
        requests.clear()
        assert other.announce(emails(30)) == []
        assert len(requests) == 1  # so much is waited for, however many e-mails there are
        server.resume()
        receiver.close()


def test_errors_tell_neither_account_nor_url(settings: Sqs) -> None:
    gone = Sqs(
        region=REGION,
        endpoint_url=settings.endpoint_url,
        urgent=f"{settings.endpoint_url}/123456789012/secret",
        normal=settings.normal,
    )
    with pytest.raises(QueueUnavailable) as caught:
        SqsBroker(gone, TTR).depth()
    assert "NonExistentQueue" in str(caught.value) or "QueueDoesNotExist" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_credentials_it_is_an_outage_that_says_so(
    settings: Sqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(QueueUnavailable, match="sqs: NoCredentialsError"):
        SqsBroker(settings, TTR).depth()


@pytest.mark.parametrize("command", ["/nowhere/credentials", "/bin/echo nonsense"])
def test_a_program_for_credentials_that_is_broken_makes_no_call_raise(
    settings: Sqs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with closing(SqsBroker(settings, TTR)) as broker:
        assert broker.announce(emails()) == []
        with pytest.raises(QueueUnavailable, match="sqs: "):
            broker.depth()


# Threads, forks, signal handlers -----------------------------------------------------------------


def test_a_call_in_the_middle_of_another_and_a_forked_child_have_clients_of_their_own(
    broker: SqsBroker, receiver: SqsReceiver
) -> None:
    first, inner, forked = emails(3)
    assert broker.announce([first]) == [first]
    assert reentrancy.run(lambda: reentrancy.run(broker.announce, [inner])) == [inner]
    assert in_a_child(lambda: str(broker.announce([forked]) == [forked])) == "True"
    assert {key[:2] for key in broker._clients._clients} == {(os.getpid(), 0), (os.getpid(), 1)}
    assert set(ids(reserved(receiver, 3))) == set(ids([first, inner, forked]))


def test_boto3_is_loaded_only_where_the_queue_is_sqs() -> None:
    code = "import sys, mailqueue, mailqueue.consumer; sys.exit('boto3' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


# The whole way ------------------------------------------------------------------------------------


@pytest.fixture
def cloud(stage: Stage, settings: Sqs) -> Stage:
    """A stage whose queue is SQS."""
    keys = ("region", "endpoint_url", *KINDS)
    stage.settings["queue"] = {"type": "sqs", **{key: getattr(settings, key) for key in keys}}
    return stage


def test_a_consumer_sends_retries_and_stops_cleanly(cloud: Stage, tmp_path: Path) -> None:
    first, _ = cloud.vendor("first"), cloud.vendor("second")
    cloud.settings["retry"] = {"base": 0.1, "cap": 0.2}
    first.replies = [DOWN] * 2
    ids = cloud.send(20) + cloud.send(3, priority="high")
    with ConsumerProcess(cloud.settings, tmp_path / "consumer") as consumer:
        cloud.until(sent=23)
        assert consumer.stop() == 0
    assert cloud.copies == dict.fromkeys(ids, 1)
    depth = open_broker(cloud.config).depth() or {}
    # An e-mail that was announced once more while it was being sent has a job that waits for that.
    assert dict(depth) == {**dict.fromkeys(STATES, 0), "delayed": depth["delayed"]}


def test_intake_stores_an_event_once_and_keeps_what_is_refused(cloud: Stage) -> None:
    queue = str(cloud.settings["queue"]["intake"])
    other = client(str(cloud.settings["queue"]["endpoint_url"]))
    event = json.dumps({"email": letter(1)})
    for body in (event, "no event"):
        other.send_message(QueueUrl=queue, MessageBody=body)
    connections = Connections(cloud.config, PRODUCTION, None)
    (receiver,) = open_events(cloud.config)
    again = receiver.reserve(30, 10)  # a process that stores, and ends before it deletes
    intake = Intake(receiver, connections)
    intake._store([read(each.body, each.key) for each in again if each.body == event.encode()])
    receiver.give_back()
    with closing(connections):
        while intake.turn():
            pass
    receiver.close()
    assert dict(intake.counts) == {"stored": 0, "repeated": 1, "buried": 1}
    assert cloud.statuses() == {"queued": 1}
    events = events_depth(cloud.config)
    assert events is not None
    assert {state: n for state, n in events.items() if n} == {"reserved": 1}


# Configuration ------------------------------------------------------------------------------------


def test_all_problems_are_said_at_once() -> None:
    queue = {
        "type": "sqs",
        "urgent": "https://sqs.eu-west-1.amazonaws.com/123456789012/u.fifo",
        "normal": "http://sqs.eu-west-1.amazonaws.com/123456789012/n",
        "callbacks": "https://sqs.eu-west-1.amazonaws.com/123456789012/c",
        "intake": "https://sqs.eu-west-1.amazonaws.com/123456789012/c",
        "tube": "x",
        "endpoint_url": "http://example.com",
    }
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping({"queue": queue})
    places = [problem.partition(":")[0] for problem in caught.value.problems]
    assert sorted(places) == [
        *("queue.endpoint_url", "queue.intake", "queue.normal", "queue.region"),
        *("queue.tube", "queue.urgent"),
    ]
    assert any("FIFO" in problem for problem in caught.value.problems)
    assert "123456789012" not in str(caught.value)


def test_a_time_to_run_that_sqs_does_not_have_is_said(settings: Sqs) -> None:
    with pytest.raises(ConfigError, match=r"delivery\.deadline: must be less with SQS"):
        Config(queue=settings, delivery={"deadline": 40_000})


def test_optional_queues_may_be_missing(settings: Sqs) -> None:
    few = Sqs(
        region=REGION,
        urgent=settings.urgent,
        normal=settings.normal,
        endpoint_url=settings.endpoint_url,
    )
    config = Config(queue=few)
    for suffix in (CALLBACKS, INTAKE):
        broker = open_broker(config, suffix=suffix)
        assert broker.announce(emails()) == ()
        assert broker.receivers() == ()
        assert broker.depth() is None
    with pytest.raises(ConfigError, match=r"queue\.intake"):
        open_events(config)


# Doctor -------------------------------------------------------------------------------------------


class Context:
    def __init__(self, settings: Sqs) -> None:
        self.config = Config(queue=settings)


def findings(settings: Sqs) -> list[str]:
    made: Any = Context(settings)
    return [f"{f.level} {f.text}" for f in queues.examine(made) if f.level is not Level.OK]


def test_doctor_says_what_hurts(settings: Sqs, moto: Moto) -> None:
    assert findings(settings) == ["WARN intake: has no redrive policy"]
    dead = "arn:aws:sqs:eu-west-1:123456789012:dead"
    moto.create("dead")
    for url in (settings.normal, settings.intake):
        client(moto.url).set_queue_attributes(
            QueueUrl=url,
            Attributes={
                "MessageRetentionPeriod": "600",
                "RedrivePolicy": json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 3}),
            },
        )
    client(moto.url).delete_queue(QueueUrl=settings.urgent)
    found = findings(settings)
    assert found[0].startswith("FAIL urgent: not reached (sqs: ")
    assert [line.partition(" for ")[0].partition(" after ")[0] for line in found[1:]] == [
        "WARN normal: jobs go to the dead-letter queue",
        "WARN normal: keeps messages",
        "WARN intake: events go to the dead-letter queue",
        "WARN intake: keeps messages",
    ]
