"""The private servers: what they promise to tests, to the quickstart and to a developer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from mailqueue.config import Config, MongoDBQueue
from mailqueue.devserver import Beanstalkd, Mongod, devserver, process
from mailqueue.devserver.devserver import devservers
from mailqueue.devserver.process import HOST, Server, ServerDidNotStart, ServerNotFound
from mailqueue.producer import Producer
from tests.integration.bench import MAIL
from tests.servers import BreakableBeanstalkd, BreakableMongod
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures(
    "mongod", "beanstalkd"
)  # skip, or fail in CI, without binaries


def ask(server: Beanstalkd, command: str, timeout: float = 5) -> str:
    with socket.create_connection((HOST, server.port), timeout) as connection:
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(4096).decode()


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers started by this test put their data."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_mongod_is_a_replica_set_that_takes_writes_when_start_returns() -> None:
    with Mongod() as server, MongoClient[dict[str, Any]](server.uri) as client:
        with client.start_session() as session, session.start_transaction():
            client.tests.things.insert_one({"_id": 1}, session=session)
        assert client.tests.things.count_documents({}) == 1
        assert client.admin.command("serverStatus")["storageEngine"]["persistent"]


def test_mongod_keeps_port_and_data_when_it_is_killed_and_started_again() -> None:
    with Mongod() as server, MongoClient[dict[str, Any]](server.uri) as client:
        things = client.tests.get_collection("things")
        things.insert_one({"_id": 1})
        uri = server.uri
        server.kill()
        assert not server.is_running
        server.start()
        assert server.uri == uri
        assert things.count_documents({}) == 1


def test_test_commands_are_allowed_only_where_they_are_asked_for() -> None:
    for kind in (Mongod, BreakableMongod):
        with kind() as server, MongoClient[Any](server.uri) as client:
            parameters = client.admin.command({"getParameter": 1, "enableTestCommands": 1})
            assert parameters["enableTestCommands"] is (kind is BreakableMongod)


def test_beanstalkd_keeps_its_jobs_with_a_binlog_and_forgets_them_without() -> None:
    for binlog, answer in ((True, "FOUND 1 4"), (False, "NOT_FOUND")):
        with BreakableBeanstalkd(binlog=binlog) as server:
            assert ask(server, "put 0 0 60 4\r\nbody").startswith("INSERTED 1")
            server.kill()
            server.start()
            assert ask(server, "peek 1").startswith(answer)


def test_a_failed_restart_keeps_the_data_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with Beanstalkd() as server:
        assert ask(server, "put 0 0 60 4\r\nbody").startswith("INSERTED 1")
        server.kill()
        with monkeypatch.context() as broken:
            broken.setenv("MAILQUEUE_BEANSTALKD", "false")
            with pytest.raises(ServerDidNotStart):
                server.start()
        server.start()
        assert ask(server, "peek 1").startswith("FOUND 1 4")


def test_a_paused_server_answers_again_when_it_is_resumed_and_can_be_stopped() -> None:
    with BreakableBeanstalkd() as server:
        server.pause()
        with pytest.raises(TimeoutError):
            ask(server, "stats", timeout=0.05)
        server.resume()
        assert ask(server, "stats").startswith("OK")
        server.pause()
        server.stop()
        assert not server.is_running


def test_extra_arguments_reach_the_server() -> None:
    with Beanstalkd("-z", "10") as server:
        assert ask(server, "put 0 0 60 11\r\nelevenbytes").startswith("JOB_TOO_BIG")


def test_close_leaves_no_process_and_no_file(folder: Path) -> None:
    with devservers() as servers:
        pids = [server.pid for server in servers.running]
        assert len(list(folder.iterdir())) == 2
    assert not any(is_alive(pid) for pid in pids)
    assert not list(folder.iterdir())


def test_mongodb_alone_needs_no_beanstalkd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find", mongod_only(process.find))
    with devservers(queue=False) as servers:
        assert len(list(folder.iterdir())) == 1
        config = Config.from_mapping(servers.config)
        assert isinstance(config.broker, MongoDBQueue)
    assert not list(folder.iterdir())


def mongod_only(find: Callable[[str], Path]) -> Callable[[str], Path]:
    """As where beanstalkd is not installed."""

    def find_mongod(name: str) -> Path:
        if name != Mongod.name:
            raise ServerNotFound(name)
        return find(name)

    return find_mongod


@pytest.mark.parametrize("kind", [Mongod, Beanstalkd])
def test_a_port_that_somebody_else_took_first_is_given_up_for_another(
    kind: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind() as other:
        free = other.port + 1 if other.port + 1 in process.PORTS else other.port - 1
        ports = iter([other.port, free])
        monkeypatch.setattr("random.choice", lambda _: next(ports))
        with kind() as server:
            assert server.port == free
            assert other.is_running


@pytest.mark.parametrize("kind", [BreakableMongod, BreakableBeanstalkd])
def test_only_the_server_that_was_started_counts_as_ready(
    kind: type[BreakableMongod | BreakableBeanstalkd], monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind() as server, kind() as other:
        assert server._is_ready()
        monkeypatch.setattr(devserver, "ANSWER_TIMEOUT", 0.1)
        server.pause()
        assert not server._is_ready()
        server.port = other.port
        assert not server._is_ready()


def test_a_server_that_does_not_stop_when_told_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = folder / "deaf"
    ready = folder / "ready"
    deaf.write_text(f"#!/bin/sh\ntrap '' TERM\ntouch {ready}\nwhile :; do sleep 0.1; done\n")
    deaf.chmod(0o755)
    monkeypatch.setenv("MAILQUEUE_BEANSTALKD", str(deaf))
    monkeypatch.setattr(process, "STOP_TIMEOUT", 0.2)
    monkeypatch.setattr(Beanstalkd, "_is_ready", lambda _: ready.exists())
    with Beanstalkd() as server:
        server.stop()
        assert not server.is_running


@pytest.mark.parametrize(
    "server", [Mongod("--no-such-option"), Beanstalkd("-y")], ids=["mongod", "beanstalkd"]
)
def test_a_server_that_cannot_start_says_why_and_leaves_nothing(
    server: Server, folder: Path
) -> None:
    with pytest.raises(ServerDidNotStart, match=r"unknown flag|no-such-option"):
        server.start()
    assert not list(folder.iterdir())


def test_a_server_that_hangs_is_given_up_with_its_last_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = folder / "hanging"
    hanging.write_text("#!/bin/sh\necho no disk today\nexec sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("MAILQUEUE_BEANSTALKD", str(hanging))
    monkeypatch.setattr(process, "START_TIMEOUT", 0.2)
    server = Beanstalkd()
    with pytest.raises(ServerDidNotStart, match="no disk today"):
        server.start()
    assert not server.is_running
    assert list(folder.iterdir()) == [hanging]


def test_a_server_restarted_by_a_thread_outlives_that_thread() -> None:
    with BreakableBeanstalkd() as server:
        restarter = threading.Thread(target=server.restart)
        restarter.start()
        restarter.join()
        assert ask(server, "stats").startswith("OK")


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``python -m mailqueue.devserver`` as a child process."""
    program = [sys.executable, "-m", "mailqueue.devserver", *arguments]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def servers_of(pid: int) -> list[int]:
    """Its child processes, whichever of its threads forked them."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(n) for task in tasks for n in (task / "children").read_text().split()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_the_two_config_keys_and_a_signal_ends_it_cleanly(
    how: signal.Signals, folder: Path
) -> None:
    with command("--json") as child:
        assert child.stdout
        config = json.loads(child.stdout.readline())
        pids = servers_of(child.pid)
        assert len(pids) == 2
        with MongoClient[Any](config["mongodb"]["uri"]) as client:
            assert client.admin.command("ping")["ok"]
        host, _, port = config["beanstalkd"]["servers"][0].partition(":")
        socket.create_connection((host, int(port))).close()
        child.send_signal(how)
        assert child.wait(30) == 0
    assert not any(is_alive(pid) for pid in pids)
    assert not list(folder.iterdir())


def test_without_json_the_command_explains_what_to_do_with_the_addresses() -> None:
    with command() as child:
        assert child.stdout
        said = "".join(iter(child.stdout.readline, "}\n"))
        child.send_signal(signal.SIGINT)
        said += child.stdout.read()
    assert '"uri": "mongodb://127.0.0.1:' in said
    assert '"servers": [' in said
    assert "Ctrl-C" in said


def test_the_command_ends_when_one_of_its_servers_does() -> None:
    with command("--json") as child:
        assert child.stdout
        assert child.stderr
        child.stdout.readline()
        os.kill(servers_of(child.pid)[0], signal.SIGKILL)
        assert child.wait(30) == 1
        assert child.stderr.read() == "beanstalkd ended by itself: all is stopped\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's part is Linux's")
def test_servers_die_with_a_parent_that_is_killed(folder: Path) -> None:
    with command("--json") as child:
        assert child.stdout
        child.stdout.readline()
        pids = servers_of(child.pid)
        assert len(pids) == 2
        child.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), what="both servers are gone")


def test_the_command_names_all_that_is_missing_and_exits_with_3() -> None:
    nowhere = {"MAILQUEUE_MONGOD": "/nowhere/mongod", "MAILQUEUE_BEANSTALKD": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-m", "mailqueue.devserver"],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert "MAILQUEUE_MONGOD" in done.stderr
    assert "MAILQUEUE_BEANSTALKD" in done.stderr


def test_the_largest_email_fits_into_the_private_servers_cache(config: Config) -> None:
    """What cannot be compressed: MongoDB refuses a write that its cache is too small for."""
    content = os.urandom(config.limits.max_size - 10_000)
    with Producer(config) as producer:
        assert producer.send({**MAIL, "attachments": [{"filename": "a", "content": content}]})
