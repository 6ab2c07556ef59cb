"""How a type of vendor has its events read: the keys of ``vendors[].events``.

Decides: which keys there are, and what an entry needs so that a request can be verified.
Promises: no I/O and no clients, as in the table of vendor types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailqueue.config import checks
from mailqueue.config.keys import Key, Problems


@dataclass(frozen=True, slots=True)
class EventReader:
    """How the vendor's events are read: the path of the class, and the keys of ``events``.

    An entry must have one of ``proofs``: by it a request is known to be the vendor's.
    """

    path: str
    keys: Mapping[str, Key]
    proofs: tuple[str, ...]

    def check(self, own: Mapping[Any, Any], problems: Problems) -> None:
        """Add what is wrong with an entry's ``events``."""
        problems.add_unknown(own, self.keys)
        for name, key in self.keys.items():
            problems.add(name, key.problem(own.get(name)))
        if not problems and all(own.get(name) is None for name in self.proofs):
            problems.add("", f"needs {' or '.join(self.proofs)}")


SECRETS = {
    "secret": Key(str, "the secret by which events are verified", secret=True),
    "secrets": Key(tuple, "several, while it changes: each is good", checks.strings, secret=True),
}
BASIC_AUTH = {"basic_auth": Key(str, "`user:password` of HTTP Basic", secret=True)}
EVENTS_URL = Key(str, "the webhook's URL as it is set at the vendor", required=True)
_TOPIC_ARN = {"topic_arn": Key(str, "the only topic that is believed")}


def signed(path: str, **keys: Key) -> EventReader:
    """For a vendor that signs; ``keys`` are further ones."""
    return EventReader(f"mailqueue.vendors.events.{path}", SECRETS | keys, tuple(SECRETS))


def unsigned(path: str) -> EventReader:
    """For a vendor that signs nothing: its requests carry a secret."""
    keys = SECRETS | BASIC_AUTH
    return EventReader(f"mailqueue.vendors.events.{path}", keys, tuple(keys))


SES_EVENTS = EventReader(
    "mailqueue.vendors.events.ses:SesEvents",
    _TOPIC_ARN | SECRETS | BASIC_AUTH,
    (*_TOPIC_ARN, *SECRETS, *BASIC_AUTH),
)
SCALEWAY_EVENTS = EventReader(
    "mailqueue.vendors.events.scaleway:ScalewayEvents", _TOPIC_ARN, tuple(_TOPIC_ARN)
)
