"""Connections that all processes of a host share."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from mailqueue.config import VendorConfig
from mailqueue.message import Email
from mailqueue.vendors.smtp import Smtp
from mailqueue.vendors.wire.host_places import HostPlaces
from mailqueue.vendors.wire.smtp_pool import Pool
from tests.contract.conftest import Attempts
from tests.vendor_servers import HOST, ScriptedSmtp, Wire, polite

HOLD = """
import sys, time
from pathlib import Path
from mailqueue.vendors.wire.host_places import HostPlaces
place = HostPlaces("shared", 2, Path(sys.argv[1])).take()
print("taken" if place else "full", flush=True)
time.sleep(60)
"""


def test_the_place_of_a_process_that_is_killed_is_free_at_once(tmp_path: Path) -> None:
    places = HostPlaces("shared", 2, tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        mine = places.take()
        assert mine is not None
        assert places.take() is None
        process.kill()
        process.wait()
        assert places.take() is not None


def test_who_waits_for_a_place_is_seen_by_the_others(tmp_path: Path) -> None:
    one, two = (HostPlaces("shared", 1, tmp_path) for _ in range(2))
    assert not one.is_wanted()
    waiting = two.wait()
    assert one.is_wanted()
    waiting.release()
    assert not one.is_wanted()


def test_where_files_cannot_be_locked_there_is_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every place would look taken, and nothing would ever be sent."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    places = HostPlaces("shared", 1, tmp_path)
    assert places.take() is not None
    assert places.take() is not None
    assert not places.is_wanted()


def test_two_processes_have_no_more_connections_together_and_both_get_on(
    attempt: Attempts, plain: Email
) -> None:
    """Two pools, as two processes have them: a lock is one of an open file."""
    with ExitStack() as stack:
        connected: set[int] = set()
        most = [0]

        def answer(wire: Wire, line: str) -> bytes | None:
            if not line:
                connected.add(id(wire))
                most[0] = max(most[0], len(connected))
            if line == "QUIT":
                connected.discard(id(wire))
            return polite(wire, line)

        server = stack.enter_context(ScriptedSmtp(answer))
        keys = {"host": HOST, "port": server.port, "tls": "none", "connections": 1}
        config = VendorConfig(name="first", type="smtp", keys=keys)
        vendors = [Smtp(config) for _ in range(2)]
        for vendor in vendors:
            vendor._pool = Pool(config)
            stack.callback(vendor.close)
        done = [0, 0]

        def work(i: int) -> None:
            for _ in range(5):
                done[i] += vendors[i].send(plain, attempt()).outcome == "accepted"

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [5, 5]
        assert most == [1]
        assert server.connections >= 2
