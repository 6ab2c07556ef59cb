"""API keys: who calls, and what they may do.

Decides: what a secret looks like, and how one is compared. A secret is 32 random bytes, so one
round of SHA-256 is enough: there is no dictionary to try. The configuration has only the digest.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from mailqueue.config import ApiKeyConfig
from mailqueue.errors import InvalidEmail
from mailqueue.message import Address

PREFIX = "mq_"  # by which scanners of repositories know a secret that was committed


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of ``http.keys``. ``senders``: addresses, ``*@domain`` or ``@domain``; empty: all."""

    name: str
    sha256: str
    scopes: frozenset[str]
    senders: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, key: ApiKeyConfig) -> Self:
        return cls(key.name, key.sha256, frozenset(key.scope), tuple(key.from_))

    def __repr__(self) -> str:
        return f"ApiKey({self.name!r})"

    def may(self, scope: str) -> bool:
        """Whether it is for this: ``send``, ``read`` or ``operate``."""
        return scope in self.scopes

    def may_send_from(self, address: str) -> bool:
        """Whether this may be the sender (``ann@example.org``, no display name).

        ASCII letters are the same in both cases, and so is a domain in both spellings (IDNA). No
        other characters are: those that look alike are somebody else's.
        """
        if not self.senders:
            return True
        mailbox = _spelling(address)
        domain = mailbox[mailbox.rindex("@") :]
        return any(
            _spelling(sender.removeprefix("*")) == domain
            if sender.startswith(("@", "*@"))
            else _spelling(sender) == mailbox
            for sender in self.senders
        )


def _spelling(address: str) -> str:
    """One spelling for each mailbox, or of ``@domain``."""
    local, _, domain = address.rpartition("@")
    try:
        spelling = Address.parse(f"x@{domain}").identity.removeprefix("x")
    except InvalidEmail:  # nobody's domain: equal to itself only
        spelling = f"@{domain}"
    return local.encode().lower().decode() + spelling


class KeyRing:
    """The keys of a configuration."""

    def __init__(self, keys: Iterable[ApiKeyConfig]) -> None:
        self._keys = tuple(map(ApiKey.from_config, keys))

    def replace(self, keys: Iterable[ApiKeyConfig]) -> None:
        """Other keys, from the next look on. Any thread may call."""
        self._keys = tuple(map(ApiKey.from_config, keys))

    def __bool__(self) -> bool:
        """False: none is configured."""
        return bool(self._keys)

    def find(self, secret: str) -> ApiKey | None:
        """The key with this secret; None: nobody has it.

        Looks at every key, and compares each in constant time: how long it takes tells nothing.
        """
        digest = digest_of(secret)
        matching = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return matching[0] if matching else None


def new_secret() -> str:
    """A secret that nobody has yet: ``mq_`` and 43 characters that a URL and a header may hold."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """What the configuration has of a secret: its SHA-256 in hexadecimal."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
