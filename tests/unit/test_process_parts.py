"""What a process says: to its log, to the service manager, and about servers that are away."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailqueue import logs
from mailqueue.logs import Once
from mailqueue.outage import Outage
from mailqueue.service.systemd import ServiceManager, Signals
from tests.logged import event


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# Outages ----------------------------------------------------------------------------------------


def test_an_outage_is_said_once_and_its_end_with_its_length(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    outage = Outage("mongodb", clock)
    outage.end()
    outage.begin("Timeout")
    clock.now += 5
    outage.begin("Refused")
    clock.now += 2.04
    outage.end()
    outage.end()
    said = [(r.levelname, event(r), vars(r)["facts"]) for r in caplog.records]
    assert said == [
        ("ERROR", "server.lost", {"server": "mongodb", "error": "Timeout"}),
        ("WARNING", "server.recovered", {"server": "mongodb", "lost_for": 7.0}),
    ]


def test_an_end_that_another_thread_has_said_is_not_said_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage("mongodb")
    outage.begin("Timeout")

    class Overtaken(dict[str, float]):
        """Another thread was between the look and the step."""

        def pop(self, *_: object) -> None:  # type: ignore[override]  # it finds nothing
            self.clear()

    outage._since = Overtaken(outage._since)
    outage.end()
    outage.end()
    assert [event(r) for r in caplog.records] == ["server.lost"]


def test_one_caller_at_a_time_may_find_out_whether_an_outage_is_over() -> None:
    clock = Clock()
    outage = Outage("mongodb", clock)
    assert not outage.duration
    outage.begin("Timeout")
    assert outage.duration
    assert [outage.claim(10), outage.claim(10)] == [True, False]
    outage.release()
    assert outage.claim(10)
    clock.now += 10  # it was interrupted, and never gave it back
    assert outage.claim(10)


# Signals ----------------------------------------------------------------------------------------


@pytest.fixture
def stops() -> list[None]:
    """What a consumer was told."""
    return []


def test_signals_within_a_second_of_the_first_are_one(stops: list[None]) -> None:
    clock = Clock()
    signals = Signals(lambda: stops.append(None), clock)
    for after in (0.0, 0.001, 0.998):  # SIGTERM and SIGINT alike: ``timeout`` sends two
        clock.now += after
        signals.handle(15, None)
    assert len(stops) == 1


def test_a_signal_a_second_after_the_first_is_the_second_however_many_came_between(
    stops: list[None],
) -> None:
    clock = Clock()
    signals = Signals(lambda: stops.append(None), clock)
    for after in (0.0, 0.5, 0.4, 0.2):
        clock.now += after
        signals.handle(15, None)
    assert len(stops) == 2


# The service manager ----------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(2)
        yield listening


def heard(manager: socket.socket) -> list[bytes]:
    """All that was said so far."""
    manager.setblocking(False)
    said = []
    try:
        while True:
            said.append(manager.recv(100))
    except BlockingIOError:
        return said


def test_the_service_manager_hears_of_start_life_and_end(manager: socket.socket) -> None:
    clock = Clock()
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "10000000"}
    with ServiceManager(environ, clock) as service:
        for _ in range(12):
            service.keep_alive()
            clock.now += 1
    assert heard(manager) == [
        b"READY=1",
        b"WATCHDOG=1",
        b"WATCHDOG=1",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_a_service_manager_that_does_not_listen_holds_up_nobody(manager: socket.socket) -> None:
    """Its queue takes a dozen words; a blocking process would wait for it for ever."""
    with ServiceManager({"NOTIFY_SOCKET": manager.getsockname()}) as service:
        for _ in range(10_000):
            service.ready()
    assert set(heard(manager)) == {b"READY=1"}


def test_without_a_watchdog_life_is_not_said(manager: socket.socket) -> None:
    with ServiceManager({"NOTIFY_SOCKET": manager.getsockname()}) as service:
        service.keep_alive()
    assert heard(manager) == [b"READY=1", b"STOPPING=1"]


def test_an_abstract_address_begins_with_a_null_byte() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses an abstract name
        name = listening.getsockname()[1:].decode()
        with ServiceManager({"NOTIFY_SOCKET": f"@{name}"}):
            assert heard(listening) == [b"READY=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nobody/listens/here"}])
def test_without_a_service_manager_nothing_is_said(environ: dict[str, str]) -> None:
    with ServiceManager(environ) as service:
        service.keep_alive()


# The log ----------------------------------------------------------------------------------------


LOGFMT = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "=]+)(?: |$)', re.ASCII)
ODD_FACTS = [
    *("", " ", "two words", 'a"b"', "k=v", "C:\\new", "\\n", None, 7.0, True),
    *("caf\xe9", "\u65e5\u672c", "\x85\u2028\u202e", "\udc80", "\U0001f4e7\n"),
    *("\r\nERROR forged=1", "\x00\x1b[2J\x7f"),
]


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    """A logger of an application that has set up logging as ``basicConfig`` does, and its log."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    logger = logging.Logger("mailqueue.outage", logging.INFO)  # noqa: LOG001  # of this test only
    logger.addHandler(handler)
    return logger, written


def test_a_line_tells_the_facts_whoever_formats_it(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, written = log
    facts: dict[str, object] = {"server": "beanstalkd 127.0.0.1:11300", "error": "Timeout"}
    logs.event(logger, logging.ERROR, "server.lost", **facts)
    logger.handlers[0].setFormatter(logs.Formatter())
    logs.event(logger, logging.WARNING, "server.recovered", server="mongodb", lost_for=7.0)
    logs.event(logger, logging.ERROR, "results.not_recorded")
    applications, our_fault, bare = written.getvalue().splitlines()
    said = 'server.lost server="beanstalkd 127.0.0.1:11300" error=Timeout'
    assert applications == f"ERROR:mailqueue.outage:{said}"
    assert our_fault.endswith(" WARNING server.recovered server=mongodb lost_for=7.0")
    assert bare.endswith(" ERROR results.not_recorded")


def test_every_fact_can_be_read_from_the_line(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, written = log
    facts = {f"fact{n}": fact for n, fact in enumerate(ODD_FACTS)}
    logs.event(logger, logging.INFO, "vendor.raised", **facts)
    (line,) = written.getvalue().splitlines()
    assert line.isprintable()
    line = line.removeprefix("INFO:mailqueue.outage:vendor.raised ")
    assert LOGFMT.sub("", line) == ""
    read = {key: json.loads(v) if v[0] == '"' else v for key, v in LOGFMT.findall(line)}
    assert read == {key: str(fact) for key, fact in facts.items()}


def test_handlers_find_the_event_its_facts_and_where_it_was_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And one text for each kind of event, by which collectors of errors group them."""
    logger = logging.getLogger("mailqueue.outage")
    logs.event(logger, logging.ERROR, "server.lost", server="100% of it", error="Timeout")
    (record,) = caplog.records
    assert event(record) == "server.lost"
    assert vars(record)["facts"] == {"server": "100% of it", "error": "Timeout"}
    assert record.msg == "server.lost server=%s error=%s"
    assert (record.filename, record.name) == ("test_process_parts.py", "mailqueue.outage")


def test_what_nobody_listens_to_costs_no_text(log: tuple[logging.Logger, io.StringIO]) -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("it was made a text")

    logger, written = log
    logs.event(logger, logging.DEBUG, "vendor.raised", error=Costly())
    assert written.getvalue() == ""


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The root logger; what is done to ours is undone."""
    bare = logging.getLogger()
    monkeypatch.setattr(logging.getLogger("mailqueue"), "level", logging.NOTSET)
    return bare


def test_lines_that_two_threads_write_together_all_arrive_and_so_do_later_ones(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, logger = io.StringIO(), logging.getLogger("mailqueue.outage")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Formatter())
    monkeypatch.setattr(root, "handlers", [handler])
    first, second = logs.written_together(), logs.written_together()
    first.__enter__()  # as two threads may: neither block is within the other
    logs.event(logger, logging.ERROR, "one.first")
    second.__enter__()
    logs.event(logger, logging.ERROR, "one.second")
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    logs.event(logger, logging.ERROR, "one.third")
    assert [line.rpartition(" ")[2] for line in stream.getvalue().splitlines()] == [
        "one.first",
        "one.second",
        "one.third",
    ]


def test_a_process_of_ours_logs_to_standard_error(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root, "handlers", [])  # pytest puts its own there before each phase
    logs.configure()
    logs.event(root, logging.WARNING, "consumer.started", mode="simulated")
    assert capsys.readouterr().err.endswith(" WARNING consumer.started mode=simulated\n")


def test_an_application_that_has_set_up_logging_is_left_alone(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = logging.NullHandler()
    monkeypatch.setattr(root, "handlers", [mine])
    logs.configure()
    assert root.handlers == [mine]


def test_what_comes_again_and_again_is_an_error_once() -> None:
    once = Once()
    levels = [once.level("a", 1), once.level("a", 1), once.level("a", 2)]
    assert levels == [logging.ERROR, logging.DEBUG, logging.ERROR]


def test_what_is_said_once_is_remembered_within_bounds() -> None:
    once = Once()
    levels = [once.level(n) for n in range(2 * Once.REMEMBERED)]
    assert levels.count(logging.ERROR) == Once.REMEMBERED
