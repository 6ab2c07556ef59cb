"""Hundreds of greenlets send, half of them with a time-out that strikes at random.

::

    python -m tests.faults.greenlets CONFIG JOURNAL    prints how many time-outs struck
"""
# ruff: noqa: E402  # everything is imported after gevent has patched it

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import random
import sys
from pathlib import Path

import gevent

from mailqueue import Producer
from tests.faults.application import Journal, letter

GREENLETS, EACH = 200, 3
ENDS_WITHIN = 60


class Sender:
    def __init__(self, producer: Producer, journal: Journal) -> None:
        self._producer, self._journal = producer, journal
        self.struck = 0

    def send(self, which: int) -> None:
        rand = random.Random(which)
        for number in range(EACH):
            limit = rand.uniform(0, 0.2) if which % 2 else None
            try:
                with gevent.Timeout(limit):
                    self.one(f"greenlet-{which}-{number}")
            except gevent.Timeout:
                self.struck += 1

    def one(self, label: str) -> None:
        self._journal.write(self._producer.send(letter(label)), label)


def main(config: str, journal: str) -> int:
    with Producer(config) as producer:
        sender = Sender(producer, Journal(Path(journal)))
        greenlets = [gevent.spawn(sender.send, which) for which in range(GREENLETS)]
        gevent.joinall(greenlets, timeout=ENDS_WITHIN, raise_error=True)
        if not all(greenlet.ready() for greenlet in greenlets):
            return 1
        sender.one("greenlet-last")
    print(sender.struck)  # noqa: T201  # for the test to read
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
