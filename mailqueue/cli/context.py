"""The operator's desk: what a verb of the command line works with, and what it answers.

Decides: how e-mails are selected, and the exit codes.

Promises: connections are opened when a verb needs them and closed at the end. E-mails of both kinds
(``env``) are looked at: a person's shell seldom has the consumer's environment.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from bson import ObjectId

from mailqueue.config import Config, is_production
from mailqueue.queue.announcer import Announcer
from mailqueue.store import document
from mailqueue.store.document import Stored
from mailqueue.store.store import Store

OK, FOUND, USAGE, NOT_REACHED = 0, 1, 2, 3
PAGE = 500
MANY = 10**9


class Usage(Exception):  # what is wrong with the command, as one line
    """The command cannot be carried out as it was given."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``data`` for ``--json``, ``lines`` for a person, ``said`` beside it on standard error."""

    data: Any
    lines: Sequence[str]
    code: int = OK
    said: Sequence[str] = ()


@dataclass
class Context:
    """What a verb works with. ``confirm`` asks the person; None: there is nobody to ask."""

    options: argparse.Namespace
    config: Config
    file: Path
    environ: Mapping[str, str]
    confirm: Callable[[str], bool] | None = None
    _opened: list[Callable[[], None]] = field(default_factory=list)

    @cached_property
    def store(self) -> Store:
        """The e-mails."""
        env = document.PRODUCTION if is_production(self.environ) else document.SIMULATED
        store = Store(self.config.mongodb, env=env)
        self._opened.append(store.close)
        return store

    @cached_property
    def announcer(self) -> Announcer:
        """The way to the consumers."""
        announcer = Announcer(self.config.beanstalkd, self.config.delivery.ttr)
        self._opened.append(announcer.close)
        return announcer

    def close(self) -> None:
        """Close what was opened."""
        for close in self._opened:
            close()

    def selection(self) -> dict[str, Any]:
        """The filter that the options ask for."""
        options = self.options
        match: dict[str, Any] = {}
        if options.status:
            match["status"] = options.status
        if options.reason:
            match["reason"] = options.reason
        if options.vendor:
            match["attempts.vendor"] = options.vendor
        if options.older_than is not None:
            before = self.store.now() - timedelta(seconds=options.older_than)
            match["created_at"] = {"$lte": before}
        return match

    def pages(self, match: Mapping[str, Any], limit: int | None) -> Iterator[list[Stored]]:
        """What matches, oldest first, up to ``limit``; what changes meanwhile is no hindrance."""
        left, after = MANY if limit is None else limit, ObjectId(b"\0" * 12)
        while left and (
            page := self.store.find(
                {"$and": [match, {"_id": {"$gt": after}}]}, min(left, PAGE), "_id"
            )
        ):
            yield page
            left, after = left - len(page), page[-1].id
