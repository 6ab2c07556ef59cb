"""``mailqueue forget``: remove a person from all that is stored.

Decides: what becomes of each e-mail that names the person: cancelled first, if it is queued and
goes to them; forgotten, if it has ended; else left for a later call.

Promises: the report counts, and names nobody. Stopped half-way, it is simply called again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne

from mailqueue.cli.context import EXIT_FOUND, EXIT_OK, Context, Report, UsageError
from mailqueue.cli.control import operator
from mailqueue.cli.progress import Progress
from mailqueue.errors import InvalidEmail
from mailqueue.lifecycle.outcomes import Status
from mailqueue.message import Address
from mailqueue.monitoring.words import count
from mailqueue.store import forgetting, ids
from mailqueue.store.forgetting import Document, Person
from mailqueue.store.interventions import Verb
from mailqueue.store.mongo import majority_reads
from mailqueue.store.suppressions import Suppressions, key_of

PAGE = 50  # documents of up to 16 MiB
_SEARCHED = ("", ".events", ".intake")  # the collections, e-mails first
_STANDARD_INPUT = "-"
_Write = Callable[[Document, Person], tuple[dict[str, Any], dict[str, Any]]]


def forget(context: Context) -> Report:
    """Forget the addresses that the options name."""
    addresses = _addresses(context.options.addresses)
    person, dry_run = Person(addresses), context.options.dry_run
    if not dry_run and not _is_confirmed(context, len(addresses)):
        return Report(None, [], EXIT_FOUND, ["nothing was changed"])
    entries = [key_of(address) for address in addresses]
    suppressions = Suppressions(context.store)
    counts = Counter(emails=0, cancelled=0, events=0, suppressed=0, left=0)
    # First: whoever is on the list is never without an entry.
    counts["suppressed"] = suppressions.forget(entries, dry_run=dry_run)
    with Progress("forget", lambda: sum(map(context.store.estimate, _SEARCHED))) as progress:
        counts.update(_search(context, person, progress))
    return _report(counts, dry_run=dry_run)


def _search(context: Context, person: Person, progress: Progress) -> Counter[str]:
    """Forget the person in all documents, page by page."""
    counts = Counter[str]()
    emails, events, intake = (
        forgetting.find(context.store, name, person, progress.advance) for name in _SEARCHED
    )
    for page in _pages(emails):
        counts += _forget_emails(context, person, page)
    for page in _pages(events):
        counts["events"] += len(page)
        if not context.options.dry_run:
            _write(context, ".events", forgetting.event_write, page, person)
    counts["left"] += sum(1 for _ in intake)
    return counts


def _forget_emails(context: Context, person: Person, page: Sequence[Document]) -> Counter[str]:
    """Cancel what is queued for the person; forget what has ended, also by that."""
    queued = [
        document["_id"]
        for document in page
        if document.get("status") == Status.QUEUED
        and document.get("pending") is None
        and person.is_recipient(document.get("email"))
        and isinstance(document["_id"], ObjectId)
    ]
    if context.options.dry_run:
        ended = sum(map(forgetting.has_ended, page)) + len(queued)
        return Counter(emails=ended, cancelled=len(queued), left=len(page) - ended)
    cancelled = (
        context.store.intervene(queued, Verb.CANCEL, ids.new(), operator()) if queued else set()
    )
    if cancelled:
        durable = majority_reads(context.store.emails)
        with context.store.operation():
            again = list(durable.find({"_id": {"$in": list(cancelled)}}))
        page = [*(d for d in page if d["_id"] not in cancelled), *again]
    ended_page = [document for document in page if forgetting.has_ended(document)]
    matched = _write(context, "", forgetting.email_write, ended_page, person)
    return Counter(emails=matched, cancelled=len(cancelled), left=len(page) - matched)


def _write(
    context: Context, name: str, write: _Write, page: Sequence[Document], person: Person
) -> int:
    """How many were as they had been read, and are changed."""
    updates = [UpdateOne(*write(document, person)) for document in page]
    if not updates:
        return 0
    collection = context.store.collection(name)
    with context.store.operation():
        result = context.store.persist(lambda: collection.bulk_write(updates, ordered=False))
    return result.matched_count


def _is_confirmed(context: Context, number: int) -> bool:
    """A person who typed it is asked: it cannot be undone. A script has said exactly whom."""
    if context.options.yes or context.confirm is None:
        return True
    return context.confirm(f"forget {count(number, 'address', 'addresses')} for good?")


def _addresses(texts: Sequence[str]) -> list[Address]:
    """What was given. Raises ``UsageError``, which names the place of a wrong one."""
    lines = sys.stdin.read().splitlines() if list(texts) == [_STANDARD_INPUT] else texts
    addresses, problems = [], []
    for n, text in enumerate((line for line in lines if line.strip()), 1):
        try:
            addresses.append(Address.parse(text, f"address {n}"))
        except InvalidEmail as error:
            problems.append(str(error))
    if problems or not addresses:
        raise UsageError("\n".join(problems) or "there is no address")
    return addresses


def _report(counts: Counter[str], *, dry_run: bool) -> Report:
    would = "would be " if dry_run else ""
    lines = [
        f"{count(counts['emails'], 'e-mail')} {would}forgotten",
        f"{counts['cancelled']:,} of them {would}cancelled before",
        f"{count(counts['events'], 'event')} {would}forgotten",
        f"{counts['suppressed']:,} {would}suppressed by a hash",
    ]
    notes = []
    if counts["left"]:
        one = count(counts["left"], "document")
        notes = [f"{one} left, not ended or changed meanwhile: call it again later"]
    return Report({"dry_run": dry_run, **counts}, lines, EXIT_FOUND if notes else EXIT_OK, notes)


def _pages(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while page := list(islice(documents, PAGE)):
        yield page
