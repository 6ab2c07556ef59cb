"""A vendor of the user's own that raises anything, or answers with anything, ends no consumer."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mailqueue.consumer import Consumer
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import EmailDict
from mailqueue.producer import Producer
from mailqueue.routing import rotation
from mailqueue.routing.rotation import choose
from tests.integration.bench import MAIL, Bench, Document
from tests.logged import event
from tests.stage import Stage, letter
from tests.wild_vendor import ANSWERS, RAISED


def wild(stage: Stage, kind: str = "Wild") -> None:
    stage.settings["vendors"].append({"name": "wild", "type": f"tests.wild_vendor:{kind}"})
    stage.settings["delivery"] = {"on_unknown": "park"}


def sent(stage: Stage, *subjects: str) -> dict[str, Document]:
    """The documents of such e-mails after a consumer has done all that is due."""
    mails: list[EmailDict] = [{**letter(n), "subject": s} for n, s in enumerate(subjects)]
    ids = stage.producer.send_many(mails)
    assert Consumer(stage.config, burst=True).run() == 0
    return {subject: stage.document(one) for subject, one in zip(subjects, ids, strict=True)}


def facts(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [r.__dict__["facts"] for r in caplog.records if event(r) == name]


def test_whatever_a_vendor_raises_the_senders_go_on(stage: Stage) -> None:
    wild(stage)
    stage.settings["consumer"] = {"concurrency": 1}
    found = sent(stage, *RAISED, "no answer", "in order")
    assert found.pop("in order")["status"] == "sent"
    assert {d["status"] for d in found.values()} == {"uncertain"}
    codes = {subject: d["attempts"][0]["code"] for subject, d in found.items()}
    assert codes.pop("no answer") == "no_answer"
    assert codes == {kind: f"raised_{kind}" for kind in RAISED}
    assert stage.health("wild")["unavailable_until"] is None


def test_whatever_a_vendor_answers_is_stored(stage: Stage) -> None:
    wild(stage)
    found = sent(stage, *ANSWERS)
    assert {d["status"] for d in found.values()} == {"sent"}
    ids = {subject: d["vendor_message_id"] for subject, d in found.items()}
    assert ids == {
        "a lone surrogate": "a?b",
        "a huge id": "x" * 512,
        "an id of bytes": "id\ufffd",
        "an id of NUL": "a?b",
        "an id that is a number": "7",
    }


def test_a_vendor_whose_can_carry_raises_counts_as_unable_and_that_is_said_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    other = stage.vendor("other")
    wild(stage)
    ids = stage.producer.send_many([{**letter(n), "subject": "can_carry"} for n in range(4)])
    with caplog.at_level(logging.ERROR, "mailqueue"):
        assert Consumer(stage.config, burst=True).run() == 0
    assert sorted(other.calls) == sorted(ids)
    (said,) = facts(caplog, "vendor.raised")
    assert (said["vendor"], said["error"]) == ("wild", "SystemExit")
    assert said["at"].startswith("wild_vendor.py:")


def test_an_email_does_not_end_where_only_a_vendors_bug_is_to_blame(
    bench: Bench, producer: Producer, config: Any, emails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.send(MAIL)
    for vendor in bench.vendors.values():
        monkeypatch.setattr(vendor, "can_carry", lambda _: 1 / 0)
    bench.work()
    (found,) = emails.find()
    assert (found["status"], found["attempts"]) == ("queued", [])


def test_a_bug_in_our_own_planning_puts_an_email_off_and_is_said_with_its_place(
    bench: Bench,
    producer: Producer,
    emails: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, other = producer.send(MAIL, priority="high"), producer.send(MAIL)
    calls: list[int] = []

    def fails_once(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("a secret")
        return choose(*given)

    monkeypatch.setattr(rotation, "choose", fails_once)
    bench.work()
    statuses = {str(d["_id"]): d["status"] for d in emails.find()}
    assert statuses == {broken: "queued", other: "sent"}
    (said,) = facts(caplog, "email.not_planned")
    assert said["id"] == broken
    assert said["at"].endswith("fails_once")
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "outcome, status",
    [("accepted", "sent"), ("unknown", "uncertain"), ("unavailable", "queued")],
)
def test_a_bug_in_our_own_decision_leaves_what_is_surely_right(
    outcome: str,
    status: str,
    bench: Bench,
    producer: Producer,
    emails: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    producer.send(MAIL)
    bench.take()
    result = SendResult(outcome=Outcome(outcome), code="x")
    for vendor in bench.vendors.values():
        vendor.results = [result]
    monkeypatch.setattr(bench.routing, "decide", lambda *_: 1 / 0)
    bench.deliver()
    bench.settle()
    (found,) = emails.find()
    assert (found["status"], found["attempts"][0]["outcome"]) == (status, outcome)


def test_a_vendor_that_a_sender_cannot_make_is_unavailable_and_nothing_left(stage: Stage) -> None:
    wild(stage, "OnlyInMainThread")
    (found,) = sent(stage, "in order").values()
    assert (found["status"], found["unknowns"]) == ("queued", 0)
    (line,) = found["attempts"]
    assert (line["outcome"], line["code"]) == ("unavailable", "not_made")
    assert stage.health("wild")["unavailable_until"] is not None


def test_a_vendor_that_cannot_be_made_is_a_config_error(stage: Stage) -> None:
    wild(stage, "Never")
    with pytest.raises(ConfigError, match=r"vendors\.wild\.type: cannot create .*Never: KeyError"):
        Consumer(stage.config)
