"""The benchmark: mailqueue beside what people would pick instead, on servers of its own.

::

    python tests/bench/run.py                                 everything (up to 90 minutes)
    python tests/bench/run.py --only mailqueue,raw,drain      some contenders, some tests
    python tests/bench/run.py --quick --only mailqueue,raw    a smoke test (2 minutes)

Decides: the order. Within a test the contenders take turns, round by round, so that a machine whose
speed drifts does so for all of them; what is compared was measured within minutes, and ratios are
taken within a round. Each measurement is written down at once (``--results``): a run that was
interrupted goes on where it stopped, unless ``--fresh``.

Virtual environments and servers are its own; nothing is left running.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
VENV = Path(os.environ.get("MAILQUEUE_VENV", REPO / ".venv"))

try:
    import mailqueue.devserver  # noqa: F401  # with all that it needs
except ImportError:  # run by any Python: set up the project's own, and go on there
    if os.environ.get("MAILQUEUE_BENCH_SET_UP"):
        raise
    SET_UP = 'source "$1/examples/setup.sh"; set_up dev'
    subprocess.run(["bash", "-euc", SET_UP, "-", str(REPO)], check=True)
    own = str(VENV / "bin" / "python")
    os.execve(own, [own, *sys.argv], os.environ | {"MAILQUEUE_BENCH_SET_UP": "1"})

sys.path.insert(0, str(REPO))

from mailqueue.devserver import Beanstalkd, Mongod  # noqa: E402  # the path is set above
from tests.bench import measure  # noqa: E402  # the same
from tests.bench.contenders import ALL, CONTENDERS, Contender  # noqa: E402  # the same
from tests.bench.measure import Failed, Figures, Place  # noqa: E402  # the same
from tests.bench.vendor import Endpoint, HttpVendor, Nginx, has_nginx  # noqa: E402  # the same

ROUNDS = 3
SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "1m": 1_000_000}
QUICK = (
    *("enqueue-1", "enqueue-32", "bulk", "drain"),
    *("deliver-0ms-x8", "deliver-50ms-x64", "latency"),
)
ENVIRONMENTS = VENV / "bench"
FOR_THE_HARNESS = {"endpoint": ("uvloop",), "report": ("matplotlib",)}


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of a virtual environment of this name; made at the first call."""
    folder = ENVIRONMENTS / name
    mark = folder / "installed"
    wanted = " ".join(packages)
    if not mark.exists() or mark.read_text() != wanted:
        say(f"installing {wanted} ...")
        if not (folder / "bin" / "python").exists():
            venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        pip += ["--disable-pip-version-check", "--root-user-action=ignore"]
        subprocess.run([*pip, *packages], check=True)
        mark.write_text(wanted)
    return folder / "bin" / "python"


class RoomyMongod(Mongod):
    """With the memory of a server rather than that of a test."""

    def _options(self, folder: Path) -> Sequence[str]:
        larger = {"--wiredTigerCacheSizeGB": "2", "--oplogSize": "2048"}
        options = list(super()._options(folder))
        for name, value in larger.items():
            options[options.index(name) + 1] = value
        return options


class UsualBeanstalkd(Beanstalkd):
    """With a binlog that is synchronised as it is by default, every 50 ms."""

    def _options(self, folder: Path) -> Sequence[str]:
        return [option for option in super()._options(folder) if option != "-f0"]


class Bench:
    """The servers and vendors of a run, each started when it is first needed."""

    def __init__(self, stack: ExitStack, options: argparse.Namespace) -> None:
        self._stack = stack
        self._options = options
        self._brokers: dict[str, str] = {}
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))

    def place(self, contender: Contender) -> Place:
        """Where the contender runs."""
        python = Path(sys.executable)
        if contender.packages:
            python = environment(Path(contender.script).stem, contender.packages)
        folder = self._folder / contender.name
        folder.mkdir(exist_ok=True)
        (folder / "done").unlink(missing_ok=True)
        broker = self._broker(contender.server)
        return Place(contender, python, broker, folder, self._options.quick)

    def _broker(self, name: str) -> str:
        if name not in self._brokers:
            ours = name.partition("+")[0] == "mongodb"
            start = self._own_servers if ours else self._peers_server
            self._brokers[name] = (self._postfix if name == "postfix" else start)(name)
        return self._brokers[name]

    def _peers_server(self, name: str) -> str:
        from tests.bench.servers import SERVERS, get_missing

        get_missing()
        server = self._stack.enter_context(SERVERS[name]())
        url: str = server.url  # type: ignore[attr-defined]  # each of them has one
        return url

    def _postfix(self, _: str) -> str:
        from tests.postfix import AcceptingPostfix, missing

        if problem := missing():
            raise Failed(problem)
        return self._stack.enter_context(AcceptingPostfix()).url

    def _own_servers(self, name: str) -> str:
        mongod = self._stack.enter_context(RoomyMongod())
        file = self._folder / f"{name}.json"
        config = {
            "mongodb": {"uri": mongod.uri, "database": "bench"},
            "queue": self._queue(name.partition("+")[2]),
        }
        file.write_text(json.dumps(config))
        return str(file)

    def _queue(self, kind: str) -> dict[str, Any]:
        """The queue's section; of servers as people have them."""
        if kind == "beanstalkd":
            server = self._stack.enter_context(UsualBeanstalkd())
            return {"type": kind, "servers": [server.address], "tube": "bench"}
        if kind == "redis":
            return {"type": kind, "url": self._broker(kind), "tube": "bench"}
        return {"type": "mongodb"}

    @contextmanager
    def vendor(self, delay: float, *, timed: bool = False) -> Iterator[HttpVendor]:
        """A fresh vendor."""
        python = environment("endpoint", FOR_THE_HARNESS["endpoint"])
        at_once = not delay and not timed and has_nginx()
        with Nginx() if at_once else Endpoint(python, delay) as server:
            yield server

    def measure(self, test: str, contender: Contender) -> Figures:
        """One measurement."""
        place = self.place(contender)
        kind, _, rest = test.partition("-")
        if kind == "enqueue":
            return measure.enqueue(place, int(rest))
        if kind == "bulk":
            return measure.bulk(place)
        if kind == "post":
            from tests.bench.servers import get_missing

            get_missing()
            return measure.post(place, int(rest))
        if kind == "events":
            return measure.events(place, int(rest))
        if kind == "smtp":
            return measure.smtp(place, int(rest))
        if kind == "drain":
            return measure.rate(place, contender.pace, contender.drain_at)
        if kind == "growth":
            return measure.growth(place, SIZES[rest])
        if kind == "failover":
            return self._failover(place)
        if kind == "deliver":
            return self._deliver(place, *rest.split("-"))
        idle = measure.latency if kind == "latency" else measure.memory
        with self.vendor(0.0, timed=True) as vendor:
            return idle(place, vendor)

    def _deliver(
        self, place: Place, delay: str, concurrency: str, processes: str = "1p"
    ) -> Figures:
        seconds = int(delay.removesuffix("ms")) / 1000
        at_a_time = int(concurrency.removeprefix("x"))
        number = int(processes.removesuffix("p"))
        most = number * at_a_time / seconds if seconds else min(place.contender.pace, 6000)
        with self.vendor(seconds) as vendor:
            expected = min(most, place.contender.pace * number)
            return measure.rate(place, expected, at_a_time, [vendor], number)

    def _failover(self, place: Place) -> Figures:
        with ExitStack() as stack:
            vendors = [stack.enter_context(self.vendor(0.05, timed=True)) for _ in range(3)]
            return measure.failover(place, vendors)


# The run -----------------------------------------------------------------------------------------


def tests_of(contender: Contender) -> list[str]:
    named = [f"growth-{size}" for size in SIZES] if "growth" in contender.tests else []
    return [*(t for t in contender.tests if t != "growth"), *named]


class Run:
    """Rounds of measurements, each written down at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._file = Path(options.results)
        fresh = options.fresh or not self._file.exists()
        self.cells: list[Figures] = [] if fresh else json.loads(self._file.read_text())

    def go(self) -> int:
        """Measure what is missing; returns how many measurements failed."""
        failed = 0
        with ExitStack() as stack:
            bench = Bench(stack, self._options)
            for test, contender, number in self._missing():
                began = time.monotonic()
                try:
                    figures = bench.measure(test, contender)
                except (Failed, subprocess.SubprocessError, OSError) as error:
                    failed += 1
                    say(f"{test:22} {contender.name:18} {number} FAILED: {error}")
                    continue
                self._keep({"test": test, "contender": contender.name, "round": number, **figures})
                took = time.monotonic() - began
                say(f"{test:22} {contender.name:18} {number} {_shown(figures)}  [{took:.0f} s]")
        return failed

    def _missing(self) -> Iterator[tuple[str, Contender, int]]:
        there = {(c["test"], c["contender"], c["round"]) for c in self.cells}
        for test in self._tests():
            for number in range(1, self._rounds(test) + 1):
                for contender in self._contenders():
                    if test in tests_of(contender) and (test, contender.name, number) not in there:
                        yield test, contender, number

    def _rounds(self, test: str) -> int:
        return 1 if self._options.quick or test == "growth-1m" else self._options.rounds

    def _tests(self) -> list[str]:
        every = list(dict.fromkeys([*ALL, *(t for c in CONTENDERS for t in tests_of(c))]))
        wanted = [t for t in every if {t, t.partition("-")[0]} & set(self._options.only)]
        if self._options.quick and not wanted:
            return list(QUICK)
        return wanted or every

    def _contenders(self) -> list[Contender]:
        named = [c for c in CONTENDERS if c.name in self._options.only]
        return named or list(CONTENDERS)

    def _keep(self, cell: Figures) -> None:
        self.cells.append(cell)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self.cells, indent=0))


def _shown(figures: Figures) -> str:
    extra = [f"{k} {v:.1f}" for k, v in figures.items() if isinstance(v, float) and k != "value"]
    return f"{figures['value']:10,.1f} {figures['unit']} {' '.join(extra)}"


def names() -> set[str]:
    """What ``--only`` knows."""
    tests = {t for c in CONTENDERS for t in tests_of(c)}
    return {c.name for c in CONTENDERS} | tests | {t.partition("-")[0] for t in tests}


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="mailqueue beside what people would pick instead")
    parser.add_argument("--only", default="", help="contenders and tests (or their first word)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="short, one round, fewer tests")
    parser.add_argument("--fresh", action="store_true", help="measure again what is written down")
    parser.add_argument("--results", default=str(ENVIRONMENTS / "results.json"), metavar="FILE")
    parser.add_argument("--plots", metavar="FOLDER", help="a PNG per test")
    options = parser.parse_args(arguments)
    options.only = [word for word in options.only.split(",") if word]
    if unknown := set(options.only) - names():
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known: {sorted(names())}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_of(arguments)
    if options.quick:
        options.results = str(Path(options.results).with_suffix(".quick.json"))
        options.fresh = True
    run = Run(options)
    failed = run.go()
    from tests.bench import report

    sys.stdout.write(report.tables(run.cells))
    if options.plots:
        python = environment("report", FOR_THE_HARNESS["report"])
        command = [python, REPO / "tests/bench/report.py", options.results]
        command += ["--plots", options.plots]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
