"""What ``mailqueue doctor`` says of one thing that was looked at.

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
    """One thing that was looked at. ``todo``: what a person can do about it."""

    level: Level
    check: str
    text: str
    todo: str = ""
