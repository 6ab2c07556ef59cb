"""The frame of a server process: where it is, and how signals end it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Processes ----------------------------------------------------------------------------------------

THREADED = """
import sys, time
from mailqueue.service import run

def serve(service):
    service.ready("a tube")
    while not service.is_stopping:
        service.keep_alive()
        time.sleep(0.01)
    print("finishing", flush=True)
    while FOR_EVER:
        time.sleep(0.01)

sys.exit(run("mailqueue test", serve))
"""
ASYNC = """
import asyncio, sys, uvloop
from mailqueue.service import listen, run_async, url

async def serve(service, stopping):
    listener = listen("127.0.0.1", 0)
    service.ready(url("http", listener))
    await stopping.wait()
    print("finishing", flush=True)
    while FOR_EVER:
        await asyncio.sleep(0.01)

sys.exit(run_async("mailqueue test", serve, LOOP))
"""
PROGRAMS = {
    "threads": THREADED,
    "asyncio": ASYNC.replace("LOOP", "None"),
    "uvloop": ASYNC.replace("LOOP", "uvloop.new_event_loop"),
}
Child = subprocess.Popen[str]


@contextmanager
def child(program: str, notify: str = "", *, for_ever: bool = False) -> Iterator[Child]:
    """A process that has said its first line."""
    code = PROGRAMS[program].replace("FOR_EVER", str(for_ever))
    environ = os.environ | {"NOTIFY_SOCKET": notify, "WATCHDOG_USEC": "20000"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: Child) -> str:
    assert process.stdout
    return process.stdout.readline()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_tells_where_it_is_finishes_at_a_signal_and_exits_with_0(
    tmp_path: Path, program: str, number: signal.Signals
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        with child(program, manager.getsockname()) as process:
            assert line(process).startswith("mailqueue test: listening on ")
            assert manager.recv(100) == b"READY=1"
            assert manager.recv(100) == b"WATCHDOG=1"
            process.send_signal(number)
            assert line(process) == "finishing\n"
            assert process.wait(30) == 0
        heard = set()
        while (state := manager.recv(100)) != b"STOPPING=1":
            heard.add(state)
        assert heard <= {b"WATCHDOG=1"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_second_signal_ends_a_server_that_does_not_finish_with_1(program: str) -> None:
    with child(program, for_ever=True) as process:
        line(process)
        process.terminate()
        assert line(process) == "finishing\n"
        while process.poll() is None:  # those within a second of the first are the first
            process.terminate()
        assert process.returncode == 1


# Places -------------------------------------------------------------------------------------------
