"""Signatures that several vendors use.

Promises: compares in constant time; what is malformed is not authentic, and nothing else is raised.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Literal

from mailqueue.vendors.events.source import NotAuthentic, equal

Digest = Literal["sha1", "sha256"]


def mac(secret: str | bytes, message: bytes, digest: Digest = "sha256") -> bytes:
    """The HMAC of a message."""
    key = secret.encode() if isinstance(secret, str) else secret
    return hmac.digest(key, message, digest)


def verify_hex(secrets: Iterable[str], message: bytes, signature: str) -> None:
    """Return if ``signature`` is the HMAC-SHA256 of ``message`` in hexadecimal digits.

    With one of ``secrets``: an old and a new one are both good. Raises ``NotAuthentic``.
    """
    if not any(equal(signature.lower(), mac(secret, message).hex()) for secret in secrets):
        raise NotAuthentic("the signature is missing or wrong")
