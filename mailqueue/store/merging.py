"""Merging: many transitions that are alike become one update. Pure.

Decides: which are alike. A bulk write costs the server about the same for each of its updates,
however many documents an update matches. So transitions that differ in nothing but the e-mail
become one update with ``{"_id": {"$in": [...]}}`` beside the guard, which costs each e-mail a
quarter of an update of its own. A worker that got 100 answers "202 accepted" and claims 100 new
e-mails for the same vendor writes two updates.

Assumes: the server evaluates guard and update for each document by itself, so that merged writes do
exactly what single ones would. An e-mail occurs once among those that are merged.

Promises: two claims are alike if they were made for the same token (or all have one that began with
the clock), vendor and kind of key, two changes if the same was decided after the same answer. Only
the vendor's id for the message differs between e-mails that were accepted alike; each document
picks its own out of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

from mailqueue.store.asides import aside_update
from mailqueue.store.callbacks import Noting
from mailqueue.store.transitions import (
    FINAL,
    Aside,
    Change,
    Claim,
    Filter,
    Lease,
    Write,
    change_filter,
    change_update,
    claim_filter,
    claim_update,
)

T = TypeVar("T", Claim, Change)


def claim_writes(claims: Iterable[Claim], env: str, lease: Lease) -> Iterator[Write]:
    """As few updates as these claims need."""
    for alike in _group_alike(claims, _claim_kind):
        guard = _guard_of_any(claim_filter(alike[0], env), alike)
        yield guard, claim_update(alike[0], lease)


def change_writes(
    changes: Iterable[Change], noting: Noting, *, simulated: bool, short: bool = False
) -> Iterator[Write]:
    """As few updates as these changes need."""
    for alike in _group_alike(changes, _change_kind):
        guard = _guard_of_any(change_filter(alike[0]), alike)
        update = change_update(alike, simulated=simulated, short=short)
        # The usual e-mail has nobody who wants to hear of it: then there is nothing to compute.
        is_noted = noting.everyone or alike[0].has_callback
        yield guard, noting.with_end(update) if is_noted else noting.without_content(update)


def aside_writes(asides: Iterable[Aside], noting: Noting, *, simulated: bool) -> Iterator[Write]:
    """One update for each: what was seen of them differs."""
    for aside in asides:
        guard = {"_id": {"$in": [aside.id]}, **aside.guard}
        not_ended = guard | {"$nor": [{"status": {"$in": FINAL}}]}
        yield not_ended, noting.with_end(aside_update(simulated))


def _group_alike(items: Iterable[T], kind: Callable[[T], Hashable]) -> Iterable[list[T]]:
    groups: dict[Hashable, list[T]] = {}  # in the order in which each kind came first
    for item in items:
        groups.setdefault(kind(item), []).append(item)
    return groups.values()


def _claim_kind(claim: Claim) -> Hashable:
    """Claims of the same kind make the same update; the usual key is a field of each e-mail."""
    # Written out, every key would be another one, and no two claims alike. So the usual key is
    # computed by the server out of each document (``claim_update``).
    key_of = claim.key_of
    key = None if key_of else claim.key
    vendors = claim.vendor, claim.probe, claim.unavailable
    return _token_kind(claim), vendors, key_of, key, claim.suppressed, claim.redirected


def _token_kind(item: Claim | Change) -> Hashable:
    """Tokens of the clock all differ: the update takes each document's own (``_own_token``)."""
    return item.token if item.incarnation is None else "clock"


def _change_kind(change: Change) -> Hashable:
    """All of a change but the e-mail and the vendor's id for it."""
    # The recipients that a vendor refused are part of it: such a change is alike to hardly another,
    # and is written alone. The usual 202 has none.
    guard = (_token_kind(change), change.nonce, change.sending, change.expired, change.vendor)
    has_callback = change.has_callback, change.hold
    result = change.result
    if result is None:
        return guard, change.decision, has_callback, None
    answer = (result.outcome, result.code, result.detail, result.answered, result.content_suspect)
    return guard, change.decision, has_callback, (*answer, result.refused, result.pending)


def _guard_of_any(guard: Filter, alike: Sequence[Claim] | Sequence[Change]) -> Filter:
    """The guard of the first, for each of them; each has its own token if that is of the clock."""
    any_of: Filter = {"_id": {"$in": [each.id for each in alike]}}
    if len(alike) == 1 or alike[0].incarnation is None:
        return guard | any_of
    own = [{"_id": each.id, "nonce": each.incarnation, "lease.token": each.token} for each in alike]
    shared = {name: value for name, value in guard.items() if name not in own[0]}
    return shared | any_of | {"$or": own}
