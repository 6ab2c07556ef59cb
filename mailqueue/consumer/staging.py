"""Staging: nothing reaches anybody outside a list, in production mode, too.

Decides: who is on the list, and what becomes of an e-mail to others: it goes to
``staging.redirect_to`` instead, or, without such an address, to those on the list only.

Assumes: it is asked for every attempt and every look-up, as late as can be. So the configuration of
the consumers alone protects, whatever was stored before or elsewhere. Nothing in an e-mail is
trusted: what is not one valid address is on no list.

Promises: nobody outside the list is a recipient of what comes back, is shown in it, or is named in
a header, a tag, metadata or an option. There is one exception: ``X-Mailqueue-Redirected-From`` says
whom a redirected e-mail was for. The sender, reply_to, the bounce address, the subject and the
bodies are the e-mail's own, and stay. Equal e-mails become equal ones, so that a repeat under a
vendor's key is the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from mailqueue.config import Staging as StagingConfig
from mailqueue.config import checks
from mailqueue.errors import InvalidEmail
from mailqueue.lifecycle.outcomes import Snapshot
from mailqueue.message import Address, Email
from mailqueue.message.headers import try_decode_words

REDIRECTED_FROM = "X-Mailqueue-Redirected-From"
MOST_NAMED = 2000  # characters of that header: some vendors bound what headers have in all
# Headers that some vendors take for instructions, such as further recipients; and those that ask
# the recipients' servers and programs to write to somebody
_INSTRUCTIONS = re.compile(
    "x-(smtpapi|msys-|mc-|mailgun-|mj-|pm-|ses-|sib-|mailin-|mt-|rcpt|envelope|confirm-)"
    "|disposition-notification-|return-receipt-|generate-delivery-|errors-to",
    re.IGNORECASE,
)


class Staging:
    """The rule of one configuration. Any thread may call."""

    def __init__(self, config: StagingConfig) -> None:
        self._domains = {
            _mailbox(f"any{each}").rpartition("@")[2] for each in config.allow if each[0] == "@"
        }
        self._mailboxes = {_mailbox(each) for each in config.allow if each[0] != "@"}
        self._redirect_to: Address | None = None
        if config.redirect_to is not None:
            self._redirect_to = Address.parse(config.redirect_to)
            self._mailboxes.add(_mailbox(self._redirect_to.address))

    def allows(self, address: str) -> bool:
        """Whether this is one valid address, and on the list."""
        try:
            mailbox = _mailbox(address)
        except InvalidEmail:
            return False
        return mailbox in self._mailboxes or mailbox.rpartition("@")[2] in self._domains

    def apply(
        self, email: Email, snapshot: Snapshot
    ) -> tuple[Email | None, Snapshot, tuple[str, ...]]:
        """What may be sent (None: nobody is left), and which recipients it leaves out.

        A redirected e-mail leaves nobody out.
        """
        shown = [person.address for person in (*email.to, *email.cc, *email.bcc)]
        recipients = tuple([person.address for person in email.recipients])
        strangers = [a for a in dict.fromkeys((*recipients, *shown)) if not self.allows(a)]
        addressees = recipients if snapshot.pending is None else snapshot.pending
        outside = tuple([address for address in addressees if not self.allows(address)])
        if self._redirect_to is None and len(outside) == len(addressees):
            return None, snapshot, outside
        email = _discreet(email, strangers)
        if self._redirect_to is not None:
            if strangers:
                email = _redirected(email, strangers, self._redirect_to)
            return email, _narrowed(snapshot, outside, self._redirect_to.address), ()
        if strangers:
            email = email.without(strangers)
        return email, _narrowed(snapshot, outside), outside


def is_redirected(email: Email) -> bool:
    """Whether it goes to ``staging.redirect_to`` in the place of others: no author has the name."""
    return REDIRECTED_FROM in email.headers


def _mailbox(text: str) -> str:
    """One text for each mailbox, as it goes out. Raises ``InvalidEmail``.

    Only ASCII letters are made small: to ``lower()``, a Kelvin sign is a k.
    """
    person = Address.parse(text)
    if person.name:
        raise InvalidEmail("address", "must be an address without a name")
    return person.ascii.encode().lower().decode()


def _redirected(email: Email, strangers: Sequence[str], to: Address) -> Email:
    """The e-mail to those on the list, and to one more who gets it instead of all others."""
    rest = email.without(strangers)
    envelope = email.envelope
    if envelope is not None and envelope.recipients:
        people = [p for p in envelope.recipients if p.address not in strangers]
        envelope = replace(envelope, recipients=(*people, to))
    others = [person for person in rest.to if person.identity != to.identity]
    headers = {**email.headers, REDIRECTED_FROM: _list_of(strangers)}
    return rest.with_values(to=(*others, to), envelope=envelope, headers=headers)


def _list_of(addresses: Sequence[str]) -> str:
    """The addresses in ASCII, as many as the header may have, and the number of all others."""
    texts: list[str] = []
    for n, address in enumerate(addresses):
        # What cannot be in a header was no address: it is shown as Python writes it.
        texts.append(ascii(_wire(address))[1:-1])
        if sum(map(len, texts)) > MOST_NAMED:
            texts[-1] = f"and {len(addresses) - n} more"
            break
    return ", ".join(texts)


def _narrowed(snapshot: Snapshot, outside: Collection[str], instead: str | None = None) -> Snapshot:
    """The e-mail whose pending recipients are on the list."""
    if not outside or snapshot.pending is None:
        return snapshot
    pending = [address for address in snapshot.pending if address not in outside]
    if instead is not None and instead not in pending:
        pending.append(instead)
    return replace(snapshot, pending=tuple(pending))


def _discreet(email: Email, strangers: Collection[str]) -> Email:
    """The e-mail without what could name a further recipient, or a stranger, to a vendor."""
    names = {spelling.lower() for each in strangers for spelling in (each, _wire(each))}

    def is_harmless(*texts: str) -> bool:
        return not any(name in text.lower() for text in texts for name in names)

    headers = {
        name: value
        for name, value in email.headers.items()
        if is_harmless(value, try_decode_words(value)) and not _INSTRUCTIONS.match(name)
    }
    options = {
        vendor: {name: o for name, o in options.items() if not checks.may_address(name, o)}
        for vendor, options in email.vendor_options.items()
    }
    metadata: Mapping[str, str] = {n: v for n, v in email.metadata.items() if is_harmless(n, v)}
    tags = tuple([tag for tag in email.tags if is_harmless(tag)])
    return email.with_values(headers=headers, vendor_options=options, metadata=metadata, tags=tags)


def _wire(address: str) -> str:
    """The address as it would go out."""
    try:
        return Address("", address).ascii
    except UnicodeError:
        return address
