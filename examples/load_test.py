"""How fast an application can send on your own servers.

::

    python examples/load_test.py --emails 10000 --threads 8

Sends invented e-mails by as many threads as you like (or with ``send_many``), shows how far it is,
and prints the rate and how long a call took. Run ``python -m mailqueue.consumer --meter`` beside it
to see how fast they are sent. In production the e-mails would go out: there it needs
``--really-send``.

Exit codes: 0 all are stored · 1 MongoDB was not reached · 2 wrong arguments or configuration, or
production without ``--really-send``.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from mailqueue import EmailDict, Producer
from mailqueue.config import is_production
from mailqueue.errors import ConfigError, StoreUnavailable

PAGE = 500
WIDTH = 40


def letter(number: int) -> EmailDict:
    """An e-mail to nobody."""
    return {
        "from": "Load Test <load-test@example.com>",
        "to": [f"nobody-{number}@example.org"],
        "subject": f"Load test {number}",
        "text": "Hello. " * 40,
        "html": "<p>" + "Hello. " * 80 + "</p>",
    }


class Progress:
    """How many were sent, and how long each call took."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = 0
        self.seconds: list[float] = []
        self._lock = threading.Lock()
        self._shown = -1

    def add(self, number: int, seconds: float) -> None:
        with self._lock:
            self.count += number
            self.seconds.append(seconds)
            self._show()

    def _show(self) -> None:
        """A bar on a terminal, a line for every tenth elsewhere."""
        steps, end = (100, "\r") if sys.stderr.isatty() else (10, "\n")
        step = self.count * steps // self.total
        if step != self._shown:
            self._shown = step
            bar = "#" * (self.count * WIDTH // self.total)
            print(f"[{bar:<{WIDTH}}] {self.count:,} of {self.total:,}", end=end, file=sys.stderr)


def send(producer: Producer, numbers: Iterator[int], progress: Progress) -> None:
    """One thread of the application: an e-mail after the other."""
    for number in numbers:
        start = time.perf_counter()
        producer.send(letter(number), priority="bulk")
        progress.add(1, time.perf_counter() - start)


def send_pages(producer: Producer, total: int, progress: Progress) -> None:
    for first in range(0, total, PAGE):
        page = [letter(number) for number in range(first, min(first + PAGE, total))]
        start = time.perf_counter()
        producer.send_many(page, priority="bulk")
        progress.add(len(page), time.perf_counter() - start)


def run(producer: Producer, options: argparse.Namespace, progress: Progress) -> float:
    """Send them all; returns the seconds that it took."""
    start = time.perf_counter()
    if options.bulk:
        send_pages(producer, options.emails, progress)
    else:
        shares = [iter(range(n, options.emails, options.threads)) for n in range(options.threads)]
        with ThreadPoolExecutor(options.threads) as pool:
            for task in [pool.submit(send, producer, share, progress) for share in shares]:
                task.result()
    return time.perf_counter() - start


def percentile(seconds: Sequence[float], share: float) -> str:
    ordered = sorted(seconds)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000:.1f} ms"


def summary(progress: Progress, seconds: float, *, bulk: bool) -> str:
    """The rate, and how long a ``send()`` took."""
    rate = (
        f"{progress.total:,} e-mails in {seconds:.2f} s: {progress.total / seconds:,.0f} a second"
    )
    if bulk:
        return rate
    p50, p95, p99 = (percentile(progress.seconds, share) for share in (0.5, 0.95, 0.99))
    return f"{rate}\na call took p50 {p50}, p95 {p95}, p99 {p99}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Send many e-mails, and see how fast that is.")
    parser.add_argument("--config", metavar="FILE", help="default: $MAILQUEUE_CONFIG, config.json")
    parser.add_argument("--emails", metavar="N", type=int, default=1000, help="default: 1000")
    parser.add_argument("--threads", metavar="N", type=int, default=1, help="default: 1")
    parser.add_argument("--bulk", action="store_true", help="send_many() instead of send()")
    parser.add_argument(
        "--really-send", action="store_true", help="run in production too, where e-mails go out"
    )
    options = parser.parse_args(arguments)
    if options.emails < 1 or options.threads < 1:
        parser.error("--emails and --threads: at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if is_production() and not options.really_send:
        print(
            "load_test: MAILQUEUE_ENV is production: these e-mails would go out (--really-send)",
            file=sys.stderr,
        )
        return 2
    mode = "production: these e-mails go out" if is_production() else "simulated: nothing leaves"
    print(f"mode: {mode}", file=sys.stderr, flush=True)
    progress = Progress(options.emails)
    try:
        with Producer(options.config) as producer:
            seconds = run(producer, options, progress)
    except ConfigError as error:
        print("load_test:", "; ".join(error.problems), file=sys.stderr)
        return 2
    except StoreUnavailable as error:
        print(f"load_test: {error}", file=sys.stderr)
        return 1
    print("\n" + summary(progress, seconds, bulk=options.bulk))
    return 0


if __name__ == "__main__":
    sys.exit(main())
