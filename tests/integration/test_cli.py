"""What an operator sees and does on the command line, at night, against real servers."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue import cli
from mailqueue.config import Config, Rate
from mailqueue.consumer import Consumer
from mailqueue.devserver import Beanstalkd, Mongod
from mailqueue.events import EventStore
from mailqueue.lifecycle.outcomes import Suspension
from mailqueue.message import Attachment
from mailqueue.producer import Producer
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.pace import Pace
from mailqueue.routing.reservations import Reservations
from mailqueue.routing.rotation import Permit
from mailqueue.store.ids import to_uuid
from mailqueue.store.interventions import Verb
from mailqueue.store.store import Store
from mailqueue.vendors.events.source import EventType, VendorEvent
from tests.console import Console, Said
from tests.integration.bench import emptied, ready
from tests.servers import BreakableBeanstalkd
from tests.stage import BAD_REQUEST, TAKEN, Stage, letter

Document = dict[str, Any]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NOWHERE = "65f1c0ffee65f1c0ffee65f1"  # part of a test's name: the same in every process
VERBS = ("list", "vendors", "stats", "doctor", "sweep", "audit")


@dataclass
class Shelf:
    """E-mails in whatever state a test needs, as the product would have left them."""

    producer: Producer
    emails: Collection[Document]

    def put(self, status: str = "queued", *outcomes: str, **fields: Any) -> str:
        email_id = self.producer.send({**letter(1), "bcc": "secret@example.org"})
        now = datetime.now(UTC)
        ends = [None if outcome == "open" else now for outcome in outcomes]
        lines = [
            {
                "n": n,
                "token": n,
                "vendor": "first",
                "key": None,
                "probe": False,
                "started_at": now,
                "ended_at": end,
                "outcome": outcome if end else None,
            }
            for n, (outcome, end) in enumerate(zip(outcomes, ends, strict=True), 1)
        ]
        made = {"status": status, "attempts": lines, "lease.token": len(lines), **fields}
        self.emails.update_one({"_id": ObjectId(email_id)}, {"$set": made})
        return email_id

    def failed(self, **fields: Any) -> str:
        return self.put("failed", "rejected", **{"reason": "rejected", "counted": 1, **fields})

    def uncertain(self, **fields: Any) -> str:
        return self.put("uncertain", "unknown", **{"reason": "unknown", "unknowns": 1, **fields})

    def leased(self, until: datetime) -> str:
        return self.put(
            "sending",
            "open",
            **{"lease.owner": "gone", "lease.nonce": ObjectId(), "lease.until": until},
        )

    def document(self, email_id: str) -> Document:
        found = self.emails.find_one({"_id": ObjectId(email_id)})
        assert found is not None
        return found

    def status(self, email_id: str) -> str:
        return str(self.document(email_id)["status"])


@pytest.fixture
def shelf(producer: Producer, emails: Collection[Document]) -> Shelf:
    return Shelf(producer, emails)


class Terminal(io.StringIO):
    """A person who types."""

    def isatty(self) -> bool:
        return True


# --- the command itself


def test_it_runs_as_a_module_and_as_a_script(console: Console, shelf: Shelf) -> None:
    shelf.put()
    command = [sys.executable, "-m", "mailqueue", "list", "--json"]
    environ = {**os.environ, "MAILQUEUE_CONFIG": str(console.file)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["emails"]) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_the_general_options_stand_before_or_after_the_verb(
    console: Console, producer: Producer, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cli.main(["--json", "--config", str(console.file), verb])
    first = json.loads(capsys.readouterr().out)
    after = cli.main([verb, "--config", str(console.file), "--json"])
    second = json.loads(capsys.readouterr().out)
    assert (before, after) == (0, 0)
    assert first.keys() == second.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_a_person_gets_an_aligned_table(console: Console, producer: Producer, verb: str) -> None:
    said = console(verb)
    assert (said.code, said.err) == (0, "")
    assert all(line == line.rstrip() for line in said.out.splitlines())


# sendmail has a help and exit codes of its own.
@pytest.mark.parametrize("verb", ["", *(verb for verb in cli.VERBS if verb != "sendmail")])
def test_the_help_of_every_verb_shows_an_example_and_the_exit_codes(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        cli.main([*verb.split(), "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert re.search(r"^example:\n  .*mailqueue ", shown, re.MULTILINE)
    assert re.search(r"^exit codes:\n  0  .+\n(  1  .+\n)?  2  .+\n  3  .+\n$", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 80


WRONG: Sequence[Sequence[str]] = (
    (),
    ("deliver",),
    ("list", "--status", "delivered"),
    ("list", "--older-than", "yesterday"),
    ("list", "--older-than", "999999999w"),
    ("list", "--limit", "0"),
    ("show", "4711"),
    ("retry",),
    ("retry", NOWHERE, "--status", "failed"),
    ("retry", "--status", "sent"),
    ("vendors", "disable", "first"),
    ("vendors", "enable"),
    ("cancel", "--status", "queued", "--tag", ""),
    ("hold", "--vendor", ""),
)


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage_is_one_line_and_code_2(console: Console, arguments: Sequence[str]) -> None:
    said = console(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("mailqueue: ")
    assert said.err.count("\n") == 1


def test_each_problem_of_the_configuration_is_a_line_and_code_2(
    console: Console, config_mapping: Document
) -> None:
    console.configure({**config_mapping, "tubes": 1, "retry": {"base": "soon"}})
    said = console("list")
    assert said.code == 2
    assert sorted(line.split(":")[1] for line in said.err.splitlines()) == [" retry.base", " tubes"]


def test_a_server_that_is_not_reached_is_one_line_and_code_3(
    console: Console, config_mapping: Document
) -> None:
    away = {"uri": "mongodb://127.0.0.1:9/", "timeout": 0.2}
    console.configure({**config_mapping, "mongodb": {**config_mapping["mongodb"], **away}})
    said = console("list")
    assert said.code == 3
    assert said.err.startswith("mailqueue: MongoDB: ServerSelectionTimeoutError")
    assert said.err.count("\n") == 1


TROUBLE = [
    (KeyboardInterrupt(), 130, ""),
    (BrokenPipeError(), 0, ""),
    (KeyError("bob@example.org"), 1, "mailqueue: KeyError at test_cli.py"),
]


@pytest.mark.parametrize("trouble, code, said", TROUBLE)
def test_there_is_no_traceback_whatever_happens(
    console: Console, monkeypatch: pytest.MonkeyPatch, trouble: Exception, code: int, said: str
) -> None:
    def broken(_: object) -> Any:
        raise trouble

    monkeypatch.setattr(os, "dup2", lambda *_: None)  # standard output is the test's own
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1, raising=False)
    monkeypatch.setattr(cli, "VERBS", {"stats": broken})
    answered = console("stats")
    assert answered.code == code
    assert answered.err.startswith(said)
    assert "example.org" not in answered.err


# --- looking


def test_an_id_may_be_written_as_a_uuid(console: Console, shelf: Shelf) -> None:
    email_id = shelf.put()
    assert console.data("show", str(to_uuid(email_id)))["id"] == email_id


def test_list_filters_by_status_reason_vendor_and_age(console: Console, shelf: Shelf) -> None:
    failed, old = shelf.failed(), shelf.uncertain(created_at=LONG_AGO)
    queued = shelf.put()

    def listed(*arguments: str) -> set[str]:
        return {row["id"] for row in console.data("list", *arguments)["emails"]}

    assert listed() == {failed, old, queued}
    assert listed("--status", "failed") == {failed}
    assert listed("--reason", "unknown") == {old}
    assert listed("--vendor", "first") == {failed, old}
    assert listed("--older-than", "2d", "--status", "uncertain") == {old}
    assert listed("--vendor", "nobody") == set()
    assert console("list", "--vendor", "nobody").out == "no e-mail matches\n"


def test_list_says_that_there_are_more(console: Console, shelf: Shelf) -> None:
    first, _ = shelf.put(due_at=datetime.now(UTC) + timedelta(hours=2)), shelf.put()
    said = console("list", "--limit", "1")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()] == ["ID", first]
    assert "1h" in said.out
    assert said.err == "mailqueue: only the oldest 1 are shown; see more with --limit N\n"
    assert console.data("list", "--limit", "1")["more"] is True


def test_the_newest_are_the_last_to_be_stored_or_to_end(console: Console, shelf: Shelf) -> None:
    now = datetime.now(UTC)
    ended = [shelf.failed(updated_at=now - timedelta(hours=hours)) for hours in (1, 0, 2)]
    queued = shelf.put()

    def listed(*options: str) -> list[str]:
        return [each["id"] for each in console.data("list", "--newest", *options)["emails"]]

    assert listed() == [queued, *reversed(ended)]
    assert listed("--status", "failed") == [ended[1], ended[0], ended[2]]
    assert listed("--status", "failed", "--limit", "1") == [ended[1]]
    assert listed("--status", "failed", "--tag", "no") == []
    for damage in ({"$unset": {"env": ""}}, {"$set": {"env": 5}}):  # such an e-mail is a failure
        shelf.emails.update_one({"_id": ObjectId(ended[0])}, damage)
        assert listed("--status", "failed") == [ended[1], ended[0], ended[2]]
    assert "only the newest 1 are shown" in console("list", "--newest", "--limit", "1").err


def test_default_output_holds_nothing_about_anybody(console: Console, shelf: Shelf) -> None:
    email_id = shelf.uncertain(
        pending=["reader1@example.org"], refused=["r@example.org"], idempotency_key="bob@x.org"
    )
    line: dict[str, Any] = {"attempts.0.refused": ["r@example.org"], "attempts.0.pending": []}
    line["attempts.0.detail"] = "Hello, said the vendor"
    shelf.emails.update_one({"_id": ObjectId(email_id)}, {"$set": line})
    answers = [console(*arguments) for arguments in (("list",), ("show", email_id), ("audit",))]
    answers += [console("show", email_id, "--json"), console("retry", email_id, "--dry-run")]
    for said in answers:
        for secret in ("reader1", "r@", "bob", "Number 1", "Hello", "secret@"):
            assert secret not in said.out + said.err
    shown = console.data("show", email_id)
    assert shown["pending_recipients"] == 1
    assert shown["attempts"][0]["refused_recipients"] == 1
    assert shown["message_id"].endswith("@example.com>")
    shown = console.data("show", email_id, "--content")
    assert shown["attempts"][0]["detail"] == "Hello, said the vendor"
    assert "Hello, said the vendor" in console("show", email_id, "--content").out


def test_show_tells_who_holds_the_lease(console: Console, shelf: Shelf) -> None:
    email_id = shelf.leased(LONG_AGO)
    assert ["lease.owner", "gone"] in map(str.split, console("show", email_id).out.splitlines())
    lease = console.data("show", email_id)["lease"]
    assert (lease["owner"], lease["until"]) == ("gone", "2020-01-01T00:00:00+00:00")
    assert ObjectId.is_valid(lease["nonce"])


def test_show_with_content_shows_it_without_letting_it_play_tricks(
    console: Console, producer: Producer
) -> None:
    attachment = Attachment("a.txt", b"abc", "text/plain")
    text = "one\n\x1b[2Jtwo"
    email_id = producer.send({**letter(7), "text": text, "attachments": [attachment]})
    said = console("show", email_id, "--content")
    assert "reader7@example.org" in said.out
    assert "Number 7" in said.out
    assert "one\n?[2Jtwo\n" in said.out
    assert "a.txt (text/plain, 3 bytes)" in said.out
    shown = console.data("show", email_id, "--content")
    assert shown["email"]["text"] == text
    assert shown["email"]["attachments"][0]["content"] == "YWJj"


def test_show_of_what_is_not_there_is_code_1(console: Console, producer: Producer) -> None:
    said = console("show", NOWHERE)
    assert said == Said(1, "", f"mailqueue: {NOWHERE}: there is no such e-mail\n")


# --- changing


def test_a_failed_email_is_retried_from_the_start_and_sent(stage: Stage, console: Console) -> None:
    vendor = stage.vendor("only", BAD_REQUEST)
    console.configure(stage.settings)
    [email_id] = stage.send()
    assert Consumer(stage.config, burst=True).run() == 0
    assert stage.status(email_id).reason == "refused_by_all"

    vendor.reply = TAKEN
    said = console("retry", email_id)
    assert (said.code, said.err) == (0, "")
    kept = stage.document(email_id)
    assert (kept["status"], kept["reason"], kept["counted"]) == ("queued", None, 0)
    assert kept["round"] == {"n": 0, "tried": [], "refused": []}
    assert depth(stage.config.beanstalkd)["ready"] == 1
    assert Consumer(stage.config, burst=True).run() == 0
    assert stage.outcomes(email_id) == [("only", "unsuitable"), ("only", "accepted")]
    assert console("audit").code == 0
    assert "retry" in console("show", email_id).out


def test_a_retry_of_200_bulk_emails_does_not_delay_a_new_urgent_one(
    stage: Stage, console: Console
) -> None:
    vendor = stage.vendor("only")
    console.configure(stage.settings)
    bulk = stage.send(200, priority="bulk")
    one = stage.document(Shelf(stage.producer, stage.emails).failed())
    ended = {name: one[name] for name in ("status", "reason", "counted", "attempts", "lease")}
    stage.emails.update_many({"_id": {"$ne": one["_id"]}}, {"$set": ended})
    stage.emails.delete_one({"_id": one["_id"]})
    emptied(stage.config)

    assert console("retry", "--status", "failed", "--limit", "200", "--yes").code == 0
    [urgent] = stage.send(priority="high")
    [usual] = stage.send()
    order = [job.body for job in ready(stage.config)]
    assert order[:2] == [urgent, usual]
    assert sorted(order[2:]) == sorted(bulk)
    assert Consumer(stage.config, burst=True, concurrency=1).run() == 0
    assert vendor.calls.index(urgent) == 0


def test_a_retried_uncertain_email_is_never_called_failed(stage: Stage, console: Console) -> None:
    """A copy may have left before the retry; one retry is one more copy at most."""
    vendor = stage.vendor("only", BAD_REQUEST)
    console.configure(stage.settings)
    shelf = Shelf(stage.producer, stage.emails)
    email_id = shelf.uncertain()
    assert console("retry", email_id).code == 0
    assert Consumer(stage.config, burst=True).run() == 0
    kept = stage.document(email_id)
    assert (kept["status"], kept["reason"], kept["unknowns"]) == ("uncertain", "refused_by_all", 1)
    assert console("audit").code == 0
    assert len(vendor.calls) == 1


def test_a_retry_sends_nothing_to_those_who_have_got_it(shelf: Shelf, console: Console) -> None:
    parts = shelf.uncertain(pending=["b@example.org"], refused=["c@example.org"])
    whole = shelf.failed(refused=["c@example.org"])
    assert console("retry", parts, whole).code == 0
    assert shelf.document(parts)["pending"] == ["b@example.org"]
    assert shelf.document(parts)["refused"] == ["c@example.org"]
    assert shelf.document(whole)["refused"] is None


def test_what_cannot_be_retried_is_named_with_the_reason(shelf: Shelf, console: Console) -> None:
    failed, expired = shelf.failed(), shelf.failed(reason="expired", expires_at=LONG_AGO)
    queued = shelf.put()
    data = console.data("retry", failed, expired, queued, NOWHERE)
    assert data["changed"] == [failed]
    assert data["unchanged"] == {
        expired: "its expires_at has passed",
        queued: "is queued, but retry needs failed or uncertain",
        NOWHERE: "there is no such e-mail",
    }
    said = console("retry", queued)
    assert (said.code, said.out) == (1, "")
    assert said.err == f"mailqueue: {queued}: is queued, but retry needs failed or uncertain\n"


def test_a_retry_without_beanstalkd_is_left_to_the_sweeper(
    console: Console, config_mapping: Document, shelf: Shelf
) -> None:
    away = {**config_mapping["beanstalkd"], "servers": ["127.0.0.1:9"]}
    console.configure({**config_mapping, "beanstalkd": away})
    said = console("retry", shelf.failed())
    assert said.code == 0
    assert "sweeper announces the e-mails later" in said.err


def test_mark_sent_notes_what_a_person_knows(shelf: Shelf, console: Console) -> None:
    email_id = shelf.uncertain(pending=["b@example.org"])
    assert console("mark-sent", email_id).code == 0
    kept = shelf.document(email_id)
    assert (kept["status"], kept["reason"], kept["pending"]) == ("sent", "marked_sent", None)
    [entry] = kept["interventions"]
    assert (entry["verb"], entry["was"], entry["reason"]) == ("mark-sent", "uncertain", "unknown")
    assert console("audit").code == 0
    assert console("mark-sent", email_id).code == 1


def test_cancel_never_calls_cancelled_what_may_have_left(shelf: Shelf, console: Console) -> None:
    new, unknown = shelf.put(), shelf.put("queued", "unknown", unknowns=1)
    pin = {"vendor": "first", "key": "k", "until": datetime.now(UTC), "repeats": 0}
    pinned = shelf.put("queued", "unknown", pin=pin)
    parts = shelf.put("queued", "accepted", pending=["b@example.org"])
    shelf.emails.update_one({"_id": ObjectId(pinned)}, {"$set": {"attempts.0.key": "k"}})

    assert console("cancel", new).code == 0
    data = console.data("cancel", unknown, pinned, parts)
    assert data["uncertain"] == [unknown, pinned]
    assert data["unchanged"][parts].startswith("some recipients have received it already")
    assert list(data["unchanged"]) == [parts]
    assert [shelf.status(i) for i in (new, unknown, pinned, parts)] == [
        "cancelled",
        "uncertain",
        "uncertain",
        "queued",
    ]
    assert shelf.document(pinned)["unknowns"] == 1
    assert console("audit").code == 0


def test_an_application_that_cancels_leaves_a_legal_state(shelf: Shelf, console: Console) -> None:
    pin = {"vendor": "first", "key": "k", "until": datetime.now(UTC), "repeats": 0}
    pinned = shelf.put("queued", "unknown", pin=pin)
    shelf.emails.update_one({"_id": ObjectId(pinned)}, {"$set": {"attempts.0.key": "k"}})
    assert shelf.producer.cancel(pinned) is False
    assert shelf.producer.cancel(shelf.put()) is True
    assert console("audit").code == 0


def test_a_filter_that_changes_several_emails_needs_a_yes(
    shelf: Shelf, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = {shelf.failed(), shelf.failed()}
    said = console("retry", "--status", "failed")
    assert said.code == 2
    assert "2 e-mails: add --yes" in said.err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    said = console("retry", "--status", "failed")
    assert (said.code, said.err) == (
        1,
        "retry 2 e-mails? [y/N] mailqueue: nothing was changed\n",
    )
    assert {shelf.status(i) for i in several} == {"failed"}
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    assert set(console.data("retry", "--status", "failed")["changed"]) == several
    others = {shelf.failed(), shelf.failed()}
    assert set(console.data("retry", "--status", "failed", "--yes")["changed"]) == others


def test_a_dry_run_changes_nothing(shelf: Shelf, console: Console) -> None:
    several = [shelf.failed(), shelf.failed(), shelf.uncertain()]
    said = console("retry", "--reason", "rejected", "--dry-run")
    assert said.code == 0
    assert said.out.startswith("retry: 2 e-mails would be changed\n")
    assert [shelf.status(i) for i in several] == ["failed", "failed", "uncertain"]
    assert depth(shelf.producer.config.beanstalkd)["ready"] == 3


def test_a_limit_takes_the_oldest_first(shelf: Shelf, console: Console) -> None:
    first, second = shelf.failed(), shelf.failed()
    assert console.data("retry", "--older-than", "0s", "--limit", "1")["changed"] == [first]
    assert shelf.status(second) == "failed"
    assert console.data("mark-sent", "--vendor", "first", "--yes")["changed"] == [second]
    said = console("mark-sent", "--vendor", "first", "--yes")
    assert (said.code, said.err) == (
        1,
        "mailqueue: mark-sent: no matching e-mail is failed or uncertain\n",
    )


def test_an_intervention_repeated_after_a_lost_reply_is_one(shelf: Shelf, store: Store) -> None:
    email_id, nonce = ObjectId(shelf.failed()), ObjectId()
    for _ in range(2):
        assert store.intervene([email_id], Verb.RETRY, nonce) == {email_id}
        shelf.emails.update_one({"_id": email_id}, {"$set": {"status": "failed"}})
    assert len(shelf.document(str(email_id))["interventions"]) == 1


# --- vendors


def test_vendors_tells_why_and_since_when_one_is_unavailable(
    console: Console, store: Store, shelf: Shelf
) -> None:
    board = VendorHealth(store, ["first", "second"])
    board.refresh()
    board.report(Permit("first"), Suspension(seconds=600, reason="unavailable 503"))
    rows = {row["vendor"]: row for row in console.data("vendors")["vendors"]}
    assert rows["second"]["state"] == "available"
    assert (rows["first"]["state"], rows["first"]["reason"]) == ("unavailable", "unavailable 503")
    assert rows["first"]["since"] < rows["first"]["until"]
    assert rows["first"]["probe"].startswith("in ")
    assert "unavailable  unavailable 503" in console("vendors").out
    assert "first unavailable for" in console("doctor").out

    assert console("vendors", "enable", "first", "--dry-run").out == "first would be available\n"
    assert console("vendors", "enable", "first").out == "first is available now\n"
    already = Said(1, "", "mailqueue: first is available already\n")
    assert console("vendors", "enable", "first") == already
    said = console("vendors", "enable", "nobody")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("mailqueue: nobody: no such vendor is configured (configured: first")


def test_vendors_shows_what_is_used_of_a_budget(
    console: Console, config_mapping: Document, store: Store
) -> None:
    rate = {"per_day": 1000, "per_minute": 6}
    first, second = config_mapping["vendors"]
    console.configure(config_mapping | {"vendors": [first | {"rate": rate}, second]})
    rows = {row["vendor"]: row for row in console.data("vendors")["vendors"]}
    assert rows["second"]["rate"] is None
    assert rows["first"]["rate"]["budgets"]["per_day"]["used"] == 0

    pace = Pace.of(Rate(per_day=1000, per_minute=6))
    reservations = Reservations(store, store.collection(".vendors"))
    now = store.now().timestamp()
    reservations.reserve("first", pace, 1, 1, 0.0, now, debt=False)
    [row, _] = console.data("vendors")["vendors"]
    budget = row["rate"]["budgets"]["per_day"]
    assert (budget["used"], budget["limit"]) == (1, 1000)
    assert 0 < row["rate"]["wait"] <= 10
    used = "1 of 1,000 per_day, ends in "
    assert used in console("vendors").out
    assert re.search(f"budget of first +{used}", console("stats").out)
    assert console.data("stats")["budgets"] == {"first": row["rate"]["budgets"]}


def test_vendors_shows_a_probe(console: Console, store: Store) -> None:
    board = VendorHealth(store, ["first", "second"])
    board.refresh()
    for name in ("first", "second"):
        board.report(Permit(name), Suspension(seconds=600, reason="unavailable"))
    long_ago = {"unavailable_until": LONG_AGO, "probe_at": LONG_AGO}
    store.collection(".vendors").update_many({}, {"$set": long_ago})
    assert board.win_probe("first", 60) is not None
    probes = {row["vendor"]: row["probe"] for row in console.data("vendors")["vendors"]}
    assert probes == {"first": "under way", "second": "with the next e-mail"}
    assert console("doctor").code == 1, "no vendor is available"


def test_without_vendors_there_is_nothing_to_show(
    console: Console, config_mapping: Document
) -> None:
    console.configure({**config_mapping, "vendors": []})
    assert console("vendors").out == "no vendors configured\n"
    assert "none configured" in console("doctor").out
    assert console("sweep").code == 2


# --- stats


def test_stats_counts_and_names_the_oldest_due(console: Console, shelf: Shelf) -> None:
    overdue = shelf.put(due_at=LONG_AGO)
    shelf.put()
    shelf.uncertain()
    data = console.data("stats")
    rows = {row["status"]: row for row in data["emails"]}
    assert rows["queued"] == {"status": "queued", "emails": 2, "simulated": 2, "unknowns": 0}
    assert rows["uncertain"]["unknowns"] == 1
    assert data["oldest_due"]["id"] == overdue
    assert data["tube"] == {"ready": 3, "reserved": 0, "delayed": 0, "buried": 0}
    assert f"{overdue}, for" in console("stats").out


def test_stats_without_beanstalkd_is_code_3(console: Console, config_mapping: Document) -> None:
    away = {**config_mapping["beanstalkd"], "servers": ["127.0.0.1:9"]}
    console.configure({**config_mapping, "beanstalkd": away})
    said = console("stats")
    assert said.code == 3
    assert "not reached" in said.out
    assert said.err.startswith("mailqueue: beanstalkd: ")


# --- the doctor


def findings(console: Console) -> set[tuple[str, str, str]]:
    found = console.data("doctor")["findings"]
    assert all(finding["todo"] for finding in found if finding["level"] != "OK")
    return {(f["level"], f["check"], f["text"]) for f in found}


def test_the_doctor_fails_while_emails_wait_for_a_person(console: Console, shelf: Shelf) -> None:
    shelf.uncertain()
    said = console("doctor")
    assert said.code == 1
    assert "FAIL  e-mails" in said.out
    assert "ask the vendors" in said.out


def test_the_doctor_names_the_queue_that_is_away_before_what_waits_for_a_person(
    console: Console, config_mapping: Document, shelf: Shelf
) -> None:
    shelf.uncertain()
    away = {"servers": ["127.0.0.1:9"], "tube": "mailqueue"}
    console.configure({**config_mapping, "beanstalkd": away})
    slugs = [finding["slug"] for finding in console.data("doctor")["findings"]]
    assert slugs.index("queue-unavailable") < slugs.index("uncertain")


def test_the_doctor_misses_indexes_and_warns_of_the_simulation(console: Console) -> None:
    found = findings(console)
    (text,) = (said for level, what, said in found if (level, what) == ("FAIL", "indexes"))
    assert text.startswith("missing: (")
    assert {"(created_at, _id)", "(status, env, due_at, _id)"} <= set(
        re.findall(r"\([^)]+\)", text)
    )
    assert ("WARN", "mode", "simulation: nothing leaves") in found


def test_the_doctor_misses_secrets(
    console: Console, config_mapping: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"name": "s", "type": "sendgrid", "api_key": "${NO_SUCH_KEY}"}
    console.configure({**config_mapping, "vendors": [entry]})
    problem = "vendors[0].api_key: environment variable NO_SUCH_KEY is not set"
    assert ("WARN", "secrets", problem) in findings(console)
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    assert ("FAIL", "secrets", problem) in findings(console)
    said = console("sweep")
    assert (said.code, said.err) == (2, f"mailqueue: {problem}\n")


def test_the_doctor_warns_of_secrets_that_all_can_read(
    console: Console, config_mapping: Document
) -> None:
    entry = {"name": "s", "type": "sendgrid", "api_key": "SG.secret"}
    console.configure({**config_mapping, "vendors": [entry]})
    console.file.chmod(0o644)
    assert ("WARN", "config", "holds secrets and can be read by all") in findings(console)
    said = console("doctor")
    assert "SG.secret" not in said.out + said.err


def test_the_doctor_sees_emails_of_the_other_kind(
    console: Console, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put()
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    assert ("WARN", "e-mails", "1 e-mail queued in the other mode (simulated)") in findings(console)


class Standalone(Mongod):
    """A server that is no replica set."""

    def _options(self, folder: Path) -> Sequence[str]:
        options = list(super()._options(folder))
        at = options.index("--replSet")
        return [*options[:at], *options[at + 4 :]]

    def _is_ready(self) -> bool:
        from mailqueue.devserver.devserver import _accepts

        return _accepts(self.port)


@pytest.fixture
def weak_servers(mongod: Mongod, beanstalkd: Beanstalkd) -> Iterator[tuple[Mongod, Beanstalkd]]:
    with Standalone() as alone, BreakableBeanstalkd(binlog=False) as forgetful:
        yield alone, forgetful


def test_the_doctor_warns_of_servers_that_promise_less(
    console: Console, config_mapping: Document, weak_servers: tuple[Mongod, Beanstalkd]
) -> None:
    alone, forgetful = weak_servers
    tube = {**config_mapping["beanstalkd"], "servers": [forgetful.address, "127.0.0.1:9"]}
    uri = f"mongodb://{alone.address}/"
    mongodb = {**config_mapping["mongodb"], "uri": uri}
    console.configure({**config_mapping, "beanstalkd": tube, "mongodb": mongodb})
    found = findings(console)
    assert ("WARN", "mongodb", "is a standalone server") in found
    assert ("FAIL", "beanstalkd", f"{forgetful.address}: has no binlog") in found
    assert any(said.startswith("127.0.0.1:9: not reached (") for _, _, said in found)


def test_the_doctor_says_what_to_do_when_mongodb_is_away(
    console: Console, config_mapping: Document
) -> None:
    away = {**config_mapping["mongodb"], "uri": "mongodb://127.0.0.1:9/", "timeout": 0.2}
    console.configure({**config_mapping, "mongodb": away})
    said = console("doctor")
    assert (said.code, said.err) == (1, "")
    assert "FAIL  mongodb" in said.out


# --- the sweeper


def test_sweep_does_one_round_now(console: Console, shelf: Shelf) -> None:
    lost = shelf.leased(LONG_AGO)
    shelf.put(expires_at=LONG_AGO)
    assert console.data("sweep", "--dry-run") == {
        "dry_run": True,
        "rescued": 1,
        "expired": 1,
        "pruned": 0,
        "announced": 0,
    }
    assert shelf.status(lost) == "sending"
    said = console("sweep")
    assert (said.code, said.err) == (0, "")
    assert said.out.split() == ["RESCUED", "EXPIRED", "ANNOUNCED", "PRUNED", "1", "1", "0", "0"]
    assert shelf.status(lost) == "queued"
    assert console("audit").code == 0


def test_sweep_respects_the_lease_of_another(console: Console, store: Store) -> None:
    until = datetime.now(UTC) + timedelta(minutes=1)
    held = {"_id": "sweeper.simulated", "owner": "other", "until": until}
    store.collection(".leases").insert_one(held)
    said = console("sweep")
    text = "skipped: another process holds the sweeper lease"
    assert said == Said(1, "", f"mailqueue: {text}\n")
    assert store.collection(".leases").count_documents({"owner": "other"}) == 1


@pytest.mark.parametrize("arguments", [("sweep",), ("sweep", "--dry-run")])
def test_sweep_without_beanstalkd_is_code_3(
    console: Console, config_mapping: Document, arguments: Sequence[str]
) -> None:
    away = {**config_mapping["beanstalkd"], "servers": ["127.0.0.1:9"]}
    console.configure({**config_mapping, "beanstalkd": away})
    said = console(*arguments)
    assert said.code == 3
    assert said.err == "mailqueue: the queue was not reached: nothing was announced\n"


# --- the audit


def test_a_narrow_terminal_folds_what_is_too_long(
    console: Console, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.leased(LONG_AGO)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    folded = console("audit").out.splitlines()
    assert max(map(len, folded)) <= 60
    monkeypatch.setenv("COLUMNS", "200")
    whole = console("audit").out.splitlines()
    # A second may pass between the two: "expired 217947369 s ago" is one older then.
    texts = {
        re.sub(r"\d+ s ago", "long ago", " ".join(" ".join(x).split())) for x in (folded, whole)
    }
    assert len(texts) == 1
    assert len(folded) > len(whole)


def test_the_audit_is_content_with_what_a_consumer_did(console: Console, shelf: Shelf) -> None:
    sent = [shelf.put() for _ in range(5)]
    assert Consumer(shelf.producer.config, burst=True).run() == 0
    assert {shelf.status(email_id) for email_id in sent} == {"sent"}
    said = console("audit")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[-1].split() == ["total", "5", "0"]


def test_the_audit_names_what_is_illegal(console: Console, shelf: Shelf) -> None:
    lost = shelf.leased(datetime.now(UTC) - timedelta(hours=1))
    odd = shelf.put("delivered")
    data = console.data("audit")
    assert not data["legal"]
    assert {f["id"]: f["status"] for f in data["findings"]} == {lost: "sending", odd: "delivered"}
    said = console("audit")
    assert said.code == 1
    assert "was not rescued" in said.out
    assert "status has an invalid value" in said.out
    shelf.emails.delete_one({"_id": ObjectId(odd)})
    assert console("audit", "--grace", "2h").code == 0


def test_the_audit_says_how_many_more_there_are(
    console: Console, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailqueue.store.audit.LISTED", 1)
    for _ in range(3):
        shelf.put("delivered")
    assert console("audit").err == "mailqueue: 2 more are illegal\n"


def test_show_has_the_vendors_events_and_whom_they_concern_only_with_content(
    console: Console, shelf: Shelf, config: Config, store: Store
) -> None:
    email_id = shelf.put("sent", "accepted")
    told = VendorEvent(
        key="k",
        type=EventType.BOUNCED_HARD,
        email_id=email_id,
        recipient="bob@example.org",
        code="5.1.1",
        detail="no bob@example.org here",
    )
    # Of some vendors it is a sentence in the place of a code.
    sentence = replace(told, key="l", code="bob@example.org is unknown")
    EventStore(config, store).record("first", [told, sentence])
    plain, whole = (console("show", email_id, *more).out for more in ((), ("--content",)))
    assert "bounced_hard" in plain
    assert "5.1.1" in plain
    assert "bob@example.org" not in plain
    assert "no bob@example.org here" in whole
    assert "bob@example.org is unknown" in whole
