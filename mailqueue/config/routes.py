"""Routes: which vendors certain e-mails may go to.

Decides: what an e-mail is matched by, and how its domains are compared: in ASCII (IDNA) and lower
case, the whole domain, without those below it.

Promises: as every section; whether the vendors are configured is for ``config`` to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailqueue.config import checks
from mailqueue.config.section import Section, key
from mailqueue.errors import InvalidEmail
from mailqueue.message import Address

MATCHES = ("tag", "from_domain", "to_domain")


def _match(value: Mapping[Any, Any]) -> str | None:
    if not value or not set(value) <= set(MATCHES):
        return f"must have one or more of {', '.join(MATCHES)}"
    for name, wanted in value.items():
        texts = _texts(wanted)
        if not texts or not all(isinstance(text, str) and text for text in texts):
            return f"{name} must be a string, or a list of strings"
        if name != "tag" and not all(map(_domain, texts)):
            return f"{name} must be a domain, for example example.com"
    return None


def _texts(wanted: Any) -> Sequence[Any]:
    return wanted if isinstance(wanted, list | tuple) else (wanted,)


def _domain(text: str) -> str | None:
    try:
        person = Address.parse(f"any@{text}", "domain")
    except InvalidEmail:
        return None
    return domain_of(person)


def domain_of(person: Address) -> str:
    """The domain of an address as routes compare it."""
    return person.ascii.rpartition("@")[2].lower()


def _names(values: Sequence[Any]) -> str | None:
    if problem := checks.strings(values):
        return problem
    return None if values else "must name at least one vendor"


@dataclass(frozen=True, slots=True)
class Route(Section):
    """E-mails that match go to these vendors only."""

    match: Mapping[str, Any] = key(
        dict,
        ...,
        "`tag`, `from_domain`, `to_domain` (of any recipient), each one or a list; all must match",
        _match,
        hash=False,
    )
    vendors: tuple[str, ...] = key(tuple, ..., "names of the vendors that they may go to", _names)

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        wanted = {
            name: tuple(text if name == "tag" else _domain(text) for text in _texts(value))
            for name, value in self.match.items()
        }
        object.__setattr__(self, "match", wanted)
        object.__setattr__(self, "vendors", tuple(dict.fromkeys(self.vendors)))
