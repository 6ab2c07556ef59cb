"""Pools of processes whose tasks send from several threads, all at the same time.

::

    python -m tests.faults.pools KIND CONFIG JOURNAL       KIND: a name of POOLS

The children of a fork use the producer that the parent made, and used; the others make their own.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from mailqueue import Producer
from tests.faults.application import Journal, letter

PROCESSES, THREADS, TASKS, EACH = 3, 4, 6, 3


class Application:
    """One per process: made where there is none yet."""

    def __init__(self, config: str, journal: str) -> None:
        self._producer = Producer(config)
        self._journal = Journal(Path(journal))

    def send(self, label: str) -> None:
        self._journal.write(self._producer.send(letter(label)), label)


_application: Application | None = None


def prepare(config: str, journal: str) -> None:
    global _application  # noqa: PLW0603  # what a pool's initializer can set
    _application = _application or Application(config, journal)


def task(number: int) -> None:
    assert _application is not None
    labels = [f"task-{number}-{each}" for each in range(THREADS * EACH)]
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(_application.send, labels))


def _pool(method: str, tasks_of_a_child: int | None = None) -> Callable[[str, str], None]:
    def work(config: str, journal: str) -> None:
        context = multiprocessing.get_context(method)
        arguments = (config, journal)
        with context.Pool(PROCESSES, prepare, arguments, tasks_of_a_child) as pool:
            pool.map_async(task, range(TASKS), chunksize=1).get(60)

    return work


def _executor(config: str, journal: str) -> None:
    context = multiprocessing.get_context("fork")
    arguments = (config, journal)
    with ProcessPoolExecutor(PROCESSES, context, prepare, arguments) as pool:
        list(pool.map(task, range(TASKS), timeout=60))


POOLS: dict[str, Callable[[str, str], None]] = {
    "fork, one task per child": _pool("fork", 1),  # as Celery's prefork pool can be told
    "forkserver": _pool("forkserver"),
    "spawn": _pool("spawn"),
    "executor": _executor,
}


def main(kind: str, config: str, journal: str) -> None:
    prepare(config, journal)
    assert _application is not None
    _application.send("parent-first")
    POOLS[kind](config, journal)
    _application.send("parent-last")


if __name__ == "__main__":
    main(*sys.argv[1:])
