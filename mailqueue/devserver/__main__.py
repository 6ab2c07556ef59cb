"""``python -m mailqueue.devserver``: prints two keys for ``config.json``, runs until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence

from mailqueue.devserver.devserver import DevServers, devservers
from mailqueue.devserver.process import ServerDidNotStart, ServerNotFound


def _describe(servers: DevServers) -> str:
    queue = servers.beanstalkd.address if servers.beanstalkd else "none: consumers ask MongoDB"
    return f"""\
MongoDB     {servers.mongod.uri}
beanstalkd  {queue}

Put these two keys into config.json, in place of those that it has:
{json.dumps(servers.config, indent=2)}

Ctrl-C stops what runs here and removes its data."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both servers until SIGINT or SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mailqueue.devserver",
        description="Run a private MongoDB and beanstalkd for development until Ctrl-C, then remove"
        " their data.",
        epilog="exit codes: 0 stopped by a signal, 1 a server ended by itself, 3 a server is not"
        " installed or does not start",
    )
    parser.add_argument("--json", action="store_true", help="print only the two keys, as one line")
    parser.add_argument(
        "--queue",
        choices=("beanstalkd", "none"),
        default="beanstalkd",
        help="none: MongoDB alone; consumers find there what is due",
    )
    options = parser.parse_args(arguments)
    # A list, not a threading.Event: its lock may be held by the very thread that is interrupted.
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        with devservers(queue=options.queue != "none") as servers:
            print(json.dumps(servers.config) if options.json else _describe(servers), flush=True)
            while not signals:
                time.sleep(0.2)
                for server in servers.running:
                    if not server.is_running:
                        print(f"{server.name} ended by itself: all is stopped", file=sys.stderr)
                        return 1
    except (ServerNotFound, ServerDidNotStart) as problem:
        print(problem, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
