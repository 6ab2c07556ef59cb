"""The signature of a request to AWS (SigV4).

Decides: how a POST is signed. Where credentials come from: see ``credentials``.

Assumes: the path is as on the wire and has no query. All headers, ``Host`` among them, are signed,
so nothing between here and AWS may change them.

Promises: the same signature as AWS's SDK makes (a test compares them); no repr shows a key.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"
_ENDING = "aws4_request"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The keys to sign with. Temporary ones have a ``session_token``."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that must not be shown."""
        return tuple(filter(None, (self.secret_access_key, self.session_token, self.access_key_id)))


def sign(
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    credentials: Credentials,
    region: str,
    service: str,
    now: datetime,
) -> dict[str, str]:
    """The headers with the date and the ``Authorization`` of a POST; ``now`` is in UTC."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    signed = {**headers, "X-Amz-Date": stamp}
    if credentials.session_token:
        signed["X-Amz-Security-Token"] = credentials.session_token
    names, request = _canonical(path, signed, body)
    scope = f"{stamp[:8]}/{region}/{service}/{_ENDING}"
    text = "\n".join([_ALGORITHM, stamp, scope, sha256(request.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_access_key}".encode()
    # The key for this day, region and service, derived from the secret one.
    for word in scope.split("/"):
        key = _hmac(key, word)
    credential = f"Credential={credentials.access_key_id}/{scope}"
    proof = f"SignedHeaders={names}, Signature={_hmac(key, text).hex()}"
    return {**signed, "Authorization": f"{_ALGORITHM} {credential}, {proof}"}


def _canonical(path: str, headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    """The names of the signed headers, and the request in the form that both sides hash."""
    # Names in lower case and in order, blanks reduced: a proxy may change any of these.
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    names = ";".join(name for name, _ in lines)
    head = "".join(f"{name}:{value}\n" for name, value in lines)
    parts = ["POST", quote(path, safe="/~"), "", head, names, sha256(body).hexdigest()]
    return names, "\n".join(parts)


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
