"""What a verb of the command line works with, and what it returns.

Decides: how e-mails are selected, and the exit codes.

Promises: connections are opened when a verb needs them and closed at the end. E-mails of both kinds
(``env``: production and simulated) are selected: an operator's shell seldom has the consumer's
environment.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from mailqueue.config import Config, VendorConfig, is_production
from mailqueue.config import file as config_file
from mailqueue.errors import ConfigError, StoreUnavailable
from mailqueue.queue import open_broker
from mailqueue.queue.broker import Broker
from mailqueue.store import document
from mailqueue.store.document import Stored
from mailqueue.store.search import Selection
from mailqueue.store.store import Store

EXIT_OK = 0
EXIT_FOUND = 1  # something was found, not found, or left unchanged; a verb's help says which
EXIT_USAGE = 2
EXIT_NOT_REACHED = 3
EXIT_INTERRUPTED = 130  # as a shell has it for a program that Ctrl-C ended

PAGE = 500  # e-mails read at once
UNLIMITED = 10**9  # more than there are
COUNT_SECONDS = 2.0  # to count what a verb is about to do, where nobody has to know
_BY_TIME = ("created_at", "_id")
# All types that MongoDB has, but that of a date: so it need not look through all dates.
_NO_DATES = (
    *("minKey", "number", "string", "symbol", "object", "array", "binData", "objectId", "bool"),
    *("timestamp", "regex", "dbPointer", "javascript", "javascriptWithScope", "maxKey"),
)
# Of an e-mail whose ``created_at`` is damaged.
_NO_TIME: dict[str, Any] = {
    "$or": [
        {"created_at": None},
        {"created_at": {"$type": _NO_DATES}},
    ]
}


class UsageError(Exception):
    """What was asked for makes no sense; the text says why, a line for each problem."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a verb has to say.

    ``data`` is the document for ``--json`` and ``lines`` the same for a person: one of the two goes
    to standard output. ``notes`` go to standard error, a line each.
    """

    data: Any
    lines: Sequence[str]
    code: int = EXIT_OK
    notes: Sequence[str] = ()


@dataclass
class Context:
    """What a verb works with.

    ``confirm`` asks the person at the terminal; None: there is nobody to ask. ``width`` is the
    terminal's, in characters; None: the output goes into a file or to another program.
    ``colours``: whether the terminal shows them, and its user wants them.
    """

    options: argparse.Namespace
    config: Config
    file: Path
    environ: Mapping[str, str]
    confirm: Callable[[str], bool] | None = None
    width: int | None = None
    colours: bool = False
    _opened: list[Callable[[], None]] = field(default_factory=list)

    @property
    def production(self) -> bool:
        """Whether this shell is set to production, as a consumer's environment would be."""
        return is_production(self.environ)

    @cached_property
    def store(self) -> Store:
        """The e-mails."""
        env = document.PRODUCTION if self.production else document.SIMULATED
        store = Store(
            self.config.mongodb,
            env=env,
            callbacks=self.config.callbacks,
            retention=self.config.retention,
        )
        self._opened.append(store.close)
        return store

    @cached_property
    def announcer(self) -> Broker:
        """The way to the consumers."""
        # Opened by ``retry`` only, after its change. MongoDB has the truth, so a queue that is
        # away stops no change: a sweeper announces the e-mails later.
        announcer = open_broker(self.config)
        self._opened.append(announcer.close)
        return announcer

    def vendor(self, name: str, *, secrets: bool) -> VendorConfig:
        """The vendor's entry, read alone: one that is broken hides no other.

        ``secrets``: with its environment variables, which must be there. Raises ``ConfigError``.
        """
        at = [vendor.name for vendor in self.config.vendors].index(name)
        entry = config_file.read(self.file)["vendors"][at]
        try:
            alone = Config.from_mapping({"vendors": [entry]}, secrets=secrets, environ=self.environ)
        except ConfigError as error:
            raise ConfigError([p.replace("[0]", f"[{at}]", 1) for p in error.problems]) from None
        return alone.vendors[0]

    def close(self) -> None:
        """Close what was opened."""
        for close in self._opened:
            close()

    def selection(self) -> dict[str, Any]:
        """The filter that the options ask for; empty if they ask for none."""
        options = self.options
        before = None
        if options.older_than is not None:
            # By the server's clock: the operator's host may have another time.
            before = self.store.now() - timedelta(seconds=options.older_than)
        selection = Selection(
            status=options.status,
            reason=options.reason,
            vendor=options.vendor,
            tag=options.tag,
            to=options.to,
            callback=getattr(options, "callback", None),  # only ``list`` has it
            before=before,
        )
        return selection.match(indexed=self.config.retention.searchable)

    def count_in_time(self, number: Callable[[], int], limit: int | None = None) -> int | None:
        """How many there are, at most ``limit``, for a bar; None: to count them takes too long."""
        try:
            with self.store.operation(seconds=COUNT_SECONDS):
                return min(number(), limit or UNLIMITED)
        except StoreUnavailable:  # if it is away, what follows says so
            return None

    def pages(self, match: Mapping[str, Any], limit: int | None) -> Iterator[list[Stored]]:
        """The e-mails that match, oldest first, up to ``limit``; those without a time before all.

        A page starts after the last e-mail of the page before: they may be changed meanwhile, so
        that they no longer match, and none is skipped.
        """
        remaining = UNLIMITED if limit is None else limit
        for match_all, order in (({"$and": [match, _NO_TIME]}, ("_id",)), (match, _BY_TIME)):
            after: dict[str, Any] = {"created_at": {"$type": "date"}} if order == _BY_TIME else {}
            while remaining and (
                page := self.store.find({"$and": [match_all, after]}, min(remaining, PAGE), *order)
            ):
                yield page
                remaining, after = remaining - len(page), _after(page[-1], order)


def _after(last: Stored, order: Sequence[str]) -> dict[str, Any]:
    """The e-mails that come after this one."""
    newer_id = {"_id": {"$gt": last.id}}
    if order != _BY_TIME:
        return newer_id
    at = last.document["created_at"]
    same = {"created_at": at, **newer_id}
    return {"created_at": {"$gte": at}, "$or": [{"created_at": {"$gt": at}}, same]}
