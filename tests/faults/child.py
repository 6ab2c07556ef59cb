"""A process that may crash: ``python -m tests.faults.child consumer|producer|intake CONFIG POINT``.

The consumer sends one e-mail at a time. The producer is an application that sends three
e-mails under idempotency keys and prints each id that it was given. ``POINT``: see ``seams``, or -.
"""

from __future__ import annotations

import sys

from mailqueue import Producer, intake, logs
from mailqueue.config import Config
from mailqueue.consumer import Consumer
from mailqueue.queue.announcer import Announcer
from tests.faults import seams
from tests.stage import letter

EMAILS = 3


def main(role: str, config: str, point: str) -> int:
    logs.configure()
    seams.crash_at(point)
    if role == "consumer":
        return Consumer(config, concurrency=1).run()
    if role == "intake":
        return intake.run(Config.load(config))
    Announcer.REST = Announcer.REST_MAX = 0.0
    with Producer(config) as producer:
        for number in range(EMAILS):
            email_id = producer.send(letter(number), idempotency_key=f"number {number}")
            print(email_id, flush=True)  # noqa: T201  # for the test to read
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
