"""What threads share, and threads that die: nothing is lost, doubled, or waited for in vain."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import signal
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mailqueue import logs
from mailqueue.callbacks.due import DueCallbacks
from mailqueue.callbacks.poster import Answer
from mailqueue.callbacks.responder import Responder
from mailqueue.config import Callbacks, Config, VendorConfig
from mailqueue.config.reload import Source
from mailqueue.consumer import hook, meter
from mailqueue.consumer.affinity import CpuAffinity
from mailqueue.errors import MissingExtra
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.limits import Limits
from mailqueue.routing.reservations import Reservations
from mailqueue.routing.router import REFUSALS_IN_A_ROW, Router
from mailqueue.service import Service, ServiceManager, run_async
from mailqueue.store.ends import EmailEnd
from mailqueue.store.store import Store
from mailqueue.vendors.aws.credentials import FAILURE_SECONDS, Chain
from mailqueue.vendors.wire import idle
from mailqueue.vendors.wire.deadline import Call, Watchdog
from mailqueue.vendors.wire.smtp_connection import Connection
from mailqueue.vendors.wire.smtp_pool import Pool
from tests.waiting import wait_until

THREADS = 4


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[], object], times: int = 1) -> None:
    """Have ``THREADS`` threads do it so often at once; raises what one of them raised."""
    errors: deque[BaseException] = deque()
    barrier = threading.Barrier(THREADS)

    def run() -> None:
        try:
            barrier.wait()
            for _ in range(times):
                work()
        except BaseException as error:  # noqa: BLE001  # raised below, in the test's thread
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# What threads share -------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurried")
def test_all_threads_may_learn_the_servers_clock() -> None:
    """An exception there would end a fetcher or the writer, and so the consumer."""
    limits = Limits(cast("Reservations", None))
    together(lambda: limits.learn_clock(time.time()), 500)
    assert abs(limits.now() - time.time()) < 60


class Slow(hook.Hook):
    """A hook that is interrupted whenever its count is read."""

    @property
    def dropped(self) -> int:
        time.sleep(0)
        return int(self.__dict__["dropped"])

    @dropped.setter
    def dropped(self, number: int) -> None:
        self.__dict__["dropped"] = number


@pytest.mark.usefixtures("hurried")
def test_each_end_that_a_hook_has_no_room_for_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hook, "ROOM", 1)
    goes_on = threading.Event()
    mine = Slow(lambda _: goes_on.wait(60))
    end = cast("EmailEnd", SimpleNamespace(id="1"))
    mine.put(end)
    wait_until(lambda: not mine._ends.qsize(), what="the hook has it")
    mine.put(end)
    together(lambda: mine.put(end), 200)
    assert mine.dropped == 200 * THREADS
    assert [vars(r)["event"] for r in caplog.records] == ["hook.full"]
    goes_on.set()
    mine.close(60)


class Interrupted(Counter[str]):
    """Counts that are interrupted between reading and writing."""

    def __getitem__(self, key: str) -> int:
        number = super().__getitem__(key)
        time.sleep(0)
        return number


@pytest.mark.usefixtures("hurried")
def test_a_responder_counts_each_callback_that_its_threads_settle() -> None:
    now = datetime.now(UTC)
    stored = SimpleNamespace(facts={}, document={}, now=now)
    entry = {"tries": 1, "since": now}
    callback: Any = SimpleNamespace(stored=stored, id="1", type="email.sent", entry=entry)
    due: Any = SimpleNamespace(settle=lambda *_: 0.0, url=lambda _: "")
    responder = Responder(cast("DueCallbacks", due), Callbacks())
    responder.counts = Interrupted(responder.counts)
    together(lambda: responder._settle(callback, Answer("200"), 1), 200)
    assert responder.counts["delivered"] == 200 * THREADS


class Slowly:
    """Is told from others in several steps."""

    def __hash__(self) -> int:
        time.sleep(0)
        return 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slowly)


@pytest.mark.usefixtures("hurried")
def test_of_threads_that_see_the_same_bug_one_logs_an_error() -> None:
    for _ in range(100):
        once, levels = logs.Once(), deque[int]()
        together(lambda once=once, levels=levels: levels.append(once.level(Slowly())))  # type: ignore[misc]  # bound
        assert levels.count(logging.ERROR) == 1


class SlowId(str):
    """An id that is looked up in several steps."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


@pytest.mark.usefixtures("hurried")
def test_of_many_emails_that_a_vendor_refuses_at_once_one_is_the_last_of_the_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store: Any = SimpleNamespace(collection=lambda _: None)
    health = VendorHealth(cast("Store", store), ["first"])
    config = Config.from_mapping({"mongodb": {"uri": "mongodb://127.0.0.1"}})
    result = SendResult(outcome=Outcome.REJECTED, code="550")
    for _ in range(50):
        limits = Limits(cast("Reservations", None))
        router, numbers = Router(config, health, {}, limits=limits), count()
        router._refusals["first"] = {SlowId(n) for n in range(REFUSALS_IN_A_ROW - 1)}
        caplog.clear()
        together(lambda r=router, n=numbers: r._refuses_all("first", SlowId(f"x{next(n)}"), result))  # type: ignore[misc]  # bound
        assert [vars(r)["event"] for r in caplog.records] == ["vendor.refused_all"]


def test_all_threads_share_what_is_learned_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, made = threading.Barrier(THREADS), idle.IdleLimit.__init__

    def make(self: idle.IdleLimit) -> None:
        barrier.wait(60)  # until all have found that there is none
        made(self)

    monkeypatch.setattr(idle.IdleLimit, "__init__", make)
    limits = deque[idle.IdleLimit]()
    together(lambda: limits.append(idle.limit_of("races.example")))
    assert len(set(limits)) == 1


def test_a_slow_reading_does_not_undo_what_operators_asked_for_since() -> None:
    store: Any = SimpleNamespace(collection=lambda _: None)
    health = VendorHealth(cast("Store", store), ["first"])
    hold = {"_id": "all", "kind": "all", "name": "", "active": True, "by": "ann", "reason": ""}
    health._learn_controls([hold | {"at": datetime.now(UTC), "history": []}], at=2.0)
    assert health.controls.everything
    health._learn_controls([], at=1.0)
    assert health.controls.everything
    health._learn_controls([], at=3.0)
    assert not health.controls.everything


class Disk:
    """What takes lines until it is full; then a part of one."""

    def __init__(self) -> None:
        self.content, self.room = bytearray(), 0

    def write(self, _: int, octets: bytes) -> int:
        """As ``os.write``."""
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = octets[: self.room]
        self.room -= len(taken)
        self.content += taken
        return len(taken)


def test_lines_that_a_full_disk_does_not_take_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk()
    monkeypatch.setattr(logs, "FLUSH", 60)
    with (tmp_path / "log").open("w") as stream:
        lines = logs.Lines(stream, logs.Formatter())
        monkeypatch.setattr(logs, "os", disk)
        disk.room = 75
        lines.put([f"first {n:044}" for n in range(10)])  # one and a half of 50 are written
        lines.flush()
        lines.put([f"second {n:043}" for n in range(10)])  # none is
        lines.flush()
        disk.room = 1000
        lines.put(["third"])
        lines.flush()
        lines.put(["fourth"])
        lines.flush()
    written = disk.content.decode().splitlines()
    assert written[:3] == [f"first {0:044}", f"first {1:044}", "third"]
    assert written[3].endswith("WARNING log.dropped lines=18")
    assert written[4:] == ["fourth"]


# Threads that die, or do not start ----------------------------------------------------------------


def test_a_check_of_credentials_that_breaks_is_not_the_last_one() -> None:
    """Else every caller would wait for it, for ever."""

    class Source:
        now = 100.0
        is_broken = True

        def get_frozen_credentials(self) -> Any:
            return SimpleNamespace(access_key="a", secret_key="s", token=None)

        def refresh_needed(self, refresh_in: float) -> bool:
            if self.is_broken:
                raise AttributeError
            return False

    source = Source()
    chain = Chain(lambda: source, lambda: source.now)
    failure = chain.current(time.monotonic() + 60)
    assert isinstance(failure, SendResult)
    assert (failure.outcome, failure.detail) == (Outcome.UNAVAILABLE, "AttributeError")
    source.is_broken = False
    source.now += FAILURE_SECONDS
    assert not isinstance(chain.current(time.monotonic() + 60), SendResult)


def test_a_watchdog_that_could_not_be_started_is_started_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watchdog, call = Watchdog(), Call(0.0)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            watchdog.add(call)
    watchdog.add(call)
    wait_until(lambda: call.was_shut)


def test_one_thread_looks_after_idle_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if one comes back while others are being closed."""
    monkeypatch.setattr("mailqueue.vendors.wire.smtp_pool.IDLE_LOOK", 0.01)
    keys = {"host": "127.0.0.1", "port": 1, "tls": "none"}
    pool = Pool(VendorConfig(name="races", type="smtp", keys=keys))
    places: Any = SimpleNamespace(wanted=False, is_wanted=lambda: places.wanted)
    pool._places = places

    before = set(threading.enumerate())  # other tests' pools may have one, too

    def watching() -> int:
        threads = set(threading.enumerate()) - before
        return sum(thread.name == "smtp-idle" for thread in threads)

    class Idle:
        used_at = 0.0
        closed = threading.Event()

        def __init__(self, *others: Idle) -> None:
            self.others = others

        def say_goodbye(self) -> bool:
            places.wanted = False
            for each in self.others:
                pool.give(cast("Connection", each), 0.0)
            return True

        def close(self) -> None:
            self.closed.set()

    pool.join()
    pool.give(cast("Connection", Idle(Idle())), 0.0)
    places.wanted = True
    assert Idle.closed.wait(60)
    wait_until(lambda: watching() == 1, what="one thread watches")
    places.wanted = True
    wait_until(lambda: not watching(), what="none watches, as there is none")


def test_a_meter_outlives_whoever_reads_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "MOST", 10)
    mine, left = meter.Meter(), [False, False, True]

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    for _ in range(100):
        mine.measure(lambda: None)
    assert len(mine._took) == 10  # while nobody takes a line
    stop = cast("threading.Event", SimpleNamespace(wait=lambda _: left.pop(0)))
    mine.run(stop, Gone())
    assert not left


def test_a_process_keeps_to_its_core_while_no_file_can_be_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pinned: list[set[int]] = []
    now, looks = [0.0], deque[bool]()
    stat, tasks = tmp_path / "stat", tmp_path / "self" / "task"
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("os.sched_setaffinity", lambda _, cores: pinned.append(cores))
    monkeypatch.setattr("time.process_time", lambda: now[0])
    (tasks / "1").mkdir(parents=True)

    def idle_times(*ticks: int) -> None:
        stat.write_text("\n".join(f"cpu{n} 1 0 1 {each} 0" for n, each in enumerate(ticks)))

    idle_times(9000, 0)
    core = CpuAffinity(lambda: now[0], lambda: 0.0, tmp_path)

    def look(_: float) -> bool:
        now[0] += 1.0
        return looks.popleft()

    def watch() -> None:
        looks.extend([False, True])
        core._watch()

    core._over = cast("threading.Event", SimpleNamespace(wait=look))
    idle_times(9010, 90)
    watch()
    assert pinned == [{1}]
    stat.unlink()
    tasks.rename(tmp_path / "elsewhere")
    watch()
    idle_times(9030, 110)
    watch()  # neither core is idler; what they were before the gap says nothing
    idle_times(9130, 110)
    watch()  # the other one is, and nothing can be done about it
    assert pinned == [{1}]


# The frame of a server process --------------------------------------------------------------------


def test_a_process_that_may_open_no_more_files_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", refuse)
    with ServiceManager({"NOTIFY_SOCKET": "/run/manager", "WATCHDOG_USEC": "1"}) as manager:
        manager.keep_alive()


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of before come back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_bug_while_the_configuration_is_read_again_ends_the_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Otherwise nobody would ever read it again, nor tell the service manager that it lives."""

    async def serve(service: Service, stopping: asyncio.Event) -> None:
        service.reload = dict[str, str]().__getitem__  # type: ignore[assignment]  # a bug
        service.ready("nowhere")
        service.ask_for_reload()
        async with asyncio.timeout(60):
            await stopping.wait()

    with pytest.raises(TypeError, match="exactly one argument"):
        run_async("races", serve)
    assert capsys.readouterr().out


def test_a_reload_for_which_a_package_is_missing_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def check(_: object) -> None:
        raise MissingExtra("events", "cryptography", "a vendor signs its events")

    file = tmp_path / "config.json"
    file.write_text("{}")
    source = Source(file, ())
    assert source.read(Config.load(file, secrets=False), check) is None
    (record,) = caplog.records
    assert (vars(record)["event"], record.levelname) == ("config.rejected", "ERROR")
    assert "cryptography" in record.getMessage()
