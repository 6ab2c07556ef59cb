"""``mailqueue intake`` as a real process, killed at any moment, beside real consumers and programs
that are not Python.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import greenstalk
import pytest

from mailqueue import cli
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.queue.broker import INTAKE
from tests.process.conftest import Consumers
from tests.process.consumer_process import REPO, IntakeProcess
from tests.servers import BreakableServers
from tests.stage import Stage, letter
from tests.waiting import wait_until

EVENTS = 500
Intakes = Callable[[Stage], IntakeProcess]


@pytest.fixture
def run_intake(tmp_path: Path) -> Iterator[Intakes]:
    """Start an intake; not yet ready."""
    numbers = count(1)
    with ExitStack() as stack:

        def start(stage: Stage) -> IntakeProcess:
            process = IntakeProcess(stage.settings, tmp_path / f"intake{next(numbers)}")
            stack.push(process)
            return process

        yield start


@pytest.fixture
def intake(run_intake: Intakes) -> Intakes:
    """The same, and wait until it is ready."""

    def start(stage: Stage) -> IntakeProcess:
        process = run_intake(stage)
        process.wait_for("READY=1")
        return process

    return start


def tube_of(stage: Stage) -> str:
    return stage.config.beanstalkd.tube + INTAKE


def events(stage: Stage) -> dict[str, int]:
    """Events by state, those of no number left out."""
    return {state: n for state, n in depth(stage.config.beanstalkd, INTAKE).items() if n}


def program(stage: Stage) -> greenstalk.Client[bytes]:
    """Another program's connection."""
    name, (address, *_) = tube_of(stage), stage.config.beanstalkd.addresses
    return greenstalk.Client(address, encoding=None, use=name, watch=name)


def put(stage: Stage, *numbers: int, **more: Any) -> None:
    with program(stage) as client:
        for number in numbers:
            client.put(json.dumps({"email": letter(number), **more}).encode())


def subjects_on_the_tube(stage: Stage) -> set[str]:
    """Of the events that were not deleted; nobody else may be at them."""
    subjects = set()
    with program(stage) as client:
        while True:
            try:
                subjects.add(json.loads(client.reserve(0).body)["email"]["subject"])
            except greenstalk.TimedOutError:
                return subjects


def subjects_stored(stage: Stage) -> Counter[str]:
    return Counter(each["email"]["subject"] for each in stage.emails.find({}, {"email": 1}))


def has_stored_more(stage: Stage, than: int) -> bool:
    return stage.emails.count_documents({}) > than or not events(stage)


def every_subject(number: int = EVENTS) -> set[str]:
    return {str(letter(n)["subject"]) for n in range(number)}


# Starts and ends ----------------------------------------------------------------------------------


def test_it_says_where_it_listens_stores_what_comes_and_stops_at_a_signal(
    stage: Stage, intake: Intakes
) -> None:
    process = intake(stage)
    listening = f"mailqueue intake: listening on tube {tube_of(stage)} of "
    assert any(line.startswith(listening) for line in process.output.splitlines())
    put(stage, *range(3))
    stage.until(queued=3)
    assert process.stop() == 0
    assert process.heard()[-1] == "STOPPING=1"
    assert process.said("intake.stopped stored=3 repeated=0 buried=0")
    assert stage.jobs() == {"ready": 3}
    assert events(stage) == {}


def test_it_serves_all_configured_servers(
    stage: Stage, servers_to_break: BreakableServers, intake: Intakes
) -> None:
    """One that is lost does not keep it from the others."""
    other = servers_to_break.beanstalkd
    stage.settings["beanstalkd"]["servers"].append(other.address)
    process = intake(stage)
    for number, address in enumerate(stage.config.beanstalkd.addresses):
        with greenstalk.Client(address, use=tube_of(stage)) as client:
            client.put(json.dumps({"email": letter(number)}))
    stage.until(queued=2)
    other.kill()
    put(stage, 2)
    stage.until(queued=3)
    assert process.stop() == 0


def test_where_nothing_listens_it_exits_3_and_2_for_a_wrong_configuration(
    stage: Stage, run_intake: Intakes
) -> None:
    reachable = stage.settings
    stage.settings = {**reachable, "beanstalkd": {"servers": ["127.0.0.1:1"]}}
    without_beanstalkd = run_intake(stage)
    stage.settings = {**reachable, "mongodb": {"uri": "mongodb://127.0.0.1:1", "timeout": 0.5}}
    without_mongodb = run_intake(stage)
    stage.settings = {**reachable, "mongodb": {"uri": "http://x"}}
    assert run_intake(stage).exit_code() == 2
    for process in (without_beanstalkd, without_mongodb):
        assert process.exit_code() == 3
        assert "Traceback" not in process.output


# Killed -------------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_500_events_each_deleted_one_is_stored_and_each_is_sent_once(
    stage: Stage, intake: Intakes, ready: Consumers
) -> None:
    stage.vendor("only")
    stage.settings["consumer"] = {"sweep_every": 0.5}
    consumer = ready(stage)
    put(stage, *range(EVENTS))
    dice, kills = random.Random(14), 0
    while events(stage):
        stored = stage.emails.count_documents({})
        process = intake(stage)
        wait_until(partial(has_stored_more, stage, stored))
        time.sleep(dice.uniform(0, 0.02))  # the moment of the kill
        process.kill()
        kills += 1
        wait_until(lambda: "reserved" not in events(stage))
        deleted = every_subject() - subjects_on_the_tube(stage)
        assert deleted <= set(subjects_stored(stage))
    assert kills > 1
    stage.until(sent=EVENTS)
    assert subjects_stored(stage) == Counter(every_subject())
    assert Counter(stage.copies.values()) == {1: EVENTS}
    assert consumer.stop() == 0


def test_a_storm_of_kills_of_intakes_and_beanstalkd_loses_and_doubles_no_event(
    fragile_stage: Stage, servers_to_break: BreakableServers, run_intake: Intakes, ready: Consumers
) -> None:
    """Two intakes at a time; what the server's binlog has is what the putting program was told."""
    stage, server = fragile_stage, servers_to_break.beanstalkd
    stage.vendor("only")
    stage.settings["consumer"] = {"sweep_every": 0.5}
    consumer = ready(stage)
    dice, number = random.Random(41), 0
    for _ in range(6):
        put(stage, *range(number, number + 100))
        number += 100
        intakes = [run_intake(stage) for _ in range(2)]
        for process in intakes:
            process.wait_for("READY=1")
        stored = stage.emails.count_documents({})
        wait_until(partial(has_stored_more, stage, stored))
        time.sleep(dice.uniform(0, 0.03))  # the moment of the kills
        kills: list[Callable[[], None]] = [server.kill, *(each.kill for each in intakes)]
        for kill in dice.sample(kills, len(kills)):
            kill()
        server.start()
    last = [run_intake(stage) for _ in range(2)]
    for process in last:
        process.wait_for("READY=1")
    wait_until(lambda: not events(stage), 30)
    stage.until(sent=number, timeout=60)
    assert subjects_stored(stage) == Counter(every_subject(number))
    assert Counter(stage.copies.values()) == {1: number}
    assert [process.stop() for process in (*last, consumer)] == [0, 0, 0]


# Away ---------------------------------------------------------------------------------------------


def test_while_mongodb_is_away_events_are_kept_and_stored_when_it_is_back(
    fragile_stage: Stage, servers_to_break: BreakableServers, intake: Intakes
) -> None:
    stage = fragile_stage
    stage.settings["mongodb"]["timeout"] = 1
    process = intake(stage)
    servers_to_break.mongod.kill()
    put(stage, *range(20))
    wait_until(lambda: process.said("server.lost"))
    with program(stage) as client:
        client.put(b"not valid")
        wait_until(lambda: events(stage) == {"ready": 21})  # none is buried meanwhile
    servers_to_break.mongod.start()
    stage.until(queued=20)
    wait_until(lambda: events(stage) == {"buried": 1})
    assert process.stop() == 0


def test_it_stops_at_once_while_mongodb_is_away(
    fragile_stage: Stage, servers_to_break: BreakableServers, intake: Intakes
) -> None:
    stage = fragile_stage
    stage.settings["mongodb"]["timeout"] = 1
    process = intake(stage)
    servers_to_break.mongod.pause()
    put(stage, 1)
    wait_until(lambda: process.said("server.lost"))
    assert process.stop() == 0
    assert events(stage) == {"ready": 1}
    servers_to_break.mongod.resume()


# Other programs -----------------------------------------------------------------------------------


def run_program(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=stdin, cwd=REPO, capture_output=True, text=True, check=False, timeout=20
    )


def place(stage: Stage) -> tuple[str, str, str]:
    ((host, port),) = stage.config.beanstalkd.addresses
    return host, str(port), tube_of(stage)


def test_plain_bash_puts_an_event_that_becomes_an_email(stage: Stage, intake: Intakes) -> None:
    intake(stage)
    event = json.dumps({"email": {**letter(1), "text": "Grüße 🎉"}}, ensure_ascii=False)
    ended = run_program("bash", "examples/event.sh", *place(stage), stdin=event)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip().isdigit()
    stage.until(queued=1)
    assert stage.emails.find_one({})["email"]["text"] == "Grüße 🎉"  # type: ignore[index]  # there is one


def test_plain_bash_says_what_beanstalkd_does_not_take(stage: Stage) -> None:
    ended = run_program("bash", "examples/event.sh", *place(stage), stdin="x" * 70_000)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "JOB_TOO_BIG" in ended.stderr


def test_node_puts_an_event_that_becomes_one_email_however_often(
    stage: Stage, intake: Intakes
) -> None:
    if not shutil.which("node"):
        missing = "Node is not installed: apt-get install nodejs"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    intake(stage)
    for _ in range(2):
        ended = run_program("node", "examples/event.mjs", "bob@example.org", *place(stage))
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.strip().isdigit()
    wait_until(lambda: not events(stage))
    (stored,) = stage.emails.find()
    assert stored["idempotency_key"] == "order-4711"
    assert stored["email"]["subject"] == "Your order 4711 \N{EN DASH} thank you"
    assert stored["email"]["attachments"][0]["content"] == b"A lamp\n"


# Buried -------------------------------------------------------------------------------------------


def documented(stage: Stage, command: str) -> str:
    """What the documentation's line of bash with this command prints here."""
    page = (REPO / "docs/intake.md").read_text("utf-8")
    (line,) = re.findall(rf"^bash -c '(.*{command}.*)'$", page, re.MULTILINE)
    host, port, name = place(stage)
    here = line.replace("127.0.0.1/11300", f"{host}/{port}").replace("mailqueue.intake", name)
    ended = run_program("bash", "-c", here)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_a_buried_event_is_counted_and_looked_at_and_kicked_as_the_documentation_says(
    stage: Stage, intake: Intakes, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stage.vendor("only")
    intake(stage)
    put(stage, 1, idempotency_key="a")
    put(stage, 2, idempotency_key="a")
    wait_until(lambda: events(stage) == {"buried": 1})
    config = tmp_path / "config.json"
    config.write_text(json.dumps(stage.settings))
    assert cli.main(["stats", "--config", str(config)]) == 0
    assert re.search("events for mailqueue intake .* 1 buried", capsys.readouterr().out)
    cli.main(["doctor", "--config", str(config)])
    assert re.search(
        rf"WARN +intake .* 1 buried event on {tube_of(stage)}", capsys.readouterr().out
    )

    assert "Number 2" in documented(stage, "peek-buried")
    stage.emails.delete_many({})
    assert "KICKED 1" in documented(stage, "kick")
    stage.until(queued=1)
    wait_until(lambda: events(stage) == {})


def test_the_doctor_says_that_nobody_stores_the_events(
    stage: Stage, intake: Intakes, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stage.vendor("only")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(stage.settings))
    put(stage, 1, 2)
    assert cli.main(["doctor", "--config", str(config)]) == 1
    assert re.search("FAIL +intake .* 2 events on .*, and nobody", capsys.readouterr().out)
    intake(stage)
    wait_until(lambda: not events(stage))
    cli.main(["doctor", "--config", str(config)])
    assert "intake" not in capsys.readouterr().out.replace(str(tmp_path), "")
