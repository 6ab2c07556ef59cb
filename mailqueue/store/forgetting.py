"""Forgetting a person: no document names an address any more.

Decides: how an address may be written (``Person``), and what is left of a document that names it.

Assumes: nothing about where it stands: the bytes of each document are searched, so a field, a file
or a vendor's words that quote it are found like a recipient. It takes as long as reading all of
them.

Promises: ``write`` changes only what has ended, and only if it is as it was read. What is done
twice changes nothing the second time. Ids, statuses, times and the ledger's counts stay, so that
every sum is as before; so do the other people of an e-mail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from mailqueue.message import Address
from mailqueue.store.content import DROPPED_AT
from mailqueue.store.mongo import Mongo
from mailqueue.store.transitions import FINAL

FORGOTTEN = "forgotten@forgotten.invalid"  # RFC 2606: nobody has such an address
FORGOTTEN_AT = "forgotten_at"
_LETTER = rb"a-z0-9_\x80-\xff"
_PEOPLE = ("to", "cc", "bcc")
_WORDS = ("idempotency_key", "request_id", "callback_url")  # the caller's own
_ADDRESS = re.compile(r"[^\s<>]+@[^\s<>]+")
_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
Document = dict[str, Any]


class Person:
    """Addresses to be forgotten, in whatever spelling a document has them."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        forms = {form for address in addresses for form in _forms(address)}
        # Before the at. That bytes contain it is found much faster than a pattern in them.
        self._locals = {re.split("@|%40", form)[0].encode().lower() for form in forms}
        any_of = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        # A longer address is another person's: joann@…, …@x.org.uk. A dot may end a sentence.
        text = rf"(?<![\w.+-])(?:{any_of})(?![\w-]|\.\w)"
        self._text = re.compile(text, re.IGNORECASE)
        octets = _LETTER.join([b"(?<![", b".+-])(?:%b)(?![", b"-]|\\.[", b"])"])
        self._octets = re.compile(octets % any_of.encode(), re.IGNORECASE)
        self._any_of = any_of

    def is_in(self, raw: bytes | memoryview) -> bool:
        """Whether these bytes name one of them."""
        octets = bytes(raw).lower()
        return any(map(octets.__contains__, self._locals)) and bool(self._octets.search(octets))

    def is_named(self, text: str) -> bool:
        """Whether this text does."""
        return self._text.search(text) is not None

    def without(self, value: Any) -> Any:
        """The value with another address in the place of theirs."""
        if isinstance(value, str):
            return self._text.sub(FORGOTTEN, value)
        if isinstance(value, list):
            return [self.without(each) for each in value]
        if isinstance(value, Mapping):
            return {self.without(name): self.without(each) for name, each in value.items()}
        if isinstance(value, bytes):
            return self._octets.sub(FORGOTTEN.encode(), value)
        return value

    def without_part(self, word: Any, others: Sequence[str]) -> Any:
        """The word of a caller without their address, also where more is joined to it.

        In an e-mail that names this person, ``welcome-ann@example.net`` is them, unless it is one
        of the e-mail's ``others``. In a URL, what is joined may be encoded (``%2Fann%40…``).
        """
        if not isinstance(word, str):
            return self.without(word)
        people = "".join(f"{re.escape(each).replace('@', '(?:@|%40)')}|" for each in others)
        begin, end = r"(?:(?<![^\W_])|(?<=%[0-9a-f]{2}))", r"(?![^\W_])"
        parts = re.compile(f"{begin}(?:{people}(?P<own>{self._any_of})){end}", re.IGNORECASE)
        return parts.sub(lambda match: FORGOTTEN if match["own"] else match[0], word)

    def is_recipient(self, email: Any) -> bool:
        """Whether a stored e-mail is sent to one of them."""
        texts = _texts(email, _PEOPLE)
        envelope = email.get("envelope") if isinstance(email, Mapping) else None
        return any(map(self.is_named, [*texts, *_texts(envelope, ("recipients",))]))


def _forms(person: Address) -> set[str]:
    local, _, domain = person.address.rpartition("@")
    domains = {domain, person.ascii.rpartition("@")[2]}
    try:
        import idna

        domains.add(idna.decode(person.ascii.rpartition("@")[2]))
    except UnicodeError:
        pass
    forms = {f"{local}{at}{domain}" for domain in domains for at in ("@", "%40")}
    # Among bytes only ASCII letters are compared without regard to case.
    return {spelling for form in forms for spelling in (form, form.lower(), form.upper())}


def _texts(mapping: Any, names: Sequence[str]) -> list[str]:
    lists = [mapping.get(name) for name in names] if isinstance(mapping, Mapping) else []
    return [text for each in lists if isinstance(each, list) for text in each if type(text) is str]


def _others(email: Any, person: Person) -> list[str]:
    """The addresses of all other people of an e-mail, the longest first."""
    texts = _texts(email, _PEOPLE)
    if isinstance(email, Mapping) and type(email.get("from")) is str:
        texts.append(email["from"])
    addresses = {address for text in texts for address in _ADDRESS.findall(text)}
    return sorted((each for each in addresses if not person.is_named(each)), key=len, reverse=True)


def find(
    mongo: Mongo, name: str, person: Person, advance: Callable[[int], object]
) -> Iterator[Document]:
    """The documents of a collection that name the person; what cannot be decoded is left out.

    ``advance`` hears of each that was searched.
    """
    options: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
    documents = mongo.collection(name).with_options(codec_options=options)
    with mongo.operation():
        cursor = documents.find({}).sort("_id", 1)
    while True:
        with mongo.operation():  # its time is that of one batch
            raw = next(cursor, None)
        if raw is None:
            return
        advance(1)
        if person.is_in(raw.raw):
            try:
                yield bson.decode(raw.raw, _OPTIONS)
            except BSONError:
                continue


# Forget: ended → the same, without a person -------------------------------------------------------
#
# Rule: an e-mail that has ended, and is as it was read, loses what it says: of ``email`` the people
# are left, with FORGOTTEN in the place of this one, and the tags. All other fields have FORGOTTEN
# where they named the person; in the caller's own words also where more is joined to the address,
# unless that makes another one of the e-mail's people.
# ``updated_at`` stays, from which retention counts.
#
#   before  {status: "sent", email: {from: "s@x.org", to: ["Ann <ann@y.org>", "bob@y.org"],
#            subject: "Hi Ann", text: "…"}, refused: ["ann@y.org"]}
#   after   {status: "sent", email: {from: "s@x.org", to: ["forgotten@forgotten.invalid",
#            "bob@y.org"]}, refused: ["forgotten@forgotten.invalid"], forgotten_at: NOW, …}


def email_write(document: Document, person: Person) -> tuple[dict[str, Any], dict[str, Any]]:
    """The guard and the update for an e-mail that names the person."""
    guard = {
        "_id": document["_id"],
        "status": document["status"],
        "updated_at": document.get("updated_at"),
        "lease.token": document["lease"]["token"],
    }
    others = _others(document.get("email"), person)
    rest = {
        name: person.without_part(value, others) if name in _WORDS else person.without(value)
        for name, value in document.items()
        if name not in ("_id", "email")
    }
    changed = {name: value for name, value in rest.items() if value != document[name]}
    if "idempotency_key" in changed:  # an index of older versions keeps each to one e-mail
        changed["idempotency_key"] = f"{changed['idempotency_key']} {document['_id']}"
    changed["email"] = _people_of(document.get("email"), person, others)
    now = {FORGOTTEN_AT: True} | ({} if document.get(DROPPED_AT) else {DROPPED_AT: True})
    return guard, {"$set": changed, "$currentDate": now}


def _people_of(email: Any, person: Person, others: Sequence[str]) -> Any:
    if not isinstance(email, Mapping):
        return person.without(email)
    rest = {name: email[name] for name in (*_PEOPLE, "from", "envelope", "tags") if name in email}
    for name in _PEOPLE:
        if name in rest:
            rest[name] = [FORGOTTEN if person.is_named(str(text)) else text for text in rest[name]]
    if person.is_named(str(rest.get("from"))):
        rest["from"] = FORGOTTEN
    if isinstance(tags := rest.get("tags"), list):
        rest["tags"] = [person.without_part(tag, others) for tag in tags]
    return person.without(rest)


def has_ended(document: Document) -> bool:
    """Whether nobody sends it any more of their own accord."""
    lease = document.get("lease")
    return document.get("status") in FINAL and isinstance(lease, Mapping) and "token" in lease


def event_write(document: Document, person: Person) -> tuple[dict[str, Any], dict[str, Any]]:
    """The guard and the update for a vendor's event that names the person."""
    rest = {name: person.without(value) for name, value in document.items() if name != "_id"}
    changed = {name: value for name, value in rest.items() if value != document[name]}
    return {"_id": document["_id"]}, {"$set": changed}
