"""Retry, mark as sent, cancel: first a page with the count and what will happen, then done.

Decides: what is asked before, and what is told afterwards. What is done is that of ``operations``.

Promises: nothing is changed that was not counted. The page that asks names the time of its count;
an e-mail that was changed since, as each is that begins to match later, is left as it is. Where
more match than one answer may change, it names the last of them, too. The same answer twice changes
nothing twice: it has the same nonce. Each change stands in the e-mail's own document, with who
asked for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from bson import ObjectId

from mailqueue.dashboard.filters import Filters
from mailqueue.dashboard.pages import Fields, Page, PageRequest, Redirect, Refusal
from mailqueue.lifecycle.outcomes import Status
from mailqueue.logs import event
from mailqueue.operations import Operation
from mailqueue.store import ids, interventions, paging
from mailqueue.store.indexes import EPOCH
from mailqueue.store.interventions import Verb

MOST = 5000  # e-mails of one answer: some ten seconds
MAX_IDS = 1000  # chosen one by one
MAX_TOLD = 40  # of those that were not changed, whose reason is told
UNNAMED = "dashboard"  # who it was, where nobody has to say it
_log = logging.getLogger(__name__)

TITLES: Mapping[Verb, str] = {
    Verb.RETRY: "Retry",
    Verb.MARK_SENT: "Mark as sent",
    Verb.CANCEL: "Cancel",
}


def count_text(number: int) -> str:
    """A number that was counted up to ``MOST``."""
    return f"more than {MOST:,}" if number > MOST else f"{number:,}"


def confirm(request: PageRequest) -> Page:
    """``GET /confirm``: how many, and what will happen."""
    if not request.user.may_act:
        raise Refusal(403, "Read-only", "You may look at everything here, and change nothing.")
    verb, chosen = _verb(request.query), _ids(request.query)
    filters = Filters.read(request.query)
    store = request.backend.store
    now = store.now()
    match = _match(request, chosen, filters, now)
    operation = Operation(store, verb, match)
    number = operation.count(MOST + 1)
    total = len(chosen) or store.count(match, MOST + 1)
    values = {
        "verb": verb,
        "action": TITLES[verb],
        "number": min(number, MOST),
        "is_cut": number > MOST,
        "risky": min(_risky(request, verb, match), MOST),
        "unchanged": max(0, total - number),
        "needs": " or ".join(verb.statuses),
        "fields": _fields(chosen, filters),
        "last": operation.last(MOST) if number > MOST else None,
        "nonce": ids.new(),
        "at": now.isoformat(),
        "back": _back(filters, chosen),
        "is_filter": not chosen,
        "one": chosen[0] if len(chosen) == 1 else None,
    }
    return Page("confirm.html", f"{TITLES[verb]}?", values, _section(filters))


def act(request: PageRequest) -> Redirect:
    """``POST /act``: do what was confirmed."""
    verb, chosen = _verb(request.form), _ids(request.form)
    filters = Filters.read(request.form)
    at, number, nonce = _confirmation(request.form)
    match = _match(request, chosen, filters, at)
    scope = {"$and": [match, {"updated_at": {"$lt": at}}, _up_to_last(request)]}
    by = request.user.name or UNNAMED
    operation = Operation(request.backend.store, verb, scope, by=by, nonce=nonce)
    changes = operation.run(request.backend.broker, number)
    event(_log, logging.INFO, "emails.changed", verb=verb, emails=len(changes.ids), by=by)
    refused = [*operation.refusals(chosen, changes)][:MAX_TOLD]
    result = {
        "verb": verb.value,
        "changed": str(len(changes.ids)),
        "unchanged": str(max(0, max(number, len(chosen)) - len(changes.ids))),
        "uncertain": str(len(changes.uncertain)),
        "announced": "yes" if changes.announced else "no",
    }
    pairs = [*result.items(), *filters.values.items(), *(("id", each) for each in refused)]
    return Redirect(f"/result?{urlencode(pairs)}")


def result(request: PageRequest) -> Page | Redirect:
    """``GET /result``: what came of it."""
    if not request.is_own:  # nobody else tells what was done here
        return Redirect("/emails")
    verb, filters = _verb(request.query), Filters.read(request.query)
    refused = _ids(request.query)[:MAX_TOLD]
    stored = request.backend.store.find({"_id": {"$in": refused}}, MAX_TOLD) if refused else []
    by_id = {each.id: each for each in stored}
    numbers = {
        name: request.query.number(name) or 0 for name in ("changed", "unchanged", "uncertain")
    }
    values = {
        **numbers,
        "action": TITLES[verb],
        "verb": verb,
        "reasons": [(str(each), interventions.refusal(verb, by_id.get(each))) for each in refused],
        "is_announced": request.query.first("announced") != "no",
        "back": _back(filters, ()),
    }
    return Page("result.html", f"{TITLES[verb]}: done", values, _section(filters))


# Reading ------------------------------------------------------------------------------------------


def _verb(fields: Fields) -> Verb:
    try:
        return Verb(fields.first("verb"))
    except ValueError:
        raise _not_understood("Choose what is to be done.") from None


def _ids(fields: Fields) -> Sequence[ObjectId]:
    """The e-mails that were chosen one by one; empty: all that match."""
    texts = fields.get("id", [])
    if fields.first("which") == "all":
        return ()
    if len(texts) > MAX_IDS:
        raise _not_understood(f"Choose at most {MAX_IDS} e-mails one by one.")
    try:
        return [ids.parse(text) for text in texts]
    except ValueError:
        raise _not_understood("One of the ids is not an id.") from None


def _confirmation(fields: Fields) -> tuple[datetime, int, ObjectId]:
    """When it was counted, how many there were, and the nonce of the question."""
    number = fields.number("number")
    try:
        at = datetime.fromisoformat(fields.first("at")).astimezone(UTC)
        nonce = ids.parse(fields.first("nonce"))
    except (ValueError, OverflowError):
        at = EPOCH
    if not number or at <= EPOCH:
        raise _not_understood("This was not confirmed.")
    return at, min(number, MOST), nonce


def _up_to_last(request: PageRequest) -> dict[str, Any]:
    """The filter of those that are not newer than the last that was counted, if it was named."""
    text = request.form.first("last")
    if not text:
        return {}
    try:
        last = ids.parse(text)
    except ValueError:
        raise _not_understood("This was not confirmed.") from None
    stored = request.backend.store.find({"_id": last}, 1)
    return paging.up_to(last, stored[0].document if stored else None)


def _match(
    request: PageRequest, chosen: Sequence[ObjectId], filters: Filters, now: datetime
) -> dict[str, Any]:
    """The filter of those that were chosen. Raises ``Refusal`` where none was."""
    if chosen:
        return {"_id": {"$in": list(chosen)}}
    which = (request.form or request.query).first("which")
    if which != "all" or filters.problems or "status" not in filters.values:
        raise _not_understood("Choose at least one e-mail, or all that match.")
    indexed = request.backend.config.retention.searchable
    return filters.selection(now).match(indexed=indexed)


def _not_understood(text: str) -> Refusal:
    return Refusal(400, "Nothing was changed", text, back=("/emails", "To the e-mails"))


def _risky(request: PageRequest, verb: Verb, match: Mapping[str, Any]) -> int:
    """Those of which a copy may have left."""
    if verb is Verb.MARK_SENT:
        return 0
    may_have_left = {"$or": [{"unknowns": {"$ne": 0}}, {"pin": {"$ne": None}}]}
    uncertain = {"status": Status.UNCERTAIN.value} if verb is Verb.RETRY else may_have_left
    return Operation(request.backend.store, verb, {"$and": [match, uncertain]}).count(MOST)


def _fields(chosen: Sequence[ObjectId], filters: Filters) -> list[tuple[str, str]]:
    """What the next request needs to choose the same."""
    pairs = [("id", str(each)) for each in chosen] or [("which", "all")]
    return [*pairs, *filters.values.items()]


def _section(filters: Filters) -> str:
    status = filters.values.get("status", "")
    return status if status in (Status.FAILED, Status.UNCERTAIN) else "emails"


def _back(filters: Filters, chosen: Sequence[ObjectId]) -> str:
    """The list that led here, or the e-mail."""
    if len(chosen) == 1 and not filters.values:
        return f"/emails/{chosen[0]}"
    section = _section(filters)
    query = filters.query()
    return f"/{section}?{query}" if query else f"/{section}"
