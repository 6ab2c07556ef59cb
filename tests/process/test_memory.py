"""How much memory a consumer takes for large e-mails."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from mailqueue.message import Attachment, EmailDict
from tests.process.conftest import Consumers
from tests.stage import Stage, letter
from tests.waiting import wait_until

MIB = 2**20


def large(n: int, size: int = 3 * MIB) -> EmailDict:
    file = Attachment("a.bin", os.urandom(size), "application/zip")
    return {**letter(n), "subject": "Large", "attachments": [file]}


def most_used(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_large_emails_take_no_more_than_their_share_of_memory(
    stage: Stage, ready: Consumers
) -> None:
    """Sixteen at a time would: each takes five times its size."""
    vendor = stage.vendor("only")
    stage.settings["consumer"] = {"max_memory": 32 * MIB}
    consumer = ready(stage)
    before = most_used(consumer.pid)
    vendor.hold()
    for n in range(12):
        stage.producer.send(large(n))
    wait_until(lambda: vendor.under_way)
    vendor.let_go()
    stage.until(sent=12)
    assert most_used(consumer.pid) - before < 48 * MIB
    assert consumer.stop() == 0


def test_while_large_emails_wait_for_memory_small_ones_go(stage: Stage, ready: Consumers) -> None:
    vendor = stage.vendor("only")
    stage.settings["consumer"] = {"max_memory": MIB}
    vendor.hold()
    ids = [stage.producer.send(large(n)) for n in range(3)]
    consumer = ready(stage)
    wait_until(lambda: vendor.under_way == 1)
    vendor.answer_newcomers()
    small = stage.send(20)
    wait_until(lambda: set(small) <= set(vendor.calls))
    assert len(set(ids) & set(vendor.calls)) == 1
    vendor.let_go()
    stage.until(sent=23)
    assert consumer.stop() == 0


def test_large_emails_that_wait_go_back_when_the_process_stops(
    stage: Stage, ready: Consumers
) -> None:
    vendor = stage.vendor("only")
    stage.settings["consumer"] = {"max_memory": MIB}
    vendor.hold()
    for n in range(3):
        stage.producer.send(large(n))
    consumer = ready(stage)
    wait_until(lambda: vendor.under_way == 1)
    consumer.terminate()
    consumer.wait_for("STOPPING=1")
    vendor.let_go()
    assert consumer.exit_code() == 0
    assert stage.statuses() == {"sent": 1, "queued": 2}
    wait_until(lambda: sum(stage.jobs().values()) == 2)
