"""``python -m mailqueue.consumer [--config FILE] [--concurrency N] [--burst] [--meter]
[--log-format F]``.

SIGTERM or SIGINT stops it gracefully, a second signal (``service.systemd`` says what
counts as one) at
once. SIGINT is heeded also where it was ignored at the start, as a shell's background jobs have it.
SIGHUP has it read its configuration again.

Exit codes: 0 clean · 1 second signal, or not everything was recorded · 2 bad arguments or
configuration · 3 MongoDB or the queue could not be reached at the start.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from mailqueue import logs
from mailqueue.consumer.affinity import CpuAffinity
from mailqueue.consumer.consumer import Consumer
from mailqueue.errors import ConfigError, MissingExtra, Unavailable
from mailqueue.queue import refuse_memory
from mailqueue.service.memory import return_freed_blocks
from mailqueue.service.systemd import Signals


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    options = vars(_parser().parse_args(arguments))
    try:
        logs.configure(options.pop("log_format"))
        consumer = Consumer(**options)
        refuse_memory(consumer.config)
        return_freed_blocks()
        # What is here by now stays: the collector need not look through it again and again.
        gc.freeze()
        signals = Signals(consumer.stop)
        # SIGINT, too: Python would raise KeyboardInterrupt in the middle of the main thread's work,
        # and a job that a shell started in the background would ignore it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signals.handle)
        signal.signal(signal.SIGHUP, lambda *_: consumer.reload())
        with CpuAffinity() if consumer.config.consumer.one_core else nullcontext():
            return consumer.run()
    except (ConfigError, MissingExtra) as error:
        sys.stderr.write(f"mailqueue.consumer: {error}\n")
        return 2
    except Unavailable as error:
        sys.stderr.write(f"mailqueue.consumer: could not connect: {error} (see mailqueue doctor)\n")
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mailqueue.consumer",
        description="Send queued e-mails until SIGTERM or SIGINT. Without MAILQUEUE_ENV=production"
        " nothing leaves: the vendors are simulated.",
        epilog="exit codes: 0 stopped cleanly, 1 a second signal or a result was not recorded,"
        " 2 wrong arguments or configuration, 3 MongoDB or the queue was not reached at the start",
    )
    text = "the configuration (default: $MAILQUEUE_CONFIG, else ./config.json)"
    parser.add_argument("--config", metavar="FILE", help=text)
    text = "e-mails sent at the same time (default: consumer.concurrency)"
    parser.add_argument("--concurrency", metavar="N", type=int, help=text)
    text = "stop when no e-mail is due and none is being sent"
    parser.add_argument("--burst", action="store_true", help=text)
    text = "print each second what is being done"
    parser.add_argument("--meter", action="store_true", help=text)
    text = f"how lines of the log are written: {', '.join(logs.FORMATS)}"
    text += f" (default: ${logs.VARIABLE}, else logfmt)"
    parser.add_argument("--log-format", metavar="F", choices=logs.FORMATS, help=text)
    return parser


if __name__ == "__main__":
    code = main()
    # What is logged is written. Nothing here touches the stream itself: the meter's thread may have
    # its lock, and wait for whoever reads it.
    for handler in logging.getLogger().handlers:
        handler.flush()
    # Not sys.exit(): after a second signal, senders are still busy; they end here and now.
    os._exit(code)
