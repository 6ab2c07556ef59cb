"""A process that ends while its threads send.

::

    python -m tests.faults.endings HOW CONFIG JOURNAL      HOW: a name of ENDS

Threads that are waited for at the end send until the main thread is gone, and once more; daemon
threads send for ever; handlers of ``atexit``, from before and after the first call, send as well.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

from mailqueue import Producer
from tests.faults.application import Journal, letter

THREADS = 3
BEGUN = 5  # so many does each thread send before the end begins

ENDS: dict[str, Callable[[], object]] = {
    "returns": lambda: None,
    "exits": lambda: sys.exit(0),
    "ends at once": lambda: os._exit(0),
    "is terminated": lambda: signal.raise_signal(signal.SIGTERM),
}


def main(how: str, config: str, path: str) -> None:
    producer, journal = Producer(config), Journal(Path(path))

    def send(label: str) -> None:
        journal.write(producer.send(letter(label)), label)

    def repeat(which: str, begun: threading.Semaphore, *, forever: bool) -> None:
        for number in count():
            last = not forever and not threading.main_thread().is_alive()
            send(f"{which}-{number}")
            begun.release()
            if last:
                send(f"waited-{which}")
                return

    atexit.register(send, "atexit-early")
    producer.connect()
    atexit.register(send, "atexit-late")
    every: list[threading.Semaphore] = []
    for number in range(2 * THREADS):
        daemon = number % 2 == 0
        which = f"{'daemon' if daemon else 'thread'}-{number}"
        every.append(threading.Semaphore(0))
        threading.Thread(
            target=repeat, args=(which, every[-1]), kwargs={"forever": daemon}, daemon=daemon
        ).start()
    for begun in every:
        for _ in range(BEGUN):
            begun.acquire()
    ENDS[how]()


if __name__ == "__main__":
    main(*sys.argv[1:])
