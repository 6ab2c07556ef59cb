"""The tube on a real beanstalkd, and against servers that answer badly or not at all."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

import pytest
from bson import ObjectId

from mailqueue.config import Beanstalkd as Settings
from mailqueue.config import Config
from mailqueue.devserver import Beanstalkd
from mailqueue.errors import QueueUnavailable
from mailqueue.queue.beanstalkd import tube
from mailqueue.queue.beanstalkd.broker import BeanstalkdBroker, depth
from mailqueue.queue.beanstalkd.tube import Connection, Tube
from mailqueue.queue.broker import BURIED, DELETED, LONGEST, Announcement, End, Job, release_end
from tests.integration.bench import beanstalk, next_delayed, put, ready, ready_ids
from tests.logged import event
from tests.servers import BreakableBeanstalkd
from tests.waiting import wait_until

TTR = 180
NOBODY = "127.0.0.1:1"


def one_of(tube: Tube | Connection, timeout: int = 0) -> Job | None:
    """The next job, alone."""
    return next(iter(tube.reserve(timeout)), None)


def end(job: Job, how: End = DELETED) -> None:
    """End a job, and see that the server has done it."""
    connection = job.holder
    assert isinstance(connection, Connection)
    connection.end({job: how})
    connection.flush()


def announcements(n: int, priority: int = 65_536) -> list[Announcement]:
    return [Announcement(ObjectId(), priority) for _ in range(n)]


def bodies(what: list[Announcement]) -> list[str]:
    return [str(one.email_id) for one in what]


@pytest.fixture
def settings(beanstalkd: Beanstalkd) -> Settings:
    return Settings(servers=(beanstalkd.address,), tube=f"mailqueue_test_{ObjectId()}")


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    made = Connection(settings.servers[0], settings.tube)
    yield made
    made.close()


@pytest.fixture
def waiting(settings: Settings) -> Iterator[Tube]:
    made = Tube(settings.servers[0], settings.tube)
    yield made
    made.close()


@pytest.fixture
def lonely(settings: Settings) -> Config:
    """A config of which only the tube is used."""
    return Config.from_mapping(
        {"beanstalkd": {"servers": list(settings.servers), "tube": settings.tube}}
    )


class Scripted:
    """A server that answers each line it hears with the next of its replies, then nothing more.

    Every connection starts the script anew. ``None`` hangs up.
    """

    def __init__(self, *replies: bytes | None) -> None:
        self._replies = replies
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listening.accept()
                self._open.append(connected)
                self._talk(connected)

    def _talk(self, connected: socket.socket) -> None:
        lines = connected.makefile("rb")
        greetings = [b"USING t\r\n", b"WATCHING 2\r\n", b"WATCHING 1\r\n"]
        for reply in (*greetings, *self._replies):
            lines.readline()
            if reply is None:
                connected.shutdown(socket.SHUT_RDWR)
                return
            connected.sendall(reply)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connected in self._open:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            connected.close()
        self._thread.join()


# Jobs -------------------------------------------------------------------------------------------


def test_a_job_is_the_id_of_an_email(connection: Connection, waiting: Tube, lonely: Config) -> None:
    (one,) = announcements(1)
    connection.put([one], TTR)
    job = one_of(waiting, 1)
    assert job is not None
    assert job.email_id == one.email_id
    end(job)
    assert ready(lonely) == []
    assert one_of(waiting, 0) is None


def test_a_released_job_has_the_priority_and_the_delay_that_were_asked_for(
    waiting: Tube, lonely: Config
) -> None:
    put(lonely, ObjectId(), ObjectId())
    first, second = one_of(waiting), one_of(waiting)
    assert first is not None
    assert second is not None
    end(first, release_end(512, 0))
    end(second, release_end(256, 0.2))
    assert [(job.id, job.priority) for job in ready(lonely)] == [(first.turn, 512)]
    delayed = next_delayed(lonely)
    assert delayed is not None
    assert (delayed.id, delayed.priority, delayed.delay) == (second.turn, 256, 1)


def test_a_delay_is_rounded_up_and_has_an_end(connection: Connection, lonely: Config) -> None:
    connection.put([Announcement(ObjectId(), 1, 1e12)], TTR)
    job = next_delayed(lonely)
    assert job is not None
    assert job.delay == LONGEST


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"\xff\xfe", b"A" * 24, b"a" * 25, b"a" * 24 + b"\n"]
)
def test_a_foreign_body_is_no_email_and_can_be_buried(
    waiting: Tube, lonely: Config, body: bytes
) -> None:
    put(lonely, body)
    job = one_of(waiting, 0)
    assert job is not None
    assert job.email_id is None
    end(job, BURIED)
    assert ready(lonely) == []
    assert depth(lonely.beanstalkd)["buried"] == 1


def test_jobs_that_are_ready_come_together_on_one_connection(waiting: Tube, lonely: Config) -> None:
    ids = [ObjectId() for _ in range(5)]
    put(lonely, *ids)
    first = waiting.reserve(0, 4)
    assert [job.email_id for job in first] == ids[:4]
    assert len({job.holder for job in first}) == 1
    assert [job.email_id for job in waiting.reserve(0, 4)] == ids[4:]


def test_a_connection_that_holds_a_job_does_not_wait_for_another(
    waiting: Tube, lonely: Config
) -> None:
    """Else its end would have to wait as well, and its time to run would come near."""
    put(lonely, ObjectId(), ObjectId())
    first, second = one_of(waiting), one_of(waiting)
    assert first is not None
    assert second is not None
    assert first.holder is not second.holder
    end(first)
    put(lonely, ObjectId())
    third = one_of(waiting, 0)
    assert third is not None
    assert third.holder is first.holder


def test_a_job_of_an_ended_connection_is_never_deleted_on_a_new_one(
    waiting: Tube, lonely: Config
) -> None:
    put(lonely, ObjectId())
    job = one_of(waiting, 0)
    assert job is not None
    job.holder.give_back([job])
    wait_until(lambda: ready(lonely), what="the server takes the job back")
    end(job)
    end(job, release_end(1, 0))
    assert [left.id for left in ready(lonely)] == [job.turn]


def test_closing_gives_the_jobs_back_at_once(waiting: Tube, lonely: Config) -> None:
    """Though the jobs, and so the connection, are still in somebody's hands."""
    put(lonely, ObjectId(), ObjectId())
    held = one_of(waiting), one_of(waiting)
    waiting.close()
    wait_until(lambda: len(ready(lonely)) == 2)
    assert all(held)


def test_after_a_restart_an_old_job_id_means_nothing(lonely: Config) -> None:
    """Without a binlog ids start at 1 again: the same number is another e-mail's job."""
    with BreakableBeanstalkd(binlog=False) as server:
        there = lonely.replace(beanstalkd=replace(lonely.beanstalkd, servers=(server.address,)))
        old = Tube(server.address, there.beanstalkd.tube)
        put(there, ObjectId())
        job = one_of(old, 0)
        assert job is not None
        server.restart()
        newer = ObjectId()
        put(there, newer)
        assert ready(there)[0].id == job.turn
        with pytest.raises(QueueUnavailable):
            end(job)
        end(job)
        assert ready_ids(there) == [str(newer)]
        wait_until(lambda: old.reserve(0), what="a new connection")
        old.close()


def test_a_job_that_is_no_more_ours_is_left_alone() -> None:
    """Its time to run was over: whoever gets it next will see."""
    with Scripted(b"RESERVED 1 24\r\n" + b"a" * 24 + b"\r\n", b"NOT_FOUND\r\n") as server:
        connection = Connection(server.address, "t")
        job = one_of(connection, 1)
        assert job is not None
        end(job)
        assert not connection.broken
        connection.close()


# Bad answers ------------------------------------------------------------------------------------

BROKEN: dict[str, bytes | None] = {
    "hung up": None,
    "cut line": b"RESERVED 1",
    "garbage": b"%%%\r\n",
    "unknown word": b"HELLO 1 2\r\n",
    "empty line": b"\r\n",
    "no numbers": b"RESERVED x y\r\n",
    "too few": b"RESERVED\r\n",
    "cut body": b"RESERVED 1 24\r\nabc\r\n",
    "not utf-8": b"\xff\xff\xff\r\n",
    "soon": b"DEADLINE_SOON\r\n",
    "bad format": b"BAD_FORMAT\r\n",
    "unknown command": b"UNKNOWN_COMMAND\r\n",
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_connection_that_gave_no_complete_answer_is_never_used_again(
    reply: bytes | None,
) -> None:
    cut = (reply, None) if reply and not reply.endswith(b"\r\n") else (reply,)
    with Scripted(*cut) as server:
        connection = Connection(server.address, "t", timeout=2.0)
        for _ in range(2):
            with pytest.raises(QueueUnavailable):
                connection.reserve(1)
            assert connection.broken


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_put_with_a_bad_answer_ends_the_connection(reply: bytes | None) -> None:
    cut = (b"", reply, None) if reply and not reply.endswith(b"\r\n") else (b"", reply)
    with Scripted(*cut) as server:
        connection = Connection(server.address, "t", timeout=2.0)
        with pytest.raises(QueueUnavailable):
            connection.put(announcements(1), TTR)
        assert connection.broken


@pytest.mark.parametrize(
    "reply",
    [
        b"OK 3\r\n---\r\n",
        b"OK 10\r\ncurrent-jo\r\n",
        b"OK x\r\n",
        b"OK 27\r\n---\ncurrent-jobs-ready: many\r\n",
    ],
)
def test_numbers_that_cannot_be_read_are_zero_or_trouble_but_no_surprise(reply: bytes) -> None:
    with Scripted(reply) as server:
        connection = Connection(server.address, "t", timeout=2.0)
        with contextlib.suppress(QueueUnavailable):
            assert set(connection.stats().values()) == {0}
        connection.close()


def test_a_server_that_hangs_is_given_up_in_time() -> None:
    with Scripted() as server:
        connection = Connection(server.address, "t", timeout=1.0)
        with pytest.raises(QueueUnavailable, match="Timeout"):
            connection.reserve(1)
        assert connection.broken


def test_a_server_that_does_not_greet_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(QueueUnavailable):
            Connection(address, "t", timeout=0.1)
    with pytest.raises(QueueUnavailable):
        Connection(NOBODY, "t")


@pytest.mark.parametrize("reply", [b"OUT_OF_MEMORY\r\n", b"DRAINING\r\n", b"INTERNAL_ERROR\r\n"])
def test_a_put_that_is_refused_in_so_many_words_keeps_the_connection(reply: bytes) -> None:
    with Scripted(b"", reply, b"", b"INSERTED 7\r\n") as server:
        connection = Connection(server.address, "t")
        (one,) = announcements(1)
        with pytest.raises(QueueUnavailable):
            connection.put([one], TTR)
        assert not connection.broken
        connection.put([one], TTR)
        connection.close()


def test_a_held_job_near_its_end_closes_the_connection_instead_of_spinning(
    connection: Connection, settings: Settings
) -> None:
    connection.put(announcements(1), 1)
    held = Connection(settings.servers[0], settings.tube)
    assert one_of(held, 0) is not None
    with pytest.raises(QueueUnavailable, match="DeadlineSoon"):
        held.reserve(3)
    assert held.broken


def test_a_server_in_drain_mode_takes_no_jobs_and_the_id_is_kept(lonely: Config) -> None:
    with BreakableBeanstalkd(binlog=False) as server:
        there = replace(lonely.beanstalkd, servers=(server.address,))
        announcer = BeanstalkdBroker(there, TTR, clock=iter(range(0, 10_000, 100)).__next__)
        assert len(announcer.announce(announcements(1))) == 1
        os.kill(server.pid, signal.SIGUSR1)
        wait_until(lambda: len(announcer.announce(announcements(1))) == 0, what="the drain mode")
        announcer.close()


def test_an_outage_of_a_server_is_said_once_and_so_is_its_end(
    lonely: Config, caplog: pytest.LogCaptureFixture
) -> None:
    with BreakableBeanstalkd() as server:
        consumer = Tube(server.address, lonely.beanstalkd.tube)
        server.stop()
        for _ in range(3):
            with pytest.raises(QueueUnavailable):
                consumer.reserve(0)
        server.start()
        assert one_of(consumer, 0) is None
        consumer.close()
    assert [event(r) for r in caplog.records if r.levelno >= logging.WARNING] == [
        "server.lost",
        "server.recovered",
    ]


# Announcing -------------------------------------------------------------------------------------


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def own() -> Iterator[BreakableBeanstalkd]:
    """A server to stop and start, that forgets everything."""
    with BreakableBeanstalkd(binlog=False) as server:
        yield server


def test_after_a_failed_put_the_server_is_left_alone_ever_longer(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    class Refused(Connection):
        def __init__(self, server: str, tube: str) -> None:
            tries.append(clock.now)
            raise QueueUnavailable("away")

    monkeypatch.setattr(tube, "Connection", Refused)
    announcer = BeanstalkdBroker(settings, TTR, clock)
    while clock.now < 1100:
        announcer.announce(announcements(1))
        clock.now += 0.5
    rests = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert rests == [1, 2, 4, 8, 16, 30, 30]


def test_many_threads_that_fail_at_once_are_one_failure(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first hiccup under load would silence a producer for half a minute."""
    together = threading.Barrier(8)

    class Refused(Connection):
        def __init__(self, server: str, tube: str) -> None:
            if not together.broken:
                together.wait(60)
            raise QueueUnavailable("away")

    monkeypatch.setattr(tube, "Connection", Refused)
    announcer = BeanstalkdBroker(settings, TTR, clock)
    threads = [
        threading.Thread(target=announcer.announce, args=(announcements(1),)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together.abort()
    monkeypatch.undo()
    clock.now += 1.0
    assert len(announcer.announce(announcements(1))) == 1
    announcer.close()


def test_what_could_not_be_put_goes_out_with_the_next_success_after_the_rest(
    own: BreakableBeanstalkd, lonely: Config, clock: Clock
) -> None:
    there = lonely.replace(beanstalkd=replace(lonely.beanstalkd, servers=(own.address,)))
    announcer = BeanstalkdBroker(there.beanstalkd, TTR, clock)
    first, kept, newest = announcements(1), announcements(5), announcements(1, priority=2048)
    assert len(announcer.announce(first)) == 1
    own.stop()
    assert len(announcer.announce(kept)) == 0
    own.start()
    assert len(announcer.announce([])) == 0
    assert ready(there) == []
    assert len(announcer.announce(announcements(0))) == 0
    clock.now += 0.9
    assert len(announcer.announce(kept[:1])) == 0
    clock.now += 0.2
    assert len(announcer.announce(newest)) == 1
    assert ready_ids(there) == bodies(newest + kept + kept[:1])
    announcer.close()


def test_a_connection_that_broke_while_nobody_used_it_is_no_outage(
    lonely: Config, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that was restarted is there: the next e-mail need not wait for a sweeper."""
    with BreakableBeanstalkd() as server:
        there = replace(lonely.beanstalkd, servers=(server.address,))
        announcer = BeanstalkdBroker(there, TTR, clock)
        assert len(announcer.announce(announcements(1))) == 1
        server.restart()
        assert len(announcer.announce(announcements(1))) == 1
        assert caplog.messages == []
        announcer.close()


def test_at_most_ten_thousand_are_kept_and_the_newest_of_them(
    settings: Settings, clock: Clock, lonely: Config
) -> None:
    announcer = BeanstalkdBroker(replace(settings, servers=(NOBODY,)), TTR, clock)
    what = announcements(10_050)
    assert len(announcer.announce(what)) == 0
    assert list(announcer._announcer._backlog) == what[50:]
    announcer.close()


def test_another_server_takes_the_jobs_of_one_that_is_away(
    settings: Settings, lonely: Config, clock: Clock
) -> None:
    announcer = BeanstalkdBroker(replace(settings, servers=(NOBODY, *settings.servers)), TTR, clock)
    what = announcements(6)
    assert len(announcer.announce(what)) == 6
    assert sorted(ready_ids(lonely)) == bodies(what)
    announcer.close()


def test_jobs_are_spread_over_all_servers(
    settings: Settings, own: BreakableBeanstalkd, clock: Clock
) -> None:
    both = replace(settings, servers=(*settings.servers, own.address))
    announcer = BeanstalkdBroker(both, TTR, clock)
    announcer.announce(announcements(10))
    config = Config.from_mapping({"beanstalkd": {"servers": list(both.servers), "tube": both.tube}})
    for server in range(2):
        with beanstalk(config, server) as client:
            assert client.stats_tube(both.tube)["current-jobs-ready"] == 5
    assert depth(both)["ready"] == 10
    own.stop()
    assert depth(both)["ready"] == 5
    announcer.close()


def test_the_depth_of_a_tube_without_jobs_is_zero_and_of_no_server_is_trouble(
    settings: Settings,
) -> None:
    assert set(depth(settings).values()) == {0}
    with pytest.raises(QueueUnavailable):
        depth(replace(settings, servers=(NOBODY,)))


def test_the_depth_is_told_by_the_servers_that_answer_in_full(settings: Settings) -> None:
    with Scripted(None) as cuts:
        both = replace(settings, servers=(cuts.address, *settings.servers))
        assert set(depth(both).values()) == {0}


def test_each_thread_announces_on_its_own_connection(
    settings: Settings, lonely: Config, clock: Clock
) -> None:
    announcer = BeanstalkdBroker(settings, TTR, clock)
    opened: list[Connection] = []

    def announce() -> None:
        announcer.announce(announcements(5))
        announcer.announce(announcements(5))
        opened.extend(announcer._connections._connections.values())

    threads = [threading.Thread(target=announce) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, opened))) == 8
    assert len(ready(lonely)) == 80
    close: Callable[[], None]
    for close in [each.close for each in opened]:
        close()
