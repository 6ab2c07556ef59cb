"""Explore the model from the command line: ``python tests/model/explore.py [--deep] [--mutants]``.

Prints for each scenario the number of states, or the shortest way to what is wrong. Exit 1 when
something is wrong, or when a mutant is not found.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.model.checks import Report, explore
from tests.model.mutants import MUTANTS
from tests.model.rules import Rules
from tests.model.scenarios import DEEP, SCENARIOS
from tests.model.states import Scenario


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Explore the model of rounds, health and probes.")
    parser.add_argument("--deep", action="store_true", help="more faults; takes minutes")
    parser.add_argument("--mutants", action="store_true", help="show how each mutant is found")
    arguments = parser.parse_args(argv)
    if arguments.mutants:
        found = [(m, _timed(m.scenario, m.rules, m.name)) for m in MUTANTS]
        return int(any(m.found not in report.wrong for m, report in found))
    reports = [_timed(s, Rules(), s.name) for s in (DEEP if arguments.deep else SCENARIOS)]
    sys.stdout.write(
        f"{sum(r.states for r in reports)} states, {sum(r.steps for r in reports)} steps" + "\n"
    )
    return int(any(report.wrong for report in reports))


def _timed(scenario: Scenario, rules: Rules, name: str) -> Report:
    began = time.monotonic()
    report = explore(scenario, rules)
    sys.stdout.write(
        f"{name}: {time.monotonic() - began:.1f} s\n  " + str(report).replace("\n", "\n  ") + "\n"
    )
    sys.stdout.flush()
    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
