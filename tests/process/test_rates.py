"""Vendors' rates and budgets over several processes. ``python tests/rates.py`` measures for longer.

What the vendor noted is compared with what was asked. No bound depends on how fast this machine is:
a slow one calls later than it may, never sooner. So a call that was held up may come right before
the next one, and what is counted is how many came by when, not how far one is from the next.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import greenstalk
import pytest

from mailqueue.routing.pace import AHEAD
from tests.noting_vendor import TYPE, Call, calls
from tests.process.conftest import Consumers
from tests.process.test_reload import reload
from tests.stage import Stage
from tests.vendor_servers import Reply
from tests.waiting import wait_until

TO_SPARE = 0.05  # seconds, for clocks that show milliseconds
Paced = Callable[..., Path]


@pytest.fixture
def paced(stage: Stage, tmp_path: Path) -> Paced:
    """One more vendor, which notes its calls in the file that is returned."""

    def add(name: str, rate: dict[str, Any] | None = None, **more: Any) -> Path:
        file = tmp_path / f"{name}.calls"
        file.touch()
        entry = {"name": name, "type": TYPE, "options": {"file": str(file)}, **more}
        stage.settings["vendors"].append(entry | ({"rate": rate} if rate else {}))
        return file

    return add


def times(noted: Sequence[Call]) -> list[float]:
    return [call.at for call in noted]


def early(at: Sequence[float], began: float, gap: float) -> list[float]:
    """By how many seconds calls came before their time, where the first could go at ``began``."""
    ahead = [began + n * gap - call for n, call in enumerate(at)]
    return [seconds for seconds in ahead if seconds > TO_SPARE]


def test_two_processes_keep_a_rate_together_and_use_it_up(
    stage: Stage, ready: Consumers, paced: Paced
) -> None:
    file = paced("only", {"per_second": 50})
    for _ in range(2):
        ready(stage)
    began = time.time()
    stage.send(150)
    stage.until(sent=150)
    at = times(calls(file))
    assert len(at) == 150
    assert early(at, began, 1 / 50) == []
    assert len({call.pid for call in calls(file)}) == 2


def test_two_processes_keep_a_gap_together(stage: Stage, ready: Consumers, paced: Paced) -> None:
    file = paced("only", {"gap": 1})
    for _ in range(2):
        ready(stage)
    began = time.time()
    stage.send(5)
    stage.until(sent=5)
    at = times(calls(file))
    assert len(at) == 5
    assert early(at, began, 1.0) == []
    assert {each["counted"] for each in stage.emails.find()} == {1}


def test_the_budget_of_a_day_is_used_to_the_last_then_others_get_the_rest(
    stage: Stage, run: Consumers, paced: Paced
) -> None:
    """Over three processes; said once at 80 and once at 100 per cent; back on the next day."""
    small, other = paced("small", {"per_day": 100}), paced("other")
    stage.send(400)
    consumers = [run(stage) for _ in range(3)]
    stage.until(sent=400)
    assert len(calls(small)) + len(calls(other)) == 400
    assert len(calls(small)) <= 100
    # A busy process may let a part pass: it is given back, and later e-mails use it.
    wait_until(lambda: len(calls(small)) == 100 or not stage.send())
    number = stage.emails.count_documents({})
    stage.until(sent=number)
    assert len(calls(small)) == 100
    for event in ("vendor.budget_low", "vendor.budget_spent"):
        wait_until(lambda e=event: sum(len(c.said(e)) for c in consumers) == 1, what=event)  # type: ignore[misc]

    yesterday = datetime.now(UTC) - timedelta(seconds=1)
    stage.edit_health("rate:small", **{"day.until": yesterday})
    wait_until(lambda: stage.send() and len(calls(small)) > 100, what="the next day has begun")
    number = stage.emails.count_documents({})
    stage.until(sent=number)
    attempts = [line for each in stage.emails.find() for line in each["attempts"]]
    assert len(attempts) == number


def test_a_process_that_is_killed_with_reserved_times_wastes_little(
    stage: Stage, run: Consumers, ready: Consumers, paced: Paced
) -> None:
    file = paced("only", {"per_second": 20})
    stage.settings["consumer"] = {"sweep_every": 0.5}
    victim, other = ready(stage), ready(stage)
    stage.send(200)
    wait_until(lambda: len({call.pid for call in calls(file)}) == 2)
    victim.kill()
    reserved_until = stage.health("rate:only")["tat"]
    assert reserved_until < time.time() + AHEAD + 1 / 20 + TO_SPARE
    # Of the times after it none is the victim's, so the other one goes on.
    wait_until(lambda: times(calls(file))[-1] > reserved_until + 2)
    assert other.running


def test_beside_an_unlimited_vendor_nothing_is_throttled_and_nothing_waits(
    stage: Stage, run: Consumers, paced: Paced
) -> None:
    """Neither attempts nor health know of the limit."""
    slow = stage.vendor("slow", Reply(202, {"X-Message-Id": "1"}))
    stage.settings["vendors"][0]["rate"] = {"per_second": 5}
    fast = paced("fast")
    stage.send(300)
    consumers = [run(stage), run(stage)]
    stage.until(sent=300)
    noted = times(calls(fast))
    # So many as it may have had in the time that the other needed for all that it did not take.
    assert len(slow.calls) <= 5 * (noted[-1] - noted[0] + 1) + 2
    assert len(noted) == 300 - len(slow.calls)
    assert stage.health("slow")["generation"] == 0
    outcomes = Counter(line["outcome"] for e in stage.emails.find() for line in e["attempts"])
    # A busy machine may give a claim back, for which no sender came free within a second.
    assert outcomes["accepted"] == 300
    assert set(outcomes) <= {"accepted", "not_started"}
    assert all(consumer.running for consumer in consumers)


def test_a_backlog_for_a_slow_vendor_does_not_keep_others_and_does_not_turn_in_circles(
    stage: Stage, run: Consumers, paced: Paced
) -> None:
    """E-mails that only the slow vendor may have, before those that any may have."""
    slow, fast = paced("slow", {"per_second": 5}), paced("fast")
    stage.send(300)
    stage.emails.update_many({}, {"$set": {"round.tried": ["fast"]}})
    others = set(stage.send(100))
    first_at = time.time()
    run(stage)
    wait_until(lambda: others <= {call.email_id for call in (*calls(slow), *calls(fast))})
    before = reserves(stage)
    began = time.time()
    wait_until(lambda: times(calls(slow))[-1] > began + 3)
    assert reserves(stage) - before < 67 * (time.time() - began)
    assert early(times(calls(slow)), first_at, 1 / 5) == []


def reserves(stage: Stage) -> int:
    """How often a job has been released."""
    with stage.tube() as tube:
        return int(tube.stats()["cmd-release"])


def test_a_rate_that_is_read_at_a_reload_holds_from_then_on(
    stage: Stage, ready: Consumers, paced: Paced, tmp_path: Path
) -> None:
    """Without a rate, with one, with another, and without one again: nothing is lost."""
    file = paced("only")
    consumer = ready(stage)
    for number, rate in enumerate([None, {"gap": 0.3}, {"gap": 0.2}, None]):
        stage.settings["vendors"][0]["rate"] = rate
        reload(consumer, tmp_path / "consumer1", stage.settings, "config.reloaded")
        before, began = len(calls(file)), time.time()
        stage.send(5)
        stage.until(sent=5 * (number + 1))
        gap = rate["gap"] if rate else 0.0
        assert early(times(calls(file))[before:], began, gap) == []
    assert len(calls(file)) == 20


def test_a_storm_of_retries_never_delays_a_higher_class(
    stage: Stage, run: Consumers, paced: Paced
) -> None:
    """Retry high, new high, retry normal, new normal, retry bulk, new bulk: whatever came first."""
    file = paced("only", {"gap": 0.1})
    groups: list[list[str]] = []
    for priority in ("bulk", "normal", "high"):
        groups.append(stage.send(4, priority=priority))
        retries = stage.send(4, priority=priority)
        groups.append(retries)
        retry = {"high": 512, "normal": 32768, "bulk": 524288}[priority]
        with stage.tube() as tube:  # as a consumer puts back what has failed elsewhere
            for job in [tube.reserve(timeout=0) for _ in range(8 * len(groups) // 2)]:
                own = tube.stats_job(job)["pri"]
                tube.release(job, priority=retry if job.body in retries else own)
    run(stage)
    stage.until(sent=24)
    order = {email_id: n for n, group in enumerate(reversed(groups)) for email_id in group}
    places = [order[call.email_id] for call in calls(file)]
    # What was in hand when the times began may be one e-mail before its turn.
    assert sum(a > b for a, b in pairwise(places)) <= 1
    assert places[:4] == [0] * 4
    assert places[-4:] == [5] * 4


def test_a_high_email_waits_for_at_most_one_of_a_bulk_backlog(
    stage: Stage, run: Consumers, paced: Paced
) -> None:
    file = paced("only", {"gap": 1})
    stage.send(100, priority="bulk")
    for _ in range(2):
        run(stage)
    wait_until(lambda: len(calls(file)) > 1)
    places = []
    for _ in range(3):
        [urgent] = stage.send(priority="high")
        wait_until(lambda e=urgent: next_job(stage) != e)  # type: ignore[misc]
        taken_at = time.time()  # or sooner: a slow machine takes it late
        wait_until(lambda e=urgent: e in {c.email_id for c in calls(file)})  # type: ignore[misc]
        before = [c for c in calls(file) if taken_at < c.at or c.email_id == urgent]
        places.append([c.email_id for c in before].index(urgent))
        time.sleep(0.2)
    # A process that stands still between the job and its send time lets the other one by, once.
    assert sorted(places)[1] <= 1


def next_job(stage: Stage) -> str:
    """The e-mail whose job would be reserved next."""
    with stage.tube() as tube, suppress(greenstalk.NotFoundError):
        return tube.peek_ready().body
    return ""
