"""What an operator is told at night: each situation made for real, and what doctor says of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from mailqueue import cli
from tests.faults.conftest import consuming
from tests.replica_set import find_faketime
from tests.stage import BAD_REQUEST, NO_ENTRY, Stage
from tests.vendor_servers import reset
from tests.waiting import wait_until

Document = dict[str, Any]
# Its level and text by its slug
Findings = dict[str, tuple[str, str]]
Doctor = Callable[..., Findings]


def ago(**span: float) -> datetime:
    return datetime.now(UTC) - timedelta(**span)


@pytest.fixture
def file(stage: Stage, tmp_path: Path) -> Path:
    """The configuration of ``doctor``, which another fixture writes."""
    return tmp_path / "config.json"


@pytest.fixture
def doctor(stage: Stage, file: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Ask the doctor, as somebody who sits beside the consumers; what is not well."""

    def ask(**changes: Any) -> Findings:
        write(file, stage, **changes)
        capsys.readouterr()
        code = cli.main(["--config", str(file), "doctor", "--json"])
        return amiss(code, capsys.readouterr().out)

    return ask


def write(file: Path, stage: Stage, **changes: Any) -> None:
    file.write_text(json.dumps({**stage.settings, **changes}))
    file.chmod(0o600)


def amiss(code: int, out: str) -> Findings:
    """Findings but those that are well; each says what to do, and where more of it stands."""
    findings = [f for f in json.loads(out)["findings"] if f["level"] != "OK"]
    assert code == any(finding["level"] == "FAIL" for finding in findings)
    for finding in findings:
        assert finding["todo"]
        assert finding["link"] == f"docs/operating.md#{finding['slug']}"
    return {f["slug"]: (f["level"], f["text"]) for f in reversed(findings)}  # the worst counts


def test_where_all_is_well_nothing_is_said(stage: Stage, doctor: Doctor) -> None:
    stage.vendor("first")
    with consuming(stage):
        stage.send(3)
        stage.until(sent=3)
        assert doctor() == {}


# --- who consumes


def test_a_consumer_that_was_killed_is_missed_once_something_is_due(
    stage: Stage, doctor: Doctor, file: Path
) -> None:
    stage.vendor("first")
    write(file, stage)
    command = [sys.executable, "-m", "mailqueue.consumer", "--config", str(file)]
    heartbeats = stage.emails.database[f"{stage.emails.name}.stats"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as consumer:
        wait_until(lambda: heartbeats.count_documents({"in_flight": {"$exists": True}}) == 1)
        consumer.kill()
    stage.send(2)
    assert "no-consumer" not in doctor(), "it was alive a moment ago"
    heartbeats.update_many({}, {"$set": {"at": ago(seconds=61)}})
    level, text = doctor()["no-consumer"]
    assert level == "FAIL"
    assert text.startswith(
        "none gave a sign of life for 60 s, and e-mails are due, the oldest for "
    )


def test_an_operator_without_the_variable_is_told_of_production_all_the_same(
    stage: Stage, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.vendor("first")
    stage.send()
    monkeypatch.delenv("MAILQUEUE_ENV")
    findings = doctor()
    level, text = findings["no-consumer"]
    assert (level, text[:14]) == ("FAIL", "in production:")
    assert findings["simulation"][0] == "WARN"


def test_what_concerns_both_modes_is_said_once(
    stage: Stage, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.vendor("first")
    email_id, _ = stage.send(2)
    monkeypatch.delenv("MAILQUEUE_ENV")
    stage.emails.update_one({"_id": ObjectId(email_id)}, {"$set": {"env": "simulated"}})
    write(file, stage)
    assert cli.main(["--config", str(file), "hold", "--tag", "news"]) == 0
    capsys.readouterr()
    assert cli.main(["--config", str(file), "doctor", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    (text,) = [finding["text"] for finding in findings if finding["slug"] == "held"]
    assert text.startswith("tag news has been held")
    texts = [finding["text"] for finding in findings if finding["slug"] == "no-consumer"]
    assert len(texts) == 2, "each mode needs a consumer of its own"


def test_a_consumer_that_differs_from_this_configuration_is_named(
    stage: Stage, doctor: Doctor
) -> None:
    stage.vendor("first")
    with consuming(stage):
        stage.vendor("second")  # after it has read its configuration
        level, text = doctor()["consumer-differs"]
        assert level == "WARN"
        assert text.endswith("send through first; this configuration has first, second")
        heartbeats = stage.emails.database[f"{stage.emails.name}.stats"]
        heartbeats.update_many({}, {"$set": {"version": "0.0.9"}})
        entries = stage.settings["vendors"][:1]
        assert doctor(vendors=entries)["consumer-differs"][1].startswith("version 0.0.9 runs on ")


# --- e-mails


@pytest.mark.parametrize("priority, seconds", [("high", 61), ("normal", 301)])
def test_what_has_been_due_for_long_is_told(
    priority: str, seconds: int, stage: Stage, doctor: Doctor
) -> None:
    stage.settings["consumer"] = {"concurrency": 1}
    vendor = stage.vendor("first")
    vendor.hold()
    with consuming(stage):
        (first,) = stage.send(priority=priority)
        wait_until(lambda: vendor.calls == [first], what="the vendor has it")
        stage.send(20, priority=priority)
        assert doctor() == {}
        last = stage.emails.find_one({"status": "queued"}, sort=[("_id", -1)])
        stage.emails.update_one(last or {}, {"$set": {"due_at": ago(seconds=seconds)}})
        level, text = doctor()["oldest-due"]
        vendor.let_go()
    assert level == "FAIL"
    assert text.startswith(f"due for too long, the oldest of class {priority} for ")


def test_that_many_failed_is_told(stage: Stage, doctor: Doctor) -> None:
    vendor = stage.vendor("first")
    vendor.replies = [BAD_REQUEST]
    with consuming(stage):
        stage.send(40)
        stage.until(sent=39, failed=1)
        text = "1 failed and 39 were sent within a day"
        assert doctor() == {"many-failed": ("FAIL", text)}
        stage.emails.update_one({"status": "failed"}, {"$set": {"updated_at": ago(days=1.1)}})
        assert doctor() == {}


def test_an_uncertain_email_waits_for_a_person(stage: Stage, doctor: Doctor) -> None:
    stage.settings["delivery"] = {"on_unknown": "park"}
    stage.vendor("first").behaviour = reset
    with consuming(stage):
        stage.send()
        stage.until(uncertain=1)
        level, text = doctor()["uncertain"]
    assert level == "FAIL"
    assert text.startswith("1 uncertain, the oldest for ")


# --- vendors


def test_a_vendor_that_refuses_us_is_told_and_after_an_hour_it_is_a_failure(
    stage: Stage, doctor: Doctor
) -> None:
    stage.vendor("first", NO_ENTRY)
    stage.vendor("second")
    with consuming(stage):
        stage.send(10)
        stage.until(sent=10)
        level, text = doctor()["vendor-unavailable"]
        assert level == "WARN"
        assert re.match(r"first unavailable for \d+s: misconfigured 401", text)
        stage.edit_health("first", since=ago(hours=1.1))
        text = "first unavailable for 1h: misconfigured 401"
        assert doctor() == {"vendor-unavailable": ("FAIL", text)}


def test_that_no_vendor_is_left_is_told(stage: Stage, doctor: Doctor) -> None:
    for name in ("first", "second"):
        stage.vendor(name, NO_ENTRY)
    with consuming(stage):
        stage.send(4)
        wait_until(lambda: "all-vendors-unavailable" in doctor(), what="both are unavailable")
        level, text = doctor()["all-vendors-unavailable"]
    assert level == "FAIL"
    assert text == "no vendor to send through: first is unavailable, second is unavailable"


def test_a_budget_that_comes_to_its_end_is_told(stage: Stage, doctor: Doctor) -> None:
    stage.vendor("first")
    stage.settings["vendors"][0]["rate"] = {"per_day": 10}
    stage.vendor("second")
    with consuming(stage):
        stage.send(8, vendors=["first"])
        stage.until(sent=8)
        level, text = doctor()["budget"]
    assert level == "WARN"
    assert re.match(r"first has used (8|9|10) of its 10 per day; a new day begins in ", text)


# --- what an operator did


def test_what_is_held_or_drained_is_told_and_that_it_may_be_forgotten(
    stage: Stage, doctor: Doctor, file: Path
) -> None:
    for name in ("first", "second"):
        stage.vendor(name)
    write(file, stage)
    with consuming(stage):
        assert cli.main(["--config", str(file), "vendors", "drain", "first"]) == 0
        level, text = doctor()["held"]
        assert level == "WARN"
        assert re.match(r"vendor first has been drained for \d+s, by ", text)
        controls = stage.emails.database[f"{stage.emails.name}.control"]
        controls.update_many({}, {"$set": {"at": ago(days=2)}})
        assert doctor()["held"][1].endswith("; forgotten?")
        assert cli.main(["--config", str(file), "hold", "--all"]) == 0
        level, text = doctor()["held"]
        assert level == "FAIL"
        assert re.fullmatch(r"everything has been held for \d+s, by \S+: no e-mail is sent", text)


# --- around them


def test_a_clock_that_is_wrong_is_told(stage: Stage, file: Path) -> None:
    """A child process, whose clock is a minute ahead of MongoDB's."""
    library = find_faketime()
    if library is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("libfaketime is not there")
    stage.vendor("first")
    write(file, stage)
    command = [sys.executable, "-m", "mailqueue", "--config", str(file), "doctor", "--json"]
    clock = {"LD_PRELOAD": str(library), "FAKETIME": "+60s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with consuming(stage):
        child = subprocess.run(
            command, env=os.environ | clock, capture_output=True, text=True, timeout=30, check=False
        )
    findings = amiss(child.returncode, child.stdout)
    text = "MongoDB's clock is 60 s behind this host's"
    assert findings == {"clocks": ("FAIL", text)}


def test_two_packages_of_the_same_import_name_are_told(
    stage: Stage, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPI's django-mail-queue is one; here as pip would have left it."""
    installed = tmp_path / "site-packages/django_mail_queue-3.2.5.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: django-mail-queue\n")
    (installed / "RECORD").write_text("mailqueue/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(installed.parent))
    stage.vendor("first")
    with consuming(stage):
        text = "django-mail-queue and mailqueue both install the import name mailqueue"
        assert doctor() == {"two-packages": ("FAIL", text)}
