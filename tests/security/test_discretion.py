"""Nothing that was planted in e-mails and secrets comes up in logs, exceptions or reprs.

Everything is logged at DEBUG, but for pymongo: at that level it logs the commands themselves, with
the documents in them; an application that asks for that gets it.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from bson import ObjectId

from mailqueue.config import Config
from mailqueue.consumer import Consumer
from mailqueue.errors import ConfigError, InvalidEmail, MailQueueError, StoreUnavailable
from mailqueue.http import calls, wire
from mailqueue.lifecycle.outcomes import Outcome, SendResult, Status
from mailqueue.logs import Formatter, JsonFormatter
from mailqueue.message import Address, Email, EmailDict
from mailqueue.producer import Producer
from mailqueue.producer.submission import SendOptions, Submission, prepare
from mailqueue.queue.broker import Event, Job
from mailqueue.smtp.envelope import Envelope
from mailqueue.smtp.submission import SendArguments
from mailqueue.store.document import Stored
from mailqueue.testing import VendorCall
from mailqueue.vendors.base import Attempt
from tests.stage import CountingVendor, Stage
from tests.vendor_servers import Received, Reply, ScriptedSmtp, Wire

PLANTED = "planted"
EMAIL: EmailDict = {
    "from": "Planted Sender <planted-sender@example.com>",
    "to": ["Planted Reader <planted-reader@planted.example.org>", "planted-2@example.org"],
    "cc": ["planted-copy@planted.example.org"],
    "bcc": ["planted-blind@planted.example.org"],
    "reply_to": ["planted-reply@planted.example.com"],
    "subject": "A planted subject",
    "text": "A planted text.",
    "html": "<p>A planted page</p>",
    "headers": {"X-Tag": "planted-header"},
    "tags": ["planted-tag"],
    "metadata": {"order": "planted-order"},
    "attachments": [{"filename": "planted.txt", "content": b"planted content"}],
}
KEY, PASSWORD = "SG.planted-key", "planted-password"


@dataclass(frozen=True)
class Echo(Reply):
    """Quotes the whole request back, key and all, where a vendor puts its error's text."""

    def __call__(self, wire: Wire, request: Received) -> None:
        quoted = f"{dict(request.headers)} {request.body.decode()}".replace('"', "'")
        quoted = quoted.replace("\\", "/")
        body = f'{{"errors": [{{"message": "{quoted}"}}], "message": "{quoted}"}}'.encode()
        wire.sock.sendall(replace(self, body=body).head() + body)


@dataclass(frozen=True)
class Reset(Reply):
    """The connection is reset, whether the request was read or not."""

    def __call__(self, wire: Wire, _: Received) -> None:
        wire.reset()


ANSWERS = [Echo(status) for status in (202, 200, 302, 400, 401, 403, 413, 429, 500, 502, 503)]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """All that was logged so far, as tests and as our own processes write it."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("pymongo").setLevel(logging.INFO)
    ours, as_json = Formatter(), JsonFormatter()

    def everything() -> str:
        records = [f"{ours.format(r)} {as_json.format(r)} {vars(r)!r}" for r in caplog.records]
        return "\n".join([caplog.text, *records, *capfd.readouterr()])

    yield everything
    logging.getLogger("pymongo").setLevel(logging.NOTSET)


def echo_smtp(_: Wire, line: str) -> bytes | None:
    """Takes a login, then refuses every recipient by quoting it."""
    word = line.partition(" ")[0]
    quoted = {"": b"220 ready", "EHLO": b"250-me\r\n250 AUTH PLAIN", "AUTH": b"235 ok"}
    if word == "RCPT":
        return f"550 5.1.1 {line}: no such planted-reader\r\n".encode()
    return quoted.get(word, b"250 Ok") + b"\r\n"


@pytest.fixture
def vendors(stage: Stage) -> Iterator[list[CountingVendor]]:
    """One vendor for each kind of answer; the last is SMTP and knows no recipient."""
    answers = [*ANSWERS, Reset(0), Reply(202, body=b"not JSON")]
    made = [stage.vendor(f"vendor{n}", answer) for n, answer in enumerate(answers)]
    for entry in stage.settings["vendors"]:
        entry["api_key"] = KEY
    with ScriptedSmtp(echo_smtp) as smtp:
        login = {"username": "planted-user", "password": PASSWORD}
        server = {"host": "127.0.0.1", "port": smtp.port, "tls": "none"}
        stage.settings["vendors"].append({"name": "smtp", "type": "smtp", **server, **login})
        yield made


def test_a_run_through_every_kind_of_failure_says_nothing_planted(
    stage: Stage, vendors: list[CountingVendor], said: Callable[[], str]
) -> None:
    ids = stage.producer.send_many([EMAIL] * 30)
    with pytest.raises(InvalidEmail):
        stage.producer.send({**EMAIL, "subject": "planted\r\nBcc: planted@example.org"})
    consumer = Consumer(stage.config, burst=True)
    running = threading.Thread(target=consumer.run)
    running.start()
    running.join(60)
    assert not running.is_alive()
    found = [stage.status(email_id) for email_id in ids]
    outcomes = {line.outcome for status in found for line in status.attempts}
    assert outcomes >= {o.value for o in Outcome if o is not Outcome.DEFERRED}
    assert {Status.SENT, Status.FAILED} <= {status.status for status in found}
    words = said()
    for name in (
        "vendor.suspended",
        "email.stored",
        "attempt.failed",
        "email.sent",
        "email.failed",
    ):
        assert f'"event":"{name}"' in words
    assert PLANTED not in words.lower()
    shown = [*found, consumer, stage.producer, stage.config, *consumer.config.vendors]
    assert PLANTED not in repr(shown).lower()


def test_no_repr_of_what_is_handed_around_shows_personal_data() -> None:
    email, who = Email.from_mapping(EMAIL), ("planted@example.org",)
    shown = [
        email,
        *email.recipients,
        *email.attachments,
        Attempt(email_id="1", message_id="<1@x>", recipients=who, deadline=0.0),
        SendResult(outcome=Outcome.ACCEPTED, refused=who, pending=who),
        Stored({"_id": ObjectId(), "email": EMAIL}, ObjectId().generation_time),
    ]
    assert PLANTED not in f"{shown!r} {[str(one) for one in shown[-3:]]}".lower()


def test_no_repr_of_what_comes_in_shows_personal_data() -> None:
    email, key, body = Email.from_mapping(EMAIL), "planted-key", b"planted"
    person = Address.parse("planted@example.org")
    submission = Submission.of(EMAIL, SendOptions(), key)
    prepare([submission], Config.from_mapping({}), "simulated")
    job = Job(1, None, None, body)  # type: ignore[arg-type]  # it is not ended
    shown = [
        submission,
        wire.Message(EMAIL, places={"metadata.planted": "/tags/0"}),
        calls.Reply(200, body),
        Envelope(sender=person, recipients=[person]),
        SendArguments(email, "normal", key),
        job,
        Event(1, body, "intake:1", handle=job),
        VendorCall("1", email, (person.address,), Outcome.ACCEPTED),
    ]
    assert PLANTED not in f"{shown!r} {[str(one) for one in shown]}".lower()


# --- exceptions


def everything_about(error: BaseException) -> str:
    """Also what led to it, as a traceback shows it; the lines of source in it are this file's."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    shown = [line for line in lines if not line.startswith("    ")]
    return "\n".join([str(error), repr(error), *shown]).lower()


def trouble(act: Callable[[], object], kind: type[MailQueueError]) -> str:
    with pytest.raises(kind) as caught:
        act()
    return everything_about(caught.value)


@pytest.mark.parametrize("field", [*EMAIL, "unknown planted key"])
def test_an_invalid_email_does_not_quote_what_it_was_given(field: str, config: Config) -> None:
    bad: dict[str, Any] = {
        "text": b"planted",
        "html": b"planted",
        "headers": {"planted name": "planted"},
        "metadata": {"planted key": ["planted"]},
        "attachments": [{"filename": "planted.txt", "content": "planted"}],
    }
    value = bad.get(field, "planted\n <planted@planted@example.org>")
    mail: Any = {**EMAIL, field: value}
    with Producer(config) as producer:
        words = trouble(lambda: producer.send(mail), InvalidEmail)
    assert PLANTED not in words.replace("planted key", "" if field == "metadata" else "planted key")


def test_an_unavailable_store_does_not_quote_the_email_or_the_password(
    config_mapping: dict[str, Any], config: Config, said: Callable[[], str]
) -> None:
    address = config.mongodb.uri.partition("//")[2]
    refused = f"mongodb://planted-user:{PASSWORD}@{address}"
    away = f"mongodb://planted-user:{PASSWORD}@127.0.0.1:1"
    for uri in (refused, away):
        settings = {**config_mapping["mongodb"], "uri": uri, "timeout": 0.5}
        producer = Producer(Config.from_mapping({**config_mapping, "mongodb": settings}))
        words = trouble(lambda made=producer: made.send(EMAIL), StoreUnavailable)  # type: ignore[misc]  # mypy cannot tell the lambda's type
        words += repr([producer, producer.config]).lower()
        producer.close()
        assert PLANTED not in words
    assert PLANTED not in said().lower()


def test_a_write_error_of_mongodb_that_quotes_the_document_is_not_passed_on(
    config: Config, said: Callable[[], str]
) -> None:
    with Producer(config) as producer:
        database = producer.client[config.mongodb.database]
        none_is_valid = {"subject": "another"}
        database.command("collMod", config.mongodb.collection, validator=none_is_valid)
        words = trouble(lambda: producer.send_many([EMAIL] * 2), InvalidEmail)
        words += trouble(lambda: producer.send(EMAIL), InvalidEmail)
    assert PLANTED not in words
    assert PLANTED not in said().lower()


def test_a_config_error_does_not_quote_what_stands_in_the_file() -> None:
    vendor = {"name": "first", "type": "sendgrid", "api_key": ["planted"]}
    vendor |= {"base_url": "http://planted", "from": "planted", "weight": "planted"}
    broken = {
        "mongodb": {"uri": f"planted://u:{PASSWORD}@h", "timeout": "planted"},
        "vendors": [vendor, {"name": "planted planted", "type": "smtp", "password": PASSWORD}],
    }
    assert PLANTED not in trouble(lambda: Config.from_mapping(broken), ConfigError)
    unusable = Config.from_mapping({"mongodb": {"uri": f"mongodb://u:{PASSWORD}@h:x"}})
    assert PLANTED not in trouble(lambda: Producer(unusable).connect(), ConfigError)
