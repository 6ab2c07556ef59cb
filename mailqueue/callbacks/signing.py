"""The signature of a callback, by the specification of Standard Webhooks (version 1.0.0). Pure.

Decides: every secret signs, so that a receiver that knows any of them can verify: the old one goes
when all receivers have the new one. The same headers stand under ``svix-`` too, which Resend's SDKs
look for.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256

from mailqueue.config.callbacks import secret_bytes


def headers(secrets: Sequence[str], id_: str, seconds: int, body: bytes) -> dict[str, str]:
    """The headers of a post that begins ``seconds`` after 1970."""
    content = f"{id_}.{seconds}.".encode() + body
    digests = [hmac.digest(secret_bytes(secret), content, sha256) for secret in secrets]
    signatures = " ".join(f"v1,{b64encode(digest).decode()}" for digest in digests)
    values = {"id": id_, "timestamp": str(seconds), "signature": signatures}
    return {
        f"{prefix}-{name}": value
        for prefix in ("webhook", "svix")
        for name, value in values.items()
    }
