"""The verb ``doctor``: what is wrong, and what to do about it.

Decides: how findings are shown: the worst first, each with what to do and where more of it stands.
What is looked at is decided in ``installation`` and in ``monitoring.situations``.

Promises: nothing of an e-mail is shown, not even its id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from mailqueue.cli import installation
from mailqueue.cli.context import EXIT_FOUND, EXIT_OK, Context, Report, UsageError
from mailqueue.cli.send_test import send_test
from mailqueue.cli.table import table
from mailqueue.monitoring.finding import Finding, Level

_COLOURS = {Level.FAIL: 31, Level.WARN: 33, Level.OK: 32}  # the terminal's red, yellow, green


def doctor(context: Context) -> Report:
    """Look at everything; or with ``--send-test``, try the vendors."""
    if context.options.send_test is not None:
        return send_test(context)
    if context.options.vendor or context.options.sender:
        raise UsageError("doctor: --vendor and --from go with --send-test")
    findings = installation.examine(context)
    failed = any(finding.level is Level.FAIL for finding in findings)
    entries = [asdict(finding) | {"link": finding.link} for finding in findings]
    lines = table(("", "CHECK", "FINDING"), list(_rows(findings)), context.width)
    lines = [*(map(_coloured, lines) if context.colours else lines), "", _summary(findings)]
    data = {"ok": not failed, "findings": entries}
    return Report(data, lines, EXIT_FOUND if failed else EXIT_OK)


def _rows(findings: Iterable[Finding]) -> Iterator[tuple[str, str, str]]:
    for finding in findings:
        yield finding.level, finding.check, finding.text
        if finding.level is not Level.OK:
            yield "", "", f"-> {finding.todo}"
            yield "", "", finding.link


def _summary(findings: Sequence[Finding]) -> str:
    """The last line: it is still on the screen when the first one is not."""
    levels = Counter(finding.level for finding in findings)
    numbers = [f"{levels[level]} {level}" for level in (Level.FAIL, Level.WARN) if levels[level]]
    return f"{', '.join(numbers)}; the worst stands first" if numbers else "all is well"


def _coloured(line: str) -> str:
    for level, colour in _COLOURS.items():
        if line.startswith(f"{level} "):
            return f"\x1b[{colour}m{level}\x1b[0m{line[len(level) :]}"
    return line
