"""A configuration that is read again while a process runs.

Decides: what of it is taken over. Each kind of process names the sections (or keys) that it can
change while it runs; all others stay as they are until it is started anew.

Promises: a file that is not valid changes nothing, and every problem of it is logged. What was
changed and is not taken over is logged once, in one line. No value is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass, replace
from os import PathLike
from typing import Any

from mailqueue.config.config import SECTIONS, Config
from mailqueue.errors import ConfigError, MissingExtra
from mailqueue.logs import event

logger = logging.getLogger(__name__)

# Of processes that store e-mails: what they take over, and what they have no use for
STORING = frozenset({"vendors", "routes", "suppression", "callbacks.allow"})
UNUSED = frozenset({"failover", "retry", "delivery", "consumer", "staging"}) | {
    f"retention.{name}" for name in ("content", "content_days", "sent_days", "failed_days")
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a process has its configuration from. ``live``: sections, or ``section.key``.

    ``others`` are not used by such a process, so that a change of them means nothing to it.
    """

    path: str | PathLike[str] | None
    live: Collection[str]
    others: Collection[str] = ()
    secrets: bool = False

    def read(self, running: Config, check: Callable[[Config], object] = bool) -> Config | None:
        """The configuration from now on; None: there is no valid one, and ``running`` stays.

        ``check`` raises ``ConfigError``, or ``MissingExtra``, for what this kind of process cannot
        use.
        """
        try:
            new = Config.load(self.path, secrets=self.secrets)
            merged, left_out = self._merge(running, new)
            check(merged)
        except (ConfigError, MissingExtra) as error:
            for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
                event(logger, logging.ERROR, "config.rejected", problem=problem)
            return None
        if left_out:
            event(logger, logging.WARNING, "config.restart_needed", keys=",".join(left_out))
        event(logger, logging.INFO, "config.reloaded")
        return merged

    def _merge(self, running: Config, new: Config) -> tuple[Config, list[str]]:
        """What is taken over, and the keys that were changed and are not."""
        sections: dict[str, Any] = {}
        left_out: list[str] = []
        for name in (*SECTIONS, "queue"):
            before, after = getattr(running, name), getattr(new, name)
            if name in self.live or before == after:
                sections[name] = after
                continue
            sections[name], keys = self._merge_section(name, before, after)
            left_out += [] if name in self.others else keys
        return running.replace(**sections), left_out

    def _merge_section(self, name: str, before: Any, after: Any) -> tuple[Any, list[str]]:
        # A list, or one of them is None, or another kind of queue
        if type(before) is not type(after) or not is_dataclass(after):
            return before, [name]
        keys = [f.name for f in fields(after) if f.init and f.metadata]
        different = [key for key in keys if getattr(before, key) != getattr(after, key)]
        live = [key for key in different if f"{name}.{key}" in self.live]
        merged = replace(before, **{key: getattr(after, key) for key in live}) if live else before
        names = [f"{name}.{key.rstrip('_')}" for key in different if key not in live]
        return merged, [each for each in names if each not in self.others]
