"""``mailqueue explain`` on real e-mails: what really happened is what it says.

Consumers run in threads of the test process, against vendors on loopback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from mailqueue.message import EmailDict
from mailqueue.store.ids import to_uuid
from mailqueue.store.stats import SUFFIX
from tests.console import Console
from tests.integration.test_failover import consuming, drain
from tests.stage import BAD_REQUEST, DOWN, TAKEN, Stage, letter
from tests.vendor_servers import Reply
from tests.waiting import wait_until

PAGE = (Path(__file__).parents[2] / "docs/operating.md").read_text("utf-8")
Document = dict[str, Any]
NOWHERE = "65f1c0ffee65f1c0ffee65f1"
MAYBE = Reply(502)  # whether the e-mail was taken is not known


@pytest.fixture
def console(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    """An operator's shell; it reads the vendors of the stage anew for each command."""

    class Fresh(Console):
        def __call__(self, *arguments: str) -> Any:
            self.configure(stage.settings)
            return super().__call__(*arguments)

    return Fresh(tmp_path / "config.json", capsys)


@pytest.fixture(autouse=True)
def live_consumer(stage: Stage) -> None:
    """One that gave a sign of life just now."""
    beat = {"_id": "web-1:4:a", "at": datetime.now(UTC), "in_flight": 0, "version": "1"}
    stats = stage.emails.database[f"{stage.emails.name}{SUFFIX}"]
    stats.insert_one({**beat, "env": "production", "vendors": ["ses", "mailgun"]})


def sentences(console: Console, email_id: str, part: str = "history") -> list[str]:
    return [each["text"] for each in console.data("explain", email_id)[part]]


def tried_twice(stage: Stage, ids: list[str]) -> str:
    """The one of these e-mails whose first vendor did not take it."""
    (email_id,) = (each for each in ids if len(stage.outcomes(each)) == 2)
    return email_id


# --- the examples of docs/operating.md


def normal(page: str) -> str:
    """Without what differs from run to run, and without line breaks."""
    page = re.sub(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d( UTC|Z)", "T", page)
    page = re.sub(r"[0-9a-f]{24}", "ID", page)
    return " ".join(page.split())


def example(name: str) -> str:
    """The output that the page shows under ``name``."""
    (block,) = re.findall(rf"<!-- explain: {name} -->\n```text\n(.*?)```", PAGE, re.DOTALL)
    return str(block)


def assert_is_example(console: Console, name: str, email_id: str) -> None:
    output = console("explain", email_id).out
    assert normal(output) == normal(example(name)), output


def test_an_email_that_failed_over_is_told_as_the_page_shows(
    stage: Stage, console: Console
) -> None:
    ses, _ = stage.vendor("ses", DOWN), stage.vendor("mailgun")
    ids = stage.send(2)
    drain(stage)
    assert len(ses.calls) == 1
    assert_is_example(console, "failed over", tried_twice(stage, ids))


def test_a_held_email_is_told_as_the_page_shows(
    stage: Stage, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailqueue.cli.control.operator", lambda: "ann@ops")
    stage.vendor("ses")
    assert console("hold", "--tag", "news", "--reason", "wrong price").code == 0
    email: EmailDict = {**letter(1), "tags": ["news"]}
    email_id = stage.producer.send(email)
    with consuming(stage):
        wait_until(lambda: "hold" in stage.document(email_id), 30)
    assert_is_example(console, "held", email_id)


def test_an_uncertain_email_is_told_as_the_page_shows(stage: Stage, console: Console) -> None:
    stage.settings["retry"] = {"base": 0.01, "cap": 0.01}
    for name in ("ses", "mailgun"):
        stage.vendor(name, MAYBE)
    (email_id,) = stage.send()
    with consuming(stage):
        stage.until(uncertain=1)
    output = console("explain", email_id).out
    first = stage.document(email_id)["attempts"][0]["vendor"]
    if first == "mailgun":  # whose turn it is depends on the number of the job
        output = re.sub("ses|mailgun", lambda m: {"ses": "mailgun", "mailgun": "ses"}[m[0]], output)
    assert normal(output) == normal(example("uncertain")), output


def test_the_examples_of_the_page_fit_a_terminal() -> None:
    blocks = re.findall(r"<!-- explain: [\w ]+ -->\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 100


# --- other real ones


def test_a_new_email_names_whose_turn_it_can_be(stage: Stage, console: Console) -> None:
    stage.vendor("ses")
    stage.vendor("mailgun")
    (email_id,) = stage.send()
    words = " ".join(sentences(console, email_id, "next"))
    assert "It is due: the next consumer that is free takes it." in words
    assert (
        "As things are, it goes to ses or mailgun: they take turns, by the number of its job."
        in words
    )


def test_a_queue_that_is_away_is_told_of_what_waits_for_it_only(
    stage: Stage, console: Console
) -> None:
    stage.vendor("ses")
    (email_id,) = stage.send()
    stage.settings["beanstalkd"]["servers"] = ["127.0.0.1:1"]  # nobody listens there
    assert "The queue is not reached from here" in sentences(console, email_id, "next")[1]
    stage.emails.update_one({"_id": ObjectId(email_id)}, {"$set": {"status": "cancelled"}})
    assert "queue" not in console("explain", email_id).out


def test_an_unavailable_vendor_is_told_with_its_reason(stage: Stage, console: Console) -> None:
    ses = stage.vendor("ses", Reply(401))
    stage.vendor("mailgun")
    ids = stage.send(2)
    drain(stage)
    email_id = tried_twice(stage, ids)
    assert len(ses.calls) == 1
    history = sentences(console, email_id)
    assert "ses refused our account, key or quota (401). Nothing was sent." in history
    (new,) = stage.send()
    words = " ".join(sentences(console, new, "next"))
    assert "As things are, it goes to mailgun." in words
    why = r"Not ses: unavailable since \S+ UTC \(misconfigured 401\); it is probed from"
    assert re.search(why, words)
    commands = [action["command"] for action in console.data("explain", new)["actions"]]
    assert "mailqueue vendors enable ses" in commands


def test_a_budget_that_is_used_up_is_told_with_its_end(stage: Stage, console: Console) -> None:
    ses = stage.vendor("ses")
    stage.settings["vendors"][0]["rate"] = {"per_day": 1, "per_month": 1}
    ids = stage.send(2)
    drain(stage)
    assert len(ses.calls) == 1
    (email_id,) = (each for each in ids if stage.status(each).status == "queued")
    words = " ".join(sentences(console, email_id, "next"))
    assert re.search(r"has used up its rate or its budget, until [-\d]+-01 00:00:00 UTC\.", words)


def test_who_was_unavailable_then_is_told_when_all_is_well_again(
    stage: Stage, console: Console
) -> None:
    stage.vendor("ses", Reply(401))
    stage.vendor("mailgun")
    ids = stage.send(2)
    drain(stage)
    email_id = tried_twice(stage, ids)
    assert console("vendors", "enable", "ses").code == 0
    words = "Attempt 2 at mailgun, whose turn it was. ses was unavailable."
    assert words in sentences(console, email_id)


def test_a_probe_names_the_others_that_were_unavailable_not_its_own_vendor(
    stage: Stage, console: Console
) -> None:
    vendors = {name: stage.vendor(name, Reply(401)) for name in ("ses", "mailgun")}
    stage.send()
    drain(stage)
    for name, vendor in vendors.items():
        vendor.reply = TAKEN
        stage.edit_health(name, unavailable_until=datetime.now(UTC))
    (email_id,) = stage.send()
    drain(stage)
    (line,) = stage.document(email_id)["attempts"]
    assert line["probe"]
    assert line["unavailable"] == [*(vendors.keys() - {line["vendor"]})]
    assert "as its probe: " in sentences(console, email_id)[1]


def test_an_attempt_under_way_names_its_consumer(stage: Stage, console: Console) -> None:
    ses = stage.vendor("ses")
    ses.hold()
    (email_id,) = stage.send()
    with consuming(stage):
        wait_until(lambda: ses.under_way == 1, 30)
        explanation = console.data("explain", email_id)
        owner = stage.document(email_id)["lease"]["owner"]
        ses.let_go()
        stage.until(sent=1)
    assert explanation["summary"] == "It is being sent."
    assert explanation["history"][-1]["text"] == "There is no answer yet."
    assert owner in explanation["next"][0]["text"]
    assert explanation["next_at"] is not None
    assert console.data("explain", email_id)["summary"] == "It was sent. ses accepted it."


def test_an_email_that_nobody_takes_says_why_it_failed(stage: Stage, console: Console) -> None:
    for name in ("ses", "mailgun"):
        stage.vendor(name, BAD_REQUEST)
    (email_id,) = stage.send()
    drain(stage)
    explanation = console.data("explain", email_id)
    assert explanation["summary"].startswith("It failed. No copy left. No vendor is left")
    history = [each["text"] for each in explanation["history"]]
    assert sum(" does not take this e-mail (400)." in each for each in history) == 2
    assert sum("had found it unsuitable." in each for each in history) == 1
    console("retry", email_id)
    assert "Before, it was failed (refused_by_all)." in sentences(console, email_id)[-1]


def test_a_simulated_email_looks_at_the_simulations_own_vendors(
    stage: Stage, console: Console
) -> None:
    stage.vendor("ses", Reply(401))
    (email_id,) = stage.send()
    drain(stage)
    simulated: Document = {"env": "simulated", "due_at": None, "round.tried": []}
    stage.emails.update_one({"_id": ObjectId(email_id)}, {"$set": simulated})
    words = " ".join(sentences(console, email_id, "next"))
    assert "No simulated consumer gave a sign of life for 60 s" in words
    assert "Those that run are production." in words
    assert "As things are, it goes to ses." in words  # it is unavailable in production only


# --- the verb


def test_both_forms_of_an_id_are_taken(stage: Stage, console: Console) -> None:
    stage.vendor("ses")
    (email_id,) = stage.send()
    assert console.data("explain", str(to_uuid(email_id)))["id"] == email_id


def test_an_unknown_id_is_said_to_be_unknown(stage: Stage, console: Console) -> None:
    answer = console("explain", NOWHERE)
    assert (answer.code, answer.out) == (1, "")
    place = f"{stage.config.mongodb.database}.{stage.config.mongodb.collection}"
    assert f"{NOWHERE}: there is no such e-mail in {place}. It was pruned" in answer.err


def test_the_page_is_as_wide_as_the_terminal(
    stage: Stage, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.vendor("ses")
    stage.vendor("mailgun")
    at = datetime.now(UTC) + timedelta(hours=3)
    (email_id,) = stage.send(send_at=at, expires_at=at + timedelta(days=1), priority="high")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for width in (80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = console("explain", email_id).out.splitlines()
        assert max(map(len, lines)) <= width
    assert "It is queued, and due in 2 h." in " ".join(lines)


def test_to_explain_writes_nothing(stage: Stage, console: Console) -> None:
    stage.vendor("ses")
    (email_id,) = stage.send()
    before = dict(everything(stage))
    console("explain", email_id)
    assert dict(everything(stage)) == before


def everything(stage: Stage) -> Iterator[tuple[str, list[Any]]]:
    """All documents of all collections."""
    database = stage.emails.database
    for name in sorted(database.list_collection_names()):
        yield name, list(database[name].find())


def test_nothing_private_is_told(stage: Stage, console: Console) -> None:
    words = b'{"errors": [{"message": "no reader1@example.org here", "field": null}]}'
    stage.vendor("ses", Reply(400, body=words))
    email: EmailDict = {**letter(1), "subject": "Secret"}
    email_id = stage.producer.send(email, idempotency_key="key-of-reader1@example.org")
    drain(stage)
    for arguments in ((), ("--json",)):
        output = console("explain", email_id, *arguments).out
        assert output
        assert not re.search("reader1|Secret|Hello|ann@example|key-of|errors", output)
    assert "Its words: " in console("explain", email_id, "--content").out


def test_a_damaged_email_is_explained(stage: Stage, console: Console) -> None:
    stage.vendor("ses")
    (email_id,) = stage.send()
    stage.emails.update_one({"_id": ObjectId(email_id)}, {"$set": {"round": 7}})
    answer = console("explain", email_id)
    assert answer.code == 0
    assert "mailqueue audit" in answer.out
