"""``python -m mailqueue.devserver``: prints the two config keys and runs until Ctrl-C."""

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
    return f"""\
MongoDB     {servers.mongod.uri}
beanstalkd  {servers.beanstalkd.address}

The two keys for config.json:
{json.dumps(servers.config, indent=2)}

Ctrl-C stops both and removes their data."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both servers until SIGINT or SIGTERM. 0 clean, 1 a server ended, 3 it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m mailqueue.devserver",
        description="A private MongoDB and beanstalkd for development, gone when this ends.",
    )
    parser.add_argument("--json", action="store_true", help="print the config keys only, one line")
    options = parser.parse_args(arguments)
    signals: list[int] = []  # no event: the thread that a handler interrupts may hold its lock
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        with devservers() as servers:
            print(json.dumps(servers.config) if options.json else _describe(servers), flush=True)
            while not signals:
                time.sleep(0.2)
                for server in (servers.mongod, servers.beanstalkd):
                    if not server.running:
                        print(f"{server.name} ended by itself", file=sys.stderr)
                        return 1
    except (ServerNotFound, ServerDidNotStart) as problem:
        print(problem, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
