"""One thing that was looked at: how bad it is, and what to do about it.

Decides: the levels. ``FAIL``: e-mails are not sent, or wait for a person. ``WARN``: less is
promised, or somebody will be surprised.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``todo``: what a person can do about it. ``slug``: the anchor of its section in
    docs/operating.md, the same at every time; empty if nothing is wrong.
    """

    level: Level
    check: str
    text: str
    todo: str = ""
    slug: str = ""
