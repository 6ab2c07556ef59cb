"""Who calls, and what they may do.

Decides: a caller shows an API key (``Authorization: Bearer mq_...``). If none is configured,
everybody on this host may do everything, and nobody else may do anything: the connection must come
from a loopback address, and the request must be meant for one. So no web page in this host's
browser gets in, nor who comes by a proxy that shows itself.

Promises: how long a look-up takes tells nothing of a secret.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailqueue.config import ApiKeyConfig
from mailqueue.http.errors import Entry, Problem, name_of
from mailqueue.message import Address, Email
from mailqueue.service.direct import is_direct
from mailqueue.service.keys import ApiKey, KeyRing

EVERYBODY = ApiKey("", "", frozenset({"send", "read", "operate"}))
"""The caller where no API key is configured."""

_CHALLENGE = (b"www-authenticate", b"Bearer")


class Callers:
    """The keys of a configuration, and those who show them."""

    def __init__(self, keys: tuple[ApiKeyConfig, ...]) -> None:
        self._ring = KeyRing(keys)

    def replace(self, keys: tuple[ApiKeyConfig, ...]) -> None:
        """Other keys, from the next request on."""
        self._ring.replace(keys)

    def find(self, headers: Mapping[bytes, bytes], client: tuple[str, int] | None) -> ApiKey:
        """The caller. Raises ``Problem`` for one who is not known."""
        if not self._ring:
            _check_direct(headers, client)
            return EVERYBODY
        kind, _, secret = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer":
            message = "An API key is needed: send the header Authorization: Bearer and the key."
            raise Problem(401, "missing_api_key", message, headers=[_CHALLENGE])
        key = self._ring.find(secret.strip().decode("latin-1"))
        if key is None:
            raise Problem(401, "invalid_api_key", "There is no such API key.", headers=[_CHALLENGE])
        return key


def _check_direct(headers: Mapping[bytes, bytes], client: tuple[str, int] | None) -> None:
    """Raises ``Problem`` unless the request comes from this host itself, and was meant for it."""
    if not is_direct(headers, client):
        message = "No API key is configured, so only requests from this host itself are served."
        raise Problem(401, "missing_api_key", message, headers=[_CHALLENGE])


def check_scope(key: ApiKey, scope: str) -> None:
    """Raises ``Problem`` if this key may not use ``scope``."""
    if not key.may(scope):
        message = f"This API key is not for this call: it lacks the scope {scope}."
        raise Problem(403, "restricted_api_key", message)


def check_sender(key: ApiKey, email: Email, path: str = "") -> None:
    """Raises ``Problem`` if this key may not send from there. ``path``: the e-mail's pointer."""
    if not key.may_send_from(email.from_.address):
        raise _foreign(f"{path}/from")
    # Readers may be shown this one instead. It is one valid address, as every e-mail's is.
    for name, text in email.headers.items():
        if name.lower() == "sender" and not key.may_send_from(Address.parse(text).address):
            raise _foreign(f"{path}/headers/{name}")


def _foreign(path: str) -> Problem:
    problem = "is a sender that this API key may not use"
    message = f"{name_of(path)}: {problem}"
    return Problem(403, "restricted_api_key", message, errors=[Entry(path, problem)])
