"""The page that says what is wrong, and whether anything is.

Decides: what stands on it, in which order. What is wrong is decided in ``monitoring.situations``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

from mailqueue.dashboard.pages import Page, PageRequest
from mailqueue.dashboard.plot import plot
from mailqueue.dashboard.vendors import HOUR, active, attempts
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.monitoring.finding import Finding, Level, Slug
from mailqueue.monitoring.overview import COUNTED, Overview
from mailqueue.monitoring.situations import situations
from mailqueue.monitoring.words import count
from mailqueue.store.stats import Stats

REFRESH = 30  # seconds, where the person asked for it: a page that moves by itself is in the way
PLACES: Mapping[Slug, tuple[str, str]] = {
    Slug.OLDEST_DUE: ("/emails?status=queued", "Look at what is queued"),
    Slug.MANY_FAILED: ("/failed", "Look at them"),
    Slug.UNCERTAIN: ("/uncertain", "Decide about them"),
    Slug.ALL_VENDORS_UNAVAILABLE: ("/vendors", "Look at the vendors"),
    Slug.VENDOR_UNAVAILABLE: ("/vendors", "Look at the vendors"),
    Slug.BUDGET: ("/vendors", "Look at the vendors"),
    Slug.HELD: ("/vendors", "Look at what is held"),
}
"""Where a person can do something about it here."""


def page(request: PageRequest) -> Page:
    """``GET /``."""
    backend, store = request.backend, request.backend.store
    state = Overview.read(backend.config, store)
    minutes = Stats(store, store.env).minutes(state.at - HOUR)
    findings = sorted(situations(state, backend.config), key=attrgetter("place"))
    values: dict[str, Any] = {
        "findings": findings,
        "places": PLACES,
        "level": findings[0].level if findings else Level.OK,
        "state": state,
        "now": state.at,
        "plot": plot(minutes, state.at),
        "last_hour": attempts(minutes),
        "controls": active(store, state.controls),
        "classes": PRIORITIES,
        "most": COUNTED,
        "every": REFRESH,
        "refreshes": bool(request.query.first("refresh")),
    }
    return Page("overview.html", verdict(findings), values, "overview")


def verdict(findings: Iterable[Finding]) -> str:
    """The page in a few words: a browser shows them on its tab, too."""
    levels = Counter(finding.level for finding in findings)
    if levels[Level.FAIL]:
        are = "is" if levels[Level.FAIL] == 1 else "are"
        return f"{count(levels[Level.FAIL], 'thing')} {are} wrong"
    if levels[Level.WARN]:
        return count(levels[Level.WARN], "warning")
    return "All is well"
