"""A configuration that is read again: nothing is lost, doubled or delayed by it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import requests

from mailqueue.service import keys
from tests.process.consumer_process import (
    ConsumerProcess,
    HttpProcess,
    IntakeProcess,
    OwnProcess,
    ResponderProcess,
)
from tests.stage import Stage, letter
from tests.waiting import wait_until


def reload(consumer: OwnProcess, folder: Path, settings: Any, event: str) -> None:
    """Have it read these settings; returns when it says what came of that."""
    before = len(consumer.said(event))
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / "new.json").write_text(text)
    (folder / "new.json").chmod(0o600)
    (folder / "new.json").replace(folder / "config.json")
    consumer.signal(signal.SIGHUP)
    wait_until(lambda: len(consumer.said(event)) > before, what=event)


def connections_to(port: int) -> int:
    """How many established connections this host has to a port of its own."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "consumer"


def test_a_vendor_joins_and_one_leaves_while_e_mails_flow(stage: Stage, folder: Path) -> None:
    first = stage.vendor("first")
    with ConsumerProcess(stage.settings, folder) as consumer:
        stage.send(100)
        second = stage.vendor("second")
        reload(consumer, folder, stage.settings, "config.reloaded")
        stage.send(100)
        stage.until(sent=200)
        assert second.calls
        without_first = {**stage.settings, "vendors": [second.entry]}
        reload(consumer, folder, without_first, "config.reloaded")
        asked = len(first.calls)
        stage.send(100)
        stage.until(sent=300)
        assert len(first.calls) == asked
        assert consumer.heard().count("READY=1") == 3
        assert any(state.startswith("RELOADING=1\nMONOTONIC_USEC=") for state in consumer.heard())
        assert consumer.stop() == 0
    assert set(stage.copies.values()) == {1}
    assert not consumer.said("vendor.raised")


def test_what_a_removed_vendor_is_sending_ends_as_it_would_have(stage: Stage, folder: Path) -> None:
    """Its yes counts; what it has not begun goes to the others."""
    first = stage.vendor("first")
    first.hold()
    with ConsumerProcess(stage.settings, folder, "--concurrency", "4") as consumer:
        stage.send(10)
        wait_until(lambda: first.under_way == 4)
        second = stage.vendor("second")
        without_first = {**stage.settings, "vendors": [second.entry]}
        reload(consumer, folder, without_first, "config.reloaded")
        first.let_go()
        stage.until(sent=10)
        assert len(first.calls) == 4
        assert len(second.calls) == 6
        assert consumer.stop() == 0
    assert set(stage.copies.values()) == {1}


def test_connections_to_a_removed_vendor_are_closed(stage: Stage, folder: Path) -> None:
    first = stage.smtp("first")
    with ConsumerProcess(stage.settings, folder, "--concurrency", "2") as consumer:
        stage.send(4)
        stage.until(sent=4)
        assert connections_to(first.port)
        second = stage.vendor("second")
        without_first = {**stage.settings, "vendors": [second.entry]}
        reload(consumer, folder, without_first, "config.reloaded")
        wait_until(lambda: not connections_to(first.port))
        assert consumer.stop() == 0


def test_an_unusable_configuration_changes_nothing_and_every_problem_is_said(
    stage: Stage, folder: Path
) -> None:
    stage.vendor("first")
    broken = {
        **stage.settings,
        "retry": {"base": -1},
        "vendors": [
            {"name": "x", "type": "no.such.module:Vendor"},
            {"name": "y", "type": "sendgrid", "api_key": "${NOT_SET_ANYWHERE}"},
        ],
    }
    unimportable = {
        **stage.settings,
        "vendors": [{"name": n, "type": f"no.such.module:{n}"} for n in ("X", "Y")],
    }
    with ConsumerProcess(stage.settings, folder) as consumer:
        reload(consumer, folder, broken, "config.rejected")
        wait_until(lambda: len(consumer.said("config.rejected")) == 2)
        reload(consumer, folder, unimportable, "config.rejected")
        wait_until(lambda: len(consumer.said("config.rejected")) == 4)
        reload(consumer, folder, "{", "config.rejected")
        reload(consumer, folder, {**stage.settings, "vendors": []}, "config.rejected")
        problems = "\n".join(consumer.said("config.rejected"))
        for part in ("retry.base", "NOT_SET_ANYWHERE", "vendors.X", "vendors.Y", "at least one"):
            assert part in problems
        stage.send(10)
        stage.until(sent=10)
        assert consumer.stop() == 0


def test_what_needs_a_restart_is_named_in_one_line(stage: Stage, folder: Path) -> None:
    stage.vendor("first")
    changed = {
        **stage.settings,
        "beanstalkd": {**stage.settings["beanstalkd"], "tube": "mailqueue_test_other"},
        "delivery": {"deadline": 30, "on_unknown": "park"},
        "consumer": {"concurrency": 3, "sweep_every": 7},
        "limits": {"max_size": 1000},
    }
    with ConsumerProcess(stage.settings, folder) as consumer:
        reload(consumer, folder, changed, "config.reloaded")
        (line,) = consumer.said("config.restart_needed")
        assert line.endswith("keys=beanstalkd.tube,delivery.deadline,consumer.concurrency")
        stage.send(2)
        stage.until(sent=2)
        assert consumer.stop() == 0


def test_reloads_under_load_lose_and_double_nothing(stage: Stage, folder: Path) -> None:
    vendors = [stage.vendor(name) for name in ("a", "b", "c")]
    with ConsumerProcess(stage.settings, folder) as consumer:
        sent = 0
        for turn in range(6):
            stage.producer.send_many([letter(n) for n in range(50)])
            sent += 50
            chosen = [v.entry | {"weight": 1 + turn} for v in vendors if v is not vendors[turn % 3]]
            reload(consumer, folder, {**stage.settings, "vendors": chosen}, "config.reloaded")
        stage.until(sent=sent)
        assert consumer.stop() == 0
    assert set(stage.copies.values()) == {1}
    ledger = [line for document in stage.emails.find() for line in document["attempts"]]
    assert {line["outcome"] for line in ledger} <= {"accepted", "not_started"}


# The ways in, and the way back --------------------------------------------------------------------


def test_the_http_service_takes_other_keys_without_an_interruption(
    stage: Stage, folder: Path
) -> None:
    old, new = keys.new_secret(), keys.new_secret()

    def settings(secret: str) -> dict[str, Any]:
        entry = {"name": "shop", "sha256": keys.digest_of(secret)}
        return {**stage.settings, "http": {"keys": [entry]}}

    stage.vendor("first")
    with HttpProcess(settings(old), folder) as service, requests.Session() as client:

        def answer(secret: str) -> int:
            head = {"Authorization": f"Bearer {secret}"}
            url = f"http://127.0.0.1:{service.port}/emails"
            return client.post(url, json=letter(1), headers=head, timeout=10).status_code

        assert (answer(old), answer(new)) == (201, 401)
        reload(service, folder, settings(new), "config.reloaded")
        assert (answer(old), answer(new)) == (401, 201)
        retention = {"content": "until_sent", "searchable": True, "failed_days": 7}
        reload(service, folder, {**settings(new), "retention": retention}, "config.reloaded")
        (line,) = service.said("config.restart_needed")
        assert line.endswith("keys=retention.content,retention.searchable")
        reload(service, folder, {**settings(old), "http": {"keys": [{}]}}, "config.rejected")
        assert (answer(old), answer(new)) == (401, 201)
        assert service.stop() == 0


def test_the_dashboard_is_read_only_from_a_reload_on(stage: Stage, folder: Path) -> None:
    """And explains e-mails by what the consumers were told, too."""
    stage.vendor("first")
    (email_id,) = stage.send()
    with HttpProcess(stage.settings, folder, "--dashboard") as service:
        url = f"http://127.0.0.1:{service.port}/dashboard"

        def drain() -> int:
            own, form = {"Sec-Fetch-Site": "same-origin"}, {"of": "vendor:first"}
            post = requests.post(f"{url}/vendors/drain", form, headers=own, allow_redirects=False)
            return post.status_code

        def explained() -> str:
            return requests.get(f"{url}/emails/{email_id}").text

        assert "staging" not in explained()
        changed = {
            **stage.settings,
            "http": {"dashboard": {"read_only": True}},
            "staging": {"allow": ["@example.net"]},
        }
        reload(service, folder, changed, "config.reloaded")
        assert not service.said("config.restart_needed")
        assert drain() == 403
        assert "staging" in explained()
        reload(service, folder, stage.settings, "config.reloaded")
        assert drain() == 303
        assert service.stop() == 0


def test_intake_goes_on_after_a_reload(stage: Stage, folder: Path) -> None:
    stage.vendor("first")
    with IntakeProcess(stage.settings, folder) as service:
        changed = {
            **stage.settings,
            "mongodb": {**stage.settings["mongodb"], "timeout": 3},
            "retention": {"content": "until_sent", "searchable": True},
        }
        reload(service, folder, changed, "config.reloaded")
        (line,) = service.said("config.restart_needed")
        assert line.endswith("keys=mongodb.timeout,retention.searchable")
        assert service.stop() == 0


def test_a_responder_says_what_needs_a_restart(stage: Stage, folder: Path) -> None:
    secret = "whsec_" + "A" * 32
    settings = {**stage.settings, "callbacks": {"secrets": [secret]}}
    with ResponderProcess(settings, folder) as service:
        changed = {
            **settings,
            "callbacks": {"secrets": [secret], "timeout": 3},
            "staging": {"allow": ["@example.com"]},
            "retention": {"content": "until_sent", "searchable": True},
        }
        reload(service, folder, changed, "config.reloaded")
        assert service.said("config.restart_needed")[0].endswith("keys=callbacks.timeout")
        assert service.stop() == 0
