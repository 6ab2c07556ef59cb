"""A sentence about an e-mail, with the time it is about, and what a person can do there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Action:
    """A command of an operator, and what it does here."""

    command: str
    text: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """One or two short sentences. ``at``: the time they are about; None: no certain one."""

    text: str
    at: datetime | None = None
    actions: tuple[Action, ...] = ()
