"""What a process says: to its log, to the service manager, and about servers that are away."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TextIO

import pytest

from mailqueue import aws_lambda, logs
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Status
from mailqueue.logs import Once
from mailqueue.outage import Outage
from mailqueue.service.systemd import ServiceManager, Signals
from tests.for_each import for_each
from tests.logged import event
from tests.waiting import wait_until


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
        for _ in range(1000):
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


@for_each("environ", [{}, {"NOTIFY_SOCKET": "/nobody/listens/here"}])
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


class Pipe:
    """What a process of ours writes, as whoever reads its standard error gets it."""

    def __init__(self, reader: BinaryIO, stream: TextIO) -> None:
        self.reader, self._stream = reader, stream
        self.use(logs.Formatter())

    def use(self, formatter: logs.Formatter) -> None:
        """Write so from now on."""
        self.lines = logs.Lines(self._stream, formatter)

    @property
    def logger(self) -> logging.Logger:
        """One that nobody but this hears; pytest's own handlers are put back by a fixture."""
        logging.getLogger().handlers[:] = [self.lines]
        logging.getLogger("mailqueue").setLevel(logging.INFO)
        return logging.getLogger("mailqueue.outage")

    def read(self) -> str:
        """The next line."""
        return self.reader.readline().decode()


@pytest.fixture
def pipe(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as read, os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(root, "handlers", [])
        yield Pipe(read, stream)


def test_a_line_is_the_same_for_an_application_and_a_process_of_ours(
    log: tuple[logging.Logger, io.StringIO], pipe: Pipe
) -> None:
    logger, written = log
    facts = {f"fact{n}": fact for n, fact in enumerate(ODD_FACTS)}
    logs.event(logger, logging.INFO, "vendor.raised", **facts)
    logs.event(pipe.logger, logging.INFO, "vendor.raised", **facts)
    line = pipe.read()
    assert line.partition(" INFO ")[2] == written.getvalue().partition("mailqueue.outage:")[2]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO ", line)


def test_the_lines_of_several_threads_all_arrive_each_whole(
    pipe: Pipe,
) -> None:
    logger = pipe.logger

    def write(n: int) -> None:
        for i in range(200):
            logs.event(logger, logging.INFO, "one.line", thread=n, number=i)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    read = [pipe.reader.readline().split()[-2:] for _ in range(800)]
    for n in range(4):
        own = [words[1] for words in read if words[0] == f"thread={n}".encode()]
        assert own == [f"number={i}".encode() for i in range(200)]


def test_whoever_else_listens_gets_a_record(root: logging.Logger, pipe: Pipe) -> None:
    """On the root, on a logger between, or as a collector of errors does: in the method's place."""
    logger, records = pipe.logger, list[str]()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(event(record))

    def tell(name: str) -> None:
        logs.event(logger, logging.INFO, name)
        assert pipe.read().split()[-1] == name

    collector = Collector()
    for place in (root, logging.getLogger("mailqueue"), logger):
        place.addHandler(collector)
        tell("one.heard")
        place.removeHandler(collector)
        tell("one.missed")
    before = logging.Logger.callHandlers

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        collector.emit(record)
        before(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.Logger, "callHandlers", call_handlers)
        tell("one.replaced")
    assert records == [*["one.heard"] * 3, "one.replaced"]


def test_an_applications_filter_sees_a_record(pipe: Pipe) -> None:
    logger = pipe.logger
    for place in (logger, pipe.lines):
        place.addFilter(lambda record: event(record) != "one.unwanted")
        logs.event(logger, logging.INFO, "one.unwanted")
        logs.event(logger, logging.INFO, "one.wanted")
        assert pipe.read().split()[-1] == "one.wanted"
        place.filters.clear()


def test_a_standard_error_that_does_not_block_loses_nothing(pipe: Pipe) -> None:
    """Another process that has it too may have made it so."""
    os.set_blocking(pipe.lines._file, False)
    logger = pipe.logger
    for n in range(200):
        logs.event(logger, logging.INFO, "one.line", number=n, long="x" * 1000)
    read = [pipe.read().split()[4] for _ in range(200)]
    assert read == [f"number={n}" for n in range(200)]


def test_nobody_waits_for_whoever_reads_the_log(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines wait; what comes beyond is dropped, and each one of them is counted."""
    monkeypatch.setattr(logs, "MAX_WAITING", 100)
    logger, long = pipe.logger, "x" * 1000

    def write(n: int) -> None:
        for i in range(500):
            logs.event(logger, logging.INFO, "one.line", thread=n, number=i, long=long)

    for _ in range(100):  # more than a pipe takes
        logs.event(logger, logging.INFO, "one.first", long=long)
    wait_until(lambda: not pipe.lines._waiting, what="the thread that writes has all")
    # It waits for a reader now, and once one comes there is no room for a further line.
    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers: list[list[int]] = [[] for _ in threads]
    dropped = 0
    lines = len(pipe.lines._waiting) + 1
    for _ in range(100):
        assert b" one.first " in pipe.reader.readline()
    for _ in range(lines):
        words = [word.rpartition(b"=")[2] for word in pipe.reader.readline().split()]
        if words[3] == b"log.dropped":
            dropped += int(words[4])
        else:
            numbers[int(words[4])].append(int(words[5]))
    assert all(each == sorted(set(each)) for each in numbers)
    assert sum(map(len, numbers)) + dropped == 2000
    logs.event(logger, logging.INFO, "one.after")
    assert pipe.read().endswith(" one.after\n")  # none was counted twice


def test_the_end_of_a_process_waits_for_its_last_lines(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for ever."""
    logger = pipe.logger
    logs.event(logger, logging.INFO, "one.last")
    pipe.lines.flush()
    os.set_blocking(pipe.reader.fileno(), False)
    assert pipe.reader.read().endswith(b" one.last\n")
    os.set_blocking(pipe.reader.fileno(), True)
    monkeypatch.setattr(logs, "FLUSH", 0.01)
    for _ in range(200):
        logs.event(logger, logging.INFO, "one.line", long="x" * 1000)
    pipe.lines.flush()
    for _ in range(200):  # the thread must be done with the pipe
        pipe.read()


def test_a_forked_child_logs_too(pipe: Pipe) -> None:
    """Its parent's thread is not in it."""
    logger = pipe.logger
    if os.fork() == 0:
        logs.event(logger, logging.INFO, "one.childs")
        pipe.lines.flush()
        os._exit(0)
    assert pipe.reader.readline().endswith(b" one.childs\n")
    os.wait()


def test_a_wrong_call_of_somebody_is_one_line_without_its_arguments(
    pipe: Pipe, capfd: pytest.CaptureFixture[str]
) -> None:
    somebody = pipe.logger.getChild("somebody")
    somebody.warning("%d e-mails", "ann@example.com")
    somebody.warning("next")
    assert pipe.read().split()[2:] == [
        *("ERROR", "log.failed", "source=mailqueue.outage.somebody", "error=TypeError")
    ]
    assert pipe.read().split()[2:] == ["WARNING", "next"]
    assert capfd.readouterr().err == ""


def test_a_fact_that_is_no_text_ends_nothing(pipe: Pipe) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    logger = pipe.logger
    logs.event(logger, logging.INFO, "one.odd", odd=Odd())
    logs.event(logger, logging.INFO, "one.next")
    assert pipe.reader.readline().endswith(b" one.odd error=RuntimeError\n")
    assert pipe.reader.readline().endswith(b" one.next\n")


# JSON --------------------------------------------------------------------------------------------


def test_a_line_of_json_has_the_facts_with_their_types(pipe: Pipe) -> None:
    """Whether it comes by a record or not."""
    pipe.use(logs.JsonFormatter())
    logger = pipe.logger
    facts = {"id": "65f1", "ms": 28.4, "lines": 3, "clean": True, "none": None, "text": 'a "b"\n'}
    logs.event(logger, logging.INFO, "one.line", **facts, status=Status.SENT, odd=float("inf"))
    logger.addHandler(other := logging.Handler(logging.CRITICAL))
    logs.event(logger, logging.ERROR, "one.record", **facts)
    logger.removeHandler(other)
    line, record = json.loads(pipe.reader.readline()), json.loads(pipe.reader.readline())
    when = datetime.fromisoformat(line.pop("time"))
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert record.pop("time")[-1] == "Z"
    head = {"level": "INFO", "logger": "mailqueue.outage", "event": "one.line"}
    # One number that JSON does not have makes them texts.
    assert line == {**head, **{k: str(v) for k, v in facts.items()}, "status": "sent", "odd": "inf"}
    assert record == {**head, "level": "ERROR", "event": "one.record", **facts}


def test_a_line_of_json_quotes_no_exception(pipe: Pipe) -> None:
    """Of other libraries, which log to the same handler."""
    pipe.use(logs.JsonFormatter())
    try:
        raise ValueError("ann@example.org")
    except ValueError:
        pipe.logger.getChild("other").exception("it failed: %s", "so")
    written = pipe.read()
    line = json.loads(written)
    assert (line["message"], line["error"]) == ("it failed: so", "ValueError")
    assert re.fullmatch(r"test_process_parts\.py:\d+ test_a_line_of_json_\w+", line["at"])
    assert "ann@" not in written


def test_an_unknown_format_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILQUEUE_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="MAILQUEUE_LOG_FORMAT: must be logfmt or json"):
        logs.configure()
    assert type(logs.format_of("json")) is logs.JsonFormatter
    monkeypatch.setenv("MAILQUEUE_LOG_FORMAT", "json")
    assert type(logs.format_of(None)) is logs.JsonFormatter
    monkeypatch.setenv("MAILQUEUE_LOG_FORMAT", "")
    assert type(logs.format_of(None)) is logs.Formatter


def test_a_process_of_ours_logs_to_standard_error(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root, "handlers", [])  # pytest puts its own there before each phase
    logs.configure()
    logs.event(root, logging.WARNING, "consumer.started", mode="simulated")
    root.handlers[0].flush()
    assert capsys.readouterr().err.endswith(" WARNING consumer.started mode=simulated\n")


@pytest.mark.parametrize("is_json", [False, True], ids=["usual", "json"])
def test_on_lambda_its_own_handler_writes_unless_json_is_asked_for(
    root: logging.Logger,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_json: bool,
) -> None:
    """No thread is started, since it would be frozen with the environment."""
    package, threads = logging.getLogger("mailqueue"), threading.active_count()
    of_lambda = io.StringIO()
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(of_lambda)])
    monkeypatch.setattr(package, "handlers", [])
    monkeypatch.setattr(package, "propagate", True)
    if is_json:
        monkeypatch.setenv("MAILQUEUE_LOG_FORMAT", "json")
    aws_lambda._configure_logs()  # its first invocation calls it
    logs.event(package.getChild("aws_lambda"), logging.INFO, "email.sent", id="65f1", ms=2.5)
    written = capsys.readouterr().err
    if is_json:
        assert json.loads(written).items() >= {"event": "email.sent", "ms": 2.5}.items()
        assert of_lambda.getvalue() == ""
    else:
        assert of_lambda.getvalue() == "email.sent id=65f1 ms=2.5\n"
        assert written == ""
    assert threading.active_count() == threads


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
