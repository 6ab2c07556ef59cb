"""The envelope: whom an e-mail is really sent to, and who hears of bounces.

Decides: what an envelope says that the headers do not (``normalize``). SMTP has both (RFC 5321,
2.3.1): servers deliver by the envelope, people read the headers.

Assumes: its addresses were checked; the constructor checks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailqueue.message.addresses import Address

NULL_SENDER = Address("", "")
"""``MAIL FROM:<>``: nobody hears of bounces (RFC 5321, 4.5.5)."""


@dataclass(frozen=True, slots=True, repr=False)
class Envelope:
    """Where an e-mail's envelope differs from its headers.

    ``from_``: the bounce address; its ``address`` is empty for the null sender; None: the From.
    ``recipients``: who is sent to, and nobody else; empty: those in to, cc and bcc. Nothing is
    checked here; the ``Email`` that it becomes part of raises ``InvalidEmail``.
    """

    from_: Address | None = None
    recipients: tuple[Address, ...] = ()

    def __repr__(self) -> str:
        return f"Envelope({len(self.recipients)} recipients)"

    @property
    def people(self) -> tuple[Address, ...]:
        """All its addresses."""
        return self.recipients if self.from_ is None else (self.from_, *self.recipients)

    def to_mapping(self) -> dict[str, Any]:
        """As a mapping, without what is not set."""
        mapping: dict[str, Any] = {}
        if self.from_ is not None:
            mapping["from"] = self.from_.address
        if self.recipients:
            mapping["recipients"] = [person.address for person in self.recipients]
        return mapping

    @classmethod
    def from_document(cls, mapping: Mapping[str, Any]) -> Envelope:
        """From the result of ``to_mapping``, unchecked."""
        sender = mapping.get("from")
        recipients = tuple([Address("", address) for address in mapping.get("recipients", ())])
        return cls(None if sender is None else Address("", sender), recipients)


def normalize(
    envelope: Envelope, sender: Address, shown: Sequence[Address], bcc: Sequence[Address]
) -> tuple[Envelope | None, tuple[Address, ...]]:
    """The envelope without what the headers say as well, and the bcc that goes with it.

    An envelope that names everyone in ``shown`` (to and cc) says no more than a bcc can: the others
    are its bcc, and every vendor can send it. Else it names all who are sent to, bcc included.
    """
    from_ = envelope.from_
    if from_ is not None and from_.identity == sender.identity:
        from_ = None
    recipients, bcc = _normalize_recipients(envelope.recipients, shown, tuple(bcc))
    if from_ is None and not recipients:
        return None, bcc
    return Envelope(from_, recipients), bcc


def _normalize_recipients(
    recipients: Sequence[Address], shown: Sequence[Address], bcc: tuple[Address, ...]
) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    if not recipients:
        return (), bcc
    by_identity: dict[str, Address] = {}
    for person in recipients:
        by_identity.setdefault(person.identity, Address("", person.address))
    visible = {person.identity for person in shown}
    if not visible <= by_identity.keys():
        return tuple(by_identity.values()), ()
    if visible.union(person.identity for person in bcc) == by_identity.keys():
        return (), bcc
    return (), tuple([p for identity, p in by_identity.items() if identity not in visible])
