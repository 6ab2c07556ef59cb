"""The responder as a real process: from the end of an e-mail to the application's answer."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailqueue.consumer import Consumer
from mailqueue.events import EventStore
from mailqueue.monitoring.finding import Slug
from mailqueue.monitoring.overview import Overview
from mailqueue.monitoring.situations import situations
from mailqueue.store.document import PRODUCTION
from mailqueue.store.store import Store
from mailqueue.vendors.events.source import EventType, VendorEvent
from tests.callbacks.receiver import OTHER_SECRET, SECRET, Receiver
from tests.process.consumer_process import ConsumerProcess, ResponderProcess
from tests.stage import BAD_REQUEST, Stage, letter
from tests.vendor_servers import Reply
from tests.waiting import wait_until

REFUSED = {"not_public", "not_allowed"}


def entries(stage: Stage) -> list[dict[str, Any]]:
    return [entry for document in stage.emails.find() for entry in document.get("callbacks", [])]


def states(stage: Stage) -> list[str]:
    return sorted(entry["state"] for entry in entries(stage))


def ended(stage: Stage, *wanted: str) -> None:
    wait_until(lambda: states(stage) == sorted(wanted), what=f"callbacks are {wanted}")


def deliver(stage: Stage) -> None:
    """Have a consumer send all that is queued."""
    assert Consumer(stage.config, burst=True).run() == 0


@contextmanager
def closing_process(process: ResponderProcess) -> Iterator[ResponderProcess]:
    """One that never gets ready."""
    with ExitStack() as stack:
        stack.push(process)
        yield process


@pytest.fixture(autouse=True)
def production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILQUEUE_ENV", "production")


def test_an_application_hears_of_an_email_that_was_sent(
    told: Stage, receiver: Receiver, tmp_path: Path
) -> None:
    told.vendor("first")
    with (
        ResponderProcess(told.settings, tmp_path / "responder") as responder,
        ConsumerProcess(told.settings, tmp_path / "consumer"),
    ):
        email_id = told.producer.send(
            {**letter(1), "metadata": {"order": "7"}, "cc": ["cc@example.org"]},
            callback_url=f"{receiver.url}/hooks?tenant=secret",
            request_id="req-1",
        )
        ended(told, "delivered")
        assert responder.stop() == 0
        (line,) = responder.said("callback.delivered")
    (request,) = receiver.requests
    assert (request.method, request.path) == ("POST", "/hooks?tenant=secret")
    assert request.headers["svix-id"] == request.headers["webhook-id"] == entries(told)[0]["id"]
    event = request.json
    assert event["type"] == "email.sent"
    data = event["data"]
    assert uuid.UUID(data["email_id"]).version == 8
    assert (data["from"], data["to"]) == ("Ann <ann@example.com>", ["reader1@example.org"])
    assert data["tags"] == {"order": "7"}
    assert data["request_id"] == "req-1"
    assert f"id={email_id}" in line
    assert "request_id=req-1" in line
    assert "secret" not in responder.output
    assert "@" not in responder.output


def test_all_ends_are_told_each_with_its_reason(
    told: Stage, receiver: Receiver, tmp_path: Path
) -> None:
    told.settings["callbacks"]["url"] = receiver.url
    told.settings["retry"] = {"max_attempts": 1}
    told.vendor("first", BAD_REQUEST)
    told.send()
    cancelled = told.send(send_at=datetime.now(UTC) + timedelta(days=1))
    assert told.producer.cancel(cancelled[0])
    deliver(told)
    with ResponderProcess(told.settings, tmp_path / "responder"):
        ended(told, "delivered", "delivered")
    events = {event["type"]: event["data"] for event in receiver.events.values()}
    assert events["email.failed"]["failed"] == {"reason": told.status(told_failed(told)).reason}
    assert events["email.cancelled"]["cancelled"] == {"reason": "cancelled"}


def told_failed(stage: Stage) -> str:
    (document,) = stage.emails.find({"status": "failed"})
    return str(document["_id"])


def test_what_vendors_tell_of_recipients_is_told_on(
    told: Stage, receiver: Receiver, tmp_path: Path
) -> None:
    told.settings["callbacks"]["url"] = receiver.url
    told.vendor("first")
    people = ["bob@example.org", "eve@bücher.example"]  # vendors name domains in ASCII
    email_id = told.producer.send({**letter(1), "to": people})
    deliver(told)
    store = Store(told.config.mongodb, env=PRODUCTION, callbacks=told.config.callbacks)
    at = datetime(2026, 11, 27, 9, tzinfo=UTC)
    bounce = VendorEvent(
        key="1",
        type=EventType.BOUNCED_HARD,
        email_id=email_id,
        recipient="eve@xn--bcher-kva.example",
        at=at,
        code="550",
        detail="no such user",
    )
    delivered = VendorEvent(
        key="2", type=EventType.DELIVERED, email_id=email_id, recipient=people[0]
    )
    for _ in range(2):  # vendors repeat
        EventStore(told.config, store).record("first", [bounce, delivered])
    store.close()
    with ResponderProcess(told.settings, tmp_path / "responder"):
        ended(told, "delivered", "delivered", "delivered")
    events = {event["type"]: event for event in receiver.events.values()}
    assert events.keys() == {"email.sent", "email.delivered", "email.bounced"}
    bounced = events["email.bounced"]
    assert bounced["created_at"] == "2026-11-27T09:00:00.000Z"
    assert bounced["data"]["recipient"] == people[1]
    assert bounced["data"]["bounce"]["type"] == "Permanent"
    assert bounced["data"]["bounce"]["message"] == "no such user"
    assert events["email.delivered"]["data"]["recipient"] == people[0]
    assert len(receiver.ids) == len(receiver.events) == 3


def hurry(stage: Stage) -> None:
    """Let the time pass that a callback waits."""
    stage.emails.update_many(
        {"callbacks.state": "due"},
        [{"$set": {"callbacks": {"$map": {"input": "$callbacks", "in": {"$mergeObjects": [
            "$$this",
            {"$cond": [{"$eq": ["$$this.state", "due"]}, {"due_at": "$$NOW"}, {}]},
        ]}}}}}],
    )  # fmt: skip


def waits(stage: Stage, tries: int) -> dict[str, Any]:
    """Wait until the only callback was posted so often and waits; returns its entry."""
    wait_until(
        lambda: (entry := entries(stage)[0])["tries"] == tries and "nonce" not in entry,
        what=f"{tries} tries",
    )
    return entries(stage)[0]


@pytest.mark.parametrize(
    "reply, code",
    [
        (Reply(500), "500"),
        (Reply(302, {"Location": "http://127.0.0.1:1/"}), "302"),
        (Reply(404), "404"),
    ],
    ids=["error", "redirect", "not found"],
)
def test_a_receiver_that_fails_gets_the_same_event_again_later_and_later(
    reply: Reply, code: str, told: Stage, tmp_path: Path
) -> None:
    told.vendor("first")
    with Receiver(*[reply] * 3) as receiver:
        told.producer.send(letter(1), callback_url=receiver.url)
        deliver(told)
        with ResponderProcess(told.settings, tmp_path / "responder") as responder:
            for tries in (1, 2, 3):
                entry = waits(told, tries)
                assert entry["code"] == code
                hurry(told)
            ended(told, "delivered")
            lines = responder.said("callback.postponed")
    assert len(receiver.ids) == 4
    assert len(set(receiver.ids)) == 1
    seconds = [int(line.rpartition("seconds=")[2].split()[0]) for line in lines]
    assert [4 <= s <= 6 or 8 <= s <= 12 or 16 <= s <= 24 for s in seconds] == [True] * 3
    assert seconds == sorted(seconds)


def test_a_receiver_that_is_gone_is_not_asked_again(told: Stage, tmp_path: Path) -> None:
    told.vendor("first")
    with Receiver(Reply(410)) as receiver:
        told.producer.send(letter(1), callback_url=receiver.url)
        deliver(told)
        with ResponderProcess(told.settings, tmp_path / "responder"):
            ended(told, "gone")
    assert "due_at" not in entries(told)[0]


def test_a_receiver_that_is_down_for_three_days_has_failed(told: Stage, tmp_path: Path) -> None:
    told.vendor("first")
    with Receiver() as receiver:
        url = receiver.url
    told.producer.send(letter(1), callback_url=url)
    deliver(told)
    with ResponderProcess(told.settings, tmp_path / "responder") as responder:
        assert waits(told, 1)["code"] == "connect_refused"
        long_ago = datetime.now(UTC) - timedelta(days=3)
        told.emails.update_many({}, {"$set": {"callbacks.0.since": long_ago}})
        hurry(told)
        ended(told, "failed")
        wait_until(lambda: responder.said("callback.failed"), what="it is said")
    assert told_by_doctor(told) == {Slug.CALLBACKS_FAILED}
    told.producer.send(letter(1), callback_url=url)  # and there is no responder any more
    deliver(told)
    assert told_by_doctor(told) == {Slug.CALLBACKS_FAILED}
    told.emails.update_many(
        {"callbacks.state": "due"},
        {"$set": {"callbacks.0.due_at": datetime.now(UTC) - timedelta(seconds=301)}},
    )
    assert told_by_doctor(told) == {Slug.CALLBACKS_FAILED, Slug.CALLBACKS_DUE}


def told_by_doctor(stage: Stage) -> set[Slug | None]:
    store = Store(stage.config.mongodb, env=PRODUCTION, callbacks=stage.config.callbacks)
    with closing(store):
        findings = situations(Overview.read(stage.config, store), stage.config)
        return {finding.slug for finding in findings if finding.check == "callbacks"}


def test_a_name_that_leads_into_this_network_is_not_asked(told: Stage, tmp_path: Path) -> None:
    """Its URL looks like any other: what it leads to is known when it is looked up."""
    told.vendor("first")
    with Receiver() as receiver:
        name = socket.gethostname().lower()
        told.producer.send(letter(1), callback_url=f"https://{name}:{receiver.port}/")
        told.producer.send(letter(1), callback_url=receiver.url)
        deliver(told)
        told.settings["callbacks"]["allow"] = []  # it was allowed once
        with ResponderProcess(told.settings, tmp_path / "responder"):
            wait_until(lambda: {e.get("code") for e in entries(told)} == REFUSED, what="refused")
        assert receiver.connections == 0
    assert states(told) == ["due", "due"]


def test_several_secrets_sign_while_they_change(
    told: Stage, receiver: Receiver, tmp_path: Path
) -> None:
    told.vendor("first")
    told.settings["callbacks"]["secrets"] = [OTHER_SECRET, SECRET]
    with Receiver(secret=OTHER_SECRET) as newer:
        for one in (receiver, newer):
            told.producer.send(letter(1), callback_url=one.url)
        deliver(told)
        with ResponderProcess(told.settings, tmp_path / "responder"):
            ended(told, "delivered", "delivered")


def test_one_receiver_that_hangs_does_not_delay_the_others(
    told: Stage, receiver: Receiver, tmp_path: Path
) -> None:
    """The host is what counts: 127.0.0.2 hangs."""
    told.vendor("first")
    told.settings["callbacks"] |= {"concurrency": 8, "allow": ["127.0.0.1", "localhost"]}
    with Receiver() as hanging:
        hanging.hold()
        slow_url = hanging.url.replace("127.0.0.1", "localhost")
        for _ in range(30):
            told.producer.send(letter(1), callback_url=slow_url)
        for _ in range(20):
            told.producer.send(letter(1), callback_url=receiver.url)
        deliver(told)
        with ResponderProcess(told.settings, tmp_path / "responder") as responder:
            wait_until(lambda: len(receiver.events) == 20, what="the others heard")
            assert hanging.under_way <= 4
            hanging.let_go()
            ended(told, *["delivered"] * 50)
            assert responder.stop() == 0


def test_a_callback_is_told_without_beanstalkd_too(
    told: Stage, receiver: Receiver, tmp_path: Path
) -> None:
    told.vendor("first")
    told.producer.send(letter(1), callback_url=receiver.url)
    deliver(told)
    settings = {**told.settings, "beanstalkd": {"servers": ["127.0.0.1:1"]}}
    with ResponderProcess(settings, tmp_path / "responder"):
        ended(told, "delivered")


def test_without_a_secret_it_does_not_start(told: Stage, tmp_path: Path) -> None:
    told.settings["callbacks"]["secrets"] = ["${NO_SUCH_VARIABLE}"]
    with closing_process(ResponderProcess(told.settings, tmp_path / "responder")) as responder:
        assert responder.exit_code() == 2
        assert "callbacks.secrets" in responder.output


def test_stopping_finishes_what_is_under_way(
    told: Stage, receiver: Receiver, tmp_path: Path
) -> None:
    told.vendor("first")
    told.producer.send(letter(1), callback_url=receiver.url)
    deliver(told)
    receiver.hold()
    with ResponderProcess(told.settings, tmp_path / "responder") as responder:
        wait_until(lambda: receiver.under_way == 1, what="it is posted")
        responder.terminate()
        responder.wait_for("STOPPING=1")
        receiver.let_go()
        assert responder.exit_code() == 0
    assert states(told) == ["delivered"]


def test_two_responders_share_the_work_and_repeat_nothing(
    told: Stage, receiver: Receiver, tmp_path: Path
) -> None:
    told.vendor("first")
    told.settings["callbacks"]["url"] = receiver.url
    told.send(60)
    deliver(told)
    with (
        ResponderProcess(told.settings, tmp_path / "one"),
        ResponderProcess(told.settings, tmp_path / "two"),
    ):
        ended(told, *["delivered"] * 60)
    assert len(receiver.ids) == len(receiver.events) == 60


def test_callbacks_of_simulated_emails_are_another_responders(
    told: Stage, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAILQUEUE_ENV")
    told.vendor("first")
    told.producer.send(letter(1), callback_url=receiver.url)
    deliver(told)
    with (
        ResponderProcess(told.settings, tmp_path / "real"),
        ResponderProcess(told.settings, tmp_path / "other", MAILQUEUE_ENV="test"),
    ):
        ended(told, "delivered")
    (event,) = receiver.events.values()
    assert event["data"]["simulated"] is True
