"""Idempotency keys: which e-mail holds one.

Decides: where it is looked for. The ``_id`` of an e-mail with a key follows from the key. Where
something else is stored under that, it has the next one (``ids.of_key``). E-mails that an older
version stored with a key have any ``_id``; they are found by the unique index that this version had
on the key, and only by it: nobody looks through all e-mails for a key.

Promises: what is found need not be durable (see ``store``). The driver's exceptions pass through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from mailqueue.store import document, ids, indexes
from mailqueue.store.document import Document
from mailqueue.store.mongo import no_such_index

OF_KEYS = {"nonce": 1, "idempotency_key": 1, "content_hash": 1}


def has_key(stored: Document | None, *keys: str | None) -> bool:
    """Whether it has one of these idempotency keys; None is none."""
    return stored is not None and stored.get("idempotency_key", "") in keys


class Keys:
    """The keys of the e-mails of one kind. ``indexed``: by an older version; None: not known."""

    def __init__(self, emails: Collection[dict[str, Any]], env: str) -> None:
        self._emails, self._env = emails, env
        self.indexed: bool | None = None

    def find(
        self, keys: Sequence[str], session: ClientSession | None = None
    ) -> dict[str, Document]:
        """The e-mails stored under these, by the key, with the fields ``OF_KEYS``."""
        holders: dict[str, Document] = {}
        places = {ids.of_key(self._env, key): key for key in keys}
        while places:
            match = {"_id": {"$in": list(places)}}
            stored = list(self._emails.find(match, OF_KEYS, session=session))
            by_key = {places[d["_id"]]: d for d in stored}
            holders |= {key: d for key, d in by_key.items() if has_key(d, key)}
            places = {
                ids.of_key(self._env, key, d["_id"]): key
                for key, d in by_key.items()
                if key not in holders
            }
        return holders | self._find_old([key for key in keys if key not in holders], session)

    def _find_old(self, keys: Sequence[str], session: ClientSession | None) -> dict[str, Document]:
        """Those that an older version stored."""
        if keys and self.indexed is None:
            self.indexed = indexes.has_key_index(self._emails)
        if not keys or not self.indexed:
            return {}
        match = {"idempotency_key": {"$in": list(keys)}}
        # Without a hint a read would go through all e-mails once the index is dropped.
        hint = indexes.KEY_INDEX
        try:
            stored = list(self._emails.find(match, OF_KEYS, session=session, hint=hint))
        except OperationFailure as error:
            if not no_such_index(error):
                raise
            self.indexed = None
            if session is not None:  # MongoDB has ended the transaction
                raise
            return {}
        return {d["idempotency_key"]: d for d in stored}

    def sort_out(
        self, documents: Sequence[dict[str, Any]], old_keys: Sequence[str]
    ) -> tuple[list[Document], dict[str, Document]]:
        """What is stored of e-mails that could not all be inserted, and who holds their keys.

        A document whose ``_id`` is another e-mail's gets the next one. ``old_keys``: those that an
        older version's index knows.
        """
        same: dict[str, Any] = {"_id": {"$in": [d["_id"] for d in documents]}}
        if old_keys:
            same = {"$or": [same, {"idempotency_key": {"$in": old_keys}}]}
        stored = list(self._emails.find(same, OF_KEYS))
        by_id = {d["_id"]: d for d in stored}
        by_key = {d.get("idempotency_key"): d for d in stored if has_key(d, *old_keys)}
        holders: dict[str, Document] = {}
        present: list[Document] = []
        for each in documents:
            here: Document | None = by_id.get(each["_id"])
            key: str | None = each.get("idempotency_key")
            holder = here if has_key(here, key) else by_key.get(key)
            if here is not None and here.get("nonce") == each.get("nonce"):
                present.append(here)  # ours, by an earlier try
            elif holder is not None and key is not None:
                holders[key] = holder
                present.append(holder)
            elif here is not None:
                new_id = ids.new() if key is None else ids.of_key(self._env, key, each["_id"])
                document.rename(each, new_id)
        return present, holders

    def has_unused_index(self) -> bool:
        """Whether the index of an older version is there, and nothing needs it.

        This looks through all e-mails: only a person may ask.
        """
        return indexes.has_key_index(self._emails) and not indexes.has_old_keys(self._emails)
