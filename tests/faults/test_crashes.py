"""A process ends before or after each touch of the outside; another one goes on.

There is one e-mail in the consumer's tests, so that for each place it is known exactly how many
outcomes are unknown and how many copies there are; ``tests/storm.py`` has the many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import greenstalk
import pytest

from mailqueue.devserver.process import dies_with_parent
from mailqueue.events import EventStore
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.queue.broker import CALLBACKS, INTAKE, STATES
from mailqueue.store.document import PRODUCTION
from mailqueue.store.store import Store
from mailqueue.store.suppressions import Report, Suppressions
from mailqueue.vendors.events.source import EventType, VendorEvent
from tests.callbacks.receiver import SECRET, Receiver
from tests.faults.child import BOUNCE, EMAILS
from tests.faults.invariants import broken, unknowns
from tests.faults.seams import CRASHED, CrashingVendor
from tests.process.consumer_process import (
    REPO,
    ConsumerProcess,
    IntakeProcess,
    ResponderProcess,
)
from tests.stage import DOWN, Stage, letter
from tests.waiting import wait_until

AFTER_THE_DELETE = ("after:delete", "before:bury", "after:bury", "before:put", "after:put")
NO_JOBS = dict.fromkeys(STATES, 0)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ENDS_WITHIN = 60


def run_child(role: str, stage: Stage, folder: Path, point: str = "-") -> tuple[int, list[str]]:
    """Run a child to its end; returns its exit code and the ids that it printed."""
    config = folder / f"{role}.json"
    own_class = f"{CrashingVendor.__module__}:{CrashingVendor.__name__}"
    vendors = [{**entry, "type": own_class} for entry in stage.settings["vendors"]]
    config.write_text(json.dumps({**stage.settings, "vendors": vendors}))
    config.chmod(0o600)
    done = subprocess.run(
        [*dies_with_parent(), sys.executable, "-m", "tests.faults.child", role, config, point],
        cwd=REPO,
        env=os.environ,
        timeout=ENDS_WITHIN,
        check=False,
        capture_output=True,
        text=True,
    )
    print(done.stderr)  # noqa: T201  # pytest shows it when the test failed
    return done.returncode, done.stdout.split()


def crash(stage: Stage, folder: Path, point: str) -> None:
    """A consumer ends at ``point``; then so much time passes that its leases have run out."""
    code, _ = run_child("consumer", stage, folder, point)
    assert code == CRASHED
    held = {"lease.until": {"$exists": True}}
    stage.emails.update_many(held, {"$set": {"lease.until": LONG_AGO}})
    stage.emails.database[f"{stage.emails.name}.leases"].delete_many({})


def lose_all_jobs(stage: Stage) -> None:
    with stage.tube() as tube:
        while stage.jobs():
            tube.delete(tube.reserve(1))


def check(stage: Stage) -> None:
    for document in stage.emails.find():
        copies = stage.copies[str(document["_id"])]
        assert broken(document, copies) == [], document["attempts"]


# the places at which it ends, one process after the other · unknown outcomes · copies too many
@pytest.mark.parametrize(
    "points, unknown, extra",
    [
        (["before:reserve"], 0, 0),
        (["after:reserve"], 0, 0),
        (["before:claim"], 0, 0),
        (["after:claim"], 1, 0),
        (["before:send"], 1, 0),
        (["after:send"], 1, 1),
        (["before:settle"], 1, 1),
        (["after:settle"], 0, 0),
        (["before:delete"], 0, 0),
        (["after:delete"], 0, 0),
        (["before:release"], 0, 0),
        (["after:release"], 0, 0),
        (["after:send", "before:rescue"], 1, 1),
        (["after:send", "after:rescue"], 1, 1),
        (["before:claim", "before:put"], 0, 0),
        (["before:claim", "after:put"], 0, 0),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else str(value),
)
def test_a_consumer_that_ends_anywhere_loses_nothing_and_doubles_only_what_was_unknown(
    points: list[str], unknown: int, extra: int, impatient: Stage, tmp_path: Path
) -> None:
    first = impatient.vendor("first")
    first.replies = [DOWN] if points[0].endswith("release") else []
    (email_id,) = impatient.send()
    for number, point in enumerate(points):
        if number:
            lose_all_jobs(impatient)  # now only the sweeper knows
        crash(impatient, tmp_path, point)
        if impatient.status(email_id).status != "sent" and not number:
            assert impatient.jobs(), "the job went before the e-mail's end was stored"
    impatient.vendor("second")
    with ConsumerProcess(impatient.settings, tmp_path / "restarted"):
        impatient.until(sent=1)

    check(impatient)
    if points[-1] == "after:put" and unknowns(impatient.document(email_id)):
        # Before the process was gone another of its threads began with the job that was put.
        assert impatient.copies[email_id] in (1, 2)
        return
    assert unknowns(impatient.document(email_id)) == unknown
    assert impatient.copies == {email_id: 1 + extra}


@pytest.mark.parametrize("points", [["after:send"], ["after:send", "after:rescue"]])
def test_an_event_settles_what_a_killed_consumer_left_unknown_and_no_second_copy_is_sent(
    points: list[str], impatient: Stage, tmp_path: Path
) -> None:
    """Before the rescue the attempt is still open, after it the outcome is unknown."""
    impatient.vendor("first")
    (email_id,) = impatient.send()
    for number, point in enumerate(points):
        if number:
            lose_all_jobs(impatient)  # now only the sweeper knows
        crash(impatient, tmp_path, point)
    delivered = VendorEvent(key="k", type=EventType.DELIVERED, email_id=email_id)
    store = Store(impatient.config.mongodb, env=PRODUCTION)
    EventStore(impatient.config, store).record("first", [delivered])
    store.close()
    impatient.vendor("second")
    with ConsumerProcess(impatient.settings, tmp_path / "restarted"):
        impatient.until(sent=1)

    check(impatient)
    assert unknowns(impatient.document(email_id)) == 1  # until the event came
    assert impatient.copies == {email_id: 1}
    assert impatient.status(email_id).delivery == "delivered"


@pytest.mark.parametrize(
    "point", ["before:suppress", "after:suppress", "before:lift", "after:lift"]
)
def test_what_ends_while_it_suppresses_is_repeated_by_the_vendor_and_comes_to_the_same(
    point: str, impatient: Stage, tmp_path: Path
) -> None:
    """Nothing is stored as done that is not: an event is stored last."""
    impatient.settings["suppression"] = {}
    store = Store(impatient.config.mongodb, env=PRODUCTION)
    suppressions = Suppressions(store)
    at = BOUNCE.at or LONG_AGO
    suppressions.add([Report("bob@example.net", "bounced", "first", at)])
    code, _ = run_child("events", impatient, tmp_path, point)
    assert code == CRASHED
    assert impatient.emails.database[f"{impatient.emails.name}.events"].count_documents({}) == 0
    assert run_child("events", impatient, tmp_path) == (0, [])
    assert [entry["_id"] for entry in suppressions.documents()] == ["ann@example.net"]
    store.close()


@pytest.mark.parametrize(
    "point",
    ["before:insert", "after:insert", "before:put", "after:put", "lost:put"],
)
def test_a_producer_that_ends_anywhere_loses_and_doubles_nothing(
    point: str, impatient: Stage, tmp_path: Path
) -> None:
    impatient.vendor("first")
    impatient.settings["consumer"] = {"sweep_every": 0.5, "concurrency": 1}
    code, before = run_child("producer", impatient, tmp_path, point)
    assert code == (0 if point == "lost:put" else CRASHED)
    doubled = sum(impatient.jobs().values()) - len(before)
    code, after = run_child("producer", impatient, tmp_path)  # an application repeats
    assert code == 0
    assert after[: len(before)] == before
    assert doubled == (point in ("after:put", "lost:put"))
    with ConsumerProcess(impatient.settings, tmp_path / "consumer"):
        impatient.until(sent=EMAILS)

    check(impatient)
    assert impatient.copies == Counter(after)


@pytest.mark.parametrize(
    "point, stored",
    [
        ("after:reserve", 0),
        ("before:insert", 0),
        ("after:insert", EMAILS),
        ("before:delete", EMAILS),
        ("after:delete", EMAILS),
        ("before:bury", EMAILS),
        ("after:bury", EMAILS),
        ("before:put", EMAILS),
        ("after:put", EMAILS),
    ],
)
def test_an_intake_that_ends_anywhere_loses_and_doubles_nothing(
    point: str, stored: int, impatient: Stage, tmp_path: Path
) -> None:
    impatient.vendor("first")
    impatient.settings["consumer"] = {"sweep_every": 0.5, "concurrency": 1}
    settings = impatient.config.beanstalkd
    with greenstalk.Client(settings.addresses[0], use=settings.tube + INTAKE) as program:
        for body in (*({"email": letter(number)} for number in range(EMAILS)), {"email": 5}):
            program.put(json.dumps(body))
    code, _ = run_child("intake", impatient, tmp_path, point)
    assert code == CRASHED
    assert impatient.emails.count_documents({}) == stored
    remaining = sum(depth(settings, INTAKE).values())
    # Of several commands on a line that breaks, the server does as many as it comes to.
    least = 1 if point in AFTER_THE_DELETE else EMAILS + 1
    assert least <= remaining <= EMAILS + 1
    with (
        IntakeProcess(impatient.settings, tmp_path / "restarted"),
        ConsumerProcess(impatient.settings, tmp_path / "consumer"),
    ):
        impatient.until(sent=EMAILS)
        wait_until(lambda: depth(settings, INTAKE) == {**NO_JOBS, "buried": 1})

    check(impatient)
    assert Counter(impatient.copies.values()) == {1: EMAILS}


@pytest.mark.parametrize(
    "points, posts",
    [
        (["before:claim"], 1),
        (["after:claim"], 1),
        (["before:post"], 1),
        (["after:post"], 2),
        (["before:settle"], 2),
        (["after:settle"], 1),
        (["after:claim", "after:post", "before:settle"], 3),
        (["before:delete"], None),  # of the hint: it may have been posted by then, or not
        (["after:delete"], None),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else str(value),
)
def test_a_responder_that_ends_anywhere_loses_nothing_and_repeats_only_with_the_same_id(
    points: list[str], posts: int | None, impatient: Stage, tmp_path: Path
) -> None:
    impatient.vendor("first")
    impatient.settings["callbacks"] = {"secrets": [SECRET], "allow": ["127.0.0.1"]}
    due = {"callbacks.state": "due"}
    with Receiver() as receiver:
        impatient.producer.send(letter(1), callback_url=receiver.url)
        with ConsumerProcess(impatient.settings, tmp_path / "consumer"):
            impatient.until(sent=1)
            wait_until(lambda: depth(impatient.config.beanstalkd, CALLBACKS)["ready"])
        for point in points:
            code, _ = run_child("responder", impatient, tmp_path, point)
            assert code == CRASHED
            if posts is not None:
                assert impatient.emails.count_documents(due) == (point != "after:settle")
            impatient.emails.update_many(due, {"$set": {"callbacks.0.due_at": LONG_AGO}})
        with ResponderProcess(impatient.settings, tmp_path / "restarted"):
            wait_until(lambda: impatient.emails.count_documents(due) == 0, what="it is told")
        assert len(receiver.events) == 1
        assert posts in (None, len(receiver.ids))

    (document,) = impatient.emails.find()
    assert [entry["state"] for entry in document["callbacks"]] == ["delivered"]
    check(impatient)


@pytest.mark.parametrize("on_unknown, kills", [("resend", 2), ("park", 1)])
def test_an_email_that_kills_its_process_ends_as_uncertain(
    on_unknown: str, kills: int, impatient: Stage, tmp_path: Path
) -> None:
    impatient.vendor("first"), impatient.vendor("second")
    impatient.settings["delivery"] = {**impatient.settings["delivery"], "on_unknown": on_unknown}
    impatient.send()
    for _ in range(kills):
        crash(impatient, tmp_path, "after:send")
    with ConsumerProcess(impatient.settings, tmp_path / "restarted"):
        impatient.until(uncertain=1)

    (document,) = impatient.emails.find()
    assert broken(document, kills, on_unknown) == []
    assert sum(impatient.copies.values()) == kills
