"""One thing that was looked at: how bad it is, and what to do about it.

Decides: the levels, which things there are (``Slug``), and which comes first. ``FAIL``: e-mails are
not sent, or wait for a person, or soon will. ``WARN``: less is promised, or somebody will be
surprised.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PAGE = "docs/operating.md"  # the project has no address on the web yet


class Level(StrEnum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


class Slug(StrEnum):
    """What can be wrong. Each is the anchor of a section of ``PAGE``; alerts link there, too."""

    NO_CONSUMER = "no-consumer"
    OLDEST_DUE = "oldest-due"
    MANY_FAILED = "many-failed"
    UNCERTAIN = "uncertain"
    ALL_VENDORS_UNAVAILABLE = "all-vendors-unavailable"
    VENDOR_UNAVAILABLE = "vendor-unavailable"
    BUDGET = "budget"
    HELD = "held"
    VENDOR_NOT_MADE = "vendor-not-made"
    SECRETS = "secrets"
    CONSUMER_DIFFERS = "consumer-differs"
    CALLBACKS_DUE = "callbacks-due"
    CALLBACKS_FAILED = "callbacks-failed"
    ROUTES = "routes"
    OTHER_MODE = "other-mode"
    SIMULATION = "simulation"
    STAGING = "staging"
    QUEUE_UNAVAILABLE = "queue-unavailable"
    QUEUE_FORGETS = "queue-forgets"
    QUEUE_SETTINGS = "queue-settings"
    OTHER_QUEUE = "other-queue"
    BURIED_JOBS = "buried-jobs"
    INTAKE = "intake"
    MONGODB_UNAVAILABLE = "mongodb-unavailable"
    MONGODB_RIGHTS = "mongodb-rights"
    MONGODB_SETTINGS = "mongodb-settings"
    CLOCKS = "clocks"
    INDEXES = "indexes"
    TWO_PACKAGES = "two-packages"
    CONFIGURATION = "configuration"


# Beside MongoDB's absence, of which nothing else is said.
STOPS_ALL = frozenset(
    {
        *(Slug.NO_CONSUMER, Slug.ALL_VENDORS_UNAVAILABLE, Slug.QUEUE_UNAVAILABLE),
        *(Slug.VENDOR_NOT_MADE, Slug.MONGODB_RIGHTS),
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``todo``: what a person can do about it. Both that and ``slug`` are there unless all is well.
    """

    level: Level
    check: str
    text: str
    todo: str = ""
    slug: Slug | None = None

    @property
    def link(self) -> str:
        """Where more of it stands; empty if all is well."""
        return "" if self.slug is None else f"{PAGE}#{self.slug}"

    @property
    def place(self) -> tuple[int, bool]:
        """The worst first; of these what stops all e-mails, and then what may follow from that."""
        return -list(Level).index(self.level), self.slug not in STOPS_ALL
