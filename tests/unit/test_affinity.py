"""Which core a process keeps to. What cores do is invented; nothing is pinned for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailqueue.consumer.affinity import CpuAffinity


class Machine:
    """Two cores, their idle times, and the clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.now, self.used, self.rand = folder, 0.0, 0.0, 0.0
        self.idle = [0, 0]
        self.pinned: list[set[int]] = []
        (folder / "self" / "task" / "1").mkdir(parents=True)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr("os.sched_setaffinity", lambda _, cores: self.pinned.append(cores))
        monkeypatch.setattr("mailqueue.consumer.affinity._TICKS", 100)
        monkeypatch.setattr("time.process_time", lambda: self.used)
        self._write()
        self.core = CpuAffinity(lambda: self.now, lambda: self.rand, folder)

    def _write(self) -> None:
        lines = ["cpu  9 9 9 9 9", *(f"cpu{n} 1 0 1 {t} 0 0" for n, t in enumerate(self.idle))]
        (self.folder / "stat").write_text("\n".join([*lines, "intr 1"]))

    def passes(self, *idle: int, used: float = 0.5) -> None:
        """A second in which the cores were so idle (in hundredths) and we used so much."""
        self.now += 1.0
        self.used += used
        self.idle = [t + more for t, more in zip(self.idle, idle, strict=True)]
        self._write()
        self.core.stay()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_busy_process_goes_to_the_idlest_core_and_stays_there(machine: Machine) -> None:
    machine.passes(20, 70)
    machine.passes(60, 40)
    machine.passes(50, 50)
    assert machine.pinned == [{1}]


def test_a_process_that_does_little_is_left_to_the_kernel(machine: Machine) -> None:
    machine.passes(20, 70, used=0.05)
    assert machine.pinned == []


def test_a_process_moves_when_another_core_is_much_idler_with_even_odds(machine: Machine) -> None:
    machine.passes(20, 70)
    machine.rand = 0.9
    machine.passes(80, 10)
    assert machine.pinned == [{1}]
    machine.rand = 0.1
    machine.passes(80, 10)
    assert machine.pinned == [{1}, {0}]


def test_it_looks_around_once_a_second(machine: Machine) -> None:
    machine.now += 0.5
    machine.core.stay()
    assert machine.pinned == []


def test_where_the_system_tells_nothing_nothing_is_done(machine: Machine) -> None:
    (machine.folder / "stat").unlink()
    machine.now += 1.0
    machine.used += 1.0
    machine.core.stay()
    assert machine.pinned == []
