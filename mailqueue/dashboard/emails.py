"""The list of e-mails, and those that failed or are uncertain.

Decides: what a person sees of e-mails in a list: no address and no subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

from mailqueue.config import Config
from mailqueue.dashboard.actions import MOST, TITLES, count_text
from mailqueue.dashboard.filters import AGES, CHOICES, Filters
from mailqueue.dashboard.pages import Page, PageRequest, not_found
from mailqueue.lifecycle.outcomes import Status
from mailqueue.store import ids, paging
from mailqueue.store.document import Stored
from mailqueue.store.interventions import Verb

PAGE = 50  # e-mails


def _pairs(values: Iterable[str]) -> list[tuple[str, str]]:
    return [(value, value) for value in values]


_CHOICES = {name: _pairs(values) for name, values in CHOICES.items()} | {"age": [*AGES.items()]}


def page(request: PageRequest) -> Page:
    """``GET /emails``: the newest first."""
    return _list(request, Filters.read(request.query), "emails", "E-mails", "")


def failed(request: PageRequest) -> Page:
    """``GET /failed``: what did not leave, the last to fail first."""
    intro = "No copy of these left. Retry them when the cause is gone."
    filters = Filters.read(request.query, status=Status.FAILED)
    return _list(request, filters, "failed", "Failed", intro)


def uncertain(request: PageRequest) -> Page:
    """``GET /uncertain``: what a person has to decide, in the same order."""
    intro = (
        "A copy of each of these may have left. Ask the vendor whether it has the e-mail: then"
        " mark it as sent, or retry it, which may make a second copy."
    )
    filters = Filters.read(request.query, status=Status.UNCERTAIN)
    return _list(request, filters, "uncertain", "Uncertain", intro)


def _list(request: PageRequest, filters: Filters, section: str, title: str, intro: str) -> Page:
    store, config = request.backend.store, request.backend.config
    match = filters.selection(store.now()).match(indexed=config.retention.searchable)
    is_fixed = section != "emails"
    rows, links = _rows(request, filters, match, by_end=is_fixed)
    verbs = _verbs(request, filters)
    values = {
        "intro": intro,
        "place": f"/{section}",
        "filters": filters,
        "choices": {**_CHOICES, "vendor": _pairs(_vendors(config, filters))},
        "is_fixed": is_fixed,
        "rows": rows,
        "links": links,
        "verbs": {verb: TITLES[verb] for verb in verbs},
        "is_filtered": len(filters.values) > is_fixed,
        "number": count_text(store.count(match, MOST + 1)) if verbs and rows else "",
    }
    status = 400 if filters.problems else 200
    return Page("emails.html", title, values, section, status)


def _rows(
    request: PageRequest, filters: Filters, match: Mapping[str, Any], *, by_end: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A page of the list, and the queries of its neighbours."""
    store = request.backend.store
    read: Callable[..., list[Stored]] = partial(store.page, match=match, steps=paging.SUMMARY)
    parse: Callable[[str], Any] = ids.parse
    place: Callable[[Stored], Any] = attrgetter("id")
    if by_end:
        read = partial(store.page_ended, match=match)
        parse, place = paging.End.parse, paging.End.of
    after, before = (_cursor(request, name, parse) for name in ("after", "before"))
    emails = read(PAGE + 1, after=after, before=before)
    if before is not None and len(emails) < PAGE:  # the first page is shown as a whole
        after = before = None
        emails = read(PAGE + 1)
    is_more = len(emails) > PAGE
    # Before an id the newest come first too: the one too many is then the first.
    shown = emails[-PAGE:] if before is not None else emails[:PAGE]
    links = {}
    if shown and (is_more if before is None else True):
        links["older"] = filters.query(after=str(place(shown[-1])))
    if shown and (is_more if before is not None else after is not None):
        links["newer"] = filters.query(before=str(place(shown[0])))
    return [_row(stored) for stored in shown], links


def _cursor(request: PageRequest, name: str, parse: Callable[[str], Any]) -> Any:
    text = request.query.first(name)
    try:
        return parse(text) if text else None
    except ValueError:
        raise not_found("There is no such page of the list.") from None


def _row(stored: Stored) -> dict[str, Any]:
    """What the list shows of one; anything may stand in a document."""
    document = stored.document
    attempts = [a for a in _items(document.get("attempts")) if isinstance(a, Mapping)]
    last: Mapping[str, Any] = attempts[-1] if attempts else {}
    email = document.get("email")
    texts = {"vendor": document.get("vendor") or last.get("vendor")}
    texts |= {name: document.get(name) for name in ("status", "reason", "env")}
    return {
        # Code is a string, too, and cannot be looked up.
        **{name: str(value) if isinstance(value, str) else "" for name, value in texts.items()},
        "id": str(stored.id),
        "attempts": last.get("n", 0),
        "tags": _items(email.get("tags")) if isinstance(email, Mapping) else [],
        "created_at": document.get("created_at"),
        "updated_at": document.get("updated_at"),
        "is_held": stored.is_held,
    }


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _vendors(config: Config, filters: Filters) -> list[str]:
    names = [vendor.name for vendor in config.vendors]
    chosen = filters.values.get("vendor")
    return [*names, chosen] if chosen and chosen not in names else names


def _verbs(request: PageRequest, filters: Filters) -> list[Verb]:
    """What may be done with the e-mails of the list: where all have one status."""
    if not request.user.may_act or filters.problems:
        return []
    return [verb for verb in Verb if filters.values.get("status") in verb.statuses]
