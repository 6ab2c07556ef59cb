"""Lambda's runtime: a process that imports the handler and is given one event after the other.

``python -m tests.brokers.lambda_runtime HANDLER POINT``: an event a line on standard input,
``{"event": …, "seconds": …}``, and an answer a line on standard output. ``POINT`` is where it ends
(see ``tests.faults.seams``; here also ``put``, of a new message), or -.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from mailqueue.queue.sqs import broker
from mailqueue.queue.sqs.client import Entry, Queue
from tests.faults import seams


class Context:
    """What of Lambda's context is used."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round((self._end - time.monotonic()) * 1000))


class CrashingQueue(Queue):
    def send(self, entries: Sequence[Entry]) -> set[int]:
        if not entries:
            return set()
        with seams._touching("put"):
            return super().send(entries)


def main(name: str, point: str) -> None:
    if point != "-":
        seams.crash_at(point)
        broker.Queue = CrashingQueue  # type: ignore[attr-defined]  # imported there
    module, _, function = name.rpartition(".")
    handler = getattr(importlib.import_module(module), function)
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            answer["reply"] = handler(request["event"], Context(request["seconds"]))
        except Exception as error:  # noqa: BLE001  # as the runtime does
            answer["error"] = f"{type(error).__name__}: {error}"
        answer["threads"] = sorted(thread.name for thread in threading.enumerate())
        print(json.dumps(answer), flush=True)  # noqa: T201  # for the test to read


if __name__ == "__main__":
    main(*sys.argv[1:])
