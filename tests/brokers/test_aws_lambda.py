"""The handler as Lambda runs it: in a process of its own, fed from SQS by an event source mapping.

``Function`` does what the mapping does: it receives a batch, invokes, and deletes what the reply
does not name; after an error or the end of the process it deletes nothing. Where time must pass
until SQS shows a message again, it says so to SQS.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailqueue import aws_lambda
from mailqueue.aws_lambda import Worker
from mailqueue.config import Config
from mailqueue.consumer import build_sweeper
from mailqueue.devserver.process import dies_with_parent
from mailqueue.errors import ConfigError
from mailqueue.queue.broker import STATES
from mailqueue.queue.sqs.broker import SqsBroker
from mailqueue.store.document import PRODUCTION
from mailqueue.store.stats import Stats
from mailqueue.store.store import Store
from tests.brokers.conftest import Servers
from tests.brokers.lambda_runtime import Context
from tests.brokers.sqs import REGION, SqsCase, client
from tests.faults.conftest import make_impatient
from tests.faults.invariants import broken, unknowns
from tests.faults.seams import CRASHED, CrashingVendor
from tests.for_each import for_each
from tests.process.consumer_process import REPO
from tests.stage import DOWN, Document, Stage
from tests.waiting import wait_until

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
HANDLER, SWEEP = "mailqueue.aws_lambda.handler", "mailqueue.aws_lambda.sweep"
# What stays for the next invocation: the driver's monitors, and the watchdog over vendors' sockets.
STAYS = ("MainThread", "pymongo_", "mailqueue-watchdog")


class Function:
    """A function with one environment at a time; ``seconds`` is its timeout.

    The environment is this process, unless it was started as one of its own.
    """

    def __init__(self, stage: Stage, folder: Path, seconds: float = 60.0) -> None:
        self.stage, self.seconds = stage, seconds
        self._file = folder / "config.json"
        self._process: subprocess.Popen[str] | None = None
        settings = stage.settings["queue"]
        self._client = client(settings["endpoint_url"])
        self.urls: list[str] = [settings["urgent"], settings["normal"]]

    def start(self, handler: str = HANDLER, point: str = "-") -> None:
        """A cold start of a process that ends at ``point``."""
        self.close()
        self._write(crashing=point != "-")
        module = [sys.executable, "-m", "tests.brokers.lambda_runtime", handler, point]
        self._process = subprocess.Popen(
            [*dies_with_parent(), *module],
            cwd=REPO,
            env={**os.environ, "MAILQUEUE_CONFIG": str(self._file)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _write(self, *, crashing: bool) -> None:
        own = f"{CrashingVendor.__module__}:{CrashingVendor.__name__}"
        vendors = [
            {**entry, "type": own} if crashing else entry
            for entry in self.stage.settings["vendors"]
        ]
        self._file.write_text(json.dumps({**self.stage.settings, "vendors": vendors}))
        self._file.chmod(0o600)

    def invoke(self, event: Mapping[str, Any], seconds: float = 0.0) -> dict[str, Any] | None:
        """The runtime's answer; None: the process is gone."""
        if self._process is None:
            return self._invoke_here(event, seconds or self.seconds)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"event": event, "seconds": seconds or self.seconds}
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def _invoke_here(self, event: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        if not aws_lambda._workers:
            self._write(crashing=False)
            os.environ["MAILQUEUE_CONFIG"] = str(self._file)
        try:
            return {"reply": aws_lambda.handler(event, Context(seconds))}
        except ConfigError as error:
            return {"error": f"ConfigError: {error}"}

    @property
    def code(self) -> int:
        assert self._process is not None
        return self._process.wait()

    def poll(self) -> int:
        """Do what the mapping does, once for each queue; returns how many messages came."""
        number = 0
        for url in self.urls:
            messages = self.receive(url)
            number += len(messages)
            if messages:
                answer = self.invoke({"Records": [record(url, each) for each in messages]})
                self.settle(url, messages, answer)
        return number

    def receive(self, url: str) -> list[Document]:
        reply = self._client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            VisibilityTimeout=600,
            AttributeNames=["ApproximateReceiveCount"],
        )
        return list(reply.get("Messages", ()))

    def receive_all(self, url: str, number: int) -> list[Document]:
        messages: list[Document] = []

        def look() -> bool:
            messages.extend(self.receive(url))
            return len(messages) >= number

        wait_until(look, 30)
        return messages

    def settle(self, url: str, messages: Sequence[Document], answer: Document | None) -> None:
        """Delete what succeeded; for the rest, time passes until it is shown again."""
        failures = {each["MessageId"] for each in messages}
        if answer is not None and "reply" in answer:
            failures = {each["itemIdentifier"] for each in answer["reply"]["batchItemFailures"]}
        for each in messages:
            handle = each["ReceiptHandle"]
            if each["MessageId"] in failures:
                self._client.change_message_visibility(
                    QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0
                )
            else:
                self._client.delete_message(QueueUrl=url, ReceiptHandle=handle)

    def until(self, **statuses: int) -> None:
        """Poll until so many e-mails stand where it says."""
        wait_until(lambda: self.poll() >= 0 and self.stage.statuses() == statuses, 30)

    def close(self) -> None:
        """The environment ends."""
        aws_lambda.close()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def record(url: str, message: Document) -> Document:
    """A message as the mapping passes it on."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:eu-west-1:123456789012:{url.rpartition('/')[2]}",
    }


def records(*bodies: str) -> Document:
    """An event of messages that no queue has."""
    return {
        "Records": [
            record("/normal", {"MessageId": str(i), "ReceiptHandle": "-", "Body": body})
            for i, body in enumerate(bodies)
        ]
    }


@pytest.fixture
def cloud(stage: Stage, queue_servers: Servers) -> Stage:
    """A stage whose queue is SQS, with leases of seconds."""
    case = SqsCase()
    server = queue_servers.of(case)
    assert server is not None
    name = stage.settings["mongodb"]["database"]
    stage.settings["queue"] = {"type": "sqs", **case.section(server.address, name)}
    make_impatient(stage)
    config = stage.config
    case.create(config)
    return stage


@pytest.fixture
def function(cloud: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    monkeypatch.setenv("MAILQUEUE_CONFIG", "")
    ours = logging.getLogger("mailqueue")
    level = ours.level
    with closing(Function(cloud, tmp_path)) as made:
        yield made
    ours.setLevel(level)


def failures(answer: Document | None) -> list[str]:
    assert answer is not None
    return [each["itemIdentifier"] for each in answer["reply"]["batchItemFailures"]]


def test_the_template_names_our_functions_and_has_the_settings_that_matter(
    tmp_path: Path,
) -> None:
    class Loader(yaml.SafeLoader):
        """CloudFormation's own tags stay as they are."""

    Loader.add_multi_constructor("!", lambda _loader, _suffix, node: node.value)
    template = yaml.load((REPO / "examples/aws_lambda.yaml").read_text(), Loader)  # a safe loader
    timeout = template["Globals"]["Function"]["Timeout"]
    longest = Config().delivery.deadline + 3 * Config().mongodb.timeout + aws_lambda.SPARE
    assert timeout > longest
    resources = {name: part["Properties"] for name, part in template["Resources"].items()}
    for name in ("Urgent", "Normal"):
        assert resources[name]["VisibilityTimeout"] >= 6 * timeout
        source = resources["Send"]["Events"][name]["Properties"]
        assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    for name in ("Send", "Sweep"):
        assert resources[name]["Handler"] in {HANDLER, SWEEP}
    variables = {
        **template["Globals"]["Function"]["Environment"]["Variables"],
        "AWS_REGION": REGION,
    }
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012"
    variables |= {"URGENT_QUEUE": f"{url}/u", "NORMAL_QUEUE": f"{url}/n", "AWS_REGION": REGION}
    page = (REPO / "docs/serverless.md").read_text()
    mapping = json.loads(page.partition("```json\n")[2].partition("```")[0])
    environ = {**variables, "MONGODB_URI": "mongodb://127.0.0.1"}
    assert Config.from_mapping(mapping, environ=environ).queue is not None


# Sending ----------------------------------------------------------------------------------------


def test_a_batch_is_sent_over_warm_connections_and_no_thread_of_it_stays(
    cloud: Stage, function: Function
) -> None:
    vendor = cloud.vendor("first")
    ids = cloud.send(25) + cloud.send(2, priority="high")
    function.start()
    function.until(sent=27)
    assert cloud.copies == Counter(ids)
    assert function.poll() == 0, "a message is left"

    first, second = (function.invoke(records(cloud.send()[0])) for _ in range(2))
    assert first is not None
    assert second is not None
    assert second["threads"] == first["threads"]
    assert all(name.startswith(STAYS) for name in second["threads"]), second["threads"]
    assert vendor.connections == 1


def test_an_environment_is_a_consumer_for_a_minute_and_counts_its_attempts(
    cloud: Stage, function: Function
) -> None:
    """At the end of an invocation, but once in ten seconds: the second one comes too early."""
    cloud.vendor("first")
    for _ in range(2):
        assert failures(function.invoke(records(cloud.send()[0]))) == []
    with closing(Store(cloud.config.mongodb, env=PRODUCTION, callbacks=None)) as store:
        stats = Stats(store, PRODUCTION)
        (beat,) = stats.consumers()
        assert beat.vendors == ("first",)
        assert stats.totals()["first", "accepted"].number == 1


def test_what_a_vendor_refuses_goes_to_another_within_the_same_invocation(
    cloud: Stage, function: Function
) -> None:
    cloud.vendor("first", DOWN)
    cloud.vendor("second")
    (email_id,) = cloud.send()
    assert failures(function.invoke(records(email_id))) == []
    assert cloud.statuses() == {"sent": 1}
    assert cloud.copies == {email_id: 1}


def test_what_is_due_later_gets_a_new_message_with_the_delay_and_no_receive_counts(
    cloud: Stage, function: Function
) -> None:
    """Otherwise an e-mail that waits for a vendor would end in a dead-letter queue."""
    vendor = cloud.vendor("first", DOWN)
    (email_id,) = cloud.send()
    for _ in range(3):
        wait_until(function.poll)
    assert len(vendor.calls) > 1
    (message,) = wait_until(lambda: function.receive(function.urls[1]))
    assert message["Body"] == email_id
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def test_an_email_that_waits_for_longer_than_sqs_can_is_the_sweepers(
    cloud: Stage, function: Function
) -> None:
    cloud.vendor("first")
    (email_id,) = cloud.send()
    cloud.emails.update_one({}, {"$set": {"due_at": datetime(2100, 1, 1, tzinfo=UTC)}})
    function.poll()
    assert function.poll() == 0
    cloud.emails.update_one({}, {"$set": {"due_at": LONG_AGO}})
    with build_sweeper(cloud.config) as sweeper:
        assert sweeper.run_once()["announced"] == 1
    function.until(sent=1)
    assert cloud.copies == {email_id: 1}


def test_foreign_and_doubled_messages_of_a_batch_keep_no_email_from_going(
    cloud: Stage, function: Function
) -> None:
    """What is not ours stays, for a redrive policy; what is no more is gone."""
    cloud.vendor("first")
    first, second = cloud.send(2)
    bodies = ("", "hello", first, first.upper(), first, second, "0" * 24)
    assert failures(function.invoke(records(*bodies))) == ["0", "1", "3"]
    assert cloud.copies == {first: 1, second: 1}
    assert failures(function.invoke(records(first, first))) == []
    assert cloud.copies == {first: 1, second: 1}


def test_outside_production_no_vendor_is_called(
    cloud: Stage, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = cloud.vendor("first")
    monkeypatch.delenv("MAILQUEUE_ENV")
    (email_id,) = cloud.send()
    assert failures(function.invoke(records(email_id))) == []
    assert cloud.statuses() == {"sent": 1}
    assert vendor.calls == []


# Time and outages -------------------------------------------------------------------------------


def test_nothing_is_begun_that_cannot_be_finished_and_the_rest_comes_again_at_once(
    cloud: Stage, function: Function
) -> None:
    vendor = cloud.vendor("first")
    cloud.send(3, priority="high")
    url = function.urls[0]
    event = [record(url, each) for each in function.receive_all(url, 3)]
    worker = Worker(cloud.config)
    left = worker.send(event, lambda: 5.0 if vendor.calls else 60.0)
    worker.close()
    assert left == [each["messageId"] for each in event[1:]]
    assert cloud.statuses() == {"sent": 1, "queued": 2}
    again = [each["MessageId"] for each in function.receive_all(url, 2)]
    assert sorted(again) == sorted(left)


def test_a_function_whose_time_is_too_short_for_an_attempt_begins_none_and_says_so(
    cloud: Stage, function: Function, caplog: pytest.LogCaptureFixture
) -> None:
    vendor = cloud.vendor("first")
    ids = cloud.send(2)
    assert failures(function.invoke(records(*ids), seconds=3)) == ["0", "1"]
    assert caplog.messages[-1] == "lambda.too_short seconds=3.0"
    assert vendor.calls == []
    assert failures(function.invoke(records(*ids))) == []
    assert cloud.copies == Counter(ids)


def test_in_a_short_invocation_the_clocks_are_shortened(
    cloud: Stage, function: Function, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.vendor("first")
    cloud.settings["mongodb"]["timeout"], cloud.settings["delivery"] = 10, {"deadline": 60}
    ids = cloud.send(3)
    for _ in range(2):
        assert failures(function.invoke(records(*ids), seconds=30)) == []
    assert cloud.copies == Counter(ids)
    shortened = [line for line in caplog.messages if line.startswith("lambda.clocks_shortened")]
    assert shortened == ["lambda.clocks_shortened deadline=11.7 timeout=1.9"]
    (worker,) = aws_lambda._workers
    assert worker.longest < 30 * aws_lambda.USABLE + 0.5


@for_each(
    "deadline,timeout,seconds,fitting",
    [
        (60.0, 10.0, 60, (26.7, 4.4)),
        (8.0, 10.0, 30, (5.0, 4.2)),
        (4.0, 10.0, 30, (4.0, 4.5)),
        (60.0, 1.0, 60, (37.0, 1.0)),
        (60.0, 0.5, 30, (16.0, 0.5)),
        (60.0, 10.0, 18, (5.5, 1.0)),
        (60.0, 10.0, 17, None),
    ],
)
def test_a_clock_that_is_short_already_leaves_its_time_to_the_other_one(
    deadline: float, timeout: float, seconds: float, fitting: tuple[float, float] | None
) -> None:
    """A shorter clock never makes an invocation too short."""
    clocks: Any = {"delivery": {"deadline": deadline}, "mongodb": {"timeout": timeout}}
    config = aws_lambda._fit(Config(**clocks), seconds)
    assert fitting == (config and (config.delivery.deadline, config.mongodb.timeout))


def test_while_mongodb_is_away_every_message_comes_again(cloud: Stage, function: Function) -> None:
    cloud.vendor("first")
    ids = cloud.send(2)
    uri = cloud.settings["mongodb"]["uri"]
    cloud.settings["mongodb"]["uri"] = "mongodb://127.0.0.1:1"
    assert failures(function.invoke(records(*ids))) == ["0", "1"]
    cloud.settings["mongodb"]["uri"] = uri
    function.close()
    function.until(sent=2)
    assert cloud.copies == Counter(ids)


def test_a_function_without_sqs_in_its_configuration_says_so(
    cloud: Stage, function: Function
) -> None:
    cloud.vendor("first")
    del cloud.settings["queue"]
    answer = function.invoke(records("0" * 24))
    assert answer is not None
    assert "queue.type" in answer["error"]


# Ends -------------------------------------------------------------------------------------------


ENDS = [
    ("after:claim", 1, 0),
    ("after:send", 1, 1),
    ("after:settle", 0, 0),
    ("before:put", 0, 0),
    ("after:put", 0, 0),
]
if os.environ.get("MAILQUEUE_ALL_CRASHES"):  # at these, as much is written as at one of those
    ENDS += [("before:claim", 0, 0), ("before:send", 1, 0), ("before:settle", 1, 1)]


@pytest.mark.parametrize("point, unknown, extra", ENDS)
def test_an_environment_that_ends_anywhere_loses_nothing_and_doubles_only_what_was_unknown(
    point: str, unknown: int, extra: int, cloud: Stage, function: Function
) -> None:
    vendor = cloud.vendor("first")
    vendor.replies = [DOWN] if point.endswith("put") else []
    (email_id,) = cloud.send()
    function.start(point=point)
    function.poll()
    assert function.code == CRASHED
    held = {"lease.until": {"$exists": True}}
    cloud.emails.update_many(held, {"$set": {"lease.until": LONG_AGO}})
    cloud.vendor("second")
    function.close()
    function.until(sent=1)

    document = cloud.document(email_id)
    assert broken(document, cloud.copies[email_id]) == [], document["attempts"]
    assert unknowns(document) == unknown
    assert cloud.copies == {email_id: 1 + extra}


# The sweeper ------------------------------------------------------------------------------------


def test_a_lost_job_is_found_on_schedule(cloud: Stage, function: Function) -> None:
    cloud.vendor("first")
    (email_id,) = cloud.send()
    SqsCase().lose_jobs(cloud.config)
    cloud.emails.update_one({}, {"$set": {"due_at": LONG_AGO}})
    function.start(SWEEP)
    threads = []
    for announced in (1, 0):
        answer = function.invoke({})
        assert answer is not None
        assert answer["reply"]["announced"] == announced
        threads.append(answer["threads"])
    assert threads[0] == threads[1]
    assert all(name.startswith(STAYS) for name in threads[0])
    function.close()
    function.until(sent=1)
    assert cloud.copies == {email_id: 1}


def test_an_undercount_of_sqs_leads_to_one_more_message_a_minute_and_no_storm(
    cloud: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of SQS may lag by a minute, while the sweeper looks four times in it."""
    cloud.vendor("first")
    cloud.send(5)
    cloud.emails.update_many({}, {"$set": {"due_at": LONG_AGO}})
    monkeypatch.setattr(SqsBroker, "depth", lambda _: dict.fromkeys(STATES, 0))
    with build_sweeper(cloud.config) as sweeper:
        assert [sweeper.run_once()["announced"] for _ in range(4)] == [5, 0, 0, 0]
