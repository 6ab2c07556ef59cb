"""``python -m mailqueue.consumer [--config FILE] [--concurrency N] [--burst] [--meter]``.

Exit codes: 0 clean · 1 second signal, or not everything was recorded · 2 bad arguments or
configuration · 3 MongoDB or beanstalkd could not be reached at the start.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from mailqueue.consumer.consumer import Consumer
from mailqueue.consumer.memory import return_what_is_freed
from mailqueue.errors import ConfigError, Unavailable
from mailqueue.logs import configure


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    options = _parser().parse_args(arguments)
    configure()
    try:
        consumer = Consumer(**vars(options))
    except ConfigError as error:
        sys.stderr.write(f"mailqueue.consumer: {error}\n")
        return 2
    consumer.keep_to_one_core()
    return_what_is_freed()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: consumer.interrupt())
    try:
        return consumer.run()
    except ConfigError as error:
        sys.stderr.write(f"mailqueue.consumer: {error}\n")
        return 2
    except Unavailable as error:
        sys.stderr.write(f"mailqueue.consumer: could not connect: {error}\n")
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mailqueue.consumer", description="Send the e-mails that were queued."
    )
    parser.add_argument("--config", metavar="FILE", help="default: $MAILQUEUE_CONFIG, config.json")
    parser.add_argument("--concurrency", metavar="N", type=int, help="e-mails at a time")
    parser.add_argument(
        "--burst", action="store_true", help="stop when nothing is due now and nothing is leased"
    )
    parser.add_argument("--meter", action="store_true", help="say each second what is being done")
    return parser


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit(): after a second signal, senders are still busy; they end here and now.
    os._exit(code)
